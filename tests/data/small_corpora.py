"""Small corpora of a few threads or dialogues, and the output of the data stages for them."""

from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer

from persuasion_rl.data.corpus import Conversation, read_threads
from persuasion_rl.data.examples import Budget
from persuasion_rl.files import read_json, read_jsonl, write_json, write_jsonl

WIDE = Budget(min_tokens=1, max_tokens=2000, max_context_tokens=2000, max_seq_length=5000)


BODY = "Cats are better &amp; cleaner than dogs.\n\nEDIT: delta given!"


META = {
    "op-userID": "op",
    "op-title": "CMV: Cats  are better",
    "op-text-body": BODY,
    "pair_ids": [],
}


def token_counts(tokenizer: Path, texts: list[str]) -> list[int]:
    """The number of tokens of texts by a tokenizer.json as it is, each text alone."""
    encodings = Tokenizer.from_file(str(tokenizer)).encode_batch(texts, add_special_tokens=False)
    return [len(encoding) for encoding in encodings]


def comment(
    id_, reply_to, speaker, text, success=None, thread="t3_a", distinguished=None, timestamp=1
):
    return {
        "id": id_, "conversation_id": thread, "text": text, "speaker": speaker, "reply-to": reply_to,
        "timestamp": timestamp, "meta": {"success": success, "pair_ids": [], "distinguished": distinguished},
    }  # fmt: skip


POST = comment("t3_a", None, "op", BODY)


def as_subreddit(rows: list[dict], titles: dict[str, str], folder: Path) -> Path:
    """The rows as `subreddit-changemyview` has them: older names, plain ids, no `success`, flat metas."""

    def plain(id_):
        return id_ and id_.removeprefix("t1_").removeprefix("t3_")

    write_jsonl(
        folder / "utterances.jsonl",
        [
            {
                "id": plain(row["id"]), "root": plain(row["conversation_id"]), "user": row["speaker"],
                "reply_to": plain(row["reply-to"]), "text": row["text"], "timestamp": row["timestamp"],
                "meta": {"score": 3, "distinguished": row["meta"]["distinguished"]},
            }
            for row in rows
        ],
    )  # fmt: skip
    flat = {
        plain(id_): {"title": title, "subreddit": "changemyview"} for id_, title in titles.items()
    }
    write_json(folder / "conversations.json", flat)
    return folder


def turn(number, role, text, dialogue="d1", speaker=None):
    return {
        "id": f"{dialogue}-{number}", "conversation_id": dialogue, "text": text,
        "speaker": speaker or f"user_{role}", "meta": {"role": role}, "timestamp": None,
        "reply-to": f"{dialogue}-{number - 1}" if number else None,
    }  # fmt: skip


def threads_of(folder: Path) -> dict[str, Conversation]:
    return {thread.id: thread for thread in read_threads(folder)}


class Processed:
    """The output of process_cmv or process_p4g."""

    def __init__(self, folder: Path):
        self.rows = list(read_jsonl(folder / "examples.jsonl"))
        self.pairs = (
            list(read_jsonl(folder / "pairs.jsonl")) if (folder / "pairs.jsonl").exists() else []
        )
        counts = read_json(folder / "counts.json")
        self.counts = {group: Counter(numbers) for group, numbers in counts.items()}
        for group in self.counts.keys() & {"won", "lost", "persuader"}:
            tally = self.counts[group]
            assert tally["labelled"] == tally.total() - tally["labelled"], group
        self.by_id = {row["metadata"]["utterance_id"]: row for row in self.rows}
