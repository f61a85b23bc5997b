"""A server on this machine that speaks OpenAI's completions and chat completions, with answers that a test writes."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class CompletionServer(ThreadingHTTPServer):
    """Answers with `answer(body, times)`, where a request with the JSON `body` comes for the `times`-th time.

    An answer is JSON (status 200), or a pair of status and body. A body that is text is sent as it is, and without its
    length. `bodies` and `keys` are those of the requests.
    """

    daemon_threads = True

    def __init__(self, answer: Callable):
        self.answer, self.bodies, self.keys = answer, [], []
        super().__init__(("127.0.0.1", 0), _Answering)
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Answering(BaseHTTPRequestHandler):
    server: CompletionServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["Authorization"].removeprefix("Bearer "))
        answer = self.server.answer(body, self.server.bodies.count(body))
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if not isinstance(answer, str):
            answer = json.dumps(answer)
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


def completion(
    text: str | None, reason: str | None = "stop", tokens: int | None = 5, **message
) -> dict:
    """A completion and a chat completion at once."""
    choice = {"text": text, "message": {"content": text, **message}, "finish_reason": reason}
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return {"choices": [choice], **usage}


def error(status: int, message: str = "no", code: str | None = None) -> tuple[int, dict]:
    return status, {"error": {"message": message, "code": code}}


def asked_for(body: dict) -> str:
    """The prompt of a request, or the last message's text."""
    return body.get("prompt") or body["messages"][-1]["content"]
