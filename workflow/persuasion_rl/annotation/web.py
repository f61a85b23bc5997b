"""The local web page on which people compare responses blindly, and the arena.

Pages are made on the server (Starlette, Jinja) and hold no script but key presses, nothing from another host, and no name
of a model. Every answer is one POST and one committed transaction of `answers.AnswerStore`; the page that follows is
found from what is missing, so a reload, another tab or a killed server changes nothing.
"""

import asyncio
import secrets
import socket
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from time import time
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import psutil
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from persuasion_rl.annotation.agreement import describe_answers
from persuasion_rl.annotation.arena import LONGEST_CLAIM, Speakers, claim_turns
from persuasion_rl.annotation.battles import LEAVE, VOTES, BattleStore
from persuasion_rl.annotation.store import (
    BOTH_BAD,
    FLAG,
    LEFT,
    LONGEST_NAME,
    LONGEST_REASON,
    PRACTICE,
    RIGHT,
    SKIP,
    Answer,
    AnswerStore,
    Showing,
    check_name,
    tally,
    verdict_of,
)
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.data.prompts import turns_of
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import TIE

PAGES = Path(__file__).with_name("templates")
TEMPLATES = Environment(loader=FileSystemLoader(PAGES), autoescape=True)
LARGEST_REQUEST = 64 * 1024
"""Bytes of a form; a character has twelve at most, and a view `LONGEST_CLAIM` of them."""
MOST_WAITING = 4
"""People who wait for the arena's models at once."""
CHOICES = (
    (LEFT, "1", "Left"),
    (RIGHT, "2", "Right"),
    (TIE, "0", "Equal"),
    (BOTH_BAD, "b", "Both bad"),
    (SKIP, "s", "Skip"),
    (FLAG, "f", "Flag"),
)
"""Answer, key, and what its button says."""
MEANINGS = {
    LEFT: "The left reply is better.",
    RIGHT: "The right reply is better.",
    TIE: "Both can be judged, and neither is better.",
    BOTH_BAD: "Neither argues at all: both are empty, unreadable, or beside the matter.",
    SKIP: "You cannot or do not want to judge this pair. Somebody else gets it.",
    FLAG: "The text is unsafe: hateful, sexual about minors, private data of a person, instructions to harm. Nobody sees it again.",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("0.0.0.0", "::", "")
NAVIGATION = {
    "/pair": "Label",
    "/arena": "Arena",
    "/results": "Results",
    "/instructions": "Instructions",
}
OUT_OF_DATE = "this page is out of date and nothing was kept: load the page again"


def make_app(
    study: AnnotatedStudy, token: str | None = None, arena_only: bool = False
) -> Starlette:
    """The page of a study. With a token it answers only those who have opened it with `?token=` once."""
    labelling = None if arena_only else Pages(study)
    app = Starlette(
        routes=[
            *Entrance(labelling.first_page if labelling else lambda _: "/arena").routes(),
            *(labelling.routes() if labelling else ()),
            *ArenaPages(study).routes(),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={UserError: _refused, sqlite3.OperationalError: _not_stored},
    )
    there = {route.path for route in app.routes}
    app.state.navigation = {path: title for path, title in NAVIGATION.items() if path in there}
    return app


def serve(study: AnnotatedStudy, host: str, port: int, arena_only: bool = False) -> None:
    """Serve the page until it is interrupted; beyond loopback only with a token, drawn anew each time."""
    import uvicorn

    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    app = make_app(study, token, arena_only)
    what = "the arena" if arena_only else f"{len(study.pool)} pairs"
    print(f"{what}; answers go to {study.answers}; end with Ctrl-C", flush=True)
    for name in names_of(host):
        print(f"http://{name}:{port}/" + (f"?token={token}" if token else ""), flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def names_of(host: str) -> list[str]:
    """The names in addresses that reach a page which listens on `host`: where it listens everywhere, this machine's."""
    found = [host]
    if host in EVERYWHERE:
        known = [one.address.split("%")[0] for own in psutil.net_if_addrs().values()
                 for one in own if one.family in (socket.AF_INET, socket.AF_INET6)]  # fmt: skip
        outside = [a for a in known if not (ip_address(a).is_loopback or ip_address(a).is_link_local)]  # fmt: skip
        found = [socket.gethostname(), *(a for a in outside if host != "0.0.0.0" or ":" not in a)]
    return [f"[{name}]" if ":" in name else name for name in found]


class Guard:
    """Lets nobody in who should not be, and nothing that is too large (ASGI middleware)."""

    def __init__(self, app, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        answer = self._answer(request) or self._too_large(request) or self.app

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *more]}
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """What is said instead of the page, if anything is."""
        if self.token is None:
            # A page of another site that makes this host's name point here would otherwise read along.
            if request.url.hostname not in LOOPBACK:
                return HTMLResponse("This page answers on this machine only.", 403)
        elif not secrets.compare_digest(self._given(request).encode(), self.token.encode()):
            return HTMLResponse("Open the address with its token, as the terminal printed it.", 403)
        elif "token" in request.query_params:
            welcome = RedirectResponse("/", 303)
            _keep(request, welcome, "token", self.token)
            return welcome
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and urlsplit(origin).netloc != request.url.netloc:
            return HTMLResponse("Answers come from this page only.", 403)
        return None

    @staticmethod
    def _given(request: Request) -> str:
        return request.query_params.get("token") or _kept(request, "token")

    @staticmethod
    def _too_large(request: Request) -> Response | None:
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (_number(length) is None or int(length) > LARGEST_REQUEST):
            return HTMLResponse(f"A form has {LARGEST_REQUEST:,} bytes at most.", 413)
        return None


def _cookie(request: Request, name: str) -> str:
    """Browsers keep cookies by host: the port is told apart by the name."""
    return f"{name}_{request.url.port}" if request.url.port else name


def _kept(request: Request, name: str) -> str:
    return request.cookies.get(_cookie(request, name), "")


def _keep(request: Request, response: Response, name: str, value: str) -> None:
    """A cookie that scripts do not see, and that other sites' forms do not send."""
    response.set_cookie(
        _cookie(request, name), value, httponly=True, samesite="lax", max_age=180 * 24 * 3600
    )


def _number(text: str) -> int | None:
    """A whole number that a database can hold."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _page(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """A page in which all text stays text."""
    told = {
        "navigation": request.app.state.navigation,
        "here": request.url.path,
        "annotator": _annotator(request),
    }
    return HTMLResponse(
        TEMPLATES.get_template(f"{template}.html.j2").render(told | content), status
    )


def _refused(request: Request, error: Exception) -> Response:
    return _page(request, "problem", 400, title="That was not taken", text=str(error))


def _not_stored(request: Request, error: Exception) -> Response:
    why = f"({error}), most likely because the disk is full or somebody else is writing."
    if request.method == "POST":
        title = "The answer was not kept"
        text = f"The store of answers could not be written {why} What was answered before is safe. Make room, go back, and answer once more."
    else:
        title = "The page could not be made"
        text = f"The store of answers could not be used {why} What was answered is safe. Load the page again."
    return _page(request, "problem", 507, title=title, text=text)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, with line ends as texts have them; those that are empty are left out."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_REQUEST:
            raise UserError(f"a form has {LARGEST_REQUEST:,} bytes at most")
    try:
        fields = parse_qs(body.decode(), errors="strict")
        return {name: values[0].replace("\r\n", "\n") for name, values in fields.items()}
    except UnicodeDecodeError:
        raise UserError("a form is UTF-8 text") from None


def _annotator(request: Request) -> str | None:
    """Who has signed in; a cookie that is no name counts for none."""
    name = unquote(_kept(request, "annotator"))
    try:
        check_name(name)
    except UserError:
        return None
    return name


class Entrance:
    """Who comes in, by name. `first_page` tells where somebody goes."""

    def __init__(self, first_page: Callable[[str], str]):
        self.first_page = first_page

    def routes(self) -> list[Route]:
        return [
            Route("/", self.start),
            Route("/name", self.sign_in, methods=["POST"]),
            Route("/leave", self.leave, methods=["POST"]),
            *(Route(f"/{name}", _static(name)) for name in ("page.css", "page.js")),
        ]

    def start(self, request: Request) -> Response:
        if annotator := _annotator(request):
            return RedirectResponse(self.first_page(annotator), 303)
        return _page(request, "sign_in", longest_name=LONGEST_NAME)

    async def sign_in(self, request: Request) -> Response:
        name = " ".join((await _form(request)).get("name", "").split())
        check_name(name)
        page = await run_in_threadpool(self.first_page, name)
        response = RedirectResponse(page, 303)
        _keep(request, response, "annotator", quote(name))
        return response

    def leave(self, request: Request) -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie(_cookie(request, "annotator"))
        return response


class Pages:
    """The pages of labelling: what is asked, what is answered."""

    def __init__(self, study: AnnotatedStudy):
        # A study that is not ready ends here, before a store is made.
        self._study, _ = study, study.plan
        self.store = AnswerStore(study.answers)

    @property
    def study(self) -> AnnotatedStudy:
        """The study as it is now."""
        self._study = self._study.current()
        return self._study

    def routes(self) -> list[Route]:
        return [
            Route("/pair", self.pair),
            Route("/pair", self.answer, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/instructions", self.instructions),
            Route("/results", self.results),
        ]

    def first_page(self, annotator: str) -> str:
        return "/pair" if self.store.given(annotator, self.study.plan) else "/instructions"

    def pair(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        study = self.study
        given = self.store.given(annotator, study.plan)
        told = {"done": len(given), "undoable": given[-1][0] if given else None}
        showing = self.store.next(annotator, study.plan)
        if showing is None:
            return _page(request, "done", **told)
        left_to_do = showing.left_to_do
        practice = list(study.practice)
        pace = _median([seconds for _, seconds in given])
        return _page(
            request,
            "pair",
            **told,
            **_shown(study, showing),
            showing=showing.number,
            practice=f"{practice.index(showing.pair) + 1} of {len(practice)}"
            if showing.kind == PRACTICE
            else "",
            choices=CHOICES,
            longest_reason=LONGEST_REASON,
            left_to_do=left_to_do,
            pace=pace,
            minutes=round(pace * left_to_do / 60) if pace else None,
            notice=request.query_params.get("again")
            and "That pair had your answer already; the first one stands.",
        )

    async def answer(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        form = await _form(request)
        return await run_in_threadpool(self._answer, request, annotator, form)

    def _answer(self, request: Request, annotator: str, form: dict[str, str]) -> Response:
        study = self.study
        showing = self._named(annotator, form.get("showing", ""))
        if showing is None:
            raise UserError(OUT_OF_DATE)
        known = study.practice if showing.kind == PRACTICE else study.pool
        if showing.pair not in known:
            raise UserError("this pair is not in the pool any more: load the page again")
        confidence = form.get("confidence")
        said = Answer(
            annotator,
            showing.pair,
            showing.kind,
            showing.left_response,
            form.get("answer", ""),
            int(confidence) if confidence in ("1", "2", "3") else None,
            form.get("reason"),
            answered_at=round(time(), 3),
        )
        added = self.store.add(said)
        if showing.kind == PRACTICE:
            return _feedback(request, study, showing, said)
        return RedirectResponse("/pair" if added else "/pair?again=1", 303)

    def _named(self, annotator: str, written: str) -> Showing | None:
        """The showing that a form names; None where there is none.

        Raises:
            UserError: it was somebody else's.
        """
        number = _number(written)
        showing = None if number is None else self.store.showing(number)
        if showing and showing.annotator != annotator:
            raise UserError(
                f"this page was shown to somebody else, before {annotator} signed in, and nothing was kept: load the"
                " page again, or change the name back first"
            )
        return showing

    async def undo(self, request: Request) -> Response:
        annotator = _annotator(request)
        form = await _form(request)
        if annotator:
            await run_in_threadpool(self._undo, annotator, form)
        return RedirectResponse("/pair", 303)

    def _undo(self, annotator: str, form: dict[str, str]) -> None:
        showing = self._named(annotator, form.get("answered", ""))
        if showing and showing.pair in self.study.pool:
            self.store.undo(showing)

    def instructions(self, request: Request) -> Response:
        return _page(
            request,
            "instructions",
            choices=CHOICES,
            meanings=MEANINGS,
            rubric=self.study.rubric,
        )

    def results(self, request: Request) -> Response:
        study, answers = self.study, self.store.answers()
        counted = tally(study.pool, answers)
        return _page(
            request,
            "results",
            found=describe_answers(list(study.pool.values()), answers, study.settings["seed"]),
            counted=counted,
            needed=counted.needed(study.settings["labels"]["human"]["min_labels"]),
        )


def _shown(study: AnnotatedStudy, showing: Showing) -> dict[str, Any]:
    """The texts of a showing, by the side on which they stand."""
    row = (study.practice if showing.kind == PRACTICE else study.pool)[showing.pair]
    texts = [row["response_1"], row["response_2"]]
    left, right = texts if showing.left_response == 1 else texts[::-1]
    context = row["prompt"] if showing.kind == PRACTICE else study.context(row)
    return {"turns": turns_of(context), "left": left, "right": right}


def _feedback(
    request: Request, study: AnnotatedStudy, showing: Showing, said: Answer
) -> HTMLResponse:
    """What we would have said of a practice pair."""
    row = study.practice[said.pair]
    expected = row["expected"]
    if expected in ("1", "2"):
        right = verdict_of(said) == expected
        expected = "left" if int(expected) == said.left_response else "right"
    else:
        right = said.answer == expected
    return _page(
        request,
        "feedback",
        **_shown(study, showing),
        right_answer=right,
        expected=expected.replace("_", " "),
        feedback=row["feedback"],
    )


class ArenaPages:
    """The arena: a claim, two replies, a vote, and then whose they were."""

    def __init__(self, study: AnnotatedStudy):
        self.study, self.store = study, BattleStore(study.answers)
        self.speakers = Speakers(study.folder, study.settings)
        # A thread of their own, so that nobody who labels waits for models that write.
        self._thread, self._waiting = ThreadPoolExecutor(1), 0

    def routes(self) -> list[Route]:
        return [
            Route("/arena", self.show),
            Route("/arena", self.begin, methods=["POST"]),
            Route("/arena/vote", self.vote, methods=["POST"]),
        ]

    def show(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        battle = self.store.latest(voter)
        asked_for = request.query_params.get("voted")
        if battle and battle.answer and str(battle.number) != asked_for:
            battle = None
        missing = len(self.speakers.names) < 2
        return _page(
            request,
            "arena",
            battle=battle,
            turns=turns_of(battle.context) if battle else [],
            claims=list(self.study.claims),
            longest_claim=LONGEST_CLAIM,
            votes=[choice for choice in CHOICES if choice[0] in VOTES],
            others=[(LEAVE, "s", "Leave it"), (FLAG, "f", "Flag")],
            unavailable="Fewer than two models of this study are there yet: make them first."
            if missing
            else "",
        )

    async def begin(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await _form(request)
        if self._waiting >= MOST_WAITING:
            raise UserError("others wait for the models already: try again in a minute")
        self._waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._begin, voter, form)
        finally:
            self._waiting -= 1
        return RedirectResponse("/arena", 303)

    def _begin(self, voter: str, form: dict[str, str]) -> None:
        """Keep a battle on what a form picks or says."""
        claims, picked = list(self.study.claims.values()), _number(form.get("picked", ""))
        if picked is not None and picked < len(claims):
            turns = claims[picked]
        else:
            turns = claim_turns(form.get("claim", ""))
        try:
            self.store.add(voter, *self.speakers.battle(turns))
        except OSError as error:
            raise UserError(f"the models cannot be read ({error}): make them anew") from error

    async def vote(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await _form(request)
        number, answer = _number(form.get("battle", "")), form.get("answer", "")
        if number is None:
            raise UserError("no such battle: load the page again")
        await run_in_threadpool(self.store.vote, voter, number, answer)
        return RedirectResponse(f"/arena?voted={number}" if answer in VOTES else "/arena", 303)


def _static(name: str):
    def send(_: Request) -> Response:
        return FileResponse(PAGES / name)

    return send


def _median(seconds: list[float | None]) -> int | None:
    known = [value for value in seconds if value is not None]
    return round(median(known)) or 1 if known else None
