"""Finds near-duplicate posts.

Two posts are near-duplicates when the Jaccard similarity of their sets of word shingles is the threshold or
more, and clusters are the connected components of that relation. Candidates come from MinHash with
locality-sensitive hashing (datasketch; Broder 1997, "On the resemblance and containment of documents") and
are then compared exactly.
"""

from persuasion_rl.data.clean import clean_post
from persuasion_rl.data.corpus import Conversation
from persuasion_rl.runtime.command import note

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
