"""Simulates annotators of the human pool, who answer as people do. Their answers have a store of their own."""

import math
from pathlib import Path

from persuasion_rl.annotation.plan import LEFT, REPEAT, RIGHT, Answer, Plan, pair_id
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.files import UserError, keyed_number, written_whole
from persuasion_rl.judges.base import FIRST, SECOND, TIE, ScoringJudge
from persuasion_rl.judges.make import JudgeSettings, make_judge
from persuasion_rl.preferences.labels import as_comparison, pair_key
from persuasion_rl.records import ResponsePair, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress


def simulate_annotators(
    *,
    responses: Path,
    answers: Path,
    judge: str,
    annotators: int,
    noise: float,
    tie_margin: float,
    overlap: float,
    several: int,
    repeats: float,
    settings: JudgeSettings,
) -> int:
    """Simulate annotators who answer like a judge with noise. Returns the number of answers.

    Each annotator adds Gaussian noise of standard deviation `noise` to the judge's preference (in [-1, 1]) and calls it a
    tie within `tie_margin`. They take turns until the store has nothing more to show them.

    Args:
        answers: the store of their answers, made anew. overlap, several, repeats: how pairs are given out
            (see `annotation.plan.Plan`).

    Raises:
        UserError: the judge gives verdicts without preferences.
    """
    pairs = {pair_id(pair): pair for pair in read_rows(responses, ResponsePair)}
    chosen = make_judge(judge, settings)
    if not isinstance(chosen, ScoringJudge):
        raise UserError(f"judge {judge} gives no preferences that simulated annotators could see")
    preferences = dict(
        zip(pairs, chosen.prefer([as_comparison(pair) for pair in pairs.values()]), strict=True)
    )
    plan = Plan(list(pairs), settings.seed, overlap, several, repeats)
    count, busy = 0, list(range(1, annotators + 1))
    planned = sum(people for _, people in plan.in_order) * (1 + repeats)
    progress = Progress("simulated annotators", planned, "answers")
    with written_whole(answers) as part, AnswerStore(part) as store:
        while busy:
            for number in list(busy):
                name = f"simulated_{number}"
                showing = store.next(name, plan)
                if showing is None:
                    busy.remove(number)
                    continue
                # A repeat has its own noise, as a person may answer otherwise the second time.
                key = (number, *pair_key(pairs[showing.pair]))
                key += (showing.kind,) if showing.kind == REPEAT else ()
                perceived = preferences[showing.pair] + noise * _gaussian(
                    "annotator", settings.seed, *key
                )
                verdict = (
                    TIE if abs(perceived) <= tie_margin else FIRST if perceived > 0 else SECOND
                )
                answer = _as_shown(verdict, showing.left_response)
                store.add(Answer(name, showing.pair, showing.kind, showing.left_response, answer))
                count += 1
                progress.add(done=1)
    note(f"{annotators} simulated annotators: {count:,} answers")
    return count


def _as_shown(verdict: str, left_response: int) -> str:
    """A verdict on a pair as the answer to a showing of that pair."""
    if verdict == TIE:
        return TIE
    return LEFT if verdict == str(left_response) else RIGHT


def _gaussian(*key: object) -> float:
    """A standard normal number that is a function of `key` (Box-Muller)."""
    radius = math.sqrt(-2 * math.log(1 - keyed_number("radius", *key)))
    return radius * math.cos(2 * math.pi * keyed_number("angle", *key))


if __name__ == "__main__":
    stage(simulate_annotators)
