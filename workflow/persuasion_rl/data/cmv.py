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
from pathlib import Path

from persuasion_rl.data.clean import clean, clean_post, unusable
from persuasion_rl.data.contexts import Turn
from persuasion_rl.data.corpus import Conversation, Utterance, read_threads
from persuasion_rl.data.deltas import DELETED, award_ids, awards, won_and_lost
from persuasion_rl.data.examples import (
    BATCH,
    Budget,
    CleanTexts,
    Counts,
    Draft,
    RowMaker,
    note_counts,
)
from persuasion_rl.files import UserError, write_json, written_lines
from persuasion_rl.records import DeltaPair, SftRow
from persuasion_rl.runtime.command import note, stage


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
    if any("success" in utterance.meta for utterance in utterances):
        return {
            utterance.id: int(utterance.meta["success"])
            for utterance in utterances
            if utterance.meta.get("success") is not None and utterance.reply_to is not None
        }
    return won_and_lost(conversation)


def replies(
    conversation: Conversation, counts: Counts, earlier_comments: set[str] | None = None
) -> Iterator[Reply]:
    """Yield the usable replies of persuaders in a thread that won or lost, in its order.

    Args:
        counts: for "won" and "lost", the reasons why others were left out are added to it.
        earlier_comments: ids of comments in earlier corpora, which are left out; this thread's are added to it.
    """
    labels = labels_of(conversation)
    if not labels:
        return
    earlier_comments = set() if earlier_comments is None else earlier_comments
    texts = CleanTexts(clean, counts["cleaned"])
    post = clean_post(conversation.body, counts["cleaned"])
    awarded = award_ids(conversation)
    for id_, success in labels.items():
        utterance = conversation.utterances[id_]
        reasons = counts["won" if success else "lost"]
        reasons["labelled"] += 1
        reason = _why_not(conversation, utterance, texts, awarded, earlier_comments)
        earlier_comments.add(id_)
        if reason is not None:
            reasons[reason] += 1
            continue
        turns = _turns(conversation, utterance, post, texts)
        yield Reply(turns, texts[utterance.text], success, utterance)


def _why_not(
    conversation: Conversation,
    reply: Utterance,
    texts: CleanTexts,
    awarded: set[str],
    earlier_comments: set[str],
) -> str | None:
    """Why a labelled comment is no example; None if it is one."""
    if reply.id in earlier_comments:
        return "in_another_corpus"
    if unusable(conversation.poster, conversation.body):
        return "post_deleted"
    if reply.speaker == conversation.poster:
        return "posters_own"
    if reason := unusable(reply.speaker, reply.text, reply.meta.get("distinguished")):
        return reason
    if awards(reply.text):
        return "awards_a_delta_itself"
    chain = conversation.chain_to(reply)
    if chain is None:
        return "chain_broken"
    above, parent = chain[:-1], chain[-2]
    if parent.reply_to is not None and not _usable(parent, texts):
        return "answered_comment_missing"
    if any(comment.id in awarded for comment in above):
        return "after_the_delta"
    if not texts[reply.text]:
        return "empty_after_cleaning"
    return None


def _turns(
    conversation: Conversation, reply: Utterance, post: str, texts: CleanTexts
) -> list[Turn]:
    """The claim, the post and the comments down to the one that `reply` answers.

    Comments higher up that are deleted, of a bot, or placeholders for missing ones are left out. Nobody knows who had a
    deleted account, so its comments count as those of somebody else than the poster.
    """
    roles = {reply.speaker: "Persuader", conversation.poster: "Poster"}
    roles.pop(DELETED, None)
    claim = " ".join(texts[conversation.title].split())
    return [
        Turn("Claim", claim),
        Turn("Poster", post, is_post=True),
        *(
            Turn(roles.get(comment.speaker, "Other"), texts[comment.text])
            for comment in conversation.chain_to(reply)[1:-1]
            if _usable(comment, texts)
        ),
    ]


def _usable(comment: Utterance, texts: CleanTexts) -> bool:
    """Whether a comment may stand in a context: it is usable, and cleaning leaves some of it."""
    reason = unusable(comment.speaker, comment.text, comment.meta.get("distinguished"))
    return reason is None and texts[comment.text] != ""


def threads(corpora: list[Path], counts: Counts) -> Iterator[Conversation]:
    """Yield the conversations of several ChangeMyView corpora, and count them.

    Raises:
        UserError: a conversation has no title.
    """
    for folder in corpora:
        for conversation in read_threads(folder):
            if conversation.title is None:
                raise UserError(
                    f"{folder}: conversation {conversation.id} has no op-title or title; is it a"
                    " ChangeMyView corpus?"
                )
            counts["read"]["conversations"] += 1
            counts["read"]["utterances"] += len(conversation.utterances)
            yield conversation


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

    Counts are grouped: "read"; "won" and "lost" (labelled, left out for each reason, kept); "made"; and
    "cleaned", the number of texts that each cleaning rule changed.

    Args:
        corpora: folders; a comment in several of them belongs to the first.
        tokenizer: the base model's tokenizer.json.

    Raises:
        UserError: no winning reply is usable.
    """
    maker = RowMaker("cmv", tokenizer, budget)
    tally: Counts = defaultdict(Counter)
    earlier_comments: set[str] = set()
    usable = (
        _needed(list(replies(thread, tally, earlier_comments)), tally)
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
            note(_progress(tally))

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


def _progress(counts: Counts) -> str:
    input_counts, output_counts = counts["read"], counts["made"]
    return (
        f"{input_counts['conversations']:,} threads, {input_counts['utterances']:,} utterances,"
        f" {output_counts['examples']:,} examples, {output_counts['delta_pairs']:,} delta pairs"
    )


if __name__ == "__main__":
    stage(process_cmv)
