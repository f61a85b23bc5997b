"""The held-out prompts as a player is asked them that wants another format, or a length."""

import json
from pathlib import Path

from persuasion_rl.data.prompts import context_of, messages, read_chat_template, render
from persuasion_rl.files import read_jsonl, write_jsonl
from persuasion_rl.runtime.command import stage

NEAREST = 10
"""Words that a length is rounded to."""


def ask_player(
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
    """Write the pool rows of `prompts`, each with "asked": what the player gets instead of the prompt.

    Args:
        held_out: SFT rows with the human reply to each prompt.
        study_format: the format that the prompts are in. player_format: plain, chat, or messages (as JSON, for an
            interface that takes conversations).
        match_length: ask for as many words as the human reply has, in tens.
        study_base, player_base: folders with the chat templates that the formats need.
    """
    template = read_chat_template(study_base) if study_format == "chat" else None
    own_template = read_chat_template(player_base) if player_format == "chat" else None
    lengths = {row["input_text"]: len(row["response"].split()) for row in read_jsonl(held_out)}
    rows = []
    for row in read_jsonl(prompts):
        source = row["metadata"]["source"]
        context = context_of(row["prompt"], source, study_format, template)
        words = max(NEAREST, round(lengths[row["prompt"]], -1)) if match_length else None
        if player_format == "messages":
            asked = json.dumps(messages(context, source, words), ensure_ascii=False)
        else:
            asked = render(context, source, player_format, own_template, words)
        rows.append({**row, "asked": asked})
    return write_jsonl(output, rows)


if __name__ == "__main__":
    stage(ask_player)
