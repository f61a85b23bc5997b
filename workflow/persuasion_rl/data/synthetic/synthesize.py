"""Writes a synthetic ChangeMyView, in ConvoKit's format, whose delta function is known (`grammar.py`).

It has the traps of the real corpus, so that the cleaning is exercised: the poster's own replies carry
`success`, posts get EDIT lines that announce the delta, comments are deleted, texts hold HTML
entities, quotes and the moderators' footnote, and DeltaBot confirms every delta.
"""

import json
import random
from pathlib import Path

from persuasion_rl.data.clean import clean
from persuasion_rl.data.near_duplicates import NearDuplicateIndex, post_text
from persuasion_rl.data.synthetic import grammar
from persuasion_rl.files import UserError, write_json, write_jsonl, write_text
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress

PERSUADERS = {
    # name: (share of persuaders, probability of each move)
    "thoughtful": (0.22, dict(opening=0.3, acknowledge=0.6, answer=0.85, second=0.35, evidence=0.55, question=0.3, analogy=0.3, missed=0.05, off_topic=0.05, insult=0.0)),
    "average": (0.40, dict(opening=0.4, acknowledge=0.25, answer=0.4, second=0.1, evidence=0.25, question=0.35, analogy=0.4, missed=0.4, off_topic=0.3, insult=0.05)),
    "hasty": (0.26, dict(opening=0.4, acknowledge=0.05, answer=0.1, second=0.0, evidence=0.1, question=0.4, analogy=0.5, missed=0.5, off_topic=0.8, insult=0.15)),
    "rude": (0.12, dict(opening=0.2, acknowledge=0.0, answer=0.2, second=0.0, evidence=0.1, question=0.4, analogy=0.3, missed=0.4, off_topic=0.3, insult=0.95)),
}  # fmt: skip
FRAMES = (
    "I have held this view for {years} years.",
    "My {relative} and I argue about this every {day}.",
    "I grew up in {place}, where everyone thinks so.",
    "I read about this in {place} last {day}.",
    "After {years} years in {place} I am sure of it.",
)
CLOSINGS = (
    "Please change my view.",
    "I would like to be proven wrong.",
    "Maybe I am missing something.",
    "I am open to other ideas &amp; facts.",
    "Convince me.",
)
RELATIVES = ("sister", "uncle", "boss", "neighbor", "teacher", "cousin")
DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Sunday")
OBJECTIONS = (
    "That helps, but there is more.",
    "Fair enough, but this still bothers me.",
    "I see, yet one thing remains.",
)
THANKS = (
    "&#8710; You changed my view.",
    "!delta I had not looked at it that way.",
    "∆ That is a good point, thank you.",
)
FOOTNOTE = (
    "\n\n_____\n\n&gt; *Hello, users of CMV! The moderators of this synthetic forum ask you to stay kind and"
    " to read the rules below.*"
)


