"""The rows of a study as a data set: what load_dataset reads, whose labels they are, and what is not in them."""

import datasets
import pytest
from huggingface_hub import DatasetCard

from persuasion_rl.export.export_dataset import export_dataset
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.records import example_id
from tiny_models import sft_row


def sft(name: str) -> dict:
    row = sft_row(f"Claim {name}?\n", f"Because of {name}. 🙂\n\nSo.")
    row["metadata"] |= {"conversation_id": f"t3_{name}", "utterance_id": f"t1_{name}"}
    return row


def metadata(name: str) -> dict:
    row = sft(name)
    return {"prompt_id": example_id(row["metadata"]), "conversation_id": f"t3_{name}", "source": "cmv"}  # fmt: skip


def label(name: str, verdict: str, votes: list[dict], labeler: str) -> dict:
    return {"prompt": f"Claim {name}?\n", "response_1": "one", "response_2": "two", "verdict": verdict,
            "labeler": labeler, "votes": votes, "metadata": metadata(name) | {"model_digest": "x"}}  # fmt: skip


def pair(name: str, labeler: str) -> dict:
    return {"prompt": f"Claim {name}?\n", "chosen": "one", "rejected": "two",
            "metadata": metadata(name) | {"labeler": labeler}}  # fmt: skip


PEOPLE = [
    {"labeler": "Ada Lovelace", "order": "21", "verdict": "1", "answer": "right", "confidence": 3, "reason": "as I told Bob"},
    {"labeler": "Bob", "verdict": "tie", "answer": "tie"},
]  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """The files of a small study. Held out are e and f; g is another prompt of the test side, for the AI pool."""
    files = {
        "train": [sft("a"), sft("b"), sft("gone") | {"response": " [deleted] "}],
        "val": [sft("c")],
        "test": [sft("e"), sft("f"), sft("g")],
        "held_out": [{"prompt": f"Claim {name}?\n", "metadata": metadata(name)} for name in "ef"],
        "pairs": [
            {"prompt": f"Claim {name}?\n", "winner": "w", "loser": "l",
             "metadata": {"conversation_id": f"t3_{name}", "winner_id": f"t1_{name}", "loser_id": "t1_x"}}
            for name in "abe"
        ],
        "ai_labels": [
            label("g", "1", [{"labeler": "llm", "order": "12", "verdict": "1", "reason": "clearer"}], "llm"),
            {"excluded": "refused", "metadata": metadata("c")},
        ],
        "human_labels": [label("h", "1", PEOPLE, "people"), label("i", "tie", PEOPLE[1:], "people")],
        "ai_train": [pair("g", "llm")], "ai_val": [pair("c", "llm")],
        "human_train": [pair("h", "people")], "human_val": [],
    }  # fmt: skip
    for name, rows in files.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    sides = [("a", "train"), ("b", "train"), ("c", "val"), ("e", "test")]
    lines = [f"t3_{name},{side}\n" for name, side in sides]
    (tmp_path / "sides.csv").write_text("conversation_id,side\n" + "".join(lines))

    def write(**changed):
        file = lambda name: tmp_path / f"{name}.jsonl"  # noqa: E731
        pools = ("ai", "human")
        export_dataset(**dict(
            sft={side: file(side) for side in ("train", "val", "test")}, held_out=file("held_out"),
            delta_pairs=file("pairs"), sides=tmp_path / "sides.csv", study="small", synthetic=False, sources=["cmv"],
            labels={pool: file(f"{pool}_labels") for pool in pools},
            train={pool: file(f"{pool}_train") for pool in pools}, val={pool: file(f"{pool}_val") for pool in pools},
            responses_from=dict.fromkeys(pools, "sft"),
            labelled_by={"ai": "AI labels by the judge llm", "human": "people's labels"}, output=tmp_path / "dataset",
        ) | changed)  # fmt: skip
        return tmp_path / "dataset"

    return write


