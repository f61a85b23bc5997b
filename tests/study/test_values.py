"""Values that are refused though their type is right: numbers, names, addresses, unused settings; sizes. A number has one spelling."""

import json
import re
from datetime import date

import pytest
import yaml

from persuasion_rl.study.loading import load_config
from persuasion_rl.study.names import own_file
from persuasion_rl.study.parsing import shortened
from running import ROOT
from test_config import CONFIG, SMALL, changed, error_message

MISTAKES = [
    # path, value, what the message begins with, what else it says
    ("data.max_tokens", "1e5", "data.max_tokens: '1e5' must be an integer (YAML reads '1e5' as text: write 1.0e+5)", []),
    ("sampling.temperature", "1.0e5", "sampling.temperature: '1.0e5' must be a number (YAML reads '1.0e5' as text: write 1.0e+5)", []),
    ("seed", "008", "seed: '008' must be an integer (YAML reads '008' as text: write 8)", []),
    ("seed", "\uff18", "seed: '\uff18' must be an integer (YAML reads '\uff18' as text: write 8)", []),
    ("seed", "010", "seed: '010' must be an integer (in quotes it is text)", []),
    ("seed", 2**40, "seed: 1099511627776 must be at most 4294967295", []),
    ("models.base.source", False, "models.base.source: False must be a string (put it in quotes", []),
    ("models", {True: {}}, "models.True: the key True is no text: put it in quotes", []),
    ("data.max_p4g_examples", 5, "data.max_p4g_examples: means nothing without PersuasionForGood", ["use_p4g: true"]),
    ("data.p4g_donation_weighted", True, "data.p4g_donation_weighted: means nothing without", []),
    ("recipes.sft", {"eval_steps": 5}, "recipes.sft.eval_steps: means nothing with eval_strategy: epoch", ["steps"]),
    ("models.rlhf.recipe", {"save_steps": 5}, "models.rlhf.recipe.save_steps: means nothing with", []),
    ("labels.human", {"source": "simulated", "annotators": 1, "several": 5}, "labels.human.several: 5 annotators a pair", ["is 1"]),
    ("recipes.dpo.loss_weights", [0], "recipes.dpo.loss_weights: one must be above 0", []),
    ("recipes.dpo.loss_weights", [-1], "recipes.dpo.loss_weights.0: -1 must be at least 0", []),
    ("evaluation.comparisons", ["sft:base", "sft:base"], "evaluation.comparisons: 'sft:base' stands there twice", []),
    ("evaluation.comparisons", ["sft:base", "base:sft"], "evaluation.comparisons: 'base:sft' stands there in the other order", []),
    ("data.max_examples", 100_000_000, "data.max_examples: 100000000 must be at most 10000000", []),
    ("data.max_examples", 1.0e14, "data.max_examples: ", ["at most 10000000"]),
    ("data.max_examples", 5, "data.max_examples: 5 must be at least 10", []),
    ("data", {"max_examples": 300, "split": {"train": 0.599, "val": 0.001, "test": 0.4}}, "data.split.val: 0.001 of data.max_examples 300 is no row", ["more examples"]),
    ("recipes.dpo", {"loss_type": ["sigmoid", "sigmoid"], "loss_weights": [1, 1]}, "recipes.dpo.loss_type: 'sigmoid' stands there twice", []),
    ("models.base.source", date(2024, 1, 1), "models.base.source: 2024-01-01 must be a string (put it in quotes", []),
    ("data.cmv_corpora", ["v1/corpus", "v2/corpus"], "data.cmv_corpora: 'v1/corpus' and 'v2/corpus' both have the name 'corpus'", []),
    ("data", {"p4g_corpus": "x/subreddit-changemyview", "use_p4g": True}, "data.p4g_corpus: 'subreddit-changemyview' and 'x/subreddit-changemyview'", []),
    *[
        ("sampling.base_url", f"http://h/v1?{query}=abc", "sampling.base_url: looks like a key", ["environment only"])
        for query in ("token", "api-key", "a=1&client_secret", "password", "api_token", "x.key")
    ],
    ("sampling.base_url", "http://h/v1?max_tokens=5", "sampling.base_url: the engine openai, and no other", []),
    ("data.human_pool_size", 0, "data.human_pool_size: 0 must be at least 1", []),
    ("data.ai_pool_size", 1e9, "data.ai_pool_size: ", ["at most 10000000"]),
    ("pools.ai.shard_rows", 3, "pools.ai.shard_rows: 3 prompts a job are more than 2,000 jobs", ["8,000", "at least 4"]),
    ("world", {"threads": 10_000_000, "replies": 5}, "world.threads: 10,000,000 with 5 replies", ["fewer"]),
    ("world", {"threads": 10, "replies": 10**9}, "world.replies: 1000000000 must be at most 1000", []),
    ("pools.ai", {"responses": 10**6}, "pools.ai.responses: 1000000 must be at most 100", []),
    ("labels.human.annotators", 0, "labels.human.annotators: 0 must be at least 1", []),
    ("evaluation.bootstrap", 10**9, "evaluation.bootstrap: 1000000000 must be at most 1000000", []),
    ("study", "s" * 256, "study: ", ["must have at most 100 letters"]),
    ("models." + "ab" * 31, {"parent": "base", "method": "sft"}, "models.", ["has more than 60 letters"]),
    ("models." + "a" * 40, {"parent": "base", "method": "sft"}, "models.", ["ends in 'a' twenty times"]),
    ("evaluation.other_players", {"ab" * 20: {"model": "sft"}}, "evaluation.other_players.", ["ends in 'ab' twenty times"]),
    ("data.cmv_corpora", ["a" * 20], "data.cmv_corpora.0: ", ["ends in 'a' twenty times"]),
    *[
        ("llm.base_url", address, f"llm.base_url: '{address}' is no address", ["http://"])
        for address in ("http://[::1", "http://", "http://:80/v1", "http://localhost:abc/v1", "http://localhost:99999")
    ],
    ("evaluation.other_players", {"o": {"endpoint": "http://[::1", "served_model": "m"}}, "evaluation.other_players.o.endpoint: ", ["is no address"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "path, value, prefix, parts",
    MISTAKES,
    ids=[f"{m[0][:50]}={shortened(m[1], 60)}" for m in MISTAKES],
)
def test_a_value_that_no_job_could_use_is_refused_in_one_line(path, value, prefix, parts):
    message = error_message(changed(path, value))
    assert message.startswith(prefix), message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"Judge.\n\xff", "line 2: not UTF-8"), (b" \n", "is empty"), (None, "there is no file")],
)
@pytest.mark.parametrize("key", ["rubric", "honesty_rubric"])
def test_a_rubric_is_a_text_that_is_there(tmp_path, key, content, problem):
    file = tmp_path / "rubric.md"
    if content is not None:
        file.write_bytes(content)
    study = changed("llm", {"model": "m", key: str(file)})
    study["evaluation"] = {"judges": ["llm", "length"], "players": ["base", "sft"]}
    message = error_message(study)
    assert message.startswith(f"llm.{key}: ") and problem in message and str(file) in message
    file.write_text("Judge.")
    assert load_config(study)


