"""Tokenizes training rows, once for all models that learn from them.

A prompt and its responses are tokenized apart, as they stand when a model samples: a response's first token never
merges with the prompt's last. Every response ends with EOS.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from persuasion_rl.files import UserError, file_digest, read_jsonl, written_whole
from persuasion_rl.records import DeltaPair, PreferencePair, SftRow, read_rows
from persuasion_rl.runtime.command import note, stage

KINDS = {
    SftRow: ("input_text", {"response": "response"}),
    PreferencePair: ("prompt", {"chosen": "chosen", "rejected": "rejected"}),
    DeltaPair: ("prompt", {"winner": "chosen", "loser": "rejected"}),
}
"""Kind of row -> the key of its prompt, and the keys of its responses with the names of their columns. The first key of a
response identifies the kind."""
RESPONSES = ("response_ids", "chosen_ids", "rejected_ids")
BATCH = 1000


def tokenize(*, rows: Path, base: Path, output: Path, trust_remote_code: bool = False) -> None:
    """Write the token ids of SFT rows, preference pairs or delta pairs as a Parquet table.

    Columns: conversation_id, prompt_ids, and response_ids or chosen_ids and rejected_ids. Its metadata names the
    rows' file with its digest, and the tokenizer's digest.

    Args:
        base: the folder of the base model, whose tokenizer is used.

    Raises:
        UserError: no rows, an empty response, or a tokenizer without EOS.
    """
    from persuasion_rl.models.loading import load_tokenizer

    tokenizer = load_tokenizer(base, trust_remote_code)
    kind = kind_of(rows)
    prompt, responses = KINDS[kind]
    texts = list(read_rows(rows, kind))
    for number, row in enumerate(texts, 1):
        for key in responses:
            if not row[key].strip():
                raise UserError(f"{rows}, line {number}: the {key} is empty")
    columns = {"conversation_id": [row["metadata"]["conversation_id"] for row in texts]}
    columns["prompt_ids"] = list(_token_ids(tokenizer, [row[prompt] for row in texts], True))
    for key, name in responses.items():
        response_ids = _token_ids(tokenizer, [row[key] for row in texts], False)
        columns[f"{name}_ids"] = [[*ids, tokenizer.eos_token_id] for ids in response_ids]
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
    note(f"{output}: {len(texts):,} rows")


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


def _token_ids(tokenizer, texts: list[str], special: bool) -> Iterator[list[int]]:
    """Token ids of texts, in batches; with `special`, a BOS (if the tokenizer has one) begins each, as prompts need."""
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        yield from tokenizer(batch, add_special_tokens=special)["input_ids"]


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
