"""Labels by a judge: they keep their row, noise flips its share, failures are counted out by name."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.judges.base import Judgment
from persuasion_rl.preferences import label_ai as labels
from persuasion_rl.preferences.label_ai import label_ai
from response_pairs import (
    BAD,
    FAIR,
    GOOD,
    SETTINGS,
    Scripted,
    many,
    row,
)
from running import copy_project, planned, succeed


@pytest.fixture
def label_rows(tmp_path):
    """A function that labels rows with label_ai, and returns the labels."""

    def run(rows, settings=SETTINGS, **arguments):
        write_jsonl(tmp_path / "responses.jsonl", rows)
        arguments = dict(judge="truth", noise=0.0) | arguments
        counts = label_ai(
            responses=tmp_path / "responses.jsonl",
            labels=tmp_path / "labels.jsonl",
            settings=settings,
            **arguments,
        )
        labels = list(read_jsonl(tmp_path / "labels.jsonl"))
        assert counts == Counter(label["verdict"] for label in labels)
        return labels

    return run


def test_ai_labels_keep_the_row_and_show_both_orders(label_rows):
    rows = [row(1, GOOD, BAD), row(2, BAD, FAIR), row(3, FAIR, FAIR)]
    labels = label_rows(rows)
    assert [label["verdict"] for label in labels] == ["1", "2", "tie"]
    for label, pair in zip(labels, rows, strict=True):
        assert pair.items() <= label.items()
        assert label["labeler"] == "truth"
        assert [vote["order"] for vote in label["votes"]] == ["12", "21"]
        assert {vote["verdict"] for vote in label["votes"]} == {label["verdict"]}


def test_what_could_not_be_judged_is_counted_out_by_name_and_reasons_are_kept(
    tmp_path, monkeypatch
):
    first = [Judgment("1", "r1"), Judgment(None, failure="timeout"), Judgment("none", "r2")]
    judge = Scripted(*first, Judgment("2"), Judgment("1"), Judgment("none"))
    monkeypatch.setattr(labels, "make_judge", lambda *_, **__: judge)
    rows = [row(1, GOOD, BAD), row(2, BAD, FAIR), row(3, FAIR, FAIR)]
    write_jsonl(tmp_path / "responses.jsonl", rows)
    counts = label_ai(
        responses=tmp_path / "responses.jsonl",
        labels=tmp_path / "labels.jsonl",
        judge="scripted",
        noise=0.5,
        settings=SETTINGS,
    )
    assert counts["timeout"] == counts["none"] == 1 and sum(counts.values()) == 3
    first, second, third = read_jsonl(tmp_path / "labels.jsonl")
    assert [vote.get("reason") for vote in first["votes"]] == ["r1", None]
    assert second == {"excluded": "timeout", "metadata": rows[1]["metadata"]}
    assert third["verdict"] == "none"


def test_the_length_judge_labels_too(label_rows):
    assert [label["verdict"] for label in label_rows([row(1, BAD, GOOD)], judge="length")] == ["2"]


def test_noise_flips_its_share_of_decided_verdicts_and_no_tie(label_rows):
    rows = many(1500)
    exact, noisy = label_rows(rows), label_rows(rows, noise=0.2)
    changes = Counter((a["verdict"], b["verdict"]) for a, b in zip(exact, noisy, strict=True))
    decided = sum(count for (before, _), count in changes.items() if before != "tie")
    flipped = changes["1", "2"] + changes["2", "1"]
    assert decided > 800 and 0.16 < flipped / decided < 0.24
    assert all((before == "tie") == (after == "tie") for before, after in changes)
    assert "20%" in noisy[0]["labeler"]


def test_noise_is_a_function_of_seed_and_prompt_and_not_of_the_order(label_rows):
    rows = many(200)

    def verdicts(pairs, **settings):
        return {
            label["metadata"]["prompt_id"]: label["verdict"]
            for label in label_rows(pairs, noise=0.3, **settings)
        }

    assert verdicts(rows) == verdicts(rows[::-1])
    assert verdicts(rows) != verdicts(rows, settings=replace(SETTINGS, seed=2))


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
        "judges/llm/asking",
        "judges/llm/openai",
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


def test_labelling_is_a_command(tmp_path, command_line):
    write_jsonl(tmp_path / "responses.jsonl", [row(1, GOOD, BAD)])
    run = command_line(
        "preferences.label_ai", "--responses", tmp_path / "responses.jsonl", "--labels", tmp_path / "labels.jsonl",
        "--judge", "truth", "--noise", 0, "--seed", 1, "--threads", 1,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [label["verdict"] for label in read_jsonl(tmp_path / "labels.jsonl")] == ["1"]
