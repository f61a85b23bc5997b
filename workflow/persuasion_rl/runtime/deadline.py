"""Ends answers of servers that come byte by byte for ever: a client's own time-out is that between two bytes."""

import importlib
import time
from types import ModuleType
from typing import Any


def http_client(library: ModuleType, seconds: float) -> Any:
    """The HTTP client of `openai` or `anthropic`, for which an answer to a POST has `seconds` from its first byte on.

    What takes longer is the library's APITimeoutError. Results of batches, which are fetched by GET, may take longer.
    """
    httpx = importlib.import_module("httpx2")

    class Timed(httpx.SyncByteStream):
        def __init__(self, stream: Any):
            self._stream, self.close = stream, stream.close

        def __iter__(self):
            end = time.monotonic() + seconds
            for part in self._stream:
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"the answer is not whole after {seconds:g} s")
                yield part

    def begin(response: Any) -> None:
        if response.request.method == "POST":
            response.stream = Timed(response.stream)

    return library.DefaultHttpxClient(event_hooks={"response": [begin]})
