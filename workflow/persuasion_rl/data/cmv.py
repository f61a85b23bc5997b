"""Makes examples (replies that won a delta) and delta pairs from ChangeMyView corpora.

In a corpus that marks its comments (`success` of `winning-args-corpus`), a reply changed a mind if it is marked 1
and its speaker is not the original poster: the whole thread of comments has the mark, the poster's own included.
In others (`subreddit-changemyview`) `deltas.py` finds the deltas.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from persuasion_rl.data.chains import Chains, whole_chains
from persuasion_rl.data.clean import clean, clean_post, unusable
from persuasion_rl.data.contexts import Turn
from persuasion_rl.data.corpus import Conversation, Utterance, leave_out, read_threads
from persuasion_rl.data.deltas import award_ids, awards, won_and_lost
from persuasion_rl.data.examples import (
    BATCH,
    Budget,
    CleanTexts,
    Counts,
    Draft,
    RowMaker,
    note_counts,
)
from persuasion_rl.data.fields import DELETED
from persuasion_rl.files import UserError, write_json, written_lines
from persuasion_rl.records import DeltaPair, SftRow
from persuasion_rl.runtime.command import count_and_name, stage
from persuasion_rl.text import is_blank


@dataclass
class Reply:
    """A usable reply of a persuader: the turns above it, its cleaned text, and whether it won a delta (1 or 0)."""

    turns: list[Turn]
    text: str
    success: int
    utterance: Utterance

    def draft(self) -> Draft:
        """The reply as `RowMaker` takes it."""
        return Draft(
            self.turns,
            self.text,
            {
                "conversation_id": self.utterance.conversation_id,
                "utterance_id": self.utterance.id,
                "reply_to": self.utterance.reply_to,
            },
        )


def labels_of(conversation: Conversation) -> dict[str, int]:
    """Comment id -> 1 if it won, 0 if it lost: by the corpus' marks, or by the thread's deltas if it has none."""
    utterances = conversation.utterances.values()
    if not any("success" in utterance.meta for utterance in utterances):
        return won_and_lost(conversation)
    return {
        utterance.id: utterance.meta["success"]
        for utterance in utterances
        if utterance.meta.get("success") is not None and utterance.reply_to is not None
    }


def replies(
    conversation: Conversation,
    counts: Counts,
    earlier_comments: set[tuple[str, str]] | None = None,
    ends: int = 1000,
) -> Iterator[Reply]:
    """Yield the usable replies of persuaders in a thread that won or lost, in its order.

    Args:
        counts: for "won" and "lost", the reasons why others were left out are added to it.
        earlier_comments: conversation and id of comments in earlier corpora, which are left out; this thread's are added.
        ends: comments that a context may have at each of its ends; of longer chains the middle is left out.
    """
    labels = labels_of(conversation)
    if not labels:
        return
    earlier_comments = set() if earlier_comments is None else earlier_comments
    texts = CleanTexts(clean, counts["cleaned"])
    post = clean_post(conversation.body, counts["cleaned"])
    below_a_delta = whole_chains(conversation, award_ids(conversation))
    chains = Chains(conversation, lambda comment: _usable(comment, texts), ends)
    for id_, success in labels.items():
        utterance = conversation.utterances[id_]
        reasons = counts["won" if success else "lost"]
        reasons["labelled"] += 1
        if (conversation.id, id_) in earlier_comments:
            reason = "in_another_corpus"
        else:
            reason = _why_not(conversation, utterance, texts, below_a_delta)
        earlier_comments.add((conversation.id, id_))
        if reason is not None:
            count_and_name(reasons, reason, partial(conversation.place_of, utterance))
            continue
        turns = _turns(conversation, utterance, post, texts, chains)
        yield Reply(turns, texts[utterance.text], success, utterance)


def _why_not(
    conversation: Conversation,
    reply: Utterance,
    texts: CleanTexts,
    below_a_delta: dict[str, bool],
) -> str | None:
    """Why a labelled comment is no example; None if it is one."""
    if unusable(conversation.poster, _post(conversation)):
        return "post_deleted"
    if reply.speaker == conversation.poster:
        return "posters_own"
    if reason := _why_unusable(reply):
        return reason
    if awards(reply.text):
        return "awards_a_delta_itself"
    if reply.id not in below_a_delta:
        return "chain_broken"
    parent = conversation.utterances[reply.reply_to]
    if parent.too_large:
        return "answered_comment_too_large"
    if parent.reply_to is not None and not _usable(parent, texts):
        return "answered_comment_missing"
    if below_a_delta[parent.id]:
        return "after_the_delta"
    if not texts[reply.text]:
        return "empty_after_cleaning"
    return None


def _post(conversation: Conversation) -> str:
    """What the poster wrote: the post's text, or its title if it has no other text."""
    return conversation.title if is_blank(conversation.body) else conversation.body


