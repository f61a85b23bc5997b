"""The requests of a job and their outcomes. `read_answer` is strict and guesses nothing."""

import json
import re
from threading import Lock
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.budget import CHARACTERS_A_TOKEN, Budget, cost_usd, estimated_tokens
from persuasion_rl.judges.llm.cache import Answer, AnswerCache, Batch
from persuasion_rl.judges.llm.provider import NoAnswer, Provider, Reply, Request
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.prompts.reasoning import without_reasoning
from persuasion_rl.runtime.command import note
from persuasion_rl.text import readable

UNPARSABLE = "unparsable"
"""The failure of a request whose answers all have the wrong form."""
GIVES_UP_AFTER = 20
"""If this many first answers of a job are all unparsable, the model counts as unable."""
QUOTED = 100
"""Characters of an answer that a message quotes."""
LINE_END = re.compile(r"\r\n?|\n")
FENCE = re.compile(r"(`{3,}+|~{3,}+)[^`]*")
"""The line that opens a block of code in Markdown: the language may have any name, or none."""


class Outcome(NamedTuple):
    """The outcome of a request: an object of the request's schema, or None and the name of the failure."""

    content: dict[str, Any] | None
    failure: str | None = None


def read_answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Read a model's answer: one JSON object of the schema, and nothing else but reasoning before it (`prompts.reasoning.without_reasoning`).

    The object may be in one Markdown fence, as many models write JSON against all instructions: that is unambiguous.
    Its texts are made `text.readable`.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        return _read_object(text, schema)
    except ValueError:
        # Not before: the object itself may speak of <think>.
        rest = without_reasoning(text)
        if rest is text:
            raise
    return _read_object(rest, schema)


def _read_object(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Read one JSON object of the schema that may be in one Markdown fence; ValueError if the text is anything else."""
    try:
        content = json.loads(_inside_fence(text), object_pairs_hook=_each_key_once)
        error = next(Draft202012Validator(schema).iter_errors(content), None)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if error:
        raise ValueError(error.message)
    return {k: readable(v) if isinstance(v, str) else v for k, v in content.items()}


def _inside_fence(text: str) -> str:
    """What is inside of a block of code in Markdown with nothing but white space around it; any other text as it is."""
    lines = LINE_END.split(text.strip().removeprefix("\ufeff"))
    opening, closing = FENCE.fullmatch(lines[0]), lines[-1].strip()
    if not opening or len(lines) == 1:
        return "\n".join(lines)
    fenced = closing.startswith(opening[1]) and set(closing) == {closing[0]}
    return "\n".join(lines[1:-1] if fenced else lines)


def _each_key_once(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


class Answers:
    """The requests of a job by key, and the state of each: an answer in the cache, a failure, or nothing yet."""

    def __init__(
        self,
        settings: LlmSettings,
        cache: AnswerCache,
        provider: Provider,
        requests: list[Request],
    ):
        self.settings, self.cache, self.provider = settings, cache, provider
        self.requests = {request.key: request for request in requests}
        self.budget = Budget(settings, cache)
        self.failures: dict[str, NoAnswer] = {}
        self._lock = Lock()
        self._usable, self._unusable = 0, 0

    def missing(self) -> list[Request]:
        """The requests to ask (again)."""
        missing = [r for key, r in self.requests.items() if self.settled(key) is None]
        self._usable += len(self.requests) - len(missing)
        return missing

    def outcome(self, key: str) -> Outcome:
        """The outcome of a request after asking."""
        failure = self.failures.get(key)
        return self.settled(key) or Outcome(None, failure.name if failure else UNPARSABLE)

    def settled(self, key: str) -> Outcome | None:
        """The outcome of a request by its answers; None if it must be asked (again)."""
        bodies = self.cache.bodies(key)
        for body in bodies:
            outcome = self._read(key, body)
            if outcome is not None:
                return outcome
        if len(bodies) > self.settings.retries:
            return Outcome(None, UNPARSABLE)
        return None

    def usable(self, answer: Answer) -> bool:
        """Whether an answer has the right form or is a refusal."""
        return self._read(answer.key, answer.body) is not None

    def _read(self, key: str, body: str) -> Outcome | None:
        try:
            reply = self.provider.read(body)
            if reply.refused:
                return Outcome(None, "refused")
            return Outcome(read_answer(reply.text, self.requests[key].schema))
        except (NoAnswer, ValueError):
            return None

    def priced(self, request: Request, body: str, batch: Batch | None = None) -> Answer:
        """An answer with its cost; in a batch, at the prices when it was sent.

        Tokens that the server does not count are estimated.

        Raises:
            NoAnswer: the body has not the form of this provider.
        """
        reply: Reply = self.provider.read(body)
        tokens_in, tokens_out = estimated_tokens(request), len(reply.text) // CHARACTERS_A_TOKEN
        tokens_in = tokens_in if reply.input_tokens is None else reply.input_tokens
        tokens_out = tokens_out if reply.output_tokens is None else reply.output_tokens
        prices = batch.prices if batch else self.settings.prices
        model = (batch and batch.model) or self.settings.model
        cost = cost_usd(prices, tokens_in, tokens_out, batch is not None)
        return Answer(request.key, body, model, tokens_in, tokens_out, cost, batch is not None)

    def refuse_unparsable(self, *answers: Answer) -> None:
        """Raise a UserError if all first answers of a job are unusable: others would cost money and be no better."""
        for answer in answers:
            usable = self.usable(answer)
            with self._lock:
                self._usable += usable
                self._unusable += not usable
        if not self._usable and self._unusable >= GIVES_UP_AFTER:
            raise UserError(
                f"judge llm: the first {self._unusable} answers of {self.settings.model} are no JSON object of the form"
                f" that the rubric's task asks for, as {self.quoted(answers[-1])}; see llm.model and llm.max_tokens;"
                " answers are kept"
            )

    def quoted(self, answer: Answer) -> str:
        """The beginning of an answer, in one line."""
        return repr(" ".join(self.provider.read(answer.body).text.split())[:QUOTED])

    def report_failures(self, requests: list[Request]) -> None:
        """Quote one failure of each name.

        Raises:
            UserError: no request of the job had an answer.
        """
        failed = {r.key: self.failures[r.key] for r in requests if r.key in self.failures}
        failed = {key: f for key, f in failed.items() if self.outcome(key).failure == f.name}
        for failure in {failure.name: failure for failure in failed.values()}.values():
            note(f"judge llm: no answer, for instance: {failure}")
        unanswered = [f for f in failed.values() if f.name != UNPARSABLE]
        if unanswered and len(unanswered) == len(self.requests):
            raise UserError(
                f"judge llm: none of {len(unanswered):,} requests had an answer, the last for {unanswered[-1]}; see llm.base_url"
                " and llm.model"
            )
