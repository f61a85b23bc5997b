"""From PersuasionForGood to examples: each turn of the persuader, after the dialogue so far.

The role is that of the utterance (`meta.role`: 0 persuader, 1 persuadee), not of the speaker; timestamps
are null, so the order is that of the file.
"""

from collections.abc import Iterator
from pathlib import Path

from persuasion_rl.clean import clean
from persuasion_rl.command import note, stage
from persuasion_rl.corpus import Conversation, Utterance, read_corpus
from persuasion_rl.examples import Budget, RowMaker
from persuasion_rl.files import UserError, keyed_number, write_json, write_jsonl
from persuasion_rl.prompts import Turn

CLAIM = Turn("Claim", "I do not plan to donate a part of my payment to Save the Children.")
ROLES = {0: "Persuader", 1: "Persuadee"}


def persuader_turns(conversation: Conversation) -> Iterator[tuple[Utterance, list[Turn]]]:
    """The persuader's utterances that answer something, each with the turns before it."""
    turns = [CLAIM]
    for utterance in conversation.utterances.values():
        role = utterance.meta.get("role")
        if role not in ROLES:
            raise UserError(
                f"conversation {conversation.id}: utterance {utterance.id} has meta.role {role!r};"
                " PersuasionForGood has 0 (persuader) or 1 (persuadee)"
            )
        if ROLES[role] == "Persuader" and len(turns) > 1:
            yield utterance, list(turns)
        turns.append(Turn(ROLES[role], clean(utterance.text)))


def process_p4g(
    *,
    corpus: Path,
    tokenizer: Path,
    examples: Path,
    counts: Path,
    min_tokens: int,
    max_tokens: int,
    max_context_tokens: int,
    max_seq_length: int,
    seed: int,
    max_examples: int | None = None,
    prompt_format: str = "plain",
) -> dict[str, int]:
    """Write SFT rows of the persuader's turns, as `cmv.process_cmv` does, with "source": "p4g".

    Of more than `max_examples` rows, those that a number keyed by (seed, utterance) picks.
    """
    budget = Budget(min_tokens, max_tokens, max_context_tokens, max_seq_length)
    maker = RowMaker("p4g", tokenizer, budget, prompt_format)
    rows = []
    for number, conversation in enumerate(read_corpus(corpus).values(), 1):
        for utterance, turns in persuader_turns(conversation):
            metadata = {
                "conversation_id": conversation.id,
                "utterance_id": utterance.id,
                "reply_to": utterance.reply_to,
                "donation": conversation.meta.get("donation_ee"),
            }
            if row := maker.row(turns, clean(utterance.text, maker.counts), metadata):
                rows.append(row)
        if number % 250 == 0:
            note(f"{number:,} dialogues, {len(rows):,} examples")
    if max_examples is not None and len(rows) > max_examples:
        maker.counts["over_max_p4g_examples"] = len(rows) - max_examples
        rows.sort(key=lambda row: keyed_number("p4g", seed, row["metadata"]["utterance_id"]))
        rows = rows[:max_examples]
    if not rows:
        raise UserError(f"no usable turn of a persuader in {corpus}")
    maker.counts["examples"] = len(rows)
    write_jsonl(examples, rows)
    write_json(counts, dict(sorted(maker.counts.items())))
    note(", ".join(f"{name} {count:,}" for name, count in sorted(maker.counts.items())))
    return dict(maker.counts)


if __name__ == "__main__":
    stage(process_p4g)
