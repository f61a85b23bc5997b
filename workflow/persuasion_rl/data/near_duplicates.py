"""Finds near-duplicate posts.

Two posts are near-duplicates when the Jaccard similarity of their sets of word shingles is the threshold or
more, and clusters are the connected components of that relation. Candidates come from MinHash with
locality-sensitive hashing (datasketch; Broder 1997, "On the resemblance and containment of documents") and
are then compared exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import length_hint

from persuasion_rl.data.clean import clean_post
from persuasion_rl.data.corpus import Conversation
from persuasion_rl.runtime.progress import Progress

BANDS = 20
MOST_ROWS = 10
MISSED = 1e-4
"""The probability with which a pair just at the threshold may fail to become a candidate."""
LARGE_CLUSTER = 0.01
"""The share of all conversations above which a cluster is reported."""


@dataclass(frozen=True)
class NearDuplicateSettings:
    """When two posts are near-duplicates: words a shingle, and the least Jaccard similarity."""

    shingle_words: int = 5
    near_duplicate: float = 0.8


DEFAULTS = NearDuplicateSettings()


def shingles(text: str, words: int = DEFAULTS.shingle_words) -> frozenset[str]:
    """The set of word shingles of a text, in lower case; a text shorter than a shingle is one, one without a word has none."""
    in_text = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    starts = range(max(1, len(in_text) - words + 1)) if in_text else ()
    return frozenset(" ".join(in_text[start : start + words]) for start in starts)


def jaccard(a: frozenset, b: frozenset) -> float:
    """The Jaccard similarity of two sets, in [0, 1]. Empty sets have nothing in common: 0."""
    return len(a & b) / len(a | b) if a | b else 0.0


def rows_of_a_band(threshold: float) -> int:
    """The most rows a band may have so that pairs at the threshold are missed with probability `MISSED` at most; fewer
    if the threshold is so high that more would only cost time."""
    rows = 1
    while rows < MOST_ROWS and (1 - threshold ** (rows + 1)) ** BANDS <= MISSED:
        rows += 1
    return rows


class NearDuplicateIndex:
    """An index of texts that finds the near-duplicates of a new one among those added before."""

    def __init__(self, settings: NearDuplicateSettings = DEFAULTS):
        from datasketch import MinHash, MinHashLSH

        self._settings = settings
        rows = rows_of_a_band(settings.near_duplicate)
        self._empty_minhash = MinHash(num_perm=BANDS * rows)
        self._index = MinHashLSH(
            threshold=settings.near_duplicate,
            num_perm=BANDS * rows,
            params=(BANDS, rows),
            prepickle=False,
        )
        self._texts: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> list[str]:
        """Add a text; return the names of its near-duplicates among those added before. A text without a word has none.

        A name may have several texts.
        """
        new_shingles = self._shingles(text)
        if not new_shingles:
            return []
        minhash = self._empty_minhash.copy()
        minhash.update_batch([shingle.encode() for shingle in new_shingles])
        similar = [
            other
            for other, other_text in map(self._texts.__getitem__, self._index.query(minhash))
            if jaccard(new_shingles, self._shingles(other_text)) >= self._settings.near_duplicate
        ]
        self._index.insert(len(self._texts), minhash)
        self._texts.append((name, text))
        return similar

    def _shingles(self, text: str) -> frozenset[str]:
        return shingles(text, self._settings.shingle_words)


def clusters(
    posts: Iterable[tuple[str, str]], settings: NearDuplicateSettings = DEFAULTS
) -> dict[str, str]:
    """Map the name of each post to its cluster, which has the smallest name of its members.

    Args:
        posts: names and texts. A name may stand there several times: a post may have another text in another corpus.
    """
    index = NearDuplicateIndex(settings)
    first_with: dict[str, str] = {}  # Thousands of posts may have one text: "[deleted by user]".
    leader: dict[str, str] = {}

    def leader_of(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    progress = Progress("near-duplicates", length_hint(posts) or None, "posts")
    for name, text in progress.over(posts):
        leader.setdefault(name, name)
        if text in first_with:
            similar = [first_with[text]]
        else:
            similar = index.add(name, text)
            if any(map(str.isalnum, text)):
                first_with[text] = name
        for other in similar:
            first, second = sorted((leader_of(name), leader_of(other)))
            leader[second] = first
    return {name: leader_of(name) for name in leader}


def post_text(title: str, body: str) -> str:
    """The text by which a post is compared with others: its title and its cleaned body."""
    return f"{title} {clean_post(body)}"


def compared_text(corpus: str, conversation: Conversation) -> str:
    """The text by which a conversation is compared: its post; without one, its corpus and id, which resemble no other."""
    if conversation.title is not None:
        return post_text(conversation.title, conversation.body)
    return f"{corpus} {conversation.id}"
