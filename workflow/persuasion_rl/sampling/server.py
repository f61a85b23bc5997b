"""The engines openai and endpoint: servers with OpenAI's interface that sample."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import Any

from persuasion_rl.files import UserError
from persuasion_rl.runtime.command import note
from persuasion_rl.runtime.deadline import http_client
from persuasion_rl.runtime.keys import VARIABLES, key_for, without_keys
from persuasion_rl.sampling.chat import (
    MALFORMED,
    NEWER_LIMIT,
    body_of,
    count_of,
    message_text,
    refused_parameter,
)
from persuasion_rl.sampling.engine import Engine, SamplingSettings, import_library
from persuasion_rl.sampling.request import (
    FILTERED,
    NO_REASON_GIVEN,
    REFUSED,
    REJECTED,
    STOPPED,
    Request,
    Sample,
)
from persuasion_rl.text import readable

OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")
"""Parameters that a server may refuse. Some models of OpenAI have one temperature only, and the limit by another name."""
ANSWER_S = 600
"""Seconds in which an answer must be whole once it has begun."""
BODY_WAITS_S = (1, 4, 16, 60)
"""Pauses before a request is sent again if its answer was cut or no completion, such as a page of a proxy."""


class Server(Engine):
    """A server with OpenAI's completions interface that serves the study's models under their names.

    It gets a seed with each request and may ignore it. Nothing here can check that its models are the study's.
    A prompt goes there as text only where any tokenizer makes the right ids of it. Else it goes as ids, which OpenAI's
    interface allows and some servers reject: with a chat template that writes BOS, or where people spelled a control token.
    """

    _hint = (
        "it must serve the study's models under their names (vLLM: --served-model-name,"
        " --lora-modules)"
    )

    def __init__(self, settings: SamplingSettings):
        super().__init__(settings)
        self._left_out: set[str] = set()
        self._lock = Lock()

    def sample(self, requests: list[Request]) -> Iterator[tuple[Request, Sample]]:
        """Yield each request with its sample.

        A request that the server rejects has an empty sample with the finish reason REJECTED or FILTERED. After any
        other failure nothing more is sent; the requests under way are still yielded, then a UserError is raised.
        """
        client = self._connect()
        failures: list[UserError] = []
        rejections: list[str] = []

        def ask(request: Request) -> Sample | None:
            if failures:
                return None
            try:
                return self._ask(client, request)
            except _Rejected as error:
                rejections.append(str(error))
                return Sample("", 0, error.reason)
            except UserError as error:
                failures.append(error)
                return None

        with ThreadPoolExecutor(self.settings.batch_size) as pool:
            request_of = {pool.submit(ask, request): request for request in requests}
            try:
                for future in as_completed(request_of):
                    if (sample := future.result()) is not None:
                        self.progress.add(tokens=sample.tokens)
                        yield request_of[future], sample
            finally:
                pool.shutdown(cancel_futures=True)
        if rejections:
            note(
                f"{self._label}: rejected {len(rejections)} of the requests, the first: {rejections[0]}"
            )
        if failures:
            raise failures[0]

    @property
    def _label(self) -> str:
        """The name of the engine in messages."""
        return f"engine {self.name}, {self.settings.base_url}"

    def _connect(self):
        """The official client. It retries temporary failures: status 408, 409, 429, 5xx, no connection."""
        base_url = self.settings.base_url
        key = key_for("openai", base_url, self._label)
        return self._openai.OpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=5,
            http_client=http_client(self._openai, ANSWER_S),
        )

    @property
    def _openai(self):
        return import_library("openai", "pip install -e '.[openai]'")

    def _ask(self, client, request: Request) -> Sample:
        """The server's sample for a request.

        Raises:
            _Rejected: the server rejects this request. UserError: it would accept no request, or none now.
        """
        for wait_s in (*BODY_WAITS_S, None):
            try:
                body = self._send_what_it_takes(client, request)
            except self._openai.OpenAIError as error:
                raise self._explain(error) from None
            try:
                return self._read(body_of(body))
            except MALFORMED:
                if wait_s is not None:
                    time.sleep(wait_s)
        raise UserError(
            f"{self._label}: answers what is no completion ({_one_line(body)!r}); samples drawn so far are kept"
        )

    def _explain(self, error) -> Exception:
        """The _Rejected or UserError for an error of the client."""
        status = getattr(error, "status_code", None)
        message = _one_line(str(error))
        if status in (401, 403):
            return UserError(
                f"{self._label}: does not accept the key in {VARIABLES['openai']}, or there is none: {message}"
            )
        if status == 404:
            return UserError(
                f"{self._label}: knows no model {self.settings.model!r}; {self._hint}: {message}"
            )
        if status is None or status in (402, 408, 409, 425, 429) or status >= 500:
            return UserError(f"{self._label}: {message}; samples drawn so far are kept")
        filtered = getattr(error, "code", None) == FILTERED
        return _Rejected(message, FILTERED if filtered else REJECTED)

    def _send_what_it_takes(self, client, request: Request) -> str:
        """Send a request, again without each parameter that the server does not take; return the body of the answer."""
        while True:
            left_out = frozenset(self._left_out)
            try:
                return self._send(client, request)
            except self._openai.APIStatusError as error:
                refused = refused_parameter(error, OPTIONAL)
                if refused is None or refused in left_out:
                    raise
                self._leave_out(refused)

    def _leave_out(self, parameter: str) -> None:
        """Send the following requests without a parameter, the limit under its newer name."""
        with self._lock:
            if parameter not in self._left_out:
                instead = f"; it gets {NEWER_LIMIT}" if parameter == "max_tokens" else ""
                note(f"{self._label}: takes no {parameter}, and gets none{instead}")
                self._left_out.add(parameter)

    def _send(self, client, request: Request) -> str:
        """Send a request and return the body of the answer."""
        create = client.completions.with_raw_response.create
        (ids,) = self.text_tokenizer.prompt_ids([request.prompt])
        prompt = request.prompt if self.text_tokenizer.reads_alike(request.prompt, ids) else ids
        return create(prompt=prompt, **self._parameters(request)).http_response.text

    def _read(self, answer: dict) -> Sample:
        """The sample in the JSON of a body. The text of a refusal is dropped."""
        choice = answer["choices"][0]
        text, reason = self._text_and_reason(choice)
        text = "" if reason in (FILTERED, REFUSED) else without_keys(text.strip())
        tokens = count_of(answer.get("usage"), "completion_tokens")
        if tokens is None:
            tokens = self._count(text) + (reason == STOPPED)
        return self._sample(text, tokens, reason)

    def _text_and_reason(self, choice: dict) -> tuple[str, str]:
        """Text and finish reason of a choice of the answer."""
        return choice["text"] or "", _finish_reason(choice)

    def _count(self, text: str) -> int:
        """The tokens of a text by the base model's tokenizer, for servers that do not count them."""
        return self.text_tokenizer.response_counts([readable(text)])[0] - 1

    def _parameters(self, request: Request) -> dict[str, Any]:
        """The parameters of a request besides its prompt, without those that the server does not take."""
        settings = self.settings
        parameters = {
            "model": settings.model,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": self._seed(request),
        }
        if "max_tokens" in self._left_out:
            parameters[NEWER_LIMIT] = settings.max_new_tokens
        return {name: value for name, value in parameters.items() if name not in self._left_out}


