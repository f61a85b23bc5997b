"""Decides each conversation's side (train, val, test) from ids and posts, before anything else is made.

Conversations whose posts are near-duplicates stand on the same side: two posts are near-duplicates when
the Jaccard similarity of their sets of word shingles is the threshold or more, and clusters are the
connected components of that relation. Candidates come from MinHash with locality-sensitive hashing
(datasketch; Broder 1997, "On the resemblance and containment of documents") and are then compared exactly.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.data.clean import clean, clean_post
from persuasion_rl.data.corpus import Conversation, check_digests, read_threads
from persuasion_rl.files import text_digest, write_json
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import write_table

SIDES = ("train", "val", "test")
SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.8
BANDS = 20
MOST_ROWS = 10
MISSED = 1e-4
"""How often a pair that is just at the threshold may fail to become a candidate."""
LARGE = 0.01
"""The share of all conversations above which a cluster is named."""


def shingles(text: str, words: int = SHINGLE_WORDS) -> frozenset[str]:
    """The set of word shingles of a text, in lower case; a shorter text is one shingle."""
    found = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return frozenset(
        " ".join(found[start : start + words]) for start in range(max(1, len(found) - words + 1))
    )


def jaccard(a: frozenset, b: frozenset) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def rows_of_a_band(threshold: float) -> int:
    """The most rows a band may have so that a pair at the threshold becomes a candidate but for `MISSED`;
    fewer where the threshold is so high that more would only cost time."""
    rows = 1
    while rows < MOST_ROWS and (1 - threshold ** (rows + 1)) ** BANDS <= MISSED:
        rows += 1
    return rows


class NearDuplicates:
    """An index of texts that finds the near-duplicates of a new one among those added before."""

    def __init__(self, words: int = SHINGLE_WORDS, threshold: float = NEAR_DUPLICATE):
        from datasketch import MinHash, MinHashLSH

        self._words, self._threshold = words, threshold
        rows = rows_of_a_band(threshold)
        self._hash = MinHash(num_perm=BANDS * rows)
        self._index = MinHashLSH(
            threshold=threshold, num_perm=BANDS * rows, params=(BANDS, rows), prepickle=False
        )
        self._texts: dict[str, str] = {}

    def _minhash(self, found: frozenset[str]):
        minhash = self._hash.copy()
        minhash.update_batch([shingle.encode() for shingle in found])
        return minhash

    def add(self, name: str, text: str) -> list[str]:
        """Add a text; return the names of its near-duplicates among those added before."""
        found = shingles(text, self._words)
        minhash = self._minhash(found)
        similar = [
            other
            for other in self._index.query(minhash)
            if jaccard(found, shingles(self._texts[other], self._words)) >= self._threshold
        ]
        self._index.insert(name, minhash)
        self._texts[name] = text
        return similar


def clusters(
    posts: dict[str, str], words: int = SHINGLE_WORDS, threshold: float = NEAR_DUPLICATE
) -> dict[str, str]:
    """Map each name to its cluster, which is named after the smallest of its members' names."""
    index = NearDuplicates(words, threshold)
    leader = {name: name for name in posts}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for number, (name, text) in enumerate(posts.items(), 1):
        for other in index.add(name, text):
            first, second = sorted((find(name), find(other)))
            leader[second] = first
        if number % 20_000 == 0:
            note(f"{number:,} of {len(posts):,} posts compared")
    return {name: find(name) for name in posts}


def post_text(title: str, body: str) -> str:
    """A post as it is compared with others: its title and its cleaned text."""
    return f"{title} {clean_post(body)}"


def compared_text(corpus: str, conversation: Conversation) -> str:
    """What makes a conversation a near-duplicate of another: its post, or only its id where it has none."""
    if conversation.title is not None:
        return post_text(conversation.title, conversation.body)
    return f"{corpus} {conversation.id}"


def ordered_sides(
    members: dict[str, list[str]], shares: dict[str, float], seed: int
) -> dict[str, str]:
    """The side of each cluster of a corpus.

    Clusters are put in an order that is a function of (seed, cluster) and fill train, then val, then test,
    in the proportions given; so the sides do not depend on the files' order.
    """
    size = sum(map(len, members.values()))
    total = sum(shares.values())
    ends = [size * shares["train"] / total, size * (shares["train"] + shares["val"]) / total]
    side_of, placed = {}, 0
    for cluster in sorted(members, key=lambda c: text_digest("side", seed, c)):
        side_of[cluster] = SIDES[sum(placed >= end for end in ends)]
        placed += len(members[cluster])
    return side_of


