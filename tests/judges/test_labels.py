"""Judges and their labels: both orders are asked, ties stay ties."""

import json
from collections import Counter

import pytest

from csv_files import read_csv
from persuasion_rl.data.synthetic.grammar import truth
from persuasion_rl.evaluation import verdicts as stage_of_verdicts
from persuasion_rl.evaluation.tables import evaluate_win_rates
from persuasion_rl.evaluation.verdicts import evaluate_verdicts
from persuasion_rl.files import UserError, read_jsonl, write_jsonl
from persuasion_rl.judges.base import Comparison, Judge, Opinion, ScoringJudge, judge_both_orders
from persuasion_rl.judges.length import LengthJudge
from persuasion_rl.judges.make import make_judge
from persuasion_rl.judges.truth import TruthJudge
from persuasion_rl.preferences import label_ai as labels
from persuasion_rl.preferences.label_ai import label_ai
from running import copy_project, planned, succeed

POST = "Poster: I grew up in Oslo, where everyone thinks so. Every year more money goes into bike lanes."
GOOD = "As for money, bike lanes replace services that cost more."
FAIR = "We do not close a bakery because one loaf was burnt."
BAD = "Only a fool could believe this."


def row(number: int, first: str, second: str) -> dict:
    metadata = {"prompt_id": f"p{number}", "conversation_id": f"c{number}"}
    return {"prompt": POST, "response_1": first, "response_2": second, "metadata": metadata}


