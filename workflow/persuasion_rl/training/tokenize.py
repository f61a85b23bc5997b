"""Tokens of training rows, made once for all the models that learn from them.

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
from persuasion_rl.runtime.command import note, stage

KINDS = {
    "response": ("input_text", {"response": "response"}),
    "chosen": ("prompt", {"chosen": "chosen", "rejected": "rejected"}),
    "winner": ("prompt", {"winner": "chosen", "loser": "rejected"}),
}
"""By a key that tells SFT rows, preference pairs and delta pairs apart: where the prompt is, and the responses."""
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
    read = list(read_jsonl(rows))
    if not read:
        raise UserError(f"{rows}: no rows")
    kind = next((kind for kind in KINDS if kind in read[0]), None)
    if kind is None:
        raise UserError(f"{rows}, line 1: has none of the keys {', '.join(KINDS)}")
    prompt, responses = KINDS[kind]
    for number, row in enumerate(read, 1):
        for key in responses:
            if not row[key].strip():
                raise UserError(f"{rows}, line {number}: the {key} is empty")
    columns = {"conversation_id": [row["metadata"]["conversation_id"] for row in read]}
    columns["prompt_ids"] = list(_ids(tokenizer, [row[prompt] for row in read], True))
    for key, name in responses.items():
        ids = _ids(tokenizer, [row[key] for row in read], False)
        columns[f"{name}_ids"] = [[*found, tokenizer.eos_token_id] for found in ids]
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
    note(f"{output}: {len(read):,} rows")


def _ids(tokenizer, texts: list[str], special: bool) -> Iterator[list[int]]:
    """Token ids of texts, a batch a call; special tokens (a BOS, where there is one) open the prompt only."""
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        yield from tokenizer(batch, add_special_tokens=special)["input_ids"]


@dataclass(frozen=True)
class Tokens:
    """A table of `tokenize`, read.

    Attributes:
        columns: name -> one entry a row.
        rows: the text rows that it was made from: "file", "digest" (SHA-256), and the "tokenizer"'s digest.
    """

    path: Path
    columns: dict[str, list]
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path}: not a table of tokens ({error}); was it cut off?") from None
        return cls(path, table.to_pydict(), json.loads(table.schema.metadata[b"rows"]))

    def __len__(self) -> int:
        return len(self.columns["prompt_ids"])

    def only(self, conversations: set[str]) -> "Tokens":
        """The rows of some conversations."""
        kept = [id_ in conversations for id_ in self.columns["conversation_id"]]
        return replace(
            self,
            columns={
                name: [value for value, keep in zip(values, kept, strict=True) if keep]
                for name, values in self.columns.items()
            },
        )

    def responses(self) -> Iterator[list[int]]:
        """Every response's ids."""
        for name in RESPONSES:
            yield from self.columns.get(name, [])

    def lengths(self) -> list[int]:
        """Tokens of each row's prompt with the longest of its responses."""
        responses = [self.columns[name] for name in RESPONSES if name in self.columns]
        return [
            len(prompt) + max(map(len, answers))
            for prompt, *answers in zip(self.columns["prompt_ids"], *responses, strict=True)
        ]

    def longest(self, rows: int) -> list[list[int]]:
        """The sequences of a batch of the longest rows, as trl's collators stack them: a prompt with its
        response, or all prompts with the chosen one and then all with the rejected one."""
        lengths = self.lengths()
        order = sorted(range(len(self)), key=lambda i: -lengths[i])
        picked = (order * rows)[:rows]
        prompts = self.columns["prompt_ids"]
        names = [name for name in RESPONSES if name in self.columns]
        return [prompts[i] + self.columns[name][i] for name in names for i in picked]

    def refuse_long(self, max_length: int) -> None:
        """UserError where a row is longer than `max_length` tokens: trl would cut it or drop it."""
        for number, tokens in enumerate(self.lengths(), 1):
            if tokens > max_length:
                raise UserError(
                    f"{self.rows['file']}, line {number}: prompt and response are {tokens} tokens, more"
                    f" than the recipe's max_length {max_length}"
                )


if __name__ == "__main__":
    stage(tokenize)
