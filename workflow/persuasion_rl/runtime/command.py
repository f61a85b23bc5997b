"""Turns a stage's function into its command line.

Keyword parameters become `--name value` flags of their annotated types. A parameter whose type is a dataclass is a
group of flags: its fields are the flags, and the function gets the object. Where the dataclass has a PREFIX, its flags
begin with it; a field that is itself a dataclass is a group too. A `**recipe` parameter takes every further
`--name value` pair, so that a trainer's own argument names can be used as they are.
"""

import argparse
import dataclasses
import errno
import inspect
import json
import os
import signal
import sys
import threading
import time
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from persuasion_rl.files import UserError

WORKFLOW = "PERSUASION_RL_WORKFLOW"
"""The variable with the process of the workflow that runs a stage; without it a stage runs by itself."""
LOOKS_EVERY_S = 1


def stage(*functions: Callable) -> None:
    """Run a stage with the arguments of the command line; a UserError ends in one line, exit 1.

    A module with several functions takes the name of the one to run as its first argument.
    """
    if workflow := os.environ.get(WORKFLOW):
        _end_with(int(workflow))
    words = sys.argv[1:]
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
    known, further = parser.parse_known_args(words)
    if further and not recipe_allowed:
        parser.error(f"unknown argument: {further[0]}")
    try:
        function(**_grouped(function, vars(known)), **_recipe(further))
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}" if is_main_process() else 1)
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(
            f"error: a file was not written whole, most likely because the disk is full ({error}); make room"
            " and ask for it again: a training goes on from its last whole checkpoint"
        )


def _end_with(workflow: int) -> None:
    """End by SIGTERM once the workflow is gone, killed say: what runs on would be in the way of the next one."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(workflow)
            # is_running() knows a process by its start too: another may get its number.
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(LOOKS_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


SIGNS_OF_A_FULL_DISK = ("No space left on device", "iostream error", "PytorchStreamWriter failed")
"""The latter two are torch's."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of room; libraries hide the reason in texts and causes."""
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
    parser = argparse.ArgumentParser(
        prog=_program(function),
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    recipe_allowed = False
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            recipe_allowed = True
        elif dataclasses.is_dataclass(hints[name]):
            _add_group(parser, hints[name])
        else:
            _add_flag(parser, name, hints[name], parameter.default)
    return parser, recipe_allowed


def _add_group(parser: argparse.ArgumentParser, group: type) -> None:
    """The fields of a dataclass as flags, under the first line of its docstring."""
    section = parser.add_argument_group(
        group.__name__, (inspect.getdoc(group) or "").split("\n")[0]
    )
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        if dataclasses.is_dataclass(hints[field.name]):
            _add_group(parser, hints[field.name])
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        _add_flag(
            section,
            _flag(group, field),
            hints[field.name],
            inspect.Parameter.empty if default is dataclasses.MISSING else default,
        )


def _flag(group: type, field: dataclasses.Field) -> str:
    return getattr(group, "PREFIX", "") + field.name


def _add_flag(parser: Any, name: str, hint: Any, default: Any) -> None:
    required = default is inspect.Parameter.empty
    parser.add_argument(
        f"--{name}", required=required, default=None if required else default, **_reading(hint)
    )


def _grouped(function: Callable, values: dict[str, Any]) -> dict[str, Any]:
    """Values of flags as the arguments of a function: those of a group as its object."""
    arguments = {}
    for name, hint in typing.get_type_hints(function).items():
        if dataclasses.is_dataclass(hint):
            arguments[name] = _group(hint, values)
    return values | arguments


def _group(group: type, values: dict[str, Any]) -> Any:
    """Values of flags as the object of a group; they are taken out of `values`."""
    hints = typing.get_type_hints(group)
    return group(
        **{
            field.name: _group(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values.pop(_flag(group, field))
            for field in dataclasses.fields(group)
        }
    )


def _reading(hint: Any) -> dict[str, Any]:
    """How argparse reads a type: list[T] takes several values, dict[str, T] several key=value pairs.

    A number that may be None is None where the flag says "none".
    """
    if isinstance(hint, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        if {*parts} <= {int, float}:
            return {"type": _number(parts, may_be_none=len(parts) < len(typing.get_args(hint)))}
        hint = parts[0]
    origin = typing.get_origin(hint)
    if origin is list:
        return {"nargs": "*", "type": typing.get_args(hint)[0]}
    if origin is dict:
        value_type = typing.get_args(hint)[1]
        return {"nargs": "+", "action": _Pairs, "value_type": value_type, "metavar": "KEY=VALUE"}
    if hint is bool:
        return {"type": _boolean}
    return {"type": hint}


class _Pairs(argparse.Action):
    def __init__(self, *args, value_type, **kwargs):
        super().__init__(*args, **kwargs)
        self.value_type = value_type

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for value in values:
            key, equals, rest = value.partition("=")
            if not equals:
                parser.error(f"{option_string}: expected KEY=VALUE, got {value!r}")
            pairs[key] = self.value_type(rest)
        setattr(namespace, self.dest, pairs)


def _number(kinds: list[type], may_be_none: bool) -> Callable[[str], int | float | None]:
    """A reader of numbers, of the first kind that a text can be."""

    def read(text: str) -> int | float | None:
        if may_be_none and text == "none":
            return None
        for kind in kinds:
            with suppress(ValueError):
                return kind(text)
        raise ValueError

    read.__name__ = " or ".join(kind.__name__ for kind in kinds)  # argparse quotes it
    return read


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _recipe(words: list[str]) -> dict[str, Any]:
    """`--name value ...` pairs, values read as JSON where they are JSON; several values make a list."""
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
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def is_main_process() -> bool:
    """Whether this is the only process of its stage, or the first of several (accelerate launch)."""
    return os.environ.get("RANK", "0") == "0"


def note(text: str) -> None:
    """A line of progress, on standard error, of the first process."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)
