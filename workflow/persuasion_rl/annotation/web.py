"""The app and server of the local page on which people compare responses blindly, and of the arena."""

import errno
import secrets
import socket
import sqlite3
from contextlib import suppress
from ipaddress import ip_address

import psutil
from starlette.applications import Starlette
from starlette.middleware import Middleware

from persuasion_rl.annotation.guard import LOOPBACK, AccessMiddleware
from persuasion_rl.annotation.pages import (
    ArenaPages,
    LabellingPages,
    SignInPages,
    not_stored,
    refuse,
)
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.files import UserError

EVERYWHERE = ("0.0.0.0", "::", "")
NAVIGATION = {
    "/pair": "Label",
    "/arena": "Arena",
    "/results": "Results",
    "/instructions": "Instructions",
}
"""Address -> title, for the pages that the app has."""


def make_app(
    study: AnnotatedStudy, token: str | None = None, arena_only: bool = False
) -> Starlette:
    """The page of a study.

    Args:
        token: required of everybody who opens the page; None to answer on this machine only.
        arena_only: leave the labelling out.

    Raises:
        UserError: the study is not ready, or its store cannot be written.
    """
    labelling = None if arena_only else LabellingPages(study)
    arena = ArenaPages(study)
    app = Starlette(
        routes=[
            *SignInPages(labelling.first_page if labelling else lambda _: "/arena").routes(),
            *(labelling.routes() if labelling else ()),
            *arena.routes(),
        ],
        middleware=[Middleware(AccessMiddleware, token=token)],
        exception_handlers={UserError: refuse, sqlite3.OperationalError: not_stored},
    )
    app.state.names = arena.store.names
    addresses = {route.path for route in app.routes}
    app.state.navigation = {path: title for path, title in NAVIGATION.items() if path in addresses}
    return app


def serve(study: AnnotatedStudy, host: str, port: int, arena_only: bool = False) -> None:
    """Serve the page until it is interrupted. Beyond loopback it requires a token, which is new each time."""
    import uvicorn

    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    app = make_app(study, token, arena_only)
    listening = _listening(host, port)
    port = listening.getsockname()[1]
    title = "the arena" if arena_only else f"{len(study.pool)} pairs"
    print(f"{title}; answers go to {study.answers}; end with Ctrl-C", flush=True)
    for name in reachable_names(host):
        print(f"http://{name}:{port}/" + (f"?token={token}" if token else ""), flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    with suppress(KeyboardInterrupt), listening:
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on a port, or on any free one (0).

    Raises:
        UserError: the port is taken or not allowed, or the host is not this machine's.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: a port is a number from 0 (any free one) to 65535")
    dual_stack = host in ("", "::") and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual_stack or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=dual_stack)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: another program listens there; take another one, or 0 for any free one"
            ) from None
        if getattr(error, "errno", None) == errno.EACCES:
            raise UserError(f"--port {port}: is not for everybody; take one above 1023") from None
        raise UserError(
            f"--host {host}: not an address of this machine ({error}); take 127.0.0.1, or 0.0.0.0 for all of its addresses"
        ) from None


def reachable_names(host: str) -> list[str]:
    """The names under which a page that listens on `host` is reachable; those of this machine if it listens everywhere."""
    names = [host]
    if host in EVERYWHERE:
        addresses = [one.address.split("%")[0] for card in psutil.net_if_addrs().values()
               for one in card if one.family in (socket.AF_INET, socket.AF_INET6)]  # fmt: skip
        outside = [
            a for a in addresses if not (ip_address(a).is_loopback or ip_address(a).is_link_local)
        ]
        names = [socket.gethostname(), *(a for a in outside if host != "0.0.0.0" or ":" not in a)]
    return [f"[{name}]" if ":" in name else name for name in names]
