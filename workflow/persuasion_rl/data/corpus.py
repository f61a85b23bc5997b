"""Reads a corpus in ConvoKit's on-disk form, one whole conversation at a time.

The files are read line by line and not through `convokit.Corpus`, which takes 4 s to import and 8 KB of
memory an utterance (5 million would need 42 GB); a test holds that both see the same utterances. A large
file is first dealt into parts on disk, by conversation, so that only one part is in memory at a time.
"""

import heapq
import math
import pickle
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persuasion_rl.data import fields
from persuasion_rl.files import UserError, file_digest, lines_of_keys, read_json, read_numbered
from persuasion_rl.runtime.command import count_and_name
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.text import is_blank, readable

FILES = ("conversations.json", "utterances.jsonl")
OLDER_KEYS = (("speaker", "user"), ("conversation_id", "root"), ("reply-to", "reply_to"))
"""Keys of utterances with their names in older versions of ConvoKit."""
KEYS = ("id", "text", "timestamp", "meta", "success", "role", *sum(OLDER_KEYS, ()))
"""Keys of utterances that are read."""
KEPT_META = ("success", "distinguished", "role")
"""The meta fields of utterances that the stages read; the others (scores, flairs, reports) are most of a file."""
META_TEXTS = {"op-title", "title", "op-text-body"}
"""The meta fields of conversations that are texts of people."""
WHY_LEFT_OUT = {
    "no_root": "no utterance answers nothing ('reply-to': null)",
    "several_roots": "several utterances answer nothing ('reply-to': null)",
    "no_utterances": "no utterance",
    "post_too_large": f"the post has more than {fields.TEXT_BYTES:,} bytes",
}
PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz")
PART_BYTES = 512 * 2**20


@dataclass(slots=True)
class Utterance:
    """A comment or a turn; `timestamp` is in seconds since 1970 where the corpus has one.

    `text` is None where the corpus has none, or one that is too large. `line` is that of utterances.jsonl.
    """

    id: str
    conversation_id: str
    speaker: str
    text: str | None
    reply_to: str | None
    timestamp: float | None
    meta: dict[str, Any]
    too_large: bool = False
    line: int = field(default=0, compare=False)


@dataclass(slots=True)
class Conversation:
    """A thread or a dialogue; each utterance comes after the one that it answers, if that can be.

    Threads of ChangeMyView have a title: `op-title` in `winning-args-corpus`; `title` in `subreddit-changemyview`, which
    keeps the post's text and poster in the root utterance. A dialogue may have several roots: all its utterances, if none
    answers another.
    """

    id: str
    meta: dict[str, Any]
    utterances: dict[str, Utterance] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)

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

    def place_of(self, utterance: Utterance) -> str:
        """File and line of an utterance."""
        return f"{self.folder / 'utterances.jsonl'}, line {utterance.line}"

    @property
    def place(self) -> str:
        """File, line and id: of its meta, for which the file is read, or of its first utterance if it has none."""
        first = self.place_of(next(iter(self.utterances.values())))
        place = _place_of(self.id, self.folder / "conversations.json") if self.meta else first
        return f"{place}, conversation {self.id}"


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


