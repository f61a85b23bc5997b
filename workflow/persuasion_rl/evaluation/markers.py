"""Surface markers: lists of phrases (`resources/markers/`) that are counted in a text.

A marker is only a hint. "I used to think so" may be true, "never" may be warranted, and a concession without one of the
phrases is missed. The names of such counts say that they are of markers.
"""

import re
from pathlib import Path

from persuasion_rl.files import UserError

WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(_plain(text))


def _plain(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def own_words(text: str) -> str:
    """A reply without the lines that it quotes (`> ...`)."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(">"))


class Markers:
    """Phrases, matched as whole words in a reply without its quotes.

    A file holds one regular expression a line, in lower case; what starts with # is a comment.
    """

    def __init__(self, path: Path):
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        phrases = [line for line in lines if line and not line.startswith("#")]
        if not phrases:
            raise UserError(f"{path}: holds no phrase")
        for phrase in phrases:
            try:
                re.compile(phrase)
            except re.error as error:
                raise UserError(f"{path}: {phrase!r} is no regular expression ({error})") from None
        self._phrases = re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")

    def count(self, reply: str) -> int:
        """How often a phrase stands in a reply; phrases that overlap count once."""
        return sum(1 for _ in self._phrases.finditer(_plain(own_words(reply))))

    def within(self, reply: str) -> bool:
        """Whether any phrase stands in a reply."""
        return self._phrases.search(_plain(own_words(reply))) is not None


def read_markers(paths: list[Path]) -> dict[str, Markers]:
    """Markers by the names of their files."""
    return {path.stem: Markers(path) for path in paths}
