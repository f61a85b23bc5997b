"""Reads a corpus in ConvoKit's on-disk form.

The files are read line by line and not through `convokit.Corpus`, which takes 4 s to import and 8 KB of
memory an utterance (5 million would need 42 GB). A test holds that both see the same utterances.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, read_json, read_jsonl

MISSING_SPEAKER = "[missing]"
"""ConvoKit's placeholder for a comment that was not in the source: its text may be null."""


@dataclass(slots=True)
class Utterance:
    id: str
    conversation_id: str
    speaker: str
    text: str | None
    reply_to: str | None
    timestamp: float | None
    meta: dict[str, Any]


@dataclass(slots=True)
class Conversation:
    id: str
    meta: dict[str, Any]
    utterances: dict[str, Utterance] = field(default_factory=dict)

    @property
    def root(self) -> Utterance:
        return next(u for u in self.utterances.values() if u.reply_to is None)

    def chain_to(self, utterance: Utterance) -> list[Utterance]:
        """The utterances from the root down to `utterance`, both included."""
        chain = [utterance]
        while (parent_id := chain[-1].reply_to) is not None:
            parent = self.utterances.get(parent_id)
            if parent is None or len(chain) > len(self.utterances):
                raise UserError(
                    f"conversation {self.id}: comment {chain[-1].id} answers {parent_id},"
                    " which is not in the corpus (or the replies form a circle)"
                )
            chain.append(parent)
        return chain[::-1]


def is_cmv(conversation: Conversation) -> bool:
    """Whether this is a ChangeMyView thread (its meta has a title), not a PersuasionForGood dialogue."""
    return "op-title" in conversation.meta


def post_of(conversation: Conversation) -> tuple[str, str]:
    """The title and the raw text of a ChangeMyView post."""
    body = conversation.meta.get("op-text-body") or conversation.root.text or ""
    return conversation.meta["op-title"], body


def read_corpus(folder: Path) -> dict[str, Conversation]:
    """Read `conversations.json` and `utterances.jsonl` of a corpus folder, in the files' order.

    Raises:
        UserError: the folder or a file is missing or empty, a line is cut off, an utterance has no text,
            or a conversation has no root. The message names the file and the line.
    """
    conversations = {
        id_: Conversation(id_, meta) for id_, meta in _conversation_metas(folder).items()
    }
    for utterance in _utterances(folder / "utterances.jsonl"):
        conversation = conversations.setdefault(
            utterance.conversation_id, Conversation(utterance.conversation_id, {})
        )
        conversation.utterances[utterance.id] = utterance
    if not any(conversation.utterances for conversation in conversations.values()):
        raise UserError(f"{folder / 'utterances.jsonl'}: no utterances")
    for conversation in conversations.values():
        roots = [u.id for u in conversation.utterances.values() if u.reply_to is None]
        if len(roots) != 1:
            raise UserError(
                f"{folder}: conversation {conversation.id} has {len(roots) or 'no'} root utterances"
                " (exactly one must answer nothing: 'reply-to': null)"
            )
    return conversations


def _conversation_metas(folder: Path) -> dict[str, dict[str, Any]]:
    """Conversation metas, from ConvoKit 5's nested layout and from the server's flat one."""
    if not folder.is_dir():
        raise UserError(f"corpus folder {folder} does not exist")
    for name in ("conversations.json", "utterances.jsonl"):
        if not (folder / name).is_file() or (folder / name).stat().st_size == 0:
            raise UserError(f"{folder}: {name} is missing or empty; is it a ConvoKit corpus?")
    return {
        id_: entry["meta"] if set(entry) <= {"meta", "vectors"} and "meta" in entry else entry
        for id_, entry in read_json(folder / "conversations.json").items()
    }


def _utterances(path: Path) -> Iterator[Utterance]:
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            id_, speaker, text = row["id"], row["speaker"], row["text"]
            conversation_id = row.get("conversation_id") or row["root"]
        except KeyError as missing:
            raise UserError(f"{path}, line {number}: utterance without {missing}") from None
        if text is None and speaker != MISSING_SPEAKER:
            raise UserError(f"{path}, line {number}: utterance {id_} has no text (null)")
        yield Utterance(
            id=id_,
            conversation_id=conversation_id,
            speaker=speaker,
            text=text,
            reply_to=row.get("reply-to", row.get("reply_to")),
            timestamp=row.get("timestamp"),
            meta=row.get("meta") or {},
        )
