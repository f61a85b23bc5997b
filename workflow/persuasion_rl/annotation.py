"""The local web page on which people compare responses blindly, and the arena.

Pages are made on the server (Starlette, Jinja) and hold no script but key presses, nothing from another host, and no name
of a model. Every answer is one POST and one committed transaction of `answers.AnswerStore`; the page that follows is
found from what is missing, so a reload, another tab or a killed server changes nothing.
"""

import secrets
import sqlite3
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from persuasion_rl.agreement import describe_answers
from persuasion_rl.annotated_study import AnnotatedStudy
from persuasion_rl.answers import (
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
    verdict_of,
)
from persuasion_rl.arena import LONGEST_CLAIM, Speakers, claim_turns
from persuasion_rl.battles import VOTES, BattleStore
from persuasion_rl.files import UserError
from persuasion_rl.judges import TIE
from persuasion_rl.prompts import turns_of

PAGES = Path(__file__).with_name("annotation_pages")
TEMPLATES = Environment(loader=FileSystemLoader(PAGES), autoescape=True)
LARGEST_REQUEST = 32 * 1024
"""Bytes of a form."""
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


def make_app(study: AnnotatedStudy, token: str | None = None) -> Starlette:
    """The page of a study. With a token it answers only those who have opened it with `?token=` once."""
    return Starlette(
        routes=[
            *Pages(study).routes(),
            *ArenaPages(study).routes(),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={UserError: _refused, sqlite3.OperationalError: _not_kept},
    )


def serve(study: AnnotatedStudy, host: str, port: int) -> None:
    """Serve the page until it is interrupted; beyond loopback only with a token, drawn anew each time."""
    import uvicorn

    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    app = make_app(study, token)
    shown = f"[{host}]" if ":" in host else host
    print(f"{len(study.pool)} pairs; answers go to {study.answers}; end with Ctrl-C", flush=True)
    print(f"http://{shown}:{port}/" + (f"?token={token}" if token else ""), flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


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
            _keep(welcome, "token", self.token)
            return welcome
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and urlsplit(origin).netloc != request.url.netloc:
            return HTMLResponse("Answers come from this page only.", 403)
        return None

    @staticmethod
    def _given(request: Request) -> str:
        return request.query_params.get("token") or request.cookies.get("token") or ""

    @staticmethod
    def _too_large(request: Request) -> Response | None:
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdigit() or int(length) > LARGEST_REQUEST):
            return HTMLResponse(f"A form has {LARGEST_REQUEST:,} bytes at most.", 413)
        return None


def _keep(response: Response, name: str, value: str) -> None:
    """A cookie that scripts and other sites do not see."""
    response.set_cookie(name, value, httponly=True, samesite="strict", max_age=180 * 24 * 3600)


def _page(template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """A page in which all text stays text."""
    return HTMLResponse(TEMPLATES.get_template(f"{template}.html.j2").render(**content), status)


def _refused(_: Request, error: Exception) -> Response:
    return _page("problem", 400, title="That was not taken", text=str(error))


def _not_kept(_: Request, error: Exception) -> Response:
    return _page(
        "problem",
        507,
        title="The answer was not kept",
        text=f"The store of answers could not be written ({error}), most likely because the disk is full or somebody"
        " else is writing. What was answered before is safe. Make room, go back, and answer once more.",
    )


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; those that are empty are left out."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_REQUEST:
            raise UserError(f"a form has {LARGEST_REQUEST:,} bytes at most")
    try:
        return {
            name: values[0] for name, values in parse_qs(body.decode(), errors="strict").items()
        }
    except UnicodeDecodeError:
        raise UserError("a form is UTF-8 text") from None


def _annotator(request: Request) -> str | None:
    """Who has signed in; a cookie that is no name counts for none."""
    name = unquote(request.cookies.get("annotator", ""))
    try:
        check_name(name)
    except UserError:
        return None
    return name


class Pages:
    """The pages of labelling: what is asked, what is answered."""

    def __init__(self, study: AnnotatedStudy):
        # A study that is not ready ends here, before a store is made.
        self.study, self.plan = study, study.plan
        self.store = AnswerStore(study.answers)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.start),
            Route("/name", self.sign_in, methods=["POST"]),
            Route("/leave", self.leave, methods=["POST"]),
            Route("/pair", self.pair),
            Route("/pair", self.answer, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/instructions", self.instructions),
            Route("/results", self.results),
            *(Route(f"/{name}", _static(name)) for name in ("page.css", "page.js")),
        ]

    def start(self, request: Request) -> Response:
        if _annotator(request):
            return RedirectResponse("/pair", 303)
        return _page("sign_in", longest_name=LONGEST_NAME)

    async def sign_in(self, request: Request) -> Response:
        name = " ".join((await _form(request)).get("name", "").split())
        check_name(name)
        response = RedirectResponse("/instructions" if self._is_new(name) else "/pair", 303)
        _keep(response, "annotator", quote(name))
        return response

    def _is_new(self, name: str) -> bool:
        return not self.store.seconds(name)

    def leave(self, request: Request) -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie("annotator")
        return response

    def pair(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        seconds = self.store.seconds(annotator)
        told = {"here": "/pair", "annotator": annotator, "done": len(seconds)}
        showing = self.store.next(annotator, self.plan)
        if showing is None:
            return _page("done", **told)
        left_to_do = showing.left_to_do
        practice = list(self.study.practice)
        pace = _median(seconds)
        return _page(
            "pair",
            **told,
            **self._shown(showing),
            pair=showing.pair,
            kind=showing.kind,
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

    def _shown(self, showing: Showing) -> dict[str, Any]:
        """The texts of a showing, by the side on which they stand."""
        row = self.study.practice.get(showing.pair) or self.study.pool[showing.pair]
        texts = [row["response_1"], row["response_2"]]
        left, right = texts if showing.left_response == 1 else texts[::-1]
        context = row["prompt"] if showing.kind == PRACTICE else self.study.context(row)
        return {"turns": turns_of(context), "left": left, "right": right}

    async def answer(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        form = await _form(request)
        pair, kind = form.get("pair", ""), form.get("kind", "")
        known = self.study.practice if kind == PRACTICE else self.study.pool
        if pair not in known:
            raise UserError(
                "this pair is not in the pool; it may have changed: load the page again"
            )
        confidence = form.get("confidence")
        said = Answer(
            annotator,
            pair,
            kind,
            self.plan.left(annotator, pair, kind),
            form.get("answer", ""),
            int(confidence) if confidence in ("1", "2", "3") else None,
            form.get("reason"),
            answered_at=round(time(), 3),
        )
        added = await run_in_threadpool(self.store.add, said)
        if kind == PRACTICE:
            return self._feedback(annotator, said)
        return RedirectResponse("/pair" if added else "/pair?again=1", 303)

    def _feedback(self, annotator: str, said: Answer) -> Response:
        row = self.study.practice[said.pair]
        shown = self._shown(Showing(said.pair, PRACTICE, said.left_response))
        expected = row["expected"]
        if expected in ("1", "2"):
            expected_text = "left" if int(expected) == said.left_response else "right"
        else:
            expected_text = expected.replace("_", " ")
        right = verdict_of(said) == expected if expected in ("1", "2") else said.answer == expected
        return _page(
            "feedback",
            here="/pair",
            annotator=annotator,
            right=right,
            expected=expected_text,
            feedback=row["feedback"],
            turns=shown["turns"],
            left_text=shown["left"],
            right_text=shown["right"],
        )

    def undo(self, request: Request) -> Response:
        if annotator := _annotator(request):
            self.store.undo(annotator)
        return RedirectResponse("/pair", 303)

    def instructions(self, request: Request) -> Response:
        return _page(
            "instructions",
            here="/instructions",
            annotator=_annotator(request),
            choices=CHOICES,
            meanings=MEANINGS,
            rubric=self.study.rubric,
        )

    def results(self, request: Request) -> Response:
        rows = list(self.study.pool.values())
        return _page(
            "results",
            here="/results",
            annotator=_annotator(request),
            found=describe_answers(rows, self.store.answers(), self.study.settings["seed"]),
            needed=min(self.study.settings["labels"]["human"]["min_labels"], len(rows)),
        )


class ArenaPages:
    """The arena: a claim, two replies, a vote, and then whose they were."""

    def __init__(self, study: AnnotatedStudy):
        self.study, self.store = study, BattleStore(study.answers)
        self.speakers = Speakers(study.folder, study.settings)

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
            "arena",
            here="/arena",
            annotator=voter,
            battle=battle,
            turns=turns_of(battle.context) if battle else [],
            claims=list(self.study.claims),
            longest_claim=LONGEST_CLAIM,
            choices=[choice for choice in CHOICES if choice[0] in VOTES],
            unavailable="Fewer than two models of this study are there yet: make them first."
            if missing
            else "",
        )

    async def begin(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await _form(request)
        picked = form.get("picked", "")
        if picked.isdigit() and int(picked) < len(self.study.claims):
            turns = list(self.study.claims.values())[int(picked)]
        else:
            turns = claim_turns(form.get("claim", ""))
        drawn = await run_in_threadpool(self.speakers.battle, turns)
        await run_in_threadpool(self.store.add, voter, *drawn)
        return RedirectResponse("/arena", 303)

    async def vote(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await _form(request)
        number = form.get("battle", "")
        if not number.isdigit():
            raise UserError("no such battle: load the page again")
        await run_in_threadpool(self.store.vote, voter, int(number), form.get("answer", ""))
        return RedirectResponse(f"/arena?voted={int(number)}", 303)


def _static(name: str):
    def send(_: Request) -> Response:
        return FileResponse(PAGES / name)

    return send


def _median(seconds: list[float]) -> int | None:
    from statistics import median

    known = [value for value in seconds if value is not None]
    return round(median(known)) or 1 if known else None
