"""Writes what a study learned from and labelled as a folder that `datasets.load_dataset` reads: parquet, with a card.

A configuration is a kind of rows, a split a part of them. Only the prompts of the final evaluation are `test` of `sft`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from persuasion_rl.data.clean import GONE
from persuasion_rl.data.delta_pairs import pairs_on
from persuasion_rl.files import UserError, written_whole
from persuasion_rl.records import (
    SIDES,
    LabelRow,
    PoolRow,
    PreferencePair,
    SftRow,
    example_id,
    read_rows,
)
from persuasion_rl.report.plotting import page
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.names import HUMAN, dataset_file

TEMPLATE = Path(__file__).parents[1] / "report/templates/dataset_card.md.j2"
SPLIT = {"train": "train", "val": "validation", "test": "test"}
"""A side, or a part of a pool's pairs -> the split's name among the Hub's data sets."""
TEXTS = ("prompt", "response", "chosen", "rejected", "response_1", "response_2")
IDS = ["prompt_id", "conversation_id", "source"]
COLUMNS = {
    "sft": ["prompt", "response", *IDS],
    "delta_pairs": ["prompt", "chosen", "rejected", "chosen_id", "rejected_id", "conversation_id"],
    "pairs": ["prompt", "chosen", "rejected", "labeler", *IDS],
    "labels": ["prompt", "response_1", "response_2", "verdict", "labeler", "votes", *IDS],
}
"""Kind of rows -> their columns."""
VOTE = ["labeler", "order", "verdict", "answer", "confidence", "reason"]
"""The columns of a vote; `confidence` is 1 to 3, and all else text."""


def export_dataset(
    *,
    sft: dict[str, Path],
    held_out: Path,
    delta_pairs: Path,
    sides: Path,
    study: str,
    synthetic: bool,
    sources: list[str],
    output: Path,
    labels: dict[str, Path] = {},
    train: dict[str, Path] = {},
    val: dict[str, Path] = {},
    responses_from: dict[str, str] = {},
    labelled_by: dict[str, str] = {},
) -> dict[str, dict[str, int]]:
    """Write the parquet files and the card (README.md, the last) of a study's data set.

    Annotators are numbered, and reasons that people wrote are left out. Returns configuration -> split -> rows.

    Args:
        sft: side -> SftRows. held_out: the prompts of the final evaluation. sides: the table of `assign_sides`.
        labels: pool -> LabelRows. train, val: pool -> PreferencePairs.
        synthetic: whether no person wrote the posts and replies. sources: of the examples ("cmv", "p4g").
        responses_from: pool -> the model that wrote its responses. labelled_by: pool -> who labelled it, in words.
        output: the folder.

    Raises:
        UserError: a conversation of the final evaluation is in another split of the rows that models learn from.
    """
    test = {row["metadata"]["prompt_id"] for row in read_rows(held_out, PoolRow)}
    rows: dict[tuple[str, str], list[dict]] = {
        ("sft", SPLIT[side]): [
            row for row in _sft_rows(sft[side]) if side != "test" or row["prompt_id"] in test
        ]
        for side in SIDES
    }
    for side in SIDES:
        rows["delta_pairs", SPLIT[side]] = [*_delta_rows(side, delta_pairs, sides)]
    for pool in labels:
        rows[f"{pool}_labels", "pool"] = [*_label_rows(labels[pool], people=pool == HUMAN)]
        for part, files in (("train", train), ("val", val)):
            pairs = read_rows(files[pool], PreferencePair)
            rows[f"{pool}_pairs", SPLIT[part]] = [_flat(pair) for pair in pairs]
    rows = {place: [*filter(_is_there, each)] for place, each in rows.items()}
    _refuse_leak(rows)
    counts: dict[str, dict[str, int]] = {}
    for (name, split), each in rows.items():
        _write_parquet(output / dataset_file(name, split), name, each)
        counts.setdefault(name, {})[split] = len(each)
    text = page(
        TEMPLATE, study=study, counts=counts, file=dataset_file, synthetic=synthetic, sources=sources,
        labelled_by=labelled_by, responses_from=responses_from,
    )  # fmt: skip
    with written_whole(output / "README.md") as part:
        part.write_text(text, encoding="utf-8")
    note(f"{output}: {counts}")
    return counts


def _sft_rows(file: Path) -> Iterator[dict]:
    for row in read_rows(file, SftRow):
        ids = {"prompt_id": example_id(row["metadata"])}
        yield _flat(row | {"prompt": row["input_text"]}) | ids


def _delta_rows(side: str, pairs: Path, sides: Path) -> Iterator[dict]:
    for pair in pairs_on(side, pairs, sides):
        yield {
            "prompt": pair["prompt"],
            "chosen": pair["winner"],
            "rejected": pair["loser"],
            "chosen_id": pair["metadata"]["winner_id"],
            "rejected_id": pair["metadata"]["loser_id"],
            "conversation_id": pair["metadata"]["conversation_id"],
        }


def _label_rows(file: Path, people: bool) -> Iterator[dict]:
    """Labelled pairs. Of people the names become numbers, in the order of their first votes."""
    numbers: dict[str, str] = {}
    for row in read_rows(file, LabelRow):
        if "excluded" in row:
            continue
        votes = [{key: vote.get(key) for key in VOTE} for vote in row["votes"]]
        for vote in votes if people else ():
            number = numbers.setdefault(vote["labeler"], f"annotator_{len(numbers) + 1}")
            vote |= {"labeler": number, "reason": None}
        yield _flat(row) | {"votes": votes}


def _flat(row: dict) -> dict:
    """A row with the keys of its metadata beside its own, which come first."""
    return row["metadata"] | row


def _is_there(row: dict) -> bool:
    """Whether no text of a row is the placeholder of one that was deleted."""
    return not any(GONE.fullmatch(row[name].strip()) for name in TEXTS if name in row)


def _refuse_leak(rows: dict[tuple[str, str], list[dict]]) -> None:
    """UserError where a conversation of the test split of sft is in a split that a model learns from or is chosen by."""
    test = {row["conversation_id"] for row in rows["sft", "test"]}
    for (name, split), each in rows.items():
        leaked = test & {row["conversation_id"] for row in each} if split != "test" else ()
        if leaked:
            raise UserError(
                f"leak: conversation {min(leaked)} of the final evaluation stands in {name}/{split} too; nothing is"
                " written: make the splits again"
            )


def _write_parquet(file: Path, name: str, rows: Iterable[dict]) -> None:
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.string()
    vote = pyarrow.struct([(key, pyarrow.int64() if key == "confidence" else text) for key in VOTE])
    columns = COLUMNS[name if name in COLUMNS else name.rpartition("_")[2]]
    schema = pyarrow.schema(
        [(key, pyarrow.list_(vote) if key == "votes" else text) for key in columns]
    )
    kept: list[dict[str, Any]] = [{key: row.get(key) for key in columns} for row in rows]
    with written_whole(file) as part:
        parquet.write_table(pyarrow.Table.from_pylist(kept, schema=schema), part)


if __name__ == "__main__":
    stage(export_dataset)
