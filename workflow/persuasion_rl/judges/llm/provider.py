"""What is common to the providers of language models: a request at a time, or a batch of them.

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
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.keys import VARIABLES, key_for, without_keys

MOST_TOKENS = 10**9
"""More than any answer has; a larger number is no count."""
CLOCKS_DIFFER_S = 300
"""By how much a provider's clock and ours may differ."""


class NoAnswer(Exception):
    """A request that ended without an answer that can be used.

    Args:
        name: what stood in the way, as the labels count it. detail: the server's message, in one line.
        again: whether asking again may help. wait_s: how long the server asks to wait, where it does.
    """

    def __init__(
        self, name: str, detail: str = "", again: bool = True, wait_s: float | None = None
    ):
        super().__init__(f"{name}: {without_keys(detail)}" if detail else name)
        self.name, self.again, self.wait_s = name, again, wait_s


class Missing(UserError):
    """A model, an address or a batch that is not there (status 404)."""


MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""The errors of reading JSON that has another form than it should."""


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

    def __init__(self, settings: LlmSettings):
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
        # OPENAI_LOG=debug, ANTHROPIC_LOG=debug: the clients would log a server's answer, a key among it.
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
        with self._translated_errors():
            body = self._send(self.payload(request))
        self.read(body)
        return without_keys(body)

    def read(self, body: str) -> Reply:
        """Read a body; NoAnswer where it is none of this provider's."""
        try:
            return self._read(json.loads(body))
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
        """The exception that an HTTP error becomes."""
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
        wait_s = retry_after(error.response.headers)
        if status == 429:
            return NoAnswer("rate_limited", detail, wait_s=wait_s)
        if status in (408, 504):
            return NoAnswer("timeout", detail, wait_s=wait_s)
        if status in (409, 425) or (status >= 500 and status != 501):  # 501: not implemented
            return NoAnswer("server_error", detail, wait_s=wait_s)
        return NoAnswer("rejected", detail, again=False)

    def _in_batch(self, rejected: bool, detail: str) -> NoAnswer:
        """The failure of one of a batch's requests."""
        name = "rejected" if rejected else "server_error"
        return NoAnswer(name, without_keys(detail)[:200], again=not rejected)

    def _rows(self, rows: Iterable[Any]) -> Iterator[tuple[str, str | NoAnswer]]:
        """Read the rows of a batch's results, without those that cannot be read."""
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
        """Key, and body or failure, of each request of a batch that has ended."""


def text_of(value: Any) -> str:
    """A text of an answer; empty where it is none."""
    return value if isinstance(value, str) else ""


def count_of(usage: Any, name: str) -> int | None:
    """A number of tokens; None where a server gives none, or no number."""
    count = usage.get(name) if isinstance(usage, dict) else None
    valid = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_TOKENS
    return count if valid else None


def _library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"judge llm: the package {name} is not installed; pip install -e '.[{name}]'"
        ) from None


def retry_after(headers) -> float | None:
    """How many seconds a server asks to wait: a number, or the time until a date."""
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
