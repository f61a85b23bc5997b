"""Renders the held-out prompts for a player that needs another format or gets a length to match."""

import json
from pathlib import Path

from persuasion_rl.files import write_jsonl
from persuasion_rl.prompts.templates import read_format
from persuasion_rl.prompts.wording import messages
from persuasion_rl.records import PoolRow, SftRow, read_rows
from persuasion_rl.runtime.command import stage

NEAREST = 10
"""Words to whose multiples a length is rounded; also the least length."""


def render_prompts(
    *,
    prompts: Path,
    held_out: Path,
    output: Path,
    study_format: str,
    player_format: str,
    match_length: bool,
    study_base: Path,
    player_base: Path | None = None,
) -> int:
    """Write the PoolRows of `prompts`, each with "asked": the text that the player gets instead of the prompt.

    Args:
        held_out: SftRows with the human reply to each prompt.
        study_format: the format that the prompts are in.
        player_format: plain, chat, or messages (as JSON, for an interface that takes conversations).
        match_length: ask for the number of words of the human reply, rounded to tens.
        study_base, player_base: folders with the chat templates that the formats need.
    Returns:
        the number of rows.
    """
    form = read_format(study_base, study_format)
    player_form = None if player_format == "messages" else read_format(player_base, player_format)
    lengths = {
        row["input_text"]: len(row["response"].split()) for row in read_rows(held_out, SftRow)
    }
    rendered: list[PoolRow] = []
    for row in read_rows(prompts, PoolRow):
        source = row["metadata"]["source"]
        context = form.context_of(row["prompt"], source)
        words = max(NEAREST, round(lengths[row["prompt"]], -1)) if match_length else None
        if player_form is None:
            player_prompt = json.dumps(messages(context, source, words), ensure_ascii=False)
        else:
            player_prompt = player_form.render(context, source, words)
        rendered.append({**row, "asked": player_prompt})
    return write_jsonl(output, rendered)


if __name__ == "__main__":
    stage(render_prompts)
