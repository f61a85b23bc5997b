"""The annotation page as people use it: in a real browser, by keyboard, through reloads and a killed server."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from labelled_study import SECRET, write_study
from persuasion_rl.annotation.plan import pair_id
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.files import read_jsonl
from persuasion_rl.preferences.export_human_labels import export_human_labels
from running import ROOT

pytestmark = pytest.mark.browser
KEYS = {"left": "1", "right": "2", "tie": "0", "both_bad": "b", "skip": "s"}


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "results/demo", pairs=45)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def serve_page(study, port):
    """A function that serves the page of the study; at the end of the test its servers are killed."""
    processes = []

    @contextmanager
    def serve():
        args = ["annotate", "--study", str(study.folder), "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "persuasion_rl.tools.cli", *args],
            env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
            cwd=ROOT,
        )
        processes.append(process)
        for _ in range(100):
            try:
                urlopen(f"http://127.0.0.1:{port}/").close()
                break
            except OSError:
                time.sleep(0.1)
        yield process

    yield serve
    for process in processes:
        process.kill()
        process.wait()


class Person:
    """An annotator with a browser of their own; `answers` has what they answered, by pair."""

    def __init__(self, browser, study, port, name, **context):
        self.page, self.study = browser.new_context(**context).new_page(), study
        self.traffic, self.answers, self.name = [], {}, name
        self.page.on("response", self._record)
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.page.wait_for_function("document.activeElement.id === 'name'")
        self.page.keyboard.type(name)
        self.press("Enter")
        self.page.goto(f"http://127.0.0.1:{port}/pair")
        while self.showing.kind == "practice":
            self.press("0")
            self.press("Enter")

    def _record(self, response):
        # Without the body: Chromium drops it when the page is left, so `press` records the content of each page.
        self.traffic.append(f"{response.url} {response.headers}")

    def press(self, key):
        self.traffic.append(self.page.content())
        with self.page.expect_navigation():
            self.page.keyboard.press(key)

    @property
    def showing(self):
        """The showing on the open page, from the store; the page has its number only."""
        number = self.page.locator('form.answer input[name="showing"]').input_value()
        with AnswerStore(self.study.answers) as store:
            return store.showing(int(number))

    @property
    def pair(self):
        return self.showing.pair

    def answer(self, answer):
        texts = [text.strip() for text in self.page.locator("article .text").all_inner_texts()]
        self.answers[self.pair] = (answer, texts[0])
        self.press(KEYS[answer])

    def undo(self):
        self.press("u")
        return self.answers.pop(self.pair)


def stored_answers(study, name):
    """The answers of an annotator in the store: pair -> answer, and the text on the left."""
    return {
        a.pair: (a.answer, study.pool[a.pair][f"response_{a.left_response}"].strip())
        for a in read_answers(study.answers)
        if a.annotator == name and a.kind == "first"
    }


def votes(study):
    """The votes in the exported labels: annotator and pair -> answer."""
    labels = study.folder / "preferences/human_pool_labels.jsonl"
    export_human_labels(
        responses=study.folder / "preferences/human_pool_responses.jsonl", answers=study.answers, labels=labels,
        min_labels=1, study="demo", labeler="people",
    )  # fmt: skip
    return {
        (vote["labeler"], pair_id(row)): vote["answer"]
        for row in read_jsonl(labels)
        for vote in row["votes"]
    }


def test_thirty_pairs_by_keyboard_with_undo_reload_two_people_and_a_killed_server(
    browser, study, port, serve_page
):
    answers = list(KEYS)
    with serve_page() as process:
        anna, ben = (Person(browser, study, port, name) for name in ("Anna", "Ben Ó'Neill"))
        for number in range(12):
            anna.answer(answers[number % 5])
            ben.answer(answers[(number + 2) % 5])
        undone = anna.undo()
        assert undone[0] == answers[11 % 5]
        anna.answer("right")
        before = anna.pair
        anna.page.reload()
        assert anna.pair == before
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serve_page():
        for person in (anna, ben):
            person.page.reload()
        assert anna.pair == before
        while len(anna.answers) < 30:
            anna.answer(answers[len(anna.answers) % 3])
        for person in (anna, ben):
            assert stored_answers(study, person.name) == person.answers
        assert len(anna.answers) == 30 and len(ben.answers) == 12
        assert votes(study) == {
            (person.name, pair): answer
            for person in (anna, ben)
            for pair, (answer, _) in person.answers.items()
            if answer != "skip"
        }
        traffic = "".join(anna.traffic + ben.traffic)
        assert len(traffic) > 50_000
        for secret in (*SECRET.values(), "secret", "model_digest", "standin"):
            assert secret not in traffic


def test_a_reason_is_typed_without_answering_and_is_kept(browser, study, port, serve_page):
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        pair = anna.pair
        anna.page.keyboard.press("r")
        anna.page.keyboard.type("1 of 2 says 0 about it; but so what?")
        assert anna.pair == pair and not stored_answers(study, "Anna")
        anna.page.keyboard.press("Escape")
        anna.page.get_by_label("sure", exact=True).check()
        anna.page.keyboard.press("Escape")
        anna.answer("right")
        (answer,) = [a for a in read_answers(study.answers) if a.kind == "first"]
        assert (answer.reason, answer.confidence) == ("1 of 2 says 0 about it; but so what?", 3)


def test_keys_in_the_fields_of_reason_and_confidence_answer_nothing(
    browser, study, port, serve_page
):
    """A radio button is chosen by arrows; digits and Enter there press no button of the form."""
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        page, pair = anna.page, anna.pair
        page.keyboard.press("r")
        page.get_by_label("a guess").focus()
        for key in ("Space", "ArrowRight", "1", "0", "s", "u", "Enter", "2"):
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        assert (
            anna.pair == pair and page.url.endswith("/pair") and not stored_answers(study, "Anna")
        )
        assert page.get_by_label("fairly").is_checked()
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        assert page.evaluate("document.activeElement.id") == "reason", "the fields stay open"
        page.keyboard.press("Escape")
        anna.answer("left")
        (answer,) = [a for a in read_answers(study.answers) if a.kind == "first"]
        assert (answer.answer, answer.confidence) == ("left", 2)


def test_without_a_script_enter_in_a_field_answers_nothing(browser, study, port, serve_page):
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        page = anna.page.context.new_page()
        page.route("**/page.js", lambda route: route.abort())
        page.goto(f"http://127.0.0.1:{port}/pair")
        page.locator("summary").last.click()
        page.get_by_label("a guess").focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="That was not taken").wait_for()
        assert not stored_answers(study, "Anna")


def test_keys_can_be_turned_off_and_stay_so(browser, study, port, serve_page):
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        page, pair = anna.page, anna.pair
        left_button = page.locator("button[value=left]")
        assert left_button.get_attribute("aria-keyshortcuts") == "1"
        assert page.locator("form.answer button:visible").count() == 6, (
            "hidden buttons are not visible"
        )
        page.get_by_role("button", name="keys off").click()
        for again in (False, True):
            if again:
                page.reload()
            page.locator("body").press("1")
            page.wait_for_timeout(300)
            assert anna.pair == pair and not stored_answers(study, "Anna")
            assert left_button.get_attribute("aria-keyshortcuts") is None
            assert not left_button.locator("kbd").is_visible()
        page.get_by_role("button", name="keys on").click()
        page.evaluate("document.activeElement.blur()")
        anna.answer("left")
        assert stored_answers(study, "Anna")[pair][0] == "left"


def test_two_tabs_of_one_browser_with_two_names_do_not_mix(browser, study, port, serve_page):
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        other = anna.page.context.new_page()
        other.goto(f"http://127.0.0.1:{port}/")
        other.get_by_role("button", name="change name").click()
        other.get_by_label("Your name").fill("Ben")
        other.keyboard.press("Enter")
        other.wait_for_url("**/instructions")
        anna.press("1")
        assert "before Ben signed in" in anna.page.inner_text("main")
        assert not stored_answers(study, "Anna") and not stored_answers(study, "Ben")


def test_on_a_phone_the_answers_are_in_reach_from_the_first_line_on(
    browser, port, serve_page, study
):
    with serve_page():
        anna = Person(browser, study, port, "Anna", viewport={"width": 360, "height": 640})
        page = anna.page
        # Replies of several screens, as models write them.
        page.evaluate("document.querySelectorAll('.text').forEach((e) => { e.textContent = 'word '.repeat(600); })")  # fmt: skip
        page.evaluate("window.scrollTo(0, 0)")
        assert page.evaluate("document.documentElement.scrollHeight") > 3 * 640
        for place in (0, 900):
            page.evaluate(f"window.scrollTo(0, {place})")
            box = page.locator(".choices").bounding_box()
            assert box["y"] + box["height"] <= 641 and box["y"] > 400
        focusable = page.locator(".answered")
        assert focusable.get_attribute("tabindex") == "0"


def test_it_can_be_used_by_tab_and_enter_and_has_names_for_a_screen_reader(
    browser, study, port, serve_page
):
    with serve_page():
        anna = Person(browser, study, port, "Anna")
        snapshot = anna.page.locator("body").aria_snapshot()
        for element in (
            'link "To the content"',
            'navigation "Pages"',
            'article "Left"',
            'article "Right"',
            'group "Which reply is better"',
            'button "Left 1"',
            'button "Flag f"',
        ):
            assert element in snapshot, element
        for _ in range(20):
            anna.page.keyboard.press("Tab")
            if anna.page.evaluate("document.activeElement.value") == "left":
                break
        pair = anna.pair
        anna.press("Enter")
        assert anna.pair != pair and stored_answers(study, "Anna")[pair][0] == "left"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_screen_and_has_enough_contrast(
    browser, study, port, serve_page, scheme, width
):
    with serve_page():
        screen = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
        anna = Person(browser, study, port, "Anna", **screen)
        for path in ("pair", "instructions", "results", "arena"):
            anna.page.goto(f"http://127.0.0.1:{port}/{path}")
            assert anna.page.evaluate("document.documentElement.scrollWidth") <= width
            # WCAG 2.2, 1.4.3: at least 4.5 between a text and what is behind it.
            for text, contrast in anna.page.evaluate(CONTRASTS):
                assert contrast >= 4.5, (path, text, contrast)


CONTRASTS = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("p, h1, h2, a, button, td, th, label, summary, kbd, li, b")]
    .filter((node) => node.offsetParent && !node.disabled && node.innerText.trim())
    .map((node) => {
      const [one, other] = [luminance(parse(getComputedStyle(node).color)), luminance(behind(node))];
      return [node.innerText.slice(0, 30), (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
    });
}"""
