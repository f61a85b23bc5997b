"""The model of the configuration: defaults, types, consistency, and the message of each mistake."""

import re
from copy import deepcopy
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from persuasion_rl.data.near_duplicates import NearDuplicateSettings
from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.sampling.engine import SamplingSettings
from persuasion_rl.study.config import Config, Data, Sampling
from persuasion_rl.study.judging import Llm
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.parsing import shortened
from persuasion_rl.study.reference import README, SCHEMA, json_schema, readme
from persuasion_rl.study.section import keys_of, section_in

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


def error_message(study: dict) -> str:
    """The message for a study that is refused, which is one line."""
    with pytest.raises(UserError) as error:
        load_config(study)
    assert "\n" not in str(error.value)
    return str(error.value)


def published() -> dict:
    return yaml.safe_load((CONFIG / "config.yaml").read_text())


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_the_studies_that_come_with_the_project_load(name):
    config = load_config(yaml.safe_load((CONFIG / name).read_text()), CONFIG / name)
    assert set(config.models) == {"base", "sft", "rlaif", "rlhf", "rlaif_rlhf"}
    assert config.trust_remote_code is False and config.wandb.project == "persuasion-rl-cs230"
    assert (config.world is None) == (name == "config.yaml")


def test_the_published_study_has_its_sizes():
    config = load_config(published())
    assert (config.data.human_pool_size, config.data.final_eval_size) == (300, 1_700)
    assert config.data.cmv_corpora == ["winning-args-corpus", "subreddit-changemyview"]
    assert config.recipe_of("rlhf") == config.recipes.dpo.settings() | {
        "learning_rate": 2.0e-5, "num_train_epochs": 3, "effective_batch_size": 16,
    }  # fmt: skip


def test_the_study_of_real_corpora_needs_their_folder(monkeypatch, tmp_path):
    study = changed("data", {"use_p4g": True, "cmv_corpora": ["winning-args-corpus"]})
    study["corpora_dir"] = "$PERSUASION_RL_CORPORA"
    monkeypatch.delenv("PERSUASION_RL_CORPORA", raising=False)
    assert error_message(study).startswith(
        "corpora_dir: the environment variable in '$PERSUASION_RL_CORPORA' is not set"
    )
    monkeypatch.setenv("PERSUASION_RL_CORPORA", str(tmp_path))
    assert error_message(study).startswith(
        "corpora_dir: there is no folder 'winning-args-corpus' in"
    )
    for name in ("winning-args-corpus", "persuasionforgood-corpus"):
        (tmp_path / name).mkdir()
    for name in ("conversations.json", "utterances.jsonl"):
        assert re.match(rf"corpora_dir: .*corpus has no {name}: a corpus in ", error_message(study))
        for corpus in tmp_path.iterdir():
            (corpus / name).touch()
    assert load_config(study).corpora_dir == str(tmp_path)
    study["corpora_dir"] = "x" * 300
    assert error_message(study).startswith("corpora_dir: there is no folder 'winning-args-corpus'")


def test_the_real_model_learns_from_a_folder_of_corpora_or_from_downloads(monkeypatch):
    study = yaml.safe_load((CONFIG / "smollm2.yaml").read_text())
    for value in (None, ""):
        monkeypatch.delenv("PERSUASION_RL_CORPORA", raising=False)
        if value is not None:
            monkeypatch.setenv("PERSUASION_RL_CORPORA", value)
        assert load_config(study).corpora_dir is None
    monkeypatch.setenv("PERSUASION_RL_CORPORA", "/nowhere")
    assert error_message(study).startswith("corpora_dir: there is no folder 'winning-args-corpus'")
    assert "is not set" in error_message(study | {"corpora_dir": "${A:-$B_THAT_IS_NOT_SET}"})


@pytest.mark.parametrize(
    "key, value, used, pool_source",
    [
        ("data.use_cmv", True, (True, False), "cmv"),
        ("data.use_cmv", False, (False, True), "p4g"),
        ("data.use_p4g", True, (True, True), "cmv"),
        ("data.pool_source", "cmv", (True, False), "cmv"),
        ("data", {"use_p4g": True, "pool_source": "p4g"}, (True, True), "p4g"),
    ],
)
def test_each_choice_of_sources_is_one_key(key, value, used, pool_source):
    data = load_config(changed(key, value)).data
    assert (data.use_cmv, data.use_p4g) == used
    assert data.pool_source == pool_source


