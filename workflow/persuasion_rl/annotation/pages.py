"""The pages for signing in, labelling and the arena.

They are rendered on the server (Starlette, Jinja). They have no script except for key presses, nothing from another host,
and no name of a model. Every answer is one POST and one committed transaction of `store.AnswerStore`. The store decides
the page that follows, so that a reload, another tab or a killed server changes nothing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import time
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from persuasion_rl.annotation.agreement import describe_answers
from persuasion_rl.annotation.arena import LONGEST_CLAIM, LoadedModels, claim_turns
from persuasion_rl.annotation.battles import LEAVE, VOTES, BattleStore
from persuasion_rl.annotation.guard import (
    cookie,
    delete_cookie,
    read_form,
    set_cookie,
    whole_number,
)
from persuasion_rl.annotation.plan import (
    BOTH_BAD,
    FLAG,
    LEFT,
    LONGEST_NAME,
    LONGEST_REASON,
    PRACTICE,
    RIGHT,
    SKIP,
    Answer,
    Showing,
    check_name,
    known_as,
    tally,
    verdict_of,
)
from persuasion_rl.annotation.store import AnswerStore
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.data.contexts import turns_of
from persuasion_rl.files import UserError
from persuasion_rl.judges.base import TIE

TEMPLATES_FOLDER = Path(__file__).with_name("templates")
TEMPLATES = Environment(loader=FileSystemLoader(TEMPLATES_FOLDER), autoescape=True)
MOST_WAITING = 4
"""The most people who wait for the arena's models at once."""
CHOICES = (
    (LEFT, "1", "Left"),
    (RIGHT, "2", "Right"),
    (TIE, "0", "Equal"),
    (BOTH_BAD, "b", "Both bad"),
    (SKIP, "s", "Skip"),
    (FLAG, "f", "Flag"),
)
"""Answer, key, and text of the button."""
MEANINGS = {
    LEFT: "The left reply is better.",
    RIGHT: "The right reply is better.",
    TIE: "Both can be judged, and neither is better.",
    BOTH_BAD: "Neither argues at all: both are empty, unreadable, or beside the matter.",
    SKIP: "You cannot or do not want to judge this pair. Somebody else gets it.",
    FLAG: "The text is unsafe: hateful, sexual about minors, private data of a person, instructions to harm. Nobody sees it again.",
}
OUT_OF_DATE = "this page is out of date and nothing was kept: load the page again"


