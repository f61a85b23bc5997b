"""Responses of a pool and of the evaluation, and the loss on human replies, with real models."""

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from persuasion_rl.evaluation.loss import evaluate_loss
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.sampling.evaluate_model import evaluate_model
from persuasion_rl.sampling.gather_responses import gather_responses
from persuasion_rl.sampling.generate_responses import generate_responses
from persuasion_rl.sampling.quote_human import quote_human
from persuasion_rl.sampling.request import CUT, Limits
from tiny_models import SEED, pool_rows, sampling_settings, sft_row, write_scripted_base

LIMITS = Limits(1.0, 1.0, max_new_tokens=4)


def sample_shard(
    base: Path, folder: Path, start: int, rows: int, responses: int = 2, redraws: int = 0
) -> list[dict]:
    """A shard of the pool in the folder."""
    shard = folder / f"shard_{start}_{rows}.jsonl"
    generate_responses(
        sampling=sampling_settings(base, LIMITS),
        prompts=folder / "prompts.jsonl",
        output=shard,
        state=folder / "state",
        start=start,
        rows=rows,
        responses=responses,
        redraws=redraws,
    )
    return list(read_jsonl(shard))


def respond(base: Path, folder: Path, pool: list[dict], **changed) -> tuple[list[dict], list[dict]]:
    """The rows of a shard with the whole pool, and the rows gathered from it."""
    write_jsonl(folder / "prompts.jsonl", pool)
    rows = sample_shard(base, folder, 0, len(pool), **changed)
    shard = folder / f"shard_0_{len(pool)}.jsonl"
    gather_responses(shards=[shard], output=folder / "pool.jsonl", counts=folder / "counts.json")
    return rows, list(read_jsonl(folder / "pool.jsonl"))


def short_pool(count: int) -> list[dict]:
    return pool_rows(["Hello" + "!" * (i % 7) for i in range(count)])


def test_what_cannot_be_used_is_counted_out_by_reason(troubled_base, tmp_path):
    """A and B are whole, C never ends, and one in five is empty; a prompt has two responses and no redraws."""
    pool = short_pool(150)
    shard, gathered = respond(troubled_base, tmp_path, pool)
    assert [row["metadata"]["prompt_id"] for row in shard] == [f"cmv-{i}" for i in range(150)]
    expected, pairs = Counter(), []
    for row in shard:
        one, other = (response["text"] for response in row["responses"])
        if {one, other} == {"A", "B"}:
            expected["made"] += 1
            pairs.append((row["prompt"], one, other))
        elif one == other and one in "AB" and one:
            expected["identical"] += 1
        else:
            first_fault = next(text for text in (one, other) if text not in ("A", "B"))
            expected["cut" if first_fault == "CCCC" else "empty"] += 1
    assert len(expected) == 4 and min(expected.values()) >= 10
    assert read_json(tmp_path / "counts.json") == expected
    assert [(row["prompt"], row["response_1"], row["response_2"]) for row in gathered] == pairs
    for row in gathered:
        metadata = row["metadata"]
        assert metadata["tokens"] == [2, 2] and metadata["finish_reasons"] == ["stop", "stop"]
        assert metadata["samples"] == [1, 2] and metadata["draws"] == [1, 1]
        assert metadata["engine"] == "transformers" and metadata["reproducible"] is True


def test_faulty_responses_are_drawn_again_within_bounds(troubled_base, tmp_path):
    pool = short_pool(400)
    once, _ = respond(troubled_base, tmp_path, pool)
    again, gathered = respond(troubled_base, tmp_path, pool, redraws=3)
    draws = Counter()
    for before, after in zip(once, again, strict=True):
        texts = [response["text"] for response in after["responses"]]
        for number, (was, now) in enumerate(
            zip(before["responses"], after["responses"], strict=True)
        ):
            draws[now["draws"]] += 1
            faulty = was["text"] not in ("A", "B")
            if number == 0:
                assert (now["draws"] > 1) == faulty
            if now["draws"] == 1:
                assert now == was
            if now["text"] not in ("A", "B") or (number and texts[0] == texts[1]):
                assert now["draws"] == 4  # given up only after the last draw
    assert draws.keys() == {1, 2, 3, 4}
    # Each draw of a first response fails with probability .4, and draws are independent of each other.
    firsts = [row["responses"][0]["draws"] for row in again]
    for draw, probability in ((1, 0.4), (2, 0.4**2), (3, 0.4**3)):
        share = sum(count > draw for count in firsts) / len(firsts)
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 400)
    assert len(gathered) > 0.6 * len(pool)


