"""What rules read from a study: settings as flags, files by name, and the models, players and pools of a scope."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.files import UserError
from persuasion_rl.study.flags import flags, folder_of, named
from persuasion_rl.study.names import JUDGE_MODULES
from persuasion_rl.study.recorded import command_for, study_folder
from persuasion_rl.study.rules import scope_of
from persuasion_rl.study.study import Study
from running import ROOT


def study_of(name: str, **changes) -> Study:
    """A study of config/ or tests/, with some sections changed."""
    file = ROOT / name
    settings = yaml.safe_load(file.read_text())
    return Study.read(settings | changes, file)


@pytest.fixture(scope="module")
def published() -> Study:
    return study_of("config/config.yaml")


@pytest.fixture(scope="module")
def demo() -> Study:
    return study_of("config/demo.yaml")


def test_a_rule_shows_its_keys_and_gets_them_as_one_canonical_string(demo):
    assert demo.flags("seed", "data.near_duplicate", "data.split.*") == (
        "--near_duplicate 0.8 --seed 1 --test 0.36 --train 0.43 --val 0.21"
    )
    assert demo.flags("seed", draws="evaluation.bootstrap") == "--draws 2000 --seed 1"
    assert demo.flags("data.max_p4g_examples") == ""


@pytest.mark.parametrize("key", ["data.max_token", "nothing", "data.split.train.more", "data.x.*"])
def test_a_key_that_is_not_there_fails_when_the_snakefile_is_read(demo, key):
    with pytest.raises((KeyError, AttributeError)):
        demo.flags(key)


words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), words))
def test_a_shell_reads_flags_as_they_are_whatever_they_hold(settings):
    words = shlex.split(flags(settings))
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        f"--{k}": v for k, v in settings.items()
    }
    assert flags(dict(reversed(settings.items()))) == flags(settings)


def test_flags_leave_out_what_is_not_set_and_write_booleans_as_yaml():
    assert flags({"b": True, "a": [], "c": None, "d": {}, "e": [1, "x y"], "f": {"k": False}}) == (
        "--b true --e 1 'x y' --f k=false"
    )


@given(st.permutations(["a", "b", "c", "human"]), st.sampled_from(["", ".snakemake/storage/s3/"]))
def test_files_are_named_by_path_and_not_by_position(players, storage):
    declared = {name: f"results/demo/evaluation/responses/{name}.jsonl" for name in "abc"}
    declared["human"] = "results/demo/evaluation/responses/human.jsonl"
    inputs = [storage + declared[name] for name in players]
    assert named(inputs, declared) == [f"{name}={storage}{path}" for name, path in declared.items()]


def test_a_file_that_is_not_an_input_is_refused():
    with pytest.raises(ValueError):
        named(["results/demo/a.json"], {"a": "results/demo/a.json", "b": "results/demo/b.json"})
    with pytest.raises(ValueError):
        folder_of(["one/a", "other/b"])


def test_models_by_method_and_by_who_labels_them(published, demo):
    assert published.trained() == ["sft", "rlaif", "rlhf", "rlaif_rlhf"]
    assert published.trained("sft") == ["sft"]
    assert published.trained(scope="unattended") == ["sft", "rlaif"]
    assert published.pending("unattended") == ["rlhf", "rlaif_rlhf"]
    assert published.pools("evaluation") == ["ai", "human"]
    assert published.pools("unattended") == ["ai"]
    assert published.waits_for_people and not demo.waits_for_people
    assert demo.trained(scope="unattended") == demo.trained()
    assert published.pool_sizes() == {"ai": 8000, "human": 300}


@pytest.mark.parametrize("examples", [30_000, 50_000, 100_000])
def test_without_a_size_the_ai_pool_is_what_the_two_others_leave(examples):
    study = study_of("config/config.yaml", data={"max_examples": examples})
    sizes = study.split_sizes()
    assert sum(sizes.values()) == examples
    assert study.pool_sizes() == {"ai": sizes["val"] + sizes["test"] - 2_000, "human": 300}
    alone = study_of("config/config.yaml", data={"max_examples": examples, "use_val_set": False})
    assert alone.pool_sizes()["ai"] == sizes["test"] - 2_000


def test_a_models_adapters_are_those_down_its_lineage(demo):
    folder = "results/demo/models/"
    adapters = [
        f"{folder}{name}/adapter_model.safetensors" for name in ("sft", "rlaif", "rlaif_rlhf")
    ]
    assert demo.adapters("rlaif_rlhf") == adapters
    assert demo.adapters("base") == demo.adapters(None) == []
    parts = [f"{folder}sft/adapter_config.json", f"{folder}sft/recipe.json"]
    assert demo.adapter_parts("sft") == parts


def groups_of(models: dict[str, dict]) -> dict[str, str]:
    """The seed groups of models that replace the demo's: those with a pool are DPO models, the others SFT models."""
    settings = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    kinds = {False: {"parent": "base", "method": "sft"}, True: {"parent": "sft", "method": "dpo"}}
    entries = {name: kinds["pool" in model] | model for name, model in models.items()}
    entries["base"] = settings["models"]["base"]
    evaluation = settings["evaluation"] | {"players": ["base", *models]}
    return study_of("config/demo.yaml", models=entries, evaluation=evaluation).seed_groups(
        list(models)
    )


AI = {"pool": "ai"}
WARM = {"recipe": {"learning_rate": 0.002}}


def test_models_that_differ_in_the_seed_are_one_group():
    models = {"sft": {}, "sft_s2": {"seed": 2}, "warm": WARM, "sft_s3": {"seed": 3}}
    assert groups_of(models) == {"sft_s2": "sft", "sft_s3": "sft"}


