"""The cost of asking, and a study's limits on requests and money."""

from threading import Lock

from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.cache import Answer, AnswerCache, Batch
from persuasion_rl.judges.llm.provider import Request
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.runtime.command import note

CHARACTERS_A_TOKEN = 4
"""Characters of an English token, for estimates."""
BATCH_PRICE = 0.5
"""The price of a batch as a share of the full price, with both providers."""


def cost_usd(
    prices: dict[str, float] | None, input_tokens: float, output_tokens: float, batch: bool
) -> float | None:
    """The cost of tokens in USD at prices a million; None if no price is known."""
    if prices is None:
        return None
    usd = (input_tokens * prices["input"] + output_tokens * prices["output"]) / 1_000_000
    return usd * BATCH_PRICE if batch else usd


def estimated_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    return (len(request.system) + len(request.user)) // CHARACTERS_A_TOKEN


class Budget:
    """Keeps the study's requests and their cost within llm.max_requests and llm.max_cost_usd.

    The cache says what was spent, so limits hold over reruns and jobs; no other job adds to it meanwhile. Answers that came
    when no price was known count at today's prices.
    """

    def __init__(self, settings: LlmSettings, cache: AnswerCache):
        self._settings, self._cache = settings, cache
        self._lock = Lock()
        self._answers, self.usd = cache.spent()
        self.usd += sum(cost_usd(settings.prices, *tokens) or 0.0 for tokens in cache.unpriced())
        self._asking, self._reserved = 0, 0.0
        self.tokens = 0  # of the answers of this job

    def keep(self, *answers: Answer, batch: Batch | None = None) -> None:
        """Commit answers to the cache, and count them."""
        self._cache.add(*answers, batch=batch)
        self._answers += len(answers)
        self.tokens += sum(answer.input_tokens + answer.output_tokens for answer in answers)
        self.usd += sum(self._cost(answer) for answer in answers)

    def check(self, requests: list[Request], answered: int) -> None:
        """Note the requests to ask and their highest cost.

        Raises:
            UserError: they are above a limit.
        """
        count, tokens = len(requests), sum(map(estimated_tokens, requests))
        most = count * self._settings.max_tokens
        cost = cost_usd(self._settings.prices, tokens, most, self._settings.batch)
        note(
            f"judge llm: {count:,} requests to ask, {answered:,} answered before; about {tokens:,} tokens in and at most"
            f" {most:,} out"
            + ("" if cost is None else f", at most about {cost:.4f} USD an attempt")
            + f"; up to {1 + self._settings.retries} attempts each where answers cannot be used"
        )
        cache_note = f"{answered:,} of this job's are answered in {self._settings.cache}"
        limit = self._settings.max_requests
        if limit is not None and count and self._answers + count > limit:
            raise UserError(
                f"judge llm: {count:,} requests to ask and {self._answers:,} asked before are more than"
                f" llm.max_requests {limit:,}; {cache_note}"
            )
        limit = self._settings.max_cost_usd
        if limit is not None and count and self.usd + cost > limit:
            raise UserError(
                f"judge llm: about {cost:.4f} USD to spend and {self.usd:.4f} spent are more than"
                f" llm.max_cost_usd {limit:g}; {cache_note}"
            )

    def reserve(self, request: Request) -> None:
        """Reserve room in the limits for a request that is about to be sent; UserError if there is none."""
        with self._lock:
            for name, used, limit in (
                ("llm.max_requests", self._answers + self._asking + 1, self._settings.max_requests),
                (
                    "llm.max_cost_usd",
                    self.usd + self._reserved + self._most(request),
                    self._settings.max_cost_usd,
                ),
            ):
                if limit is not None and used > limit * (1 + 1e-9):
                    raise UserError(
                        f"judge llm: stopped at {self._answers:,} requests and {self.usd:.4f} USD, before {name} {limit:g}"
                        f" was passed; the answers are kept in {self._settings.cache}"
                    )
            self._asking += 1
            self._reserved += self._most(request)

    def settle(self, request: Request, answer: Answer | None) -> None:
        """Release the room of a request, and at the same time commit its answer, if there is one."""
        with self._lock:
            self._asking -= 1
            self._reserved -= self._most(request)
            if answer is not None:
                self.keep(answer)

    def _cost(self, answer: Answer) -> float:
        if answer.cost_usd is not None:
            return answer.cost_usd
        tokens = (answer.input_tokens, answer.output_tokens, answer.batch)
        return cost_usd(self._settings.prices, *tokens) or 0.0

    def _most(self, request: Request) -> float:
        """The approximate highest cost of a request in USD."""
        tokens = (estimated_tokens(request), self._settings.max_tokens)
        return cost_usd(self._settings.prices, *tokens, self._settings.batch) or 0.0
