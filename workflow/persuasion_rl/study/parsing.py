"""Reads the keys of a study's file; errors are one line."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from persuasion_rl.files import UserError

DEEPEST = 50
"""The most levels of nesting in a configuration file; a study needs six."""
MOST_VALUES = 100_000
"""The most values in a configuration file with its aliases expanded; a study needs some hundred."""


def shortened(value: Any, most: int = 200) -> str:
    """A value as Python writes it (a date as YAML does), cut if it is long."""
    try:
        text = str(value) if isinstance(value, date) else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Uses libyaml where PyYAML has it, which is ten times as fast. Errors in values (2024-13-45) name their line too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            problem = f"{shortened(node.value)}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _parse(text: str) -> Any:
    """The content of a text that is JSON or YAML, as Snakemake reads it.

    A repeated key is an error; the parsers themselves would take the last one.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError:
        return _parse_yaml(text)
    if _levels(content) > DEEPEST:
        raise UserError(f"not valid: nested deeper than {DEEPEST} levels")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, from its keys and values.

    Raises:
        UserError: a key is repeated.
    """
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        repeated_key = next(name for place, name in enumerate(names) if name in names[:place])
        raise UserError(f"not valid: the key {shortened(repeated_key)} stands there twice")
    return keys


def _levels(content: Any) -> int:
    """How deep JSON content is nested."""
    inner = content.values() if isinstance(content, dict) else content
    return 1 + max(map(_levels, inner), default=0) if isinstance(content, dict | list) else 0


def _parse_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        _refuse_excess(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_duplicates(root)
        _refuse_surprises(root, loader)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _refuse_excess(text: str) -> None:
    """Refuse a text that is too deep or too large with its aliases expanded, before nodes are made of it.

    Raises:
        ConstructorError: it is, or an alias refers to a node that contains it.
    """
    anchored: dict[str | None, tuple[int, int]] = {}  # levels and values that each alias stands for
    # The file and the nodes that are open in it: anchor, levels and values so far, including their own.
    around: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, 1, 1))
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            anchor, levels, values = getattr(event, "anchor", None), 0, 1
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, levels, values = around.pop()
            elif isinstance(event, yaml.AliasEvent):
                if any(anchor == outer for outer, _, _ in around):
                    raise _refusal(
                        "an alias (*name) stands inside what it stands for (&name)", event
                    )
                levels, values = anchored.get(anchor, (0, 1))  # undefined ones are refused later
            anchored[anchor] = levels, values
            outer, most, before = around[-1]
            around[-1] = outer, max(most, levels + 1), before + values
        _, levels, values = around[-1]
        if len(around) - 2 + levels > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST} levels", event)
        if values > MOST_VALUES:
            raise _refusal(f"with its aliases it has more than {MOST_VALUES:,} values", event)


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """The error at a node or an event."""
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, even if aliases refer to it."""
    waiting, visited = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        yield node
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]


def _refuse_duplicates(root: yaml.Node) -> None:
    for node in _nodes(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if first.setdefault((key.tag, key.value), key) is not key:
                line = first[key.tag, key.value].start_mark.line + 1
                message = f"the key {shortened(key.value)} stands there twice, first in line {line}"
                raise _refusal(message, key)


READ_AS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}
"""What YAML reads a word without quotes as, by its tag."""
ODD_NUMBER = re.compile(
    r"[-+]?(?:(?P<two>0b[01_]+)|(?P<eight>0[0-7_]+)|(?P<sixteen>0x[\da-fA-F_]+)|(?P<sixty>\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?))"
)
"""A number that YAML 1.1 reads to another base than ten: 0b11, 010, 0x10, 10:30."""


def _refuse_surprises(root: yaml.Node, loader: yaml.Loader) -> None:
    """UserError where YAML reads a word without quotes as something other than it looks like."""
    for node in _nodes(root):
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind in ("int", "float") and (odd := ODD_NUMBER.fullmatch(node.value)):
            raise UserError(
                f"line {node.start_mark.line + 1}: YAML reads {shortened(node.value)} as"
                f" {shortened(loader.construct_object(node))}, to the base of {odd.lastgroup}: write the number in its usual way, or in"
                " quotes if it is a text"
            )
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            kind = key.tag.removeprefix("tag:yaml.org,2002:")
            if kind in READ_AS and isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"line {key.start_mark.line + 1}: YAML reads the key {shortened(key.value)} as {READ_AS[kind]}: put it in"
                    " quotes"
                )


def read_config_file(file: Path) -> dict[str, Any]:
    """The keys of a YAML or JSON file.

    Raises:
        UserError: there is no such file, or it has no keys; names the file, and the line if YAML gives one.
    """
    try:
        return keys_of_file(Path(file))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def keys_of_file(file: Path) -> dict[str, Any]:
    """The keys of a YAML or JSON file; a UserError does not name the file."""
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


def value_at(keys: Any, path: Sequence[Any]) -> Any:
    """The value at the end of a path of keys and list indices; None where there is none."""
    for part in path:
        try:
            keys = keys[part]
        except (KeyError, IndexError, TypeError):
            return None
    return keys


def paths_of(content: Any, above: tuple = ()) -> Iterator[tuple]:
    """The paths of all values, made of keys and list indices."""
    yield above
    if isinstance(content, dict | list):
        inner = content.items() if isinstance(content, dict) else enumerate(content)
        for part, value in inner:
            yield from paths_of(value, (*above, part))


def line_of(file: Path, path: Sequence[Any]) -> int:
    """The line of a key in a readable file; of the nearest key above it if the key comes from a merge (<<)."""
    node = yaml.compose(file.read_text(encoding="utf-8").replace("\t", " "), _Loader)
    line = node.start_mark.line
    for part in path:
        if isinstance(node, yaml.MappingNode):
            key, node = next(((k, v) for k, v in node.value if k.value == str(part)), (None, None))
            line = key.start_mark.line if key else line
        elif isinstance(node, yaml.SequenceNode):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def is_number(text: str) -> bool:
    """Whether YAML reads a text without quotes as a number."""
    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    return tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
