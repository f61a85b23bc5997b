"""KL divergence from the parent, with models of known distributions and with trained ones."""

import math
from pathlib import Path

import pytest

from persuasion_rl.evaluation.kl import _token_ids, evaluate_kl, kl_and_log_ratios
from persuasion_rl.evaluation.loss import perplexity, response_loss
from persuasion_rl.files import UserError, read_jsonl, write_jsonl
from persuasion_rl.models.arguments import ModelArguments
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.records import KlRow, read_rows
from persuasion_rl.training.standin import END_OF_TEXT
from replies import player_rows
from tiny_models import write_scripted_base
from tiny_trainings import log_probability

PARENT = {"": {"A": 0.5, "B": 0.25, END_OF_TEXT: 0.25}, "A": {END_OF_TEXT: 1.0}}
CHILD = {"": {"A": 0.8, "B": 0.1, END_OF_TEXT: 0.1}, "A": {"A": 0.5, END_OF_TEXT: 0.5}}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """Two models whose distributions are known, with their tokenizer."""
    loaded = [
        load_for_inference(
            write_scripted_base(tmp_path_factory.mktemp("scripted"), table), [], "cpu"
        )
        for table in (CHILD, PARENT)
    ]
    return loaded[0][0], loaded[1][0], loaded[0][1]


def kl_and_log_ratio(model, parent, prompt, reply) -> dict[str, float]:
    (sums,) = kl_and_log_ratios(model, parent, [(prompt, reply)])
    return sums


def test_kl_of_two_known_models(scripted):
    child, parent, tokenizer = scripted
    prompt, reply = tokenizer("Hello")["input_ids"], tokenizer("A")["input_ids"]
    divergence = kl_and_log_ratio(child, parent, prompt, reply)
    expected = 0.8 * math.log(0.8 / 0.5) + 2 * 0.1 * math.log(0.1 / 0.25)
    assert divergence["kl"] == pytest.approx(expected, abs=1e-4)
    assert divergence["log_ratio"] == pytest.approx(math.log(0.8 / 0.5), abs=1e-4)


def test_sums_are_over_the_tokens_of_the_reply(scripted):
    child, parent, tokenizer = scripted
    prompt = tokenizer("Hello")["input_ids"]
    reply = [*tokenizer("B")["input_ids"], tokenizer.eos_token_id]
    divergence = kl_and_log_ratio(child, parent, prompt, reply)
    assert divergence["log_ratio"] == pytest.approx(math.log(0.1 / 0.25) * 2, abs=1e-4)
    assert kl_and_log_ratio(child, parent, prompt, reply[:1])["kl"] == pytest.approx(
        divergence["kl"] / 2, abs=1e-4
    )


def test_a_model_does_not_diverge_from_itself(scripted):
    child, _, tokenizer = scripted
    prompt, reply = tokenizer("Hello")["input_ids"], tokenizer("ABA")["input_ids"]
    assert kl_and_log_ratio(child, child, prompt, reply) == {"kl": 0.0, "log_ratio": 0.0}


def test_a_trained_model_diverges_from_its_parent(tiny_rows, tiny_sft, tiny_dpo, tmp_path, capsys):
    held_out = list(read_jsonl(tiny_rows.sft_val))[:4]
    rows = player_rows([row["response"] for row in held_out], cut=(0,))
    for row, held_out_row in zip(rows, held_out, strict=True):
        row["prompt"] = held_out_row["input_text"]
    rows += [{**rows[0], "response": ""}]  # cut before it began: no token to measure
    write_jsonl(tmp_path / "rows.jsonl", rows)
    job = ModelArguments(
        base=tiny_rows.base, lineage=[tiny_sft, tiny_dpo], seed=1, threads=1, device="cpu"
    )
    evaluate_kl(job=job, responses=tmp_path / "rows.jsonl", output=tmp_path / "kl.jsonl")
    kl_rows = list(read_rows(tmp_path / "kl.jsonl", KlRow))
    assert len(kl_rows) == 4
    assert all(row["kl"] > 1e-5 * row["tokens"] for row in kl_rows)
    model, tokenizer, _ = load_for_inference(tiny_rows.base, [tiny_sft, tiny_dpo], "cpu")
    parent, _, _ = load_for_inference(tiny_rows.base, [tiny_sft], "cpu")
    lengths = [len(tokenizer(row["response"])["input_ids"]) for row in held_out]
    assert [row["tokens"] for row in kl_rows] == [lengths[0], *(n + 1 for n in lengths[1:])]
    ended = held_out[1]
    own, former = (
        log_probability(m, tokenizer, ended["input_text"], ended["response"])
        for m in (model, parent)
    )
    assert kl_rows[1]["log_ratio"] == pytest.approx(own - former, abs=1e-3)
    said = capsys.readouterr().err
    for what in ("evaluate_kl", "the parent in evaluate_kl"):
        assert f"checked: {what} differs by" in said


