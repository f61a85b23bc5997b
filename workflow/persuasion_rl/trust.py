"""How far each judge can be trusted: on held-out delta pairs, against the labels of the study, and with itself."""

from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.devices import pick_device, prepare_torch
from persuasion_rl.files import read_jsonl, write_csv
from persuasion_rl.judges import (
    FIRST,
    NONE,
    SECOND,
    TIE,
    Comparison,
    Judged,
    judge_both_orders,
    make_judge,
)
from persuasion_rl.reward import pairs_on

LIKE_LENGTH = 0.1
"""Pairs whose lengths differ by at most this share of the longer one count as of like length."""
COLUMNS = ["judge", "measure", "value", "low", "high", "rows", "conversations", "shares_weights"]


@dataclass(frozen=True)
class Case:
    """A comparison whose right answer is known, or was given by somebody."""

    comparison: Comparison
    expected: str
    conversation: str


def judge_trust(
    *,
    judges: list[str],
    pairs: Path,
    sides: Path,
    labels: dict[str, Path],
    output: Path,
    draws: int,
    seed: int,
    threads: int,
    base: Path,
    delta_adapter: Path,
    device: str = "auto",
    llm: str | None = None,
    asking: str | None = None,
) -> None:
    """Write how often each judge is right, how far it agrees with the labels, and what else sways it.

    Columns: judge, measure, value, low, high (95% over conversations), rows, conversations, shares_weights (whether
    the judge has its base weights in common with the models that it judges, so that they may err alike). Measures:

    delta_pairs: share of test-side pairs where the judge prefers the reply with the delta; a tie or an abstention is
    half right, so that a coin scores .5. like_length: the same on pairs of like length.
    flips: share of these pairs where its answer changes with the order. first_place: share of its decided answers, of
    both orders, for the response shown first. longer: share of its decided answers for the longer one.
    {pool}_labels: agreement with the pool's decided labels. {pool}_kappa: Cohen's kappa with all labels, ties too.
    {pool}_alpha: of the labellers among themselves, Krippendorff's alpha; its judge is "labellers".

    Pairs of which the judge gave no answer do not count.

    Args:
        labels: pool -> label rows.
        llm, asking: for the judge llm (`judges.make_judge`).
    """
    if "delta" in judges:
        prepare_torch(threads, seed, device)
        device = pick_device(device)
    held_out = pairs_on("test", pairs, sides)
    rows = {pool: _labelled(path) for pool, path in labels.items()}
    sets = {"delta_pairs": [_delta_case(row) for row in held_out]}
    sets |= {f"{pool}_labels": [_label_case(row) for row in found] for pool, found in rows.items()}
    table = Trust(draws, seed)
    for name in judges:
        judge = make_judge(name, base, delta_adapter, device, llm, asking)
        comparisons = [case.comparison for cases in sets.values() for case in cases]
        # At once: a judge may tell what all will cost.
        found = judge_both_orders(judge, comparisons)
        for measure, cases in sets.items():
            judged, found = found[: len(cases)], found[len(cases) :]
            answered = [
                (case, said)
                for case, said in zip(cases, judged, strict=True)
                if said.failure is None
            ]
            if not answered:
                note(f"{name}: no answer for {measure}")
            elif measure == "delta_pairs":
                table.on_delta_pairs(name, answered)
            else:
                table.on_labels(name, measure.removesuffix("_labels"), answered)
    for pool, found in rows.items():
        table.among_labellers(pool, found)
    write_csv(output, table.rows, COLUMNS)


