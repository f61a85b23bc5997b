"""Finds memorised text: spans of a reply that stand word for word in a training reply.

A span counts from 8 words on, compared in lower case and without punctuation, as Radford et al. (2019, section 4,
"Generalization vs Memorization") compare web text with its training set.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from persuasion_rl.evaluation.markers import words
from persuasion_rl.runtime.progress import Progress

SPAN = 8
MOST = 1000
"""Places of a window in the training text that are followed at most. Where it stands more often ("ha ha ha ..."), the longest
span may be longer than is said; the share stays exact."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""The factor of the hash of a window. It is odd, so that every word counts. Windows with equal hashes are compared."""
BETWEEN, UNKNOWN = 0, -1
"""Ids of the separator between two training replies, and of words that are in none of them."""


class TrainingText:
    """All training replies as one row of word ids, with its windows of SPAN words in the order of their hashes.

    It takes 4 bytes a word for the ids, 8 for the hash and 8 for the place of its window.
    """

    def __init__(self, replies: Sequence[str]):
        self._ids: dict[str, int] = {}
        replies = Progress("index of the training replies", len(replies), "replies").over(replies)
        self._text = np.fromiter(chain.from_iterable(map(self._word_ids, replies)), dtype=np.int32)
        hashes = _hashes(self._text)
        self._places = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._places]

    def _word_ids(self, reply: str) -> Iterable[int]:
        for word in words(reply):
            yield self._ids.setdefault(word, len(self._ids) + 1)
        yield BETWEEN

    def copied(self, reply: str) -> tuple[float, int]:
        """The share of a reply's words in copied spans, and the number of words of the longest span (or 0)."""
        text = np.array([self._ids.get(word, UNKNOWN) for word in words(reply)], dtype=np.int32)
        covered = np.zeros(len(text), dtype=bool)
        longest = 0
        # Where the spans that end with this window stand in the training text, the longest first, and their lengths.
        places, lengths = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        for start, hash_ in enumerate(_hashes(text)):
            window = text[start : start + SPAN]
            goes_on = self._text[places + SPAN] == window[-1]
            places, lengths = places[goes_on] + 1, lengths[goes_on] + 1
            new_places = self._places_of(hash_, window)
            new_places = new_places[~np.isin(new_places, places)]
            places = np.concatenate([places, new_places])[:MOST]
            lengths = np.concatenate([lengths, np.full(len(new_places), SPAN)])[:MOST]
            if len(places):
                covered[start : start + SPAN] = True
                longest = max(longest, int(lengths[0]))
        return (float(covered.mean()) if len(text) else 0.0), longest

    def _places_of(self, hash_: np.uint64, window: np.ndarray) -> np.ndarray:
        """The first places of a window of a reply in the training text, in order; MOST at most."""
        low = np.searchsorted(self._hashes, hash_, "left")
        high = np.searchsorted(self._hashes, hash_, "right")
        places = self._places[low : min(high, low + MOST)]
        same = self._text[places[:, None] + np.arange(SPAN)] == window
        return places[same.all(axis=1)]


def _hashes(text: np.ndarray) -> np.ndarray:
    """A hash of every window of SPAN words, modulo 2^64."""
    windows = max(0, len(text) - SPAN + 1)
    hashes = np.zeros(windows, dtype=np.uint64)
    for step in range(SPAN):
        hashes *= FACTOR
        hashes += text[step : step + windows].astype(np.uint64)
    return hashes ^ (hashes >> np.uint64(29))
