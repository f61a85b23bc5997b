"""The report in sentences: what must be known before any number, what came out, how sure that is, what limits it.

Tables come as lists of rows whose numbers are numbers.
"""

HUMAN = "human"
LENGTH = "length"
SIGNIFICANT = 0.05
OFTEN = 0.1
"""A judge whose answer changes with the order more often than this is said to."""


def notices(
    base_source: str,
    synthetic: bool,
    ai_judge: str,
    ai_noise: float,
    human_source: str,
    human_judge: str,
    pending: list[str],
) -> list[str]:
    """What is simulated, scaled or pending."""
    found = []
    if synthetic:
        found.append(
            "Synthetic data: posts, replies and deltas come from a small grammar with a known delta function."
            " The numbers test this workflow; they say nothing about people."
        )
    if base_source == "standin":
        found.append(
            "Stand-in base model: a very small one, trained here on the train side only. It is not"
            f" Qwen2.5, and {'its replies are grammar' if synthetic else 'its replies are hardly English'}."
        )
    if ai_judge == "truth":
        found.append(
            f"AI labels are simulated: the demo's own delta function, {ai_noise:.0%} of its decided verdicts"
            " turned round. The judge “truth” that evaluates is the same function without that noise."
        )
    if ai_judge == "llm":
        found.append(
            "AI labels are a language model's opinions by a rubric, in both orders; their reasons are beside them in"
            " preferences/ai_pool_labels.jsonl. How far they agree with deltas and people is below."
        )
    if human_source == "simulated":
        found.append(
            f"Human labels are simulated: noisy annotators who see what the judge “{human_judge}” sees."
            " No person labelled anything."
        )
    if pending:
        found.append(
            f"Pending: {', '.join(pending)} wait for people's labels and are not in this report."
        )
    return found


def warnings(trust: list[dict], judges: list[str]) -> list[str]:
    """What takes the weight from all verdicts."""
    if any(_beats_length(trust, judge) for judge in judges):
        return []
    return [
        "No judge of this study clearly beats the length baseline on held-out delta pairs: the win rates are"
        " no evidence of persuasiveness."
    ]


def findings(
    *,
    judges: list[str],
    ranked_by: list[str],
    ai_judge: str,
    differences: list[dict],
    truth: list[dict],
    ranking: list[dict],
    declared: list[dict],
    win_rates: list[dict],
    trust: list[dict],
    power: list[dict],
    honesty: list[dict],
) -> dict[str, list[str]]:
    """Heading -> sentences. `ranked_by` are the judges, and people where they voted in the arena. `truth` and `differences` are empty where nobody knows the truth."""
    readers = [judge for judge in judges if judge != LENGTH]
    return {
        "Result": [
            *_of_truth(differences),
            *(_of_declared(declared, judge) for judge in readers),
            *(_of_ranking(ranking, truth, judge) for judge in ranked_by if judge != LENGTH),
        ],
        "How sure": [
            *_of_trust(trust, readers, ai_judge),
            *_of_length(declared, win_rates, readers),
            *_swayed(trust, readers),
        ],
        "What limits it": [*_of_power(power), *_of_seeds(declared), *_of_missing(honesty)],
    }


def _interval(row: dict, value: str = "value", form: str = ".3f") -> str:
    """A value with its interval as text."""
    return f"{row[value]:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def _of_truth(differences: list[dict]) -> list[str]:
    if not differences:
        return []
    told = {True: [], False: []}
    for row in differences:
        text = f"{row['model']} − {row['against']} {_interval(row, 'difference', '+.3f')}"
        told[row["low"] > 0 or row["high"] < 0].append(text)
    return [
        "In the measured truth, the mean probability of a delta, models differ: "
        + ("; ".join(told[True]) or "none")
        + ". Undecided: "
        + ("; ".join(told[False]) or "none")
        + "."
    ]


def _of_declared(declared: list[dict], judge: str) -> str:
    rows = [row for row in declared if row["judge"] == judge]
    told = {True: [], False: []}
    for row in rows:
        verb = "over" if row["win_rate"] > 0.5 else "under"
        shown = _is_shown(row)
        text = f"{row['player']} {verb if shown else 'against'} {row['against']} {_interval(row, 'win_rate')}"
        told[shown].append(text)
    return (
        f"Judge {judge} shows {len(told[True])} of {len(rows)} declared comparisons (win rates, corrected for their"
        f" number): {'; '.join(told[True]) or 'none'}. Not shown: {'; '.join(told[False]) or 'none'}."
    )


def _is_shown(row: dict) -> bool:
    """Whether a comparison is significant; the mean of several seeds has no p-value, but an interval."""
    if row["p_holm"] == "":
        return not row["low"] <= 0.5 <= row["high"]
    return row["p_holm"] < SIGNIFICANT


