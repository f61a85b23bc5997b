"""Configuration: what loads, what each mistake says, and what a study takes from another one."""

import shlex
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError
from persuasion_rl.study.config import (
    Config,
    flags,
    lineage,
    load_study,
    needs_people,
    pool_sizes,
    split_sizes,
)
from persuasion_rl.study.recipes import Recipe
from persuasion_rl.study.reference import reference
from persuasion_rl.study.section import Section, section_in

CONFIG = Path(__file__).parents[2] / "config"
SMALL = yaml.safe_load("""
study: small
models:
  base: {source: some/model}
  sft: {parent: base, method: sft}
  rlhf: {parent: sft, method: dpo, pool: human}
evaluation: {players: [base, sft, rlhf, human]}
""")


def changed(path: str, value) -> dict:
    """The small study with one key set; a value of ... removes it."""
    study = deepcopy(SMALL)
    *above, last = path.split(".")
    part = study
    for name in above:
        part = part.setdefault(name, {})
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return study


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_the_studies_that_come_with_the_project_load(name):
    study = load_study(yaml.safe_load((CONFIG / name).read_text()), CONFIG / name)
    assert set(study["models"]) == {"base", "sft", "rlaif", "rlhf", "rlaif_rlhf"}
    assert (
        study["trust_remote_code"] is False and study["wandb"]["project"] == "persuasion-rl-cs230"
    )
    assert (study["world"] is None) == (name == "config.yaml")


def test_the_example_of_variants_adds_two_seeds_and_a_beta():
    path = CONFIG / "seeds-and-betas.yaml"
    models = load_study(yaml.safe_load(path.read_text()), path)["models"]
    assert {name: models[name].get("seed") for name in ("sft", "sft_s2", "sft_s3")} == {
        "sft": None, "sft_s2": 2, "sft_s3": 3,
    }  # fmt: skip
    assert models["rlaif_b5"] == models["rlaif"] | {"recipe": {"beta": 0.5}}


def test_the_study_of_real_corpora_needs_their_folder(monkeypatch, tmp_path):
    given = yaml.safe_load((CONFIG / "real-small.yaml").read_text())
    monkeypatch.delenv("PERSUASION_RL_CORPORA", raising=False)
    with pytest.raises(UserError, match=r"corpora_dir: .*\$PERSUASION_RL_CORPORA.* is not set"):
        load_study(given)
    monkeypatch.setenv("PERSUASION_RL_CORPORA", str(tmp_path))
    with pytest.raises(UserError, match="corpora_dir: there is no folder winning-args-corpus in"):
        load_study(given)
    for name in ("winning-args-corpus", "persuasionforgood-corpus"):
        (tmp_path / name).mkdir()
    assert load_study(given)["corpora_dir"] == str(tmp_path)


def test_the_published_study_has_its_sizes():
    study = load_study(yaml.safe_load((CONFIG / "config.yaml").read_text()))
    assert split_sizes(study["data"]) == {"train": 40_000, "val": 5_000, "test": 5_000}
    assert pool_sizes(study["data"]) == {"ai": 8_000, "human": 300}
    assert study["data"]["final_eval_size"] == 1_700
    assert study["data"]["cmv_corpora"] == ["winning-args-corpus", "subreddit-changemyview"]


@pytest.mark.parametrize("examples", [30_000, 50_000, 100_000])
def test_the_number_of_examples_is_one_key(examples):
    """Without a size of its own the AI pool is what the two other pools leave of validation and test."""
    data = load_study(changed("data.max_examples", examples))["data"]
    sizes = {side: int(examples * share) for side, share in data["split"].items()}
    assert split_sizes(data) == sizes
    assert pool_sizes(data) == {"ai": sizes["val"] + sizes["test"] - 2_000, "human": 300}
    data = load_study(changed("data", {"max_examples": examples, "use_val_set": False}))["data"]
    assert pool_sizes(data)["ai"] == sizes["test"] - 2_000