def test_every_pair_of_more_than_two_responses_is_a_row(tmp_path):
    """Of four responses three are different and whole: three pairs."""
    base = write_scripted_base(
        tmp_path / "base",
        {"": {"A": 0.4, "B": 0.3, "D": 0.3}, **{t: {"<|endoftext|>": 1.0} for t in "ABD"}},
    )
    shard, gathered = respond(base, tmp_path, short_pool(60), responses=4, redraws=2)
    pairs: dict[str, list[dict]] = {}
    for row in gathered:
        pairs.setdefault(row["metadata"]["prompt_id"], []).append(row)
    sizes = Counter()
    for row in shard:
        distinct = len({response["text"] for response in row["responses"]})
        own_pairs = pairs.get(row["metadata"]["prompt_id"], [])
        assert len(own_pairs) == distinct * (distinct - 1) // 2
        sizes[len(own_pairs)] += 1
        for pair in own_pairs:
            one, other = pair["metadata"]["samples"]
            assert one < other
            assert pair["response_1"] == row["responses"][one - 1]["text"]
            assert pair["response_2"] == row["responses"][other - 1]["text"]
    assert sizes[3] > 30


def test_shards_of_another_size_make_the_same_pool_and_draw_nothing_again(tmp_path, troubled_base):
    pool = short_pool(30)
    single_shard, _ = respond(troubled_base, tmp_path, pool, redraws=1)
    (state_file,) = (tmp_path / "state").rglob("*.jsonl")
    before = state_file.read_text()
    parts = []
    for start in (0, 13, 26):
        parts += sample_shard(troubled_base, tmp_path, start, 13, redraws=1)
    assert parts == single_shard
    assert (
        list((tmp_path / "state").rglob("*.jsonl")) == [state_file]
        and state_file.read_text() == before
    )


def test_a_shard_beyond_the_data_is_empty(troubled_base, tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", short_pool(3))
    assert sample_shard(troubled_base, tmp_path, 10, 5) == []


def response(text: str, finish_reason: str = "stop") -> dict:
    return {"text": text, "tokens": 3, "finish_reason": finish_reason, "draws": 1}


def test_gathering_keeps_the_order_of_shards(tmp_path):
    rows = [
        {"prompt": "p", "responses": [response("a"), response("b")], "metadata": {"prompt_id": i}}
        for i in range(6)
    ]
    rows[1]["responses"][0] = response("a", "length")
    rows[4]["responses"][1] = response("a")
    rows[5]["responses"] = [response(""), response("a", "length")]
    rows.append({**rows[0], "responses": [response("a"), response("", "content_filter")]})
    shards = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    write_jsonl(shards[0], rows[:4])
    write_jsonl(shards[1], rows[4:])
    output, counts = tmp_path / "pool.jsonl", tmp_path / "counts.json"
    returned = gather_responses(shards=shards, output=output, counts=counts)
    assert [row["metadata"]["prompt_id"] for row in read_jsonl(output)] == [0, 2, 3]
    assert returned == read_json(counts) == {
        "made": 3, "cut": 1, "identical": 1, "empty": 1, "content_filter": 1
    }  # fmt: skip


def test_a_pool_without_any_pair_is_refused_in_one_line(tmp_path):
    row = {"prompt": "p", "responses": [response(""), response("a")], "metadata": {}}
    write_jsonl(tmp_path / "shard.jsonl", [row])
    output = tmp_path / "pool.jsonl"
    with pytest.raises(UserError, match="no usable pair") as raised:
        gather_responses(
            shards=[tmp_path / "shard.jsonl"], output=output, counts=tmp_path / "counts.json"
        )
    assert "\n" not in str(raised.value)
    assert not output.exists()


# The evaluation


def evaluate(base: Path, folder: Path, pool: list[dict]) -> list[dict]:
    write_jsonl(folder / "prompts.jsonl", pool)
    evaluate_model(
        sampling=sampling_settings(base, LIMITS),
        prompts=folder / "prompts.jsonl",
        output=folder / "responses.jsonl",
        state=folder / "evaluation_state",
    )
    return list(read_jsonl(folder / "responses.jsonl"))


def test_the_evaluation_samples_once_and_draws_nothing_again(troubled_base, tmp_path):
    pool = short_pool(120)
    rows = evaluate(troubled_base, tmp_path, pool)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in pool]
    assert [row["metadata"]["prompt_id"] for row in rows] == [
        row["metadata"]["prompt_id"] for row in pool
    ]
    cut = [row for row in rows if row["metadata"]["finish_reason"] == CUT]
    assert cut and all(row["metadata"]["tokens"] == 4 and row["response"] for row in cut)
    assert any(row["response"] == "" for row in rows)


