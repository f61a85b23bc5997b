"""A server on this machine that speaks OpenAI's and Anthropic's wire formats, and fails in every way it is told to.

By default it prefers the response with more words. It counts what it was asked and what it answered in full.
"""

import email
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import NamedTuple

COUNTED = {"input": 100, "output": 20}
"""Tokens of every answer, as the server counts them."""
MORE_WORDS_WIN = "more words win"


class Asked(NamedTuple):
    """A request for a judgment. `key` is the same for the same words."""

    key: str
    data: dict
    body: dict
    headers: dict
    at: float


class Answering(BaseHTTPRequestHandler):
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
            return self.reply({"id": self.server.keep(self._uploaded(content)), "object": "file"})
        body = json.loads(content)
        if self.path.endswith("/batches"):
            return self.reply(self.server.create_batch(body, openai=self._openai()))
        asked = self.server.note(body, self.headers)
        what = self.server.behave(asked, self.server.times_asked(asked.key))
        (what if callable(what) else says(what))(self, asked)
        return None

    def do_GET(self):
        path = self.path.split("?")[0].rstrip("/")
        named = [part for part in path.split("/") if part.startswith("batch_")]
        if not self.server.has_batches or not self.server.batches.keys() >= set(named):
            return self.reply({"error": {"message": "no such address or batch"}}, 404)
        if path.endswith("/content"):
            return self.send_results(self.server.files[path.split("/")[-2]])
        if path.endswith("/results"):
            return self.send_results(self.server.results(path.split("/")[-2], openai=False))
        if path.endswith("/batches"):
            listed = [self.server.batch(id_, self._openai()) for id_ in self.server.batches]
            data = {"object": "list", "data": listed[::-1], "has_more": False}
            return self.reply(data | {"first_id": None, "last_id": None})
        return self.reply(self.server.batch(path.split("/")[-1], self._openai(), polled=True))

    def _openai(self) -> bool:
        return "/messages" not in self.path

    def _uploaded(self, content: bytes) -> str:
        """The file of a form."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + content).get_payload()
        (file,) = [part for part in parts if part.get_filename()]
        return file.get_payload(decode=True).decode()

    def send_results(self, text: str) -> None:
        """All of it, or the half, as often as the server is told to."""
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


def message(server: "LlmServer", asked: Asked, text: str, refused: bool = False) -> dict:
    """The body of an answer in the words of the provider that was asked."""
    if "system" in asked.body:
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked.body["model"],
            "content": [] if refused else [{"type": "text", "text": text}],
            "stop_reason": "refusal" if refused else "end_turn", "stop_sequence": None,
            "usage": {f"{name}_tokens": count for name, count in server.counted.items()},
        }  # fmt: skip
    said = {"role": "assistant", "content": None if refused else text}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": said | {"refusal": "I will not." if refused else None},
            }
        ],
        "usage": {
            "prompt_tokens": server.counted["input"],
            "completion_tokens": server.counted["output"],
            "total_tokens": sum(server.counted.values()),
        },
    }  # fmt: skip


def verdict_of(asked: Asked) -> str:
    first, second = (len(asked.data[f"response_{i}"].split()) for i in (1, 2))
    return "tie" if first == second else "1" if first > second else "2"


def judgment(asked: Asked, verdict: str) -> str:
    said = verdict_of(asked) if verdict == MORE_WORDS_WIN else verdict
    return json.dumps({"reason": "It answers the poster's reason.", "verdict": said})


Action = Callable[[Answering, Asked], None]


def says(verdict: str = MORE_WORDS_WIN) -> Action:
    """A whole answer with a verdict."""

    def act(handler, asked):
        handler.reply(message(handler.server, asked, judgment(asked, verdict)))
        handler.server.answered[asked.key] += 1

    return act


def junk(text: str) -> Action:
    """A whole answer that is no verdict."""
    return lambda handler, asked: handler.reply(message(handler.server, asked, text))


def refuses(handler, asked):
    handler.reply(message(handler.server, asked, "", refused=True))
    handler.server.answered[asked.key] += 1


def status(code: int, kind: str = "api_error", text: str = "no", **headers: str) -> Action:
    """An error in both providers' form."""

    def act(handler, asked):
        error = {"type": kind, "code": kind, "message": text, "param": None}
        handler.server.refused_at.append(time.monotonic())
        handler.reply({"type": "error", "error": error}, code, **headers)

    return act