@pytest.mark.parametrize(
    "key, value, used, pool_source",
    [
        ("data.use_cmv", True, (True, False), "cmv"),
        ("data.use_cmv", False, (False, True), "p4g"),
        ("data.use_p4g", True, (True, True), "cmv"),
        ("data.pool_source", "cmv", (True, False), "cmv"),
    ],
)
def test_each_choice_of_sources_is_one_key(key, value, used, pool_source):
    data = load_study(changed(key, value))["data"]
    assert (data["use_cmv"], data["use_p4g"]) == used
    assert data["pool_source"] == pool_source


def test_the_pools_of_both_sources_may_be_of_either():
    data = load_study(changed("data", {"use_p4g": True, "pool_source": "p4g"}))["data"]
    assert data["pool_source"] == "p4g"


def test_defaults_are_filled_in_and_the_input_is_left_alone():
    given = deepcopy(SMALL)
    study = load_study(given)
    assert given == SMALL
    assert study["seed"] == 1 and study["device"] == "auto"
    assert study["data"]["split"] == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert study["pools"]["human"] == {
        "responses_from": "sft",
        "responses": 2,
        "shard_rows": 1000,
    }
    assert study["models"]["sft"] == {"parent": "base", "method": "sft"}


MISTAKES = [
    # path, value, what the message begins with, what else it says
    ("study", ..., "the configuration: ", ["'study' is missing"]),
    ("study", "a/b", "study: 'a/b' ", ["A-Za-z0-9_-"]),
    ("seed", -1, "seed: -1 ", ["at least 0"]),
    ("seed", "one", "seed: 'one' ", ["integer"]),
    ("device", "gpu", "device: 'gpu' ", ["auto, cpu, cuda"]),
    ("sead", 3, "sead: unknown key", ["seed", "study"]),
    ("data.max_tokns", 3, "data.max_tokns: unknown key", ["max_tokens"]),
    ("data.use_cmv", "yes please", "data.use_cmv: 'yes please' ", ["boolean"]),
    ("data.cmv_corpora", [], "data.cmv_corpora: [] ", ["at least 1"]),
    ("data.cmv_corpora", "winning-args-corpus", "data.cmv_corpora: 'winning-args-corpus' ", ["array"]),
    ("data.split.train", 0, "data.split.train: 0 ", ["above 0"]),
    ("data.split.train", 0.9, "data.split: ", ["0.9", "add up to 1"]),
    ("data.min_tokens", 1024, "data.min_tokens: 1024 ", ["below max_tokens 1024"]),
    ("data.max_context_tokens", 4000, "data.max_context_tokens: 4000 ", ["below max_seq_length 1024"]),
    ("data", {"use_cmv": False, "use_p4g": False}, "data.use_cmv and data.use_p4g: ", ["both are false"]),
    ("data.pool_source", "p4g", "data.pool_source: 'p4g'", ["use_p4g is false"]),
    ("data", {"use_cmv": False, "pool_source": "cmv"}, "data.pool_source: 'cmv'", ["use_cmv is false"]),
    ("data.on_shortage", "shrink", "data.on_shortage: 'shrink' ", ["scale, error"]),
    ("data.official_split", True, "data.official_split: True ", ["auto, False"]),
    ("data.near_duplicate", 0, "data.near_duplicate: 0 ", ["above 0"]),
    ("data.near_duplicate", 1.1, "data.near_duplicate: 1.1 ", ["at most 1"]),
    ("data.p4g_donation_weighted", 1, "data.p4g_donation_weighted: 1 ", ["boolean"]),
    ("labels.human.min_labels", 400, "labels.human.min_labels: 400 ", ["human_pool_size 300"]),
    ("pools.human.responses_from", "rlhf", "pools.human.responses_from: a cycle", ["rlhf"]),
    ("sampling.max_new_tokens", 900, "sampling.max_new_tokens + data.max_context_tokens: 1600 ", ["1024"]),
    ("data.max_examples", 1000, "data.human_pool_size + data.final_eval_size: 2,000 ", ["100 "]),
    ("data.ai_pool_size", 9000, "data.ai_pool_size: 9,000 ", ["8,000"]),
    ("data", {"ai_pool_size": 8000, "use_val_set": False}, "data.ai_pool_size: 8,000 ", ["3,000", "use_val_set: false"]),
    ("data", {"max_examples": 20000, "use_val_set": False}, "data.human_pool_size + data.final_eval_size: ", ["leave no prompt for the AI pool", "use_val_set: false"]),
    ("data", None, "data: None ", ["object"]),
    ("world", {"threads": 5, "replies": 3}, "world.threads: 5 ", ["at least 10"]),
    ("world", {"threads": 50}, "world: ", ["'replies' is missing"]),
    ("sampling.top_p", 1.5, "sampling.top_p: 1.5 ", ["at most 1"]),
    ("sampling.temperature", 0, "sampling.temperature: 0 ", ["above 0"]),
    ("sampling.engine", "tgi", "sampling.engine: 'tgi' ", ["transformers, vllm, openai"]),
    ("sampling.engine", "openai", "sampling.base_url: ", ["needs the address of its server"]),
    ("sampling.base_url", "http://localhost:1/v1", "sampling.base_url: ", ["the engine openai, and no other"]),
    ("sampling.base_url", "http://u:secret@localhost/v1", "sampling.base_url: looks like a key", ["environment"]),
    ("pools.ai", {"responses": 1}, "pools.ai.responses: 1 ", ["at least 2"]),
    ("recipes.sft.learning_rate", "1e-4", "recipes.sft.learning_rate: '1e-4' ", ["number", "1.0e-4"]),
    ("recipes.sft.lr", 1e-4, "recipes.sft.lr: unknown key", ["learning_rate"]),
    ("recipes.dpo.loss_type", ["simpo"], "recipes.dpo.loss_type.0: 'simpo' ", ["sigmoid, sft, hinge"]),
    ("recipes.ppo", {}, "recipes.ppo: unknown key", ["dpo, reward, sft"]),
    ("models.sft.recipe", {"epochs": 2}, "models.sft.recipe.epochs: unknown key", ["num_train_epochs"]),
    ("models.sft.methd", "sft", "models.sft.methd: unknown key", ["method"]),
    ("models.sft.method", "ppo", "models.sft.method: 'ppo' ", ["sft, dpo"]),
    ("models.sft.parent", ..., "models.sft: ", ["parent", "method"]),
    ("models.sft.method", ..., "models.sft: ", ["parent", "method"]),
    ("models.sft", None, "models.sft: None ", ["object"]),
    ("models.base.source", ..., "models.base: ", ["source"]),
    ("models.base", ..., "models.base: ", ["source"]),
    ("models.rlhf.parent", "stf", "models.rlhf.parent: ", ["'stf'", "base, sft, rlhf"]),
    ("models.rlhf.pool", "crowd", "models.rlhf.pool: 'crowd' ", ["ai, human"]),
    ("models.rlhf.pool", ..., "models.rlhf.pool: ", ["ai or human"]),
    ("models.rlhf.parent", "base", "models.rlhf.parent: ", ["adapter"]),
    ("models.rlhf.parent", "rlhf", "models.rlhf.parent: ", ["cycle", "rlhf -> rlhf"]),
    ("models.sft.parent", "rlhf", "models.", ["cycle", "sft -> rlhf -> sft"]),
    ("labels.ai", {"judge": "gpt"}, "labels.ai.judge: 'gpt' ", ["truth, delta, length"]),
    ("labels.ai", {"judge": "truth"}, "labels.ai.judge: ", ["truth", "world"]),
    ("labels.human", {"source": "simulated", "judge": "truth"}, "labels.human.judge: ", ["truth", "world"]),
    ("evaluation.judges", ["truth", "length"], "evaluation.judges: ", ["truth", "world"]),
    ("evaluation.judges", ["delta"], "evaluation.judges: ", ["at least 2"]),
    ("evaluation.players", ["base"], "evaluation.players: ['base'] ", ["at least 2"]),
    ("evaluation.players", ["base", "gpt"], "evaluation.players: ", ["'gpt'", "base, sft, rlhf, human"]),
    ("pools.ai", {"responses_from": "stf"}, "pools.ai.responses_from: ", ["'stf'", "base, sft, rlhf"]),
    ("corpora_dir", "$NO_SUCH_VARIABLE_HERE/x", "corpora_dir: ", ["$NO_SUCH_VARIABLE_HERE", "not set"]),
    ("extends", "nowhere.yaml", "extends: ", ["nowhere.yaml: does not exist"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "path, value, begins, says", MISTAKES, ids=[f"{m[0]}={m[1]}" for m in MISTAKES]
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(path, value, begins, says):
    load_study(deepcopy(SMALL))
    with pytest.raises(UserError) as raised:
        load_study(changed(path, value))
    message = str(raised.value)
    assert message.startswith(begins), message
    assert all(part in message for part in says), message
    assert "\n" not in message


def test_the_hint_about_numbers_comes_only_where_it_fits():
    with pytest.raises(UserError) as raised:
        load_study(changed("seed", "one"))
    assert "1e-4" not in str(raised.value)


def test_truth_is_allowed_in_a_synthetic_world():
    study = changed("evaluation.judges", ["truth", "length"])
    study["world"] = {"threads": 50, "replies": 3}
    assert load_study(study)["evaluation"]["judges"] == ["truth", "length"]


def test_one_judge_at_least_labels_nothing():
    study = changed("evaluation.judges", ["delta", "length"])
    study["labels"] = {
        "ai": {"judge": "length"},
        "human": {"source": "simulated", "judge": "delta"},
    }
    assert load_study(study)  # no model learns from AI labels
    study["models"]["rlaif"] = {"parent": "sft", "method": "dpo", "pool": "ai"}
    with pytest.raises(UserError, match="evaluation.judges: models learn from labels of every one"):
        load_study(study)
    study["evaluation"]["judges"] = ["delta", "length", "interplay"]
    assert load_study(study)


@pytest.fixture
def study_file(tmp_path):
    def write(name: str, **study) -> Path:
        (tmp_path / name).write_text(yaml.safe_dump(study))
        return tmp_path / name

    return write


def load(file: Path) -> dict:
    return load_study(yaml.safe_load(file.read_text()), file)


def test_a_study_lies_over_the_one_that_it_extends(study_file):
    study_file("low.yaml", **changed("seed", 3), data={"max_tokens": 500, "max_seq_length": 900})
    study_file(
        "mid.yaml", extends="low.yaml", data={"max_tokens": 600}, recipes={"sft": {"lora_r": 4}}
    )
    top = study_file(
        "top.yaml", extends="mid.yaml", study="top", evaluation={"players": ["sft", "rlhf"]},
        models={"sft": {"recipe": {"lora_r": 2}}}, data={"min_tokens": 7},
    )  # fmt: skip
    study = load(top)
    assert study["study"] == "top" and study["seed"] == 3
    assert [study["data"][key] for key in ("min_tokens", "max_tokens", "max_seq_length")] == [
        7,
        600,
        900,
    ]
    assert study["evaluation"]["players"] == ["sft", "rlhf"], "lists are replaced, not joined"
    assert study["models"]["sft"] == {"parent": "base", "method": "sft", "recipe": {"lora_r": 2}}
    assert study["models"]["rlhf"] == SMALL["models"]["rlhf"]
    assert "extends" not in study


def test_a_study_that_stands_alone_gets_no_key_of_another(study_file):
    study_file("config.yaml", **changed("seed", 77), sampling={"top_p": 0.5})
    study = load(study_file("alone.yaml", **SMALL))
    assert study["seed"] == 1 and study["sampling"]["top_p"] == 0.9
    assert study == load_study(deepcopy(SMALL))


@pytest.mark.parametrize("name", ["self.yaml", "low.yaml"])
def test_studies_that_extend_each_other_are_refused(study_file, name):
    study_file("low.yaml", **changed("extends", "self.yaml"))
    file = study_file("self.yaml", **changed("extends", name))
    with pytest.raises(UserError, match="extends itself") as raised:
        load(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "- a list", "study: [unclosed", "data: 5"])
def test_a_broken_file_under_extends_is_one_line(study_file, tmp_path, content):
    (tmp_path / "low.yaml").write_text(content)
    with pytest.raises(UserError) as raised:
        load(study_file("top.yaml", extends="low.yaml", data={"min_tokens": 7}))
    assert "\n" not in str(raised.value)


def sections_of(section: type[Section]):
    yield section
    for field in section.model_fields.values():
        if (below := section_in(field.annotation)) is not None:
            yield from sections_of(below)


def test_every_key_is_described_and_every_section_closed():
    fields = [
        (section, name, field)
        for section in {*sections_of(Config), Recipe}
        for name, field in section.model_fields.items()
    ]
    assert len(fields) > 150
    assert [name for _, name, field in fields if not (field.description or "").strip()] == []
    assert {section.model_config["extra"] for section, *_ in fields} == {"forbid"}


def test_every_default_is_valid_by_itself():
    study = load_study(
        {
            "study": "x",
            "models": load_study(yaml.safe_load((CONFIG / "config.yaml").read_text()))["models"],
        }
    )
    assert load_study(deepcopy(study)) == study


def test_the_reference_in_the_readme_is_that_of_the_schema():
    assert reference() in (CONFIG / "README.md").read_text(encoding="utf-8")


def test_the_lineage_begins_above_the_base():
    models = load_study(yaml.safe_load((CONFIG / "config.yaml").read_text()))["models"]
    assert list(lineage(models, "rlaif_rlhf")) == ["sft", "rlaif", "rlaif_rlhf"]
    assert list(lineage(models, "sft")) == ["sft"] and list(lineage(models, "base")) == []


def test_only_a_lineage_with_answers_of_people_needs_people():
    study = load_study(yaml.safe_load((CONFIG / "config.yaml").read_text()))
    assert {m for m in study["models"] if needs_people(study, m)} == {"rlhf", "rlaif_rlhf"}
    study["models"]["longer"] = {"parent": "rlhf", "method": "dpo", "pool": "ai"}
    assert needs_people(study, "longer")
    study["labels"]["human"]["source"] = "simulated"
    assert not any(needs_people(study, model) for model in study["models"])


NAMES = st.sampled_from(["beta", "max_length", "loss_type", "use_4bit", "study", "learning_rate"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(0, 1) | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS.filter(lambda value: value is not None), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, VALUES))
def test_flags_are_canonical_and_survive_a_shell(settings):
    text = flags(settings)
    assert text == flags(dict(reversed(settings.items())))
    expected = []
    for name in sorted(settings):
        value = settings[name]
        if value is not None:
            expected.append(f"--{name}")
            for item in value if isinstance(value, list) else [value]:
                expected.append(str(item).lower() if isinstance(item, bool) else str(item))
    assert shlex.split(text) == expected


def test_flags_by_example():
    settings = {
        "use_4bit": False,
        "beta": 0.1,
        "adapter": None,
        "run": "it's $HOME",
        "loss_type": ["sft", "ipo"],
    }
    assert (
        flags(settings)
        == "--beta 0.1 --loss_type sft ipo --run 'it'\"'\"'s $HOME' --use_4bit false"
    )
    assert flags({"beta": 0.1}) != flags({"beta": 0.2})
    assert flags({}) == ""


@pytest.mark.parametrize(
    "key, value, line",
    [
        ("recipes.sft.beta", 0.1, "recipes.sft.beta: it means something for dpo only"),
        (
            "recipes.dpo.lora_r",
            4,
            "recipes.dpo.lora_r: a dpo model keeps the shape of its parent's",
        ),
        ("models.rlaif.recipe", {"lora_r": 4}, "models.rlaif.recipe.lora_r: a dpo model keeps"),
        (
            "recipes.dpo.label_smoothing",
            0.1,
            "label_smoothing: trl ignores it with the loss sigmoid",
        ),
        (
            "recipes.dpo.padding_free",
            True,
            "recipes.dpo.padding_free: rows are computed without padding anyway",
        ),
        ("recipes.sft.packing", True, "recipes.sft.packing: rows are computed without padding"),
        (
            "recipes.dpo.loss_weights",
            [1.0],
            "recipes.dpo.loss_weights: 2 losses need as many weights",
        ),
    ],
)
def test_a_recipe_that_a_trainer_would_ignore_or_refuse_is_refused_with_the_reason(
    key, value, line
):
    study = yaml.safe_load((CONFIG / "demo.yaml").read_text())
    *above, last = key.split(".")
    part = study
    for name in above:
        part = part[name]
    part[last] = value
    with pytest.raises(UserError) as refusal:
        load_study(study)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
