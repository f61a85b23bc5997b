"""Reads the configuration of a study: its file, the files that it extends, and what is wrong with them, in one line."""

import difflib
import os
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from persuasion_rl.files import UserError
from persuasion_rl.study.checks import LOOKS_LIKE_A_KEY, NEVER_SET, check_config
from persuasion_rl.study.config import Config
from persuasion_rl.study.recipes import Recipe
from persuasion_rl.study.section import keys_of, section_at

DEEPEST = 50
"""Levels of a configuration file, of which a study needs six."""


def load_config(given: dict[str, Any], file: Path | None = None) -> Config:
    """The complete configuration of a study, with all defaults, checked.

    Args:
        given: the keys of the study's file and of --config, as Snakemake read them.
        file: the study's file, from which a relative `extends:` is looked up.

    Raises:
        UserError: an unknown key, a wrong type or value, an impossible plan, a broken lineage. One line: the key, the value,
            what is allowed. It does not name the study's file.
    """
    if file is not None and file.suffix in (".yaml", ".yml") and file.is_file():
        # Snakemake takes the last of two keys of one name, without a word.
        _keys_of(file)
    study = _extended(deepcopy(given), file, above=[])
    for section in ("llm", "sampling"):
        _refuse_keys(section, study.get(section))
    try:
        config = Config.model_validate(study)
    except ValidationError as error:
        raise UserError(message(error)) from None
    check_config(config)
    return config