def many(count: int) -> list[dict]:
    texts = (GOOD, FAIR, BAD, f"{GOOD} {BAD}", f"{GOOD} {FAIR}")
    return [row(i, texts[i % 5], texts[(i // 5) % 5]) for i in range(count)]


@pytest.fixture
def label(tmp_path):
    """A function that labels rows with label_ai, and returns the labels."""

    def run(rows, **settings):
        write_jsonl(tmp_path / "responses.jsonl", rows)
        given = dict(judge="truth", noise=0.0, seed=1, threads=1) | settings
        counts = label_ai(
            responses=tmp_path / "responses.jsonl", labels=tmp_path / "labels.jsonl", **given
        )
        labels = list(read_jsonl(tmp_path / "labels.jsonl"))
        assert counts == Counter(found["verdict"] for found in labels)
        return labels

    return run


class PrefersTheFirst(ScoringJudge):
    """A judge with nothing but a position bias."""

    name = "biased"

    def prefer(self, comparisons):
        return [0.5 for _ in comparisons]


class LeansToTheFirst(ScoringJudge):
    """A judge of the number of words who also has some position bias."""

    name = "leaning"

    def prefer(self, comparisons):
        return [len(c.first.split()) - len(c.second.split()) + 2 for c in comparisons]


class Scripted(Judge):
    """A judge that says what it is told to."""

    name = "scripted"

    def __init__(self, *said: Opinion):
        self.said = list(said)

    def opinions(self, comparisons):
        assert len(comparisons) == len(self.said)
        return self.said


def asked(judge, *pairs):
    """The verdicts of pairs of responses, and the answers that they come from."""
    judged = judge_both_orders(judge, [Comparison("p", *pair) for pair in pairs])
    return [(verdict, [o.verdict for o in opinions]) for verdict, opinions in judged]


def test_a_verdict_that_flips_with_the_order_is_a_tie():
    assert asked(PrefersTheFirst(), ("a", "b")) == [("tie", ["1", "2"])]
    assert asked(LeansToTheFirst(), ("a b c d", "a"), ("a", "a b c d"), ("a b", "a")) == [
        ("1", ["1", "1"]),
        ("2", ["2", "2"]),
        ("tie", ["1", "2"]),
    ]


@pytest.mark.parametrize(
    ("forward", "backward", "verdict", "failure"),
    [
        (Opinion("1", "it answers"), Opinion("2", "so it does"), "1", None),
        (Opinion("tie"), Opinion("1"), "tie", None),
        (Opinion("none"), Opinion("1"), "none", None),
        (Opinion("tie"), Opinion("none"), "none", None),
        (Opinion("1"), Opinion(None, failure="timeout"), None, "timeout"),
        (Opinion(None, failure="refused"), Opinion("none"), None, "refused"),
    ],
)
def test_an_abstention_or_a_failure_in_either_order_leaves_no_decision(
    forward, backward, verdict, failure
):
    (judged,) = judge_both_orders(Scripted(forward, backward), [Comparison("p", "a", "b")])
    assert (judged.verdict, judged.failure) == (verdict, failure)
    assert [o.reason for o in judged.opinions] == [forward.reason, backward.reason]


def test_the_truth_judge_tells_the_difference_of_the_probabilities():
    comparison = Comparison(POST, GOOD, BAD)
    (preference,) = TruthJudge().prefer([comparison])
    assert preference == pytest.approx(truth(POST, GOOD) - truth(POST, BAD))
    assert preference > 0.2
    assert TruthJudge().prefer([comparison.swapped()]) == [-preference]


@pytest.mark.parametrize(
    "first, second, verdict",
    [(GOOD, BAD, "1"), (BAD, GOOD, "2"), (GOOD, GOOD, "tie"), (BAD, f"{BAD} {BAD}", "tie")],
)
def test_the_truth_judge_decides_and_knows_ties(first, second, verdict):
    assert judge_both_orders(TruthJudge(), [Comparison(POST, first, second)])[0][0] == verdict


@pytest.mark.parametrize(
    "first, second, verdict",
    [
        ("a b c", "a", "1"),
        ("a", "b c", "2"),
        ("a b", "longer words", "tie"),
        ("", "", "tie"),
        ("", "a", "2"),
    ],
)
def test_the_length_judge_counts_words(first, second, verdict):
    assert judge_both_orders(LengthJudge(), [Comparison(POST, first, second)])[0][0] == verdict


def test_preferences_are_within_their_bounds():
    comparisons = [Comparison(r["prompt"], r["response_1"], r["response_2"]) for r in many(25)]
    for judge in (TruthJudge(), LengthJudge()):
        assert all(-1 <= preference <= 1 for preference in judge.prefer(comparisons))


def test_an_unknown_judge_is_named():
    known = "truth, delta, length, interplay and llm"
    with pytest.raises(UserError, match=f"unknown judge 'gpt'; there are {known}"):
        make_judge("gpt")
    with pytest.raises(UserError, match="needs --base and --delta_adapter"):
        make_judge("delta")
    with pytest.raises(UserError, match="needs --delta_pairs and --sides"):
        make_judge("interplay")


def test_ai_labels_keep_the_row_and_show_both_orders(label):
    rows = [row(1, GOOD, BAD), row(2, BAD, FAIR), row(3, FAIR, FAIR)]
    labels = label(rows)
    assert [found["verdict"] for found in labels] == ["1", "2", "tie"]
    for found, given in zip(labels, rows, strict=True):
        assert given.items() <= found.items()
        assert found["labeler"] == "truth"
        assert [vote["order"] for vote in found["votes"]] == ["12", "21"]
        assert {vote["verdict"] for vote in found["votes"]} == {found["verdict"]}


def test_what_could_not_be_judged_is_counted_out_by_name_and_reasons_are_kept(
    tmp_path, monkeypatch
):
    said = [Opinion("1", "r1"), Opinion(None, failure="timeout"), Opinion("none", "r2")]
    judge = Scripted(*said, Opinion("2"), Opinion("1"), Opinion("none"))
    monkeypatch.setattr(labels, "make_judge", lambda *_, **__: judge)
    rows = [row(1, GOOD, BAD), row(2, BAD, FAIR), row(3, FAIR, FAIR)]
    write_jsonl(tmp_path / "responses.jsonl", rows)
    counts = label_ai(
        responses=tmp_path / "responses.jsonl",
        labels=tmp_path / "labels.jsonl",
        judge="scripted",
        noise=0.5,
        seed=1,
        threads=1,
    )
    assert counts["timeout"] == counts["none"] == 1 and sum(counts.values()) == 3
    first, second, third = read_jsonl(tmp_path / "labels.jsonl")
    assert [vote.get("reason") for vote in first["votes"]] == ["r1", None]
    assert second == {"excluded": "timeout", "metadata": rows[1]["metadata"]}
    assert third["verdict"] == "none"


def test_what_could_not_be_judged_is_in_no_win_rate_but_counted(tmp_path, monkeypatch):
    said = [Opinion("1"), Opinion(None, failure="refused"), Opinion("none"), Opinion("tie")]
    judge = Scripted(*said, *[Opinion("2"), Opinion("2"), Opinion("1"), Opinion("tie")])
    monkeypatch.setattr(stage_of_verdicts, "make_judge", lambda *_, **__: judge)
    players = {}
    for name in ("base", "sft"):
        players[name] = tmp_path / f"{name}.jsonl"
        replies = [{**row(i, "", ""), "response": f"{name} {i}"} for i in range(4)]
        for reply in replies:
            reply["metadata"]["tokens"] = 5
        write_jsonl(players[name], replies)
    verdicts = tmp_path / "verdicts.jsonl"
    evaluate_verdicts(responses=players, judge="scripted", verdicts=verdicts, seed=1, threads=1)
    assert [r.get("excluded") for r in read_jsonl(verdicts)] == [None, "refused", None, None]
    evaluate_win_rates(
        verdicts={"scripted": verdicts}, responses=players, output=tmp_path / "rates.csv",
        draws=100, seed=1,
    )  # fmt: skip
    (rate,) = read_csv(tmp_path / "rates.csv")
    counts = [rate[name] for name in ("wins", "losses", "ties", "undecided")]
    assert counts == ["1", "0", "1", "2"] and rate["win_rate"] == "0.75"


def test_the_length_judge_labels_too(label):
    assert [found["verdict"] for found in label([row(1, BAD, GOOD)], judge="length")] == ["2"]


def test_noise_turns_its_share_of_decided_verdicts_round_and_no_tie(label):
    rows = many(1500)
    exact, noisy = label(rows), label(rows, noise=0.2)
    changes = Counter((a["verdict"], b["verdict"]) for a, b in zip(exact, noisy, strict=True))
    decided = sum(count for (before, _), count in changes.items() if before != "tie")
    turned = changes["1", "2"] + changes["2", "1"]
    assert decided > 800 and 0.16 < turned / decided < 0.24
    assert all((before == "tie") == (after == "tie") for before, after in changes)
    assert "20%" in noisy[0]["labeler"]


def test_noise_is_a_function_of_seed_and_prompt_and_not_of_the_order(label):
    rows = many(200)

    def verdicts(given, **settings):
        return {
            f["metadata"]["prompt_id"]: f["verdict"] for f in label(given, noise=0.3, **settings)
        }

    assert verdicts(rows) == verdicts(rows[::-1])
    assert verdicts(rows) != verdicts(rows, seed=2)


def test_only_the_code_of_the_judge_that_labels_makes_labels_stale(tmp_path):
    root = copy_project(tmp_path)
    folder = root / "results/coded/preferences"
    write_jsonl(folder / "ai_pool_responses.jsonl", [row(1, "a b c", "a")])
    study = {"extends": "demo.yaml", "study": "coded", "labels": {"ai": {"judge": "length"}}}
    (root / "config/coded.yaml").write_text(json.dumps(study))
    words = [
        f"{folder.relative_to(root)}/ai_pool_labels.jsonl",
        "--configfile",
        "config/coded.yaml",
    ]
    words += ["--cores", 1, "--allowed-rules", "label_ai"]
    succeed(*words, root=root)
    package = root / "workflow/persuasion_rl"
    for module in (
        "judges/llm/judge",
        "judges/llm/provider",
        "judges/llm/cache",
        "runtime/keys",
        "training/reward",
        "judges/interplay",
        "data/synthetic/grammar",
    ):
        with (package / f"{module}.py").open("a") as code:
            code.write("\n\nCHANGED = 1\n")
    assert "Nothing to be done" in succeed(*words, "-n", root=root)
    with (package / "judges/base.py").open("a") as code:
        code.write("\n\nCHANGED = 1\n")
    assert planned(succeed(*words, "-n", root=root)) == {"label_ai": 1}


def test_the_labels_module_is_a_command(tmp_path, command_line):
    write_jsonl(tmp_path / "responses.jsonl", [row(1, GOOD, BAD)])
    run = command_line(
        "preferences.label_ai", "--responses", tmp_path / "responses.jsonl", "--labels", tmp_path / "labels.jsonl",
        "--judge", "truth", "--noise", 0, "--seed", 1, "--threads", 1,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [found["verdict"] for found in read_jsonl(tmp_path / "labels.jsonl")] == ["1"]
