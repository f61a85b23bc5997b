"""Makes what people wrote into text that every tool can hold, where it comes in: corpus, server, form, import.

JSON can hold half of a surrogate pair, which UTF-8 cannot encode and no tokenizer takes. NUL ends texts in C and in SQLite.
Carriage returns and Unicode's own line ends are lines for some readers and none for others.
"""

import re
import unicodedata

ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f]")
UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Mn", "Me"}
"""Unicode's categories of characters that show nothing by themselves: white space, zero-width and direction marks, accents."""
FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that show nothing either: Hangul fillers, the empty Braille pattern."""


def readable(text: str) -> str:
    """The text with whole characters only, "\\n" as its one line end, and no control character but that and the tab.

    Two halves of a surrogate pair become their character, half of one U+FFFD. The text itself is returned where nothing is
    odd, so that `readable(text) is text` tells whether it was mended.
    """
    if not ODD.search(text):
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return CONTROL.sub("", LINE_END.sub("\n", whole))


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or has white space and characters like the zero-width space alone."""
    return all(unicodedata.category(char) in UNSEEN or char in FILLERS for char in text)
