"""Reads models out of packages of the Python registry. A package is a zip archive here: nothing of it is installed or run."""

import lzma
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from persuasion_rl.files import UserError
from persuasion_rl.text import readable

OWN_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
"""The metadata of a package; those of packages that it brings along lie deeper."""
LICENCE = "License :: "
"""How the classifiers of licences begin."""
LONGEST_LICENCE = 80
"""Letters; a longer entry is the licence's whole text, and no name of it."""
UNKNOWN = "UNKNOWN"
"""What setuptools wrote where nothing was said."""
DAMAGED = (BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
"""Errors over an archive that is not whole."""
ENCRYPTED = 1
"""The bit of a file's flags that says so (APPNOTE 6.3, section 4.4.4)."""


@contextmanager
def opened(wheel: Path) -> Iterator[ZipFile]:
    """A package to be read.

    Raises:
        UserError: it is no zip archive, or not a whole one.
    """
    try:
        with ZipFile(wheel) as package:
            if any(member.flag_bits & ENCRYPTED for member in package.infolist()):
                raise BadZipFile("it is encrypted")
            yield package
    except DAMAGED as error:
        raise UserError(
            f"{wheel}: no whole package ({error}); delete it, and it is downloaded again"
        ) from None


def licence_of(package: ZipFile) -> str | None:
    """The licence that a package's metadata names (core metadata 2.4: License-Expression, License, classifiers)."""
    metadata_files = [name for name in package.namelist() if OWN_METADATA.fullmatch(name)]
    if not metadata_files:
        return None
    text = package.read(metadata_files[0]).decode(errors="replace")
    metadata = HeaderParser().parsestr(text)
    classifiers = metadata.get_all("Classifier", [])
    named = [
        *(metadata.get(key, "") for key in ("License-Expression", "License")),
        *(each.rpartition(" :: ")[2] for each in classifiers if each.startswith(LICENCE)),
    ]
    named = [" ".join(readable(name).split()) for name in named if name != UNKNOWN]
    return next((name for name in named if 0 < len(name) <= LONGEST_LICENCE), None)


def language_models_in(package: ZipFile) -> list[str]:
    """The language models of a package: GGUF files, and folders with a config.json beside weights."""
    names = [name for name in package.namelist() if ".." not in name.split("/")]
    weights = {_folder(name) for name in names if name.endswith((".safetensors", ".bin"))}
    folders = {_folder(name) for name in names if name.endswith("/config.json")}
    return sorted({*(weights & folders), *(name for name in names if name.endswith(".gguf"))})


def encoders_in(package: ZipFile) -> list[str]:
    """The models of sentence-transformers of a package: folders with a modules.json."""
    return sorted(_folder(name) for name in package.namelist() if name.endswith("/modules.json"))


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def the_one(models: list[str], inside: str | None, wheel: str) -> str:
    """The model that is meant of those that a package has.

    Args:
        inside: its path there, or None where there must be one alone.

    Raises:
        UserError: there is none, or none of that path, or there are several.
    """
    if not models:
        raise UserError(f"{wheel}: this package holds no model of the kind that is wanted")
    if inside is None and len(models) > 1:
        raise UserError(
            f"{wheel}: this package holds several models; write one of them behind the version, as #{models[0]}:"
            f" {', '.join(models)}"
        )
    if inside is not None and inside.rstrip("/") not in models:
        raise UserError(
            f"{wheel}: this package holds no model {inside!r}; it has {', '.join(models)}"
        )
    return models[0] if inside is None else inside.rstrip("/")


def extract(package: ZipFile, path: str, target: Path) -> None:
    """Copy a file of a package to a file, or a folder with all below it to a folder."""
    for member in package.infolist():
        below = PurePosixPath(member.filename)
        if member.is_dir() or ".." in below.parts or not below.is_relative_to(path):
            continue
        file = target / below.relative_to(path)  # the target itself where the path is a file
        file.parent.mkdir(parents=True, exist_ok=True)
        with package.open(member) as source, file.open("wb") as copy:
            shutil.copyfileobj(source, copy)
