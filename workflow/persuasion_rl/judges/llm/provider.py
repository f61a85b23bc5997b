"""OpenAI's and Anthropic's interfaces through their official clients: a request at a time, or a batch of them.

The clients' own retries are off. Whatever goes wrong is either a NoAnswer with a name, which concerns one
request, or a UserError, which concerns all of them. Keys come from the environment and go nowhere but into requests.
"""

import importlib
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.judges.llm.cache import Batch
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.keys import VARIABLES, key_for, without_keys

MOST_TOKENS = 10**9
"""More than any answer has; what a server says beyond it is no count."""
CLOCKS_DIFFER_S = 300
"""By how much a provider's clock and ours may differ."""


class NoAnswer(Exception):
    """A request that ended without an answer that can be used.

    Args:
        name: what stood in the way, as the labels count it. detail: what the server said, in one line.
        again: whether asking again may help. wait_s: how long the server says to wait, where it does.
    """

    def __init__(
        self, name: str, detail: str = "", again: bool = True, wait_s: float | None = None
    ):
        super().__init__(f"{name}: {without_keys(detail)}" if detail else name)
        self.name, self.again, self.wait_s = name, again, wait_s


class Missing(UserError):
    """A model, an address or a batch that is not there (status 404)."""


ODD = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What comes of reading JSON that is other than it should be."""


@dataclass(frozen=True)
class Request:
    """What is asked: the task, the data that it is about, and the JSON schema of an answer. `key` is a digest of all
    that matters."""

    key: str
    system: str
    user: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What an answer's body says. Tokens are None where the server does not count them."""

    text: str
    refused: bool
    input_tokens: int | None
    output_tokens: int | None


class Provider(ABC):
    """A provider's client. A compatible server (`base_url`) gets nothing but what all of them know."""

    name: str
    address: str
    """The provider's own. It is named to the client, which would look into the environment for another one."""

    def __init__(self, settings):
        self._settings = settings
        self._official = settings.base_url is None
        self._client = None

    def connect(self) -> None:
        """Make the client; what was answered before can be read without it.

        Raises:
            UserError: the key or the client's package is missing.
        """
        if self._client is not None:
            return
        key = key_for(self.name, self._settings.base_url, "judge llm")
        self._library = _library(self.name)
        # OPENAI_LOG=debug, ANTHROPIC_LOG=debug: the clients would log what a server said, a key among it.
        logging.getLogger(self.name).setLevel(logging.WARNING)
        # What the client does not put into its own words, where results are read as they come.
        self._http_error = importlib.import_module("httpx2").HTTPError
        variable = f"{self.name.upper()}_BASE_URL"
        if self._official and os.environ.get(variable):
            note(f"judge llm: {variable} is not looked at; llm.base_url names another server")
        self._client = self._connect(
            api_key=key or "none",  # a server on this machine may need none
            base_url=self._settings.base_url or self.address,
            timeout=self._settings.timeout_s,
            max_retries=0,
        )

    def ask(self, request: Request) -> str:
        """The body of the server's answer, which `read` can read.

        Raises:
            NoAnswer: there is none. UserError: there would be none to any request.
        """
        with self._named_errors():
            body = self._send(self.wording(request))
        self.read(body)
        return without_keys(body)

    def read(self, body: str) -> Reply:
        """Read a body; NoAnswer where it is none of this provider's."""
        try:
            return self._read(json.loads(body))
        except ODD:
            raise NoAnswer("broken_body", " ".join(without_keys(body)[:100].split())) from None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except self._library.APITimeoutError:
            raise NoAnswer("timeout", f"none within {self._settings.timeout_s:g} s") from None
        except self._library.APIConnectionError as error:
            raise NoAnswer("connection", str(error.__cause__ or error)) from None
        except self._library.APIStatusError as error:
            raise self._named(error) from None
        except self._http_error as error:
            raise NoAnswer("connection", str(error)) from None
        except ODD as error:
            raise NoAnswer("broken_body", str(error)[:200]) from None

    def _named(self, error) -> Exception:
        """What an HTTP error means."""
        status = error.status_code
        where = self._settings.base_url or self.name
        said = f"status {status}: {' '.join(without_keys(str(error.message)).split())[:200]}"
        if status in (401, 403):
            return UserError(
                f"judge llm: {where} does not accept the key in {VARIABLES[self.name]} (status {status})"
            )
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            return UserError(f"judge llm: {where} gives no more credit ({said}); answers are kept")
        if status == 404:
            return Missing(
                f"judge llm: {where} has no model {self._settings.model!r}, or no such address or batch"
                f" ({said}); see llm.model and llm.base_url"
            )
        wait_s = retry_after(error.response.headers)
        if status == 429:
            return NoAnswer("rate_limited", said, wait_s=wait_s)
        if status in (408, 504):
            return NoAnswer("timeout", said, wait_s=wait_s)
        if status in (409, 425) or (status >= 500 and status != 501):  # 501: not implemented
            return NoAnswer("server_error", said, wait_s=wait_s)
        return NoAnswer("rejected", said, again=False)

    def _in_batch(self, rejected: bool, said: str) -> NoAnswer:
        """What kept a batch from answering one of its requests."""
        name = "rejected" if rejected else "server_error"
        return NoAnswer(name, without_keys(said)[:200], again=not rejected)

    def _rows(self, rows: Iterable[Any]) -> Iterator[tuple[str, str | NoAnswer]]:
        """Read the rows of a batch's results; what one that cannot be read was to answer has no answer."""
        for row in rows:
            try:
                result = self._row(row)
            except ODD:
                continue
            yield result

    @abstractmethod
    def _connect(self, **settings) -> Any:
        """The official client."""

    @abstractmethod
    def wording(self, request: Request) -> dict[str, Any]:
        """The JSON of a request."""

    @abstractmethod
    def _send(self, wording: dict[str, Any]) -> str:
        """Send a request and return the answer's body as it came."""

    @abstractmethod
    def _read(self, answer: dict) -> Reply:
        """Read the JSON of a body."""

    @abstractmethod
    def _row(self, row: Any) -> tuple[str, str | NoAnswer]:
        """Read a row of a batch's results."""

    @abstractmethod
    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        """Create a batch and return its id."""

    @abstractmethod
    def find_batch(self, batch: Batch, known: set[str]) -> str | None:
        """The id of a batch that was created though its answer never came, or None. `known` are no such ids."""

    @abstractmethod
    def batch_ended(self, id_: str) -> bool:
        """Whether a batch has ended, well or not."""

    @abstractmethod
    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        """Key, and body or what stood in the way, of each request of a batch that has ended."""


