"""Training through the real libraries: SFT, DPO and the delta judge on a tiny stand-in model."""

import importlib.metadata
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_sampling import make_tiny_base

from csv_files import read_csv
from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.files import (
    UserError,
    file_digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from persuasion_rl.judges.base import TIE, Comparison, judge_both_orders
from persuasion_rl.judges.delta import DeltaJudge, load_scorer
from persuasion_rl.models.loading import base_digest, check_lineage, load_base, load_tokenizer
from persuasion_rl.training.batches import Batches
from persuasion_rl.training.reward import train_delta_judge
from persuasion_rl.training.tokenize import tokenize
from persuasion_rl.training.trainer import (
    Run,
    assert_supervised,
    divide_recipe,
    runs,
    trainer_arguments,
    write_record,
)

SEED = 1
COMMON = dict(seed=SEED, threads=1, device="cpu")
RECIPE = {
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 64,
    "effective_batch_size": 8,
    "max_length": 640,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "logging_steps": 1,
}
LORA = {
    "lora_r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
}
SFT_STEPS = 8
SFT = RECIPE | LORA | dict(max_steps=SFT_STEPS, eval_steps=SFT_STEPS, save_steps=SFT_STEPS)
DPO = RECIPE | {"beta": 0.1, "loss_type": "sigmoid"}
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.getbasetemp() / "tiny_base")


@dataclass
class Files:
    """The rows that trainings learn from, as text."""

    base: Path
    sft_train: Path
    sft_val: Path
    dpo_train: Path
    dpo_val: Path
    pairs: Path
    sides: Path

    def tokens(self, rows: Path) -> Path:
        """Their token ids, made once beside them."""
        path = rows.with_suffix(".parquet")
        if not path.exists():
            tokenize(rows=rows, base=self.base, output=path)
        return path


@pytest.fixture(scope="session")
def files(tiny_base, tmp_path_factory) -> Files:
    """SFT rows and preference pairs, by side."""
    folder = tmp_path_factory.mktemp("rows")
    side_of = {row["conversation_id"]: row["side"] for row in read_csv(tiny_base / "sides.csv")}
    pairs = tiny_base / "pairs.jsonl"
    for side in ("train", "val"):
        rows = read_jsonl(tiny_base / "examples.jsonl")
        on_side = [row for row in rows if side_of[row["metadata"]["conversation_id"]] == side]
        write_jsonl(folder / f"sft_{side}.jsonl", on_side[:24])
        preferences = [
            {
                "prompt": row["prompt"],
                "chosen": row["winner"],
                "rejected": row["loser"],
                "metadata": row["metadata"],
            }
            for row in pairs_on(side, pairs, tiny_base / "sides.csv")
        ]
        write_jsonl(folder / f"dpo_{side}.jsonl", preferences[:16])
    return Files(
        base=tiny_base / "base",
        sft_train=folder / "sft_train.jsonl",
        sft_val=folder / "sft_val.jsonl",
        dpo_train=folder / "dpo_train.jsonl",
        dpo_val=folder / "dpo_val.jsonl",
        pairs=pairs,
        sides=tiny_base / "sides.csv",
    )


@pytest.fixture(scope="module")
def tokenizer(files):
    return load_tokenizer(files.base)


def train_sft(files: Files, folder: Path, **changed) -> dict:
    from persuasion_rl.training.sft import train_sft as train

    own = dict(train=files.sft_train, val=files.sft_val, state=folder / "state")
    arguments = COMMON | dict(base=files.base, adapter=folder / ADAPTER) | own | SFT | changed
    return train(**with_tokens(files, arguments))


def with_tokens(files: Files, arguments: dict) -> dict:
    return arguments | {name: files.tokens(arguments[name]) for name in ("train", "val")}


