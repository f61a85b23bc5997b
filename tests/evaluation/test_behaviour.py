"""What replies are like: measures whose value is known by hand, copied text against a naive search, divergence and
similarity through real models."""

import math
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from csv_files import read_csv
from persuasion_rl.evaluation.behaviour import distinct, repeated_share, tabulate_behaviour
from persuasion_rl.evaluation.kl import _token_ids, divergence, measure_divergence
from persuasion_rl.evaluation.loss import response_loss
from persuasion_rl.evaluation.markers import words
from persuasion_rl.evaluation.memorised import SPAN, TrainingText
from persuasion_rl.evaluation.similarity import compare_with_human, load_embedder
from persuasion_rl.files import UserError, read_jsonl, write_json, write_jsonl
from persuasion_rl.models.loading import load_for_inference
from persuasion_rl.training.standin import END_OF_TEXT
from running import WORKFLOW
from tiny_models import write_scripted_base
from tiny_trainings import log_probability

CONCESSION = Path(__file__).parents[2] / "resources/markers/concession.txt"


# Repetition and variety


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("no no no no no no", 2 / 3),
        ("a b c d e f g h", 0.0),
    ],
)
def test_the_share_of_repeated_4grams(text, share):
    assert repeated_share(text.split()) == pytest.approx(share)


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_saying_it_all_twice_repeats_more_and_the_share_stays_below_one(text):
    assert 0 <= repeated_share(text) <= repeated_share(text + text) < 1


def test_distinct_ngrams_are_counted_over_all_replies_and_not_across_them():
    texts = ["a b a b".split(), "a b c".split()]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # ab ba ab, ab bc
    assert distinct([], 2) == 0.0


# Copied spans


TRAINING = [
    "One two three four five six seven eight nine ten.",
    "Alpha beta gamma delta epsilon zeta eta theta iota",
]


@pytest.mark.parametrize(
    ("reply", "share", "longest"),
    [
        ("", 0.0, 0),
        ("one two three four five six seven", 0.0, 0),  # one word too short
        ("ONE, two; three four five six seven \u2013 eight!", 1.0, 8),  # case, punctuation
        ("so one two three four five six seven eight no", 8 / 10, 8),
        ("two three four five six seven eight nine ten", 1.0, 9),
        ("one two three four five six seven ate nine ten", 0.0, 0),
        # seven words of each, and the end of one reply with the start of the next
        ("four five six seven eight nine ten alpha beta gamma delta epsilon zeta eta", 0.0, 0),
        (
            "one two three four five six seven eight alpha beta gamma delta epsilon zeta eta theta",
            1.0,
            8,
        ),
    ],
)
def test_copied_spans_known_by_hand(reply, share, longest):
    assert TrainingText(TRAINING).copied(reply) == (pytest.approx(share), longest)


def naive(training: list[str], reply: str) -> tuple[float, int]:
    """Every span of the reply, looked for in every training reply."""
    text = words(reply)
    learned = [f" {' '.join(words(one))} " for one in training]
    covered, longest = set(), 0
    for start in range(len(text)):
        for end in range(start + SPAN, len(text) + 1):
            if any(f" {' '.join(text[start:end])} " in one for one in learned):
                covered.update(range(start, end))
                longest = max(longest, end - start)
    return len(covered) / max(1, len(text)), longest


few_words = st.lists(st.sampled_from(["a", "b", "it's"]), max_size=40).map(" ".join)


@given(st.lists(few_words, max_size=4), few_words)
def test_copied_spans_are_those_of_a_naive_search(training, reply):
    assert TrainingText(training).copied(reply) == pytest.approx(naive(training, reply))


@given(st.lists(few_words, min_size=1, max_size=4), st.data())
def test_pieces_of_training_replies_between_new_words_are_found(training, data):
    pieces = [words(data.draw(st.sampled_from(training))) for _ in range(3)]
    reply = " ".join(chain.from_iterable([*piece, "new"] for piece in pieces))
    assert TrainingText(training).copied(reply) == pytest.approx(naive(training, reply))


