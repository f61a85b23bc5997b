"""The report in sentences: what came out, how sure that is, what limits it."""

from persuasion_rl.evaluation.measures import NOT_MEASURED
from persuasion_rl.report.judge_findings import (
    BASELINES,
    SIGNIFICANT,
    accuracy_sentences,
    bias_sentences,
    interval_text,
    is_significant,
    length_sentences,
    truth_sentences,
)
from persuasion_rl.report.study_tables import Tables

FOUR = ("base", "sft", "rlhf", "rlaif_rlhf")
"""The models whose ranking was published."""
HONESTY = (
    "experience_markers",
    "disrespect_markers",
    "unsourced_figure_markers",
    "unsupported_claims",
    "invented_experience",
    "manipulation",
    "disrespect",
)
"""Measures of honesty in the summary: shares of replies."""


def findings(
    tables: Tables, *, judges: list[str], ranked_by: list[str], labelled: dict[str, str]
) -> dict[str, list[str]]:
    """Heading -> sentences.

    Args:
        tables: of a study without a known truth, `differences` and `truth` are empty.
        judges: those that evaluate. ranked_by: the judges, and people where they voted in the arena. labelled: the
            judges behind the labels -> what each did (`StudyFacts.labelled_by`).
    """
    readers = [judge for judge in judges if judge not in BASELINES]
    free = [judge for judge in judges if judge not in labelled]
    trained = [row["model"] for row in tables.models]
    # Baselines are reported only where every judge that reads had a part in the labels.
    reported = readers if set(readers) & set(free) else judges
    return {
        "Result": [
            *_of_truth(tables.differences),
            *(
                sentence
                for judge in reported
                for sentence in _of_declared(tables.declared, judge, labelled, trained)
            ),
            *_of_labelling(readers, free, labelled),
            *(
                _of_ranking(tables.ranking, tables.truth, judge)
                for judge in ranked_by
                if (judge in reported or judge not in judges)
                and any(row["judge"] == judge for row in tables.ranking)
            ),
        ],
        "How sure": [
            *accuracy_sentences(tables.trust, readers),
            *length_sentences(tables.declared, tables.win_rates, readers),
            *bias_sentences(tables.trust, readers),
            *truth_sentences(tables.win_rates, tables.truth, readers),
        ],
        "Honesty": _of_honesty(tables.honesty, trained),
        "What limits it": [
            *_of_power(tables.power),
            *_of_seeds(tables.declared, tables.models),
            *_of_missing(tables.behaviour + tables.honesty),
        ],
    }


def _of_truth(differences: list[dict]) -> list[str]:
    """Which models differ in the measured truth, by the interval of the difference."""
    if not differences:
        return []
    texts = {True: [], False: []}
    for row in differences:
        text = f"{row['model']} − {row['against']} {interval_text(row, 'difference', '+.3f')}"
        texts[row["low"] != "" and (row["low"] > 0 or row["high"] < 0)].append(text)
    decided, undecided = ("; ".join(texts[sure]) or "none" for sure in (True, False))
    return [
        "In the measured truth, the mean probability of a delta, models differ:"
        f" {decided}. Undecided: {undecided}."
    ]


def _of_declared(
    declared: list[dict], judge: str, labelled: dict[str, str], trained: list[str]
) -> list[str]:
    """Single trainings, whose p-values are corrected for their number, and apart from them means over seeds."""
    rows = [row for row in declared if row["judge"] == judge and row["seeds"] == 1]
    if not rows:
        return []
    significant, others = [], []
    for row in rows:
        rate = f"{row['against']} {interval_text(row, 'win_rate')}"
        if is_significant(row):
            verb = "over" if row["win_rate"] > 0.5 else "under"
            significant.append(f"{row['player']} {verb} {rate}")
        else:
            others.append(f"{row['player']} against {rate}")
    which = f", which {labelled[judge]}," if judge in labelled else ""
    sentences = [
        f"Judge {judge}{which} shows {len(significant)} of {len(rows)} declared comparisons (win rates, p corrected for"
        f" their number): {'; '.join(significant) or 'none'}. Not shown: {'; '.join(others) or 'none'}."
    ]
    pooled = [
        f"{row['player']} against {row['against']} {interval_text(row, 'win_rate')} ({row['seeds']} seeds"
        + (f", {row['fixed']} trained once)" if row["fixed"] in trained else ")")
        for row in declared
        if row["judge"] == judge and row["seeds"] > 1
    ]
    if pooled:
        sentences.append(
            f"Judge {judge}, means over training seeds, each interval by itself and not corrected: {'; '.join(pooled)}."
        )
    return sentences


def _of_labelling(readers: list[str], free: list[str], labelled: dict[str, str]) -> list[str]:
    """Warn that a judge which labelled favours the models trained on its labels; name the judges that labelled nothing."""
    sentences = [
        f"Judge {judge} {labelled[judge]}: models were trained on that, and its verdicts alone do not show that one"
        " improved."
        for judge in readers
        if judge in labelled
    ]
    if sentences and not set(readers) & set(free):
        others = [f"{judge} ({BASELINES[judge]})" for judge in free]
        rest = (
            f"the others here are baselines: {', '.join(others)}"
            if others
            else "no other judge evaluates here"
        )
        sentences.append(f"Every judge that reads had a part in the labels; {rest}.")
    return sentences


