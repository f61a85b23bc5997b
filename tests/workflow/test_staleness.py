"""The jobs that a change makes stale, by rule and number.

Snakemake compares its records of each file with the current state, whatever the file contains. So the study here has
files and records without a training (`--touch`). test_study.py has a study that ran.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import yaml

from persuasion_rl.files import read_json
from persuasion_rl.runtime.machine import cores
from published import write_model_folder
from running import ROOT, copy_project, finished_study, planned, succeed
from tokenizer_kinds import LLAMA_3, write_base

CONFIG = "tests/small.yaml"
STUDY = "results/small"
PUBLISHED = "config/config.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout with an up-to-date study. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "checkout"
    root = finished_study(folder, CONFIG, "all", "explore_data")
    # The shards were gathered and deleted. "setting of sampling" below checks that their settings still count.
    assert not (root / STUDY / "preferences/shards").exists()
    return root


@pytest.fixture(scope="module")
def without_world(tmp_path_factory):
    """A checkout with the published study, up to date, which has no synthetic world."""
    return finished_study(tmp_path_factory.mktemp("published") / "checkout", PUBLISHED, "all")


@pytest.fixture
def checkout(finished, tmp_path):
    """A copy of the checkout, which a test may change."""
    subprocess.run(["cp", "-a", finished, tmp_path / "checkout"], check=True)
    return tmp_path / "checkout"


def stale(root, *words, target="all", config=CONFIG):
    output = succeed(target, "-n", "--configfile", config, *words, root=root)
    return planned(output) if "Job stats:" in output else {}


def replace_text(name: str, old: str, new: str):
    """A change of a text in a file of workflow/rules/ or of the package."""

    def change(root: Path) -> None:
        path = root / "workflow" / (name if name.startswith("rules/") else f"persuasion_rl/{name}")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def edit_modules(*patterns: str):
    """A change of the code of the modules that match patterns in the package."""

    def change(root: Path) -> None:
        modules = [
            path for pattern in patterns for path in (root / "workflow/persuasion_rl").glob(pattern)
        ]
        assert len(modules) >= len(patterns)
        for path in modules:
            path.write_text(path.read_text() + '\nEDITED = "another value"\n')

    return change


def append_to(name: str):
    """A change of the content of a file of the study."""

    def change(root: Path) -> None:
        with (root / STUDY / name).open("a") as file:
            file.write("{}\n")

    return change


def change_settings(**changed):
    """A change of the study's settings."""

    def change(root: Path) -> None:
        (root / CONFIG).with_name("former.yaml").write_text((root / CONFIG).read_text())
        (root / CONFIG).write_text(
            yaml.safe_dump({"extends": "former.yaml", "study": "small"} | changed)
        )

    return change


def touch(name: str):
    return lambda root: (root / STUDY / name).touch()


def delete(name: str):
    return lambda root: (root / STUDY / name).unlink()


def reverse_settings(root: Path) -> None:
    """Reverse the settings at every level except that of the models, whose order tables keep."""

    def reordered(value):
        if not isinstance(value, dict):
            return value
        return {
            key: value[key] if key == "models" else reordered(value[key]) for key in reversed(value)
        }

    path = root / "config/demo.yaml"
    path.write_text(yaml.safe_dump(reordered(yaml.safe_load(path.read_text())), sort_keys=False))


def change_environment(root: Path) -> None:
    """Only `--sdm conda` would notice it; this is not tested without conda."""
    with (root / "envs/persuasion-rl.yaml").open("a") as file:
        file.write("      - another-package\n")


def randomise_times(root: Path) -> None:
    """Give every file, sources too, a random time."""
    random = Random(1)
    for path in sorted(root.rglob("*")):
        if ".snakemake" not in path.parts and not path.is_symlink():
            when = 1_700_000_000 + random.randrange(10_000_000)
            os.utime(path, (when, when))


def no_change(root: Path) -> None:
    pass


MODEL = {"parent": "sft", "method": "dpo", "pool": "human", "recipe": {"beta": 0.3}}
PLAYERS = ["base", "base_length", "sft", "rlaif", "rlhf", "rlaif_rlhf", "human"]