class OpenAI(Provider):
    """Chat completions of OpenAI and of the many servers that speak like it."""

    name = "openai"
    address = "https://api.openai.com/v1"

    def _connect(self, **settings):
        return self._library.OpenAI(**settings)

    def wording(self, request: Request) -> dict[str, Any]:
        words = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
        }
        if self._settings.temperature is not None:
            words["temperature"] = self._settings.temperature
        if not self._official:
            return words | {"max_tokens": self._settings.max_tokens}
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        return words | {
            "max_completion_tokens": self._settings.max_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _send(self, wording):
        return self._client.chat.completions.with_raw_response.create(**wording).http_response.text

    def _read(self, answer: dict) -> Reply:
        choice = answer["choices"][0]
        message, usage = choice["message"], answer.get("usage")
        refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
        return Reply(
            text=_text(message.get("refusal") or message.get("content")),
            refused=refused,
            input_tokens=_count(usage, "prompt_tokens"),
            output_tokens=_count(usage, "completion_tokens"),
        )

    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        lines = [
            {
                "custom_id": request.key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self.wording(request),
            }
            for request in requests
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with self._named_errors():
            file = self._client.files.create(
                file=("requests.jsonl", text.encode()), purpose="batch"
            )
            return self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"token": batch.token},
            ).id

    def find_batch(self, batch: Batch, known: set[str]) -> str | None:
        with self._named_errors():
            for listed in self._client.batches.list(limit=100):  # the newest first
                if (listed.metadata or {}).get("token") == batch.token and listed.id not in known:
                    return listed.id
                if listed.created_at < batch.created_at - CLOCKS_DIFFER_S:
                    return None
        return None

    def batch_ended(self, id_: str) -> bool:
        with self._named_errors():
            status = self._client.batches.retrieve(id_).status
        return status in ("completed", "failed", "expired", "cancelled")

    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        with self._named_errors():
            batch = self._client.batches.retrieve(id_)
            if batch.status == "failed":
                said = [error.message for error in (batch.errors and batch.errors.data) or []]
                raise NoAnswer("rejected", without_keys(" ".join(said[:1])), again=False)
            files = [name for name in (batch.output_file_id, batch.error_file_id) if name]
            texts = [self._client.files.content(name).text for name in files]
            # Not splitlines, which also parts lines within a text (at U+2028, U+0085).
            lines = [line for text in texts for line in text.split("\n") if line.strip()]
            yield from self._rows([json.loads(line) for line in lines])

    def _row(self, row):
        response = row.get("response") or {}
        if response.get("status_code") == 200:
            return str(row["custom_id"]), without_keys(json.dumps(response["body"]))
        rejected = 400 <= response.get("status_code", 500) < 429
        said = json.dumps(row.get("error") or response.get("body"))
        return str(row["custom_id"]), self._in_batch(rejected, said)


