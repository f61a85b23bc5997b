"""Reads and writes the study's files: JSON, JSON lines, digests (for tables see `tables`).

Files are written under a temporary name and renamed when they are whole, so that a file under its final name is
always complete.
"""

import errno
import hashlib
import json
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import orjson

BEFORE_KEY, BEFORE_VALUE = re.compile(r"[\s{,]*"), re.compile(r"[\s:]*")
"""What is before the keys and the values of a JSON object."""


class UserError(Exception):
    """An error that the user can fix. It is shown as one line, without a trace."""


def check(holds: bool, otherwise: str) -> None:
    """Raise AssertionError with the message `otherwise` unless `holds`, also under `python -O`."""
    if not holds:
        raise AssertionError(otherwise)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only if the block ends without an error.

    Raises:
        UserError: it cannot be written or renamed. The message names `path`, not the temporary one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder, where a file is to be written: name another one")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        places = {str(temporary), *map(str, path.parents)}
        if str(error.filename) not in places or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        files = [f"{place} is a file" for place in path.parents if place.is_file()]
        reason = files[0] if files else error.strerror
        raise UserError(f"{path}: cannot be written there ({reason})") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class _Lines:
    """Writes JSON objects, one a line, and counts them."""

    def __init__(self, file: TextIO):
        self._file = file
        self.count = 0

    def write(self, row: dict) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1


@contextmanager
def written_lines(path: Path) -> Iterator[_Lines]:
    """Give a writer of JSON lines; the file gets its name only if the block ends without an error."""
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        yield _Lines(file)


def write_jsonl(path: Path, rows: Iterable[dict]) -> int:
    """Write one JSON object a line; return their number."""
    with written_lines(path) as lines:
        for row in rows:
            lines.write(row)
    return lines.count


def read_json(path: Path, unique_keys: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        unique_keys: refuse an object that has a key twice; by default the last one counts.

    Raises:
        UserError: it cannot be read; with the line, where the error has one.
    """
    _refuse_folder(path)
    content = Path(path).read_bytes()
    hook = each_key_once if unique_keys else None
    try:
        return json.loads(content, object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        number = getattr(error, "lineno", None)
        if isinstance(error, UnicodeDecodeError):
            number = content.count(b"\n", 0, error.start) + 1
        line = f", line {number}" if number else ""
        raise UserError(f"{path}{line}: {_why_not_read(error, content)}") from None


def lines_of_keys(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the keys of the JSON object that a file is, each with its line; a key that stands there twice comes twice.

    `read_json` says whether the file is one.
    """
    raw = Path(path).read_bytes()
    content = raw.decode(json.detect_encoding(raw), "surrogatepass")
    decoder = json.JSONDecoder()
    line, place = 1, 0
    while content.startswith('"', start := BEFORE_KEY.match(content, place).end()):
        line += content.count("\n", place, start)
        key, end = decoder.raw_decode(content, start)
        yield key, line
        _, place = decoder.raw_decode(content, BEFORE_VALUE.match(content, end).end())
        line += content.count("\n", start, place)


MADE_AGAIN = "delete it and run the workflow, which makes it again"
"""What to do about a file that the workflow has written and somebody has changed."""


@contextmanager
def as_made(path: Path) -> Iterator[None]:
    """UserError where the content of a file, which the block reads, is not as the workflow writes it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}: not as the workflow writes it ({reason}): {MADE_AGAIN}") from None


def read_made(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object that the workflow has written.

    Args:
        keys: dotted paths of keys that it must have.

    Raises:
        UserError: it is no JSON object, or lacks a key.
    """
    content = read_json(path)
    with as_made(path):
        for key in keys:
            value = content
            for part in key.split("."):
                value = value[part]
    return content


def read_jsonl(path: Path) -> Iterator[dict]:
    """Yield the objects of a JSON-lines file (see `read_numbered`)."""
    return (row for _, row in read_numbered(path))


ONE_A_LINE = "expected a JSON object, one a line, and no array"


def read_numbered(
    path: Path, once: Iterable[str] = (), count: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[int, dict]]:
    """Yield the objects of a JSON-lines file with the numbers of their lines, from 1. Blank lines hold nothing.

    Args:
        once: keys that may not stand in an object twice; by default the last one counts.
        count: is told the bytes of each line that was read.

    Raises:
        UserError: a line is no JSON object; with its number.
    """
    _refuse_folder(path)
    keys = [f'"{key}"'.encode() for key in once]
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            count(len(line))
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            try:
                row = _loads(line)
                if any(line.count(key) > 1 for key in keys):
                    json.loads(_decoded(line), object_pairs_hook=each_key_once)
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                over_lines = number == 1 and line.strip() in (b"[", b"{")
                why = ONE_A_LINE if over_lines else _why_not_read(error, line)
                raise UserError(f"{path}, line {number}: {why}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: {ONE_A_LINE}")
            yield number, row


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values, as `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: a key stands there twice.
    """
    keys = dict(pairs)
    if len(keys) < len(pairs):
        repeated_key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {repeated_key[:60]!r} stands there twice")
    return keys


def _refuse_folder(path: Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"{path}: a folder, where a file is to be read")


def _loads(line: bytes) -> Any:
    """Parse by orjson, which is several times as fast, or by json: PersuasionForGood has bare NaN, which orjson refuses."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(_decoded(line))


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "surrogatepass")


COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
}
"""How compressed files begin."""


def _why_not_read(error: ValueError | RecursionError, content: bytes) -> str:
    """What is wrong with a file or line that is no JSON, and what to do, in words."""
    for start, name in COMPRESSED.items():
        if content.startswith(start):
            return f"not JSON but compressed ({name}): unpack it"
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "not in UTF-8 but in UTF-16: save it as UTF-8"
    if isinstance(error, RecursionError):
        return "not valid JSON: nested too deep"
    if isinstance(error, UnicodeDecodeError) and error.reason != "unexpected end of data":
        return f"not in UTF-8 (byte {content[error.start]:#04x}): save it as UTF-8"
    if getattr(error, "msg", "") == "Extra data":
        return f"not valid JSON ({error}): one value is expected here, and another one follows"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"not valid JSON ({error}); was it cut off, or edited by hand?"
    return f"not valid JSON ({str(error).partition(';')[0]})"


def text_digest(*parts: Any) -> str:
    """A stable 64-bit digest (16 hex digits) of some values; their order matters."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=8).hexdigest()


def keyed_number(*parts: Any) -> float:
    """A number in [0, 1) that is a function of `parts` only: random, but the same in whatever order it is drawn."""
    return int(text_digest(*parts), 16) / 2**64


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with Path(path).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
