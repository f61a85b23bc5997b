"""Reads a corpus in ConvoKit's on-disk form, one whole conversation at a time.

The files are read line by line and not through `convokit.Corpus`, which takes 4 s to import and 8 KB of
memory an utterance (5 million would need 42 GB); a test holds that both see the same utterances. A large
file is first dealt into parts on disk, by conversation, so that only one part is in memory at a time.
"""

import math
import pickle
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persuasion_rl.files import UserError, file_digest, read_json, read_jsonl
from persuasion_rl.runtime.command import note

FILES = ("conversations.json", "utterances.jsonl")
MISSING_SPEAKER = "[missing]"
"""ConvoKit's placeholder for a comment that was not in the source: its text may be null."""
KEPT_META = ("success", "distinguished", "role")
"""The meta fields of utterances that the stages read; the others (scores, flairs, reports) are most of a file."""
PART_BYTES = 512 * 2**20


@dataclass(slots=True)
class Utterance:
    """A comment or a turn; `timestamp` is in seconds since 1970 where the corpus has one."""

    id: str
    conversation_id: str
    speaker: str
    text: str | None
    reply_to: str | None
    timestamp: float | None
    meta: dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """A thread or a dialogue. Threads of ChangeMyView have a title: `op-title` in `winning-args-corpus`; `title` in
    `subreddit-changemyview`, which keeps the post's text and poster in the root utterance."""

    id: str
    meta: dict[str, Any]
    utterances: dict[str, Utterance] = field(default_factory=dict)

    @property
    def root(self) -> Utterance:
        return next(u for u in self.utterances.values() if u.reply_to is None)

    @property
    def title(self) -> str | None:
        return self.meta.get("op-title") or self.meta.get("title")

    @property
    def body(self) -> str:
        return self.meta.get("op-text-body") or self.root.text or ""

    @property
    def poster(self) -> str:
        return self.meta.get("op-userID") or self.root.speaker

    def chain_to(self, utterance: Utterance) -> list[Utterance] | None:
        """The utterances from the root down to `utterance`, both included. None if the chain is broken: the corpus lacks
        one of its comments, or the replies form a circle."""
        chain = [utterance]
        while (parent_id := chain[-1].reply_to) is not None:
            parent = self.utterances.get(parent_id)
            if parent is None or len(chain) > len(self.utterances):
                return None
            chain.append(parent)
        return chain[::-1]


def digests_record(folder: Path) -> Path:
    """The file with sizes and digests of a downloaded corpus. It is beside the folder, because Snakemake deletes outputs
    before it makes them again."""
    return folder.with_name(f"{folder.name}.digests.json")


def difference(folder: Path, recorded: dict[str, dict]) -> str | None:
    """A message about the first recorded file that changed or is missing; None if all are as recorded."""
    for name, before in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != before["bytes"]:
            return f"{name} has {size:,} bytes, not {before['bytes']:,}"
        if (digest := file_digest(path)) != before["sha256"]:
            return f"{name} has SHA-256 {digest[:12]}..., not {before['sha256'][:12]}..."
    return None


def check_digests(folder: Path) -> None:
    """Refuse a downloaded corpus whose files changed since; a corpus without a record is not checked."""
    record = digests_record(folder)
    if record.exists() and (changed := difference(folder, read_json(record))):
        raise UserError(
            f"{folder}: {changed}: not the file that was downloaded (recorded in {record}); delete the folder"
            " and fetch it again"
        )


