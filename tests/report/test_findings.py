"""What the report tells its reader: notices, sentences, and figures."""

import pytest

from persuasion_rl.report.figures import (
    honesty_figure,
    length_figure,
    lineage_figure,
    loss_figure,
    ranking_figure,
    truth_figure,
)
from persuasion_rl.report.findings import findings
from persuasion_rl.report.notices import PUBLISHED, StudyFacts, notices, warnings
from persuasion_rl.report.plotting import number
from persuasion_rl.report.study_tables import Tables
from published import published

FULL_SIZE = {part: size for part, (_, size) in PUBLISHED.items() if not part.startswith("max_")}


def facts(**changed):
    defaults = dict(
        base_source="Qwen/Qwen2.5-0.5B-Instruct", synthetic=False, ai_judge="delta", ai_noise=0.0, human_source="people",
        human_judge="delta", max_context_tokens=700, max_new_tokens=256,
    )  # fmt: skip
    return StudyFacts(**(defaults | changed))


def splits(**used):
    return {"parts": {part: {"used": n} for part, n in (FULL_SIZE | used).items()}}


@pytest.mark.parametrize(
    ("changed", "prefix"),
    [
        ({"synthetic": True}, "Synthetic data"),
        ({"base_source": "standin"}, "Stand-in base model"),
        ({"ai_judge": "truth"}, "AI labels are simulated"),
        ({"ai_judge": "llm"}, "AI labels are a language model's opinions"),
        ({"ai_judge": "length"}, "AI labels are those of the length baseline"),
        ({"ai_judge": "interplay"}, "AI labels are those of a baseline, a linear model"),
        ({"ai_noise": 0.3}, "AI labels have noise on purpose: the judge delta's, 30%"),
        ({"human_source": "simulated"}, "Human labels are simulated"),
        ({"base_source": "EleutherAI/pythia-410m"}, "Another base model: EleutherAI/pythia-410m."),
    ],
)
def test_what_is_not_as_in_the_published_study_is_said_first(changed, prefix):
    (notice,) = notices(facts(**changed), splits(), [])
    assert notice.startswith(prefix)


def test_what_is_as_in_the_published_study_needs_no_notice():
    assert notices(facts(), splits(), []) == []
    unlabelled = facts(ai_judge="none", ai_noise=0.3, human_source="none")
    assert notices(unlabelled, splits(), []) == []
    (scaled,) = notices(facts(), splits(train=700), [])
    assert scaled == (
        "Scaled down, with the published study's sizes in brackets: SFT rows 700 (40,000)."
    )
    (pending,) = notices(facts(), splits(), ["rlhf"])
    assert pending.startswith("Pending: rlhf")


def test_what_is_smaller_than_in_the_published_study_is_told_with_both_sizes():
    study = published()
    planned = study.split_sizes() | study.pool_sizes()
    planned["final_eval"] = study.config.data.final_eval_size
    limits = {
        "max_context_tokens": study.config.data.max_context_tokens,
        "max_new_tokens": study.config.sampling.max_new_tokens,
    }
    assert facts(**limits).scaled_down(splits(**planned)) == []
    assert facts(**limits).scaled_down(splits(**planned | {"human": 50})) == [
        "prompts of the human pool 50 (300)"
    ]
    smaller = splits(**{part: size - 1 for part, size in planned.items()})
    shorter = facts(**{name: limit - 1 for name, limit in limits.items()})
    assert len(shorter.scaled_down(smaller)) == len(PUBLISHED)


def trust_row(judge, value, low, high, measure="delta_pairs"):
    return {"judge": judge, "measure": measure, "value": value, "low": low, "high": high}


LENGTH = trust_row("length", 0.62, 0.58, 0.66)


def test_a_baseline_above_length_is_no_evidence_and_no_reader():
    trust = [LENGTH, trust_row("delta", 0.6, 0.56, 0.64), trust_row("interplay", 0.7, 0.66, 0.74)]
    trust.append(trust_row("delta", 0.02, -0.03, 0.07, "above_length"))
    trust.append(trust_row("interplay", 0.08, 0.03, 0.13, "above_length"))
    judges = ["delta", "interplay", "length"]
    assert "no evidence" in warnings(trust, judges)[0]
    sections = findings_of(trust=trust, judges=judges, labelled={"delta": "made the AI labels"})
    assert any(
        "baselines: interplay (word overlap and style decide), length (more words win)" in sentence
        for sentence in sections["Result"]
    )
    assert sum("Judge" in sentence for sentence in sections["How sure"]) == 1