def synthesize_corpus(*, corpus: Path, seed: int, threads: int, replies: int) -> dict[str, int]:
    """Write a corpus of `threads` threads with about `replies` root replies each into folder `corpus`.

    Every thread has at least one reply that won a delta and one that did not, like those of
    `winning-args-corpus` (Tan et al. 2016). A thread is a function of the seed, its number, and how often it was drawn
    again because it had no such pair or resembled an earlier post.

    Returns:
        counts of "threads", "utterances", "deltas" and threads that were "drawn_again".

    Raises:
        UserError: the grammar cannot tell so many threads apart.
    """
    conversations: dict[str, dict] = {}
    utterances: list[dict] = []
    counts = {"threads": threads, "utterances": 0, "deltas": 0, "drawn_again": 0}
    posts = NearDuplicateIndex()
    progress = Progress("synthetic threads", threads, "threads")
    for number in range(threads):
        for attempt in range(200):
            thread = _Thread(random.Random(f"{seed} {number} {attempt}"), number, replies)
            name = f"{thread.id} {attempt}"
            if thread.has_pair() and not posts.add(name, thread.post_as_compared()):
                break
            counts["drawn_again"] += 1
        else:
            raise UserError(
                f"world.threads: {threads} is more than this grammar can tell apart;"
                f" thread {number} resembled an earlier one 200 times"
            )
        conversations[thread.id] = {"meta": thread.meta(), "vectors": []}
        utterances += thread.utterances
        counts["deltas"] += thread.deltas
        progress.add(done=1)
    counts["utterances"] = len(utterances)
    speakers = {u["speaker"]: {"meta": {}, "vectors": []} for u in utterances}
    write_jsonl(corpus / "utterances.jsonl", utterances)
    write_text(corpus / "conversations.json", json.dumps(conversations))
    write_text(corpus / "speakers.json", json.dumps(speakers))
    write_json(corpus / "corpus.json", {"name": "synthetic ChangeMyView", "seed": seed})
    write_json(corpus / "index.json", _index(conversations, utterances))
    note(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return counts


class _Thread:
    """One thread: a post, replies to it, the poster's answers, and who won a delta."""

    def __init__(self, rng: random.Random, number: int, replies: int):
        self.rng = rng
        self.id = f"t3_s{number:05d}"
        self.poster = f"poster_{number}"
        self.topic = rng.choice(grammar.TOPICS)
        self.reasons = rng.sample(grammar.reasons_of(self.topic), rng.choice((2, 2, 3)))
        self.title = "CMV: " + grammar.sentence(rng.choice(grammar.CLAIMS), topic=self.topic)
        self.time = 1_356_998_400 + number * 40_000
        self.train = int(rng.random() < 0.8)
        self.pairs = 0
        self.deltas = 0
        self.utterances: list[dict] = []
        self.body = self._body()
        self._say(self.poster, self.body, None)
        for _ in range(max(2, replies + rng.choice((-1, 0, 1)))):
            self._argue()
        self._noise()
        self._pair_up()
        if self.deltas and rng.random() < 0.25:
            self.body += "\n\nEDIT: I gave a delta, my view has changed. Thanks everyone!"
        if rng.random() < 0.3:
            self.body += FOOTNOTE
        self.utterances[0]["text"] = self.body

    def meta(self) -> dict:
        return {
            "op-userID": self.poster,
            "op-title": self.title,
            "op-text-body": self.body,
            "pair_ids": [f"p_{self.id}_{i}" for i in range(self.pairs)],
            "train": self.train,
        }

    def has_pair(self) -> bool:
        return self.pairs > 0

    def post_as_compared(self) -> str:
        return post_text(self.title, self.body)

    def _body(self) -> str:
        rng = self.rng
        slots = dict(
            years=rng.choice((2, 5, 10, 20)),
            relative=rng.choice(RELATIVES),
            day=rng.choice(DAYS),
            place=rng.choice(grammar.PLACES),
        )
        parts = [rng.choice(FRAMES).format(**slots)]
        parts += [self._statement(reason) for reason in self.reasons]
        parts.append(rng.choice(CLOSINGS))
        return " ".join(parts)

    def _statement(self, reason: str) -> str:
        return grammar.sentence(
            self.rng.choice(grammar.REASONS[reason].statements), topic=self.topic
        )

    def _argue(self) -> None:
        """A persuader replies to the post; the poster is convinced, objects and gets an answer, or says nothing."""
        rng = self.rng
        names, profiles = zip(*PERSUADERS.items(), strict=False)
        manner = rng.choices(names, [share for share, _ in profiles])[0]
        speaker = f"{manner}_{rng.randrange(400)}"
        path = [self._say(speaker, self._reply(manner, self.reasons), self.id, success=0)]
        heard = list(self.reasons)
        won = rng.random() < grammar.truth(self.body, clean(path[0]["text"]))
        if not won and rng.random() < 0.25:
            new = rng.choice([r for r in grammar.reasons_of(self.topic) if r not in heard])
            objection = f"{rng.choice(OBJECTIONS)} {self._statement(new)}"
            path.append(self._say(self.poster, objection, path[-1]["id"], success=0))
            path.append(self._say(speaker, self._reply(manner, [new]), path[-1]["id"], success=0))
            won = rng.random() < grammar.truth(objection, clean(path[-1]["text"]))
        if won:
            self.deltas += 1
            for utterance in path:
                utterance["meta"]["success"] = 1
            thanks = self._say(self.poster, rng.choice(THANKS), path[-1]["id"])
            self._say("DeltaBot", f"Confirmed: 1 delta awarded to /u/{speaker}.", thanks["id"])

    def _reply(self, manner: str, reasons: list[str]) -> str:
        """A reply of at least three moves; some quote the poster first."""
        rng = self.rng
        chance = PERSUADERS[manner][1]
        parts: list[str] = []
        while len(parts) < 3:
            parts = self._moves(chance, reasons)
        text = " ".join(parts)
        if rng.random() < 0.05:
            text = f"&gt; {self._statement(reasons[0])}\n\n{text}"
        return text

    def _moves(self, chance: dict[str, float], reasons: list[str]) -> list[str]:
        rng, topic = self.rng, self.topic
        chosen = rng.sample(reasons, len(reasons))
        others = [name for name in grammar.reasons_of(topic) if name not in self.reasons + reasons]

        def happens(move: str) -> bool:
            return rng.random() < chance[move]

        def answer(reason: str) -> str:
            return grammar.sentence(rng.choice(grammar.REASONS[reason].answers), topic=topic)

        parts = []
        if happens("opening"):
            parts.append(rng.choice(grammar.OPENINGS))
        if happens("acknowledge"):
            gist = grammar.REASONS[chosen[0]].gist
            parts.append(
                grammar.sentence(rng.choice(grammar.ACKNOWLEDGEMENTS), gist=gist, topic=topic)
            )
        if happens("answer"):
            parts.append(answer(chosen[0]))
            if len(chosen) > 1 and happens("second"):
                parts.append(answer(chosen[1]))
        if happens("missed"):
            parts.append(answer(rng.choice(others)))
        if happens("evidence"):
            parts.append(
                grammar.sentence(
                    rng.choice(grammar.EVIDENCE),
                    topic=topic,
                    place=rng.choice(grammar.PLACES),
                    measure=rng.choice(grammar.MEASURES),
                    percent=rng.choice(grammar.PERCENTAGES),
                )
            )
        if happens("analogy"):
            parts.append(rng.choice(grammar.ANALOGIES))
        if happens("question"):
            parts.append(grammar.sentence(rng.choice(grammar.QUESTIONS), topic=topic))
        if happens("off_topic"):
            parts.append(rng.choice(grammar.OFF_TOPIC))
        if happens("insult"):
            parts.append(rng.choice(grammar.INSULTS))
        return parts

    def _noise(self) -> None:
        """Comments that must not be learned from: deleted ones and a moderator's."""
        if self.rng.random() < 0.3:
            self._say("[deleted]", "[deleted]", self.id, success=0)
        if self.rng.random() < 0.1:
            removed = "Sorry, your comment has been removed. Rule 5 &amp; Rule 2."
            self._say("mod_of_cmv", removed, self.id, distinguished="moderator")

    def _pair_up(self) -> None:
        """Give each winning root reply and a losing one of another persuader a pair id, as Tan et al. did."""
        roots = [
            u for u in self.utterances
            if u["reply-to"] == self.id and u["meta"]["success"] is not None
            and u["text"] != "[deleted]"
        ]  # fmt: skip
        losers = [u for u in roots if u["meta"]["success"] == 0]
        for winner in (u for u in roots if u["meta"]["success"] == 1):
            loser = next((u for u in losers if u["speaker"] != winner["speaker"]), None)
            if loser is None:
                continue
            losers.remove(loser)
            for utterance in (winner, loser):
                utterance["meta"]["pair_ids"].append(f"p_{self.id}_{self.pairs}")
            self.pairs += 1

    def _say(
        self,
        speaker: str,
        text: str,
        reply_to: str | None,
        success: int | None = None,
        distinguished: str | None = None,
    ) -> dict:
        count = len(self.utterances)
        utterance = {
            "id": f"t1_{self.id[3:]}_{count}" if count else self.id,
            "conversation_id": self.id,
            "text": text,
            "speaker": speaker,
            "meta": {
                "pair_ids": [],
                "success": success,
                "distinguished": distinguished,
                "score": self.rng.randrange(1, 30),
            },
            "reply-to": reply_to,
            "timestamp": self.time + 600 * count,
            "vectors": [],
        }
        self.utterances.append(utterance)
        return utterance


def _index(conversations: dict[str, dict], utterances: list[dict]) -> dict:
    """ConvoKit's index of the meta fields and their types."""
    return {
        "utterances-index": {
            "pair_ids": ["<class 'list'>"],
            "success": ["<class 'int'>"],
            "distinguished": ["<class 'str'>"],
            "score": ["<class 'int'>"],
        },
        "speakers-index": {},
        "conversations-index": {
            "op-userID": ["<class 'str'>"],
            "op-title": ["<class 'str'>"],
            "op-text-body": ["<class 'str'>"],
            "pair_ids": ["<class 'list'>"],
            "train": ["<class 'int'>"],
        },
        "overall-index": {"name": ["<class 'str'>"], "seed": ["<class 'int'>"]},
        "version": 1,
        "vectors": [],
    }


if __name__ == "__main__":
    stage(synthesize_corpus)