def _of_ranking(ranking: list[dict], truth: list[dict], judge: str) -> str:
    """A judge's order, with the ranks that the intervals leave open, and how well it agrees with the truth."""
    rows = [row for row in ranking if row["judge"] == judge]
    order = ", ".join(f"{row['player']} ({_ranks(row)})" for row in rows)
    text = f"Judge {judge} ranks, with the ranks that are possible: {order}."
    return text + (
        f" Kendall's tau with the measured truth: {_tau(rows, truth):.2f}." if truth else ""
    )


def _ranks(row: dict) -> str:
    low, high = row["rank_low"], row["rank_high"]
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _tau(ranking: list[dict], truth: list[dict]) -> float:
    """Kendall's tau-b of strengths and means of the truth over all players."""
    from scipy.stats import kendalltau

    means = {row["model"]: row["mean"] for row in truth}
    shared = [row for row in ranking if row["player"] in means]
    return float(
        kendalltau([r["strength"] for r in shared], [means[r["player"]] for r in shared]).statistic
    )


def _beats_length(trust: list[dict], judge: str) -> bool:
    """Whether the interval of a judge's accuracy on held-out delta pairs lies above the length baseline."""
    right = {row["judge"]: row for row in trust if row["measure"] == "delta_pairs"}
    return judge in right and right[judge]["low"] > right[LENGTH]["value"]


def _of_trust(trust: list[dict], judges: list[str], ai_judge: str) -> list[str]:
    of = {(row["judge"], row["measure"]): row for row in trust}
    found = []
    for judge in judges:
        own, length = of.get((judge, "delta_pairs")), of.get((LENGTH, "delta_pairs"))
        if not own or not length:
            continue
        verb = "beats" if _beats_length(trust, judge) else "does not clearly beat"
        text = f"Judge {judge} is right on {_interval(own)} of held-out delta pairs; it {verb} the length baseline's"
        found.append(f"{text} {length['value']:.3f}.")
    if ai_judge in judges:
        found.append(
            f"Judge {ai_judge} also made the AI labels that models were trained on: its verdicts alone do not show"
            " that a model improved."
        )
    return found


def _of_length(declared: list[dict], win_rates: list[dict], judges: list[str]) -> list[str]:
    """Declared comparisons that are shown, but not at equal length."""
    found = []
    for judge in judges:
        equal = {}
        for row in win_rates:
            ends = [row[f"length_controlled{end}"] for end in ("_low", "_high")]
            if row["judge"] == judge and "" not in ends:
                equal[row["player"], row["against"]] = equal[row["against"], row["player"]] = ends
        gone = [
            f"{row['player']} against {row['against']}"
            for row in declared
            if row["judge"] == judge and _is_shown(row)
            for low, high in [equal.get((row["player"], row["against"]), (1, 1))]
            if low <= 0.5 <= high
        ]
        if gone:
            found.append(f"At equal length judge {judge} no longer shows {'; '.join(gone)}.")
    return found


def _swayed(trust: list[dict], judges: list[str]) -> list[str]:
    """What else than the better reply moves a judge."""
    found = []
    longer = [r for r in trust if (r["judge"], r["measure"]) == (LENGTH, "delta_pairs")]
    for row in trust:
        if row["judge"] not in judges:
            continue
        if row["measure"] == "flips" and row["low"] > OFTEN:
            found.append(
                f"Judge {row['judge']} changes its answer with the order in {_interval(row)} of pairs."
            )
        if row["measure"] == "first_place" and not row["low"] <= 0.5 <= row["high"]:
            found.append(
                f"Judge {row['judge']} prefers a place: {_interval(row)} of its answers are for the first."
            )
        if row["measure"] == "longer" and row["low"] > 0.5:
            found.append(
                f"Judge {row['judge']} prefers the longer reply in {_interval(row)} of delta pairs"
                + (f"; the delta went to it in {longer[0]['value']:.3f}." if longer else ".")
            )
    return found


def _of_power(power: list[dict]) -> list[str]:
    return [
        f"With {row['prompts']:,} independent prompts this study shows a difference of {row['difference']:.3f} from one"
        " half with 80% probability; a smaller one would likely be missed."
        for row in power
        if row["this_study"] == "yes"
    ]


def _of_seeds(declared: list[dict]) -> list[str]:
    if not declared or max(row["seeds"] for row in declared) > 1:
        return []
    return [
        "Each model was trained once: what another training seed would change is in none of the intervals."
    ]


def _of_missing(honesty: list[dict]) -> list[str]:
    """What a reader would have to judge."""
    missing = [
        row["measure"].replace("_", " ")
        for row in honesty
        if any(cell["value"] == "not measured" for cell in row.values() if isinstance(cell, dict))
    ]
    return [f"Not measured: {', '.join(missing)}."] if missing else []
