"""Cleans Reddit text, rule by rule, and counts what each rule did.

A text goes to a model only after: HTML entities are resolved, the moderators' footnote and EDIT / UPDATE
lines are cut (they often announce the delta, that is: the label), sentences that speak of deltas and the
marks themselves are removed, and user names are replaced. Quoted lines (`> ...`) stay as they are. Comments
of bots and moderators and deleted ones are not used at all.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator

from persuasion_rl.text import is_blank, readable

BOTS = re.compile(
    r"auto-?moderator|deltabot|snapshillbot|cmvbot|auto_?wikibot|totes-?messenger|totes_meta_bot|remindmebot"
    r"|.*[_-]bot",
    re.IGNORECASE,
)
CAPITAL_BOT = re.compile(r".*[a-z]Bot")
GONE = re.compile(
    r"\\?\[\s*(?:deleted|removed|unavailable)(?:\s+by\s[^\n]{1,120})?\s*\\?\]", re.IGNORECASE
)
"""Reddit's placeholders: [deleted], [removed], [deleted by user], [ Removed by Reddit ]."""
REMOVAL = re.compile(
    r"\s*sorry[^\n]{0,60}\byour (?:comment|post|submission) has been removed", re.IGNORECASE
)

LONG_ENTITY = re.compile(r"&#(?:[0-9]{20,}+|x[0-9a-f]{20,}+);?", re.IGNORECASE)
"""A number that no character has; Python reads no integer of more than 4,300 digits."""
# People's texts may repeat anything a million times. So a pattern gives nothing back (`*+`) where that could not help, and
# does not begin within what it has just passed: all are linear in the length of the text.
FOOTNOTE = re.compile(r"(?<!\n)\n*+(?:(?<!_)_{3,}+\s*+)?>\s*+\*?Hello, users of CMV!.*", re.DOTALL)
EDIT_LINE = re.compile(
    r"^[\s*_~>#(\[\-–—]*+"
    r"(?P<edit>(?:(?:final|first|second|third|last|late|quick|small|minor|big|huge|another)\s++)?+"
    # The word alone, or with a mark behind it: to the end of the line, or to the last of the blank lines below.
    r"(?:(?:edit(?:ed|s)?+|update)(?:[\s_#(]*+\d{0,2}+[)*\]]*+(?:\s*+(?:[:;*\-–—.\])!].*|\Z)|\s*(?=\n)|(?<=[)*\]]).*)"
    r"|[\s_#(]*(?=\n))"
    r"|edit\s*+#?\d.*|edit\).*|edit(?:ed|s made)\s++(?:\w++\s++){0,3}(?:for|to)\b.*|(?-i:EDIT)\b.*))?",
    re.IGNORECASE | re.MULTILINE,
)
"""The marks before the first letter of a line, and with the group `edit` an EDIT or UPDATE line."""
LATER_EDIT_WORDS = 50
SENTENCE = re.compile(r"!?[^.!?\n]+[.!?]*[*_]*[^\S\n]*|[.!?]+[^\S\n]*")
DELTA = re.compile(r"\bdelta(?:s|ed| ?bot)?\b", re.IGNORECASE)
AWARDING = re.compile(
    r"\bdelta ?bot\b|\b(?:to|and|will) delta\b|\bdeltas? (?:(?:in)?coming\b|(?:for|to) /?u/)|\b(?:award\w*"
    r"|deserv\w*|earn\w*|g[ai]ve[ns]?|giving|get|got|hand\w*|have (?:a|an|this|your)|here'?s|receiv\w*"
    r"|thank\w*|another|cmv|changed? (?:my|your) view)\b",
    re.IGNORECASE,
)
DELTA_MARK = re.compile(r"!\s?(?:delta\b|[∆Δ])|[∆Δ]", re.IGNORECASE)
USER_NAME = re.compile(r"(?:/user/|/u/|\bu/)(?:\\?[\w-])+", re.IGNORECASE)
SPACES = re.compile(r"[ \t]{2,}|\t")
BLANK_LINES = re.compile(r"\n\s*\n\s*")


def clean(text: str, counts: Counter | None = None) -> str:
    """The text as a model may see it, "" where that shows nothing; adds to `counts` (rule -> number of texts that it
    changed)."""
    for rule, (hints, apply) in RULES.items():
        if not any(hint in text for hint in hints):
            continue
        changed = apply(text)
        if counts is not None and changed != text:
            counts[rule] += 1
        text = changed
    return "" if is_blank(text) else BLANK_LINES.sub("\n\n", SPACES.sub(" ", text)).strip()


def clean_post(text: str, counts: Counter | None = None) -> str:
    """A post as a model may see it: cleaned like other texts, and without what the poster added later.

    The text below an EDIT or UPDATE line often repeats the arguments that won. If fewer than 50 words stand above
    such a line, the post itself is below it, and only the line is cut.
    """
    resolved = unescape(text)
    words_above = end = 0
    for line in _edit_lines(resolved):
        words_above += len(resolved[end : line.start()].split())
        end = line.end()
        if words_above >= LATER_EDIT_WORDS:
            if counts is not None:
                counts["later_edit_of_post"] += 1
            return clean(resolved[: line.start()], counts)
    return clean(text, counts)


def unescape(text: str) -> str:
    """The text with HTML entities as characters. Reddit's API escapes once and some sources once more."""
    once = html.unescape(LONG_ENTITY.sub("\ufffd", text))
    return readable(html.unescape(LONG_ENTITY.sub("\ufffd", once)))


def _edit_lines(text: str) -> Iterator[re.Match]:
    return (line for line in EDIT_LINE.finditer(text) if line["edit"])


def _without_edit_lines(text: str) -> str:
    return EDIT_LINE.sub(lambda line: "" if line["edit"] else line[0], text)


def _without_announcements(text: str) -> str:
    """The text without the sentences about deltas as awards of ChangeMyView; river deltas stay."""

    def replacement(sentence: re.Match) -> str:
        announces = DELTA.search(sentence[0]) and AWARDING.search(sentence[0])
        return "" if announces else sentence[0]

    return SENTENCE.sub(replacement, text)


RULES = {
    # Name: (strings, rule). The rule is tried on texts with one of the strings; most texts have none.
    "html_entities": (("&",), unescape),
    "footnote": (("users of CMV!",), lambda text: FOOTNOTE.sub("", text)),
    "edit_line": (("dit", "DIT", "pdate", "PDATE"), _without_edit_lines),
    "delta_announcement": (("elta", "ELTA"), _without_announcements),
    "delta_mark": (("∆", "Δ", "elta", "ELTA"), lambda text: DELTA_MARK.sub("", text)),
    "user_name": (("u/", "U/", "ser/"), lambda text: USER_NAME.sub("[user]", text)),
}


def is_bot(speaker: str) -> bool:
    """Whether a user name is a known bot's or looks like one."""
    return bool(BOTS.fullmatch(speaker) or CAPITAL_BOT.fullmatch(speaker))


def unusable(speaker: str, text: str | None, distinguished: str | None = None) -> str | None:
    """Why a comment may not be used at all ("missing", "deleted", "bot", "moderator"); None if it may.

    Args:
        distinguished: Reddit's mark of moderators and admins who speak in that role.
    """
    if text is None:
        return "missing"
    if is_blank(text) or GONE.fullmatch(text.strip()):
        return "deleted"
    if is_bot(speaker):
        return "bot"
    if distinguished == "moderator" or REMOVAL.match(text):
        return "moderator"
    return None
