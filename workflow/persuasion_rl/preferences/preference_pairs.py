"""Makes chosen / rejected pairs for DPO from labels, and a report on those labels.

Ties and "none" verdicts make no pair, nor do rows that could not be labelled ({"excluded": reason}).
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from persuasion_rl.files import UserError, keyed_number, write_json, write_jsonl
from persuasion_rl.judges.base import (
    FIRST,
    SECOND,
    TIE,
    Comparison,
    Judge,
    judge_both_orders,
)
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.records import LabelRow, PreferencePair, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.statistics.intervals import bootstrap_mean, bootstrap_rate

DRAWS = 2000
"""Bootstrap draws for the report's intervals. Not a setting, since changing it would remake the pairs."""
SHOWN_FIRST = {"12": FIRST, "21": SECOND}
"""The "order" of a vote -> the response of the row that stood first."""
AS_GIVEN = "12"
"""The order of votes without "order": the pair was shown as the row has it."""


def preference_pairs(
    *, labels: Path, train: Path, val: Path, report: Path, val_fraction: float, seed: int
) -> tuple[int, int]:
    """Write the decided labels as pairs; a share `val_fraction` of the conversations goes to `val`.

    `report` gets the result of `describe` and the number of pairs. Returns the numbers of pairs for training and
    validation.

    Raises:
        UserError: there is no pair for training, or none for validation.
    """
    rows = list(read_rows(labels, LabelRow))
    labelled = [row for row in rows if "excluded" not in row]
    excluded = _counted(row["excluded"] for row in rows if "excluded" in row)
    decided = [_pair(row) for row in labelled if row["verdict"] in (FIRST, SECOND)]
    pairs, duplicates = without_duplicates(decided)
    parts: dict[Path, list[PreferencePair]] = {train: [], val: []}
    held_out = validation_conversations(map(_conversation, pairs), val_fraction, seed)
    for pair in pairs:
        parts[val if _conversation(pair) in held_out else train].append(pair)
    for path, part in parts.items():
        if not part:
            counts = ", ".join(f"{name} {count}" for name, count in excluded.items())
            raise UserError(
                f"{path}: no pair; {len(labelled)} labels in {labels} are too few or all ties"
                + (f"; not labelled: {counts}" if counts else "")
            )
    for path, part in parts.items():
        write_jsonl(path, part)
    write_json(
        report,
        {
            "excluded": excluded,
            **describe(labelled, decided, seed),
            "duplicates": duplicates,
            "pairs": {"train": len(parts[train]), "val": len(parts[val])},
            "mean_tokens": _mean_tokens(pairs),
        },
    )
    note(
        f"{len(labelled)} labels: {len(parts[train])} pairs to train on, {len(parts[val])} to validate;"
        f" duplicates dropped: {duplicates}"
    )
    return len(parts[train]), len(parts[val])


def validation_conversations(ids: Iterable[str], fraction: float, seed: int) -> set[str]:
    """A random share `fraction` of some conversations, and one at least.

    The random order is by keys of the ids, so that adding or removing a conversation moves few others.
    """
    shuffled = sorted(set(ids), key=lambda id_: keyed_number("pairs", seed, id_))
    return set(shuffled[: max(1, round(fraction * len(shuffled)))])