class Anthropic(Provider):
    """Messages of Anthropic."""

    name = "anthropic"
    address = "https://api.anthropic.com"

    def _connect(self, **settings):
        return self._library.Anthropic(**settings)

    def wording(self, request: Request) -> dict[str, Any]:
        words = {
            "model": self._settings.model,
            "max_tokens": self._settings.max_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.user}],
        }
        if self._settings.temperature is not None:
            words["temperature"] = self._settings.temperature
        if self._official:
            form = {"type": "json_schema", "schema": request.schema}
            words["output_config"] = {"format": form}
        return words

    def _send(self, wording):
        # The client has no argument for a temperature any more; the interface has it for models that take one.
        more = {"temperature": wording.pop("temperature")} if "temperature" in wording else None
        answer = self._client.messages.with_raw_response.create(**wording, extra_body=more)
        return answer.http_response.text

    def _read(self, answer: dict) -> Reply:
        usage = answer.get("usage")
        sent = _count(usage, "input_tokens")
        cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
        return Reply(
            text="".join(
                _text(part["text"]) for part in answer["content"] if part["type"] == "text"
            ),
            refused=answer.get("stop_reason") == "refusal",
            input_tokens=None
            if sent is None
            else sent + sum(_count(usage, n) or 0 for n in cached),
            output_tokens=_count(usage, "output_tokens"),
        )

    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        rows = [{"custom_id": r.key, "params": self.wording(r)} for r in requests]
        with self._named_errors():
            return self._client.messages.batches.create(requests=rows).id

    def find_batch(self, batch: Batch, known: set[str]) -> str | None:
        """Anthropic's batches carry no mark of ours: of those of that size, the one nearest in time.

        It may be another study's; the keys in its results tell.
        """
        found = {}
        with self._named_errors():
            for listed in self._client.messages.batches.list(limit=100):  # the newest first
                after = listed.created_at.timestamp() - batch.created_at
                if after < -CLOCKS_DIFFER_S:
                    break
                counts = listed.request_counts.model_dump().values()
                if listed.id not in known and sum(counts) == len(batch.keys):
                    found[listed.id] = abs(after)
        return min(found, key=found.get, default=None)

    def batch_ended(self, id_: str) -> bool:
        with self._named_errors():
            return self._client.messages.batches.retrieve(id_).processing_status == "ended"

    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        with self._named_errors():
            if self._client.messages.batches.retrieve(id_).results_url is None:
                raise Missing(f"judge llm: {self.name} keeps the results no longer")
            yield from self._rows(self._client.messages.batches.results(id_))

    def _row(self, row):
        result = row.result.model_dump(mode="json")
        if result["type"] == "succeeded":
            return row.custom_id, without_keys(json.dumps(result["message"]))
        said = result.get("error", {}).get("error", {})
        rejected = said.get("type") == "invalid_request_error"
        return row.custom_id, self._in_batch(rejected, json.dumps(said))


def provider_of(settings) -> Provider:
    """The provider of the settings (`llm.Settings`)."""
    return {"openai": OpenAI, "anthropic": Anthropic}[settings.provider](settings)


def _text(said: Any) -> str:
    """What is no text says nothing that can be read."""
    return said if isinstance(said, str) else ""


def _count(usage: Any, name: str) -> int | None:
    """A number of tokens; None where a server says none, or no number."""
    said = usage.get(name) if isinstance(usage, dict) else None
    counts = isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MOST_TOKENS
    return said if counts else None


def _library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"judge llm: the package {name} is not installed; pip install -e '.[{name}]'"
        ) from None


def retry_after(headers) -> float | None:
    """How many seconds a server says to wait: a number, or the time until a date."""
    if milliseconds := headers.get("retry-after-ms"):
        try:
            return max(0.0, float(milliseconds) / 1000)
        except ValueError:
            pass
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None
