"""Asks in batches, which are cheaper and answered within a day. No batch is sent twice, however a job ends."""

import time
import uuid

from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.answers import UNPARSABLE, Answers
from persuasion_rl.judges.llm.cache import Batch
from persuasion_rl.judges.llm.provider import Missing, NoAnswer, Request
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.progress import Progress

REQUESTS_A_BATCH = 10_000
LONGEST_POLL_S = 60
GIVES_UP_AFTER = 20
"""Polls in a row without an answer, after which the server counts as out of order."""


class Batches:
    """The batches of a job."""

    def __init__(self, answers: Answers):
        self._answers = answers
        self._settings, self._cache, self._provider = (
            answers.settings,
            answers.cache,
            answers.provider,
        )
        self._address = answers.settings.base_url or ""
        self._foreign: set[str] = set()

    def fetch_waiting(self) -> None:
        """Wait for batches that were sent but not fetched: they are paid for."""
        for batch in self._cache.waiting_batches(self._provider.name):
            if batch.address in (None, self._address):
                self._provider.connect()
                self._fetch(batch)
            else:
                where = batch.address or f"{self._provider.name} itself"
                note(
                    f"judge llm: a batch waits at {where}; it is fetched where llm.base_url says so"
                )

    def ask(self, missing: list[Request]) -> None:
        """Send the missing requests until all are answered or no attempt is left."""
        answers = self._answers
        for _ in range(1 + self._settings.retries):
            open_requests = [r for r in missing if answers.settled(r.key) is None]
            open_requests = [
                r
                for r in open_requests
                if r.key not in answers.failures or answers.failures[r.key].again
            ]
            if not open_requests:
                return
            answers.budget.check(open_requests, answered=len(missing) - len(open_requests))
            chunks = [
                open_requests[i : i + REQUESTS_A_BATCH]
                for i in range(0, len(open_requests), REQUESTS_A_BATCH)
            ]
            for batch in [self._send(chunk) for chunk in chunks]:
                self._fetch(batch)

    def _send(self, requests: list[Request]) -> Batch:
        keys = [request.key for request in requests]
        batch = Batch(
            token=uuid.uuid4().hex,
            id=None,
            keys=keys,
            created_at=time.time(),
            address=self._address,
            model=self._settings.model,
            prices=self._settings.prices,
        )
        self._cache.plan_batch(batch, self._provider.name)
        try:
            id_ = self._provider.create_batch(batch, requests)
        except Missing as error:
            self._cache.drop_batch(batch)
            raise UserError(f"{error}; where a server has no batches: llm.batch false") from None
        except UserError:  # a status that says that no batch was created
            self._cache.drop_batch(batch)
            raise
        except NoAnswer as failure:
            may_exist = failure.again and failure.name in ("connection", "timeout", "server_error")
            if not may_exist:
                self._cache.drop_batch(batch)
            next_time = "looks for it, then sends it" if may_exist else "sends it again"
            raise UserError(
                f"judge llm: the batch was not accepted ({failure}); a rerun {next_time}"
            ) from None
        note(f"judge llm: sent {len(keys):,} requests as the batch {id_}")
        return self._cache.name_batch(batch, id_)

    def _located(self, batch: Batch) -> Batch | None:
        """A batch with its id, which is looked up if a kill came before it was noted. None if the batch was never created."""
        if batch.id is not None:
            return batch
        known_ids = self._cache.batch_ids() | self._foreign
        try:
            id_ = self._provider.find_batch(batch, known_ids)
        except Missing:  # a server without batches
            id_ = None
        except NoAnswer as failure:
            if failure.again and failure.name != "broken_body":
                raise UserError(f"judge llm: the batches are not listed ({failure})") from None
            id_ = None
        if id_ is None:
            note("judge llm: a batch that was to be sent is not there; its requests are asked anew")
            self._cache.drop_batch(batch)
            return None
        return self._cache.name_batch(batch, id_)

    def _fetch(self, noted: Batch) -> None:
        """Wait for a batch and keep its answers in one transaction. A batch that no longer exists is given up."""
        batch = self._located(noted)
        if batch is None:
            return
        failures = self._answers.failures
        note(f"judge llm: waiting for the batch {batch.id}; a rerun goes on waiting for it")
        waiting = Progress(f"judge llm: batch {batch.id}", len(batch.keys), "requests")
        try:
            results = dict(self._results(batch.id))
        except Missing as error:
            note(f"judge llm: the batch {batch.id} is gone; its requests are asked anew ({error})")
            self._cache.add(batch=batch)
            failure = NoAnswer("server_error", f"the batch {batch.id} is gone")
            failures |= dict.fromkeys(batch.keys, failure)
            return
        except NoAnswer as failure:
            if not failure.again:
                self._cache.add(batch=batch)
            raise UserError(
                f"judge llm: no answers from the batch {batch.id} ({failure})"
            ) from None
        if results and not results.keys() & set(batch.keys):
            note(f"judge llm: the batch {batch.id} is another study's")
            self._foreign.add(batch.id)
            self._fetch(self._cache.name_batch(batch, None))
            return
        fetched = []
        waiting.end()
        for key in batch.keys:
            result = results.get(key, NoAnswer("server_error", "not in the batch's results"))
            try:
                if isinstance(result, NoAnswer):
                    raise result
                request = self._answers.requests.get(key, Request(key, "", "", {}))
                fetched.append(self._answers.priced(request, result, batch))
                failures.pop(key, None)
            except NoAnswer as failure:
                failures[key] = failure
        self._answers.budget.keep(*fetched, batch=batch)
        note(f"judge llm: {len(fetched):,} of {len(batch.keys):,} requests of the batch answered")
        of_this_job = [answer for answer in fetched if answer.key in self._answers.requests]
        for answer in of_this_job:
            if not self._answers.usable(answer):
                failures[answer.key] = NoAnswer(UNPARSABLE, self._answers.quoted(answer))
        self._answers.refuse_unparsable(*of_this_job)

    def _results(self, id_: str) -> list[tuple[str, str | NoAnswer]]:
        """Poll a batch, less and less often, until it has ended. The server may be unreachable in between."""
        pause_s, failed_polls = 0.5, 0
        while True:
            try:
                if self._provider.batch_ended(id_):
                    return list(self._provider.batch_results(id_))
                failed_polls = 0
            except NoAnswer as failure:
                failed_polls += 1
                if failed_polls == GIVES_UP_AFTER or not failure.again:
                    raise
            pause_s = min(2 * pause_s, LONGEST_POLL_S)
            time.sleep(pause_s)
