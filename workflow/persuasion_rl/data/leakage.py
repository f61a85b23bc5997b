"""Checks that nothing leaks between sides and pools, from the files that training and evaluation read.

No conversation, no near-duplicate post and no utterance may stand on two sides or in two pools, no delta pair
may lack a side, and a prompt of a pool may stand neither in the training rows nor in another pool. Posts are
compared again here, from the corpora: what `sides.csv` says of clusters is checked, not believed.
"""

from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.sides import NEAR_DUPLICATE, SHINGLE_WORDS, NearDuplicates, compared_text
from persuasion_rl.files import UserError, read_jsonl, write_json
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import read_table


class Places:
    """Where things stand; a thing in two places is a leak."""

    def __init__(self):
        self._place_of: dict[tuple[str, str], str] = {}

    def put(self, kind: str, name: str, place: str, shown: str | None = None) -> None:
        other = self._place_of.setdefault((kind, name), place)
        if other != place:
            raise UserError(f"leak: {kind} {shown or name} stands in {other} and in {place}")


def check_leakage(
    *,
    corpora: list[Path],
    sides: Path,
    sft: dict[str, Path],
    pools: dict[str, Path],
    pairs: Path,
    output: Path,
    shingle_words: int = SHINGLE_WORDS,
    near_duplicate: float = NEAR_DUPLICATE,
) -> dict[str, int]:
    """Raise UserError at the first leak; else write what was compared to `output`.

    Args:
        sft: side -> SFT rows. pools: pool -> prompts. pairs: delta pairs.
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
        for row in read_jsonl(path):
            rows += 1
            conversation = row["metadata"]["conversation_id"]
            utterance = f"{row['metadata']['source']}-{row['metadata']['utterance_id']}"
            if side_of.get(conversation) != side:
                raise UserError(
                    f"{path}: conversation {conversation} is on the side {side_of.get(conversation)}"
                )
            places.put("utterance", utterance, side)
            if side == "train":
                train_prompts.add(row["input_text"])
    for pool, path in pools.items():
        for row in read_jsonl(path):
            prompts += 1
            conversation = row["metadata"]["conversation_id"]
            if conversation not in side_of:
                raise UserError(f"{path}: conversation {conversation} has no side")
            if side_of[conversation] == "train" or row["prompt"] in train_prompts:
                raise UserError(f"{path}: conversation {conversation} is in the training data")
            if pool != "ai" and side_of[conversation] != "test":
                raise UserError(f"{path}: conversation {conversation} is not on the test side")
            where = pool_of[conversation] = f"the pool {pool}"
            places.put("conversation in a pool:", conversation, where)
            places.put("near-duplicate cluster in a pool:", cluster_of[conversation], where)
            places.put("prompt", row["prompt"], where, shown=row["metadata"]["prompt_id"])
    for pair in read_jsonl(pairs):
        if pair["metadata"]["conversation_id"] not in side_of:
            raise UserError(f"{pairs}: {pair['metadata']['conversation_id']} has no side")
    for one, other in _near_duplicates(corpora, shingle_words, near_duplicate):
        for place_of in (side_of, pool_of):
            places_found = {place_of[id_] for id_ in (one, other) if id_ in place_of}
            if len(places_found) > 1:
                raise UserError(
                    f"leak: the posts of conversations {one} and {other} are near-duplicates, and stand in"
                    f" {' and in '.join(sorted(places_found))}"
                )
    counts = {"conversations": len(side_of), "sft_rows": rows, "prompts": prompts}
    write_json(output, {"leaks": 0, "compared": counts})
    note(f"no leak among {counts}")
    return counts


def _near_duplicates(
    corpora: list[Path], words: int, threshold: float
) -> Iterator[tuple[str, str]]:
    """Pairs of conversations whose posts are near-duplicates."""
    index = NearDuplicates(words, threshold)
    seen = set()
    for folder in corpora:
        for conversation in read_threads(folder):
            if conversation.id not in seen:
                seen.add(conversation.id)
                text = compared_text(folder.name, conversation)
                for other in index.add(conversation.id, text):
                    yield conversation.id, other


if __name__ == "__main__":
    stage(check_leakage)
