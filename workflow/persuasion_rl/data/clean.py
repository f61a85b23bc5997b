"""Cleans Reddit text, rule by rule, and counts what each rule did.

A text goes to a model only after: HTML entities are resolved, the moderators' footnote and EDIT / UPDATE
lines are cut (they often announce the delta, that is: the label), sentences that speak of deltas and the
marks themselves are removed, and user names are replaced. Quoted lines (`> ...`) stay as they are. Comments
of bots and moderators and deleted ones are not used at all.
"""

import html
import re
from collections import Counter

BOTS = re.compile(
    r"auto-?moderator|deltabot|snapshillbot|cmvbot|auto_?wikibot|totes-?messenger|totes_meta_bot|remindmebot"
    r"|.*[_-]bot",
    re.IGNORECASE,
)
CAPITAL_BOT = re.compile(r".*[a-z]Bot")
GONE = {"[deleted]", "[removed]", "[deleted by user]", ""}
REMOVAL = re.compile(
    r"\s*sorry[^\n]{0,60}\byour (?:comment|post|submission) has been removed", re.IGNORECASE
)

FOOTNOTE = re.compile(r"\n*(?:_{3,}\s*)?>\s*\*?Hello, users of CMV!.*", re.DOTALL)
EDIT = re.compile(
    r"^[\s*_~>#(\[\-–—]*(?:(?:final|first|second|third|last|late|quick|small|minor|big|huge|another)\s+)?"
    r"(?:(?:edit(?:ed|s)?|update)[\s_#(]*\d{0,2}[)*\]]*\s*(?:[:;*\-–—.\])!].*)?$"
    r"|edit\s*#?\d.*|edit\).*|edit(?:ed|s made)\s+(?:\w+\s+){0,3}(?:for|to)\b.*|(?-i:EDIT)\b.*)",
    re.IGNORECASE | re.MULTILINE,
)
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
    """The text as a model may see it; adds to `counts` (rule -> number of texts that it changed)."""
    for rule, (hints, apply) in RULES.items():
        if not any(hint in text for hint in hints):
            continue
        changed = apply(text)
        if counts is not None and changed != text:
            counts[rule] += 1
        text = changed
    return BLANK_LINES.sub("\n\n", SPACES.sub(" ", text)).strip()


def clean_post(text: str, counts: Counter | None = None) -> str:
    """A post as a model may see it: cleaned like other texts, and without what the poster added later.

    The text below an EDIT or UPDATE line often repeats the arguments that won. If fewer than 50 words stand above
    such a line, the post itself is below it, and only the line is cut.
    """
    resolved = html.unescape(html.unescape(text))
    for line in EDIT.finditer(resolved):
        above = resolved[: line.start()]
        if len(EDIT.sub("", above).split()) >= LATER_EDIT_WORDS:
            if counts is not None:
                counts["later_edit_of_post"] += 1
            return clean(above, counts)
    return clean(text, counts)


def _without_announcements(text: str) -> str:
    """The text without the sentences about deltas as awards of ChangeMyView; river deltas stay."""

    def replacement(sentence: re.Match) -> str:
        announces = DELTA.search(sentence[0]) and AWARDING.search(sentence[0])
        return "" if announces else sentence[0]

    return SENTENCE.sub(replacement, text)


RULES = {
    # Name: (strings, rule). The rule is tried on texts with one of the strings; most texts have none.
    # Reddit's API escapes once and some sources once more.
    "html_entities": (("&",), lambda text: html.unescape(html.unescape(text))),
    "footnote": (("users of CMV!",), lambda text: FOOTNOTE.sub("", text)),
    "edit_line": (("dit", "DIT", "pdate", "PDATE"), lambda text: EDIT.sub("", text)),
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
    if text.strip().lower() in GONE:
        return "deleted"
    if is_bot(speaker):
        return "bot"
    if distinguished == "moderator" or REMOVAL.match(text):
        return "moderator"
    return None