def test_evaluation_and_pool_draw_first_samples_alike(troubled_base, tmp_path):
    pool = short_pool(120)
    shard, _ = respond(troubled_base, tmp_path, pool)
    rows = evaluate(troubled_base, tmp_path, pool)
    assert [row["responses"][0]["text"] for row in shard] == [row["response"] for row in rows]


def loss_one_by_one(base: Path, rows: list[dict]) -> float:
    """Nats a token of the responses and their EOS, each row by itself, without padding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    nats = tokens = 0
    for row in rows:
        prompt = tokenizer(row["input_text"])["input_ids"]
        reply = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply])).logits[0]
        log_probabilities = logits.log_softmax(dim=-1)
        for position, token in enumerate(reply, len(prompt)):
            nats -= log_probabilities[position - 1, token].item()
            tokens += 1
    return nats / tokens


@pytest.mark.slow
def test_the_loss_is_that_of_each_row_by_itself(tiny_study, tmp_path):
    held_out = list(islice(read_jsonl(tiny_study / "examples.jsonl"), 13))
    write_jsonl(tmp_path / "held_out.jsonl", held_out)
    job = ModelArguments(base=tiny_study / "base", seed=SEED, threads=1, device="cpu")
    loss = evaluate_loss(
        job=job, held_out=tmp_path / "held_out.jsonl", output=tmp_path / "loss.json"
    )
    expected = loss_one_by_one(tiny_study / "base", held_out)
    assert read_json(tmp_path / "loss.json") == loss
    assert loss["rows"] == 13
    assert abs(loss["validation_loss"] - expected) < 1e-4
    assert math.isclose(loss["perplexity"], math.exp(expected), rel_tol=1e-3)


def test_the_human_player_quotes_the_reply_to_each_prompt(tmp_path):
    held_out = [sft_row(f"prompt {i}", f"reply {i}", tokens=i) for i in range(5)]
    write_jsonl(tmp_path / "held_out.jsonl", held_out)
    write_jsonl(tmp_path / "prompts.jsonl", pool_rows(["prompt 3", "prompt 1"]))
    output = tmp_path / "human.jsonl"
    count = quote_human(
        prompts=tmp_path / "prompts.jsonl", held_out=tmp_path / "held_out.jsonl", output=output
    )
    rows = list(read_jsonl(output))
    assert count == 2
    assert [(row["prompt"], row["response"]) for row in rows] == [
        ("prompt 3", "reply 3"),
        ("prompt 1", "reply 1"),
    ]
    assert rows[0]["metadata"] == {
        "prompt_id": "cmv-0",
        "conversation_id": "t3_0",
        "source": "cmv",
        "finish_reason": "stop",
        "tokens": 3,
    }
