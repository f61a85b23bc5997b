"""Finds near-duplicate posts.

Two posts are near-duplicates when the Jaccard similarity of their sets of word shingles is the threshold or
more, and clusters are the connected components of that relation. Candidates come from MinHash with
locality-sensitive hashing (datasketch; Broder 1997, "On the resemblance and containment of documents") and
are then compared exactly.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import length_hint

from persuasion_rl.data.clean import clean_post
from persuasion_rl.data.corpus import Conversation
from persuasion_rl.runtime.progress import Progress

BANDS = 20
MOST_ROWS = 10
MISSED = 1e-4
"""The probability with which a pair just at the threshold may fail to become a candidate."""
COMPARED = 4096
"""Texts whose shingles are kept, of those that are compared with others: few, unless very many are somewhat alike."""
LARGE_CLUSTER = 0.01
"""The share of all conversations above which a cluster is reported."""


@dataclass(frozen=True)
class NearDuplicateSettings:
    """When two posts are near-duplicates: words a shingle, and the least Jaccard similarity."""

    shingle_words: int = 5
    near_duplicate: float = 0.8


DEFAULTS = NearDuplicateSettings()


class _Letters(dict):
    """Character -> what it is in a word: itself, nothing (an accent of its own, a soft hyphen, a joiner), or a blank between words."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        inside = unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")
        self[code] = char if char.isalnum() else "" if inside else " "
        return self[code]


LETTERS = _Letters()
TAG = "cmv"
"""The word that titles on r/ChangeMyView begin with, and that says nothing about a post."""


def words_of(text: str) -> list[str]:
    """The words by which a text is compared: in lower case, the same in every form of Unicode, without TAG in front."""
    in_text = unicodedata.normalize("NFC", text.lower()).translate(LETTERS).split()
    return in_text[1:] if in_text[:1] == [TAG] else in_text


def shingles(text: str, words: int = DEFAULTS.shingle_words) -> frozenset[str]:
    """The set of word shingles of a text (`words_of`); a text shorter than a shingle is one, one without a word has none."""
    in_text = words_of(text)
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
    """Clusters of near-duplicate texts, to which texts are added one by one.

    Only a text of another cluster is compared with a new one: of many texts that are alike, one. So the work is in
    proportion to the number of texts, unless very many are a little less alike than the threshold.
    """

    def __init__(self, settings: NearDuplicateSettings = DEFAULTS):
        from datasketch import MinHash
        from scipy.cluster.hierarchy import DisjointSet

        self._settings = settings
        self._compared_shingles = lru_cache(COMPARED)(self._shingles)
        self._rows = rows_of_a_band(settings.near_duplicate)
        self._empty_minhash = MinHash(num_perm=BANDS * self._rows)
        self._texts: list[tuple[str, str]] = []
        self._first_with: dict[str, str] = {}
        self._clusters = DisjointSet()
        # A band of a MinHash -> the numbers of the texts that have it, grouped by cluster as far as that is known.
        self._buckets: dict[tuple[int, bytes], list[list[int]]] = defaultdict(list)

    def add(self, name: str, text: str) -> list[str]:
        """Add a text; return the names of near-duplicates by which the name comes into a cluster with others: one of each
        cluster that it was not in before. A text without a word has none.

        A name may have several texts.
        """
        self._clusters.add(name)
        if text in self._first_with:  # Thousands of posts may have one text: "[deleted by user]".
            first = self._first_with[text]
            return [first] if self._clusters.merge(name, first) else []
        new_shingles = self._shingles(text)
        if not new_shingles:
            return []
        self._first_with[text] = name
        minhash = self._empty_minhash.copy()
        minhash.update_batch([shingle.encode() for shingle in new_shingles])
        bands = enumerate(minhash.hashvalues.reshape(BANDS, self._rows))
        buckets = [self._buckets[number, band.tobytes()] for number, band in bands]
        joined, compared = [], set()
        for group in chain.from_iterable(buckets):
            for number in group:
                other, other_text = self._texts[number]
                if self._clusters.connected(name, other):
                    break
                if number not in compared and self._alike(new_shingles, other_text):
                    self._clusters.merge(name, other)
                    joined.append(other)
                    break
                compared.add(number)
        for groups in buckets:
            self._put(len(self._texts), name, groups)
        self._texts.append((name, text))
        return joined

    def clusters(self) -> dict[str, str]:
        """The name of each text -> its cluster, which has the smallest name of its members."""
        smallest: dict[str, str] = {}
        for name in self._clusters:
            root = self._clusters[name]
            smallest[root] = min(smallest.get(root, name), name)
        return {name: smallest[self._clusters[name]] for name in self._clusters}

    def _alike(self, new_shingles: frozenset[str], text: str) -> bool:
        return jaccard(new_shingles, self._compared_shingles(text)) >= self._settings.near_duplicate

    def _put(self, number: int, name: str, groups: list[list[int]]) -> None:
        """Put a text into the groups of a bucket, those of its cluster made one."""
        same, others = [], []
        for group in groups:
            other, _ = self._texts[group[0]]
            (same if self._clusters.connected(name, other) else others).append(group)
        whole = max(same, key=len, default=[])
        whole += [*chain.from_iterable(group for group in same if group is not whole), number]
        groups[:] = [*others, whole]

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
    progress = Progress("near-duplicates", length_hint(posts) or None, "posts")
    for name, text in progress.over(posts):
        index.add(name, text)
    return index.clusters()


def post_text(title: str, body: str) -> str:
    """The text by which a post is compared with others: its title and its cleaned body."""
    return f"{title} {clean_post(body)}"


def compared_text(corpus: str, conversation: Conversation) -> str:
    """The text by which a conversation is compared: its post; without one, its corpus and id, which resemble no other."""
    if conversation.title is not None:
        return post_text(conversation.title, conversation.body)
    return f"{corpus} {conversation.id}"
