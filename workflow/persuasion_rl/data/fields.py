"""Reads single values of a corpus, of whatever type people wrote them: `"id": 5`, `"success": "True"`, an ISO time.

A null, a NaN and a blank text are no value: None. What cannot be read is a UserError of the value alone; who knows the
file and the line puts them in front.
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.text import is_blank, readable

TEXT_BYTES = 1_000_000
"""The most bytes of a text, in UTF-8. Reddit allows 40,000 characters, so what is longer is no message of a person."""
LARGEST_FLOAT = 2**53
"""From here on floats skip whole numbers, so that two ids could become one."""
DELETED = "[deleted]"
"""The speaker of comments whose account is gone: Reddit's and ConvoKit's placeholder."""
PLACEHOLDER = re.compile(r"\[ ?(?:deleted|removed)\b.*\]", re.IGNORECASE).fullmatch
"""What stands for the name of such an account in other sources."""
LAST_SECOND = 253_402_300_799
"""Of the year 9999, in seconds since 1970; a larger number is a time in milliseconds."""
PREFIX = re.compile(r"^t[13]_")
PLAIN_ID = re.compile(r"(?:t[13]_)?+([!-~]+)").fullmatch
NULLS = {"", "nan", "null", "none"}
"""Texts that stand for no value where a number or a truth value is expected."""
TRUTHS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
}


def wrong(key: str, value: Any, expected: str) -> UserError:
    """The error of a value that cannot be read."""
    kinds = {dict: "an object", list: "a list"}
    shown = kinds.get(type(value)) or json.dumps(value)
    return UserError(
        f"{key} is {shown if len(shown) <= 60 else shown[:57] + '...'}; expected {expected}"
    )


def is_null(value: Any) -> bool:
    """Whether a value is null or NaN."""
    return value is None or value != value


def identifier(key: str, value: Any) -> str | None:
    """An id as text, without Reddit's prefix `t1_` or `t3_`; whole numbers are ids, and white space is a single blank.

    Corpora use both full names (`t3_x`, `t1_x`) and plain ids (`x`) of Reddit, so that a thread has one id in all of them.
    """
    if type(value) is str:
        if plain := PLAIN_ID(value):
            return plain[1]
        return PREFIX.sub("", " ".join(readable(value).split())) or None
    if is_null(value):
        return None
    return _whole_number(key, value, "text or a whole number")


def needed_identifier(key: str, value: Any) -> str:
    """An id that must be there."""
    id_ = identifier(key, value)
    if id_ is None:
        raise wrong(key, value if value == value else None, "an id: text or a whole number")
    return id_


def speaker(key: str, value: Any) -> str:
    """The name of an account, without Reddit's `u/`; DELETED where there is none. Of an object, its "id" or "name"."""
    if type(value) is str:
        name = " ".join(readable(value).split()).removeprefix("/").removeprefix("u/")
        return DELETED if is_blank(name) or PLACEHOLDER(name) else name
    if is_null(value):
        return DELETED
    for name in ("id", "name"):
        if isinstance(value, dict) and name in value and not isinstance(value[name], dict):
            return speaker(f"{key}.{name}", value[name])
    return _whole_number(key, value, "a name: text or a whole number")


def text(key: str, value: Any) -> str | None:
    """A text as it was written; an empty one is one. It may hold what no tool takes: see `text.readable`."""
    if type(value) is str:
        return value
    if is_null(value):
        return None
    raise wrong(key, value, "text")


def is_too_large(text: str) -> bool:
    """Whether a text has more than TEXT_BYTES bytes."""
    return len(text) * 4 > TEXT_BYTES and len(text.encode("utf-8", "replace")) > TEXT_BYTES


def timestamp(key: str, value: Any) -> float | None:
    """Seconds since 1970: a number, also as text, or an ISO date or time, in UTC unless it has an offset."""
    if isinstance(value, str) and not _is_number(value) and value.strip().lower() not in NULLS:
        try:
            time = datetime.fromisoformat(value.strip().upper().removesuffix(" UTC"))
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise wrong(key, value, "seconds since 1970 or an ISO time") from None
    seconds = number(key, value, "seconds since 1970 or an ISO time")
    if seconds is not None and abs(seconds) > LAST_SECOND:
        raise wrong(key, value, "seconds since 1970 or an ISO time (this may be in milliseconds)")
    return seconds


def number(key: str, value: Any, expected: str = "a number") -> float | None:
    """A finite number, also as text."""
    if type(value) in (int, float) and -LARGEST_FLOAT < value < LARGEST_FLOAT:
        return value
    if is_null(value) or (isinstance(value, str) and value.strip().lower() in NULLS):
        return None
    if isinstance(value, str) and _is_number(value):
        return number(key, float(value), expected)
    raise wrong(key, value, expected)


def truth(key: str, value: Any) -> int | None:
    """1 or 0: also true and false, "yes" and "no", and these as text."""
    if value in (0, 1) and isinstance(value, int | float):
        return int(value)
    if is_null(value):
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in TRUTHS or word in NULLS:
            return TRUTHS.get(word)
    raise wrong(key, value, "1, 0, true, false or null")


def mapping(key: str, value: Any) -> dict[str, Any]:
    """An object, also as the text of its JSON; empty where there is none."""
    if is_null(value) or value == "":
        return {}
    if isinstance(value, str):
        try:
            content = json.loads(value)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            return content
    if isinstance(value, dict):
        return value
    raise wrong(key, value, "a JSON object")


def _whole_number(key: str, value: Any, expected: str) -> str:
    if type(value) is int or (type(value) is float and value.is_integer()):
        if type(value) is int or abs(value) < LARGEST_FLOAT:
            return str(int(value))
        expected += " (this one is too large to be read exactly: write it as text)"
    raise wrong(key, value, expected)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