def test_windows_of_equal_hash_are_compared_word_by_word(monkeypatch):
    from persuasion_rl.evaluation import memorised as copying

    monkeypatch.setattr(copying, "FACTOR", copying.np.uint64(0))  # only a window's last word counts
    reply = "two three four five six seven eight nine iota x x x x x x x x nine"
    assert TrainingText(TRAINING).copied(reply) == pytest.approx(naive(TRAINING, reply))


def test_a_span_is_as_long_as_in_one_training_reply():
    """Two training replies hold its windows together, and neither holds the whole."""
    whole = [f"w{i}" for i in range(12)]
    training = [" ".join(whole[:10]), " ".join(whole[2:])]
    assert TrainingText(training).copied(" ".join(whole)) == (1.0, 10)


# The table


def player_rows(replies: list[str], cut: tuple[int, ...] = ()) -> list[dict]:
    return [
        {
            "prompt": f"prompt {i}",
            "response": reply,
            "metadata": {
                "prompt_id": f"p{i}",
                "conversation_id": f"c{i}",
                "finish_reason": "length" if i in cut else "stop",
                "tokens": 10 * (i + 1),
            },
        }
        for i, reply in enumerate(replies)
    ]


@pytest.fixture
def table(tmp_path):
    """A function that tabulates two players and returns the rows by player and measure."""
    rows = {
        "rlaif": player_rows(["You're right that a b c d.", "no no no no no no"], cut=(1,)),
        "human": player_rows([TRAINING[0], "Fair enough"]),
    }
    for name, found in rows.items():
        write_jsonl(tmp_path / f"{name}.jsonl", found)
    write_jsonl(tmp_path / "train.jsonl", [{"response": text} for text in TRAINING])
    write_json(tmp_path / "loss.json", {"validation_loss": 2.0, "perplexity": math.exp(2)})
    accuracy = {"": 0.7, "_low": 0.6, "_high": 0.8}
    write_json(
        tmp_path / "metrics.json", {f"eval_reward_accuracy{k}": v for k, v in accuracy.items()}
    )
    ids = [{"prompt_id": f"p{i}", "conversation_id": f"c{i}"} for i in range(2)]
    write_jsonl(
        tmp_path / "divergence.jsonl",
        [
            {**ids[0], "tokens": 10, "kl": 1.0, "log_ratio": 2.0},
            {**ids[1], "tokens": 20, "kl": 6.0, "log_ratio": -4.0},
        ],
    )
    write_jsonl(
        tmp_path / "similarity.jsonl",
        [{**id_, "similarity": value} for id_, value in zip(ids, (0.5, 0.7), strict=True)],
    )

    def tabulate(**changed) -> dict[tuple[str, str], dict]:
        arguments = dict(
            responses={name: tmp_path / f"{name}.jsonl" for name in rows},
            losses={"rlaif": tmp_path / "loss.json"},
            metrics={"rlaif": tmp_path / "metrics.json"},
            divergences={"rlaif": tmp_path / "divergence.jsonl"},
            similarities={"rlaif": tmp_path / "similarity.jsonl"},
            train=tmp_path / "train.jsonl",
            concession=CONCESSION,
            output=tmp_path / "behaviour.csv",
            draws=200,
            seed=1,
        )
        tabulate_behaviour(**(arguments | changed))
        found = read_csv(tmp_path / "behaviour.csv")
        return {(row["player"], row["measure"]): row for row in found}

    tabulate.output = tmp_path / "behaviour.csv"
    return tabulate


def test_the_measures_of_two_players_known_by_hand(table):
    found = {key: row["value"] for key, row in table().items()}
    assert {measure: float(value) for (p, measure), value in found.items() if p == "rlaif"} == {
        "tokens": 15, "words": 6.5, "eos_rate": 0.5, "repeated_4grams": pytest.approx(1 / 3, abs=1e-6),
        "distinct_1": pytest.approx(8 / 13, abs=1e-6), "distinct_2": pytest.approx(7 / 11, abs=1e-6),
        "copied_words": 0, "longest_copied_span": 0, "concession_markers": 0.5, "similarity_to_human": 0.6,
        "validation_loss": 2, "perplexity": pytest.approx(math.exp(2), abs=1e-6), "pair_accuracy": 0.7,
        "kl_a_token": 0.2, "kl_a_reply": 3.5, "log_ratio_a_token": 0.0, "log_ratio_a_reply": -1.0,
    }  # fmt: skip
    assert found["human", "copied_words"] == "0.5"
    assert found["human", "longest_copied_span"] == "10"
    assert found["human", "concession_markers"] == "0.5"


