"""The interface of providers of language models: one request at a time, or batches of them.

The clients' own retries are off. A failure is either a NoAnswer with a name, which concerns one request, or a UserError,
which concerns all of them. Keys come from the environment and go nowhere but into requests.
"""

import importlib
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
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.deadline import http_client
from persuasion_rl.runtime.keys import VARIABLES, key_for, without_keys
from persuasion_rl.sampling.chat import MALFORMED, body_of, refused_parameter

CLOCKS_DIFFER_S = 300
"""Seconds by which a provider's clock and this one may differ."""


class NoAnswer(Exception):
    """A request that ended without a usable answer.

    Args:
        name: the failure, as the labels count it. detail: the server's message, in one line.
        again: whether asking again may help. wait_s: how long the server asks to wait, if it does.
    """

    def __init__(
        self, name: str, detail: str = "", again: bool = True, wait_s: float | None = None
    ):
        super().__init__(f"{name}: {without_keys(detail)}" if detail else name)
        self.name, self.again, self.wait_s = name, again, wait_s


class Missing(UserError):
    """A model, address or batch that does not exist (status 404)."""


@dataclass(frozen=True)
class Request:
    """A request: the task, its data, and the JSON schema of an answer. `key` is a digest of all that decides the
    answer."""

    key: str
    system: str
    user: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """The content of an answer. Tokens are None if the server does not count them."""

    text: str
    refused: bool
    input_tokens: int | None
    output_tokens: int | None


class Provider(ABC):
    """A provider's client. A compatible server (`base_url`) gets only parameters that all such servers know."""

    name: str
    address: str
    """The provider's own address. The client gets it explicitly, or it would take another from the environment."""

    def __init__(self, settings: LlmSettings):
        self._settings = settings
        self._official = settings.base_url is None
        self._client = None

    def connect(self) -> None:
        """Make the client, which is not needed to read earlier answers.

        Raises:
            UserError: the key or the client's package is missing.
        """
        if self._client is not None:
            return
        key = key_for(self.name, self._settings.base_url, "judge llm")
        self._library = _library(self.name)
        # With OPENAI_LOG=debug or ANTHROPIC_LOG=debug the clients would log answers, which may hold a key.
        logging.getLogger(self.name).setLevel(logging.WARNING)
        # Errors of a streamed read, which the client does not wrap.
        self._http_error = importlib.import_module("httpx2").HTTPError
        variable = f"{self.name.upper()}_BASE_URL"
        if self._official and os.environ.get(variable):
            note(f"judge llm: {variable} is not looked at; llm.base_url names another server")
        self._client = self._connect(
            api_key=key or "none",  # a server on this machine may need no key
            base_url=self._settings.base_url or self.address,
            timeout=self._settings.timeout_s,
            max_retries=0,
            http_client=http_client(self._library, self._settings.timeout_s),
        )

    def ask(self, request: Request) -> str:
        """The body of the server's answer, which `read` can read.

        Raises:
            NoAnswer: there is no answer. UserError: no request would get one.
        """
        with self._translated_errors():
            body = self._send(self.payload(request))
        self.read(body)
        return without_keys(body)

    def read(self, body: str) -> Reply:
        """Read a body; NoAnswer if it has not the form of this provider."""
        try:
            return self._read(body_of(body))
        except MALFORMED:
            raise NoAnswer("broken_body", " ".join(without_keys(body)[:100].split())) from None

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except self._library.APITimeoutError:
            raise NoAnswer("timeout", f"none within {self._settings.timeout_s:g} s") from None
        except self._library.APIConnectionError as error:
            raise NoAnswer("connection", str(error.__cause__ or error)) from None
        except self._library.APIStatusError as error:
            raise self._exception(error) from None
        except self._http_error as error:
            raise NoAnswer("connection", str(error)) from None
        except MALFORMED as error:
            raise NoAnswer("broken_body", str(error)[:200]) from None

    def _exception(self, error) -> Exception:
        """The exception to raise for an HTTP error."""
        status = error.status_code
        where = self._settings.base_url or self.name
        detail = f"status {status}: {' '.join(without_keys(str(error.message)).split())[:200]}"
        if status in (401, 403):
            return UserError(
                f"judge llm: {where} does not accept the key in {VARIABLES[self.name]} (status {status})"
            )
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            return UserError(
                f"judge llm: {where} gives no more credit ({detail}); answers are kept"
            )
        if status == 404:
            return Missing(
                f"judge llm: {where} has no model {self._settings.model!r}, or no such address or batch"
                f" ({detail}); see llm.model and llm.base_url"
            )
        if self._settings.temperature is not None and refused_parameter(error, ["temperature"]):
            return UserError(
                f"judge llm: {where} takes no temperature of {self._settings.temperature:g} for"
                f" {self._settings.model} ({detail}): set llm.temperature: null"
            )
        wait_s = retry_after(error.response.headers)
        if status == 429:
            return NoAnswer("rate_limited", detail, wait_s=wait_s)
        if status in (408, 504):
            return NoAnswer("timeout", detail, wait_s=wait_s)
        if status in (409, 425) or (status >= 500 and status != 501):  # 501: not implemented
            return NoAnswer("server_error", detail, wait_s=wait_s)
        return NoAnswer("rejected", detail, again=False)

    def _in_batch(self, rejected: bool, detail: str) -> NoAnswer:
        """The failure of one request of a batch."""
        name = "rejected" if rejected else "server_error"
        return NoAnswer(name, without_keys(detail)[:200], again=not rejected)

    def _rows(self, rows: Iterable[Any]) -> Iterator[tuple[str, str | NoAnswer]]:
        """Read the rows of a batch's results; unreadable ones are left out."""
        for row in rows:
            try:
                result = self._row(row)
            except MALFORMED:
                continue
            yield result

    @abstractmethod
    def _connect(self, **settings) -> Any:
        """The official client."""

    @abstractmethod
    def payload(self, request: Request) -> dict[str, Any]:
        """A request as JSON."""

    @abstractmethod
    def _send(self, payload: dict[str, Any]) -> str:
        """Send a request and return the answer's body as it came."""

    @abstractmethod
    def _read(self, answer: dict) -> Reply:
        """Read the JSON of a body."""

    @abstractmethod
    def _row(self, row: Any) -> tuple[str, str | NoAnswer]:
        """Read a row of a batch's results: key, and body or failure."""

    @abstractmethod
    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        """Create a batch and return its id."""

    @abstractmethod
    def find_batch(self, batch: Batch, known_ids: set[str]) -> str | None:
        """The id of a batch that was created although its answer was lost, not in `known_ids`; None if there is none."""

    @abstractmethod
    def batch_ended(self, id_: str) -> bool:
        """Whether a batch has ended, well or not."""

    @abstractmethod
    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        """The key and the body or failure of each request in a batch that has ended."""


def text_of(value: Any) -> str:
    """A text in an answer; empty if it is no text."""
    return value if isinstance(value, str) else ""


def _library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"judge llm: the package {name} is not installed; pip install -e '.[{name}]'"
        ) from None


def retry_after(headers) -> float | None:
    """How many seconds a server asks to wait, given as a number or a date; None if it does not ask."""
    if milliseconds := headers.get("retry-after-ms"):
        try:
            return max(0.0, float(milliseconds) / 1000)
        except ValueError:
            pass
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