def test_a_model_that_is_computed_wrongly_is_refused(tiny_rows, tiny_sft, tmp_path, monkeypatch):
    """Attention of three times the scale, which the check of its kind of model overlooked."""
    from persuasion_rl.training import unpadding

    attend = unpadding.attend

    def sharper(module, query, *states, **others):
        return attend(module, 3 * query, *states, **others)

    monkeypatch.setitem(unpadding.AttentionInterface._global_mapping, unpadding.NAME, sharper)
    monkeypatch.setattr(unpadding, "_why_padded", lambda _: None)
    write_jsonl(tmp_path / "rows.jsonl", player_rows(["So you say, and so do I."]))
    job = ModelArguments(base=tiny_rows.base, lineage=[tiny_sft], seed=1, threads=1, device="cpu")
    with pytest.raises(UserError, match=r"^evaluate_kl: differs by [\d.]+ nats a token"):
        evaluate_kl(job=job, responses=tmp_path / "rows.jsonl", output=tmp_path / "kl.jsonl")
    assert not (tmp_path / "kl.jsonl").exists()


def test_a_model_without_a_parent_has_no_divergence(tmp_path):
    job = ModelArguments(base=tmp_path, seed=1, threads=1, device="cpu")
    with pytest.raises(UserError, match="--lineage names no adapter"):
        evaluate_kl(job=job, responses=tmp_path / "rows.jsonl", output=tmp_path / "kl.jsonl")


def test_a_reply_beyond_the_models_positions_is_one_line(tiny_rows, tiny_sft, tiny_dpo, tmp_path):
    rows = player_rows(["a word " * 3000])
    write_jsonl(tmp_path / "rows.jsonl", rows)
    job = ModelArguments(
        base=tiny_rows.base, lineage=[tiny_sft, tiny_dpo], seed=1, threads=1, device="cpu"
    )
    with pytest.raises(
        UserError, match="a row has .* tokens, and the base model has positions for"
    ):
        evaluate_kl(job=job, responses=tmp_path / "rows.jsonl", output=tmp_path / "kl.jsonl")


def test_a_bos_stands_before_the_prompt_only(tmp_path):
    """As in training, though Llama's tokenizers put one before every text."""
    child, parent = (
        with_bos(write_scripted_base(tmp_path / name, table))
        for name, table in (("child", CHILD), ("parent", PARENT))
    )
    model, tokenizer, _ = load_for_inference(child, [], "cpu")
    bos, *_ = tokenizer("Hello")["input_ids"]
    assert bos == tokenizer.eos_token_id
    rows = player_rows(["A", "B"], cut=(1,))
    ids_of = TextTokenizer(child)
    token_ids = [_token_ids(ids_of, row) for row in rows]
    assert all(prompt[0] == bos for prompt, _ in token_ids)
    (a, end), (b,) = (reply for _, reply in token_ids)
    assert tokenizer.convert_ids_to_tokens([a, end, b]) == ["A", END_OF_TEXT, "B"]
    former, _, _ = load_for_inference(parent, [], "cpu")
    divergence = kl_and_log_ratio(model, former, *token_ids[0])
    expected = math.log(0.8 / 0.5) + math.log(0.5 / 1.0)
    assert divergence["log_ratio"] == pytest.approx(expected, abs=1e-4)
    nats = response_loss(model, ids_of, [("Hello", "A"), ("Hello!", "A")])
    assert nats == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, abs=1e-4)


def with_bos(base: Path) -> Path:
    """A base whose tokenizer puts a BOS before every text."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    path = str(base / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    special = [(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=special
    )
    tokenizer.save(path)
    return base


def test_a_perplexity_that_no_float_holds_is_unknown():
    assert perplexity(math.log(20)) == pytest.approx(20)
    assert perplexity(709.0) > 1e307 and perplexity(710.0) is None
