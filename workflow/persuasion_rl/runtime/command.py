"""Turns a stage's function into its command line.

Keyword parameters become `--name value` flags of their annotated types; those with a default may be left out. A
parameter whose type is a dataclass is a group of flags: each of its fields is a flag, with the PREFIX of the dataclass
if it has one, and the function gets the object. A field that is itself a dataclass is a group too. A `**recipe`
parameter takes every further `--name value` pair, so that a trainer's own argument names can be used as they are.
"""

import argparse
import dataclasses
import errno
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import time
import types
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

from persuasion_rl.files import UserError
from persuasion_rl.runtime.environment import recorded
from persuasion_rl.runtime.progress import reporting

WORKFLOW = "PERSUASION_RL_WORKFLOW"
"""The environment variable with the process id of the workflow that runs a stage; unset if a stage runs by itself."""
POLL_S = 1
"""Seconds between two checks whether that process is still alive."""


def stage(*functions: Callable) -> None:
    """Run a stage with the arguments of the command line.

    If a module has several functions, the first argument names the one to run. A UserError, a missing file and a full
    disk end in one line on standard error and exit status 1; other errors keep their trace. While it runs, a line says how
    far it is (`runtime.progress`); the bars of libraries are left out. In a workflow, its log begins with
    the variables that `runtime.environment.recorded` gives.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    if workflow := os.environ.get(WORKFLOW):
        _end_with(int(workflow))
        for name, value in recorded().items():
            note(
                f"{name}={value} is in the environment and is kept; without it last digits may differ"
            )
    try:
        function, arguments = read_words(functions, sys.argv[1:])
        with reporting(function.__name__, note):
            function(**arguments)
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}" if is_main_process() else 1)
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(
            f"error: a file was not written whole, most likely because the disk is full ({error}); make room"
            " and ask for it again: a training goes on from its last whole checkpoint"
        )


def read_words(functions: Sequence[Callable], words: list[str]) -> tuple[Callable, dict[str, Any]]:
    """The function that a command line calls, and its arguments; argparse ends the process if the words are wrong.

    Args:
        functions: the functions of a module; if there are several, the first word names one.
    """
    function = functions[0]
    if len(functions) > 1:
        names = {function.__name__: function for function in functions}
        chooser = argparse.ArgumentParser(
            prog=_program(function), description=sys.modules[function.__module__].__doc__
        )
        chooser.add_argument("command", choices=names)
        function = names[chooser.parse_args(words[:1]).command]
        words = words[1:]
    parser, recipe_allowed = _parser(function)
    arguments, rest_of_line = parser.parse_known_args(words)
    if rest_of_line and not recipe_allowed:
        parser.error(f"unknown argument: {rest_of_line[0]}")
    return function, _arguments(function, vars(arguments)) | _recipe(rest_of_line)


def _end_with(workflow: int) -> None:
    """End this process by SIGTERM once its workflow is gone, so that it does not block the next one."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(workflow)
            # is_running() also compares start times, since another process may get the same id.
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