def train_dpo(files: Files, folder: Path, parent: Path, **changed) -> dict:
    from persuasion_rl.training.dpo import train_dpo as train

    own = dict(train=files.dpo_train, val=files.dpo_val, state=folder / "state", parent="sft")
    paths = dict(base=files.base, adapter=folder / ADAPTER, lineage=[parent])
    return train(**with_tokens(files, COMMON | paths | own | DPO | changed))


@pytest.fixture(scope="module")
def sft(files, tmp_path_factory) -> Path:
    """A trained SFT adapter."""
    folder = tmp_path_factory.mktemp("sft")
    train_sft(files, folder)
    return folder / ADAPTER


@pytest.fixture(scope="module")
def delta(files, tmp_path_factory) -> Path:
    """A trained delta judge."""
    folder = tmp_path_factory.mktemp("delta")
    train_delta_judge(
        base=files.base,
        pairs=files.tokens(files.pairs),
        sides=files.sides,
        adapter=folder / ADAPTER,
        state=folder / "state",
        **COMMON,
        **RECIPE,
        **LORA,
    )
    return folder / ADAPTER


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(adapter)


def log_probability(model, tokenizer, prompt: str, response: str) -> float:
    """Of a response and its EOS given its prompt, without a batch or padding."""
    start = tokenizer(prompt)["input_ids"]
    answer = [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([start + answer])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(dim=-1)[range(len(answer)), answer].sum().item()


def with_adapter(base: Path, adapter: Path, **options):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base, "cpu"), adapter.parent, **options)


# What a batch teaches


RESPONSES = ["Buses save time.", "I see your point."]


@pytest.fixture
def stretches(request) -> list[tuple[int, ...]]:
    """The two responses, each with its EOS."""
    tokenizer = request.getfixturevalue("tokenizer")
    return [(*ids, tokenizer.eos_token_id) for ids in tokenizer(RESPONSES)["input_ids"]]


@pytest.mark.slow
def test_whole_responses_with_their_eos_are_accepted(stretches, tokenizer, capsys):
    assert_supervised(stretches, tokenizer, stretches)
    assert "2 supervised stretches" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a prompt token too", "no EOS", "cut", "begun late", "nothing"])
def test_wrong_supervision_stops_the_training(what, stretches, tokenizer):
    first, second = stretches
    prompt_token = tokenizer("\n")["input_ids"][-1]
    wrong = {
        "a prompt token too": [first, (prompt_token, *second)],
        "no EOS": [first, second[:-1]],
        "cut": [first, (*second[:-3], second[-1])],
        "begun late": [first, second[1:]],
        "nothing": [],
    }[what]
    with pytest.raises(AssertionError):
        assert_supervised(wrong, tokenizer, stretches)


def test_stretches_of_a_masked_row_are_told_apart():
    values = [1, 2, 3, 4, 5, 6]
    assert runs(values, [False, True, True, False, True, True]) == [(2, 3), (5, 6)]
    assert runs(values, [True, False, False, False, False, False]) == [(1,)]
    assert runs(values, [False] * 6) == []


# Recipes


def test_a_recipe_is_divided_and_left_as_it_is():
    recipe = {"effective_batch_size": 16, "per_device_train_batch_size": 4, "lora_r": 2}
    trainer, lora, batches = divide_recipe(recipe | {"loss_type": "ipo", "beta": 0.2})
    assert trainer == {"loss_type": ["ipo"], "beta": 0.2}
    assert lora["lora_r"] == 2 and lora["lora_target_modules"] and lora["use_4bit"] is False
    assert batches == {"effective": 16, "wanted": 4, "gradient_checkpointing": False}
    assert recipe["effective_batch_size"] == 16  # the recipe itself is recorded as given


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("learnin_rate", 0.1), ("eval_strategy", "sometimes")])
def test_an_argument_that_the_trainer_does_not_know_is_the_users_mistake(name, value, tmp_path):
    from trl import SFTConfig

    run = a_run("sft", tmp_path)
    with pytest.raises(UserError, match="SFTConfig") as refusal:
        trainer_arguments(SFTConfig, {name: value}, run, ONE_BATCH)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value) or value in str(refusal.value)