def read_threads(folder: Path) -> Iterator[Conversation]:
    """Yield the conversations of a corpus folder, each one whole.

    Corpora use both full names (`t3_x`, `t1_x`) and plain ids (`x`) of Reddit. The prefix is dropped, so that a thread
    has one id in all corpora.

    Raises:
        UserError: the folder or a file is missing or empty, a line is cut off, an utterance has no text, or
            a conversation has no root or no utterances. The message names the file and the line.
    """
    metas = _conversation_metas(folder)
    without_utterances = set(metas)
    for utterances in _parts(folder / "utterances.jsonl"):
        threads: dict[str, dict[str, Utterance]] = defaultdict(dict)
        for utterance in utterances:
            threads[utterance.conversation_id][utterance.id] = utterance
        for id_ in list(threads):
            conversation = Conversation(id_, metas.get(id_, {}), threads.pop(id_))
            _refuse_other_than_one_root(conversation, folder)
            without_utterances.discard(id_)
            yield conversation
    if without_utterances:
        raise UserError(
            f"{folder / 'utterances.jsonl'}: no utterance of {len(without_utterances):,} conversations of"
            f" conversations.json ({min(without_utterances)}, ...); was it cut off?"
        )


def _refuse_other_than_one_root(conversation: Conversation, folder: Path) -> None:
    roots = sum(u.reply_to is None for u in conversation.utterances.values())
    if roots != 1:
        raise UserError(
            f"{folder}: conversation {conversation.id} has {roots or 'no'} root utterances"
            " (exactly one must answer nothing: 'reply-to': null)"
        )


def _conversation_metas(folder: Path) -> dict[str, dict[str, Any]]:
    """Conversation id -> meta, from ConvoKit 5's nested layout or the server's flat one."""
    if not folder.is_dir():
        raise UserError(f"corpus folder {folder} does not exist")
    for name in FILES:
        if not (folder / name).is_file() or (folder / name).stat().st_size == 0:
            raise UserError(f"{folder}: {name} is missing or empty; is it a ConvoKit corpus?")
    return {
        _plain(id_): (
            entry["meta"] if set(entry) <= {"meta", "vectors"} and "meta" in entry else entry
        )
        for id_, entry in read_json(folder / "conversations.json").items()
    }


def _parts(path: Path) -> Iterator[Iterable[Utterance]]:
    """The utterances in parts that fit into memory, each conversation whole in one part."""
    count = math.ceil(path.stat().st_size / PART_BYTES)
    if count == 1:
        yield _utterances(path)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        parts = [
            stack.enter_context(Path(folder, str(number)).open("w+b")) for number in range(count)
        ]
        for number, u in enumerate(_utterances(path), 1):
            row = (u.id, u.conversation_id, u.speaker, u.text, u.reply_to, u.timestamp, u.meta)
            pickle.dump(row, parts[zlib.crc32(u.conversation_id.encode()) % count])
            if number % 500_000 == 0:
                note(f"{path}: {number:,} utterances")
        for part in parts:
            yield _unpickled(part)
            part.truncate(0)


def _unpickled(part) -> Iterator[Utterance]:
    part.seek(0)
    while True:
        try:
            yield Utterance(*pickle.load(part))
        except EOFError:
            return


def _utterances(path: Path) -> Iterator[Utterance]:
    """The utterances of a file. Older files of ConvoKit have the names `root`, `user` and `reply_to`."""
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            id_, text = row["id"], row["text"]
            speaker = row["user"] if "user" in row else row["speaker"]
            conversation_id = row["root"] if "root" in row else row["conversation_id"]
        except KeyError as missing:
            raise UserError(f"{path}, line {number}: utterance without {missing}") from None
        if text is None and speaker != MISSING_SPEAKER:
            raise UserError(f"{path}, line {number}: utterance {id_} has no text (null)")
        reply_to = row.get("reply-to", row.get("reply_to"))
        meta = row.get("meta") or {}
        yield Utterance(
            id=_plain(id_),
            conversation_id=_plain(conversation_id),
            speaker=speaker,
            text=text,
            reply_to=None if reply_to is None else _plain(reply_to),
            timestamp=row.get("timestamp"),
            meta={key: meta[key] for key in KEPT_META if key in meta},
        )


def _plain(id_: str) -> str:
    return id_[3:] if id_.startswith(("t1_", "t3_")) else id_