def _turns(
    conversation: Conversation, reply: Utterance, post: str, texts: CleanTexts, chains: Chains
) -> list[Turn]:
    """The claim, the post if it has a text, and the comments down to the one that `reply` answers.

    Comments higher up that are deleted, of a bot, or placeholders for missing ones are left out. Nobody knows who had a
    deleted account, so its comments count as those of somebody else than the poster.
    """
    roles = {reply.speaker: "Persuader", conversation.poster: "Poster"}
    roles.pop(DELETED, None)
    claim = " ".join(texts[conversation.title].split())
    return [
        Turn("Claim", claim, is_post=not post),
        *([Turn("Poster", post, is_post=True)] if post else []),
        *(
            Turn(roles.get(comment.speaker, "Other"), texts[comment.text])
            for comment in chains.above(reply)
        ),
    ]


def _why_unusable(comment: Utterance) -> str | None:
    """Why a comment may not be used at all: `clean.unusable`, or it is "too_large"."""
    if comment.too_large:
        return "too_large"
    return unusable(comment.speaker, comment.text, comment.meta.get("distinguished"))


def _usable(comment: Utterance, texts: CleanTexts) -> bool:
    """Whether a comment may stand in a context: it is usable, and cleaning leaves some of it."""
    return _why_unusable(comment) is None and texts[comment.text] != ""


def threads(corpora: list[Path], counts: Counts) -> Iterator[Conversation]:
    """Yield the conversations of several ChangeMyView corpora, and count them (see `read_threads`).

    Raises:
        UserError: no conversation of a corpus has a title.
    """
    for folder in corpora:
        has_titles = False
        for conversation in read_threads(folder, counts):
            if conversation.title is None:
                leave_out(counts, conversation, "no_title")
            else:
                has_titles = True
                yield conversation
        if not has_titles:
            raise UserError(
                f"{folder}: no conversation has an op-title or title; is it a ChangeMyView corpus?"
            )


def _needed(thread: list[Reply], counts: Counts) -> list[Reply]:
    """The winning replies of a thread, and the losing ones that answer the same comment as one of them."""
    answered = {reply.utterance.reply_to for reply in thread if reply.success}
    needed = [r for r in thread if r.success or r.utterance.reply_to in answered]
    if len(needed) < len(thread):
        counts["lost"]["no_winner_beside"] += len(thread) - len(needed)
    return needed


def delta_pairs(thread: list[tuple[Reply, SftRow]]) -> Iterator[DeltaPair]:
    """Yield pairs of a winning and a losing reply of two persuaders to the same comment, each reply once.

    Each winner takes the remaining loser that is most like it in length and in the time until it was written.

    Args:
        thread: the replies of a thread that fit the budget, with their rows.
    """
    by_parent: dict[str, list[tuple[Reply, SftRow]]] = defaultdict(list)
    for reply, row in thread:
        by_parent[reply.utterance.reply_to].append((reply, row))
    for group in by_parent.values():
        losers = [reply for reply, _ in group if not reply.success]
        for winner, row in group:
            rivals = [r for r in losers if r.utterance.speaker != winner.utterance.speaker]
            if not winner.success or not rivals:
                continue
            loser = min(rivals, key=lambda rival: _unlikeness(winner, rival))
            losers.remove(loser)
            yield {
                "prompt": row["input_text"],
                "winner": winner.text,
                "loser": loser.text,
                "metadata": {
                    "conversation_id": winner.utterance.conversation_id,
                    "winner_id": winner.utterance.id,
                    "loser_id": loser.utterance.id,
                },
            }


