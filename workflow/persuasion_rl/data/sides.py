"""Decides each conversation's side (train, val, test) from ids and posts, before anything else is made.

Conversations whose posts are near-duplicates (`near_duplicates.py`) are on the same side.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from persuasion_rl.data.clean import clean
from persuasion_rl.data.corpus import Conversation, check_digests, read_threads
from persuasion_rl.data.fields import truth
from persuasion_rl.data.near_duplicates import (
    DEFAULTS,
    LARGE_CLUSTER,
    NearDuplicateSettings,
    clusters,
    compared_text,
)
from persuasion_rl.files import UserError, text_digest, write_json
from persuasion_rl.records import SIDES
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import write_table


@dataclass(frozen=True)
class Shares:
    """The shares of the sides in each corpus; only their proportions count."""

    train: float
    val: float
    test: float

    @property
    def total(self) -> float:
        return self.train + self.val + self.test


def ordered_sides(members: dict[str, list[str]], shares: Shares, seed: int) -> dict[str, str]:
    """The side of each cluster of a corpus.

    Clusters are put in an order that is a function of (seed, cluster) and fill train, then val, then test, in
    proportion to the shares; so the sides do not depend on the files' order.

    Args:
        members: cluster -> the ids of its conversations.
    """
    size = sum(map(len, members.values()))
    ends = [size * shares.train / shares.total, size * (shares.train + shares.val) / shares.total]
    side_of, placed = {}, 0
    for cluster in sorted(members, key=lambda c: text_digest("side", seed, c)):
        side_of[cluster] = SIDES[sum(placed >= end for end in ends)]
        placed += len(members[cluster])
    return side_of


def official_sides(
    members: dict[str, list[str]], marks: dict[str, int], shares: Shares, seed: int
) -> dict[str, str] | None:
    """The side of each cluster by the corpus' own hold-out; None if that does not allow the shares.

    The test side is made of held-out conversations and the train side of the others; validation gets the rest of
    both. A cluster with a held-out member is held out.

    Args:
        members: cluster -> the ids of its conversations.
        marks: conversation -> the corpus' `train` mark, 1 or 0 (held out); members of another corpus may lack one.
    """
    held_out = {c: ids for c, ids in members.items() if not all(marks.get(i, 1) for i in ids)}
    others = {c: ids for c, ids in members.items() if c not in held_out}
    sizes = [sum(map(len, part.values())) for part in (others, held_out)]
    needed = [sum(sizes) * share / shares.total for share in (shares.train, shares.test)]
    if any(size < need for size, need in zip(sizes, needed, strict=True)):
        return None
    of_others = Shares(train=needed[0], val=sizes[0] - needed[0], test=0.0)
    of_held_out = Shares(train=0.0, val=sizes[1] - needed[1], test=needed[1])
    return ordered_sides(others, of_others, seed) | ordered_sides(held_out, of_held_out, seed)


def assign_sides(
    *,
    corpora: list[Path],
    output: Path,
    duplicates: Path,
    seed: int,
    shares: Shares,
    official_split: str = "auto",
    settings: NearDuplicateSettings = DEFAULTS,
) -> dict[str, int]:
    """Write `output` (CSV: corpus, conversation_id, cluster, side) for all conversations.

    Args:
        corpora: folders; a conversation in several of them belongs to the first.
        duplicates: the JSON file of the clusters of near-duplicates, and of what became of each official split.
        official_split: "auto" uses the corpus' own `train` mark if its shares allow; "false" does not.

    Returns:
        side -> the number of its conversations.

    Raises:
        UserError: a corpus cannot be read, or a thread has the id of another corpus's dialogue.
    """
    posts: dict[str, str] = {}
    texts: list[tuple[str, str]] = []
    corpus_of: dict[str, str] = {}
    roots: dict[str, tuple[bool, str]] = {}
    marks: dict[str, int] = {}
    for folder in corpora:
        check_digests(folder)
        for conversation in read_threads(folder):
            text = compared_text(folder.name, conversation)
            texts.append((conversation.id, text))
            root = (conversation.title is not None, text_digest(conversation.root.text))
            first = roots.setdefault(conversation.id, root)
            if all(one != other for one, other in zip(first, root, strict=True)):
                raise UserError(
                    f"{conversation.place}: {corpus_of[conversation.id]} has another conversation of that id, a thread where"
                    " this is a dialogue, or the other way round: give one of them another id"
                )
            if conversation.id not in posts:
                posts[conversation.id] = text
                corpus_of[conversation.id] = folder.name
                if (mark := _mark_of(conversation)) is not None:
                    marks[conversation.id] = mark
    cluster_of = clusters(texts, settings)
    members: dict[str, list[str]] = defaultdict(list)
    corpus_of_cluster: dict[str, str] = {}  # the first corpus that has a member
    for id_, cluster in cluster_of.items():
        members[cluster].append(id_)
        corpus_of_cluster.setdefault(cluster, corpus_of[id_])
    side_of: dict[str, str] = {}
    official: dict[str, str] = {}
    for folder in corpora:
        of_corpus = {c: ids for c, ids in members.items() if corpus_of_cluster[c] == folder.name}
        marked = bool(of_corpus) and all(any(i in marks for i in ids) for ids in of_corpus.values())
        by_marks, official[folder.name] = None, "none in this corpus"
        if marked and official_split == "auto":
            by_marks = official_sides(of_corpus, marks, shares, seed)
            official[folder.name] = (
                "used" if by_marks else "not used: its shares do not allow data.split"
            )
        elif marked:
            official[folder.name] = "not used: data.official_split is false"
        side_of |= by_marks or ordered_sides(of_corpus, shares, seed)
    rows = [
        {"corpus": corpus_of[i], "conversation_id": i, "cluster": c, "side": side_of[c]}
        for i, c in cluster_of.items()
    ]
    write_table(output, rows, ["corpus", "conversation_id", "cluster", "side"])
    counts = {side: sum(row["side"] == side for row in rows) for side in SIDES}
    several = list(_clusters_of_several(members, posts))
    write_json(
        duplicates,
        {
            **asdict(settings),
            "conversations": len(posts),
            "clusters": len(members),
            "sides": counts,
            "official_split": official,
            "near_duplicates": several,
        },
    )
    note(f"{len(posts):,} conversations in {len(members):,} clusters: {counts}")
    for name, outcome in official.items():
        note(f"{name}: official split {outcome}")
    for row in several:
        if row["share"] > LARGE_CLUSTER:
            note(
                f"cluster {row['cluster']} holds {row['share']:.1%} of all conversations: {row['title']}"
            )
    return counts


def _mark_of(conversation: Conversation) -> int | None:
    """The corpus' `train` mark of a conversation, if it has one."""
    try:
        return truth("train", conversation.meta.get("train"))
    except UserError as error:
        raise UserError(f"{conversation.place}: {error}") from None


def _clusters_of_several(members: dict[str, list[str]], posts: dict[str, str]) -> Iterator[dict]:
    """The clusters of more than one conversation, largest first."""
    for cluster, ids in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(ids) > 1:
            yield {
                "cluster": cluster,
                "conversations": len(ids),
                "share": round(len(ids) / len(posts), 6),
                "title": clean(posts[cluster])[:80],
            }


if __name__ == "__main__":
    stage(assign_sides)
