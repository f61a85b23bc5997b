"""Similarity to the human replies with real, untrained encoders of sentence-transformers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from persuasion_rl.evaluation.similarity import embeddings, evaluate_similarity, load_encoder
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.models.arguments import DeviceArguments
from persuasion_rl.records import SimilarityRow, read_rows
from running import WORKFLOW

SHORT, LONG = "Buses are cheap.", "Nobody is made to use bike lanes, and nobody ever was. " * 3


@pytest.fixture(scope="module")
def bert(tokenizer, tmp_path_factory) -> Path:
    """A real, untrained BERT, saved by transformers alone."""
    folder = tmp_path_factory.mktemp("bert")
    words = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), pad_token="<pad>")
    words.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def encoder(bert, tmp_path):
    """A function that saves an encoder with a pooling and further modules, and returns its folder."""

    def save(pooling: str = "mean", *further, longest: int = 64) -> Path:
        folder = tmp_path / "encoder"
        modules = [Transformer(str(bert), max_seq_length=longest), Pooling(16, pooling), *further]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
        return folder

    return save


def embed(folder: Path, *texts: str) -> torch.Tensor:
    return embeddings(load_encoder(str(folder), "cpu"), list(texts))


def states(bert: Path, text: str) -> torch.Tensor:
    """The hidden states of one text, (tokens, 16)."""
    words, model = (kind.from_pretrained(bert) for kind in (AutoTokenizer, AutoModel))
    with torch.no_grad():
        return model(input_ids=words(text, return_tensors="pt")["input_ids"]).last_hidden_state[0]


def test_texts_and_their_tokens_are_counted(bert, encoder, said):
    embed(encoder(), SHORT, LONG)
    tokens = sum(
        min(64, len(ids)) for ids in AutoTokenizer.from_pretrained(bert)([SHORT, LONG]).input_ids
    )
    assert said[-1].startswith(f"similarity: 2 of 2 texts, {tokens} tokens, ")


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda tokens: tokens.mean(0)),
        ("cls", lambda tokens: tokens[0]),
        ("max", lambda tokens: tokens.max(0).values),
        ("lasttoken", lambda tokens: tokens[-1]),
    ],
)
def test_a_model_pools_as_it_says_whatever_else_is_in_the_batch(encoder, bert, pooling, pool):
    batch = embed(encoder(pooling), SHORT, LONG[:80])
    expected = pool(states(bert, SHORT))
    assert torch.allclose(batch[0], expected / expected.norm(), atol=1e-5)
    assert torch.allclose(batch.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_modules_after_the_pooling_are_applied(encoder, bert):
    dense = Dense(16, 4, activation_function=torch.nn.Identity())
    expected = dense.linear(states(bert, SHORT).mean(0)).detach()
    (embedding,) = embed(encoder("mean", dense), SHORT)
    assert torch.allclose(embedding, expected / expected.norm(), atol=1e-5)


def test_a_text_is_cut_where_the_model_says(encoder, bert):
    """all-MiniLM-L6-v2 takes 256 tokens, though it has positions for 512."""
    words = AutoTokenizer.from_pretrained(bert)
    first = words.decode(words(LONG)["input_ids"][:12])
    short = encoder(longest=12)
    assert torch.allclose(embed(short, LONG), embed(short, first), atol=1e-5)
    uncut = states(bert, LONG[:120]).mean(0)
    assert not torch.allclose(embed(short, LONG[:120])[0], uncut / uncut.norm(), atol=1e-3)


def test_a_spelled_control_token_is_text(encoder, bert):
    text = "Buses are <pad> cheap."
    words, model = (kind.from_pretrained(bert) for kind in (AutoTokenizer, AutoModel))
    words.backend_tokenizer.encode_special_tokens = True
    ids = words.backend_tokenizer.encode(text).ids
    assert words.pad_token_id not in ids and words.decode(ids) == text
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
    (embedding,) = embed(encoder(), text)
    assert torch.allclose(embedding, expected / expected.norm(), atol=1e-5)


def replies(*texts: str) -> list[dict]:
    return [
        {
            "prompt": f"prompt {i}",
            "response": text,
            "metadata": {"prompt_id": f"p{i}", "conversation_id": f"c{i}"},
        }
        for i, text in enumerate(texts)
    ]


def test_the_same_reply_is_similar_and_another_less_so(encoder, tmp_path):
    write_jsonl(tmp_path / "human.jsonl", replies(SHORT, "Ask your neighbors what they pay."))
    write_jsonl(tmp_path / "sft.jsonl", replies(SHORT, "word " * 200))  # longer than fits
    evaluate_similarity(
        job=DeviceArguments(seed=1, threads=1, device="cpu"), model=str(encoder()),
        responses=tmp_path / "sft.jsonl", human=tmp_path / "human.jsonl", output=tmp_path / "similarity.jsonl",
    )  # fmt: skip
    same, other = read_rows(tmp_path / "similarity.jsonl", SimilarityRow)
    assert (same["prompt_id"], same["conversation_id"]) == ("p0", "c0")
    assert same["similarity"] == pytest.approx(1, abs=1e-5)
    assert -1 <= other["similarity"] < 0.999


def without_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


def with_unknown_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "nowhere.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


@pytest.mark.parametrize(
    ("breaks", "match"),
    [
        (without_modules, "does not say how it pools"),
        (with_unknown_module, "was not loaded"),
        (cut_off, "was not loaded"),
        (shutil.rmtree, "was not loaded"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(encoder, breaks, match):
    folder = encoder()
    breaks(folder)
    with pytest.raises(UserError, match=match) as error:
        load_encoder(str(folder), "cpu")
    assert "\n" not in str(error.value) and "encoder" in str(error.value)


EMBED = """
import sys
from persuasion_rl.files import UserError
from persuasion_rl.evaluation.similarity import embeddings, load_encoder
for name in sys.argv[1:]:
    try:
        print(embeddings(load_encoder(name, "cpu"), ["Buses are cheap."]).shape)
    except UserError as error:
        print(error)
"""


def test_a_model_of_the_hub_is_loaded_from_its_cache_without_a_network(encoder, bert, tmp_path):
    cache = tmp_path / "cache"
    for name, folder in (("loaded", encoder("cls")), ("incomplete", bert)):
        repository = cache / f"models--org--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    offline = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", EMBED, "org/loaded", "org/incomplete", "org/missing"],
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)} | offline,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    loaded, incomplete, missing = run.stdout.splitlines()
    assert loaded == "torch.Size([1, 16])"
    assert "org/incomplete does not say how it pools" in incomplete
    assert "'org/missing' was not loaded" in missing
