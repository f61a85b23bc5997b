"""OpenAI's interface, which many other servers have too, through its official client."""

import json
from collections.abc import Iterator
from typing import Any

from persuasion_rl.judges.llm.cache import Batch
from persuasion_rl.judges.llm.provider import (
    CLOCKS_DIFFER_S,
    NoAnswer,
    Provider,
    Reply,
    Request,
)
from persuasion_rl.judges.llm.settings import LlmSettings
from persuasion_rl.runtime.keys import without_keys
from persuasion_rl.sampling.chat import NEWER_LIMIT, count_of, message_text, refused_parameter


class OpenAI(Provider):
    """Chat completions of OpenAI and of compatible servers."""

    name = "openai"
    address = "https://api.openai.com/v1"

    def __init__(self, settings: LlmSettings):
        super().__init__(settings)
        self._limit = NEWER_LIMIT if self._official else "max_tokens"

    def _connect(self, **settings):
        return self._library.OpenAI(**settings)

    def payload(self, request: Request) -> dict[str, Any]:
        payload = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
        }
        if self._settings.temperature is not None:
            payload["temperature"] = self._settings.temperature
        payload[self._limit] = self._settings.max_tokens
        if not self._official:
            return payload
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        return payload | {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _send(self, payload):
        create = self._client.chat.completions.with_raw_response.create
        try:
            return create(**payload).http_response.text
        except self._library.APIStatusError as error:
            if "max_tokens" not in payload or not refused_parameter(error, ["max_tokens"]):
                raise
        self._limit = NEWER_LIMIT
        limit = payload.pop("max_tokens")
        return create(**payload, **{NEWER_LIMIT: limit}).http_response.text

    def _read(self, answer: dict) -> Reply:
        choice = answer["choices"][0]
        (text, refused), usage = message_text(choice["message"]), answer.get("usage")
        return Reply(
            text=text,
            refused=refused or choice.get("finish_reason") == "content_filter",
            input_tokens=count_of(usage, "prompt_tokens"),
            output_tokens=count_of(usage, "completion_tokens"),
        )

    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        lines = [
            {
                "custom_id": request.key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self.payload(request),
            }
            for request in requests
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with self._translated_errors():
            file = self._client.files.create(
                file=("requests.jsonl", text.encode()), purpose="batch"
            )
            return self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"token": batch.token},
            ).id

    def find_batch(self, batch: Batch, known_ids: set[str]) -> str | None:
        with self._translated_errors():
            for listed in self._client.batches.list(limit=100):  # the newest first
                if (listed.metadata or {}).get(
                    "token"
                ) == batch.token and listed.id not in known_ids:
                    return listed.id
                if listed.created_at < batch.created_at - CLOCKS_DIFFER_S:
                    return None
        return None

    def batch_ended(self, id_: str) -> bool:
        with self._translated_errors():
            status = self._client.batches.retrieve(id_).status
        return status in ("completed", "failed", "expired", "cancelled")

    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        with self._translated_errors():
            batch = self._client.batches.retrieve(id_)
            if batch.status == "failed":
                messages = [error.message for error in (batch.errors and batch.errors.data) or []]
                raise NoAnswer("rejected", without_keys(" ".join(messages[:1])), again=False)
            files = [name for name in (batch.output_file_id, batch.error_file_id) if name]
            texts = [self._client.files.content(name).text for name in files]
            # Not splitlines, which also splits texts (at U+2028, U+0085).
            lines = [line for text in texts for line in text.split("\n") if line.strip()]
            yield from self._rows([json.loads(line) for line in lines])

    def _row(self, row):
        response = row.get("response") or {}
        if response.get("status_code") == 200:
            return str(row["custom_id"]), without_keys(json.dumps(response["body"]))
        rejected = 400 <= response.get("status_code", 500) < 429
        detail = json.dumps(row.get("error") or response.get("body"))
        return str(row["custom_id"]), self._in_batch(rejected, detail)