def _pair(row: LabelRow) -> PreferencePair:
    first, second = row["response_1"], row["response_2"]
    chosen, rejected = (first, second) if row["verdict"] == FIRST else (second, first)
    return {
        "prompt": row["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "metadata": row["metadata"] | {"labeler": row["labeler"]},
    }


def _conversation(row: LabelRow | PreferencePair) -> str:
    return row["metadata"]["conversation_id"]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def without_duplicates(
    pairs: list[PreferencePair],
) -> tuple[list[PreferencePair], dict[str, int]]:
    """Keep the first pair for each prompt and two texts; also return how many were dropped, by reason.

    "repeated": an earlier row has the same pair. "contradictory": another row prefers the other text; all such rows are
    dropped, since nothing tells which one is right.
    """
    groups: dict[tuple[str, frozenset[str]], list[PreferencePair]] = {}
    for pair in pairs:
        texts = frozenset((pair["chosen"], pair["rejected"]))
        groups.setdefault((pair["prompt"], texts), []).append(pair)
    unique_pairs, dropped = [], {"repeated": 0, "contradictory": 0}
    for group in groups.values():
        if len({pair["chosen"] for pair in group}) > 1:
            dropped["contradictory"] += len(group)
        else:
            unique_pairs.append(group[0])
            dropped["repeated"] += len(group) - 1
    return unique_pairs, dropped


def describe(labelled: list[LabelRow], decided: list[PreferencePair], seed: int) -> dict:
    """Statistics of the labels of a pool; None for those that cannot be measured.

    labels, verdicts: the number of labels, and of each verdict.
    flips: how often a judge was "asked" in both orders, and how often its answers differed ("flipped").
    first_shown: the share of decided votes for the response shown first; .5 without a bias.
    longer_chosen: the share of decided labels whose chosen response has more words; equal numbers count half.
    words_more: by how many words the chosen response is longer, on average.
    agreement: judge -> the share of decided labels that it agrees with; ties count half. Only the judge length is here,
    since others would have to be asked; they are in judges/trust.csv as {pool}_labels.
    The last four are {"value", "low", "high", "rows"} with a 95% interval over conversations.

    Args:
        labelled: label rows. decided: the pairs that they make, duplicates among them.
    """
    votes = [
        (vote["verdict"] == SHOWN_FIRST[vote.get("order", AS_GIVEN)], _conversation(row))
        for row in labelled
        for vote in row["votes"]
        if vote["verdict"] in (FIRST, SECOND)
    ]
    more = [(_words(pair["chosen"]) - _words(pair["rejected"]), pair) for pair in decided]
    longer = [(0.5 if words == 0 else words > 0, _conversation(pair)) for words, pair in more]
    return {
        "labels": len(labelled),
        "verdicts": _counted(row["verdict"] for row in labelled),
        "flips": _flips(labelled),
        "first_shown": _mean(votes, seed, bootstrap_rate),
        "longer_chosen": _mean(longer, seed, bootstrap_rate),
        "words_more": _mean([(words, _conversation(pair)) for words, pair in more], seed),
        "agreement": {LengthJudge.name: _agreement(LengthJudge(), decided, seed)},
    }


def _flips(labelled: list[LabelRow]) -> dict[str, int] | None:
    both_orders = [answers for row in labelled for answers in _answers_in_both_orders(row["votes"])]
    flipped = sum(one != other for one, other in both_orders)
    return {"asked": len(both_orders), "flipped": flipped} if both_orders else None


def _answers_in_both_orders(votes: list[dict]) -> list[tuple[str, str]]:
    """The two answers of each judge that answered in both orders, for the pair as given."""
    answers: dict[str, dict[str, str]] = {}
    for vote in votes:
        if "order" in vote and vote["verdict"] in (FIRST, SECOND, TIE):
            answers.setdefault(vote["labeler"], {})[vote["order"]] = vote["verdict"]
    return [(orders["12"], orders["21"]) for orders in answers.values() if len(orders) == 2]


def _agreement(judge: Judge, decided: list[PreferencePair], seed: int) -> dict | None:
    """How often a judge, asked in both orders, prefers the chosen response; a tie counts half."""
    comparisons = [Comparison(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in decided]
    points = {FIRST: 1.0, SECOND: 0.0}
    agreed = [points.get(judged.verdict, 0.5) for judged in judge_both_orders(judge, comparisons)]
    return _mean(list(zip(agreed, map(_conversation, decided), strict=True)), seed, bootstrap_rate)


def _mean(values: list[tuple[float, str]], seed: int, estimate=bootstrap_mean) -> dict | None:
    """The mean of numbers, each with its conversation, and its interval."""
    if not values:
        return None
    numbers, conversations = zip(*values, strict=True)
    interval = estimate(numbers, conversations, DRAWS, seed)
    return {**interval.columns("value"), "rows": len(values)}


def _mean_tokens(pairs: list[PreferencePair]) -> float | None:
    """The mean number of tokens of both responses of a pair, over the pairs whose metadata has it."""
    lengths = [sum(p["metadata"]["tokens"]) for p in pairs if "tokens" in p["metadata"]]
    return sum(lengths) / len(lengths) if lengths else None


def _words(text: str) -> int:
    return len(text.split())


if __name__ == "__main__":
    stage(preference_pairs)
