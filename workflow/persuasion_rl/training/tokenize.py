"""Tokenizes training rows, once for all models that learn from them.

A prompt and its responses are tokenized apart, as they stand when a model samples: a response's first token never
merges with the prompt's last. Every response ends with EOS.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from persuasion_rl.files import UserError, file_digest, read_jsonl, written_whole
from persuasion_rl.prompts.tokens import TextError, TextTokenizer
from persuasion_rl.records import DeltaPair, PreferencePair, SftRow, read_rows
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress

KINDS = {
    SftRow: ("input_text", {"response": "response"}),
    PreferencePair: ("prompt", {"chosen": "chosen", "rejected": "rejected"}),
    DeltaPair: ("prompt", {"winner": "chosen", "loser": "rejected"}),
}
"""Kind of row -> the key of its prompt, and the keys of its responses with the names of their columns. The first key of a
response identifies the kind."""
RESPONSES = ("response_ids", "chosen_ids", "rejected_ids")
BATCH = 1000


def tokenize(*, rows: Path, base: Path, output: Path, prompt_format: str = "plain") -> None:
    """Write the token ids of SFT rows, preference pairs or delta pairs as a Parquet table.

    Columns: conversation_id, prompt_ids, and response_ids or chosen_ids and rejected_ids. Its metadata names the
    rows' file with its digest, and the tokenizer's digest.

    Args:
        base: the folder of the base model, whose tokenizer is used.
        prompt_format: "plain" or "chat", the form that the prompts are in.

    Raises:
        UserError: no rows, a tokenizer without EOS, or a row with an empty response, a prompt of another form, or a
            control token in what people wrote.
    """
    tokenizer = TextTokenizer(base, prompt_format)
    kind = kind_of(rows)
    prompt, responses = KINDS[kind]
    texts = list(read_rows(rows, kind))
    columns = {"conversation_id": [row["metadata"]["conversation_id"] for row in texts]}
    columns["prompt_ids"] = list(_token_ids(rows, texts, prompt, tokenizer.prompt_ids))
    for key, name in responses.items():
        columns[f"{name}_ids"] = list(_token_ids(rows, texts, key, tokenizer.response_ids))
    _check_rows(rows, texts, responses, columns, tokenizer)
    source = {
        "file": rows.name,
        "digest": file_digest(rows),
        "tokenizer": file_digest(base / "tokenizer.json"),
    }
    table = pa.table(
        {
            name: pa.array(values, pa.list_(pa.int32()) if name.endswith("_ids") else pa.string())
            for name, values in columns.items()
        }
    ).replace_schema_metadata({"rows": json.dumps(source)})
    with written_whole(output) as part:
        pq.write_table(table, part, compression="zstd")
    note(f"{output}: {len(texts):,} rows{_unknown(columns, tokenizer)}")


def kind_of(rows: Path) -> type[SftRow | PreferencePair | DeltaPair]:
    """The kind of the rows in a file, by its first row.

    Raises:
        UserError: the file is empty, or its first row is of no known kind.
    """
    first = next(read_jsonl(rows), None)
    if first is None:
        raise UserError(f"{rows}: no rows")
    marks = {next(iter(responses)): kind for kind, (_, responses) in KINDS.items()}
    for mark, kind in marks.items():
        if mark in first:
            return kind
    raise UserError(f"{rows}, line 1: has none of the keys {', '.join(marks)}")


def _token_ids(
    rows: Path, texts: list[dict], key: str, to_ids: Callable[[list[str]], list[list[int]]]
) -> Iterator[list[int]]:
    """Token ids of the texts of a key, in batches.

    Raises:
        UserError: one cannot be tokenized; file and line are named.
    """
    progress = Progress(f"tokens of {key}", len(texts))
    for start in range(0, len(texts), BATCH):
        try:
            batch = to_ids([row[key] for row in texts[start : start + BATCH]])
        except TextError as error:
            line = start + error.number + 1
            raise UserError(f"{rows}, line {line}: {key}: {error}") from None
        progress.add(done=len(batch), tokens=sum(map(len, batch)))
        yield from batch


def _check_rows(
    rows: Path,
    texts: list[dict],
    responses: dict[str, str],
    columns: dict[str, list],
    tokenizer: TextTokenizer,
) -> None:
    """UserError for the first row with an empty response, or with a control token besides the frame's and the EOS."""
    for number, row in enumerate(texts):
        where = f"{rows}, line {number + 1}"
        if tokenizer.controls_in(columns["prompt_ids"][number]) != tokenizer.frame_controls:
            raise UserError(f"{where}: the prompt has a control token that its frame has not")
        for key, name in responses.items():
            if not row[key].strip():
                raise UserError(f"{where}: the {key} is empty")
            ids = columns[f"{name}_ids"][number]
            if tokenizer.controls_in(ids) != [tokenizer.eos] or ids[-1] != tokenizer.eos:
                raise UserError(
                    f"{where}: the {key} has a control token besides the EOS at its end"
                )


