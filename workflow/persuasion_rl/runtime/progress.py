"""Says how far a job is: a line on standard error at least every ten seconds, also while nothing gives a sign.

`runtime.command.stage` reports while a stage runs. What takes long counts in a `Progress`; the line is that of the one that
counted last. Where none is under way, the line has the stage's name and how long it has run.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

EVERY_S = 9
"""Seconds between two lines, and before the first."""

Item = TypeVar("Item")


class Progress:
    """How far a part of a job is, in units (rows, samples, MB), in tokens, or in both.

    Attributes:
        total: the units that there are, None if they are not known. total_tokens: the tokens, about; if they are known, they
            decide the time that is left, else the units do.
    """

    latest: "Progress | None" = None
    """The one that began or counted last, unless it has ended."""

    def __init__(
        self,
        what: str,
        total: float | None = None,
        unit: str = "rows",
        total_tokens: float | None = None,
        measure: Callable[[], float] | None = None,
    ):
        """Begin it.

        Args:
            measure: gives the units that are done, where nobody calls `add`, as for files that grow.
        """
        self._what, self._unit, self._measure = what, unit, measure
        self.begin(total, total_tokens)

    def begin(self, total: float | None = None, total_tokens: float | None = None) -> None:
        """Start the clock, with nothing done, for the first time or again."""
        self.total, self.total_tokens = total, total_tokens
        self.done = self.tokens = 0.0
        self._begun = self._moved = time.monotonic()
        Progress.latest = self

    def end(self) -> None:
        """Say nothing of it any more, unless it counts again."""
        if Progress.latest is self:
            Progress.latest = None

    def add(self, done: float = 0, tokens: float = 0) -> None:
        """Count what was done since the last call. It ends with the last unit, if their number is known."""
        self.done += done
        self.tokens += tokens
        self._moved = time.monotonic()
        Progress.latest = self
        if self.total is not None and self.done >= self.total:
            self.end()

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each counts as one unit when the next is asked for."""
        for item in items:
            yield item
            self.add(done=1)
        self.end()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the time of a `with`, where another part of the job has its own."""
        paused = time.monotonic()
        yield
        self._begun += time.monotonic() - paused

    def line(self) -> str:
        """What is done, how fast it went, and about how long the rest takes; how long nothing moved, if that is long."""
        if self._measure is not None and (grown := self._measure() - self.done):
            self.add(done=grown)
        now = time.monotonic()
        seconds, still = now - self._begun, now - self._moved
        parts = []
        if self.done or self.total:
            of = f" of {_count(self.total)}" if self.total is not None else ""
            parts.append(f"{_count(self.done)}{of} {self._unit}")
        if self.tokens:
            of = f" of about {self.total_tokens:,.0f}" if self.total_tokens else ""
            parts.append(f"{self.tokens:,.0f}{of} tokens")
        if not (self.done or self.tokens):
            return f"{self._what}: {', '.join([*parts, _duration(seconds)])} so far"
        parts.append(f"{_rate((self.tokens or self.done) / max(seconds, 1e-3))} a second")
        by_tokens = self.tokens and self.total_tokens
        done, total = (self.tokens, self.total_tokens) if by_tokens else (self.done, self.total)
        if done and total:
            parts.append(f"about {_duration(max(0.0, total - done) * seconds / done)} left")
        if still >= EVERY_S:
            parts.append(f"nothing new for {_duration(still)}")
        return f"{self._what}: {', '.join(parts)}"


@contextmanager
def reporting(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Say a line every EVERY_S seconds for the time of a `with`.

    Args:
        what: the name of what runs, where no part of it has a `Progress`.
    """
    whole, ended = Progress(what), threading.Event()

    def report() -> None:
        while not ended.wait(EVERY_S):
            say((Progress.latest or whole).line())

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        Progress.latest = None


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