ONE_BATCH = Batches(rows=8, accumulation=1, processes=1, gradient_checkpointing=False)


def a_run(method: str, folder: Path, **changed) -> Run:
    """The record of a training that was not run."""
    usual = dict(
        method=method, base=folder / "base", parent="base", parent_digest="", data={}, recipe={}, seed=SEED,
        device="cpu", state=folder / "state", adapter=folder / ADAPTER, tracking={},
    )  # fmt: skip
    return Run(**(usual | changed))


# The lineage of adapters


@pytest.fixture
def chain(tmp_path) -> tuple[Path, list[Path]]:
    """A base folder and two adapters, one on the other, with the records that a training writes."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (base / name).write_text(f"this is {name}")
    parent, digest = "base", base_digest(base)
    adapters = []
    for name in ("sft", "rlaif"):
        adapter = tmp_path / name / ADAPTER
        adapter.parent.mkdir()
        adapter.write_text(f"weights of {name}")
        (adapter.parent / "adapter_config.json").write_text(f'{{"r": 8, "of": "{name}"}}')
        run = a_run("sft", tmp_path, parent=parent, parent_digest=digest, adapter=adapter)
        write_record(run, history=[], metrics={}, batches={}, resolved={})
        parent, digest = name, file_digest(adapter)
        adapters.append(adapter)
    return base, adapters


def test_a_chain_that_fits_is_accepted(chain):
    base, (sft, rlaif) = chain
    assert check_lineage(base, []) == base_digest(base) == file_digest(base / "model.safetensors")
    assert check_lineage(base, [sft]) == file_digest(sft)
    assert check_lineage(base, [sft, rlaif]) == file_digest(rlaif)


def refused(base: Path, adapters: list[Path], match: str) -> None:
    with pytest.raises(UserError, match=match) as refusal:
        check_lineage(base, adapters)
    assert "\n" not in str(refusal.value)


def test_a_parent_that_was_trained_again_is_refused(chain):
    base, (sft, rlaif) = chain
    sft.write_text("other weights of sft")
    recipe = read_json(sft.parent / "recipe.json")
    write_json(sft.parent / "recipe.json", recipe | {"adapter_digest": file_digest(sft)})
    check_lineage(base, [sft])
    refused(base, [sft, rlaif], "its parent sft has changed")


def test_a_chain_without_its_parent_is_refused(chain):
    base, (_, rlaif) = chain
    refused(base, [rlaif], "its parent sft has changed")


def test_another_base_is_refused(chain):
    base, adapters = chain
    (base / "model.safetensors").write_text("another model")
    refused(base, adapters, "another base model")


def test_an_adapter_file_that_its_recipe_does_not_describe_is_refused(chain):
    base, (sft, rlaif) = chain
    rlaif.write_text("weights from elsewhere")
    refused(base, [sft, rlaif], r"rlaif.*is not the file that its recipe\.json describes")


def test_an_adapter_whose_scale_was_changed_is_refused(chain):
    base, (sft, rlaif) = chain
    (rlaif.parent / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 1}')
    refused(base, [sft, rlaif], r"rlaif/adapter_config\.json: is not the file")


@pytest.mark.parametrize("key", ["parent_digest", "base_digest", "adapter_digest"])
def test_a_record_that_lacks_a_key_is_named(chain, key):
    base, (sft, rlaif) = chain
    recipe = read_json(sft.parent / "recipe.json")
    write_json(sft.parent / "recipe.json", {k: v for k, v in recipe.items() if k != key})
    refused(base, [sft, rlaif], rf"sft/recipe\.json: the key '{key}' is missing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_base_is_refused(chain, name):
    base, adapters = chain
    (base / name).unlink()
    refused(base, adapters, f"{name} is missing")


# Supervised fine-tuning


@pytest.mark.slow
def test_sft_writes_its_files_with_the_right_digests(sft, files):
    folder = sft.parent
    recipe = read_json(folder / "recipe.json")
    assert recipe["parent"] == "base"
    assert recipe["parent_digest"] == recipe["base_digest"] == base_digest(files.base)
    assert recipe["adapter_digest"] == file_digest(sft) == check_lineage(files.base, [sft])
    assert recipe["data"] == {
        "train": file_digest(files.sft_train),
        "val": file_digest(files.sft_val),
    }
    assert recipe["recipe"] == SFT
    assert (
        recipe["resolved"]["weight_decay"] == 0.0
    )  # trl's default, which the recipe does not name
    assert recipe["resolved"]["lr_scheduler_type"] == "constant"
    assert recipe["precision"] == "float32" and recipe["batches"]["processes"] == 1
    assert recipe["seed"] == SEED
    assert recipe["packages"]["torch"] == importlib.metadata.version("torch")
    config = read_json(folder / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 16, 0.1)
    history = list(read_jsonl(folder / "history.jsonl"))
    assert [row["step"] for row in history if "loss" in row] == list(range(1, SFT_STEPS + 1))


@pytest.mark.slow
def test_sft_lowers_the_validation_loss(sft, files):
    metrics = read_json(sft.parent / "metrics.json")
    assert metrics["method"] == "sft"
    assert metrics["steps"] == SFT_STEPS
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.02
    assert metrics["train_rows"] == 24


@pytest.mark.slow
def test_the_recorded_losses_are_those_of_base_and_saved_adapter(sft, files, tokenizer):
    metrics = read_json(sft.parent / "metrics.json")
    rows = list(read_jsonl(files.sft_val))
    assert metrics["val_rows"] == len(rows) <= 64  # one batch: its mean is a mean over tokens
    tokens = sum(len(ids) + 1 for ids in tokenizer([row["response"] for row in rows])["input_ids"])
    for name, model in (
        ("eval_loss_before", load_base(files.base, "cpu").eval()),
        ("eval_loss", with_adapter(files.base, sft).eval()),
    ):
        total = sum(
            log_probability(model, tokenizer, row["input_text"], row["response"]) for row in rows
        )
        assert abs(metrics[name] - -total / tokens) < 1e-4, name


@pytest.mark.slow
def test_sft_saves_lora_parameters_only(sft):
    found = weights(sft)
    assert found and all(".lora_A." in name or ".lora_B." in name for name in found)
    count = sum(tensor.numel() for tensor in found.values())
    assert count == read_json(sft.parent / "metrics.json")["trainable_parameters"]
    assert any(tensor.any() for name, tensor in found.items() if ".lora_B." in name)


@pytest.mark.slow
def test_no_checkpoint_is_left_after_a_training(sft):
    assert list((sft.parent / "state").iterdir()) == []
    left = {path.name for path in sft.parent.iterdir()} - {"state"}
    records = {"metrics.json", "history.jsonl", "recipe.json"}
    assert left == {ADAPTER, "adapter_config.json"} | records


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_to_the_byte(sft, files, tmp_path):
    train_sft(files, tmp_path)
    assert (tmp_path / ADAPTER).read_bytes() == sft.read_bytes()
    assert (tmp_path / "recipe.json").read_bytes() == (sft.parent / "recipe.json").read_bytes()


@pytest.mark.slow
def test_an_empty_response_is_named_by_file_and_line(files, tmp_path):
    rows = list(read_jsonl(files.sft_train))
    rows[2]["response"] = " \n"
    train = tmp_path / "train.jsonl"
    write_jsonl(train, rows)
    with pytest.raises(UserError, match=r"train\.jsonl, line 3: .*empty") as refusal:
        train_sft(files, tmp_path, train=train)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / ADAPTER).exists()


STOPPED = (AssertionError, UserError)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["part of the prompt", "half of the response"])
def test_responses_cut_by_max_length_stop_the_training(kept, files, tokenizer, tmp_path):
    row = next(iter(read_jsonl(files.sft_train)))
    train = tmp_path / "train.jsonl"
    write_jsonl(train, [row] * 8)
    prompt, response = (len(tokenizer(row[key])["input_ids"]) for key in ("input_text", "response"))
    max_length = 16 if kept == "part of the prompt" else prompt + response // 2
    with pytest.raises(STOPPED):
        train_sft(files, tmp_path, train=train, max_length=max_length)
    assert not (tmp_path / ADAPTER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("longer", ["response", "input_text"])
def test_one_row_over_max_length_stops_the_training(longer, files, tokenizer, tmp_path):
    """Else trl cuts a long response, and drops the row of a long prompt without a word."""
    rows = list(read_jsonl(files.sft_train))
    lengths = [
        sum(len(tokenizer(row[key])["input_ids"]) for key in ("input_text", "response"))
        for row in rows
    ]
    train = tmp_path / "train.jsonl"
    write_jsonl(train, [*rows, rows[0] | {longer: " ".join([rows[0][longer]] * 9)}])
    with pytest.raises(STOPPED):
        train_sft(files, tmp_path, train=train, max_length=max(lengths) + 1)


@pytest.mark.slow
def test_sft_goes_on_from_a_parents_adapter(sft, files, tmp_path):
    metrics = train_sft(files, tmp_path, lineage=[sft], parent="sft", learning_rate=1e-12)
    before = read_json(sft.parent / "metrics.json")["eval_loss"]
    assert abs(metrics["eval_loss_before"] - before) < 1e-5
    child = weights(tmp_path / ADAPTER)
    for name, tensor in weights(sft).items():
        torch.testing.assert_close(child[name], tensor, rtol=0, atol=1e-7)
    check_lineage(files.base, [sft, tmp_path / ADAPTER])


# Direct preference optimisation


@pytest.mark.slow
def test_dpo_starts_from_its_reference_and_saves_a_complete_adapter(
    sft, files, tokenizer, tmp_path, capfd
):
    metrics = train_dpo(files, tmp_path, sft)
    note = capfd.readouterr().err
    assert "rewards 0 and 0, sigmoid term 0.6931" in note
    assert abs(metrics["eval_loss_before"] - math.log(2)) < 1e-4
    adapter = tmp_path / ADAPTER
    # Loaded alone on the base, it is the policy that the trainer measured at its end.
    policy, reference = (with_adapter(files.base, path).eval() for path in (adapter, sft))
    margins = []
    for row in read_jsonl(files.dpo_val):
        rewards = [
            0.1
            * (
                log_probability(policy, tokenizer, row["prompt"], row[key])
                - log_probability(reference, tokenizer, row["prompt"], row[key])
            )
            for key in ("chosen", "rejected")
        ]
        margins.append(rewards[0] - rewards[1])
    assert max(map(abs, margins)) > 0.01  # the training moved the policy
    assert abs(metrics["eval_reward_margin"] - sum(margins) / len(margins)) < 1e-4
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
    assert abs(metrics["eval_loss"] - loss) < 1e-4
    # The record names the parent, and nothing of the reference is left.
    recipe = read_json(tmp_path / "recipe.json")
    assert recipe["parent"] == "sft" and recipe["parent_digest"] == file_digest(sft)
    assert check_lineage(files.base, [sft, adapter]) == file_digest(adapter)
    assert weights(adapter).keys() == weights(sft).keys()
    assert not any(path.name == "ref" for path in tmp_path.rglob("*"))
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.slow
def test_a_dpo_that_learns_nothing_saves_its_parent(sft, files, tmp_path):
    train_dpo(files, tmp_path, sft, learning_rate=1e-12)
    child, parent = weights(tmp_path / ADAPTER), weights(sft)
    assert child.keys() == parent.keys()
    assert any(tensor.any() for name, tensor in parent.items() if ".lora_B." in name)
    for name, tensor in parent.items():
        torch.testing.assert_close(child[name], tensor, rtol=0, atol=1e-7)


def dpo_trainer(files: Files, sft: Path, tokenizer, folder: Path, **arguments):
    """trl's trainer from an SFT adapter, by text rows and with padding."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = Dataset.from_list(
        [
            {key: row[key] for key in ("prompt", "chosen", "rejected")}
            for row in read_jsonl(files.dpo_train)
        ]
    )
    return DPOTrainer(
        model=with_adapter(files.base, sft, is_trainable=True),
        ref_model=None,
        args=DPOConfig(output_dir=str(folder), use_cpu=True, report_to=[], **arguments),
        processing_class=tokenizer,
        train_dataset=pairs,
        eval_dataset=pairs,
    )