def body(content: str) -> Action:
    """Any body, with status 200."""
    return lambda handler, asked: handler.send(200, content.encode())


def no_header(text: str) -> Action:
    """A line where a header should be, which clients quote."""

    def act(handler, asked):
        handler.wfile.write(f"HTTP/1.1 200 OK\r\n{text}\r\n\r\n".encode())
        handler.close_connection = True

    return act


def html(handler, asked):
    handler.send(200, b"<html>a proxy's page</html>", kind="text/html")


def cut(length: bool = True) -> Action:
    """Half of an answer; with its length told beforehand, or not."""

    def act(handler, asked):
        content = json.dumps(
            message(handler.server, asked, judgment(asked, MORE_WORDS_WIN))
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


def hangs(handler, asked):
    handler.server.closing.wait(60)
    handler.close_connection = True


def drops(handler, asked):
    handler.close_connection = True


class LlmServer(ThreadingHTTPServer):
    """`behave(asked, times)` says what to do with a request that comes for the `times`-th time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.behave: Callable[[Asked, int], Action | str] = lambda asked, times: says()
        self.counted = dict(COUNTED)
        self.requests: list[Asked] = []
        self.answered: Counter[str] = Counter()
        self.refused_at: list[float] = []
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

    def read(self, body: dict, headers) -> Asked:
        *above, last = body["messages"]
        system = body.get("system") or above[0]["content"]
        key = sha256(f"{system}\0{last['content']}".encode()).hexdigest()
        return Asked(key, json.loads(last["content"]), body, dict(headers), time.monotonic())

    def note(self, body: dict, headers) -> Asked:
        asked = self.read(body, headers)
        with self._lock:
            self.requests.append(asked)
        return asked

    def times_asked(self, key: str) -> int:
        with self._lock:
            return sum(asked.key == key for asked in self.requests)

    def keep(self, text: str) -> str:
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
        kept = self.batches[id_]
        kept["polls"] += polled
        ended = kept["polls"] >= self.polls_until_ended
        if openai:
            if ended and "output" not in kept:
                kept["output"] = self.keep(self.results(id_, openai=True))
            failure = self.batch_failure and {
                "object": "list",
                "data": [{"message": self.batch_failure}],
            }
            return {
                "id": id_, "object": "batch", "endpoint": "/v1/chat/completions", "errors": failure,
                "status": "failed" if failure else "completed" if ended else "in_progress",
                "completion_window": "24h",
                "created_at": int(time.time()), "input_file_id": "file-0", "output_file_id": kept.get("output"),
                "error_file_id": None, "metadata": kept["metadata"],
            }  # fmt: skip
        names = ("processing", "succeeded", "errored", "canceled", "expired")
        counts = dict.fromkeys(names, 0) | {"processing": len(kept["rows"])}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "id": id_, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": now, "expires_at": now, "ended_at": None,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.url('anthropic')}/v1/messages/batches/{id_}/results",
        }  # fmt: skip

    def results(self, id_: str, openai: bool) -> str:
        """The answers of a batch; a request that `behave` has no verdict for has an error."""
        lines = []
        for custom_id, body in self.batches[id_]["rows"]:
            asked = self.note(body, {})
            verdict = self.behave(asked, self.times_asked(asked.key))
            if isinstance(verdict, str):
                said = message(self, asked, judgment(asked, verdict))
                self.answered[asked.key] += 1
                good = {"response": {"status_code": 200, "body": said}, "error": None}
                result = {"type": "succeeded", "message": said}
            else:
                error = {"type": "api_error", "message": "no"}
                good = {"response": {"status_code": 500, "body": error}, "error": None}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            row = {"id": "x", **good} if openai else {"result": result}
            row = {"custom_id": custom_id, **row}
            lines.append(json.dumps(row, ensure_ascii=self.results_in_ascii) + "\n")
        return "".join(lines[::-1])  # in any order


@contextmanager
def serving():
    server = LlmServer()
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