def test_defaults_are_filled_in_and_the_input_is_left_alone():
    study = deepcopy(SMALL)
    config = load_config(study)
    assert study == SMALL
    assert config.seed == 1 and config.device == "auto" and config.llm.temperature == 0
    assert config.data.split.resolved() == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert config.pools["human"] == config.pools.human
    assert config.pools.human.resolved() == {
        "responses_from": "sft",
        "responses": 2,
        "shard_rows": 1000,
    }


def test_what_may_be_missing_and_is_stays_missing():
    """A recipe's keys are arguments of a trainer, which has its own defaults."""
    config = load_config(changed("models.sft.recipe", {"lora_r": 4}))
    assert config.models["sft"].resolved() == {
        "parent": "base",
        "method": "sft",
        "recipe": {"lora_r": 4},
    }
    assert config.models["sft"].seed is None and config.models["rlhf"].recipe is None
    dpo = {"effective_batch_size": 64, "max_length": 1024, "eval_strategy": "epoch"}
    adapter = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
    adapter |= {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    assert config.recipes.dpo.settings() == dpo
    assert config.recipes.sft.settings() == config.recipes.reward.settings() == dpo | adapter
    assert config.recipe_of("sft") == dpo | adapter | {"lora_r": 4}


@pytest.mark.parametrize(
    "module, section",
    [
        (LlmSettings, Llm),
        (NearDuplicateSettings, Data),
        (SamplingSettings, Sampling),
    ],
)
def test_a_module_that_has_a_default_too_has_the_one_of_the_configuration(module, section):
    """A stage that is run by hand does the same as in the workflow."""
    defaults = {each.name: each.default for each in fields(module) if each.default is not MISSING}
    named = defaults.keys() & section.model_fields.keys()
    assert named
    for name in named:
        default = section.model_fields[name].default
        assert defaults[name] == (Path(default) if name == "rubric" else default), name


def test_a_resolved_study_is_a_study_and_resolves_to_itself():
    resolved = load_config({"study": "x", "models": published()["models"]}).resolved()
    assert load_config(deepcopy(resolved)).resolved() == resolved


def test_a_whole_float_is_an_integer():
    max_tokens = load_config(changed("data.max_tokens", 512.0)).data.max_tokens
    assert max_tokens == 512 and type(max_tokens) is int


@pytest.mark.parametrize("value", [False, "off"])
def test_a_bare_off_is_a_mode_of_wandb(value):
    assert load_config(changed("wandb.mode", value)).wandb.mode == "off"


MISTAKES = [
    # path, value, what the message begins with, what else it says
    ("study", ..., "the configuration: ", ["'study' is missing"]),
    ("study", "a/b", "study: 'a/b' ", ["A-Za-z0-9_-"]),
    ("seed", -1, "seed: -1 ", ["at least 0"]),
    ("seed", "one", "seed: 'one' must be an integer", []),
    ("device", "gpu", "device: 'gpu' ", ["auto, cpu, cuda"]),
    ("sead", 3, "sead: unknown key", ["seed", "study"]),
    ("data.max_tokns", 3, "data.max_tokns: unknown key", ["did you mean max_tokens?", "allowed here: ai_pool_size, "]),
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
    ("models.Sft", {"parent": "base", "method": "sft"}, "models.Sft: 'Sft' is no name of a model", ["small letter"]),
    ("models.human", {"parent": "base", "method": "sft"}, "models.human: 'human' is no name", ["human is people"]),
    ("models.delta_judge", {"parent": "base", "method": "sft"}, "models.delta_judge: 'delta_judge' is no name", ["judge"]),
    ("evaluation.other_players", {"a:b": {"model": "base"}}, "evaluation.other_players.a:b: 'a:b' is no name of a player", []),
    ("data", {"a\nb": 1}, "data.'a\\nb': unknown key", []),
    ("data.temperature", 1, "data.temperature: unknown key", ["did you mean sampling.temperature or llm.temperature?"]),
    ("llm.api_key", "s3cret", "llm.api_key: looks like a key", ["environment only"]),
    ("data.max_tokens", 512.5, "data.max_tokens: 512.5 ", ["integer"]),
    ("data.max_tokens", "512", "data.max_tokens: '512' ", ["must be an integer (in quotes it is text)"]),
    ("data.max_tokens", True, "data.max_tokens: True ", ["integer"]),
    ("data.use_p4g", 1, "data.use_p4g: 1 ", ["true or false or null"]),
    ("data.official_split", 0, "data.official_split: 0 ", ["auto, False"]),
    ("sampling.temperature", float("inf"), "sampling.temperature: inf ", ["finite"]),
    ("sampling.temperature", True, "sampling.temperature: True ", ["number"]),
    ("evaluation.players", ["base", "sft", "base"], "evaluation.players: 'base' stands there twice", []),
    ("sampling.top_p", None, "sampling.top_p: None ", ["must be a number"]),
    ("recipes.dpo.packing", True, "recipes.dpo.packing: rows are computed without padding", []),
    ("models.sft.recipe", {"padding_free": True}, "models.sft.recipe.padding_free: rows are computed", []),
    ("recipes.sft.lora_target_modules", ["q_proj", "lm_head"], "recipes.sft.lora_target_modules: 'lm_head' cannot be adapted", ["never learn"]),
    ("models.sft.recipe", {"lora_target_modules": ["embed_tokens"]}, "models.sft.recipe.lora_target_modules: 'embed_tokens' cannot be", ["merged"]),
    ("recipes.reward.lora_target_modules", ["all-linear"], "recipes.reward.lora_target_modules: 'all-linear' cannot be", ["name the modules"]),
    ("recipes.sft.beta", 0.1, "recipes.sft.beta: it means something for dpo only", []),
    ("recipes.dpo.lora_r", 4, "recipes.dpo.lora_r: a dpo model keeps the shape of its parent's adapter", []),
    ("models.rlhf.recipe", {"lora_r": 4}, "models.rlhf.recipe.lora_r: a dpo model keeps the shape", []),
    ("recipes.dpo.label_smoothing", 0.1, "recipes.dpo.label_smoothing: trl ignores it", ["loss_type: [robust]"]),
    ("recipes.dpo.loss_weights", [1, 2], "recipes.dpo.loss_weights: 1 losses need as many weights", []),
    ("models.sft.pool", "ai", "models.sft.pool: an sft model learns from replies", ["dpo"]),
    ("models.sft.revision", "main", "models.sft.revision: only base has a revision", []),
    ("models.base", {"source": "standin", "revision": "x"}, "models.base.revision: only a Hub model", ["'standin'"]),
    ("models.sft.pool", "ai", "models.sft.pool: ", ["leave pool out (pool: null where it is inherited)"]),
    ("models.base.pool", "ai", "models.base.pool: base is not trained here", []),
    ("models.base.recipe", {"lora_r": 2}, "models.base.recipe: base is not trained here", []),
    ("models.base.seed", 3, "models.base.seed: base is not trained here", []),
    ("models.base.parent", "sft", "models.base.parent: base is not trained here", []),
    ("models.base.source", "models/of/mine", "models.base.source: 'models/of/mine' is no name of a Hub model", ["./"]),
    ("models.base.source", "a{b}", "models.base.source: 'a{b}' has a brace", ["wildcard"]),
    ("models.base.source", "", "models.base.source: '' must not be empty", []),
    ("models.sft_2", {"parent": "sft", "method": "sft", "recipe": {"lora_r": 2}}, "models.sft_2.recipe.lora_r: sft_2 keeps the shape", []),
    ("data.cmv_corpora", ["a\0"], "data.cmv_corpora.0: 'a\\x00' has a character", []),
    ("data.cmv_corpora", ["a{b}"], "data.cmv_corpora.0: 'a{b}' has a brace", []),
    ("data.cmv_corpora", [""], "data.cmv_corpora.0: '' must not be empty", []),
    ("data.cmv_corpora", ["../a"], "data.cmv_corpora.0: '../a' is no name of a folder", []),
    ("data.p4g_corpus", "/a", "data.p4g_corpus: '/a' is no name of a folder", []),
    ("corpora_dir", "/{a}", "corpora_dir: '/{a}' has a brace", []),
    ("corpora_dir", "", "corpora_dir: must not be empty", []),
    ("llm.rubric", "a\nb.md", "llm.rubric: 'a\\nb.md' has a character", []),
    ("llm.model", "-x", "llm.model: '-x' begins with -", []),
    ("llm.base_url", "localhost:1", "llm.base_url: 'localhost:1' is no address", ["http://"]),
    ("wandb.project", " x", "wandb.project: ' x' begins or ends with a space", []),
    ("evaluation.other_players", {"o": {"source": "standin"}}, "evaluation.other_players.o.source: only models.base can be", []),
    ("evaluation.other_players", {"o": {"source": "./nowhere"}}, "evaluation.other_players.o.source: './nowhere' is not the folder", []),
    ("evaluation.other_players", {"o": {"model": "sft", "revision": "x"}}, "evaluation.other_players.o.revision: only a Hub model", []),
    ("evaluation.other_players", {"o": {"endpoint": "", "served_model": "x"}}, "evaluation.other_players.o.endpoint: '' must not be empty", []),
    ("evaluation.other_players", {"gpt-4.1": {}}, "evaluation.other_players.'gpt-4.1': needs one of model", []),
    ("evaluation.other_players", {"gpt-4.1": {"modle": 1}}, "evaluation.other_players.'gpt-4.1'.modle: unknown key", []),
    ("evaluation.other_players", {"o": {"source": "some/model", "revision": "v2"}}, "evaluation.other_players.o.revision: 'v2' of some/model", ["models.base.revision is 'main'", "write the same one"]),
    ("evaluation.other_players", {"o": {"source": "a/b"}, "p": {"source": "a/b", "revision": "x"}}, "evaluation.other_players.p.revision: 'x'", ["other_players.o.revision is 'main'"]),
    ("models", {"[key]": None}, "models.'[key]': None must be an object", []),
    ("models.[key]", {"source": "x"}, "models.'[key]': '[key]' is no name of a model", []),
    ("models", {1: {}}, "models.1: the key 1 is no text: put it in quotes", []),
    ("data", {"[key]": 1}, "data.'[key]': unknown key", []),
    ("data", {"a.b": 1}, "data.'a.b': unknown key", []),
    ("seed", 16**5000, "seed: a number of thousands of digits must be at most", []),
    ("sampling.top_p", 16**5000, "sampling.top_p: a number of thousands of digits", []),
    ("data.cmv_corpora", [16**5000], "data.cmv_corpora.0: a number of thousands of digits", []),
    ("recipes.sft.warmup_steps", -1, "recipes.sft.warmup_steps: -1 must be at least 0", []),
    ("recipes.sft.warmup_steps", 1.5, "recipes.sft.warmup_steps: 1.5 must be a whole number", []),
    ("recipes.dpo", {"warmup_steps": 5, "lr_scheduler_type": "constant"}, "recipes.dpo.warmup_steps: the schedule constant", ["constant_with_warmup"]),
    ("recipes.sft.logging_steps", 0, "recipes.sft.logging_steps: 0 must be above 0", []),
    ("recipes.dpo.logging_steps", 2.5, "recipes.dpo.logging_steps: 2.5 must be a whole number", []),
    ("recipes.sft", {"eval_strategy": "steps", "eval_steps": 1.5}, "recipes.sft.eval_steps: 1.5 must be a whole", []),
    ("recipes.sft", {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 6}, "recipes.sft.save_steps: 6 must be a multiple of eval_steps 4", []),
    ("recipes.reward", {"eval_strategy": "steps", "eval_steps": 0.1}, "recipes.reward.save_steps: 500 must be a multiple of eval_steps 0.1, both", []),
    ("models.sft.recipe", {"eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.3}, "models.sft.recipe.save_steps: 0.3 ", []),
    ("recipes.sft.max_steps", 0, "recipes.sft.max_steps: 0 must be at least 1", []),
    ("recipes.dpo", {"loss_type": ["ipo"], "label_smoothing": 0.1}, "recipes.dpo.label_smoothing: trl ignores it with the loss ipo", []),
    ("recipes.dpo", {"loss_type": ["robust"], "label_smoothing": 0.5}, "recipes.dpo.label_smoothing: 0.5 must be below 0.5", []),
    ("recipes.sft.lora_target_modules", ["q_proj", "q_proj"], "recipes.sft.lora_target_modules: 'q_proj' stands there twice", []),
    ("recipes.sft.max_length", 512, "recipes.sft: max_length 512 ", ["at least data.max_seq_length 1024"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "path, value, prefix, parts", MISTAKES, ids=[f"{m[0]}={shortened(m[1])}" for m in MISTAKES]
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(path, value, prefix, parts):
    message = error_message(changed(path, value))
    assert message.startswith(prefix), message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "changes, key", [({"device": "cpu", "recipes": {"dpo": {"use_4bit": True}}}, "recipes.dpo.use_4bit"),
                     ({"standin": {"num_attention_heads": 5}}, "standin.num_attention_heads"),
                     ({"standin": {"hidden_size": 40}}, "standin.hidden_size")],
)  # fmt: skip
def test_what_no_job_of_the_study_can_do_is_refused(changes, key):
    study = changed("models.base.source", "standin") | changes
    assert error_message(study).startswith(f"{key}: ")


STEPS = st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 1, 1.5, 2, 3, 6, 10, 20.0, 250, 500])


@given(st.dictionaries(st.sampled_from(["logging_steps", "eval_steps", "save_steps"]), STEPS))
def test_recipes_that_are_taken_are_those_that_trl_takes(steps):
    from trl import SFTConfig

    try:
        SFTConfig(
            use_cpu=True, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", report_to=[],
            bf16=False, **steps,
        )  # fmt: skip
        invalid = False
    except ValueError:
        invalid = True
    study = changed("recipes.sft", {"eval_strategy": "steps", **steps})
    assert invalid == (
        error_message(study).startswith("recipes.sft.") if invalid else not load_config(study)
    )


def test_unknown_keys_are_told_first():
    study = changed("data.max_tokns", 3) | {"seed": "one"}
    assert error_message(study).startswith("data.max_tokns: unknown key")


def test_the_hint_about_numbers_comes_only_where_it_fits():
    assert "1e-4" not in error_message(changed("seed", "one"))


def test_a_value_of_any_length_is_cut():
    assert len(error_message(changed("seed", "x" * 10_000))) < 300


KEYS = {
    path.replace("models.NAME", "models.rlhf").replace("NAME", "other"): field
    for path, field in keys_of(Config)
}
LEAVES = sorted(path for path, field in KEYS.items() if not section_in(field.annotation))
WORDS = st.sampled_from(["1e-4", "yes", "true", "12", "base", "$X", "a\nb", "", "\ud800", "off"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.booleans(), part, max_size=2)
    ),
    max_leaves=5,
)
VALIDATOR = Draft7Validator(yaml.safe_load(json_schema()))


@given(st.sampled_from(sorted(KEYS)), VALUES)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(path, value):
    try:
        load_config(changed(path, value)).resolved()
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        str(error).encode()


@given(st.sampled_from(LEAVES), SCALARS | st.just([[]]) | st.just({"x": 1}))
def test_what_the_schema_of_editors_refuses_is_refused_with_the_key(path, value):
    assume((path, value) != ("wandb.mode", False))  # a bare off, for YAML 1.1
    study = changed(path, value)
    if next(VALIDATOR.iter_errors(study), None):
        assert error_message(study).startswith(path)


def test_truth_is_allowed_in_a_synthetic_world():
    study = changed("evaluation.judges", ["truth", "length"])
    study["world"] = {"threads": 50, "replies": 3}
    assert load_config(study).evaluation.judges == ["truth", "length"]


def test_one_judge_at_least_labels_nothing():
    study = changed("evaluation.judges", ["delta", "length"])
    study["labels"] = {
        "ai": {"judge": "length"},
        "human": {"source": "simulated", "judge": "delta"},
    }
    assert load_config(study)  # no model learns from AI labels
    study["models"]["rlaif"] = {"parent": "sft", "method": "dpo", "pool": "ai"}
    assert error_message(study).startswith(
        "evaluation.judges: models learn from labels of every one of them (delta, length)"
    )
    study["evaluation"]["judges"] = ["delta", "length", "interplay"]
    assert load_config(study)


def test_every_key_is_described_and_every_section_closed():
    assert len(KEYS) > 200
    assert [path for path, field in KEYS.items() if not (field.description or "").strip()] == []
    sections = [section_in(field.annotation) for field in KEYS.values()]
    assert {section.model_config["extra"] for section in [Config, *filter(None, sections)]} == {
        "forbid"
    }


def test_the_list_of_keys_and_the_schema_of_editors_are_those_of_the_model():
    """`python -m persuasion_rl.study.reference` writes both."""
    assert README.read_text(encoding="utf-8") == readme()
    assert SCHEMA.read_text(encoding="utf-8") == json_schema()


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_editors_find_the_schema_of_a_study_and_no_mistake(file):
    first = file.read_text().splitlines()[0]
    assert (CONFIG / first.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA
    assert list(VALIDATOR.iter_errors(yaml.safe_load(file.read_text()))) == []


def test_a_folder_of_corpora_that_a_made_up_world_would_pass_over_is_refused(tmp_path):
    """As by `extends: demo.yaml`, whose world is inherited."""
    study = yaml.safe_load((CONFIG / "demo.yaml").read_text()) | {"corpora_dir": str(tmp_path)}
    assert "write `world: null` to study yours" in error_message(study)
