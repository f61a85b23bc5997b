"""What changes make stale in the small study: settings, files, people's answers, votes. Commands of the docs run too."""

import re
import shutil

import pytest
import yaml

from doc_commands import RUN_ON_A_STUDY, run_as_typed
from persuasion_rl.annotation.battles import BattleStore
from persuasion_rl.annotation.plan import Answer, Plan, pair_id
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.evaluation.arena import present_models
from persuasion_rl.files import read_jsonl, write_jsonl
from running import planned, snakemake, succeed
from small_study import run_jobs, run_module, stale, table

pytestmark = pytest.mark.slow

PEOPLE = "tests/people.yaml"


def on_the_small_study(command: str) -> str:
    """A command of the docs with this study instead of the reader's."""
    typed = re.sub(r"\b(STUDY|NAME|(cmv|demo)(-\w+)*)\b", "small", command)
    return typed.replace("MODEL", "sft")


@pytest.mark.parametrize(
    ("command", "expected"),
    sorted(
        {
            on_the_small_study(command): pattern for command, pattern in RUN_ON_A_STUDY.items()
        }.items()
    ),
)
def test_a_command_of_the_docs_does_what_is_said(command, expected, fresh):
    """Requested files are deleted first."""
    if command.startswith("snakemake "):
        for target in re.findall(r"results/\S+", command):
            (fresh / target).unlink(missing_ok=True)
        command += " --configfile tests/small.yaml"
    output = run_as_typed(command, fresh, input="We should get rid of bike lanes.\n\n")
    assert re.search(expected, output, re.M), output[-4000:]


def test_a_deleted_file_is_rebuilt_alone(fresh):
    name = "results/small/evaluation/verdicts/length.jsonl"
    before = (fresh / name).read_bytes()
    (fresh / name).unlink()
    assert stale(fresh, target=name) == {"evaluate_verdicts"}
    run_jobs(fresh, name)
    assert (fresh / name).read_bytes() == before
    assert stale(fresh) == set()  # the same bytes make nothing stale


@pytest.fixture
def people(fresh):
    """The copy as a study that waits for people. The simulated annotators' store has answers for it."""
    settings = {"extends": "small.yaml", "study": "small"}
    settings["labels"] = {"human": {"source": "people", "min_labels": 40}}
    (fresh / PEOPLE).write_text(yaml.safe_dump(settings))
    return fresh


def test_too_few_answers_stop_the_human_branch_and_nothing_else(people):
    words = ("--cores", 2, "--configfile", PEOPLE)
    run = snakemake("results/small/preferences/human_pool_labels.jsonl", *words, root=people)
    assert run.returncode == 1
    assert re.search(r"0 of \d+ pairs have a verdict and 40 are needed", run.stdout)
    assert "persuasion-rl annotate --study small" in run.stdout
    plan = planned(succeed("unattended", "-n", "--configfile", PEOPLE, root=people))
    assert plan.keys() >= {"report_study"}
    assert not plan.keys() & {"export_human_labels", "simulate_annotators", "train_dpo"}


def test_new_answers_make_exactly_the_rlhf_branch_stale(people):
    small = people / "results/small"
    store = small / "state/human_answers.sqlite"
    shutil.copy(small / "preferences/simulated_answers.sqlite", store)
    simulated = list(read_jsonl(small / "preferences/human_pool_labels.jsonl"))
    run_jobs(people, "preferences", config=PEOPLE)
    succeed("dpo", "--touch", "--configfile", PEOPLE, root=people)  # as if the models were trained
    labels = list(read_jsonl(small / "preferences/human_pool_labels.jsonl"))
    assert [row["verdict"] for row in labels] == [row["verdict"] for row in simulated]
    assert {row["labeler"] for row in labels} == {"people"}
    assert stale(people, PEOPLE, target="dpo") == set()
    agreement = "results/small/preferences/human_answers.json"
    run_jobs(people, agreement, config=PEOPLE)
    assert stale(people, PEOPLE, target=agreement) == set()
    plan = Plan(sorted({pair_id(row) for row in labels}), seed=1)
    with AnswerStore(store) as answers:
        # A skip and a repeat make no label: only the report of the agreement is stale.
        answers.add(Answer("simulated_1", plan.pairs[0], "repeat", 1, "tie"))
        answers.add(Answer("somebody", plan.pairs[0], "first", 1, "skip"))
    assert stale(people, PEOPLE, target="dpo") == set()
    assert stale(people, PEOPLE, target=agreement) == {"report_agreement"}
    with AnswerStore(store) as answers:
        undoable = [n for n, _ in answers.own_answers("simulated_1", plan) if n]
        firsts = [s for n in undoable if (s := answers.showing(n)).kind == "first"]
        assert answers.undo(firsts[-1])
    jobs = planned(succeed("dpo", "-n", "--configfile", PEOPLE, root=people))
    assert jobs.keys() == {"export_human_labels", "preference_pairs", "tokenize", "train_dpo"}
    # Four models learn from the human pool.
    assert (jobs["preference_pairs"], jobs["train_dpo"]) == (1, 4)