@pytest.mark.slow
def test_dpo_refuses_to_start_away_from_its_reference(sft, files, tokenizer, tmp_path):
    from persuasion_rl.training.dpo import assert_start

    trainer = dpo_trainer(files, sft, tokenizer, tmp_path)
    assert_start(trainer, 0.1)
    assert trainer.model.training
    name, parameter = next(
        (name, p) for name, p in trainer.model.named_parameters() if ".lora_B.default." in name
    )
    with torch.no_grad():
        parameter += 0.05
    with pytest.raises(AssertionError, match="does not start from its reference"):
        assert_start(trainer, 0.1)
    assert name.replace(".default.", ".ref.") in dict(trainer.model.named_parameters())


@pytest.mark.slow
def test_dpo_refuses_a_parent_that_has_changed(sft, files, tmp_path):
    changed = tmp_path / "sft"
    shutil.copytree(sft.parent, changed)
    recipe = read_json(changed / "recipe.json")
    write_json(changed / "recipe.json", recipe | {"base_digest": "of another base"})
    with pytest.raises(UserError, match="another base model"):
        train_dpo(files, tmp_path / "dpo", changed / ADAPTER)


@pytest.mark.slow
def test_dpo_names_an_empty_response_by_file_and_line(sft, files, tmp_path):
    pairs = list(read_jsonl(files.dpo_train))
    pairs[1]["rejected"] = ""
    train = tmp_path / "train.jsonl"
    write_jsonl(train, pairs)
    with pytest.raises(UserError, match=r"train\.jsonl, line 2: the rejected is empty"):
        train_dpo(files, tmp_path, sft, train=train)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["every pair", "one pair"])
