"""What a server answers: the text of a message of a chat completion, numbers of tokens, what it refuses."""

import json
import re
from collections.abc import Iterable
from typing import Any

NEWER_LIMIT = "max_completion_tokens"
"""The name of the limit with OpenAI; other servers know max_tokens, or say that they want the newer name."""
MOST_TOKENS = 10**9
"""More tokens than any answer has; a larger number is not taken for a count."""
MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""Errors of reading JSON of an unexpected form."""
REFUSES = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|not permitted|extra", re.IGNORECASE
)


def body_of(text: str) -> Any:
    """The JSON of a server's answer, which may begin with a byte order mark.

    Raises:
        one of MALFORMED: it is no JSON.
    """
    return json.loads(text.removeprefix("\ufeff"))


def count_of(usage: Any, name: str) -> int | None:
    """A number of tokens; None if the server gives none or no valid number."""
    count = usage.get(name) if isinstance(usage, dict) else None
    valid = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_TOKENS
    return count if valid else None


def message_text(message: dict[str, Any]) -> tuple[str, bool]:
    """The text of a message of a chat completion, and whether it is a refusal.

    The content is a text or a list of parts, of which texts and refusals count. Anything else is no text: reasoning in
    fields or parts of its own, calls of tools, sounds, images, null.
    """
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = "".join(part if isinstance(part, str) else _in_part(part, "text") for part in parts)
    refusal = message.get("refusal") or "".join(_in_part(part, "refusal") for part in parts)
    if refusal:
        return refusal if isinstance(refusal, str) else "", True
    return texts, False


def _in_part(part: Any, kind: str) -> str:
    """The text of a part of this kind, as "text" or "output_text"; "" of any other part."""
    if not isinstance(part, dict) or part.get("type") not in (kind, f"output_{kind}"):
        return ""
    return part[kind] if isinstance(part.get(kind), str) else ""


def refused_parameter(error: Any, names: Iterable[str]) -> str | None:
    """The parameter of a request that a server does not take, by its error; None if the error says something else.

    Args:
        error: of the clients `openai` and `anthropic`. names: the parameters that may be refused.
    """
    if error.status_code not in (400, 422):
        return None
    names, named = list(names), getattr(error, "param", None)
    if named in names:
        return named
    quoted = (n for n in names if re.search(rf"['\"`]{n}['\"`]|\b{n}:", error.message))
    return next(quoted, None) if REFUSES.search(error.message) else None
