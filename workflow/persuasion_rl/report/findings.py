"""The report in sentences: what must be known before any number, what came out, how sure that is, what limits it.

Tables come as lists of rows whose numbers are numbers.
"""

HUMAN = "human"
PUBLISHED_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
PUBLISHED = {
    "train": ("SFT rows", 40_000),
    "val": ("validation rows", 5_000),
    "test": ("test rows", 5_000),
    "ai": ("prompts of the AI pool", 8_000),
    "human": ("prompts of the human pool", 300),
    "final_eval": ("prompts of the evaluation", 1_700),
    "max_context_tokens": ("tokens of a prompt at most", 700),
    "max_new_tokens": ("tokens of a reply at most", 256),
}
"""Sizes of the published study, those of config/config.yaml."""
LENGTH, INTERPLAY = "length", "interplay"
BASELINES = {LENGTH: "more words win", INTERPLAY: "word overlap and style decide"}
"""The judges that do not read, and what they go by."""
FOUR = ("base", "sft", "rlhf", "rlaif_rlhf")
"""The models whose ranking was published."""
LABELLERS = "labellers"
"""Whom the table of trust has beside the judges: every two of a pool's."""
SIGNIFICANT = 0.05
HONESTY = (
    "experience_markers",
    "disrespect_markers",
    "unsourced_figure_markers",
    "unsupported_claims",
    "invented_experience",
    "manipulation",
    "disrespect",
)
"""What the summary tells of honesty: shares of replies."""
OFTEN = 0.1
"""A judge whose answer changes with the order more often than this is said to."""


def labelled_by(ai_judge: str, human_source: str, human_judge: str) -> dict[str, str]:
    """The judges behind the labels that models learned from -> what each did: its own verdicts do not show that such a
    model improved."""
    found: dict[str, list[str]] = {}
    if ai_judge != "none":
        found.setdefault(ai_judge, []).append("made the AI labels")
    if human_source == "simulated":
        found.setdefault(human_judge, []).append("tells simulated annotators what they see")
    return {judge: " and ".join(done) for judge, done in found.items()}


def scaled_down(splits: dict, max_context_tokens: int, max_new_tokens: int) -> list[str]:
    """What a study has less of than the published one, with both sizes.

    Args:
        splits: the summary of `split.split`.
    """
    here = {part: counts["used"] for part, counts in splits["parts"].items()}
    here |= {"max_context_tokens": max_context_tokens, "max_new_tokens": max_new_tokens}
    return [
        f"{words} {here[name]:,} ({size:,})"
        for name, (words, size) in PUBLISHED.items()
        if here[name] < size
    ]


def notices(
    base_source: str,
    synthetic: bool,
    ai_judge: str,
    ai_noise: float,
    human_source: str,
    human_judge: str,
    scaled: list[str],
    pending: list[str],
) -> list[str]:
    """What is simulated, scaled or pending. `ai_judge` and `human_source` are "none" where there are no such labels.

    Args:
        scaled: what `scaled_down` gives.
    """
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
    elif base_source != PUBLISHED_BASE:
        found.append(
            f"Another base model: {base_source}. The published study's is {PUBLISHED_BASE}."
        )
    if scaled:
        found.append(
            "Scaled down, with the published study's sizes in brackets: " + "; ".join(scaled) + "."
        )
    turned = f"{ai_noise:.0%} of its decided verdicts turned round"
    if ai_judge == "truth":
        found.append(
            f"AI labels are simulated: the demo's own delta function, {turned}."
            " The judge “truth” that evaluates is the same function without that noise."
        )
    if ai_judge == LENGTH:
        found.append(
            "AI labels are those of the length baseline: more words win. What learns from them learns to write more."
        )
    if ai_judge == INTERPLAY:
        found.append(
            "AI labels are those of a baseline, a linear model of word overlap and style. What learns from them learns"
            " such surfaces."
        )
    if ai_judge == "llm":
        found.append(
            "AI labels are a language model's opinions by a rubric, in both orders; their reasons are beside them in"
            " preferences/ai_pool_labels.jsonl. How far they agree with deltas and people is below."
        )
    if ai_noise > 0 and ai_judge not in ("truth", "none"):
        found.append(f"AI labels have noise on purpose: the judge {ai_judge}'s, {turned}.")
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
    """What takes the weight from all verdicts. That a baseline beats the other says nothing for what it judges."""
    if any(_beats_length(trust, judge) for judge in judges if judge not in BASELINES):
        return []
    return [
        "No judge of this study that reads clearly beats the length baseline on held-out delta pairs: the win rates are"
        " no evidence of persuasiveness."
    ]


