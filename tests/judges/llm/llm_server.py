"""A server on this machine that speaks OpenAI's and Anthropic's wire formats, and fails in every way it is told to.

By default it prefers the response with more words. It records the requests, and counts the complete answers.
"""

import email
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock
from typing import NamedTuple

from local_server import running_server

USAGE = {"input": 100, "output": 20}
"""Tokens of every answer, as the server counts them."""
MORE_WORDS_WIN = "more words win"


class ChatRequest(NamedTuple):
    """A request for an answer of the model. Requests with the same messages have the same `key`."""

    key: str
    data: dict
    body: dict
    headers: dict
    received_at: float


class LlmHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "LlmServer"

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:  # from a client that was killed
            self.close_connection = True
            return None
        if not self.server.has_batches and self.path.endswith(("/files", "/batches")):
            return self.reply({"error": {"message": "no such address"}}, 404)
        if self.path.endswith("/files"):
            return self.reply(
                {"id": self.server.save_file(self._uploaded(content)), "object": "file"}
            )
        body = json.loads(content)
        if self.path.endswith("/batches"):
            return self.reply(self.server.create_batch(body, openai=self._openai()))
        request = self.server.record(body, self.headers)
        action = self.server.behave(request, self.server.attempts(request.key))
        (action if callable(action) else says(action))(self, request)
        return None

    def do_GET(self):
        path = self.path.split("?")[0].rstrip("/")
        batch_ids = [part for part in path.split("/") if part.startswith("batch_")]
        if not self.server.has_batches or not self.server.batches.keys() >= set(batch_ids):
            return self.reply({"error": {"message": "no such address or batch"}}, 404)
        if path.endswith("/content"):
            return self.send_results(self.server.files[path.split("/")[-2]])
        if path.endswith("/results"):
            return self.send_results(self.server.results(path.split("/")[-2], openai=False))
        if path.endswith("/batches"):
            batches = [self.server.batch(id_, self._openai()) for id_ in self.server.batches]
            data = {"object": "list", "data": batches[::-1], "has_more": False}
            return self.reply(data | {"first_id": None, "last_id": None})
        return self.reply(self.server.batch(path.split("/")[-1], self._openai(), polled=True))

    def _openai(self) -> bool:
        return "/messages" not in self.path

    def _uploaded(self, content: bytes) -> str:
        """The file that a form uploads."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + content).get_payload()
        (file,) = [part for part in parts if part.get_filename()]
        return file.get_payload(decode=True).decode()

    def send_results(self, text: str) -> None:
        """Send the results of a batch; the first `results_cut` times only half of them."""
        if not self.server.results_cut:
            return self.send(200, text.encode())
        self.server.results_cut -= 1
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode()[: len(text) // 2])
        return None

    def reply(self, value: object, status: int = 200, **headers: str) -> None:
        self.send(status, json.dumps(value).encode(), **headers)

    def send(self, status: int, content: bytes, kind: str = "application/json", **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def message(server: "LlmServer", request: ChatRequest, text: str, refused: bool = False) -> dict:
    """The body of an answer, in the format of the provider that was asked."""
    if "system" in request.body:
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": request.body["model"],
            "content": [] if refused else [{"type": "text", "text": text}],
            "stop_reason": "refusal" if refused else "end_turn", "stop_sequence": None,
            "usage": {f"{name}_tokens": count for name, count in server.usage.items()},
        }  # fmt: skip
    answer = {"role": "assistant", "content": None if refused else text}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request.body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": answer | {"refusal": "I will not." if refused else None},
            }
        ],
        "usage": {
            "prompt_tokens": server.usage["input"],
            "completion_tokens": server.usage["output"],
            "total_tokens": sum(server.usage.values()),
        },
    }  # fmt: skip


def verdict_of(request: ChatRequest) -> str:
    first, second = (len(request.data[f"response_{i}"].split()) for i in (1, 2))
    return "tie" if first == second else "1" if first > second else "2"


def judgment(request: ChatRequest, verdict: str) -> str:
    if verdict == MORE_WORDS_WIN:
        verdict = verdict_of(request)
    return json.dumps({"reason": "It answers the poster's reason.", "verdict": verdict})


Action = Callable[[LlmHandler, ChatRequest], None]


def says(verdict: str = MORE_WORDS_WIN) -> Action:
    """Answer with a verdict."""

    def act(handler, request):
        handler.reply(message(handler.server, request, judgment(request, verdict)))
        handler.server.answer_counts[request.key] += 1

    return act


def junk(text: str) -> Action:
    """Answer with a text that is no verdict."""
    return lambda handler, request: handler.reply(message(handler.server, request, text))


def refuses(handler, request):
    handler.reply(message(handler.server, request, "", refused=True))
    handler.server.answer_counts[request.key] += 1


def status(code: int, kind: str = "api_error", text: str = "no", **headers: str) -> Action:
    """Answer with an error, in a form that both providers' clients read."""

    def act(handler, request):
        error = {"type": kind, "code": kind, "message": text, "param": None}
        handler.server.error_times.append(time.monotonic())
        handler.reply({"type": "error", "error": error}, code, **headers)

    return act


def body(content: str) -> Action:
    """Answer with any body, with status 200."""
    return lambda handler, request: handler.send(200, content.encode())


