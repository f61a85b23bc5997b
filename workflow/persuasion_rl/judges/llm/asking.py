"""Asks a language model about texts, by a rubric. The cache keeps all answers, so that none is paid twice."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from threading import Event, Lock
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.answers import UNPARSABLE, Answers, Outcome
from persuasion_rl.judges.llm.anthropic import Anthropic
from persuasion_rl.judges.llm.batches import Batches
from persuasion_rl.judges.llm.cache import opened
from persuasion_rl.judges.llm.openai import OpenAI
from persuasion_rl.judges.llm.provider import NoAnswer, Provider, Request
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.study.checks import check_text_file
from persuasion_rl.text import readable

LONGEST_BACKOFF_S = 60
LONGEST_WAIT_S = 600
"""The most seconds to wait for a server; if it asks for more, the request has no answer."""
GIVES_UP_AFTER = 20
"""Requests in a row without an answer, after which the server counts as out of order."""


def instructions(settings: LlmSettings, task: str) -> str:
    """The rubric that the settings name, with the task behind it.

    Raises:
        UserError: the rubric is not there, is empty, or is no text in UTF-8.
    """
    check_text_file(f"--{settings.PREFIX}rubric", str(settings.rubric))
    return settings.rubric.read_text(encoding="utf-8").rstrip() + task


def ask_about(
    settings: LlmSettings, rubric: str, schema: dict[str, Any], data: dict[str, str]
) -> Request:
    """A request about some texts, by a rubric that ends with the form of the answer.

    The texts are strings of a JSON object, so that nothing in them can end the data. They are made `text.readable`.
    """
    texts = {name: readable(text) for name, text in data.items()}
    user = json.dumps(texts, ensure_ascii=False, indent=1)
    identity = [
        settings.provider,
        settings.model,
        rubric,
        user,
        settings.max_tokens,
        settings.temperature,
    ]
    return Request(sha256(json.dumps(identity).encode()).hexdigest(), rubric, user, schema)


def outcomes(settings: LlmSettings, requests: list[Request]) -> list[Outcome]:
    """The outcome of each request; only requests without an answer in the cache are sent.

    Failures: refused, unparsable, rejected, rate_limited, timeout, server_error, connection, broken_body.
    The first two are answers, which are kept; after the others a rerun asks again.

    Batches that were sent but not fetched come first, even if the rest is not asked in batches.

    Raises:
        UserError: there was no answer, or none can be expected: the key is missing or not accepted, a limit is reached, the
            server is out of order, the model's first answers are all unparsable.
    """
    with opened(settings.cache) as cache:
        answers = Answers(settings, cache, provider_of(settings), requests)
        batches = Batches(answers)
        batches.fetch_waiting()
        missing = answers.missing()
        if missing:
            answers.provider.connect()
        if settings.batch:
            batches.ask(missing)
        else:
            Threads(answers).ask(missing)
        answers.report_failures(missing)
        return [answers.outcome(request.key) for request in requests]


def provider_of(settings: LlmSettings) -> Provider:
    """The client of the provider that the settings name."""
    return {"openai": OpenAI, "anthropic": Anthropic}[settings.provider](settings)


class _Stopped(Exception):
    """Ask nothing more: another thread had a UserError."""


class Threads:
    """Asks one request at a time in each of several threads."""

    def __init__(self, answers: Answers):
        self._answers = answers
        self._settings, self._provider = answers.settings, answers.provider
        self._stop = Event()
        self._pace = Pace(self._settings.requests_per_minute, self._stop)

    def ask(self, missing: list[Request]) -> None:
        """Ask all requests; a UserError in one thread stops all of them."""
        answers = self._answers
        answers.budget.check(missing, answered=len(answers.requests) - len(missing))
        if not missing:
            return
        counts: Counter[str] = Counter()
        in_a_row = 0
        progress, tokens_before = (
            Progress("judge llm", len(missing), "requests"),
            answers.budget.tokens,
        )
        with ThreadPoolExecutor(self._settings.concurrency) as threads:
            waiting = {threads.submit(self._ask, request): request for request in missing}
            try:
                for done in as_completed(waiting):
                    if isinstance(done.exception(), _Stopped):  # the UserError itself comes too
                        continue
                    key, failure = waiting[done].key, done.result()
                    if failure is not None:
                        answers.failures[key] = failure
                    in_a_row = 0 if failure is None or failure.name == UNPARSABLE else in_a_row + 1
                    counts[answers.outcome(key).failure or "answered"] += 1
                    tokens = answers.budget.tokens - tokens_before
                    progress.add(done=1, tokens=tokens - progress.tokens)
                    if in_a_row == GIVES_UP_AFTER:
                        raise UserError(
                            f"judge llm: {in_a_row} requests in a row had no answer, the last for {failure};"
                            " see llm.base_url and llm.model; answers are kept, a rerun asks the rest"
                        )
            finally:
                self._stop.set()
                threads.shutdown(cancel_futures=True)
        note(f"judge llm: {self._summary(counts)}")

    def _summary(self, counts: Counter[str]) -> str:
        text = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
        if self._settings.prices is None:
            return text
        return f"{text}, {self._answers.budget.usd:.4f} USD"

    def _ask(self, request: Request) -> NoAnswer | None:
        """Ask until there is a usable answer; without one, return the last failure.

        Unusable answers count as attempts, also those of earlier runs.
        """
        attempts = 1 + self._settings.retries - len(self._answers.cache.bodies(request.key))
        try:
            for attempt in Retrying(
                stop=stop_after_attempt(attempts),
                retry=retry_if_exception(lambda error: isinstance(error, NoAnswer) and error.again),
                wait=_backoff,
                sleep=sleep_using_event(self._stop),
                reraise=True,
            ):
                with attempt:
                    self._attempt(request)
        except NoAnswer as failure:
            return failure
        except UserError:
            self._stop.set()  # before this thread begins its next request
            raise
        return None

    def _attempt(self, request: Request) -> None:
        answers = self._answers
        self._pace.wait()
        answers.budget.reserve(request)
        answer = None
        try:
            answer = answers.priced(request, self._provider.ask(request))
        except NoAnswer as failure:
            if failure.wait_s is not None:
                self._pace.pause(failure.wait_s)
            raise
        finally:
            answers.budget.settle(request, answer)
        answers.refuse_unparsable(answer)
        if not answers.usable(answer):
            raise NoAnswer(UNPARSABLE, answers.quoted(answer), wait_s=0)


_exponential = wait_random_exponential(multiplier=1, max=LONGEST_BACKOFF_S)


def _backoff(state: RetryCallState) -> float:
    """Seconds until the next attempt; if the server says how long to wait, `Pace` holds all requests back."""
    error = state.outcome.exception()
    return _exponential(state) if error.wait_s is None else 0


class Pace:
    """Limits the requests a minute, and holds them while a server asks to wait."""

    def __init__(self, per_minute: int | None, stop: Event):
        self._gap = 60 / per_minute if per_minute else 0.0
        self._stop = stop
        self._lock = Lock()
        self._next = self._not_before = 0.0

    def wait(self) -> None:
        """Return when it is a request's turn; raise _Stopped if asking has stopped."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._gap
        while (remaining_s := max(turn, self._not_before) - time.monotonic()) > 0:
            if self._stop.wait(remaining_s):
                break
        if self._stop.is_set():
            raise _Stopped

    def pause(self, seconds: float) -> None:
        """Hold all requests back; NoAnswer if that would be too long."""
        if seconds > LONGEST_WAIT_S:
            raise NoAnswer("rate_limited", f"the server asks to wait {seconds:,.0f} s", again=False)
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)
