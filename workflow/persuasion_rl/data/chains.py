"""The comments above a reply, in time that grows with the thread and not with the product of its replies and their depth."""

from collections.abc import Callable
from dataclasses import dataclass

from persuasion_rl.data.corpus import Conversation, Utterance


@dataclass(slots=True)
class _Link:
    """A comment of a chain, the one above it, and their number from the post down.

    `gate` is the comment of the chain whose number is `ends`, if there are so many.
    """

    comment: Utterance
    above: "_Link | None"
    number: int
    gate: "_Link | None"


class Chains:
    """The chains of comments of a thread that a context can have.

    Args:
        usable: whether a comment may stand in a context; asked once of each comment above one that is asked about.
        ends: so many comments of a chain are given below the post, and so many above the reply. Those between are left out:
            a context of at most `ends` tokens at each of its ends has no room for them.
    """

    def __init__(self, conversation: Conversation, usable: Callable[[Utterance], bool], ends: int):
        self._utterances = conversation.utterances
        self._usable = usable
        self._ends = ends
        self._links: dict[str, _Link | None] = {conversation.root.id: None}

    def above(self, reply: Utterance) -> list[Utterance]:
        """The usable comments between the post and a reply, in their order. The reply's chain must be whole."""
        link = self._link(reply.reply_to)
        if link is None or link.number <= 2 * self._ends:
            return _upwards(link, 2 * self._ends)[::-1]
        return [*_upwards(link.gate, self._ends)[::-1], *_upwards(link, self._ends)[::-1]]

    def _link(self, id_: str) -> _Link | None:
        """The link of the comment, or of the nearest usable one above it; None if that is the post."""
        path = []
        while id_ not in self._links:
            path.append(self._utterances[id_])
            id_ = path[-1].reply_to
        link = self._links[id_]
        for comment in reversed(path):
            if self._usable(comment):
                above = link
                link = _Link(comment, above, above.number + 1 if above else 1, None)
                link.gate = link if link.number == self._ends else above and above.gate
            self._links[comment.id] = link
        return link


def _upwards(link: _Link | None, most: int) -> list[Utterance]:
    comments = []
    while link is not None and len(comments) < most:
        comments.append(link.comment)
        link = link.above
    return comments


def whole_chains(conversation: Conversation, marked: set[str]) -> dict[str, bool]:
    """Id -> whether the utterance or one above it is `marked`, of those whose chain leads to the root.

    The others answer what the corpus lacks, or a circle of replies.
    """
    below: dict[str, bool] = {}
    for utterance in conversation.utterances.values():
        if utterance.reply_to is None:
            below[utterance.id] = utterance.id in marked
        elif utterance.reply_to in below:
            below[utterance.id] = below[utterance.reply_to] or utterance.id in marked
    return below