NUMBER = re.compile(r"[+-]?(\d+(_\d+)*(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
SIGNS_OF_A_FULL_DISK = ("No space left on device", "iostream error", "PytorchStreamWriter failed")
"""Parts of messages; the last two are torch's."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full, which libraries hide in messages and causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in SIGNS_OF_A_FULL_DISK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _program(function: Callable) -> str:
    module = sys.modules[function.__module__].__spec__
    return f"python -m {module.name}" if module else f"python {sys.argv[0]}"


def _parser(function: Callable) -> tuple[argparse.ArgumentParser, bool]:
    """The parser of a function's command line, and whether it takes further pairs (a recipe)."""
    parser = argparse.ArgumentParser(
        prog=_program(function),
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    recipe_allowed = False
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        optional = parameter.default is not parameter.empty
        if parameter.kind is parameter.VAR_KEYWORD:
            recipe_allowed = True
        elif dataclasses.is_dataclass(hints[name]):
            _add_group(parser, hints[name], optional)
        else:
            _add_flag(parser, name, hints[name], optional)
    return parser, recipe_allowed


def _add_group(parser: argparse.ArgumentParser, group: type, optional: bool) -> None:
    """Add the fields of a dataclass as flags, under the first paragraph of its docstring."""
    section = parser.add_argument_group(
        group.__name__, (inspect.getdoc(group) or "").split("\n\n")[0]
    )
    hints = typing.get_type_hints(group)
    for name, field in inspect.signature(group).parameters.items():
        may_be_left_out = optional or field.default is not field.empty
        if dataclasses.is_dataclass(hints[name]):
            _add_group(parser, hints[name], may_be_left_out)
        else:
            _add_flag(section, _flag(group, name), hints[name], may_be_left_out)


def _flag(group: type, field: str) -> str:
    """The name of the flag for a field of a group."""
    return getattr(group, "PREFIX", "") + field


def _add_flag(parser: argparse._ActionsContainer, name: str, hint: Any, optional: bool) -> None:
    """Add a flag. A flag that is left out is not passed on: functions and dataclasses have their own defaults."""
    parser.add_argument(
        f"--{name}", required=not optional, default=argparse.SUPPRESS, **_reading(hint)
    )


def _arguments(function: Callable, flags: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a function, from the values of its flags. Flags of a group become its object."""
    arguments = dict(flags)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints.get(name)):
            default = None if parameter.default is parameter.empty else parameter.default
            arguments[name] = _object(hints[name], arguments, default)
    return arguments


def _object(group: type, flags: dict[str, Any], default: Any) -> Any:
    """The object of a group, from the values of its flags, which are removed from `flags`.

    Args:
        default: the object that gives values for flags that were left out; None for the defaults of the dataclass.
    """
    hints, values = typing.get_type_hints(group), {}
    for name in inspect.signature(group).parameters:
        if dataclasses.is_dataclass(hints[name]):
            values[name] = _object(hints[name], flags, getattr(default, name, None))
        elif (flag := _flag(group, name)) in flags:
            values[name] = flags.pop(flag)
    return group(**values) if default is None else dataclasses.replace(default, **values)


def _reading(hint: Any) -> dict[str, Any]:
    """The arguments of add_argument for a type: list[T] takes several values, dict[str, T] several KEY=VALUE pairs.

    The word "none" gives None, if a number may be None.
    """
    if isinstance(hint, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        if {*parts} <= {int, float}:
            return {"type": _number(parts, may_be_none=len(parts) < len(typing.get_args(hint)))}
        hint = parts[0]
    origin = typing.get_origin(hint)
    if origin is list:
        return {"nargs": "*", "type": _reader(typing.get_args(hint)[0])}
    if origin is dict:
        value_type = _reader(typing.get_args(hint)[1])
        return {"nargs": "+", "action": _Pairs, "value_type": value_type, "metavar": "KEY=VALUE"}
    if hint is bool:
        return {"type": _boolean}
    return {"type": _reader(hint)}


def _reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """What reads a word as a value of a type."""
    return _number([kind]) if kind in (int, float) else kind


class _Pairs(argparse.Action):
    """Reads KEY=VALUE pairs into a dict."""

    def __init__(self, *args, value_type, **kwargs):
        super().__init__(*args, **kwargs)
        self.value_type = value_type

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for pair in values:
            key, equals, value = pair.partition("=")
            if not equals:
                parser.error(f"{option_string}: expected KEY=VALUE, got {pair!r}")
            pairs[key] = self.value_type(value)
        setattr(namespace, self.dest, pairs)


def _number(kinds: list[type], may_be_none: bool = False) -> Callable[[str], int | float | None]:
    """A function that reads a text as a number, as the configuration does: 3.0 is 3 where a whole number is wanted, and
    what only Python takes for a number (nan, inf, other alphabets' digits) is none."""

    def read(text: str) -> int | float | None:
        if may_be_none and text == "none":
            return None
        if not NUMBER.fullmatch(text):
            raise ValueError
        number = float(text) if re.search("[.eE]", text) else int(text)
        if not math.isfinite(number) or (float not in kinds and number != int(number)):
            raise ValueError
        whole = int in kinds and (isinstance(number, int) or float not in kinds)
        return int(number) if whole else float(number)

    read.__name__ = " or ".join(kind.__name__ for kind in kinds)  # argparse quotes it
    return read


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _recipe(words: list[str]) -> dict[str, Any]:
    """`--name value ...` pairs as a dict: several values make a list.

    Raises:
        UserError: a value precedes the first name.
    """
    recipe: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            recipe[name] = []
        elif name is None:
            raise UserError(f"unexpected argument {word!r}")
        else:
            recipe[name].append(_value(word))
    return {name: values[0] if len(values) == 1 else values for name, values in recipe.items()}


def _value(word: str) -> Any:
    """A value as `study.flags.flags` writes it: read as JSON if it is JSON, else a text.

    Not as YAML, unlike in `settings.from_words`: flags have Python's spelling of numbers, and YAML reads 1e-05 as text. It
    also reads texts such as yes and off as booleans.
    """
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def is_main_process() -> bool:
    """Whether this is the only process of its stage, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def count_and_name(counts: Counter, reason: str, place: Callable[[], str]) -> None:
    """Count what is left out for a reason; a line says where the first one stands."""
    if not counts[reason]:
        note(f"left out, {reason}: {place()} (the first of them)")
    counts[reason] += 1


def note(text: str) -> None:
    """Print a line of progress on standard error, in the first process only."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)