def test_dpo_responses_cut_by_max_length_stop_the_training(cut, sft, files, tokenizer, tmp_path):
    pairs = list(read_jsonl(files.dpo_train))
    lengths = {
        key: [len(ids) for ids in tokenizer([row[key] for row in pairs])["input_ids"]]
        for key in ("prompt", "chosen", "rejected")
    }
    train = tmp_path / "train.jsonl"
    if cut == "every pair":
        max_length = max(lengths["prompt"]) + 10
        write_jsonl(train, pairs)
    else:
        max_length = max(lengths["prompt"]) + max(lengths["chosen"] + lengths["rejected"]) + 1
        odd = pairs[0] | {"chosen": " ".join([pairs[0]["chosen"]] * 9)}
        write_jsonl(train, [*pairs, odd])
    with pytest.raises(STOPPED):
        train_dpo(files, tmp_path, sft, train=train, max_length=max_length)
    assert not (tmp_path / ADAPTER).exists()


# The delta judge


@pytest.mark.slow
def test_the_delta_judge_writes_its_files(delta, files):
    folder = delta.parent
    metrics, recipe = read_json(folder / "metrics.json"), read_json(folder / "recipe.json")
    assert metrics["method"] == "reward" and metrics["steps"] == 3
    for side, count in (("train", metrics["train_rows"]), ("val", metrics["val_rows"])):
        assert count == len(pairs_on(side, files.pairs, files.sides)) > 5
    assert recipe["parent_digest"] == recipe["base_digest"] == base_digest(files.base)
    assert recipe["adapter_digest"] == file_digest(delta) == check_lineage(files.base, [delta])
    assert recipe["data"] == {
        "train": file_digest(files.pairs),
        "val": file_digest(files.pairs),
        "sides": file_digest(files.sides),
    }
    assert any("score" in name for name in weights(delta))  # its head is saved with it
    assert list((folder / "state").iterdir()) == []