def test_votes_in_the_arena_make_their_ranking_and_the_report_stale(fresh):
    present = present_models({"sft": fresh / "results/small/models/sft/recipe.json"})
    models = ("sft", "base")
    with BattleStore(fresh / "results/small/state/human_answers.sqlite") as battles:
        for number in range(8):
            digests = [present[model] for model in models]
            battles.add("anna", f"Claim: {number}", models, ("Yes.", "No."), digests)
            battles.vote("anna", battles.latest("anna").number, "left" if number else "right")
    assert stale(fresh) == {"rank_arena", "report_study"}
    run_jobs(fresh, "all")
    first, second = table(fresh / "results/small/evaluation/arena.csv")
    assert (first["player"], second["player"]) == ("sft", "base")
    page = (fresh / "results/small/report.html").read_text()
    assert "Judge people (arena) ranks" in page


def why(root, target, config="tests/small.yaml"):
    """The lines of `persuasion-rl why`."""
    run = run_module("tools.cli", "why", target, "--configfile", config, root=root)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_why_names_the_setting_the_module_and_the_file_that_changed(fresh):
    model = "results/small/models/sft/adapter_model.safetensors"
    assert why(fresh, model)[0].startswith(f"{model}: nothing to do")
    settings = {"extends": "small.yaml", "study": "small"}
    settings["recipes"] = {"sft": {"learning_rate": 0.002}}
    (fresh / "tests/changed.yaml").write_text(yaml.safe_dump(settings))
    reasons = why(fresh, model, "tests/changed.yaml")
    assert reasons[:2] == ["train_sft (sft) would run:", "  learning_rate: 0.001 -> 0.002"]
    assert re.fullmatch(r"1 job; it took \d+ (s|min) when it last ran", reasons[2])
    path = fresh / "workflow/persuasion_rl/training/dpo.py"
    path.write_text(path.read_text().replace("0.5 * beta", "0.4 * beta"))
    reasons = why(fresh, "results/small/report.html")
    assert reasons[:2] == ["train_dpo (rlaif) would run:", "  code of training.dpo changed"]
    assert any(line.startswith("made again, because what they read is: ") for line in reasons)
    pairs = fresh / "results/small/preferences/human_train.jsonl"
    write_jsonl(pairs, list(read_jsonl(pairs))[:-1])
    reasons = why(fresh, "results/small/tokens/human_train.parquet")
    assert reasons[:2] == [
        "tokenize (human_train) would run:",
        "  changed: results/small/preferences/human_train.jsonl",
    ]


def test_a_model_is_previewed_alone_and_its_replies_are_those_of_the_evaluation(fresh):
    study = fresh / "results/small"
    config = fresh / "tests/few.yaml"
    few = {"extends": "small.yaml", "study": "small", "evaluation": {"num_samples": 3}}
    config.write_text(yaml.safe_dump(few))
    target = "results/small/look/rlaif.md"
    assert stale(fresh, config="tests/few.yaml", target=target) == {"preview_model"}
    run_jobs(fresh, target, config="tests/few.yaml")
    previewed = list(read_jsonl(study / "look/rlaif.jsonl"))
    assert previewed == list(read_jsonl(study / "evaluation/responses/rlaif.jsonl"))[:3]
    text = (study / "look/rlaif.md").read_text()
    assert text.count("\n## ") == 3 and f"    {previewed[2]['response'].splitlines()[0]}" in text