def _unknown(columns: dict[str, list], tokenizer: TextTokenizer) -> str:
    """What a note says of tokens that stand for text which the vocabulary cannot spell; nothing where there are none."""
    ids = [name for name in columns if name.endswith("_ids")]
    count = sum(row.count(tokenizer.unknown) for name in ids for row in columns[name])
    return f"; {count:,} tokens are unknown ones: their text is lost" if count else ""


@dataclass(frozen=True)
class Tokens:
    """A table that `tokenize` wrote.

    Attributes:
        columns: name -> entries, one a row.
        rows: the "file" of the text rows behind it, its "digest" (SHA-256), and the digest of the "tokenizer".
    """

    path: Path
    columns: dict[str, list]
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Read a table.

        Raises:
            UserError: the file is no such table, or was cut off.
        """
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path}: not a table of tokens ({error}); was it cut off?") from None
        return cls(path, table.to_pydict(), json.loads(table.schema.metadata[b"rows"]))

    def __len__(self) -> int:
        return len(self.columns["prompt_ids"])

    def only(self, conversations: set[str]) -> "Tokens":
        """The rows of some conversations."""
        mask = [id_ in conversations for id_ in self.columns["conversation_id"]]
        return replace(
            self,
            columns={
                name: [value for value, keep in zip(values, mask, strict=True) if keep]
                for name, values in self.columns.items()
            },
        )

    @property
    def count(self) -> int:
        """All tokens, each distinct one of a pair once."""
        names = [name for name in self.columns if name.endswith("_ids")]
        return sum(len(ids) for name in names for ids in self.columns[name])

    def responses(self) -> Iterator[list[int]]:
        """The token ids of every response."""
        for name in RESPONSES:
            yield from self.columns.get(name, [])

    def lengths(self) -> list[int]:
        """Tokens of each row's prompt with the longest of its responses."""
        responses = [self.columns[name] for name in RESPONSES if name in self.columns]
        return [
            len(prompt) + max(map(len, of_prompt))
            for prompt, *of_prompt in zip(self.columns["prompt_ids"], *responses, strict=True)
        ]

    def longest(self, rows: int) -> list[list[int]]:
        """The sequences of a batch of the longest rows, stacked as by trl's collators: each prompt with its response, or
        all prompts with the chosen responses and then all with the rejected ones."""
        lengths = self.lengths()
        order = sorted(range(len(self)), key=lambda i: -lengths[i])
        longest = (order * rows)[:rows]
        prompts = self.columns["prompt_ids"]
        names = [name for name in RESPONSES if name in self.columns]
        return [prompts[i] + self.columns[name][i] for name in names for i in longest]

    def refuse_long(self, max_length: int) -> None:
        """UserError if a row is longer than `max_length` tokens, since trl would cut or drop it."""
        for number, tokens in enumerate(self.lengths(), 1):
            if tokens > max_length:
                raise UserError(
                    f"{self.rows['file']}, line {number}: prompt and response are {tokens} tokens, more"
                    f" than the recipe's max_length {max_length}"
                )


if __name__ == "__main__":
    stage(tokenize)