@pytest.fixture(scope="module")
def texts(files) -> list[tuple[str, str]]:
    rows = pairs_on("val", files.pairs, files.sides)
    return [(row["prompt"], row[key]) for row in rows for key in ("winner", "loser")]


@pytest.fixture(scope="module")
def scores(delta, files, texts) -> list[float]:
    return load_scorer(files.base, delta, "cpu", batch_size=1)(texts)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 64])
def test_scores_do_not_depend_on_the_batch(batch_size, delta, files, texts, scores):
    score = load_scorer(files.base, delta, "cpu", batch_size)
    assert max(scores) - min(scores) > 0.01
    assert score(texts) == pytest.approx(scores, abs=1e-4)
    assert score(texts[::-1])[::-1] == pytest.approx(scores, abs=1e-4)
    assert score(texts[4:5]) == pytest.approx(scores[4:5], abs=1e-4)


@pytest.mark.slow
def test_the_loaded_scorer_is_the_model_that_was_measured(delta, scores):
    wins = [winner > loser for winner, loser in zip(scores[::2], scores[1::2], strict=True)]
    metrics = read_json(delta.parent / "metrics.json")
    assert len(wins) == metrics["val_rows"]
    assert sum(wins) / len(wins) == pytest.approx(metrics["eval_accuracy"], abs=1e-6)
    losses = [
        math.log1p(math.exp(loser - winner))
        for winner, loser in zip(scores[::2], scores[1::2], strict=True)
    ]
    assert sum(losses) / len(losses) == pytest.approx(metrics["eval_loss"], abs=1e-4)