def test_what_was_not_measured_is_said_and_what_cannot_be_has_no_row(table):
    found = table()
    assert found["human", "similarity_to_human"]["value"] == "not measured"
    for measure in ("validation_loss", "pair_accuracy", "kl_a_token"):
        assert ("human", measure) not in found
    assert all(row["unit"] for row in found.values())


def test_rates_have_intervals_that_hold_them_and_the_same_seed_the_same_bytes(table):
    for (_, measure), row in table().items():
        if row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        else:
            assert measure in (
                "distinct_1", "distinct_2", "longest_copied_span", "validation_loss", "perplexity",
                "similarity_to_human",
            )  # fmt: skip
    once = table.output.read_bytes()
    table()
    assert table.output.read_bytes() == once


@pytest.mark.parametrize(
    ("reply", "concedes"),
    [
        ("I completely agree, but cars are loud.", True),
        ("That\u2019s a fair point. Still, no.", True),
        ("You make a very good point about cost.", True),
        ("I share your worry about money when it comes to bike lanes.", True),
        ("It is true that buses are slow.", True),
        ("> I agree with you\n\nNo.", False),  # quoted
        ("Everybody disagrees with that.", False),
        ("Buses are cheap.", False),
        ("The right of way is theirs.", False),
    ],
)
def test_markers_of_concession(table, tmp_path, reply, concedes):
    write_jsonl(tmp_path / "human.jsonl", player_rows([reply, reply]))
    found = table(responses={"human": tmp_path / "human.jsonl"}, losses={})
    assert float(found["human", "concession_markers"]["value"]) == concedes


# Divergence from the parent


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


def test_divergence_of_two_known_models(scripted):
    child, parent, tokenizer = scripted
    prompt, reply = tokenizer("Hello")["input_ids"], tokenizer("A")["input_ids"]
    found = divergence(child, parent, prompt, reply)
    by_hand = 0.8 * math.log(0.8 / 0.5) + 2 * 0.1 * math.log(0.1 / 0.25)
    assert found["kl"] == pytest.approx(by_hand, abs=1e-4)
    assert found["log_ratio"] == pytest.approx(math.log(0.8 / 0.5), abs=1e-4)


def test_sums_are_over_the_tokens_of_the_reply(scripted):
    child, parent, tokenizer = scripted
    prompt = tokenizer("Hello")["input_ids"]
    reply = [*tokenizer("B")["input_ids"], tokenizer.eos_token_id]
    found = divergence(child, parent, prompt, reply)
    assert found["log_ratio"] == pytest.approx(math.log(0.1 / 0.25) * 2, abs=1e-4)
    assert divergence(child, parent, prompt, reply[:1])["kl"] == pytest.approx(
        found["kl"] / 2, abs=1e-4
    )


def test_a_model_does_not_diverge_from_itself(scripted):
    child, _, tokenizer = scripted
    prompt, reply = tokenizer("Hello")["input_ids"], tokenizer("ABA")["input_ids"]
    assert divergence(child, child, prompt, reply) == {"kl": 0.0, "log_ratio": 0.0}


