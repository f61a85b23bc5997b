"""Decides each conversation's side (train, val, test) from ids and posts, before anything else is made.

Conversations whose posts are near-duplicates stand on the same side: two posts are near-duplicates when
the Jaccard similarity of their sets of word 5-shingles is .8 or more, and clusters are the connected
components of that relation. Candidates are found exactly, without hashing tricks, through an index of
rare shingles (prefix filtering: Chaudhuri et al. 2006, "A Primitive Operator for Similarity Joins").
"""

import math
from collections import Counter, defaultdict
from pathlib import Path

from persuasion_rl.clean import clean
from persuasion_rl.command import note, stage
from persuasion_rl.corpus import Conversation, is_cmv, post_of, read_corpus
from persuasion_rl.files import text_digest, write_csv

SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.8
SIDES = ("train", "val", "test")


def shingles(text: str) -> frozenset[str]:
    """The set of word 5-shingles of a text, in lower case; a shorter text is one shingle."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return frozenset(
        " ".join(words[start : start + SHINGLE_WORDS])
        for start in range(max(1, len(words) - SHINGLE_WORDS + 1))
    )


def jaccard(a: frozenset, b: frozenset) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


class Shingles:
    """An index of texts that finds the near-duplicates of a new one among those added before."""

    def __init__(self, frequency: Counter | None = None):
        self._frequency = frequency or Counter()
        self._sets: dict[str, frozenset[str]] = {}
        self._holders: dict[str, list[str]] = defaultdict(list)

    def _prefix(self, found: frozenset[str]) -> list[str]:
        # Two sets with Jaccard >= t share a shingle among the first n - ceil(t n) + 1 of each, in any
        # fixed order of shingles; ordering by rarity makes the lists of holders short.
        length = len(found) - math.ceil(NEAR_DUPLICATE * len(found)) + 1
        return sorted(found, key=lambda s: (self._frequency[s], s))[:length]

    def near_duplicates(self, text: str) -> list[str]:
        """The names of the texts that are near-duplicates of `text`."""
        found = shingles(text)
        candidates = {name for s in self._prefix(found) for name in self._holders.get(s, ())}
        return [name for name in candidates if jaccard(found, self._sets[name]) >= NEAR_DUPLICATE]

    def add(self, name: str, text: str) -> None:
        self._sets[name] = shingles(text)
        for shingle in self._prefix(self._sets[name]):
            self._holders[shingle].append(name)


def clusters(posts: dict[str, str]) -> dict[str, str]:
    """Map each name to its cluster, which is named after the smallest of its members' names."""
    index = Shingles(Counter(s for text in posts.values() for s in shingles(text)))
    leader = {name: name for name in posts}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for name, text in posts.items():
        for other in index.near_duplicates(text):
            first, second = sorted((find(name), find(other)))
            leader[second] = first
        index.add(name, text)
    return {name: find(name) for name in posts}


def post_text(title: str, body: str) -> str:
    """A post as it is compared with others: its title and its cleaned text."""
    return f"{title} {clean(body)}"


def compared_text(corpus: str, conversation: Conversation) -> str:
    """What makes a conversation a near-duplicate of another: its post, or only its id where it has none."""
    if is_cmv(conversation):
        return post_text(*post_of(conversation))
    return f"{corpus} {conversation.id}"


def assign_sides(
    *, corpora: list[Path], output: Path, seed: int, train: float, val: float, test: float
) -> dict[str, int]:
    """Write `output` (CSV: corpus, conversation_id, cluster, side) for all conversations.

    Clusters are put in an order that is a function of (seed, cluster) and fill train, then val, then
    test, in the proportions given, corpus by corpus; so the sides do not depend on the files' order.
    """
    posts: dict[str, str] = {}
    corpus_of: dict[str, str] = {}
    for folder in corpora:
        for id_, conversation in read_corpus(folder).items():
            posts[id_] = compared_text(folder.name, conversation)
            corpus_of.setdefault(id_, folder.name)
    cluster_of = clusters(posts)
    members: dict[str, list[str]] = defaultdict(list)
    for id_, cluster in cluster_of.items():
        members[cluster].append(id_)
    side_of: dict[str, str] = {}
    for folder in corpora:
        own = [cluster for cluster in members if corpus_of[cluster] == folder.name]
        size = sum(len(members[cluster]) for cluster in own)
        ends = [size * train / (train + val + test), size * (train + val) / (train + val + test)]
        placed = 0
        for cluster in sorted(own, key=lambda c: text_digest("side", seed, c)):
            side = SIDES[sum(placed >= end for end in ends)]
            side_of.update((id_, side) for id_ in members[cluster])
            placed += len(members[cluster])
    write_csv(
        output,
        [
            {
                "corpus": corpus_of[i],
                "conversation_id": i,
                "cluster": cluster_of[i],
                "side": side_of[i],
            }
            for i in posts
        ],
        ["corpus", "conversation_id", "cluster", "side"],
    )
    counts = {side: sum(s == side for s in side_of.values()) for side in SIDES}
    note(f"{len(posts):,} conversations in {len(members):,} clusters: {counts}")
    return counts


if __name__ == "__main__":
    stage(assign_sides)