@pytest.mark.slow
def test_the_delta_judge_prefers_antisymmetrically(delta, files, texts, scores):
    judge = DeltaJudge(files.base, delta, "cpu")
    comparisons = [
        Comparison(prompt, winner, loser)
        for (prompt, winner), (_, loser) in zip(texts[::2], texts[1::2], strict=True)
    ]
    forward = judge.prefer(comparisons)
    assert judge.prefer([c.swapped() for c in comparisons]) == [-p for p in forward]
    for preference, first, second in zip(forward, scores[::2], scores[1::2], strict=True):
        probability = 1 / (1 + math.exp(second - first))
        assert abs(preference - (2 * probability - 1)) < 1e-4
    verdicts = judge_both_orders(judge, comparisons)
    for (verdict, opinions), preference in zip(verdicts, forward, strict=True):
        assert [o.verdict for o in opinions] == [verdict, verdict]
        assert (verdict == TIE) == (abs(preference) <= judge.tie_margin)
    same = Comparison(texts[0][0], "As good.", "As good.")
    assert judge.prefer([same]) == [0.0]
    assert judge_both_orders(judge, [same])[0][0] == TIE


@pytest.mark.slow
def test_the_delta_judge_refuses_another_base(delta, files, tmp_path):
    other = tmp_path / "base"
    shutil.copytree(files.base, other)
    model = load_base(files.base, "cpu")
    with torch.no_grad():
        model.model.norm.weight += 0.1
    model.save_pretrained(other)
    with pytest.raises(UserError, match="another base model"):
        DeltaJudge(other, delta, "cpu")


@pytest.mark.slow
def test_too_few_pairs_are_refused_in_one_line(files, tmp_path):
    sides = tmp_path / "sides.csv"
    sides.write_text(files.sides.read_text().replace(",val", ",test"))
    with pytest.raises(UserError, match="0 on val") as refusal:
        train_delta_judge(
            base=files.base,
            pairs=files.tokens(files.pairs),
            sides=sides,
            adapter=tmp_path / ADAPTER,
            state=tmp_path / "state",
            **COMMON,
            **SFT,
        )
    assert "\n" not in str(refusal.value)
