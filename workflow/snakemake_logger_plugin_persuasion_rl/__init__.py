"""Makes a study's file or a --config that Snakemake cannot read one line: which file, which line, what is wrong. And gives it a
place for its cache where the home folder cannot be written, as in many containers.

Snakemake reads a file of --configfile before any Snakefile, and says nothing of where it is broken. What it imports when
it starts are its plugins, and a plugin of the logger is the smallest kind. This one logs nothing. In other projects, and
with another Snakemake that reads configuration files elsewhere, it changes nothing.
"""

import os
import sys
from argparse import ArgumentParser
from itertools import chain
from logging import LogRecord
from pathlib import Path
from textwrap import shorten
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase


class LogHandler(LogHandlerBase):
    """What a plugin of the logger must have; `--logger persuasion-rl` writes nothing more."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        pass


def _load_configfile(path: Any) -> dict:
    from persuasion_rl.files import UserError
    from persuasion_rl.study.parsing import read_config_file

    # Before Snakemake, which aliases without an end keep busy.
    try:
        read_config_file(path)
    except UserError as error:
        sys.exit(str(error))
    return _snakemakes_own(path)


def _refuse_what_is_given_twice() -> None:
    """End where --config or --configfile is given twice: Snakemake takes the last one alone, without a word."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "-p", "-k", "-F", action="count")  # -nC is -n and -C
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    parser.add_argument("--configfile", "--configfiles", nargs="*", action="append", default=[])
    given, _ = parser.parse_known_args(sys.argv[1:])
    together = shorten(" ".join(chain(*given.config)), 200, placeholder=" ...")
    for name, how in (
        ("config", f"write --config {together}"),
        ("configfile", "a study is one file, which may extend another (extends: FILE)"),
    ):
        if len(getattr(given, name)) > 1:
            sys.exit(f"--{name}: given twice, and only the last would be read; {how}")


YAML_WORDS = {
    word: value
    for name, value in (("true", True), ("false", False), ("null", None))
    for word in (name, name.title(), name.upper())
}
"""Words of --config that Snakemake takes for texts, or for texts in one spelling, and what YAML reads of them in a file."""


def _parse_config(entries: Any) -> dict:
    _refuse_what_is_given_twice()
    words: dict[str, Any] = {}
    for entry in entries or ():
        key, _, value = str(entry).partition("=")
        if key in words:
            sys.exit(f"--config {key}: given twice, and only the last would be read; write one")
        words[key] = value
        if "." in key:
            sys.exit(
                f"--config {key}: only whole keys can be set here; write {key.replace('.', ': {', 1)}: ...}} into a file"
                " that extends the study's, and give that by --configfile"
            )
    try:
        config = _snakemakes_parse_config(entries)
    except ValueError as error:
        sys.exit(f"--config: {' '.join(str(error).split())}")
    return config | {key: YAML_WORDS[word] for key, word in words.items() if word in YAML_WORDS}


CACHE = Path(".snakemake/cache")
"""Where caches go that cannot be in the home folder."""


def _place_caches() -> None:
    """Move the caches of Snakemake and of what its jobs load into the checkout, if those of the home folder cannot be written."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache"))
    try:
        usual = usual.expanduser()
        (usual / "snakemake").mkdir(parents=True, exist_ok=True)
        if os.access(usual / "snakemake", os.W_OK):
            return
    except (OSError, RuntimeError):  # RuntimeError: this user has no home folder
        pass
    print(f"{usual}: cannot be written; caches are in {CACHE}", file=sys.stderr)
    if (usual / "huggingface").is_dir():  # models may be there to be read
        os.environ.setdefault("HF_HOME", str(usual / "huggingface"))
    os.environ["XDG_CACHE_HOME"] = str(CACHE.resolve())
    os.environ.setdefault("MPLCONFIGDIR", str(CACHE.resolve() / "matplotlib"))


if Path("workflow/persuasion_rl").is_dir():
    _place_caches()
    # The package of this checkout, as the Snakefile takes it, whichever one is installed.
    sys.path.insert(0, str(Path("workflow").resolve()))
    _cli = sys.modules.get("snakemake.cli")
    if hasattr(_cli, "parse_config"):
        _snakemakes_parse_config = _cli.parse_config
        _cli.parse_config = _parse_config
    _modules = [
        module
        for name in ("snakemake.common.configfile", "snakemake.settings.types")
        if hasattr(module := sys.modules.get(name), "load_configfile")
    ]
    if _modules:
        _snakemakes_own = _modules[0].load_configfile
        for module in _modules:
            module.load_configfile = _load_configfile
