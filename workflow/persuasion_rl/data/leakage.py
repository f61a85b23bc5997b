"""Checks that nothing leaks between sides and pools, from the files that training and evaluation read.

No conversation and no near-duplicate post may stand on two sides or in two pools, no delta pair may lack a side, and
a prompt of a pool may stand neither in the training rows nor in another pool. Posts are compared again here, from
the corpora, to check the clusters of `sides.csv`.
"""

from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.near_duplicates import (
    DEFAULTS,
    NearDuplicateSettings,
    clusters,
    compared_text,
)
from persuasion_rl.files import UserError, write_json
from persuasion_rl.records import DeltaPair, PoolRow, SftRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import read_table


class Places:
    """The place of each conversation, cluster and prompt; one in two places is a leak."""

    def __init__(self):
        self._place_of: dict[tuple[str, str], str] = {}

    def put(self, kind: str, name: str, place: str, reported: str | None = None) -> None:
        """Record the place of a thing; `reported` is its name in the error, `name` by default.

        Raises:
            UserError: it has another place already.
        """
        other = self._place_of.setdefault((kind, name), place)
        if other != place:
            raise UserError(f"leak: {kind} {reported or name} stands in {other} and in {place}")


def check_leakage(
    *,
    corpora: list[Path],
    sides: Path,
    sft: dict[str, Path],
    pools: dict[str, Path],
    pairs: Path,
    output: Path,
    settings: NearDuplicateSettings = DEFAULTS,
) -> dict[str, int]:
    """Raise UserError at the first leak; without one, write to `output` how much was compared.

    Args:
        corpora: folders of the corpora.
        sides: the table of `assign_sides`.
        sft: side -> SftRows. pools: pool -> PoolRows. pairs: DeltaPairs.
    """
    places = Places()
    side_of, cluster_of = {}, {}
    table = read_table(sides)[["conversation_id", "cluster", "side"]]
    for conversation, cluster, side in table.itertuples(index=False, name=None):
        side_of[conversation], cluster_of[conversation] = side, cluster
        places.put("conversation", conversation, side)
        places.put("near-duplicate cluster", cluster, side)
    pool_of: dict[str, str] = {}
    rows = prompts = 0
    train_prompts = set()
    for side, path in sft.items():
        for row in read_rows(path, SftRow):
            rows += 1
            conversation = row["metadata"]["conversation_id"]
            if side_of.get(conversation) != side:
                raise UserError(
                    f"{path}: conversation {conversation} is on the side {side_of.get(conversation)}"
                )
            if side == "train":
                train_prompts.add(row["input_text"])
    for pool, path in pools.items():
        for row in read_rows(path, PoolRow):
            prompts += 1
            conversation = row["metadata"]["conversation_id"]
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} has no side")
            if side_of[conversation] == "train" or row["prompt"] in train_prompts:
                raise UserError(f"{path}: conversation {conversation} is in the training data")
            if pool != "ai" and side_of[conversation] != "test":
                raise UserError(f"{path}: conversation {conversation} is not on the test side")
            place = pool_of[conversation] = f"the pool {pool}"
            places.put("conversation in a pool:", conversation, place)
            places.put("near-duplicate cluster in a pool:", cluster_of[conversation], place)
            places.put("prompt", row["prompt"], place, reported=row["metadata"]["prompt_id"])
    for pair in read_rows(pairs, DeltaPair):
        if pair["metadata"]["conversation_id"] not in side_of:
            raise UserError(f"{pairs}: {pair['metadata']['conversation_id']} has no side")
    _check_near_duplicates(clusters(_posts(corpora), settings), (side_of, pool_of))
    counts = {"conversations": len(side_of), "sft_rows": rows, "prompts": prompts}
    write_json(output, {"leaks": 0, "compared": counts})
    note(f"no leak among {counts}")
    return counts


def _posts(corpora: list[Path]) -> Iterator[tuple[str, str]]:
    """The id and the compared text of each conversation."""
    for folder in corpora:
        for conversation in read_threads(folder):
            yield conversation.id, compared_text(folder.name, conversation)


def _check_near_duplicates(cluster_of: dict[str, str], places: tuple[dict[str, str], ...]) -> None:
    """Raise UserError if conversations of one cluster have two places of a kind.

    Args:
        places: conversation -> side, and conversation -> pool.
    """
    for place_of in places:
        first_of: dict[str, str] = {}
        for id_ in filter(place_of.__contains__, cluster_of):
            first = first_of.setdefault(cluster_of[id_], id_)
            if place_of[id_] != place_of[first]:
                one, other = sorted((first, id_))
                both_places = sorted((place_of[first], place_of[id_]))
                raise UserError(
                    f"leak: the posts of conversations {one} and {other} are near-duplicates, and stand in"
                    f" {' and in '.join(both_places)}"
                )


if __name__ == "__main__":
    stage(check_leakage)