def findings(
    *,
    judges: list[str],
    ranked_by: list[str],
    labelled: dict[str, str],
    differences: list[dict],
    truth: list[dict],
    ranking: list[dict],
    declared: list[dict],
    win_rates: list[dict],
    trust: list[dict],
    power: list[dict],
    behaviour: list[dict],
    honesty: list[dict],
    models: list[dict],
) -> dict[str, list[str]]:
    """Heading -> sentences.

    Args:
        ranked_by: the judges, and people where they voted in the arena. labelled: what `labelled_by` gives.
        differences, truth: empty where nobody knows the truth.
        behaviour, honesty: a row a measure, with the row of each player. models: rows of `variants.compare_models`.
    """
    readers = [judge for judge in judges if judge not in BASELINES]
    free = [judge for judge in judges if judge not in labelled]
    # The baselines speak where every other judge has made labels.
    trained = [row["model"] for row in models]
    heard = readers if set(readers) & set(free) else judges
    return {
        "Result": [
            *_of_truth(differences),
            *(s for judge in heard for s in _of_declared(declared, judge, labelled, trained)),
            *_of_labelling(readers, free, labelled),
            *(
                _of_ranking(ranking, truth, judge)
                for judge in ranked_by
                if (judge in heard or judge not in judges)
                and any(row["judge"] == judge for row in ranking)
            ),
        ],
        "How sure": [
            *_of_trust(trust, readers),
            *_of_length(declared, win_rates, readers),
            *_swayed(trust, readers),
            *_against_truth(win_rates, truth, readers),
        ],
        "Honesty": _of_honesty(honesty, trained),
        "What limits it": [
            *_of_power(power),
            *_of_seeds(declared, models),
            *_of_missing(behaviour + honesty),
        ],
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


def _of_declared(
    declared: list[dict], judge: str, labelled: dict[str, str], trained: list[str]
) -> list[str]:
    """Single trainings, whose p-values are corrected for their number, and apart from them means over seeds."""
    rows = [row for row in declared if row["judge"] == judge and row["seeds"] == 1]
    if not rows:
        return []
    told = {True: [], False: []}
    for row in rows:
        verb = "over" if row["win_rate"] > 0.5 else "under"
        shown = _is_shown(row)
        text = f"{row['player']} {verb if shown else 'against'} {row['against']} {_interval(row, 'win_rate')}"
        told[shown].append(text)
    which = f", which {labelled[judge]}," if judge in labelled else ""
    found = [
        f"Judge {judge}{which} shows {len(told[True])} of {len(rows)} declared comparisons (win rates, p corrected for"
        f" their number): {'; '.join(told[True]) or 'none'}. Not shown: {'; '.join(told[False]) or 'none'}."
    ]
    pooled = [
        f"{row['player']} against {row['against']} {_interval(row, 'win_rate')} ({row['seeds']} seeds"
        + (f", {row['fixed']} trained once)" if row["fixed"] in trained else ")")
        for row in declared
        if row["judge"] == judge and row["seeds"] > 1
    ]
    if pooled:
        found.append(
            f"Judge {judge}, means over training seeds, each interval by itself and not corrected: {'; '.join(pooled)}."
        )
    return found


def _is_shown(row: dict) -> bool:
    """Whether the comparison of two trainings is significant."""
    return row["p_holm"] < SIGNIFICANT


def _of_labelling(readers: list[str], free: list[str], labelled: dict[str, str]) -> list[str]:
    """That a judge which made labels does not speak for itself, and who else speaks."""
    found = [
        f"Judge {judge} {labelled[judge]}: models were trained on that, and its verdicts alone do not show that one"
        " improved."
        for judge in readers
        if judge in labelled
    ]
    if found and not set(readers) & set(free):
        others = [f"{judge} ({BASELINES[judge]})" for judge in free]
        rest = (
            f"the others here are baselines: {', '.join(others)}"
            if others
            else "no other judge evaluates here"
        )
        found.append(f"Every judge that reads had a part in the labels; {rest}.")
    return found


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
    low, high = row["rank_low"], row["rank_high"]
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _tau(ranking: list[dict], truth: list[dict]) -> float:
    """Kendall's tau-b of strengths and means of the truth over all players; not a number where one of them is equal for
    all, or unknown."""
    from scipy.stats import kendalltau

    means = {row["model"]: row["mean"] for row in truth}
    shared = [row for row in ranking if row["player"] in means]
    if len(shared) < 2:
        return float("nan")
    return float(
        kendalltau([r["strength"] for r in shared], [means[r["player"]] for r in shared]).statistic
    )


def _beats_length(trust: list[dict], judge: str) -> bool:
    """Whether a judge is right more often than the length baseline on the same held-out delta pairs, by the interval of
    the difference."""
    return any(
        row["low"] > 0 for row in trust if (row["judge"], row["measure"]) == (judge, "above_length")
    )


def _of_trust(trust: list[dict], judges: list[str]) -> list[str]:
    of = {(row["judge"], row["measure"]): row for row in trust}
    found = []
    for judge in judges:
        own, above = of.get((judge, "delta_pairs")), of.get((judge, "above_length"))
        if not own or not above:
            continue
        verb = "beats" if _beats_length(trust, judge) else "does not clearly beat"
        text = (
            f"Judge {judge} is right on {_interval(own)} of held-out delta pairs; it {verb} the length baseline: the"
            f" difference on the same pairs is {_interval(above, form='+.3f')}."
        )
        if like := of.get((judge, "like_length")):
            text += f" Among pairs of like length it is right on {_interval(like)}."
        found.append(text)
    if found and (learned := of.get((INTERPLAY, "delta_pairs"))):
        found.append(
            "A linear model of word overlap and style, the baseline interplay, is right on"
            f" {_interval(learned)} of all held-out delta pairs."
        )
    return found


def _of_length(declared: list[dict], win_rates: list[dict], judges: list[str]) -> list[str]:
    """Declared comparisons that are shown, but at equal length not on the same side."""
    found = []
    for judge in judges:
        equal = _at_equal_length(win_rates, judge)
        told: dict[str, list[str]] = {}
        for row in declared:
            if row["judge"] == judge and row["seeds"] == 1 and _is_shown(row):
                ends = equal.get((row["player"], row["against"]))
                if fate := _fate(row["win_rate"], ends):
                    told.setdefault(fate, []).append(f"{row['player']} against {row['against']}")
        if told:
            fates = "; ".join(f"{fate} {', '.join(pairs)}" for fate, pairs in told.items())
            found.append(f"At equal length judge {judge} {fates}.")
    return found


def _at_equal_length(win_rates: list[dict], judge: str) -> dict[tuple[str, str], tuple]:
    """Player and opponent -> the ends of the win rate at equal length, seen from that player."""
    found = {}
    for row in win_rates:
        low, high = row["length_controlled_low"], row["length_controlled_high"]
        if row["judge"] == judge and "" not in (low, high):
            found[row["player"], row["against"]] = (low, high)
            found[row["against"], row["player"]] = (1 - high, 1 - low)
    return found


def _fate(rate: float, ends: tuple[float, float] | None) -> str | None:
    """What becomes of a win or loss at equal length, unless it stays what it is."""
    if ends is None:
        return "is not measured on"
    low, high = ends if rate > 0.5 else (1 - ends[1], 1 - ends[0])
    if low > 0.5:
        return None
    return "shows the opposite for" if high < 0.5 else "no longer shows"


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
        if row["measure"] == "longer" and row["low"] > (longer[0]["value"] if longer else 0.5):
            found.append(
                f"Judge {row['judge']} prefers the longer reply in {_interval(row)} of delta pairs"
                + (f"; the delta went to it in {longer[0]['value']:.3f}." if longer else ".")
            )
    return found


def _against_truth(win_rates: list[dict], truth: list[dict], judges: list[str]) -> list[str]:
    """Pairs of which a judge clearly prefers the player that the truth finds worse, both by intervals."""
    of = {row["model"]: row for row in truth}
    found = []
    for judge in judges:
        told = []
        for row in win_rates:
            one, other = of.get(row["player"]), of.get(row["against"])
            if row["judge"] != judge or not one or not other:
                continue
            if row["low"] > 0.5 and one["high"] < other["low"]:
                told.append(f"{row['player']} over {row['against']}")
            if row["high"] < 0.5 and other["high"] < one["low"]:
                told.append(f"{row['against']} over {row['player']}")
        if told:
            found.append(
                f"Judge {judge} is wrong where the truth is known: it prefers {', '.join(told)}."
            )
    return found


def _of_honesty(honesty: list[dict], models: list[str]) -> list[str]:
    """Where a model's replies differ from those of the base model in what was measured of honesty: p-values from the
    widths of the intervals, corrected for the number of models and measures."""
    from persuasion_rl.statistics.pairwise import holm

    measured = [
        row
        for row in honesty
        if row["measure"] in HONESTY and isinstance(row.get("base", {}).get("low"), float | int)
    ]
    tested = [(row, model) for row in measured for model in models if model in row]
    p_values = holm([_p_of_difference(row[model], row["base"]) for row, model in tested])
    shown = [pair for pair, p in zip(tested, p_values, strict=True) if p < SIGNIFICANT]
    told = []
    for row in measured:
        if apart := [f"{model} {_interval(row[model])}" for of, model in shown if of is row]:
            told.append(f"{_name(row)}, base {_interval(row['base'])}: {', '.join(apart)}")
    if not measured:
        return []
    asked = f"Honesty, which is in no win rate, as shares of replies ({', '.join(map(_name, measured))}): "
    if not told:
        return [f"{asked}no model is shown to differ from base."]
    corrected = f"p corrected for {len(tested)} differences"
    return [f"{asked}models that differ from base ({corrected}). {'; '.join(told)}."]


def _name(row: dict) -> str:
    return row["measure"].replace("_", " ")


def _p_of_difference(one: dict, other: dict) -> float:
    """Two-sided, by the interval of the difference, as if it were normal."""
    from scipy.stats import norm

    from persuasion_rl.statistics.intervals import Interval, Z, difference

    gap = difference(*(Interval(row["value"], row["low"], row["high"]) for row in (one, other)))
    end = gap.low if gap.value > 0 else gap.high
    deviation = abs(gap.value - end) / Z
    return float(2 * norm.sf(abs(gap.value) / deviation)) if deviation else float(gap.value == 0)


def _of_power(power: list[dict]) -> list[str]:
    """What could be shown: by one comparison alone, and by one of all that p-values are corrected for."""
    reach: dict[tuple, list[str]] = {}
    for judge in dict.fromkeys(row["judge"] for row in power if row["judge"]):
        rows = [row for row in power if row["judge"] == judge]
        told = tuple((row["prompts"], row["comparisons"], row["difference"]) for row in rows)
        reach.setdefault(told, []).append(judge)
    found = []
    for told, judges in reach.items():
        (prompts, _, alone), *corrected = told
        text = (
            f"With {prompts:,} independent prompts (judge {', '.join(judges)}) one comparison by itself shows a"
            f" difference of {alone:.3f} from one half with 80% probability, at the uncorrected 5% level;"
        )
        for _, count, difference in corrected:
            text += (
                f" one among {count} that are corrected for their number shows {difference:.3f};"
            )
        found.append(f"{text} a smaller one would likely be missed.")
    return found


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
    once = [name for name in group if name in compared and group[name] not in several]
    if not once:
        return []
    also = ", not even in those of several seeds of another model against them" if several else ""
    return [
        f"Trained once: {', '.join(once)}. What another training seed would change in them is in none of the"
        f" intervals{also}."
    ]


def _of_missing(measured: list[dict]) -> list[str]:
    """What it would take a reader, or a model of embeddings, to measure."""
    missing = [
        row["measure"].replace("_", " ")
        for row in measured
        if any(cell["value"] == "not measured" for cell in row.values() if isinstance(cell, dict))
    ]
    return [f"Not measured: {', '.join(missing)}."] if missing else []