# The rules that read replies -> their numbers of jobs.
COMPARED = {
    "evaluate_verdicts": 3, "evaluate_win_rates": 1, "evaluate_ranking": 1, "evaluate_truth": 1, "evaluate_behaviour": 1,
    "evaluate_honesty": 1, "keep_equally_honest": 3, "evaluate_equal_honesty": 1, "report_study": 1,
}  # fmt: skip
TRAINED_BY_DPO = COMPARED | {
    "train_dpo": 5, "compare_models": 1, "evaluate_model": 3, "evaluate_kl": 3, "evaluate_loss": 3, "write_model_card": 6,
}  # fmt: skip
OTHER_SAMPLES = TRAINED_BY_DPO | {
    "generate_responses": 2, "gather_responses": 2, "label_ai": 1, "simulate_annotators": 1, "export_human_labels": 1,
    "report_agreement": 1, "preference_pairs": 2, "tokenize": 4, "judge_trust": 1,
}  # fmt: skip
OTHER_SFT = OTHER_SAMPLES | {"train_sft": 1, "evaluate_model": 4, "evaluate_loss": 4}
OTHER_DATA = OTHER_SFT | {
    "assign_sides": 1, "process_cmv": 1, "split": 1, "check_leakage": 1, "report_data": 1, "pretrain_standin": 1,
    "train_delta_judge": 1, "quote_human": 1, "render_prompts": 1, "tokenize": 7, "evaluate_model": 6, "evaluate_loss": 5,
}  # fmt: skip
OTHER_DEVICE = OTHER_SFT | {"train_delta_judge": 1, "evaluate_model": 6, "evaluate_loss": 5}
OTHER_BASE = {
    rule: jobs
    for rule, jobs in OTHER_DATA.items()
    if rule not in ("assign_sides", "pretrain_standin")
}
RECORD = {"record_config": 1}
ONE_MODEL = {"train_dpo": 1, "compare_models": 1, "write_model_card": 1, "report_study": 1}
HUMAN_BRANCH = {"train_dpo": 4, "evaluate_model": 2, "evaluate_kl": 2, "evaluate_loss": 2}
ONE_PLAYER = {"train_dpo": 1, "evaluate_model": 1, "evaluate_kl": 1, "evaluate_loss": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(change, expected, id=name)
        for name, change, expected in [
            ("nothing", no_change, {}),
            ("touched file", touch("splits/sides.csv"), {}),
            ("fresh checkout", randomise_times, {}),
            (
                "reworded docstring",
                replace_text("training/dpo.py", "Preference pairs as trl's collator takes them", "Pairs, in the form of trl's collator"),
                {},
            ),
            ("reworded comment", replace_text("training/dpo.py", "# bf16 and fp16", "# 16 bits"), {}),
            ("keys in another order", reverse_settings, {}),
            ("deleted file between others", delete("preferences/ai_train.jsonl"), {}),
            ("environment file", change_environment, {}),
            ("message of a stage's end", edit_modules("runtime/command.py"), {}),
            ("message about waiting", edit_modules("runtime/leases.py"), {}),
            ("time-out of W&B", edit_modules("runtime/tracking.py"), {}),
            ("message about the configuration", edit_modules("study/config.py"), {}),
            ("W&B mode", change_settings(wandb={"mode": "offline"}), RECORD),
            ("batch size of sampling", change_settings(sampling={"batch_size": 16}), RECORD),
            ("retries of downloads", change_settings(downloads={"retries": 9}), RECORD),
            ("world", change_settings(world={"threads": 1600}), OTHER_DATA | RECORD | {"synthesize_corpus": 1}),
            ("setting of SFT", change_settings(recipes={"sft": {"learning_rate": 0.002}}), OTHER_SFT | RECORD),
            ("setting of sampling", change_settings(sampling={"temperature": 0.5}),
             OTHER_SAMPLES | RECORD | {"evaluate_model": 6}),
            ("setting of DPO", change_settings(recipes={"dpo": {"beta": 0.2}}), TRAINED_BY_DPO | RECORD | {"train_dpo": 4}),  # one has its own
            ("threads of trainings", change_settings(threads=2), OTHER_SFT | {"train_delta_judge": 1} | RECORD),
            ("two values swapped", change_settings(sampling={"temperature": 0.9, "top_p": 0.7}),
             OTHER_SAMPLES | RECORD | {"evaluate_model": 6}),
            ("device", change_settings(device="auto"), OTHER_DEVICE | RECORD),
            ("code of an engine that the study does not use",
             replace_text("sampling/server.py", "(1, 4, 16, 60)", "(1, 4, 16)"), {}),
            ("code of the study's engine", replace_text("sampling/local.py", "SHARE = 0.25", "SHARE = 0.5"),
             OTHER_SAMPLES | {"evaluate_model": 6}),
            ("code of SFT", edit_modules("training/sft.py"), OTHER_SFT),
            ("command of a rule", replace_text("rules/training.smk", "persuasion_rl.training.dpo", " persuasion_rl.training.dpo"), TRAINED_BY_DPO),
            ("code of all trainings", replace_text("training/recipe.py", '"use_4bit", False', '"use_4bit", True'), OTHER_SFT | {"train_delta_judge": 1}),
            ("file of the base model", append_to("models/base/tokenizer_config.json"), OTHER_BASE),
            ("code of DPO", replace_text("training/dpo.py", "else 0.5 * beta", "else 0.4 * beta"), TRAINED_BY_DPO),
            ("page of the report", replace_text("report/templates/report.html.j2", "<body>", "<body >"), {"report_study": 1}),
            ("corpus", append_to("corpora/synthetic-changemyview/utterances.jsonl"), OTHER_DATA),
            ("pairs of people", append_to("preferences/human_train.jsonl"),
             TRAINED_BY_DPO | HUMAN_BRANCH | {"tokenize": 1}),
            ("added model", change_settings(models={"rlhf_b3": MODEL}), ONE_MODEL | RECORD),
            ("added player",
             change_settings(models={"rlhf_b3": MODEL}, evaluation={"players": [*PLAYERS, "rlhf_b3"]}),
             COMPARED | ONE_MODEL | ONE_PLAYER | {"write_model_card": 7, "judge_trust": 1} | RECORD),
        ]
    ],
)  # fmt: skip
def test_a_change_makes_again_what_depends_on_it(checkout, change, expected):
    change(checkout)
    assert stale(checkout) == expected