class Endpoint(Server):
    """A server with OpenAI's chat completions interface, for a model from outside the study.

    The prompt of a request is a conversation as JSON. The server tokenizes it: whether control tokens that people spelled
    stay text is up to it.
    """

    _hint = "see evaluation.other_players"

    def _identity(self) -> str:
        """The model's name, since its files are not here."""
        return self.settings.model

    def _send(self, client, request: Request) -> str:
        create = client.chat.completions.with_raw_response.create
        messages = json.loads(request.prompt)
        return create(messages=messages, **self._parameters(request)).http_response.text

    def _text_and_reason(self, choice: dict) -> tuple[str, str]:
        text, refused = message_text(choice["message"])
        return ("", REFUSED) if refused else (text, _finish_reason(choice))

    def _sample(self, text: str, tokens: int, finish_reason: str) -> Sample:
        """A finished sample; the tokenizer of the model is not here."""
        return Sample(text, tokens, finish_reason)

    def _count(self, text: str) -> int:
        """The number of words and punctuation marks, since the tokenizer is not here."""
        return len(re.findall(r"\w+|[^\w\s]", text))


class _Rejected(Exception):
    """The server rejected a request but may accept others. `reason` is the sample's finish reason."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def _finish_reason(choice: dict) -> str:
    """What ended a choice, by the server's word in one line."""
    reason = choice.get("finish_reason")
    words = _one_line(readable(reason)) if isinstance(reason, str) else ""
    return words or NO_REASON_GIVEN


def _one_line(text: str) -> str:
    """A server's answer in one line of at most 300 characters, without keys."""
    return " ".join(without_keys(text).split())[:300]


def make(settings: SamplingSettings) -> Server:
    return {"openai": Server, "endpoint": Endpoint}[settings.engine](settings)