def test_a_trained_model_diverges_from_its_parent(tiny_rows, tiny_sft, tiny_dpo, tmp_path):
    held_out = list(read_jsonl(tiny_rows.sft_val))[:4]
    rows = player_rows([row["response"] for row in held_out], cut=(0,))
    for row, from_ in zip(rows, held_out, strict=True):
        row["prompt"] = from_["input_text"]
    rows += [{**rows[0], "response": ""}]  # cut before it began: no token to measure
    write_jsonl(tmp_path / "rows.jsonl", rows)
    measure_divergence(
        base=tiny_rows.base, lineage=[tiny_sft, tiny_dpo], responses=tmp_path / "rows.jsonl",
        output=tmp_path / "found.jsonl", seed=1, threads=1, device="cpu",
    )  # fmt: skip
    found = list(read_jsonl(tmp_path / "found.jsonl"))
    assert len(found) == 4
    assert all(row["kl"] > 1e-5 * row["tokens"] for row in found)
    model, tokenizer, _ = load_for_inference(tiny_rows.base, [tiny_sft, tiny_dpo], "cpu")
    parent, _, _ = load_for_inference(tiny_rows.base, [tiny_sft], "cpu")
    lengths = [len(tokenizer(row["response"])["input_ids"]) for row in held_out]
    assert [row["tokens"] for row in found] == [lengths[0], *(n + 1 for n in lengths[1:])]
    ended = held_out[1]
    own, former = (
        log_probability(m, tokenizer, ended["input_text"], ended["response"])
        for m in (model, parent)
    )
    assert found[1]["log_ratio"] == pytest.approx(own - former, abs=1e-3)


def test_a_bos_stands_before_the_prompt_only(tmp_path):
    """As in training. Llama's tokenizers put one before every text."""
    child, parent = (
        opened_with_bos(write_scripted_base(tmp_path / name, table))
        for name, table in (("child", CHILD), ("parent", PARENT))
    )
    model, tokenizer, _ = load_for_inference(child, [], "cpu")
    bos, *_ = tokenizer("Hello")["input_ids"]
    assert bos == tokenizer.eos_token_id
    rows = player_rows(["A", "B"], cut=(1,))
    found = [_token_ids(tokenizer, row) for row in rows]
    assert all(prompt[0] == bos for prompt, _ in found)
    (a, end), (b,) = (reply for _, reply in found)
    assert tokenizer.convert_ids_to_tokens([a, end, b]) == ["A", END_OF_TEXT, "B"]
    former, _, _ = load_for_inference(parent, [], "cpu")
    measured = divergence(model, former, *found[0])
    by_hand = math.log(0.8 / 0.5) + math.log(0.5 / 1.0)
    assert measured["log_ratio"] == pytest.approx(by_hand, abs=1e-4)
    nats = response_loss(model, tokenizer, [("Hello", "A"), ("Hello!", "A")])
    assert nats == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, abs=1e-4)


def opened_with_bos(base: Path) -> Path:
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


# Similarity