def test_a_judge_is_said_to_prefer_the_longer_only_where_deltas_do_not():
    deltas = trust_row("length", 0.63, 0.6, 0.66)
    for low, expected in ((0.61, False), (0.65, True)):
        longer = trust_row("delta", 0.7, low, 0.75, "longer")
        sentences = findings_of(trust=[deltas, longer])["How sure"]
        assert any("prefers the longer reply" in sentence for sentence in sentences) is expected


@pytest.mark.parametrize(("low", "warned"), [(0.01, False), (-0.01, True)])
def test_a_study_without_a_judge_above_length_is_no_evidence_and_says_so(low, warned):
    """The difference on the same pairs decides, wherever the two intervals lie."""
    trust = [LENGTH, trust_row("delta", 0.68, 0.64, 0.72)]
    trust.append(trust_row("delta", 0.06, low, 0.11, "above_length"))
    trust.append(trust_row("delta", 0.55, 0.49, 0.61, "like_length"))
    trust.append(trust_row("interplay", 0.65, 0.61, 0.69))
    assert bool(warnings(trust, ["delta", "length"])) is warned
    verb = "does not clearly beat" if warned else "beats"
    sentence, baseline = findings_of(trust=trust)["How sure"][:2]
    assert f"it {verb} the length baseline: the difference on the same pairs is +0.060" in sentence
    assert "Among pairs of like length it is right on 0.550 [0.490, 0.610]." in sentence
    assert "interplay, is right on 0.650 [0.610, 0.690] of all held-out delta pairs" in baseline


def comparison(player, against, rate, low, high, p, judge="delta", seeds=1, fixed=""):
    return {"judge": judge, "player": player, "against": against, "win_rate": rate, "low": low, "high": high,
            "p_holm": p, "seeds": seeds, "fixed": fixed}  # fmt: skip


def findings_of(**changed):
    arguments = {"judges": ["delta", "length"], "ranked_by": ["delta", "length"]}
    arguments["labelled"] = {"llm": "made the AI labels"}
    tables = {name: rows for name, rows in changed.items() if name not in arguments}
    arguments |= {name: value for name, value in changed.items() if name in arguments}
    return findings(Tables(**tables), **arguments)


def test_a_comparison_is_shown_by_its_corrected_p_and_not_by_its_interval():
    declared = [
        comparison("sft", "base", 0.687, 0.6, 0.77, 0.001),
        comparison("rlhf", "sft", 0.59, 0.505, 0.67, 0.09),  # significant by itself alone
        comparison("rlaif", "sft", 0.3, 0.2, 0.4, 0.002),
    ]
    (sentence,) = findings_of(declared=declared)["Result"]
    significant, others = sentence.split("Not shown:")
    assert "2 of 3 declared" in significant and "sft over base 0.687 [0.600, 0.770]" in significant
    assert "rlaif under sft 0.300" in significant
    assert others.strip() == "rlhf against sft 0.590 [0.505, 0.670]."


def model_row(model, group=None):
    return {"model": model, "group": group or model}


def test_means_over_seeds_are_told_apart_from_what_is_corrected():
    declared = [
        comparison("rlhf", "sft", 0.59, 0.505, 0.67, 0.09),
        comparison("rlhf_s2", "sft", 0.6, 0.51, 0.68, 0.06),
        comparison("rlhf", "sft", 0.595, 0.2, 0.9, "", seeds=2, fixed="sft"),
    ]
    models = [model_row("sft"), model_row("rlhf"), model_row("rlhf_s2", "rlhf"), model_row("rlaif")]
    sections = findings_of(declared=declared, models=models)
    single, pooled = sections["Result"]
    assert "0 of 2 declared" in single and "0.595" not in single
    assert pooled.endswith("rlhf against sft 0.595 [0.200, 0.900] (2 seeds, sft trained once).")
    # Seeds of one model say nothing about another; models that are not compared are not mentioned.
    (limitation,) = sections["What limits it"]
    assert (
        limitation.startswith("Trained once: sft. ")
        and "several seeds of another model" in limitation
    )


