"""The size of a model in a GGUF file, or in one within a package, for the plan: its positions, and how many numbers it has.

Every start of Snakemake reads it, and the package gguf would need seconds. Nothing is refused: `models.gguf_header` does
that when the file is unpacked. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # fmt: skip
"""Types of numbers in a header -> their letters in `struct`."""
TEXT, ARRAY = 8, 9
"""The other types."""
LONGEST = 10_000_000
"""Bytes of a text or a shape; where it is longer, its length was read in the wrong place."""
NOT_READ = (
    OSError, ValueError, LookupError, OverflowError, NotImplementedError, RuntimeError, struct.error,
    zlib.error, BadZipFile,
)  # fmt: skip
"""Errors of reading a file that is not here, not whole, or another one."""


def positions_in(file: Path, inside: str | None = None) -> int | None:
    """How many tokens a model takes; None where its header cannot be read, or does not say.

    Args:
        file: the GGUF file, or a package. inside: the GGUF file in a package that has several.
    """
    with suppress(*NOT_READ), _gguf(file, inside) as gguf:
        _, keys = _read(gguf, "2Q")
        for key, value in _metadata(gguf, keys):
            if key.endswith(".context_length") and isinstance(value, int) and value > 0:
                return value
    return None


def numbers_in(file: Path, inside: str | None = None) -> int | None:
    """The numbers of all tensors of a model together; None where its header cannot be read. For the arguments see above."""
    with suppress(*NOT_READ), _gguf(file, inside) as gguf:
        tensors, keys = _read(gguf, "2Q")
        for _ in _metadata(gguf, keys):
            pass
        return sum(_numbers_of_tensor(gguf) for _ in range(tensors))
    return None


@contextmanager
def _gguf(file: Path, inside: str | None) -> Iterator[IO[bytes]]:
    """A GGUF file behind the four letters and the version that it begins with."""
    if file.suffix != ".whl":
        with file.open("rb") as gguf:
            gguf.seek(8)
            yield gguf
        return
    with ZipFile(file) as package:
        (name,) = (n for n in package.namelist() if n.endswith(".gguf") and inside in (None, n))
        with package.open(name) as gguf:
            gguf.seek(8)
            yield gguf


def _metadata(gguf: IO[bytes], keys: int) -> Iterator[tuple[str, Any]]:
    """The keys of a header and their values, without those of arrays."""
    for _ in range(keys):
        key = _text(gguf)
        (kind,) = _read(gguf, "I")
        yield key, _value(gguf, kind)


def _value(gguf: IO[bytes], kind: int) -> Any:
    """A value of a type; of an array None, and it is left behind."""
    if kind == TEXT:
        return _text(gguf)
    if kind != ARRAY:
        return _read(gguf, NUMBERS[kind])[0]
    kind, length = _read(gguf, "IQ")
    if kind in NUMBERS:
        gguf.seek(length * struct.calcsize(NUMBERS[kind]), 1)
        return None
    for _ in range(length):
        _value(gguf, kind)
    return None


def _numbers_of_tensor(gguf: IO[bytes]) -> int:
    _text(gguf)
    (dimensions,) = _read(gguf, "I")
    shape = _read(gguf, f"{dimensions}Q")
    _read(gguf, "IQ")  # its type, and where it begins
    return math.prod(shape)


def _text(gguf: IO[bytes]) -> str:
    (length,) = _read(gguf, "Q")
    return _bytes(gguf, length).decode(errors="replace")


def _read(gguf: IO[bytes], kinds: str) -> tuple[Any, ...]:
    """Numbers of these letters of `struct`, one after the other."""
    return struct.unpack(f"<{kinds}", _bytes(gguf, struct.calcsize(f"<{kinds}")))


def _bytes(gguf: IO[bytes], length: int) -> bytes:
    if length > LONGEST:
        raise ValueError
    return gguf.read(length)