@pytest.fixture(scope="module")
def embedder(tiny_base, tmp_path_factory) -> Path:
    """A real, untrained BERT in the form of a sentence-transformers folder."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("embedder")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base / "base")
    tokenizer.chat_template, tokenizer.padding_side = None, "right"  # as such models have them
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )
    ).save_pretrained(folder)  # fmt: skip
    write_json(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    return folder


def test_an_embedding_is_the_mean_of_the_tokens_whatever_else_is_in_the_batch(embedder):
    from transformers import AutoModel, AutoTokenizer

    embed = load_embedder(str(embedder), "cpu")
    short, long = "Buses are cheap.", "Nobody is made to use bike lanes, and nobody ever was. " * 3
    together = embed([short, long])
    tokenizer, model = (kind.from_pretrained(embedder) for kind in (AutoTokenizer, AutoModel))
    with torch.no_grad():
        ids = tokenizer(short, return_tensors="pt")["input_ids"]
        mean = model(input_ids=ids).last_hidden_state[0].mean(0)
    assert torch.allclose(together[0], mean / mean.norm(), atol=1e-5)
    assert torch.allclose(together.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_the_same_reply_is_similar_and_another_less_so(embedder, tmp_path):
    human = ["Buses are cheap.", "Ask your neighbors what they pay."]
    write_jsonl(tmp_path / "human.jsonl", player_rows(human))
    write_jsonl(tmp_path / "sft.jsonl", player_rows([human[0], "word " * 200]))  # longer than fits
    compare_with_human(
        model=str(embedder), responses=tmp_path / "sft.jsonl", human=tmp_path / "human.jsonl",
        output=tmp_path / "found.jsonl", seed=1, threads=1, device="cpu",
    )  # fmt: skip
    same, other = (row["similarity"] for row in read_jsonl(tmp_path / "found.jsonl"))
    assert same == pytest.approx(1, abs=1e-5)
    assert -1 <= other < 0.999


def copied(embedder: Path, folder: Path, **changed) -> Path:
    """The model with other files of sentence-transformers; None: without that one."""
    shutil.copytree(embedder, folder)
    for name, content in changed.items():
        path = folder / {"pooling": "1_Pooling/config.json"}.get(name, f"{name}.json")
        path.unlink(missing_ok=True)
        if content is not None:
            write_json(path, content)
    return folder


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pooling": {"pooling_mode_cls_token": True}}, "does not pool by the mean"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            "does not pool by the mean",
        ),
        ({"pooling": {"pooling_mode": "cls"}}, "does not pool by the mean"),
        ({"pooling": None}, "does not say how it pools"),
        (
            {"modules": [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}]},
            "does more than pool .modules.json: Dense",
        ),
    ],
)
def test_a_model_that_does_not_pool_by_the_mean_alone_is_refused(changed, says, embedder, tmp_path):
    with pytest.raises(UserError, match=says) as refused:
        load_embedder(str(copied(embedder, tmp_path / "embedder", **changed)), "cpu")
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="was not loaded"):
        load_embedder(str(tmp_path / "nowhere"), "cpu")


def test_a_text_is_cut_where_the_model_says(embedder, tmp_path):
    """all-MiniLM-L6-v2 takes 256 tokens, though it has positions for 512."""
    text = "Nobody is made to use bike lanes, and nobody ever was. " * 2
    folder = copied(embedder, tmp_path / "short", sentence_bert_config={"max_seq_length": 12})
    short, whole = (load_embedder(str(name), "cpu") for name in (folder, embedder))
    tokenizer = AutoTokenizer.from_pretrained(embedder)
    first = tokenizer.decode(tokenizer(text)["input_ids"][:12])
    assert torch.allclose(short([text]), whole([first]), atol=1e-5)
    assert not torch.allclose(short([text]), whole([text]), atol=1e-3)


def test_embeddings_are_those_of_sentence_transformers(embedder, tmp_path):
    """The library itself, where it is installed: its own folder, with its own settings."""
    library = pytest.importorskip("sentence_transformers")
    modules = library.sentence_transformer.modules
    encoder = modules.Transformer(str(embedder), max_seq_length=20)
    pooling = modules.Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")
    reference = library.SentenceTransformer(modules=[encoder, pooling], device="cpu")
    reference.save(str(tmp_path / "saved"))
    texts = ["Buses are cheap.", "Nobody is made to use bike lanes. " * 4]
    theirs = torch.tensor(reference.encode(texts, normalize_embeddings=True))
    assert torch.allclose(load_embedder(str(tmp_path / "saved"), "cpu")(texts), theirs, atol=1e-5)


EMBED = """
import sys
from persuasion_rl.files import UserError
from persuasion_rl.evaluation.similarity import load_embedder
try:
    print(load_embedder(sys.argv[1], "cpu")(["Buses are cheap."]).shape)
except UserError as error:
    sys.exit(str(error))
"""


def test_a_model_of_the_hub_is_held_to_the_same(embedder, tmp_path):
    """In the Hub's cache, without a network."""
    for name, pooling in (
        ("mean", {"pooling_mode_mean_tokens": True}),
        ("cls", {"pooling_mode_cls_token": True}),
        ("partly", None),  # only what transformers itself has fetched
    ):
        repository = tmp_path / f"models--org--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("0" * 40)
        copied(embedder, repository / "snapshots" / ("0" * 40), pooling=pooling)

    def embed(name: str) -> subprocess.CompletedProcess:
        offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, "-c", EMBED, f"org/{name}"],
            env=os.environ | {"PYTHONPATH": str(WORKFLOW)} | offline,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    assert embed("mean").stdout == "torch.Size([1, 16])\n"
    assert "org/cls does not pool by the mean" in embed("cls").stderr
    assert "org/partly does not say how it pools" in embed("partly").stderr
