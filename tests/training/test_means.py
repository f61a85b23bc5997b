"""Losses and metrics are means over tokens or pairs, however they were cut into batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import read_json, read_jsonl
from persuasion_rl.training.means import Means, counts_of
from tiny_trainings import train_delta, train_dpo, train_sft

PAIR = st.tuples(st.floats(0, 9), st.lists(st.floats(0, 9), min_size=1, max_size=9))


@given(st.lists(st.lists(PAIR, min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_loss_is_a_mean_of_all_pairs_and_of_all_tokens(batches):
    """Of each pair a loss, and of each token of its chosen response one, weighted .2, as in DPO."""
    means, accuracies = Means(), []
    for batch in batches:
        tokens = [loss for _, losses in batch for loss in losses]
        by_pair, by_token = sum(loss for loss, _ in batch) / len(batch), sum(tokens) / len(tokens)
        counts = {"tokens": 2 * len(tokens), "chosen": len(tokens), "rejected": len(tokens)}
        means.add(by_pair + 0.2 * by_token, counts | {"pairs": len(batch)}, 0.2 * by_token)
        accuracies.append(sum(loss > 4 for loss, _ in batch) / len(batch))
    pairs = [pair for batch in batches for pair in batch]
    tokens = [loss for _, losses in pairs for loss in losses]
    expected = sum(loss for loss, _ in pairs) / len(pairs) + 0.2 * sum(tokens) / len(tokens)
    assert means.loss() == pytest.approx(expected, abs=1e-9)
    exact = sum(loss > 4 for loss, _ in pairs) / len(pairs)
    assert means.combine("accuracy", accuracies) == pytest.approx(exact)


def test_what_a_batch_holds_is_counted_by_what_is_supervised():
    """The first token of a row has no prediction; padding and prompts are masked."""
    labels = torch.tensor([[5, -100, 7, 8], [-100, 6, -100, -100]])
    assert counts_of({"labels": labels, "input_ids": labels}) == {
        "tokens": 3, "chosen": 3, "rejected": 0, "pairs": 3,
    }  # fmt: skip
    mask = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]])
    assert counts_of({"input_ids": mask, "completion_mask": mask}) == {
        "tokens": 5, "chosen": 3, "rejected": 2, "pairs": 2,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo", "delta"])
def test_no_number_depends_on_the_size_of_batches(method, tiny_rows, tiny_sft, tmp_path):
    """Uneven last batches: 3 and 64 rows of an evaluation at once; updates of 8 rows by 1 and by 4."""
    changed = {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "lora_dropout": 0.0}
    if method == "dpo":
        del changed["lora_dropout"]
        changed |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
    measured = []
    for name, rows, at_once in (("a", 3, 1), ("b", 64, 4)):
        # The parent's adapter has dropout, whose draws go by the batch.
        at_once = 4 if method == "dpo" else at_once
        sizes = {"per_device_eval_batch_size": rows, "per_device_train_batch_size": at_once}
        words = changed | sizes
        if method == "sft":
            train_sft(tiny_rows, tmp_path / name, **words)
        elif method == "dpo":
            train_dpo(tiny_rows, tmp_path / name, tiny_sft, **words)
        else:
            train_delta(tiny_rows, tmp_path / name, **words)
        history = [*read_jsonl(tmp_path / name / "history.jsonl")]
        measured.append((read_json(tmp_path / name / "metrics.json"), history))
    (metrics, history), (others, other_history) = measured
    for key in ("eval_loss_before", "eval_loss", "eval_accuracy", "eval_reward_margin"):
        if key in metrics:
            assert metrics[key] == pytest.approx(others[key], rel=1e-3), key
    ignored = ("runtime", "per_second", "memory", "seconds", "share_of_peak", "grad_norm")
    ignored += ("num_tokens", "flos", "epoch")
    for row, other in zip(history, other_history, strict=True):
        for key, value in row.items():
            if isinstance(value, float) and not any(word in key for word in ignored):
                assert value == pytest.approx(other[key], rel=2e-3, abs=2e-4), key
