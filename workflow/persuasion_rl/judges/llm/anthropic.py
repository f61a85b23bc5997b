"""Anthropic's interface through its official client."""

import json
from collections.abc import Iterator
from typing import Any

from persuasion_rl.judges.llm.cache import Batch
from persuasion_rl.judges.llm.provider import (
    CLOCKS_DIFFER_S,
    Missing,
    NoAnswer,
    Provider,
    Reply,
    Request,
    text_of,
)
from persuasion_rl.runtime.keys import without_keys
from persuasion_rl.sampling.chat import count_of


class Anthropic(Provider):
    """Anthropic's Messages."""

    name = "anthropic"
    address = "https://api.anthropic.com"

    def _connect(self, **settings):
        return self._library.Anthropic(**settings)

    def payload(self, request: Request) -> dict[str, Any]:
        payload = {
            "model": self._settings.model,
            "max_tokens": self._settings.max_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.user}],
        }
        if self._settings.temperature is not None:
            payload["temperature"] = self._settings.temperature
        if self._official:
            form = {"type": "json_schema", "schema": request.schema}
            payload["output_config"] = {"format": form}
        return payload

    def _send(self, payload):
        # The client has no temperature argument any more; the interface still takes it for some models.
        more = {"temperature": payload.pop("temperature")} if "temperature" in payload else None
        answer = self._client.messages.with_raw_response.create(**payload, extra_body=more)
        return answer.http_response.text

    def _read(self, answer: dict) -> Reply:
        usage = answer.get("usage")
        sent = count_of(usage, "input_tokens")
        cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
        return Reply(
            text="".join(
                text_of(part["text"]) for part in answer["content"] if part["type"] == "text"
            ),
            refused=answer.get("stop_reason") == "refusal",
            input_tokens=None
            if sent is None
            else sent + sum(count_of(usage, n) or 0 for n in cached),
            output_tokens=count_of(usage, "output_tokens"),
        )

    def create_batch(self, batch: Batch, requests: list[Request]) -> str:
        rows = [{"custom_id": r.key, "params": self.payload(r)} for r in requests]
        with self._translated_errors():
            return self._client.messages.batches.create(requests=rows).id

    def find_batch(self, batch: Batch, known_ids: set[str]) -> str | None:
        """The batch of the same size that is nearest in time, since Anthropic's batches carry no token.

        It may be another study's; the keys in its results show that.
        """
        distances = {}
        with self._translated_errors():
            for listed in self._client.messages.batches.list(limit=100):  # the newest first
                after = listed.created_at.timestamp() - batch.created_at
                if after < -CLOCKS_DIFFER_S:
                    break
                counts = listed.request_counts.model_dump().values()
                if listed.id not in known_ids and sum(counts) == len(batch.keys):
                    distances[listed.id] = abs(after)
        return min(distances, key=distances.get, default=None)

    def batch_ended(self, id_: str) -> bool:
        with self._translated_errors():
            return self._client.messages.batches.retrieve(id_).processing_status == "ended"

    def batch_results(self, id_: str) -> Iterator[tuple[str, str | NoAnswer]]:
        with self._translated_errors():
            if self._client.messages.batches.retrieve(id_).results_url is None:
                raise Missing(f"judge llm: {self.name} keeps the results no longer")
            yield from self._rows(self._client.messages.batches.results(id_))

    def _row(self, row):
        result = row.result.model_dump(mode="json")
        if result["type"] == "succeeded":
            return row.custom_id, without_keys(json.dumps(result["message"]))
        error = result.get("error", {}).get("error", {})
        rejected = error.get("type") == "invalid_request_error"
        return row.custom_id, self._in_batch(rejected, json.dumps(error))