def read_threads(
    folder: Path, counts: Mapping[str, Counter] | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of a corpus folder that can be used, each one whole.

    Values are read of whatever type they are (`fields`), and texts are made readable.

    Args:
        counts: gets what was "read" (conversations, utterances), what was left out and why (left_out_conversations,
            left_out_utterances: the same reasons), and how many texts of utterances had odd_characters or were left out
            since they are too large ("cleaned": odd_characters, text_too_large).

    Raises:
        UserError: the folder or a file is missing or empty, a line or a value cannot be read, an utterance has the id of
            another one of its conversation, or no conversation can be used. The message names the file and the line.
    """
    counts = defaultdict(Counter) if counts is None else counts
    read, cleaned, metas = counts["read"], counts["cleaned"], _conversation_metas(folder)
    without_utterances, yielded, progress, examples = set(metas), 0, None, {}
    for utterances in _parts(folder / "utterances.jsonl", cleaned):
        for id_, of_conversation in _by_conversation(utterances, folder):
            without_utterances.discard(id_)
            progress = progress or Progress(folder.name, len(metas), "conversations")
            meta = _meta(metas.get(id_), folder, id_, cleaned)
            conversation = Conversation(id_, meta, of_conversation, folder)
            read.update(conversations=1, utterances=len(of_conversation))
            reason = _why_left_out(conversation)
            if reason is None:
                conversation.utterances = _in_order(of_conversation)
                yielded += 1
                yield conversation
            else:
                examples.setdefault(reason, id_)
                leave_out(counts, conversation, reason)
            progress.add(done=1)
    if progress is not None:
        progress.end()
    if without_utterances:
        examples["no_utterances"] = min(without_utterances)
        read["conversations"] += len(without_utterances)
        counts["left_out_conversations"]["no_utterances"] += len(without_utterances)
    if not yielded:
        why = "; ".join(f"{WHY_LEFT_OUT[reason]}, as in {id_}" for reason, id_ in examples.items())
        raise UserError(f"{folder}: no conversation can be used ({why or 'there is none'})")


def leave_out(counts: Mapping[str, Counter], conversation: Conversation, reason: str) -> None:
    """Count a conversation that was read, with its utterances, as left out; the log names the first of each reason."""
    count_and_name(counts["left_out_conversations"], reason, lambda: conversation.place)
    counts["left_out_utterances"][reason] += len(conversation.utterances)


def _by_conversation(
    utterances: Iterable[Utterance], folder: Path
) -> Iterator[tuple[str, dict[str, Utterance]]]:
    """Yield the id and the utterances of each conversation, in the order of the file."""
    threads: dict[str, dict[str, Utterance]] = defaultdict(dict)
    for utterance in utterances:
        other = threads[utterance.conversation_id].setdefault(utterance.id, utterance)
        if other is not utterance:
            raise UserError(
                f"{folder / 'utterances.jsonl'}, lines {other.line} and {utterance.line}: two utterances of"
                f" conversation {utterance.conversation_id} have the id {utterance.id}"
                " (t1_ and t3_ in front do not count); remove one, or give it another id"
            )
    for id_ in list(threads):
        yield id_, threads.pop(id_)


def _why_left_out(conversation: Conversation) -> str | None:
    """Why a conversation cannot be used ("no_root", "several_roots", "post_too_large"); None if it can.

    A dialogue may have no `reply-to` at all.
    """
    is_thread = conversation.title is not None
    roots = sum(u.reply_to is None for u in conversation.utterances.values())
    if roots == 0:
        return "no_root"
    if roots > 1 and (is_thread or roots < len(conversation.utterances)):
        return "several_roots"
    if is_thread and (
        conversation.root.too_large
        or any(map(fields.is_too_large, (conversation.title, conversation.body)))
    ):
        return "post_too_large"
    return None


def _in_order(utterances: dict[str, Utterance]) -> dict[str, Utterance]:
    """The utterances, each after the one that it answers, else by time, and in the order of the file where times are equal
    or not known of all. Those in a circle of replies, and below it, come last."""
    known_times = all(u.timestamp is not None for u in utterances.values())
    key_of = {
        u.id: (u.timestamp if known_times else 0, number, u.id)
        for number, u in enumerate(utterances.values())
    }
    answers: dict[str | None, list[str]] = defaultdict(list)
    waiting = []
    for u in utterances.values():
        if u.reply_to in utterances:
            answers[u.reply_to].append(u.id)
        else:
            waiting.append(key_of[u.id])
    heapq.heapify(waiting)
    ordered: dict[str, Utterance] = {}
    while waiting:
        *_, id_ = heapq.heappop(waiting)
        ordered[id_] = utterances[id_]
        for answer in answers[id_]:
            heapq.heappush(waiting, key_of[answer])
    return ordered | utterances


def _conversation_metas(folder: Path) -> dict[str, Any]:
    """Conversation id -> its entry in conversations.json, as it is there.

    Raises:
        UserError: a file is missing, this one is no JSON object, or two conversations have the same id.
    """
    if not folder.is_dir():
        raise UserError(f"corpus folder {folder} does not exist{_packed(folder)}")
    for name in FILES:
        if not (folder / name).is_file() or (folder / name).stat().st_size == 0:
            hint = _packed(folder / name) or "; is it a ConvoKit corpus?"
            raise UserError(f"{folder}: {name} is missing or empty{hint}")
    path = folder / "conversations.json"
    try:
        content = read_json(path, unique_keys=True)
    except UserError:
        if isinstance(read_json(path), dict):
            _refuse_repeated_ids(path)
        raise
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, conversation id -> its meta")
    metas = {fields.identifier("id", key): entry for key, entry in content.items()}
    if None in metas:
        raise UserError(
            f"{_place_of(None, path)}: a conversation without an id (t1_ and t3_ do not count)"
        )
    if len(metas) < len(content):
        _refuse_repeated_ids(path)
    return metas


def _packed(path: Path) -> str:
    """The advice to unpack a file or folder that is there under its name and the ending of an archive."""
    names = [other.name for other in path.parent.glob(f"{path.name}.*")]
    packed = sorted(name for name in names if name.endswith(PACKED))
    return f"; unpack {packed[0]}" if packed else ""


def _refuse_repeated_ids(path: Path) -> None:
    """Raise UserError, with both lines, if two conversations of conversations.json have one id."""
    for id_, (first, *others) in _lines_of_ids(path).items():
        if others:
            raise UserError(
                f"{path}, lines {first} and {others[0]}: two conversations have the id {id_}"
                " (t1_ and t3_ in front do not count); remove one, or give it another id"
            )


def _lines_of_ids(path: Path) -> dict[str | None, list[int]]:
    """Id -> the lines of conversations.json in which its conversations begin."""
    lines: dict[str | None, list[int]] = defaultdict(list)
    for key, line in lines_of_keys(path):
        lines[fields.identifier("id", key)].append(line)
    return lines


def _place_of(id_: str | None, path: Path) -> str:
    """conversations.json and the line of a conversation in it."""
    return f"{path}, line {_lines_of_ids(path)[id_][0]}"


def _meta(entry: Any, folder: Path, id_: str, cleaned: Counter) -> dict[str, Any]:
    """The meta of a conversation, from ConvoKit 5's nested layout or the server's flat one; its texts are readable."""
    try:
        meta = fields.mapping("its meta", entry)
        if set(meta) <= {"meta", "vectors"} and "meta" in meta:
            meta = fields.mapping("meta", meta["meta"])
        for key in META_TEXTS & meta.keys():
            text = _mended(fields.text(key, meta[key]), cleaned)
            meta[key] = "" if text is None or is_blank(text) else text
        if "op-userID" in meta:
            no_name = fields.is_null(meta["op-userID"])
            meta["op-userID"] = None if no_name else fields.speaker("op-userID", meta["op-userID"])
        return meta
    except UserError as error:
        place = _place_of(id_, folder / "conversations.json")
        raise UserError(f"{place}, conversation {id_}: {error}") from None


def _mended(text: str | None, cleaned: Counter) -> str | None:
    if text is None:
        return None
    mended = readable(text)
    if mended is not text:
        cleaned["odd_characters"] += 1
    return mended


def _parts(path: Path, cleaned: Counter) -> Iterator[Iterable[Utterance]]:
    """The utterances in parts that fit into memory, each conversation whole in one part."""
    count = math.ceil(path.stat().st_size / PART_BYTES)
    if count == 1:
        yield _utterances(path, cleaned)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        parts = [
            stack.enter_context(Path(folder, str(number)).open("w+b")) for number in range(count)
        ]
        for u in _utterances(path, cleaned):
            row = [getattr(u, name) for name in Utterance.__slots__]
            pickle.dump(row, parts[zlib.crc32(u.conversation_id.encode()) % count])
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


def _utterances(path: Path, cleaned: Counter) -> Iterator[Utterance]:
    """The utterances of a file."""
    progress = Progress(f"reading {path.parent.name}", path.stat().st_size / 1e6, "MB")
    for number, row in read_numbered(path, KEYS, lambda size: progress.add(done=size / 1e6)):
        try:
            utterance = _utterance(row, number, cleaned)
        except KeyError as missing:
            raise UserError(f"{path}, line {number}: utterance without {missing}") from None
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        yield utterance
    progress.end()


def _utterance(row: dict[str, Any], line: int, cleaned: Counter) -> Utterance:
    """An utterance of its row. Older files of ConvoKit have the names `root`, `user` and `reply_to`."""
    text = fields.text("text", row["text"])
    too_large = text is not None and fields.is_too_large(text)
    if too_large:
        cleaned["text_too_large"] += 1
    speaker, conversation, reply_to = (
        older if newer not in row and older in row else newer for newer, older in OLDER_KEYS
    )
    meta = fields.mapping("meta", row.get("meta"))
    kept = {key: meta[key] for key in KEPT_META if key in meta}
    for key, read in (("distinguished", fields.text), ("success", fields.truth)):
        if key in kept:
            kept[key] = read(f"meta.{key}", kept[key])
    return Utterance(
        id=fields.needed_identifier("id", row["id"]),
        conversation_id=fields.needed_identifier(conversation, row[conversation]),
        speaker=fields.speaker(speaker, row[speaker]),
        text=None if too_large else _mended(text, cleaned),
        reply_to=fields.identifier(reply_to, row.get(reply_to)),
        timestamp=fields.timestamp("timestamp", row.get("timestamp")),
        meta=kept,
        too_large=too_large,
        line=line,
    )
