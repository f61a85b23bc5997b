"""From ChangeMyView corpora to examples (replies that won a delta) and delta pairs.

A reply counts as one that changed a mind when it is marked `success == 1` and its speaker is not the
original poster: the mark stands on the whole thread of comments, the poster's own among them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.clean import clean, unusable
from persuasion_rl.command import note, stage
from persuasion_rl.corpus import Conversation, Utterance, post_of, read_corpus
from persuasion_rl.examples import Budget, RowMaker
from persuasion_rl.files import UserError, write_json, write_jsonl
from persuasion_rl.prompts import Turn


@dataclass
class Reply:
    """A persuader's reply that may be used: its context, its cleaned text, and whether it won a delta."""

    turns: list[Turn]
    text: str
    success: int
    utterance: Utterance


def replies(conversation: Conversation, counts: Counter) -> Iterator[Reply]:
    """The usable replies of persuaders in a thread that are marked as won or lost, in its order.

    `counts` gets why others were left out, and how many texts each cleaning rule changed.
    """
    poster = conversation.meta["op-userID"]
    post_is_gone = unusable(poster, post_of(conversation)[1], None)
    for utterance in conversation.utterances.values():
        success = utterance.meta.get("success")
        if utterance.reply_to is None or success is None:
            continue
        if post_is_gone:
            counts["post_deleted"] += 1
            continue
        if utterance.speaker == poster:
            counts["posters_own"] += 1
            continue
        if why := unusable(utterance.speaker, utterance.text, utterance.meta.get("distinguished")):
            counts[why] += 1
            continue
        text = clean(utterance.text, counts)
        if not text:
            counts["empty_after_cleaning"] += 1
            continue
        turns = context_turns(conversation, utterance)
        if turns is None:
            counts["parent_missing"] += 1
            continue
        yield Reply(turns, text, int(success), utterance)


def context_turns(conversation: Conversation, reply: Utterance) -> list[Turn] | None:
    """The claim, the post and the comments down to the one that `reply` answers; None if that one is gone.

    Comments higher up that are deleted, or placeholders for missing ones, are left out.
    """
    poster = conversation.meta["op-userID"]
    title, body = post_of(conversation)
    *above, parent = conversation.chain_to(reply)[:-1]
    if not parent.reply_to:
        return [Turn("Claim", _one_line(clean(title))), Turn("Poster", clean(body))]
    if unusable(parent.speaker, parent.text, parent.meta.get("distinguished")):
        return None
    turns = [Turn("Claim", _one_line(clean(title))), Turn("Poster", clean(body))]
    for comment in [*above[1:], parent]:
        if not unusable(comment.speaker, comment.text, comment.meta.get("distinguished")):
            turns.append(Turn(_role(comment.speaker, poster, reply.speaker), clean(comment.text)))
    return turns


def _role(speaker: str, poster: str, persuader: str) -> str:
    return {poster: "Poster", persuader: "Persuader"}.get(speaker, "Other")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def threads(corpora: list[Path]) -> Iterator[Conversation]:
    """The conversations of several corpora; a conversation that is in two of them comes once."""
    seen: set[str] = set()
    for folder in corpora:
        for id_, conversation in read_corpus(folder).items():
            if "op-title" not in conversation.meta:
                raise UserError(
                    f"{folder}: conversation {id_} has no op-title; is it a ChangeMyView corpus?"
                )
            if id_ not in seen:
                seen.add(id_)
                yield conversation


def delta_pairs(conversation_id: str, made: list[tuple[Reply, dict]]) -> Iterator[dict]:
    """Pairs of a winning and a losing reply of two persuaders to the same comment, each reply once.

    `made` holds the replies that fit the budget, with their rows. Each winner takes, of the losers that
    are left, the one whose length is nearest to its own, so that length alone tells little.
    """
    by_parent: dict[str, list[tuple[Reply, dict]]] = defaultdict(list)
    for reply, row in made:
        by_parent[reply.utterance.reply_to].append((reply, row))
    for group in by_parent.values():
        losers = [reply for reply, _ in group if not reply.success]
        for winner, row in group:
            rivals = [r for r in losers if r.utterance.speaker != winner.utterance.speaker]
            if not winner.success or not rivals:
                continue
            loser = min(rivals, key=lambda rival: abs(len(rival.text) - len(winner.text)))
            losers.remove(loser)
            yield {
                "prompt": row["input_text"],
                "winner": winner.text,
                "loser": loser.text,
                "metadata": {
                    "conversation_id": conversation_id,
                    "winner_id": winner.utterance.id,
                    "loser_id": loser.utterance.id,
                },
            }


def process_cmv(
    *,
    corpora: list[Path],
    tokenizer: Path,
    examples: Path,
    pairs: Path,
    counts: Path,
    min_tokens: int,
    max_tokens: int,
    max_context_tokens: int,
    max_seq_length: int,
    prompt_format: str = "plain",
) -> dict[str, int]:
    """Write SFT rows of winning replies (`examples`), delta pairs (`pairs`) and what was left out (`counts`).

    Lengths are in tokens of `tokenizer` (a tokenizer.json). One row:
    {"input_text", "full_text", "response", "metadata": {"source": "cmv", "conversation_id",
    "utterance_id", "reply_to", "response_tokens", "context_tokens"}}.
    """
    budget = Budget(min_tokens, max_tokens, max_context_tokens, max_seq_length)
    maker = RowMaker("cmv", tokenizer, budget, prompt_format)
    rows: list[dict] = []
    pair_rows: list[dict] = []
    for number, conversation in enumerate(threads(corpora), 1):
        made = []
        for reply in replies(conversation, maker.counts):
            metadata = {
                "conversation_id": conversation.id,
                "utterance_id": reply.utterance.id,
                "reply_to": reply.utterance.reply_to,
            }
            if row := maker.row(reply.turns, reply.text, metadata):
                made.append((reply, row))
        rows += [row for reply, row in made if reply.success]
        maker.counts["losing_replies"] += sum(not reply.success for reply, _ in made)
        pair_rows += delta_pairs(conversation.id, made)
        if number % 500 == 0:
            note(f"{number:,} threads, {len(rows):,} examples, {len(pair_rows):,} delta pairs")
    maker.counts["examples"] = len(rows)
    maker.counts["delta_pairs"] = len(pair_rows)
    if not rows:
        raise UserError(f"no usable winning reply in {', '.join(map(str, corpora))}")
    write_jsonl(examples, rows)
    write_jsonl(pairs, pair_rows)
    write_json(counts, dict(sorted(maker.counts.items())))
    note(", ".join(f"{name} {count:,}" for name, count in sorted(maker.counts.items())))
    return dict(maker.counts)


if __name__ == "__main__":
    stage(process_cmv)
