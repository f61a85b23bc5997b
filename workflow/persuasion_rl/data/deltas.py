"""Finds the deltas of a thread whose corpus does not mark them (`subreddit-changemyview`).

On r/ChangeMyView a poster whose view was changed answers the comment that did it with a delta mark, and
DeltaBot confirms below. Only the original poster's deltas count here.
"""

import re
from collections import defaultdict

from persuasion_rl.data.clean import unescape
from persuasion_rl.data.corpus import Conversation, Utterance
from persuasion_rl.data.fields import DELETED

MARK = re.compile(r"[∆Δ](?!\w)|!\s?(?:delta\b|[∆Δ])", re.IGNORECASE)
MARK_HINTS = ("∆", "Δ", "elta", "ELTA", "#")
"""Every text with a mark has one of these; most comments have none."""
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|^(?: {4}|\t)[^\n]*", re.DOTALL | re.MULTILINE)
"""Code in Markdown. DeltaBot asks people who explain the mark to write it in code or in a quote."""
NEGATION = re.compile(
    r"\b(?:no|not|never|without|\w+n['’]t)\s++"
    r"(?:(?:a|an|any|be|for|of|quite|really|that|the|this|to|worth|you|your|award(?:ed|ing)?|deserve"
    rf"|earn(?:ed)?|enough|get(?:ting)?|g[ai]v(?:e|en|ing)|going)\s++){{0,6}}+(?={MARK.pattern})",
    re.IGNORECASE,
)
"""What makes "no delta" of the mark behind it."""
CONFIRMED = re.compile(r"confirmed\s*+(?::\s*+)?\d++\s++deltas?\s++awarded", re.IGNORECASE)
REFUSED = re.compile(
    r"delta\s+(?:is|was|has\s+been)\s+(?:currently\s+)?(?:rejected|disallowed)|you\s+can(?:no|')t\s+award",
    re.IGNORECASE,
)
DELTA_BOT = "deltabot"


def awards(text: str) -> bool:
    """Whether a comment awards a delta: a mark outside of quoted lines and of code, and not "no delta"."""
    if not any(hint in text for hint in MARK_HINTS):
        return False
    for line in CODE.sub("", unescape(text)).splitlines():
        if line.lstrip().startswith(">"):
            continue
        negated = {negation.end() for negation in NEGATION.finditer(line)}
        if any(mark.start() not in negated for mark in MARK.finditer(line)):
            return True
    return False


def award_ids(conversation: Conversation) -> set[str]:
    """The poster's comments that award a delta to the comment they answer.

    DeltaBot overrides the mark: what it confirmed counts, what it refused does not. A deleted poster has no awards, since
    all deleted accounts have the same name.
    """
    if conversation.poster == DELETED:
        return set()
    answers: dict[str | None, list[Utterance]] = defaultdict(list)
    for utterance in conversation.utterances.values():
        answers[utterance.reply_to].append(utterance)
    awarding = set()
    for utterance in conversation.utterances.values():
        if utterance.speaker != conversation.poster or utterance.reply_to is None:
            continue
        from_bot = [
            answer.text or ""
            for answer in answers[utterance.id]
            if answer.speaker.lower() == DELTA_BOT
        ]
        if any(map(CONFIRMED.search, from_bot)) or (
            awards(utterance.text or "") and not any(map(REFUSED.search, from_bot))
        ):
            awarding.add(utterance.id)
    return awarding


def won_and_lost(conversation: Conversation) -> dict[str, int]:
    """Comment id -> 1 if it won the poster's delta, 0 if it lost beside a winner.

    A reply lost if it answers the same comment as a winner, and neither it nor a reply below it won a delta.
    """
    utterances = conversation.utterances
    won = {utterances[id_].reply_to for id_ in award_ids(conversation)}
    winners = [
        utterances[id_]
        for id_ in sorted(won & utterances.keys())
        if utterances[id_].reply_to is not None and utterances[id_].speaker != conversation.poster
    ]
    led_to_a_delta: set[str] = set()
    for winner in winners:
        above: Utterance | None = winner
        while above is not None and above.id not in led_to_a_delta:
            led_to_a_delta.add(above.id)
            above = utterances.get(above.reply_to)
    answered = {winner.reply_to for winner in winners}
    labels = {winner.id: 1 for winner in winners}
    for utterance in utterances.values():
        if (
            utterance.reply_to in answered
            and utterance.id not in led_to_a_delta
            and utterance.speaker != conversation.poster
        ):
            labels[utterance.id] = 0
    return labels
