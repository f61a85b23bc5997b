"""Makes labels of the human pool from the answers of people, or of simulated annotators.

A label row is a response pair with "verdict" ("1", "2", "tie"; "none" for both bad and flagged), "labeler" and
"votes", each with its "answer".
"""

from collections import Counter
from pathlib import Path

from persuasion_rl.annotation.plan import (
    BOTH_BAD,
    FLAG,
    Answer,
    judgment_of,
    pair_id,
    tally,
    verdict_of,
    votes_of,
)
from persuasion_rl.annotation.store import read_answers
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import NONE, TIE
from persuasion_rl.preferences.labels import write_labels
from persuasion_rl.records import LabelRow, ResponsePair, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.study.recorded import command_for

ORDERS = {1: "12", 2: "21"}
"""Response on the left, or first -> the "order" of a vote."""


def export_human_labels(
    *,
    responses: Path,
    answers: Path,
    labels: Path,
    min_labels: int,
    study: str,
    labeler: str,
) -> dict[str, int]:
    """Join the answers in a store with their response pairs. Returns the number of each verdict.

    The verdict of a pair is the majority of those who did not skip it; a majority for "both bad" is the verdict "none".
    Without a majority it is a tie. A pair that somebody flagged has the verdict "none", whatever others answered. Skips,
    repeats and practice never count; a pair that was only skipped has no label.

    Args:
        answers: the store. labeler: "people", or a description of simulated ones.

    Raises:
        UserError: fewer than `min_labels` pairs have a verdict (or not all unflagged pairs, if those are fewer).
    """
    pairs = list(read_rows(responses, ResponsePair))
    stored = read_answers(answers)
    counts = tally(map(pair_id, pairs), stored)
    needed = counts.needed(min_labels)
    if counts.answered < needed:
        others = f"; {counts.flagged} flagged as unsafe" if counts.flagged else ""
        if counts.skipped:
            others += f"; {counts.skipped} only skipped, so that somebody else must answer them"
        raise UserError(
            f"{counts.answered} of {counts.pairs} pairs have a verdict and {needed} are needed"
            f" (labels.human.min_labels){others}: run `persuasion-rl annotate --study {study}`, or build what needs no person"
            f" with {command_for(study, 'unattended --cores all')}"
        )
    if counts.pairs and not needed:
        raise UserError(
            f"all {counts.pairs} pairs were flagged as unsafe: nothing is left to answer, and there is nothing to learn"
            " from; other responses make other pairs"
        )
    votes: dict[str, list[Answer]] = {}
    for answer in votes_of(stored):
        votes.setdefault(answer.pair, []).append(answer)
    return write_labels(
        labels,
        [
            _label_row(pair, votes[id_], labeler)
            for pair in pairs
            if (id_ := pair_id(pair)) in votes
        ],
    )


def _label_row(pair: ResponsePair, answers: list[Answer], labeler: str) -> LabelRow:
    votes = [
        {"labeler": answer.annotator, "order": ORDERS[answer.left_response], "verdict": verdict_of(answer)}
        | {key: value for key in ("answer", "confidence", "reason") if (value := getattr(answer, key)) is not None}
        for answer in answers
    ]  # fmt: skip
    flagged = any(answer.answer == FLAG for answer in answers)
    judgments = [judgment for answer in answers if (judgment := judgment_of(answer))]
    verdict = NONE if flagged else majority(judgments)
    return {**pair, "verdict": verdict, "labeler": labeler, "votes": votes}


def majority(judgments: list[str]) -> str:
    """The verdict of several annotators, each of whom says "1", "2", "tie" or "both_bad".

    It is the answer of more than half of them, but "none" for "both_bad" and without annotators; a tie without a
    majority.
    """
    if not judgments:
        return NONE
    judgment, most = Counter(judgments).most_common(1)[0]
    if 2 * most <= len(judgments):
        return TIE
    return NONE if judgment == BOTH_BAD else judgment


if __name__ == "__main__":
    stage(export_human_labels)