def test_load_dataset_reads_every_configuration(study, tmp_path):
    folder = str(study())
    assert datasets.get_dataset_config_names(folder) == [
        "sft", "delta_pairs", "ai_labels", "ai_pairs", "human_labels", "human_pairs"
    ]  # fmt: skip

    def rows(name):
        loaded = datasets.load_dataset(folder, name, cache_dir=str(tmp_path / "cache"))
        return {split: list(each) for split, each in loaded.items()}

    examples = rows("sft")
    assert {split: [row["conversation_id"] for row in each] for split, each in examples.items()} == {
        "train": ["t3_a", "t3_b"], "validation": ["t3_c"], "test": ["t3_e", "t3_f"]
    }  # fmt: skip
    assert examples["train"][0] == {
        "prompt": "Claim a?\n", "response": "Because of a. 🙂\n\nSo.", "prompt_id": "cmv-t3_a/t1_a",
        "conversation_id": "t3_a", "source": "cmv",
    }  # fmt: skip
    assert [row["chosen"] for row in rows("delta_pairs")["test"]] == ["w"]
    assert rows("human_pairs").keys() == {"train"}, "no split without rows"
    assert rows("ai_pairs")["validation"][0]["labeler"] == "llm"
    (labelled,) = rows("ai_labels")["pool"]
    assert (labelled["verdict"], labelled["votes"][0]["reason"]) == ("1", "clearer")


def test_annotators_are_numbers_and_their_reasons_are_left_out(study, tmp_path):
    folder = study()
    first, second = datasets.load_dataset(str(folder), "human_labels", split="pool", cache_dir=str(tmp_path))  # fmt: skip
    assert [vote["labeler"] for vote in first["votes"]] == ["annotator_1", "annotator_2"]
    assert [vote["labeler"] for vote in second["votes"]] == ["annotator_2"]
    assert first["votes"][0] == {"labeler": "annotator_1", "order": "21", "verdict": "1", "answer": "right",
                                 "confidence": 3, "reason": None}  # fmt: skip
    content = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"Ada" not in content and b"Bob" not in content and b"[deleted]" not in content


def test_a_held_out_conversation_in_a_training_split_stops_the_export(study, tmp_path):
    write_jsonl(tmp_path / "ai_train.jsonl", [pair("g", "llm"), pair("e", "llm")])
    with pytest.raises(UserError, match="leak: conversation t3_e of the final evaluation stands in ai_pairs/train"):  # fmt: skip
        study()
    assert not (tmp_path / "dataset").exists()


def test_the_card_says_whose_texts_and_labels_they_are(study):
    card = DatasetCard.load(study() / "README.md")
    assert card.data.license == "other" and card.data.configs[0]["default"] is True
    flat = " ".join(card.text.split())
    for words in ("keep their rights; nobody asked them", "`ai_labels` | pool 1 | two responses of `sft`",
                  "behind it: AI labels by the judge llm", "behind it: people's labels", "train 2, validation 1, test 2"):  # fmt: skip
        assert words in flat
    assert "Simulated" not in flat and "Synthetic" not in flat
    simulated = {"ai": "AI labels by the judge truth", "human": "simulated annotators, no person"}
    card = DatasetCard.load(study(synthetic=True, labelled_by=simulated) / "README.md")
    assert "> Simulated labels: `human_labels` and `human_pairs` are by simulated" in card.text
    assert "> Synthetic data: a grammar wrote" in card.text and "Reddit" not in card.text


def test_a_study_without_pools_has_a_data_set(study):
    folder = study(labels={}, train={}, val={}, responses_from={}, labelled_by={})
    assert datasets.get_dataset_config_names(str(folder)) == ["sft", "delta_pairs"]


def test_a_configuration_without_a_row_is_told_and_not_named_for_reading(study, tmp_path):
    """As the delta pairs of a study of PersuasionForGood alone, and a pool whose labels were all left out."""
    excluded = {"excluded": "refused", "metadata": metadata("c")}
    for name, rows in {"pairs": [], "ai_labels": [excluded], "ai_train": [], "ai_val": []}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    folder = study()
    names = datasets.get_dataset_config_names(str(folder))
    assert names == ["sft", "human_labels", "human_pairs"]
    for name in names:
        assert datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
    card = (folder / "README.md").read_text()
    assert "| `ai_labels` | pool 0 |" in card and card.startswith("---\nlanguage: en\n")
    assert (folder / "delta_pairs/train.parquet").is_file()
