"""Labels of the human pool, from the answers of people or of simulated annotators.

A label row is a response row with "verdict" ("1", "2", "tie"; "none" for both bad and flagged), "labeler" and
"votes", which have the "answer" that was given.
"""

import math
from collections import Counter
from pathlib import Path

from persuasion_rl.annotation.plan import (
    BOTH_BAD,
    FLAG,
    LEFT,
    REPEAT,
    RIGHT,
    Answer,
    Plan,
    judgment_of,
    pair_id,
    tally,
    verdict_of,
    votes_of,
)
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.files import (
    UserError,
    keyed_number,
    read_jsonl,
    written_whole,
)
from persuasion_rl.judges.base import FIRST, NONE, SECOND, TIE, ScoringJudge
from persuasion_rl.judges.make import make_judge
from persuasion_rl.preferences.label_ai import as_comparison, which_pair, write_labels
from persuasion_rl.runtime.command import note, stage

ORDERS = {1: "12", 2: "21"}
"""By the response that stood on the left, or first."""


def simulate_annotators(
    *,
    responses: Path,
    answers: Path,
    judge: str,
    annotators: int,
    noise: float,
    tie_margin: float,
    seed: int,
    threads: int,
    base: Path | None = None,
    delta_adapter: Path | None = None,
    delta_pairs: Path | None = None,
    sides: Path | None = None,
    device: str = "auto",
    overlap: float,
    several: int,
    repeats: float,
) -> int:
    """Simulate annotators who see what a judge sees, through Gaussian noise of their own, and answer as people do.

    Each annotator adds noise of standard deviation `noise` to the judge's preference (in [-1, 1]) and calls a tie within
    `tie_margin`. They take turns until the store has nothing more to show them.

    Args:
        answers: the store of their answers, made anew. overlap, several, repeats: how pairs are given out
            (`annotation.plan.Plan`). What is for which judge: `judges.make_judge`.
    """
    rows = {pair_id(row): row for row in read_jsonl(responses)}
    chosen = make_judge(
        judge,
        base=base,
        delta_adapter=delta_adapter,
        device=device,
        threads=threads,
        seed=seed,
        delta_pairs=delta_pairs,
        sides=sides,
    )
    if not isinstance(chosen, ScoringJudge):
        raise UserError(f"judge {judge} gives no preferences that simulated annotators could see")
    preferred = chosen.prefer([as_comparison(row) for row in rows.values()])
    preferences = dict(zip(rows, preferred, strict=True))
    plan = Plan(list(rows), seed, overlap, several, repeats)
    given, busy = 0, list(range(1, annotators + 1))
    with written_whole(answers) as part, AnswerStore(part) as store:
        while busy:
            for number in list(busy):
                name = f"simulated_{number}"
                showing = store.next(name, plan)
                if showing is None:
                    busy.remove(number)
                    continue
                # A repeat is felt anew, as a person's second look is.
                key = (number, *which_pair(rows[showing.pair]))
                again = (showing.kind,) if showing.kind == REPEAT else ()
                felt = preferences[showing.pair] + noise * _gaussian(
                    "annotator", seed, *key, *again
                )
                verdict = TIE if abs(felt) <= tie_margin else FIRST if felt > 0 else SECOND
                store.add(Answer(name, showing.pair, showing.kind, showing.left_response,
                                 _as_shown(verdict, showing.left_response)))  # fmt: skip
                given += 1
    note(f"{annotators} simulated annotators: {given:,} answers")
    return given


def _as_shown(verdict: str, left_response: int) -> str:
    """A verdict on a pair as the answer to a showing of it."""
    if verdict == TIE:
        return TIE
    return LEFT if verdict == str(left_response) else RIGHT


def _gaussian(*key: object) -> float:
    """A standard normal number that is a function of `key` (Box-Muller)."""
    radius = math.sqrt(-2 * math.log(1 - keyed_number("radius", *key)))
    return radius * math.cos(2 * math.pi * keyed_number("angle", *key))


def majority(opinions: list[str]) -> str:
    """The verdict of several opinions ("1", "2", "tie", "both_bad"): what more than half of them say, "none" where that is
    "both bad" or where there are none, and a tie where they are divided."""
    if not opinions:
        return NONE
    opinion, most = Counter(opinions).most_common(1)[0]
    if 2 * most <= len(opinions):
        return TIE
    return NONE if opinion == BOTH_BAD else opinion


def export_human_labels(
    *,
    responses: Path,
    answers: Path,
    labels: Path,
    min_labels: int,
    study: str,
    labeler: str,
) -> dict[str, int]:
    """Join the answers in a store with the responses that they were given for.

    A pair's verdict is what more than half of those say who did not skip it; "both bad" is an opinion too, whose majority is
    the verdict "none". Without a majority it is a tie. A pair that somebody flagged has the verdict "none", whatever others
    said. Skips, repeats and practice never count; a pair that was only skipped has no label.

    Args:
        answers: the store. labeler: "people", or what they are.

    Raises:
        UserError: fewer than `min_labels` pairs have a verdict, or fewer than all that nobody flagged, if those are fewer.
    """
    rows = list(read_jsonl(responses))
    kept = read_answers(answers)
    found = tally(map(pair_id, rows), kept)
    needed = found.needed(min_labels)
    if found.answered < needed:
        told = f"; {found.flagged} flagged as unsafe" if found.flagged else ""
        if found.skipped:
            told += f"; {found.skipped} only skipped, so that somebody else must answer them"
        raise UserError(
            f"{found.answered} of {found.pairs} pairs have a verdict and {needed} are needed"
            f" (labels.human.min_labels){told}: run `persuasion-rl annotate --study {study}`, or build what needs no person"
            " with `snakemake unattended --cores all`"
        )
    if found.pairs and not needed:
        raise UserError(
            f"all {found.pairs} pairs were flagged as unsafe: nothing is left to answer, and there is nothing to learn"
            " from; other responses make other pairs"
        )
    given: dict[str, list[Answer]] = {}
    for answer in votes_of(kept):
        given.setdefault(answer.pair, []).append(answer)
    return write_labels(
        labels,
        [_labelled(row, given[pair], labeler) for row in rows if (pair := pair_id(row)) in given],
    )


def _labelled(row: dict, answers: list[Answer], labeler: str) -> dict:
    votes = [
        {"labeler": answer.annotator, "order": ORDERS[answer.left_response], "verdict": verdict_of(answer)}
        | {key: value for key in ("answer", "confidence", "reason") if (value := getattr(answer, key)) is not None}
        for answer in answers
    ]  # fmt: skip
    flagged = any(answer.answer == FLAG for answer in answers)
    opinions = [opinion for answer in answers if (opinion := judgment_of(answer))]
    verdict = NONE if flagged else majority(opinions)
    return {**row, "verdict": verdict, "labeler": labeler, "votes": votes}


if __name__ == "__main__":
    stage(simulate_annotators, export_human_labels)