def render_page(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """A page from a template; all content is escaped."""
    common = {
        "navigation": request.app.state.navigation,
        "here": request.url.path,
        "annotator": _annotator(request),
    }
    return HTMLResponse(
        TEMPLATES.get_template(f"{template}.html.j2").render(common | content), status
    )


def refuse(request: Request, error: Exception) -> Response:
    """The page for a UserError."""
    return render_page(request, "problem", 400, title="That was not taken", text=str(error))


def not_stored(request: Request, error: Exception) -> Response:
    """The page for an error of SQLite while the store is written or read."""
    why = f"({error}), most likely because the disk is full or somebody else is writing."
    title, text = "The page could not be made", f"The store of answers could not be used {why}"
    text += " What was answered is safe. Load the page again."
    if request.method == "POST":
        title, text = "The answer was not kept", f"The store of answers could not be written {why}"
        text += " What was answered before is safe. Make room, go back, and answer once more."
    return render_page(request, "problem", 507, title=title, text=text)


def _annotator(request: Request) -> str | None:
    """The signed-in annotator, as the store knows the name; None without a cookie with a valid name."""
    name = known_as(unquote(cookie(request, "annotator")), request.app.state.names())
    try:
        check_name(name)
    except UserError:
        return None
    return name


class SignInPages:
    """Signing in by name, and the files that all pages share.

    Args:
        first_page: annotator -> the address of the page after signing in.
    """

    def __init__(self, first_page: Callable[[str], str]):
        self.first_page = first_page

    def routes(self) -> list[Route]:
        return [
            Route("/", self.start),
            Route("/name", self.sign_in, methods=["POST"]),
            Route("/leave", self.leave, methods=["POST"]),
            Route("/page.css", lambda _: FileResponse(TEMPLATES_FOLDER / "page.css")),
            Route("/page.js", lambda _: FileResponse(TEMPLATES_FOLDER / "page.js")),
        ]

    def start(self, request: Request) -> Response:
        if annotator := _annotator(request):
            return RedirectResponse(self.first_page(annotator), 303)
        return render_page(request, "sign_in", longest_name=LONGEST_NAME)

    async def sign_in(self, request: Request) -> Response:
        form = await read_form(request)
        name = known_as(form.get("name", ""), request.app.state.names())
        check_name(name)
        page = await run_in_threadpool(self.first_page, name)
        response = RedirectResponse(page, 303)
        set_cookie(request, response, "annotator", quote(name))
        return response

    def leave(self, request: Request) -> Response:
        response = RedirectResponse("/", 303)
        delete_cookie(request, response, "annotator")
        return response


class LabellingPages:
    """The pages for labelling: pairs, answers, instructions, results."""

    def __init__(self, study: AnnotatedStudy):
        # A study that is not ready fails here, before a store is created.
        self._study, _ = study, study.plan
        self.store = AnswerStore(study.answers)

    @property
    def study(self) -> AnnotatedStudy:
        """The current state of the study."""
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
        return "/pair" if self.store.own_answers(annotator, self.study.plan) else "/instructions"

    def pair(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        study = self.study
        answers = self.store.own_answers(annotator, study.plan)
        progress = {"done": len(answers), "undoable": answers[-1][0] if answers else None}
        showing = self.store.next(annotator, study.plan)
        if showing is None:
            return render_page(request, "done", **progress)
        practice = list(study.practice)
        pace = _median([seconds for _, seconds in answers])
        return render_page(
            request,
            "pair",
            **progress,
            **_texts(study, showing),
            showing=showing.number,
            practice=f"{practice.index(showing.pair) + 1} of {len(practice)}"
            if showing.kind == PRACTICE
            else "",
            choices=CHOICES,
            longest_reason=LONGEST_REASON,
            left_to_do=showing.left_to_do,
            pace=pace,
            minutes=round(pace * showing.left_to_do / 60) if pace else None,
            notice=request.query_params.get("again")
            and "That pair had your answer already; the first one stands.",
        )

    async def answer(self, request: Request) -> Response:
        annotator = _annotator(request)
        if not annotator:
            return RedirectResponse("/", 303)
        form = await read_form(request)
        return await run_in_threadpool(self._answer, request, annotator, form)

    def _answer(self, request: Request, annotator: str, form: dict[str, str]) -> Response:
        study = self.study
        showing = self._showing(annotator, form.get("showing", ""))
        if showing is None:
            raise UserError(OUT_OF_DATE)
        pairs = study.practice if showing.kind == PRACTICE else study.pool
        if showing.pair not in pairs:
            raise UserError("this pair is not in the pool any more: load the page again")
        confidence = form.get("confidence")
        answer = Answer(
            annotator,
            showing.pair,
            showing.kind,
            showing.left_response,
            form.get("answer", ""),
            int(confidence) if confidence in ("1", "2", "3") else None,
            form.get("reason"),
            answered_at=round(time(), 3),
        )
        added = self.store.add(answer)
        if showing.kind == PRACTICE:
            return _feedback(request, study, showing, answer)
        return RedirectResponse("/pair" if added else "/pair?again=1", 303)

    def _showing(self, annotator: str, number_text: str) -> Showing | None:
        """The showing that a form names; None if it does not exist.

        Raises:
            UserError: it belongs to another annotator.
        """
        number = whole_number(number_text)
        showing = None if number is None else self.store.showing(number)
        if showing and showing.annotator != annotator:
            raise UserError(
                f"this page was shown to somebody else, before {annotator} signed in, and nothing was kept: load the"
                " page again, or change the name back first"
            )
        return showing

    async def undo(self, request: Request) -> Response:
        annotator = _annotator(request)
        form = await read_form(request)
        if annotator:
            await run_in_threadpool(self._undo, annotator, form)
        return RedirectResponse("/pair", 303)

    def _undo(self, annotator: str, form: dict[str, str]) -> None:
        showing = self._showing(annotator, form.get("answered", ""))
        if showing and showing.pair in self.study.pool:
            self.store.undo(showing)

    def instructions(self, request: Request) -> Response:
        return render_page(
            request,
            "instructions",
            choices=CHOICES,
            meanings=MEANINGS,
            rubric=self.study.rubric,
        )

    def results(self, request: Request) -> Response:
        study, answers = self.study, self.store.answers()
        counts = tally(study.pool, answers)
        return render_page(
            request,
            "results",
            summary=describe_answers(list(study.pool.values()), answers, study.config.seed),
            counts=counts,
            needed=counts.needed(study.config.labels.human.min_labels),
        )


def _texts(study: AnnotatedStudy, showing: Showing) -> dict[str, Any]:
    """The texts of a showing, by side."""
    row = (study.practice if showing.kind == PRACTICE else study.pool)[showing.pair]
    texts = [row["response_1"], row["response_2"]]
    left, right = texts if showing.left_response == 1 else texts[::-1]
    context = row["prompt"] if showing.kind == PRACTICE else study.context(row)
    return {"turns": turns_of(context), "left": left, "right": right}


def _feedback(
    request: Request, study: AnnotatedStudy, showing: Showing, answer: Answer
) -> HTMLResponse:
    """Our own answer to a practice pair, and why."""
    row = study.practice[answer.pair]
    expected = row["expected"]
    if expected in ("1", "2"):
        as_expected = verdict_of(answer) == expected
        expected = LEFT if int(expected) == answer.left_response else RIGHT
    else:
        as_expected = answer.answer == expected
    return render_page(
        request,
        "feedback",
        **_texts(study, showing),
        right_answer=as_expected,
        expected=expected.replace("_", " "),
        feedback=row["feedback"],
    )


class ArenaPages:
    """The arena: a claim, two replies, a vote, and then the names of the models."""

    def __init__(self, study: AnnotatedStudy):
        self.study, self.store = study, BattleStore(study.answers)
        self.models = LoadedModels(study.folder, study.config)
        # A separate thread, so that people who label do not wait for models.
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
        voted = request.query_params.get("voted")
        if battle and battle.answer and str(battle.number) != voted:
            battle = None
        too_few = len(self.models.names) < 2
        return render_page(
            request,
            "arena",
            battle=battle,
            turns=turns_of(battle.context) if battle else [],
            claims=list(self.study.claims),
            longest_claim=LONGEST_CLAIM,
            votes=[choice for choice in CHOICES if choice[0] in VOTES],
            others=[(LEAVE, "s", "Leave it"), (FLAG, "f", "Flag")],
            unavailable="Fewer than two models of this study are there yet: make them first."
            if too_few
            else "",
        )

    async def begin(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await read_form(request)
        if self._waiting >= MOST_WAITING:
            raise UserError("others wait for the models already: try again in a minute")
        self._waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._begin, voter, form)
        finally:
            self._waiting -= 1
        return RedirectResponse("/arena", 303)

    def _begin(self, voter: str, form: dict[str, str]) -> None:
        """Keep a battle on the claim that a form selects or contains."""
        claims, picked = list(self.study.claims.values()), whole_number(form.get("picked", ""))
        if picked is not None and picked < len(claims):
            turns = claims[picked]
        else:
            turns = claim_turns(form.get("claim", ""))
        try:
            self.store.add(voter, *self.models.battle(turns))
        except OSError as error:
            raise UserError(f"the models cannot be read ({error}): make them anew") from error

    async def vote(self, request: Request) -> Response:
        voter = _annotator(request)
        if not voter:
            return RedirectResponse("/", 303)
        form = await read_form(request)
        number, answer = whole_number(form.get("battle", "")), form.get("answer", "")
        if number is None:
            raise UserError("no such battle: load the page again")
        await run_in_threadpool(self.store.vote, voter, number, answer)
        return RedirectResponse(f"/arena?voted={number}" if answer in VOTES else "/arena", 303)


def _median(seconds: list[float | None]) -> int | None:
    known = [value for value in seconds if value is not None and value >= 0]
    return round(median(known)) or 1 if known else None
