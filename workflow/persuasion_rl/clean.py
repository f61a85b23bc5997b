"""Cleans Reddit text, rule by rule, and counts what each rule did.

A text goes to a model only after: HTML entities are resolved, the moderators' footnote and EDIT / UPDATE
paragraphs are cut (they often announce the delta, that is: the label), delta marks are removed, and
user names are replaced. Comments of bots and moderators and deleted ones are not used at all.
"""

import html
import re
from collections import Counter

BOTS = {"deltabot", "automoderator", "snapshillbot", "cmvbot"}
GONE = {"[deleted]", "[removed]", ""}

FOOTNOTE = re.compile(r"\n*(?:_{3,}\s*)?>\s*\*?Hello, users of CMV!.*", re.DOTALL)
EDIT = re.compile(
    r"^[\s*_~>#(\[\-–—]*(?:edit(?:ed)?|update)[\s_#(]*\d{0,2}[)*\]]*\s*(?:[:;*\-–—.\]].*)?$",
    re.IGNORECASE | re.MULTILINE,
)
DELTA_MARK = re.compile(r"∆|Δ|!delta\b|\bdelta awarded\b", re.I)
USER_NAME = re.compile(r"/?\bu/[\w-]+", re.I)
SPACES = re.compile(r"[ \t]+")
BLANK_LINES = re.compile(r"\n\s*\n\s*")


def clean(text: str, counts: Counter | None = None) -> str:
    """The text as a model may see it. `counts` gets the number of texts that each rule changed."""
    counts = Counter() if counts is None else counts
    for rule, apply in RULES.items():
        changed = apply(text)
        counts[rule] += changed != text
        text = changed
    return BLANK_LINES.sub("\n\n", SPACES.sub(" ", text)).strip()


RULES = {
    # Reddit's API escapes once and some sources once more.
    "html_entities": lambda text: html.unescape(html.unescape(text)),
    "footnote": lambda text: FOOTNOTE.sub("", text),
    "edit_paragraph": lambda text: EDIT.sub("", text),
    "delta_mark": lambda text: DELTA_MARK.sub("", text),
    "user_name": lambda text: USER_NAME.sub("[user]", text),
}


def unusable(speaker: str, text: str | None, distinguished: str | None) -> str | None:
    """Why a comment may not be used at all, or None."""
    if text is None:
        return "missing"
    if text.strip().lower() in GONE:
        return "deleted"
    if speaker.lower() in BOTS or speaker.lower().endswith("bot"):
        return "bot"
    if distinguished == "moderator":
        return "moderator"
    return None
