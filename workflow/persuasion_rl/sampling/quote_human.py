"""Writes the human winning replies as those of a player of the evaluation."""

from pathlib import Path

from persuasion_rl.files import write_jsonl
from persuasion_rl.records import PoolRow, ReplyRow, SftRow, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.sampling.request import STOPPED


def quote_human(*, prompts: Path, held_out: Path, output: Path) -> int:
    """Write the human winning reply to each prompt as a ReplyRow, and return their number.

    Args:
        prompts: PoolRows of the evaluation.
        held_out: SftRows with a reply to each prompt.
    """
    examples = {row["input_text"]: row for row in read_rows(held_out, SftRow)}
    replies: list[ReplyRow] = []
    for row in read_rows(prompts, PoolRow):
        example = examples[row["prompt"]]
        ending = {"finish_reason": STOPPED, "tokens": example["metadata"]["response_tokens"]}
        replies.append(
            {
                "prompt": row["prompt"],
                "response": example["response"],
                "metadata": row["metadata"] | ending,
            }
        )
    return write_jsonl(output, replies)


if __name__ == "__main__":
    stage(quote_human)
