"""Says how far a job is: every few seconds a line on standard error, with tokens a second and the time that is left."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from persuasion_rl.runtime.command import note

EVERY_S = 8
"""Seconds between two lines."""


class Progress:
    """How far a job is. It counts units (rows, samples, steps) and tokens, also parts of them; a short job says nothing.

    Attributes:
        total: the units that the job has, None if they are not known. total_tokens: its tokens, at most, by which the time that is
            left is reckoned; without them it is reckoned by units.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        unit: str = "rows",
        total_tokens: float | None = None,
    ):
        self._what, self._unit = what, unit
        self.total, self.total_tokens = total, total_tokens
        self.done = self.tokens = 0.0
        self._begun = self._said = None

    def add(self, done: float = 0, tokens: float = 0) -> None:
        """Count what was done since the last call, and say it if it is time. The first call starts the clock."""
        self.done += done
        self.tokens += tokens
        now = time.monotonic()
        if self._begun is None:
            self._begun = self._said = now
        if now > self._begun and now - self._said >= EVERY_S:
            self._said = now
            note(self._line(now - self._begun))

    def _line(self, seconds: float) -> str:
        parts = []
        if self.done or self.total is not None:
            of = f" of {self.total:,.0f}" if self.total is not None else ""
            parts.append(f"{int(self.done):,}{of} {self._unit}")
        if self.tokens:
            parts.append(f"{self.tokens:,.0f} tokens, {self.tokens / seconds:,.0f} a second")
        done, total = (
            (self.tokens, self.total_tokens) if self.total_tokens else (self.done, self.total)
        )
        if done and total:
            parts.append(f"about {_duration(max(0.0, total - done) * seconds / done)} left")
        return f"{self._what}: {', '.join(parts)}"


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Say every few seconds that a single call, which tells nothing of itself, is still at work, and for how long."""
    begun, done = time.monotonic(), threading.Event()

    def say() -> None:
        while not done.wait(EVERY_S):
            note(f"{what}: {time.monotonic() - begun:.0f} s")

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