@pytest.mark.parametrize(
    "other",
    [
        AI | {"recipe": {"beta": 0.5}},
        {"pool": "human"},
        AI | {"parent": "warm"},
        AI | {"recipe": {"weight_decay": 0.1}},
    ],
    ids=["beta", "pool", "parent", "one setting more"],
)
def test_models_that_differ_in_more_are_two_groups(other):
    assert groups_of({"sft": {}, "warm": WARM, "rlaif": AI, "other": other | {"seed": 2}}) == {}


def test_parents_that_differ_in_the_seed_keep_their_children_in_one_group():
    """The order in the study, and which of the two parents has another seed, do not matter."""
    models = {"rlaif": AI, "below": AI | {"parent": "sft_s2"}, "sft": {}, "sft_s2": {"seed": 2}}
    assert groups_of(models) == {"below": "rlaif", "sft_s2": "sft"}


def test_the_same_training_under_another_name_is_no_other_seed():
    assert groups_of({"sft": {}, "again": {"seed": 1}}) == {}
    assert groups_of({"sft": {}, "again": {"seed": 1}, "sft_s2": {"seed": 2}}) == {"sft_s2": "sft"}


def test_players_of_one_group_are_named_by_its_first_model():
    study = study_of("config/seeds-and-betas.yaml")
    groups = study.seed_groups(study.players("evaluation"))
    assert groups and {*groups.values()} <= {*study.models} - {*groups}


def test_comparisons_are_of_every_model_with_those_that_it_comes_from(published, demo):
    assert demo.comparisons("evaluation") == [
        *("sft:base", "rlaif:sft", "rlaif:base", "rlhf:sft", "rlhf:base"),
        *("rlaif_rlhf:rlaif", "rlaif_rlhf:sft", "rlaif_rlhf:base"),
    ]
    declared = published.comparisons("evaluation")
    assert declared == published.config.evaluation.comparisons
    without_people = [pair for pair in declared if "rlhf" not in pair]
    assert published.comparisons("unattended") == without_people


def test_judges_read_files_by_name_and_run_their_own_module(published):
    files = published.judge_files("delta", "interplay", "llm", "length", None)
    assert {*files} == {
        "judge_base",
        "delta_adapter",
        "delta_parts",
        "delta_pairs",
        "sides",
        "rubric",
    }
    assert published.judge_files("length", None) == {}
    assert published.judge_modules("delta", None) == [JUDGE_MODULES["delta"]]
    package = ROOT / "workflow/persuasion_rl"
    assert all((package / f"{m.replace('.', '/')}.py").is_file() for m in JUDGE_MODULES.values())


def test_what_the_report_reads_lies_in_the_study_and_has_no_file_of_people_where_none_are_needed(
    published,
):
    def paths(scope):
        for value in published.report_files(scope).values():
            yield from (
                value.values()
                if isinstance(value, dict)
                else [value]
                if isinstance(value, str)
                else value
            )

    assert all(path.startswith("results/cmv/") for path in paths("evaluation"))
    assert any("rlhf" in path for path in paths("evaluation"))
    assert not any("rlhf" in path or "human_pool" in path for path in paths("unattended"))


def test_a_target_of_another_study_names_its_file(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        UserError, match=r"is of study 'cmv', and 'demo' is loaded: .*config/config.yaml"
    ):
        demo.refuse_other_studies(["results/cmv/report.html"])
    with pytest.raises(UserError, match="no file in config/ has `study: nowhere`"):
        demo.refuse_other_studies(["results/nowhere/report.html"])
    (broken := tmp_path / "config").mkdir()
    (broken / "broken.yaml").write_text("study: [")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no file in config/ has `study: cmv`"):
        demo.refuse_other_studies(["results/cmv/report.html"])
    demo.refuse_other_studies(["all", "results/demo/report.html", "resources/models/x/config.json"])


@pytest.mark.parametrize(
    ("study", "command"),
    [
        ("cmv", "`snakemake all`"),
        ("demo", "`snakemake all --configfile config/demo.yaml`"),
        ("mine", "`snakemake all` with the --configfile of study mine"),
    ],
)
def test_a_command_in_a_message_makes_the_study_that_the_message_is_about(
    study, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    assert command_for(study, "all") == command
    words = command.replace("all", "unattended --cores all", 1)
    with pytest.raises(UserError, match=re.escape(f"run {words} first")):
        AnnotatedStudy(tmp_path / study).pool  # noqa: B018
    with pytest.raises(UserError, match=re.escape(f"is not there; {words} makes it")):
        study_folder(f"nowhere/{study}")


def test_the_file_that_a_study_was_started_from_is_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert study_of("config/demo.yaml").started_from() == "config/demo.yaml"
    elsewhere = Study(study_of("config/demo.yaml").config, tmp_path / "mine.yaml")
    assert elsewhere.started_from() == "mine.yaml"


@pytest.mark.parametrize(
    ("folder", "scope"),
    [("", "evaluation"), ("unattended/", "unattended"), ("judges", "evaluation")],
)
def test_the_scope_of_a_page_is_told_by_its_folder(folder, scope):
    assert scope_of(folder) == scope


def test_a_configuration_elsewhere_is_a_study_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": str(ROOT / "config/demo.yaml"), "study": "mine"}))
    study = Study.read(yaml.safe_load(file.read_text()), file)
    assert study.path("report.html") == "results/mine/report.html"
    assert study.file == Path(file)