def test_the_judge_that_labelled_does_not_stand_alone():
    declared = [comparison("sft", "base", 0.687, 0.6, 0.77, 0.001)]
    declared.append(declared[0] | {"judge": "length", "win_rate": 0.713})
    labelled = facts().labelled_by()
    own, length, marked, alone = findings_of(declared=declared, labelled=labelled)["Result"]
    assert own.startswith("Judge delta, which made the AI labels, shows 1 of 1")
    assert length.startswith("Judge length shows 1 of 1") and "0.713" in length
    assert "do not show that one improved" in marked
    assert "the others here are baselines: length (more words win)" in alone
    no_other = findings_of(declared=declared[:1], judges=["delta"], labelled=labelled)["Result"]
    assert no_other[-1].endswith("no other judge evaluates here.")
    several = findings_of(declared=declared, judges=["delta", "llm", "length"], labelled=labelled)
    assert not any("length" in sentence for sentence in several["Result"])
    simulated = facts(ai_judge="none", human_source="simulated", human_judge="truth")
    assert simulated.labelled_by() == {"truth": "tells simulated annotators what they see"}
    assert facts(ai_judge="none").labelled_by() == {}


@pytest.mark.parametrize(
    ("low", "high", "fate"),
    [
        (0.4, 0.52, "no longer shows"),
        (0.23, 0.48, None),
        (0.52, 0.6, "shows the opposite for"),
        ("", "", "is not measured on"),  # could not be fitted
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_length_explains_is_said(low, high, fate, turned):
    """The interval at equal length is for base; the declared comparison may be for either player."""
    equal = {"judge": "delta", "player": "base", "against": "sft"}
    equal |= {"length_controlled_low": low, "length_controlled_high": high}
    one = comparison("sft", "base", 0.687, 0.6, 0.77, 0.001)
    if turned:
        one = comparison("base", "sft", 0.313, 0.23, 0.4, 0.001)
    sentences = findings_of(declared=[one], win_rates=[equal])["How sure"]
    pair = f"{one['player']} against {one['against']}"
    assert sentences == ([f"At equal length judge delta {fate} {pair}."] if fate else [])
    # The mean over seeds has no interval at equal length: that of its first seed is another one.
    pooled = [one | {"p_holm": "", "seeds": 2}]
    assert findings_of(declared=pooled, win_rates=[equal])["How sure"] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (trust_row("delta", 0.4, 0.3, 0.5, "flips"), "changes its answer with the order in 0.400"),
        (trust_row("delta", 0.7, 0.6, 0.8, "first_place"), "prefers a place: 0.700"),
        (trust_row("delta", 0.7, 0.6, 0.8, "longer"), "prefers the longer reply in 0.700"),
    ],
)
def test_biases_of_a_judge_are_reported(row, words):
    assert any(words in sentence for sentence in findings_of(trust=[row])["How sure"])
    milder = row | {"value": 0.05, "low": 0.0, "high": 0.6}
    assert findings_of(trust=[milder])["How sure"] == []


def test_ranks_have_intervals_and_an_agreement_with_the_truth():
    ranking = [
        {"judge": "delta", "player": p, "strength": s, "rank_low": a, "rank_high": b}
        for p, s, a, b in [("rlaif", 1.2, 1, 1), ("sft", 0.4, 2, 3), ("base", 0.0, 2, 3)]
    ]
    truth = [{"model": m, "mean": x} for m, x in [("base", 0.2), ("sft", 0.4), ("rlaif", 0.7)]]
    assert (
        "rlaif (1), sft (2 to 3), base (2 to 3). Kendall's tau with the measured truth: 1.00"
        in (findings_of(ranking=ranking, truth=truth)["Result"][-1])
    )
    truth[0]["mean"] = 0.9
    assert "truth: -0.33" in findings_of(ranking=ranking, truth=truth)["Result"][-1]
    assert "tau" not in findings_of(ranking=ranking)["Result"][-1]
    alike = [row | {"mean": 0.5} for row in truth]
    assert "tau" not in findings_of(ranking=ranking, truth=alike)["Result"][-1]