def official_sides(
    members: dict[str, list[str]], marks: dict[str, int], shares: dict[str, float], seed: int
) -> dict[str, str] | None:
    """The side of each cluster by the corpus' own hold-out (`train` 1 or 0); None where it does not allow
    the shares.

    The test side is made of held-out conversations and the train side of the others; validation gets what
    is left of both. A cluster with a held-out member is held out; `marks` may lack members that are of
    another corpus.
    """
    total = sum(shares.values())
    held_out = {c: ids for c, ids in members.items() if not all(marks.get(i, 1) for i in ids)}
    others = {c: ids for c, ids in members.items() if c not in held_out}
    sizes = [sum(map(len, part.values())) for part in (others, held_out)]
    wanted = [sum(sizes) * shares[side] / total for side in ("train", "test")]
    if any(there < need for there, need in zip(sizes, wanted, strict=True)):
        return None
    train = {"train": wanted[0], "val": sizes[0] - wanted[0], "test": 0.0}
    test = {"train": 0.0, "val": sizes[1] - wanted[1], "test": wanted[1]}
    return ordered_sides(others, train, seed) | ordered_sides(held_out, test, seed)


def assign_sides(
    *,
    corpora: list[Path],
    output: Path,
    duplicates: Path,
    seed: int,
    train: float,
    val: float,
    test: float,
    official_split: str = "auto",
    shingle_words: int = SHINGLE_WORDS,
    near_duplicate: float = NEAR_DUPLICATE,
) -> dict[str, int]:
    """Write `output` (CSV: corpus, conversation_id, cluster, side) for all conversations.

    Args:
        duplicates: gets what was found of near-duplicates and of the official split (JSON).
        train, val, test: the shares of the sides, corpus by corpus.
        official_split: "auto" keeps to the corpus' own `train` mark where its shares allow; "false" does not.
    """
    posts: dict[str, str] = {}
    corpus_of: dict[str, str] = {}
    marks: dict[str, int] = {}
    for folder in corpora:
        check_digests(folder)
        for conversation in read_threads(folder):
            if conversation.id not in posts:
                posts[conversation.id] = compared_text(folder.name, conversation)
                corpus_of[conversation.id] = folder.name
                if conversation.meta.get("train") is not None:
                    marks[conversation.id] = int(conversation.meta["train"])
    cluster_of = clusters(posts, shingle_words, near_duplicate)
    members: dict[str, list[str]] = defaultdict(list)
    corpus_of_cluster: dict[str, str] = {}  # the first corpus that has a member
    for id_, cluster in cluster_of.items():
        members[cluster].append(id_)
        corpus_of_cluster.setdefault(cluster, corpus_of[id_])
    side_of: dict[str, str] = {}
    official: dict[str, str] = {}
    shares = {"train": train, "val": val, "test": test}
    for folder in corpora:
        own = {c: ids for c, ids in members.items() if corpus_of_cluster[c] == folder.name}
        marked = bool(own) and all(any(i in marks for i in ids) for ids in own.values())
        found, official[folder.name] = None, "none in this corpus"
        if marked and official_split == "auto":
            found = official_sides(own, marks, shares, seed)
            official[folder.name] = (
                "used" if found else "not used: its shares do not allow data.split"
            )
        elif marked:
            official[folder.name] = "not used: data.official_split is false"
        side_of |= found or ordered_sides(own, shares, seed)
    rows = [
        {"corpus": corpus_of[i], "conversation_id": i, "cluster": c, "side": side_of[c]}
        for i, c in cluster_of.items()
    ]
    write_table(output, rows, ["corpus", "conversation_id", "cluster", "side"])
    counts = {side: sum(row["side"] == side for row in rows) for side in SIDES}
    write_json(
        duplicates,
        {
            "shingle_words": shingle_words,
            "near_duplicate": near_duplicate,
            "conversations": len(posts),
            "clusters": len(members),
            "sides": counts,
            "official_split": official,
            "near_duplicates": list(_near_duplicates(members, posts)),
        },
    )
    note(f"{len(posts):,} conversations in {len(members):,} clusters: {counts}")
    for name, outcome in official.items():
        note(f"{name}: official split {outcome}")
    for row in _near_duplicates(members, posts):
        if row["share"] > LARGE:
            note(
                f"cluster {row['cluster']} holds {row['share']:.1%} of all conversations: {row['title']}"
            )
    return counts


def _near_duplicates(members: dict[str, list[str]], posts: dict[str, str]) -> Iterator[dict]:
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
