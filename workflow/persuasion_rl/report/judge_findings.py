"""Sentences on what a reader must know about the judges: whether they are right, and what biases them.

Tables are lists of rows, in which numbers are not texts.
"""

from persuasion_rl.statistics.intervals import UNKNOWN, Interval

LENGTH, INTERPLAY = "length", "interplay"
BASELINES = {LENGTH: "more words win", INTERPLAY: "word overlap and style decide"}
"""The judges that do not read, and how they decide."""
SIGNIFICANT = 0.05
OFTEN = 0.1
"""Share of order flips above which the report mentions them."""


def interval_text(row: dict, value: str = "value", form: str = ".3f") -> str:
    """The value of a row with its interval (`low` and `high`, empty or None where they are not known) as text."""
    low, high = (UNKNOWN if row[end] in ("", None) else row[end] for end in ("low", "high"))
    return Interval(row[value], low, high).text(form)


def is_significant(row: dict) -> bool:
    """Whether a declared comparison of two trainings is significant, by its p corrected for their number."""
    return row["p_holm"] < SIGNIFICANT


def beats_length(trust: list[dict], judge: str) -> bool:
    """Whether a judge is right more often than the length baseline on the same held-out delta pairs, judged by the interval
    of the difference."""
    return any(
        row["low"] > 0 for row in trust if (row["judge"], row["measure"]) == (judge, "above_length")
    )


def accuracy_sentences(trust: list[dict], judges: list[str]) -> list[str]:
    """How often judges are right on held-out delta pairs, beside the baselines."""
    row_of = {(row["judge"], row["measure"]): row for row in trust}
    sentences = []
    for judge in judges:
        accuracy, above = row_of.get((judge, "delta_pairs")), row_of.get((judge, "above_length"))
        if not accuracy or not above:
            continue
        verb = "beats" if beats_length(trust, judge) else "does not clearly beat"
        text = (
            f"Judge {judge} is right on {interval_text(accuracy)} of held-out delta pairs; it {verb} the length baseline: the"
            f" difference on the same pairs is {interval_text(above, form='+.3f')}."
        )
        if like := row_of.get((judge, "like_length")):
            text += f" Among pairs of like length it is right on {interval_text(like)}."
        sentences.append(text)
    if sentences and (learned := row_of.get((INTERPLAY, "delta_pairs"))):
        sentences.append(
            "A linear model of word overlap and style, the baseline interplay, is right on"
            f" {interval_text(learned)} of all held-out delta pairs."
        )
    return sentences


def length_sentences(declared: list[dict], win_rates: list[dict], judges: list[str]) -> list[str]:
    """Significant declared comparisons that are not confirmed at equal length."""
    sentences = []
    for judge in judges:
        equal = _at_equal_length(win_rates, judge)
        pairs_by_fate: dict[str, list[str]] = {}
        for row in declared:
            if row["judge"] == judge and row["seeds"] == 1 and is_significant(row):
                ends = equal.get((row["player"], row["against"]))
                if fate := _fate(row["win_rate"], ends):
                    pair = f"{row['player']} against {row['against']}"
                    pairs_by_fate.setdefault(fate, []).append(pair)
        if pairs_by_fate:
            fates = "; ".join(f"{fate} {', '.join(pairs)}" for fate, pairs in pairs_by_fate.items())
            sentences.append(f"At equal length judge {judge} {fates}.")
    return sentences


def _at_equal_length(win_rates: list[dict], judge: str) -> dict[tuple[str, str], tuple]:
    """Player and opponent -> the ends of the win rate at equal length, seen from that player."""
    ends = {}
    for row in win_rates:
        low, high = row["length_controlled_low"], row["length_controlled_high"]
        if row["judge"] == judge and "" not in (low, high):
            ends[row["player"], row["against"]] = (low, high)
            ends[row["against"], row["player"]] = (1 - high, 1 - low)
    return ends


def _fate(rate: float, ends: tuple[float, float] | None) -> str | None:
    """What becomes of a win or loss at equal length, in words; None if it is confirmed.

    Args:
        ends: of the interval at equal length; None if it could not be fitted.
    """
    if ends is None:
        return "is not measured on"
    low, high = ends if rate > 0.5 else (1 - ends[1], 1 - ends[0])
    if low > 0.5:
        return None
    return "shows the opposite for" if high < 0.5 else "no longer shows"


def bias_sentences(trust: list[dict], judges: list[str]) -> list[str]:
    """Biases of judges: by order, by place, by length."""
    sentences = []
    longer = [r for r in trust if (r["judge"], r["measure"]) == (LENGTH, "delta_pairs")]
    for row in trust:
        if row["judge"] not in judges:
            continue
        if row["measure"] == "flips" and row["low"] > OFTEN:
            sentences.append(
                f"Judge {row['judge']} changes its answer with the order in {interval_text(row)} of pairs."
            )
        if row["measure"] == "first_place" and not row["low"] <= 0.5 <= row["high"]:
            sentences.append(
                f"Judge {row['judge']} prefers a place: {interval_text(row)} of its answers are for the first."
            )
        if row["measure"] == "longer" and row["low"] > (longer[0]["value"] if longer else 0.5):
            sentences.append(
                f"Judge {row['judge']} prefers the longer reply in {interval_text(row)} of delta pairs"
                + (f"; the delta went to it in {longer[0]['value']:.3f}." if longer else ".")
            )
    return sentences


def truth_sentences(win_rates: list[dict], truth: list[dict], judges: list[str]) -> list[str]:
    """Pairs of players of which a judge clearly prefers the truly worse one, both by intervals."""
    truth_of = {row["model"]: row for row in truth}
    sentences = []
    for judge in judges:
        wrong = []
        for row in win_rates:
            one, other = truth_of.get(row["player"]), truth_of.get(row["against"])
            if row["judge"] != judge or not one or not other:
                continue
            if "" in (one["low"], other["low"]):
                continue
            if row["low"] > 0.5 and one["high"] < other["low"]:
                wrong.append(f"{row['player']} over {row['against']}")
            if row["high"] < 0.5 and other["high"] < one["low"]:
                wrong.append(f"{row['against']} over {row['player']}")
        if wrong:
            sentences.append(
                f"Judge {judge} is wrong where the truth is known: it prefers {', '.join(wrong)}."
            )
    return sentences
