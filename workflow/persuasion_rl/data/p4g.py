"""Makes examples from PersuasionForGood: each turn of the persuader, after the dialogue so far.

Roles are those of utterances (`meta.role`: 0 persuader, 1 persuadee), not of speakers. Turns are in the order in which
they answer each other, whatever that of the file.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from persuasion_rl.data import fields
from persuasion_rl.data.clean import clean
from persuasion_rl.data.contexts import Turn
from persuasion_rl.data.corpus import Conversation, Utterance, leave_out, read_threads
from persuasion_rl.data.examples import (
    BATCH,
    Budget,
    CleanTexts,
    Counts,
    Draft,
    RowMaker,
    note_counts,
)
from persuasion_rl.files import UserError, keyed_number, write_json, write_jsonl
from persuasion_rl.records import SftRow, example_id
from persuasion_rl.runtime.command import stage
from persuasion_rl.runtime.progress import Progress

CLAIM = Turn("Claim", "I do not plan to donate a part of my payment to Save the Children.")
ROLES = {0: "Persuader", 1: "Persuadee"}
ROLE_WORDS = {"persuader": 0, "persuadee": 1}
PAYMENT = 2.0
"""Dollars that a persuadee could donate, the task's payment (Wang et al. 2019); some wrote down more."""


def role_of(utterance: Utterance, conversation: Conversation) -> str | None:
    """ "Persuader" or "Persuadee", by `meta.role` as a number or a word; None where it is null or missing.

    Raises:
        UserError: it is anything else.
    """
    role = utterance.meta.get("role")
    if isinstance(role, str):
        role = ROLE_WORDS.get(role.strip().lower(), role)
    expected = "0 (persuader) or 1 (persuadee)"
    try:
        number = fields.number("meta.role", role, expected)
        if number is not None and number not in ROLES:
            raise fields.wrong("meta.role", role, expected)
    except UserError as error:
        raise UserError(f"{conversation.place_of(utterance)}: {error}") from None
    return ROLES.get(number)


def why_left_out(conversation: Conversation) -> str | None:
    """Why no turn of a dialogue can be used: its context would lack something, or be in a wrong order; None if it can.

    Raises:
        UserError: a role is unknown.
    """
    earlier = set()
    for utterance in conversation.utterances.values():
        if utterance.reply_to is not None and utterance.reply_to not in earlier:
            return "answered_turn_missing"
        if utterance.text is None:
            return "turn_too_large" if utterance.too_large else "turn_missing"
        if role_of(utterance, conversation) is None:
            return "no_role"
        earlier.add(utterance.id)
    return None


def persuader_turns(
    conversation: Conversation, texts: CleanTexts, ends: int
) -> Iterator[tuple[Utterance, list[Turn]]]:
    """Yield the persuader's utterances, each with the claim and the turns before it; none of a dialogue that is left out.

    Args:
        ends: so many of the dialogue's first turns, and of those before the utterance, are given. Those between are left
            out: a context of at most `ends` tokens at each of its ends has no room for them.
    """
    if why_left_out(conversation):
        return
    first: list[Turn] = []
    last: deque[Turn] = deque(maxlen=ends)
    for utterance in conversation.utterances.values():
        role = role_of(utterance, conversation)
        if role == "Persuader":
            yield utterance, [CLAIM, *first, *last]
        (first if len(first) < ends else last).append(Turn(role, texts[utterance.text]))


def drafts(corpus: Path, counts: Counts, ends: int) -> Iterator[Draft]:
    """Yield the persuader's turns that answer something, with the dialogue so far; `counts` counts all turns.

    For `ends` see `persuader_turns`.
    """
    texts = CleanTexts(clean, counts["cleaned"])
    for conversation in read_threads(corpus, counts):
        if reason := why_left_out(conversation):
            leave_out(counts, conversation, reason)
        for utterance, turns in persuader_turns(conversation, texts, ends):
            counts["persuader"]["labelled"] += 1
            if turns[-1] is CLAIM:
                counts["persuader"]["opens_the_dialogue"] += 1
            elif not texts[utterance.text]:
                counts["persuader"]["empty_after_cleaning"] += 1
            else:
                metadata = {
                    "conversation_id": conversation.id,
                    "utterance_id": utterance.id,
                    "reply_to": utterance.reply_to,
                    "donation": donation_of(conversation),
                }
                yield Draft(turns, texts[utterance.text], metadata)


def donation_of(conversation: Conversation) -> float | None:
    """Dollars that the persuadee gave, where that is known."""
    try:
        return fields.number("donation_ee", conversation.meta.get("donation_ee"))
    except UserError as error:
        raise UserError(f"{conversation.place}: {error}") from None


def selected(rows: list[SftRow], size: int, seed: int, by_donation: bool) -> list[SftRow]:
    """`size` rows, each selected with a probability in proportion to its weight, without replacement.

    The weight is 1, or with `by_donation` what the persuadee gave (at most the payment), so that turns of
    dialogues without a donation are never selected. Weighted sampling by sorting keys: Efraimidis and
    Spirakis 2006, "Weighted random sampling with a reservoir".
    """

    def weight(row: SftRow) -> float:
        return min(row["metadata"]["donation"] or 0, PAYMENT) if by_donation else 1.0

    def key(row: SftRow) -> float:
        number = keyed_number("p4g", seed, example_id(row["metadata"]))
        return -math.log(1 - number) / weight(row)

    return sorted((row for row in rows if weight(row) > 0), key=key)[:size]


def process_p4g(
    *,
    corpus: Path,
    tokenizer: Path,
    examples: Path,
    counts: Path,
    budget: Budget,
    seed: int,
    max_examples: int | None = None,
    donation_weighted: bool = False,
) -> Counts:
    """Write SFT rows of the persuader's turns (`examples`), and what became of all turns (`counts`).

    Counts are grouped: "read", "left_out_conversations" and "left_out_utterances" (see `read_threads`); "persuader"
    (labelled, left out for each reason, kept); "made"; and "cleaned", the number of texts that each cleaning rule changed.

    Args:
        tokenizer: the base model's tokenizer.json.
        max_examples: the most rows to keep; which ones depends on the seed (`selected`).
        donation_weighted: select rows in proportion to what the persuadee gave.

    Raises:
        UserError: no turn is usable.
    """
    maker = RowMaker("p4g", tokenizer, budget)
    tally: Counts = defaultdict(Counter)
    rows: list[SftRow] = []
    progress = Progress("rows of p4g")
    stream = drafts(corpus, tally, budget.max_context_tokens // 2 + 1)
    while batch := list(islice(stream, BATCH)):
        rows_or_reasons = maker.rows(batch)
        tally["persuader"].update(row for row in rows_or_reasons if isinstance(row, str))
        rows += [row for row in rows_or_reasons if isinstance(row, dict)]
        progress.add(done=len(batch))
    if donation_weighted or (max_examples is not None and len(rows) > max_examples):
        fitting = len(rows)
        rows = selected(rows, max_examples or fitting, seed, donation_weighted)
        tally["persuader"]["not_selected"] = fitting - len(rows)
    if not rows:
        raise UserError(f"no usable turn of a persuader in {corpus}")
    tally["persuader"]["kept"] = len(rows)
    tally["made"]["examples"] = len(rows)
    tally["made"]["contexts_cut"] = sum(row["metadata"]["context_cut"] for row in rows)
    write_jsonl(examples, rows)
    write_json(counts, tally)
    note_counts(tally)
    return tally


if __name__ == "__main__":
    stage(process_p4g)
