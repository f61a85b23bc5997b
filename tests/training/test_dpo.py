"""Direct preference optimisation with the real libraries, on a tiny stand-in model."""

import math
import shutil

import pytest
import torch

from persuasion_rl.files import (
    UserError,
    file_digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from persuasion_rl.models.lineage import check_lineage
from persuasion_rl.runtime.lock import LOCK
from tiny_trainings import (
    ADAPTER,
    log_probability,
    state_files,
    train_dpo,
    weights,
    with_adapter,
)


@pytest.mark.slow
def test_dpo_starts_from_its_reference_and_saves_a_complete_adapter(
    tiny_sft, tiny_dpo, tiny_rows, tiny_tokenizer
):
    metrics = read_json(tiny_dpo.parent / "metrics.json")
    assert abs(metrics["eval_loss_before"] - math.log(2)) < 1e-4
    # Loaded alone on the base, it is the policy that the trainer measured at its end.
    policy, reference = (with_adapter(tiny_rows.base, path).eval() for path in (tiny_dpo, tiny_sft))
    margins = []
    for row in read_jsonl(tiny_rows.dpo_val):
        rewards = [
            0.1
            * (
                log_probability(policy, tiny_tokenizer, row["prompt"], row[key])
                - log_probability(reference, tiny_tokenizer, row["prompt"], row[key])
            )
            for key in ("chosen", "rejected")
        ]
        margins.append(rewards[0] - rewards[1])
    assert max(map(abs, margins)) > 0.01  # the training moved the policy
    assert abs(metrics["eval_reward_margin"] - sum(margins) / len(margins)) < 1e-4
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
    assert abs(metrics["eval_loss"] - loss) < 1e-4
    # The record names the parent, and nothing of the reference is left.
    recipe = read_json(tiny_dpo.parent / "recipe.json")
    assert recipe["parent"] == "sft" and recipe["parent_digest"] == file_digest(tiny_sft)
    assert check_lineage(tiny_rows.base, [tiny_sft, tiny_dpo]) == file_digest(tiny_dpo)
    assert weights(tiny_dpo).keys() == weights(tiny_sft).keys()
    assert not any(path.name == "ref" for path in tiny_dpo.parent.rglob("*"))
    assert state_files(tiny_dpo.parent) == [LOCK]


@pytest.mark.slow
def test_a_dpo_that_learns_nothing_saves_its_parent(tiny_sft, tiny_rows, tmp_path):
    train_dpo(tiny_rows, tmp_path, tiny_sft, learning_rate=1e-12)
    child, parent = weights(tmp_path / ADAPTER), weights(tiny_sft)
    assert child.keys() == parent.keys()
    assert any(tensor.any() for name, tensor in parent.items() if ".lora_B." in name)
    for name, tensor in parent.items():
        torch.testing.assert_close(child[name], tensor, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_dpo_refuses_a_parent_that_has_changed(tiny_sft, tiny_rows, tmp_path):
    changed = tmp_path / "sft"
    shutil.copytree(tiny_sft.parent, changed)
    recipe = read_json(changed / "recipe.json")
    write_json(changed / "recipe.json", recipe | {"base_digest": "of another base"})
    with pytest.raises(UserError, match="another base model"):
        train_dpo(tiny_rows, tmp_path / "dpo", changed / ADAPTER)


@pytest.mark.slow
def test_dpo_names_an_empty_response_by_file_and_line(tiny_sft, tiny_rows, tmp_path):
    pairs = list(read_jsonl(tiny_rows.dpo_train))
    pairs[1]["rejected"] = ""
    train = tmp_path / "train.jsonl"
    write_jsonl(train, pairs)
    with pytest.raises(UserError, match=r"train\.jsonl, line 2: the rejected is empty"):
        train_dpo(tiny_rows, tmp_path, tiny_sft, train=train)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["every pair", "one pair"])
def test_dpo_responses_cut_by_max_length_stop_the_training(
    cut, tiny_sft, tiny_rows, tiny_tokenizer, tmp_path
):
    pairs = list(read_jsonl(tiny_rows.dpo_train))
    lengths = {
        key: [len(ids) for ids in tiny_tokenizer([row[key] for row in pairs])["input_ids"]]
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
    with pytest.raises(UserError, match="more than the recipe's max_length"):
        train_dpo(tiny_rows, tmp_path, tiny_sft, train=train, max_length=max_length)
    assert not (tmp_path / ADAPTER).exists()


@pytest.mark.slow
def test_dpo_without_a_parents_adapter_is_refused(tiny_rows, tmp_path):
    with pytest.raises(UserError, match="--lineage names none"):
        train_dpo(tiny_rows, tmp_path, tmp_path, lineage=[])
