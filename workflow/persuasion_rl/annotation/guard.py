"""Controls access to the page: tokens, hosts, origins, sizes of forms, and the cookies that keep a token and a name.

On loopback the page answers requests that name this machine. Beyond it, it answers browsers that opened it with
`?token=` once. Forms of other sites and large forms are refused.
"""

import secrets
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from persuasion_rl.files import UserError
from persuasion_rl.text import readable

LARGEST_REQUEST = 64 * 1024
"""The most bytes of a form: a view has up to `arena.LONGEST_CLAIM` characters, of at most twelve bytes each."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
COOKIE_S = 180 * 24 * 3600
"""Seconds for which a browser keeps a cookie."""


class AccessMiddleware:
    """ASGI middleware that refuses unauthorised and too large requests, and sends HEADERS with every response.

    Args:
        token: the required token; None if the page answers on this machine only.
    """

    def __init__(self, app, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        app = self._refused(request) or self._too_large(request) or self.app

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *headers]}
            await send(message)

        await app(scope, receive, send_with_headers)

    def _refused(self, request: Request) -> Response | None:
        """The response instead of the page: a refusal, or the redirect after a valid token; None to let the request in."""
        if self.token is None:
            # Against DNS rebinding: a name of another site may resolve to this machine.
            if request.url.hostname not in LOOPBACK:
                return HTMLResponse("This page answers on this machine only.", 403)
        elif not secrets.compare_digest(self._token_of(request).encode(), self.token.encode()):
            return HTMLResponse("Open the address with its token, as the terminal printed it.", 403)
        elif "token" in request.query_params:
            welcome = RedirectResponse("/", 303)
            set_cookie(request, welcome, "token", self.token)
            return welcome
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and origin.partition("://")[2] != request.url.netloc:
            return HTMLResponse("Answers come from this page only.", 403)
        return None

    @staticmethod
    def _token_of(request: Request) -> str:
        return request.query_params.get("token") or cookie(request, "token")

    @staticmethod
    def _too_large(request: Request) -> Response | None:
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (
            whole_number(length) is None or int(length) > LARGEST_REQUEST
        ):
            return HTMLResponse(f"A form has {LARGEST_REQUEST:,} bytes at most.", 413)
        return None


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form as `text.readable`; those that are empty are left out.

    Raises:
        UserError: the form has more than LARGEST_REQUEST bytes, whatever its header says, or is not UTF-8 text.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_REQUEST:
            raise UserError(f"a form has {LARGEST_REQUEST:,} bytes at most")
    try:
        fields = parse_qs(body.decode(), errors="strict")
        return {name: readable(values[0]) for name, values in fields.items()}
    except UnicodeDecodeError:
        raise UserError("a form is UTF-8 text") from None


def whole_number(text: str) -> int | None:
    """A text as a whole number; None if it is none or too large for a database."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def cookie(request: Request, name: str) -> str:
    """The value of a cookie of this page; "" without it."""
    return request.cookies.get(_cookie_name(request, name), "")


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    """Set a cookie that is hidden from scripts and not sent with forms of other sites."""
    response.set_cookie(
        _cookie_name(request, name), value, httponly=True, samesite="lax", max_age=COOKIE_S
    )


def delete_cookie(request: Request, response: Response, name: str) -> None:
    """Make a browser forget a cookie of this page."""
    response.delete_cookie(_cookie_name(request, name))


def _cookie_name(request: Request, name: str) -> str:
    """A cookie's name with the port, since browsers keep cookies by host only."""
    return f"{name}_{request.url.port}" if request.url.port else name
