"""What models reason before or within a reply, by the marks around it: no part of what they say."""

import re

WORDS = "think|thinking|thoughts?|inner_thoughts|reason|reasoning|rationale|reflection|scratchpad|analysis"
TAG = re.compile(
    rf"<(/?)(?:\w{{1,10}}:)?({WORDS})(?:\s[^<>]{{0,100}})?>|\[(/?)((?-i:THINK))\]|◁(/?)(think)▷",
    re.IGNORECASE,
)
"""Where reasoning begins or ends: <think> (DeepSeek R1, Qwen3), <seed:think>, [THINK] (Magistral), ◁think▷ (Kimi)."""
ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)
"""What some models put around what follows their reasoning."""


def without_reasoning(text: str) -> str:
    """What a model says outside of its reasoning; the text itself if there is none.

    Reasoning ends with the first closing tag of its name. Where it is not closed, the limit cut it. Where it was not opened,
    the prompt opened it: then it is all that stands before the closing tag.
    """
    outside, _ = _divided(text)
    if len(outside) == len(text):
        return text
    answer = ANSWER.fullmatch(outside)
    return (answer[1] if answer else outside).strip()


def opens_reasoning(text: str) -> bool:
    """Whether what follows a text would be reasoning, until a tag closes it."""
    return bool(_divided(text)[1])


def is_mark(token: str) -> bool:
    """Whether a token is all of a tag that opens or closes reasoning."""
    return TAG.fullmatch(token) is not None


def _divided(text: str) -> tuple[str, str]:
    """The text outside of reasoning, and the name of the reasoning that is open at its end; "" is none."""
    parts: list[str] = []
    place, inside = 0, ""
    for tag in TAG.finditer(text):
        closes, name = tag.group(1, 2) if tag[2] else tag.group(3, 4) if tag[4] else tag.group(5, 6)
        name = name.lower()
        if not closes and not inside:
            parts.append(text[place : tag.start()])
            inside = name
        elif closes and inside in ("", name):
            parts = parts if inside else []
            place, inside = tag.end(), ""
    if not inside:
        parts.append(text[place:])
    return "".join(parts), inside