class Trust:
    """Collects the rows of the table.

    Args:
        draws, seed: of the bootstrap over conversations.
    """

    def __init__(self, draws: int, seed: int):
        self._draws, self._seed = draws, seed
        self.rows: list[dict] = []

    def on_delta_pairs(self, judge: str, answered: list[tuple[Case, Judged]]) -> None:
        self._rate(judge, "delta_pairs", [(_right(c, j), c.conversation) for c, j in answered])
        like = [(_right(c, j), c.conversation) for c, j in answered if _like_length(c.comparison)]
        self._rate(judge, "like_length", like)
        both = [
            (one.verdict != other.verdict, case.conversation)
            for case, judged in answered
            for one, other in [judged.opinions]
            if NONE not in (one.verdict, other.verdict)
        ]
        self._rate(judge, "flips", both)
        self._rate(judge, "first_place", [vote for c, j in answered for vote in _for_first(c, j)])
        self._rate(judge, "longer", [vote for c, j in answered for vote in _for_longer(c, j)])

    def on_labels(self, judge: str, pool: str, answered: list[tuple[Case, Judged]]) -> None:
        from persuasion_rl.comparisons import kappa
        from persuasion_rl.statistics import Resamples

        decided = [
            (_right(c, j), c.conversation) for c, j in answered if c.expected in (FIRST, SECOND)
        ]
        self._rate(judge, f"{pool}_labels", decided)
        given = [(c, j) for c, j in answered if NONE not in (c.expected, j.verdict)]
        if given:
            conversations = [case.conversation for case, _ in given]
            found = kappa(
                [case.expected for case, _ in given],
                [judged.verdict for _, judged in given],
                Resamples(conversations, self._draws, self._seed),
            )
            self._add(judge, f"{pool}_kappa", found, conversations)

    def among_labellers(self, pool: str, labelled: list[dict]) -> None:
        """Where several people, or simulated ones, labelled the same pairs."""
        from persuasion_rl.comparisons import alpha
        from persuasion_rl.statistics import Resamples

        votes = [
            (_one_a_labeller(row["votes"]), row["metadata"]["conversation_id"]) for row in labelled
        ]
        several = [(given, conversation) for given, conversation in votes if len(given) > 1]
        if several:
            given, conversations = zip(*several, strict=True)
            resamples = Resamples(conversations, self._draws, self._seed)
            self._add("labellers", f"{pool}_alpha", alpha(given, resamples), conversations)

    def _rate(self, judge: str, measure: str, points: list[tuple[float, str]]) -> None:
        from persuasion_rl.statistics import bootstrap_rate

        if points:
            values, conversations = zip(*points, strict=True)
            found = bootstrap_rate(list(map(float, values)), conversations, self._draws, self._seed)
            self._add(judge, measure, found, conversations)

    def _add(self, judge: str, measure: str, interval, conversations) -> None:
        row = {
            "judge": judge,
            "measure": measure,
            **interval.columns("value"),
            "rows": len(conversations),
            "conversations": len(set(conversations)),
            "shares_weights": SHARES_WEIGHTS.get(judge, "no"),
        }
        self.rows.append(row)
        note("{judge:>9} {measure:<13} {value:.3f} [{low:.3f}, {high:.3f}]".format(**row))


SHARES_WEIGHTS = {"delta": "yes", "llm": "unknown"}
"""The delta judge is an adapter on the study's own base model."""


def _labelled(path: Path) -> list[dict]:
    return [row for row in read_jsonl(path) if "excluded" not in row]


def _label_case(row: dict) -> Case:
    comparison = Comparison(row["prompt"], row["response_1"], row["response_2"])
    return Case(comparison, row["verdict"], row["metadata"]["conversation_id"])


def _delta_case(row: dict) -> Case:
    """A pair with the winner shown first; judges are asked in both orders, so the place tells nothing."""
    comparison = Comparison(row["prompt"], row["winner"], row["loser"])
    return Case(comparison, FIRST, row["metadata"]["conversation_id"])


def _right(case: Case, judged: Judged) -> float:
    return 0.5 if judged.verdict in (TIE, NONE) else float(judged.verdict == case.expected)


def _for_first(case: Case, judged: Judged) -> list[tuple[bool, str]]:
    """Whether each decided answer is for the response that was shown first."""
    shown_first = (FIRST, SECOND)  # as given, and swapped
    return [
        (opinion.verdict == first, case.conversation)
        for opinion, first in zip(judged.opinions, shown_first, strict=True)
        if opinion.verdict in (FIRST, SECOND)
    ]


def _for_longer(case: Case, judged: Judged) -> list[tuple[bool, str]]:
    """Whether each decided answer is for the response with more words; of as many there is none."""
    one, other = _words(case.comparison)
    return [
        (opinion.verdict == (FIRST if one > other else SECOND), case.conversation)
        for opinion in judged.opinions
        if opinion.verdict in (FIRST, SECOND) and one != other
    ]


def _one_a_labeller(votes: list[dict]) -> list[str]:
    """The votes of different labellers; a judge's two orders are no two labellers."""
    return list({v["labeler"]: v["verdict"] for v in votes if v["verdict"] != NONE}.values())


def _words(comparison: Comparison) -> tuple[int, int]:
    return len(comparison.first.split()), len(comparison.second.split())


def _like_length(comparison: Comparison) -> bool:
    one, other = _words(comparison)
    return abs(one - other) <= LIKE_LENGTH * max(one, other)


if __name__ == "__main__":
    stage(judge_trust)