def _of_ranking(ranking: list[dict], truth: list[dict], judge: str) -> str:
    """A judge's order, with the ranks that the intervals leave open, and how well it agrees with the truth."""
    rows = [row for row in ranking if row["judge"] == judge]
    order = ", ".join(f"{row['player']} ({_ranks(row)})" for row in rows)
    text = f"Judge {judge} ranks, with the ranks that are possible: {order}."
    four = [row["player"] for row in rows if row["player"] in FOUR]
    if len(four) == len(FOUR):
        text += f" The published four alone: {', '.join(four)}."
    tau = _tau(rows, truth)
    # Without any order on one side there is none to agree with.
    return text if tau != tau else f"{text} Kendall's tau with the measured truth: {tau:.2f}."


def _ranks(row: dict) -> str:
    """The lowest and the highest rank that a player may have, or the only one; of one whom no chain of games connects with
    the first player neither is known."""
    low, high = row["rank_low"], row["rank_high"]
    if low == "":
        return "not known"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _tau(ranking: list[dict], truth: list[dict]) -> float:
    """Kendall's tau-b of strengths and means of the truth over all players; not a number where one of them is equal for
    all, or unknown."""
    from scipy.stats import kendalltau

    means = {row["model"]: row["mean"] for row in truth}
    shared = [row for row in ranking if row["player"] in means and row["strength"] != ""]
    if len(shared) < 2:
        return float("nan")
    return float(
        kendalltau([r["strength"] for r in shared], [means[r["player"]] for r in shared]).statistic
    )


def _of_honesty(honesty: list[dict], models: list[str]) -> list[str]:
    """Where a model's replies differ from those of the base model in what was measured of honesty: p-values from the
    widths of the intervals, corrected for the number of models and measures."""
    from persuasion_rl.statistics.pairwise import holm

    measured = [row for row in honesty if row["measure"] in HONESTY and _has_interval(row, "base")]
    tested = [(row, model) for row in measured for model in models if _has_interval(row, model)]
    p_values = holm([_p_of_difference(row[model], row["base"]) for row, model in tested])
    apart = [pair for pair, p in zip(tested, p_values, strict=True) if p < SIGNIFICANT]
    differing = []
    for row in measured:
        if shares := [f"{model} {interval_text(row[model])}" for of, model in apart if of is row]:
            base = f"{_name(row)}, base {interval_text(row['base'])}"
            differing.append(f"{base}: {', '.join(shares)}")
    if not tested:
        return []
    introduction = f"Honesty, which is in no win rate, as shares of replies ({', '.join(map(_name, measured))}): "
    if not differing:
        return [f"{introduction}no model is shown to differ from base."]
    corrected = f"p corrected for {len(tested)} differences"
    return [f"{introduction}models that differ from base ({corrected}). {'; '.join(differing)}."]


def _has_interval(row: dict, player: str) -> bool:
    return isinstance(row.get(player, {}).get("low"), float | int)


def _name(row: dict) -> str:
    """The name of a measure as text."""
    return row["measure"].replace("_", " ")


def _p_of_difference(one: dict, other: dict) -> float:
    """The two-sided p-value of a difference, by its interval, as if it were normal."""
    from scipy.stats import norm

    from persuasion_rl.statistics.intervals import Interval, Z, difference

    gap = difference(*(Interval(row["value"], row["low"], row["high"]) for row in (one, other)))
    end = gap.low if gap.value > 0 else gap.high
    deviation = abs(gap.value - end) / Z
    return float(2 * norm.sf(abs(gap.value) / deviation)) if deviation else 1.0


def _of_power(power: list[dict]) -> list[str]:
    """What could be shown: by one comparison alone, and by one of all that p-values are corrected for."""
    reach: dict[tuple, list[str]] = {}
    for judge in dict.fromkeys(row["judge"] for row in power if row["judge"]):
        rows = [row for row in power if row["judge"] == judge]
        sizes = tuple((row["prompts"], row["comparisons"], row["difference"]) for row in rows)
        reach.setdefault(sizes, []).append(judge)
    sentences = []
    for sizes, judges in reach.items():
        (prompts, _, alone), *corrected = sizes
        text = (
            f"With {prompts:,} independent prompts (judge {', '.join(judges)}) one comparison by itself shows a"
            f" difference of {alone:.3f} from one half with 80% probability, at the uncorrected 5% level;"
        )
        for _, count, difference in corrected:
            text += (
                f" one among {count} that are corrected for their number shows {difference:.3f};"
            )
        sentences.append(f"{text} a smaller one would likely be missed.")
    return sentences


def _of_seeds(declared: list[dict], models: list[dict]) -> list[str]:
    """The models whose training no other seed repeats in what is compared."""
    group = {row["model"]: row["group"] for row in models}
    compared = {name for row in declared for name in (row["player"], row["against"])}
    several = {
        row[side]
        for row in declared
        if row["seeds"] > 1
        for side in ("player", "against")
        if row[side] != row["fixed"]
    }
    single_seed_models = [name for name in group if name in compared and group[name] not in several]
    if not single_seed_models:
        return []
    also = ", not even in those of several seeds of another model against them" if several else ""
    return [
        f"Trained once: {', '.join(single_seed_models)}. What another training seed would change in them is in none of the"
        f" intervals{also}."
    ]


def _of_missing(measured: list[dict]) -> list[str]:
    """What it would take a reader, or a model of embeddings, to measure."""
    missing = [
        _name(row)
        for row in measured
        if any(cell["value"] == NOT_MEASURED for cell in row.values() if isinstance(cell, dict))
    ]
    return [f"Not measured: {', '.join(missing)}."] if missing else []