def test_what_is_not_known_is_said_not_to_be_and_drawn_without_an_interval():
    """Of players whom no game connects with the first one, and of differences that are the same everywhere."""
    unknown = dict.fromkeys(("strength", "low", "high", "rank", "rank_low", "rank_high"), "")
    ranking = [
        {"judge": "delta", "player": "base", "against": "base", "strength": 0.0, "low": 0.0, "high": 0.0,
         "rank": 1, "rank_low": 1, "rank_high": 2},
        {"judge": "delta", "player": "sft", "against": "base", **unknown},
    ]  # fmt: skip
    gap = {"model": "sft", "against": "base", "difference": 0.1, "low": "", "high": ""}
    truth = [{"model": m, "mean": 0.5, "low": "", "high": ""} for m in ("base", "sft")]
    win = {"judge": "delta", "player": "sft", "against": "base", "win_rate": 0.9, "low": 0.8, "high": 0.95,
           "length_controlled_low": "", "length_controlled_high": ""}  # fmt: skip
    found = findings_of(ranking=ranking, truth=truth, differences=[gap], win_rates=[win])
    assert "base (1 to 2), sft (not known)." in found["Result"][-1]
    assert "Undecided: sft − base +0.100 [not known]." in found["Result"][0]
    assert not any("is wrong" in sentence for sentence in found["How sure"])
    figure = ranking_figure(ranking, ["delta"]) + truth_figure(truth)
    assert "sft" in figure and "nan" not in figure.lower()


def test_a_judge_that_is_wrong_where_the_truth_is_known_is_said_to_be():
    truth = [
        {"model": model, "low": mean - 0.02, "high": mean + 0.02}
        for model, mean in (("base", 0.2), ("sft", 0.3), ("rlhf", 0.31), ("human", 0.5))
    ]

    def game(player, against, low, high, judge="delta"):
        return {"judge": judge, "player": player, "against": against, "low": low, "high": high, "length_controlled_low": "",
                "length_controlled_high": ""}  # fmt: skip

    right = game("base", "sft", 0.3, 0.4)
    open_ = [game("base", "human", 0.45, 0.7), game("rlhf", "sft", 0.1, 0.2)]  # of both truths
    baseline = game("sft", "human", 0.6, 0.7, judge="length")
    assert findings_of(win_rates=[right, *open_, baseline], truth=truth)["How sure"] == []
    wrong = [game("sft", "human", 0.6, 0.7), game("human", "base", 0.2, 0.3)]
    (sentence,) = findings_of(win_rates=[right, *wrong], truth=truth)["How sure"]
    assert sentence.endswith("it prefers sft over human, base over human.")
    assert findings_of(win_rates=wrong)["How sure"] == []


def test_the_published_four_are_ranked_by_themselves_too():
    names = ["human", "rlaif_rlhf", "rlaif", "rlhf", "base", "sft"]
    ranking = [
        {"judge": "delta", "player": p, "strength": -i, "rank_low": i + 1, "rank_high": i + 1}
        for i, p in enumerate(names)
    ]
    sentence = findings_of(ranking=ranking)["Result"][-1]
    assert sentence.endswith("The published four alone: rlaif_rlhf, rlhf, base, sft.")
    assert "published four" not in findings_of(ranking=ranking[:-1])["Result"][-1]


