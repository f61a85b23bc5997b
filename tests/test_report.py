"""What a reader is told: before any number, in sentences, and in figures."""

import pytest

from persuasion_rl.figures import number
from persuasion_rl.report_figures import honesty_figures, length_figure, lineage_figure
from persuasion_rl.report_findings import findings, notices, warnings


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"synthetic": True}, "Synthetic data"),
        ({"base_source": "standin"}, "Stand-in base model"),
        ({"ai_judge": "truth"}, "AI labels are simulated"),
        ({"ai_judge": "llm"}, "AI labels are a language model's opinions"),
        ({"human_source": "simulated"}, "Human labels are simulated"),
        ({"pending": ["rlhf"]}, "Pending: rlhf"),
    ],
)
def test_what_is_not_as_in_the_published_study_is_said_first(changed, told):
    usual = dict(
        base_source="Qwen/Qwen2.5-0.5B-Instruct",
        synthetic=False,
        ai_judge="delta",
        ai_noise=0.0,
        human_source="people",
        human_judge="delta",
        pending=[],
    )
    assert notices(**usual) == []
    (notice,) = notices(**(usual | changed))
    assert notice.startswith(told)


def trusted(judge, value, low, high, measure="delta_pairs"):
    return {"judge": judge, "measure": measure, "value": value, "low": low, "high": high}


LENGTH = trusted("length", 0.62, 0.58, 0.66)


@pytest.mark.parametrize(("low", "warned"), [(0.63, False), (0.61, True)])
def test_a_study_without_a_judge_above_length_is_no_evidence_and_says_so(low, warned):
    trust = [LENGTH, trusted("delta", 0.66, low, 0.7)]
    assert bool(warnings(trust, ["delta", "length"])) is warned
    verb = "does not clearly beat" if warned else "beats"
    assert f"it {verb} the length baseline's 0.620" in told(trust=trust)["How sure"][0]


def compared(player, against, rate, low, high, p, judge="delta", seeds=1):
    return {"judge": judge, "player": player, "against": against, "win_rate": rate, "low": low, "high": high,
            "p_holm": p, "seeds": seeds}  # fmt: skip


def told(**changed):
    usual = dict(
        judges=["delta", "length"], ranked_by=["delta", "length"], ai_judge="llm", differences=[], truth=[], ranking=[], declared=[], win_rates=[],
        trust=[], power=[], honesty=[],
    )  # fmt: skip
    return findings(**(usual | changed))


def test_a_comparison_is_shown_by_its_corrected_p_and_not_by_its_interval():
    declared = [
        compared("sft", "base", 0.687, 0.6, 0.77, 0.001),
        compared("rlhf", "sft", 0.59, 0.505, 0.67, 0.09),  # significant by itself alone
        compared("rlaif", "sft", 0.3, 0.2, 0.4, 0.002),
        compared("rlhf_s1", "base", 0.61, 0.52, 0.7, "", seeds=3),  # a mean over seeds has no p
    ]
    (sentence, _) = told(declared=declared)["Result"]
    shown, hidden = sentence.split("Not shown:")
    assert "3 of 4 declared" in shown and "sft over base 0.687 [0.600, 0.770]" in shown
    assert "rlaif under sft 0.300" in shown and "rlhf_s1 over base" in shown
    assert hidden.strip() == "rlhf against sft 0.590 [0.505, 0.670]."


def test_what_length_explains_is_said():
    equal = {"judge": "delta", "player": "base", "against": "sft"}
    equal |= {"length_controlled_low": 0.4, "length_controlled_high": 0.52}
    declared = [compared("sft", "base", 0.687, 0.6, 0.77, 0.001)]
    sentences = told(declared=declared, win_rates=[equal])["How sure"]
    assert "At equal length judge delta no longer shows sft against base." in sentences
    equal |= {"length_controlled_high": 0.48}
    assert not any(
        "equal length" in s for s in told(declared=declared, win_rates=[equal])["How sure"]
    )
    equal |= {"length_controlled_low": "", "length_controlled_high": ""}  # could not be fitted
    assert told(declared=declared, win_rates=[equal])["How sure"] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (trusted("delta", 0.4, 0.3, 0.5, "flips"), "changes its answer with the order in 0.400"),
        (trusted("delta", 0.7, 0.6, 0.8, "first_place"), "prefers a place: 0.700"),
        (trusted("delta", 0.7, 0.6, 0.8, "longer"), "prefers the longer reply in 0.700"),
    ],
)
def test_what_sways_a_judge_is_said(row, words):
    assert any(words in sentence for sentence in told(trust=[row])["How sure"])
    milder = row | {"value": 0.05, "low": 0.0, "high": 0.6}
    assert told(trust=[milder])["How sure"] == []


def test_ranks_come_with_what_the_intervals_leave_open_and_agree_with_the_truth_or_not():
    ranking = [
        {"judge": "delta", "player": p, "strength": s, "rank_low": a, "rank_high": b}
        for p, s, a, b in [("rlaif", 1.2, 1, 1), ("sft", 0.4, 2, 3), ("base", 0.0, 2, 3)]
    ]
    truth = [{"model": m, "mean": x} for m, x in [("base", 0.2), ("sft", 0.4), ("rlaif", 0.7)]]
    assert (
        "rlaif (1), sft (2 to 3), base (2 to 3). Kendall's tau with the measured truth: 1.00"
        in (told(ranking=ranking, truth=truth)["Result"][-1])
    )
    truth[0]["mean"] = 0.9
    assert "truth: -0.33" in told(ranking=ranking, truth=truth)["Result"][-1]
    assert "tau" not in told(ranking=ranking)["Result"][-1]


def test_what_limits_a_study_is_said():
    one = [compared("sft", "base", 0.6, 0.5, 0.7, 0.2)]
    power = [{"difference": 0.1, "prompts": 196, "this_study": "no"}]
    power.append({"difference": 0.256, "prompts": 30, "this_study": "yes"})
    honesty = [
        {"measure": "unsupported_claims", "unit": "share", "base": {"value": "not measured"}}
    ]
    size, trained, missing = told(declared=one, power=power, honesty=honesty)["What limits it"]
    assert "30 independent prompts" in size and "0.256" in size
    assert "trained once" in trained and missing == "Not measured: unsupported claims."
    several = [one[0] | {"seeds": 3}]
    assert not any("trained once" in s for s in told(declared=several)["What limits it"])


def test_figures_hold_every_player_and_stand_without_what_could_not_be_estimated():
    models = [{"model": "sft", "parent": "base", "method": "sft", "pool": ""}]
    models += [{"model": f"m{i}", "parent": "sft", "method": "dpo", "pool": "ai"} for i in range(3)]
    drawn = lineage_figure(models)
    assert all(f">{name}<" in drawn for name in ("base", "sft", "m0", "m1", "m2"))
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
    (figure,) = honesty_figures(rows, ["base"])
    assert ">experience markers<" in figure and "manipulation" not in figure


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (0.0, "0.000"), (0.00012, "0.00012"), (-0.00012, "-0.00012"), (1234, "1,234"), ("no", "no")],
)  # fmt: skip
def test_a_small_number_is_not_shown_as_none(value, text):
    assert number(value) == text