def test_the_order_of_the_corpora_counts_where_their_conversations_are_read(tmp_path):
    """The order of two near-duplicates decides their sides, though the inputs are the same files."""
    study = tmp_path / "two.yaml"

    def corpora(*names: str) -> None:
        data = {"extends": str(ROOT / CONFIG), "study": "small", "data": {"cmv_corpora": [*names]}}
        study.write_text(yaml.safe_dump(data))

    corpora("first", "second")
    root = finished_study(tmp_path / "checkout", study, "all")
    assert stale(root, config=study) == {}
    corpora("second", "first")
    assert stale(root, config=study) == OTHER_DATA | RECORD


@pytest.fixture(scope="module")
def with_models_of_ones_own(tmp_path_factory):
    """An up-to-date checkout whose base model and one player are folders outside of it, and its study."""
    folder = tmp_path_factory.mktemp("own")
    for model in ("base", "player"):
        write_base(folder / model, "byte_level", LLAMA_3)
        write_model_folder(folder / model)
        (folder / model / "chat_template.jinja").write_text(LLAMA_3)
        for name in ("generation_config.json", "model.py"):
            (folder / model / name).write_text("{}" if name.endswith(".json") else name)
    player = {"source": str(folder / "player"), "prompt_format": "chat"}
    changes = {
        "models": {"base": {"source": str(folder / "base")}},
        "data": {"max_context_tokens": 300},
        "standin": None,
        "evaluation": {"other_players": {"base_length": None, "guest": player}}
        | {"players": ["base", "sft", "rlaif", "guest", "human"]},
    }
    study = folder / "own.yaml"
    study.write_text(yaml.safe_dump({"extends": str(ROOT / CONFIG), "study": "small"} | changes))
    return finished_study(folder / "checkout", study, "all"), study


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "model.py"])
@pytest.mark.parametrize("model", ["base", "player"])
def test_every_file_that_is_read_of_a_model_of_ones_own_counts(
    with_models_of_ones_own, model, name
):
    root, study = with_models_of_ones_own
    file = study.with_name(model) / name
    before, content = file.stat(), file.read_text()
    file.write_text(f"{content} ")
    rules = stale(root, config=study)
    file.write_text(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    readers = {"tokenize", "train_sft", "train_delta_judge"}
    readers |= {"process_cmv"} if name == "chat_template.jinja" else set()
    assert readers <= rules.keys() if model == "base" else not readers & rules.keys()
    assert {"evaluate_model", "render_prompts"} <= rules.keys()


def test_the_client_of_language_models_is_no_code_of_a_study_that_asks_none(checkout):
    edit_modules("judges/llm/*.py")(checkout)
    assert stale(checkout) == {}


def test_the_grammar_is_no_code_of_a_study_without_a_synthetic_world(without_world):
    edit_modules("data/synthetic/grammar.py")(without_world)
    assert stale(without_world, config=PUBLISHED) == {}


def test_a_change_that_is_known_to_change_no_result_is_accepted(checkout):
    model = f"{STUDY}/models/rlaif/adapter_model.safetensors"
    replace_text("training/dpo.py", "else 0.5 * beta", "else beta / 2")(checkout)
    assert stale(checkout, target=model) == {"train_dpo": 1}
    succeed(model, "--touch", "--configfile", CONFIG, root=checkout)
    assert stale(checkout, target=model) == {}


def test_a_notebook_goes_by_its_time_and_what_it_imports_by_its_code(checkout):
    """Snakemake compares notebooks by time alone. No other file depends on this one."""
    table = f"{STUDY}/exploration/sides.csv"
    assert stale(checkout, target=table) == {}
    notebook = checkout / "workflow/notebooks/explore_data.py.ipynb"
    before = notebook.stat()
    notebook.touch()
    assert stale(checkout, target=table) == {"explore_data": 1}
    os.utime(notebook, ns=(before.st_atime_ns, before.st_mtime_ns))
    replace_text("files.py", 'encoding="utf-8"', 'encoding="utf8"')(checkout)
    only = ("--allowed-rules", "explore_data")
    assert stale(checkout, *only, target=table) == {"explore_data": 1}


def test_a_study_is_the_same_whichever_way_its_file_is_named(finished, tmp_path):
    (tmp_path / "link").symlink_to(finished)
    for file in ("tests/../tests/small.yaml", finished / CONFIG, tmp_path / "link" / CONFIG):
        assert stale(finished, config=file) == {}
    assert stale(tmp_path / "link") == {}


def test_every_param_is_of_a_kind_that_snakemake_compares(finished):
    """It ignores what it cannot serialise, such as a Path, and the order of keys counts in a dict."""
    script = (
        "from persuasion_rl.tools.why import _planned\n"
        "for job, _ in _planned('all', None)[0]:\n"
        "    print(*[type(param).__name__ for param in job.non_derived_params])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=finished,
        env=os.environ | {"PYTHONPATH": str(finished / "workflow")},
        capture_output=True,
        text=True,
    )
    kinds = run.stdout.split()
    assert len(kinds) > 100, run.stderr
    assert {*kinds} <= {"str", "list", "int"}


@pytest.mark.slow
def test_readers_of_a_file_that_was_made_again_unchanged_are_not_stale(tmp_path):
    """Snakemake runs the readers only within the run that makes the file again."""
    root = copy_project(tmp_path / "checkout")
    config = ("--configfile", "tests/tiny.yaml")
    corpus, sides = "corpora/synthetic-changemyview/utterances.jsonl", "splits/sides.csv"
    corpus, sides = (f"results/tiny/{name}" for name in (corpus, sides))
    succeed(sides, "--cores", 1, *config, root=root)
    before = (root / corpus).stat().st_mtime_ns
    succeed(corpus, "--forcerun", "synthesize_corpus", "--cores", 1, *config, root=root)
    assert (root / corpus).stat().st_mtime_ns > (root / sides).stat().st_mtime_ns > before
    assert stale(root, target=sides, config="tests/tiny.yaml") == {}


@pytest.mark.parametrize(
    "words",
    [
        ["--set-threads", "train_sft=4", "--cores", "4"],
        ["--set-resources", "train_sft:gpu=4", "train_dpo:mem_mb=9000", "--resources", "gpu=4"],
        ["--profile", "profiles/aws-gpu"],
    ],
    ids=["threads", "GPUs", "profile"],
)
def test_threads_gpus_and_profile_make_nothing_stale(finished, words):
    assert stale(finished, *words) == {}


def test_a_machine_with_fewer_cores_goes_on_with_the_threads_that_a_study_began_with(tmp_path):
    """By state/threads.json, which a run writes before its first job, or else by what the study recorded."""
    root = copy_project(tmp_path)
    words = ("results/cmv/models/sft/recipe.json", "-np", "--cores", "1")
    kept = {"state/threads.json": '{"threads": 3}', "config.yaml": "study: cmv\nthreads: 7\n"}
    for name, content in kept.items():
        (root / "results/cmv" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "results/cmv" / name).write_text(content)
    for expected, name in ((3, "state/threads.json"), (7, "config.yaml")):
        assert f"--threads {expected} " in succeed(*words, root=root)
        assert "--threads 5 " in succeed(*words, "--config", "threads=5", root=root)
        (root / "results/cmv" / name).unlink()
    assert f"--threads {min(4, cores())} " in succeed(*words, root=root)


def test_a_run_keeps_and_records_the_threads_of_its_trainings(tmp_path):
    root = copy_project(tmp_path)
    words = ("--cores", "1", "--config", "threads=3", "device=cpu")
    output = succeed("results/cmv/config.yaml", *words, root=root)
    assert re.search(r"Provided resources: mem", output), "what the machine has, without a flag"
    assert read_json(root / "results/cmv/state/threads.json") == {"threads": 3}
    assert yaml.safe_load((root / "results/cmv/config.yaml").read_text())["threads"] == 3