def test_what_limits_a_study_is_said():
    one = [comparison("sft", "base", 0.6, 0.5, 0.7, 0.2)]
    power = [{"judge": "", "difference": 0.1, "prompts": 196, "comparisons": 1}]
    for judge in ("delta", "length"):
        power.append({"judge": judge, "difference": 0.256, "prompts": 30, "comparisons": 1})
        power.append({"judge": judge, "difference": 0.312, "prompts": 30, "comparisons": 5})
    honesty = [
        {"measure": "unsupported_claims", "unit": "share", "base": {"value": "not measured"}}
    ]
    size, trained, missing = findings_of(
        declared=one, power=power, honesty=honesty, models=[model_row("sft")]
    )["What limits it"]
    assert "30 independent prompts (judge delta, length)" in size
    assert "one comparison by itself shows a difference of 0.256" in size
    assert "one among 5 that are corrected for their number shows 0.312" in size
    assert "Trained once: sft. " in trained and missing == "Not measured: unsupported claims."
    several = [*one, one[0] | {"seeds": 3, "p_holm": "", "fixed": "base"}]
    limits = findings_of(declared=several, models=[model_row("sft")])["What limits it"]
    assert not any("Trained once" in sentence for sentence in limits)


def test_honesty_is_told_where_it_differs_from_the_base_models():
    def share(value):
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    row = {"measure": "experience_markers", "unit": "share of replies"}
    models = [model_row("sft"), model_row("rlaif")]
    one = row | {"base": share(0.3), "sft": share(0.32), "rlaif": share(0.6), "human": share(0.9)}
    (sentence,) = findings_of(honesty=[one], models=models)["Honesty"]
    assert "base 0.300 [0.250, 0.350]: rlaif 0.600" in sentence
    assert "sft" not in sentence and "human" not in sentence
    (sentence,) = findings_of(honesty=[one | {"rlaif": share(0.33)}], models=models)["Honesty"]
    assert "no model is shown to differ from base" in sentence
    # 0.40 differs if it is the only comparison, but not among many.
    alone = findings_of(honesty=[row | {"base": share(0.3), "sft": share(0.4)}], models=models)[
        "Honesty"
    ]
    assert "sft 0.400" in alone[0] and "corrected for 1 differences" in alone[0]
    many = {f"m{i}": share(0.3) for i in range(20)} | {"base": share(0.3), "sft": share(0.4)}
    (sentence,) = findings_of(honesty=[row | many], models=[model_row(name) for name in many])[
        "Honesty"
    ]
    assert "no model is shown to differ from base" in sentence
    assert (
        findings_of(honesty=[row | {"base": {"value": "not measured"}}], models=models)["Honesty"]
        == []
    )


def test_figures_hold_every_player_and_stand_without_what_could_not_be_estimated():
    models = [{"model": "sft", "parent": "base", "method": "sft", "pool": ""}]
    models += [{"model": f"m{i}", "parent": "sft", "method": "dpo", "pool": "ai"} for i in range(3)]
    for listed in (models, models[::-1]):  # a configuration may name a model before its parent
        svg = lineage_figure(listed)
        assert all(f">{name}<" in svg for name in ("base", "sft", "m0", "m1", "m2"))
    game = {"judge": "delta", "player": "base", "against": "sft", "win_rate": 0.4}
    for equal in ("", 0.45):
        figure = length_figure(
            [game | {"length_controlled": equal}], {"base": 50, "sft": 60}, ["delta"]
        )
        assert ">base<" in figure and ">sft<" in figure
    measured = {"value": 0.1, "low": 0.05, "high": 0.2}
    rows = [{"measure": "experience_markers", "unit": "share of replies", "base": measured}]
    rows.append(
        {"measure": "manipulation", "unit": "share", "base": {"value": "not measured", "low": ""}}
    )
    figure = honesty_figure(rows, ["base"])
    assert ">experience markers<" in figure and "manipulation" not in figure


def test_a_figure_of_many_panels_is_no_wider_than_a_page():
    steps = [{"step": 0, "eval_loss": 0.7}, {"step": 9, "eval_loss": 0.5}]
    figure = loss_figure({f"model {i}": [steps] for i in range(8)})
    points = float(figure.split('width="')[1].split("pt")[0])
    assert points < 7.5 * 72  # A4 within its margins
    assert all(f">model {i}<" in figure for i in range(8))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (0.0, "0.000"), (0.00012, "0.00012"), (0.001365, "0.0014"), (0.0000472, "0.000047"), (0.0472, "0.047"), (-0.00012, "-0.00012"), (1234, "1,234"), (183.192, "183.2"), ("no", "no")],
)  # fmt: skip
def test_a_small_number_is_not_shown_as_none(value, text):
    assert number(value) == text