def no_header(text: str) -> Action:
    """Answer with a line of text in place of a header; clients quote it in their errors."""

    def act(handler, request):
        handler.wfile.write(f"HTTP/1.1 200 OK\r\n{text}\r\n\r\n".encode())
        handler.close_connection = True

    return act


def html(handler, request):
    handler.send(200, b"<html>a proxy's page</html>", kind="text/html")


def cut(length: bool = True) -> Action:
    """Send half of an answer, with or without a Content-Length of the whole."""

    def act(handler, request):
        content = json.dumps(
            message(handler.server, request, judgment(request, MORE_WORDS_WIN))
        ).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        if length:
            handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True

    return act


def drips(handler, request):
    """Send an answer byte by byte, so that none of the pauses is a time-out, until the client has had enough."""
    content = json.dumps(message(handler.server, request, judgment(request, MORE_WORDS_WIN)))
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    with suppress(OSError):
        for char in content:
            handler.wfile.write(char.encode())
            handler.server.closing.wait(0.1)
    handler.close_connection = True


def hangs(handler, request):
    handler.server.closing.wait(60)
    handler.close_connection = True


def drops(handler, request):
    handler.close_connection = True


class LlmServer(ThreadingHTTPServer):
    """`behave(request, attempt)` gives the action, or the verdict, for the `attempt`-th request with a key."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LlmHandler)
        self.behave: Callable[[ChatRequest, int], Action | str] = lambda request, attempt: says()
        self.usage = dict(USAGE)
        self.requests: list[ChatRequest] = []
        self.answer_counts: Counter[str] = Counter()
        self.error_times: list[float] = []
        self.closing = Event()
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict] = {}
        self.has_batches = True
        self.results_in_ascii = True
        self.polls_until_ended = 1
        self.batch_failure: str | None = None
        self.results_cut = 0
        self._lock = Lock()

    def handle_error(self, request, address):
        if not isinstance(sys.exception(), ConnectionError):  # of a client that was killed
            super().handle_error(request, address)

    def url(self, provider: str) -> str:
        address = f"http://127.0.0.1:{self.server_port}"
        return f"{address}/v1" if provider == "openai" else address

    def parse(self, body: dict, headers) -> ChatRequest:
        *above, last = body["messages"]
        system = body.get("system") or above[0]["content"]
        key = sha256(f"{system}\0{last['content']}".encode()).hexdigest()
        return ChatRequest(key, json.loads(last["content"]), body, dict(headers), time.monotonic())

    def record(self, body: dict, headers) -> ChatRequest:
        request = self.parse(body, headers)
        with self._lock:
            self.requests.append(request)
        return request

    def attempts(self, key: str) -> int:
        with self._lock:
            return sum(request.key == key for request in self.requests)

    def save_file(self, text: str) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = text
        return name

    def create_batch(self, body: dict, openai: bool) -> dict:
        rows = (
            [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
            if openai
            else body["requests"]
        )
        id_ = f"batch_{len(self.batches)}"
        self.batches[id_] = {
            "rows": [(row["custom_id"], row["body" if openai else "params"]) for row in rows],
            "metadata": body.get("metadata"),
            "polls": 0,
        }
        return self.batch(id_, openai)

    def batch(self, id_: str, openai: bool, polled: bool = False) -> dict:
        record = self.batches[id_]
        record["polls"] += polled
        ended = record["polls"] >= self.polls_until_ended
        if openai:
            if ended and "output" not in record:
                record["output"] = self.save_file(self.results(id_, openai=True))
            failure = self.batch_failure and {
                "object": "list",
                "data": [{"message": self.batch_failure}],
            }
            return {
                "id": id_, "object": "batch", "endpoint": "/v1/chat/completions", "errors": failure,
                "status": "failed" if failure else "completed" if ended else "in_progress",
                "completion_window": "24h",
                "created_at": int(time.time()), "input_file_id": "file-0", "output_file_id": record.get("output"),
                "error_file_id": None, "metadata": record["metadata"],
            }  # fmt: skip
        names = ("processing", "succeeded", "errored", "canceled", "expired")
        counts = dict.fromkeys(names, 0) | {"processing": len(record["rows"])}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "id": id_, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": now, "expires_at": now, "ended_at": None,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.url('anthropic')}/v1/messages/batches/{id_}/results",
        }  # fmt: skip

    def results(self, id_: str, openai: bool) -> str:
        """The results of a batch: an answer where `behave` gives a verdict, an error elsewhere."""
        lines = []
        for custom_id, body in self.batches[id_]["rows"]:
            request = self.record(body, {})
            verdict = self.behave(request, self.attempts(request.key))
            if isinstance(verdict, str):
                answer = message(self, request, judgment(request, verdict))
                self.answer_counts[request.key] += 1
                response = {"response": {"status_code": 200, "body": answer}, "error": None}
                result = {"type": "succeeded", "message": answer}
            else:
                error = {"type": "api_error", "message": "no"}
                response = {"response": {"status_code": 500, "body": error}, "error": None}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            row = {"id": "x", **response} if openai else {"result": result}
            row = {"custom_id": custom_id, **row}
            lines.append(json.dumps(row, ensure_ascii=self.results_in_ascii) + "\n")
        return "".join(lines[::-1])  # providers promise no order


def serving():
    """A context with a running LlmServer."""
    return running_server(LlmServer())
