"""Samples a player's replies to the held-out prompts."""

from pathlib import Path
from textwrap import indent

from persuasion_rl.files import write_jsonl, write_text
from persuasion_rl.records import PoolRow, ReplyRow, read_rows
from persuasion_rl.runtime.command import stage
from persuasion_rl.sampling.engine import SamplingSettings
from persuasion_rl.sampling.responses import sample_responses


def evaluate_model(
    *,
    sampling: SamplingSettings,
    prompts: Path,
    output: Path,
    state: Path,
    first: int | None = None,
    page: Path | None = None,
) -> int:
    """Sample one reply a prompt, without redraws.

    Writes a ReplyRow for each prompt: {"prompt", "response", "metadata": {..., "finish_reason", "tokens", "model_digest",
    "engine", "reproducible"}}. A reply that a server withheld is an empty text with its finish reason. If a row of
    `prompts` has "asked" (`render_prompts`), the model gets that text. The rule preview_model samples the first few
    replies of the evaluation this way.

    Args:
        prompts: PoolRows.
        state: a folder where samples outlive a killed job.
        first: sample only this many prompts.
        page: also write the replies as Markdown, to this file.
    Returns:
        the number of replies.
    """
    pool = list(read_rows(prompts, PoolRow))[:first]
    texts = {row["metadata"]["prompt_id"]: row.get("asked", row["prompt"]) for row in pool}
    by_prompt, origin = sample_responses(sampling, state, texts)
    replies: list[ReplyRow] = []
    for row in pool:
        (reply,) = by_prompt[row["metadata"]["prompt_id"]]
        ending = {
            key: reply[key] for key in ("finish_reason", "tokens", "reasoning") if key in reply
        }
        replies.append(
            {
                "prompt": row["prompt"],
                "response": reply["text"],
                "metadata": row["metadata"] | ending | origin,
            }
        )
    if page is not None:
        write_text(page, _as_markdown(sampling.model, replies))
    return write_jsonl(output, replies)


def _as_markdown(model: str, replies: list[ReplyRow]) -> str:
    """Prompts and replies as Markdown, indented so that their text is not read as markup."""
    parts = [f"# {model}: replies to {len(replies)} held-out prompts"]
    for row in replies:
        metadata = row["metadata"]
        parts += [
            f"## {metadata['prompt_id']}",
            indent(row["prompt"].rstrip(), "    ", lambda line: True),
            f"{metadata['tokens']} tokens, {metadata['finish_reason']}:",
            indent(row["response"], "    ", lambda line: True),
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    stage(evaluate_model)