def test_the_projects_own_rubrics_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_file("resources/rubrics/honesty.md") == str(ROOT / "resources/rubrics/honesty.md")
    assert own_file("mine.md") == "mine.md"
    (tmp_path / "resources/rubrics").mkdir(parents=True)
    (tmp_path / "resources/rubrics/honesty.md").touch()
    assert own_file("resources/rubrics/honesty.md") == "resources/rubrics/honesty.md"


def test_values_at_the_limits_are_accepted():
    for path, value in (
        ("models." + "a" * 19, {"parent": "base", "method": "sft"}),
        ("models." + "ab" * 9 + "c" * 40 + "d", {"parent": "base", "method": "sft"}),
        ("study", "s" * 100),
        ("data.ai_pool_size", None),
        ("data.max_p4g_examples", None),
        ("recipes.dpo.loss_weights", [0.5]),
        ("labels.human", {"source": "simulated", "annotators": 1}),
        ("llm.base_url", "https://[::1]:8000/v1"),
        ("llm.base_url", "http://host/v1"),
        ("pools.ai.shard_rows", 4),
    ):
        assert load_config(changed(path, value))
    inherited = changed(
        "recipes.sft", {"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.1}
    )
    inherited["models"]["sft"]["recipe"] = {"eval_strategy": "epoch"}
    assert load_config(inherited), "a model's recipe cannot take back a key of its method's"


@pytest.mark.parametrize(
    "key, value, other_spelling",
    [
        ("sampling.temperature", 1, 1.0),
        ("labels.ai.noise", 0, -0.0),
        ("labels.human.overlap", 1, 1.0),
        ("llm.temperature", 2, 2.0),
        ("llm.prices", {"input": 1, "output": 2.5}, {"input": 1.0, "output": 2.5}),
        ("seed", 3, 3.0),
        ("pools.ai", {"shard_rows": 30}, {"shard_rows": 30.0}),
        ("data.near_duplicate", 1, 1.0),
        ("data.max_tokens", 512, 512.0),
        ("recipes.sft.num_train_epochs", 2, 2.0),
        ("recipes.sft.warmup_steps", 10, 10.0),
        ("models.sft.recipe", {"weight_decay": 0}, {"weight_decay": 0.0}),
        (
            "recipes.dpo",
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.2]},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
        ),
    ],
)
def test_a_number_has_one_spelling(key, value, other_spelling):
    """Numbers become flags, and 1 and 1.0 would be two commands."""
    first, second = (load_config(changed(key, each)).resolved() for each in (value, other_spelling))
    assert json.dumps(first) == json.dumps(second)
    assert not re.search(r"-?\d\.0+(?!\d)", json.dumps(first).replace("127.0.0.1", "")), (
        "whole numbers are ints"
    )


def test_one_key_makes_a_study_larger_or_smaller():
    """Applied once: the recorded configuration, read again, is the same study."""
    study = yaml.safe_load((CONFIG / "demo.yaml").read_text())
    once, thrice = load_config(study), load_config(study | {"size_factor": 3})
    sizes = ("max_examples", "ai_pool_size", "human_pool_size", "final_eval_size")
    for size in sizes:
        assert getattr(thrice.data, size) == 3 * getattr(once.data, size)
    assert thrice.world.threads == 3 * once.world.threads
    assert thrice.world.replies == once.world.replies and thrice.data.max_p4g_examples is None
    assert thrice.data.split == once.data.split and thrice.recipes == once.recipes
    assert load_config(thrice.resolved()) == thrice
    assert load_config(study | {"size_factor": 0.5}).data.max_examples == once.data.max_examples / 2


@pytest.mark.parametrize(
    "factor, problem",
    [
        (1e6, "size_factor: 1000000: data.max_examples would be 50,000,000,000, which is not allowed"),
        (1e-6, "size_factor: 1e-06: data.max_examples would be 0, which is not allowed"),
        (0, "size_factor: 0 must be above 0"),
        ("3x", "size_factor: '3x' must be a number"),
    ],
)  # fmt: skip
def test_a_size_that_no_study_can_have_is_one_line(factor, problem):
    assert error_message(SMALL | {"size_factor": factor}) == problem