def _unlikeness(one: Reply, other: Reply) -> float:
    """The distance of two replies: in log length plus, if both have a time, in days."""
    length = abs(math.log(len(one.text) / len(other.text)))
    times = (one.utterance.timestamp, other.utterance.timestamp)
    return length if None in times else length + abs(float(times[0]) - float(times[1])) / 86_400


def _batches(replies_of_threads: Iterable[list[Reply]]) -> Iterator[list[list[Reply]]]:
    """Yield the threads in batches of about `BATCH` replies, no thread divided."""
    batch: list[list[Reply]] = []
    size = 0
    for thread in replies_of_threads:
        batch.append(thread)
        size += len(thread)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def process_cmv(
    *,
    corpora: list[Path],
    tokenizer: Path,
    examples: Path,
    pairs: Path,
    counts: Path,
    budget: Budget,
) -> Counts:
    """Write SFT rows of winning replies (`examples`), delta pairs (`pairs`), and what became of all comments
    (`counts`).

    Counts are grouped: "read", "left_out_conversations" and "left_out_utterances" (see `read_threads`); "won" and "lost"
    (labelled, left out for each reason, kept); "made"; and "cleaned", the number of texts that each cleaning rule changed.

    Args:
        corpora: folders; a comment in several of them belongs to the first.
        tokenizer: the base model's tokenizer.json.

    Raises:
        UserError: no winning reply is usable.
    """
    maker = RowMaker("cmv", tokenizer, budget)
    tally: Counts = defaultdict(Counter)
    earlier_comments: set[tuple[str, str]] = set()
    ends = budget.max_context_tokens // 2 + 1
    usable = (
        _needed(list(replies(thread, tally, earlier_comments, ends)), tally)
        for thread in threads(corpora, tally)
    )
    with (
        written_lines(examples) as example_lines,
        written_lines(pairs) as pair_lines,
        ThreadPoolExecutor(1) as pool,
    ):

        def write(batch: list[list[Reply]], rows: Iterator[SftRow | str]) -> None:
            for thread in batch:
                usable_rows = _kept([(reply, next(rows)) for reply in thread], tally)
                for reply, row in usable_rows:
                    if reply.success:
                        example_lines.write(row)
                for pair in delta_pairs(usable_rows):
                    pair_lines.write(pair)
            tally["made"] |= {"examples": example_lines.count, "delta_pairs": pair_lines.count}

        # The next batch is read while the tokenizer, which releases the GIL, counts this one.
        waiting: deque[tuple[list[list[Reply]], Future]] = deque()
        for batch in _batches(usable):
            drafts = [reply.draft() for thread in batch for reply in thread]
            waiting.append((batch, pool.submit(maker.rows, drafts)))
            if len(waiting) > 1:
                first, rows = waiting.popleft()
                write(first, iter(rows.result()))
        for last, rows in waiting:
            write(last, iter(rows.result()))
        if not example_lines.count:
            raise UserError(f"no usable winning reply in {', '.join(map(str, corpora))}")
    write_json(counts, tally)
    note_counts(tally)
    return tally


def _kept(thread: list[tuple[Reply, SftRow | str]], counts: Counts) -> list[tuple[Reply, SftRow]]:
    """The replies that have a row, not a reason for leaving out; all are counted."""
    for reply, row in thread:
        reasons = counts["won" if reply.success else "lost"]
        reasons["kept" if isinstance(row, dict) else row] += 1
        if isinstance(row, dict) and reply.success:
            counts["made"]["contexts_cut"] += row["metadata"]["context_cut"]
    return [(reply, row) for reply, row in thread if isinstance(row, dict)]


if __name__ == "__main__":
    stage(process_cmv)