def load_config_file(file: Path) -> Config:
    """The complete configuration of a study from its file alone.

    Raises:
        UserError: as of `load_config` and `read_config_file`, always with the file.
    """
    try:
        return load_config(_keys_of(file), file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _extended(study: dict, file: Path | None, above: list[Path]) -> dict:
    """Lay a study over the one that it names under `extends:`, if it does."""
    name = study.pop("extends", None)
    if name is None:
        return study
    if not isinstance(name, str) or not name.isprintable():
        raise UserError(f"extends: {name!r} must be the name of a file")
    parent_file = (file.parent if file else Path("config")) / name
    chain = [*above, *([file] if file else [])]
    if os.path.realpath(parent_file) in map(os.path.realpath, chain):
        names = " -> ".join(path.name for path in [*chain, parent_file])
        raise UserError(f"extends: {parent_file} extends itself ({names})")
    try:
        parent = read_config_file(parent_file)
    except UserError as error:
        raise UserError(f"extends: {error}") from None
    return _merged(_extended(parent, parent_file, chain), study)


def _merged(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _refuse_keys(section: str, settings: Any) -> None:
    """UserError, without its value, where an API key stands in a section: the configuration is written down."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        words = ("key", "secret", "password", "authorization")
        named = any(word in str(name).lower() for word in words)
        if named or (isinstance(value, str) and LOOKS_LIKE_A_KEY.search(value)):
            raise UserError(
                f"{_joined([section, str(name)])}: looks like a key; keys come from the environment only (OPENAI_API_KEY or"
                " ANTHROPIC_API_KEY), since a study's configuration is kept with its results"
            )


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """By libyaml where PyYAML has it, ten times as fast. A value that is none of its kind (2024-13-45) has its line too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            problem = f"{node.value!r}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _parse(text: str) -> Any:
    """The content of a YAML text; a key that stands twice in one place is an error, where YAML takes the last one."""
    loader = _Loader(text)
    try:
        _refuse_depth(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_duplicates(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _refuse_depth(text: str) -> None:
    """Refuse what is nested so deep that reading it would overflow the stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            problem = f"nested deeper than {DEEPEST} levels"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


def _refuse_duplicates(root: yaml.Node) -> None:
    waiting, visited = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited or isinstance(node, yaml.ScalarNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, value in node.value:
            waiting += [key, value]
            if not isinstance(key, yaml.ScalarNode):
                continue
            if first.setdefault((key.tag, key.value), key) is not key:
                line = first[key.tag, key.value].start_mark.line + 1
                problem = f"the key {key.value!r} stands there twice, first in line {line}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)


def read_config_file(file: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        UserError: there is no such file, or none with keys; with the file, and the line where YAML has one.
    """
    try:
        return _keys_of(Path(file))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _keys_of(file: Path) -> dict[str, Any]:
    """The keys of a YAML file; a UserError does not name it."""
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError("does not exist") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"line {line}: not UTF-8") from None
    try:
        keys = _parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"line {mark.line + 1}: not valid YAML: {_reason(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise UserError(f"line {line}: not valid YAML: {error.reason}") from None
    except RecursionError:
        raise UserError("not valid YAML: nested too deep") from None
    if not isinstance(keys, dict):
        kinds = {type(None): "nothing", list: "a list"}
        kind = kinds.get(type(keys), "a single value")
        raise UserError(f"holds {kind} where keys are expected: a study begins with `study: NAME`")
    return keys


def _reason(error: yaml.MarkedYAMLError) -> str:
    if error.context is None or error.context_mark is None:
        return error.problem
    return f"{error.context} (line {error.context_mark.line + 1}), {error.problem}"


def message(error: ValidationError) -> str:
    """The first mistake in one line: the key, the value, what is allowed. Unknown keys explain others, and come first."""
    mistakes = error.errors(include_url=False)
    unknown = ("extra_forbidden", "invalid_key")
    first = min(
        mistakes,
        key=lambda mistake: (
            mistake["type"] not in unknown,
            len(mistake["loc"]),
            mistake["type"] == "missing",
        ),
    )
    path = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"] in unknown:
        return _unknown_key(path)
    if first["type"] == "missing":
        return f"{_joined(path[:-1]) or 'the configuration'}: the key {path[-1]!r} is missing"
    if first["type"] == "value_error":
        return f"{_joined(path)}: {first['ctx']['error']}"
    allowed = f"{_allowed(first)}{' or null' if _may_be_null(path) else ''}{_hint(first)}"
    return f"{_joined(path)}: {_short(first['input'])} {allowed}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _joined(path: list[str]) -> str:
    """The path of a key; one that would break the line is quoted."""
    return ".".join(part if part.isprintable() else repr(part) for part in path)


def _unknown_key(path: list[str]) -> str:
    *above, name = path
    section = section_at(Config, above)
    if issubclass(section, Recipe) and name in NEVER_SET:
        return f"{_joined(path)}: {NEVER_SET[name]}"
    allowed = sorted(section.model_fields)
    close = difflib.get_close_matches(name, allowed, 1)
    elsewhere = [key for key, _ in keys_of(Config) if key.split(".")[-1] == name]
    meant = close or (elsewhere if len(elsewhere) <= 3 else [])
    hint = f" (did you mean {' or '.join(meant)}?)" if meant else ""
    return f"{_joined(path)}: unknown key{hint}; allowed here: {', '.join(allowed)}"


def _may_be_null(path: list[str]) -> bool:
    *above, name = path
    section = section_at(Config, above)
    field = section.model_fields.get(name) if section else None
    return field is not None and type(None) in get_args(field.annotation)


def _allowed(mistake: dict[str, Any]) -> str:
    limits = mistake.get("ctx", {})
    match mistake["type"]:
        case "literal_error":
            words = limits["expected"].replace(" or ", ", ").replace("'", "")
            return f"must be one of {words}"
        case "greater_than":
            return f"must be above {limits['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:g}"
        case "less_than_equal":
            return f"must be at most {limits['le']:g}"
        case "too_short":
            return f"must have at least {limits['min_length']} entries"
        case "string_pattern_mismatch":
            return f"must match {limits['pattern']}"
    return MUST_BE.get(mistake["type"], mistake["msg"])


MUST_BE = {
    "bool_type": "must be a boolean: true or false",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "list_type": "must be an array, as [one, two]",
    "dict_type": "must be an object, with keys and values",
    "model_type": "must be an object, with keys and values",
}
"""Words for the kinds of pydantic's mistakes that have no limit."""


def _hint(mistake: dict[str, Any]) -> str:
    if mistake["type"] not in ("int_type", "float_type") or not isinstance(mistake["input"], str):
        return ""
    try:
        float(mistake["input"])
    except ValueError:
        return ""
    if "e" in mistake["input"].lower():
        return " (YAML reads 1e-4 as text: write 1.0e-4)"
    return " (in quotes it is text)"
