"""Answers are parsed strictly; whatever a server sends ends as a label or a named exclusion."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_server
from llm_jobs import (
    FAILURES,
    GOOD,
    PAIRS,
    PROVIDERS,
    Job,
    cached,
    pairs,
    settings_of,
)
from llm_server import (
    body,
    junk,
    says,
)
from persuasion_rl.judges.base import judge_both_orders
from persuasion_rl.judges.llm import answers as answers_module
from persuasion_rl.judges.llm.answers import read_answer
from persuasion_rl.judges.llm.judge import VERDICT_SCHEMA, VERDICTS
from persuasion_rl.judges.make import JudgeSettings
from persuasion_rl.preferences.label_ai import label_ai
from persuasion_rl.text import readable


@given(st.text(max_size=60), st.sampled_from(list(VERDICTS)), st.text(" \n\t", max_size=3))
def test_a_verdict_is_read_whatever_its_reason_says(reason, verdict, space):
    text = space + json.dumps({"verdict": verdict, "reason": reason}) + space
    assert read_answer(text, VERDICT_SCHEMA) == {"verdict": verdict, "reason": readable(reason)}


FENCES = st.sampled_from(["```", "````", "~~~"])
LANGUAGES = st.sampled_from(
    ["", "json", "JSON", " json ", "json5", "jsonc", "javascript", "text", "c++", 'json title="a"']
)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(
    FENCES,
    LANGUAGES,
    LINE_ENDS,
    st.sampled_from(list(VERDICTS)),
    st.text(" \n\r\t", max_size=3),
    st.sampled_from(
        [
            "",
            '<think>A {"verdict": "2"}?</think>',
            "Hm.\n</think>\n\n",
            "[THINK]```json\n{}\n```[/THINK]",
        ]
    ),
)
def test_a_fence_of_any_language_and_line_end_is_markup(
    fence, language, end, verdict, space, reasoning
):
    object_ = json.dumps(
        {"reason": "<think> is a tag </think>, ```", "verdict": verdict}, indent=1
    ).replace("\n", end)
    fenced = space.join(["", f"{fence}{language}{end}{object_}{end}{fence}", ""])
    for text in (fenced, f"{space}{object_}{space}", f"\ufeff{object_}"):
        assert read_answer(reasoning + text, VERDICT_SCHEMA)["verdict"] == verdict


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.one_of(VALUES.map(json.dumps), st.text(max_size=40)))
def test_whatever_else_is_no_verdict(text):
    with pytest.raises(ValueError):
        read_answer(text, VERDICT_SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "", "1", '"1"', f"Sure! {GOOD}", f"{GOOD}{GOOD}", GOOD[:-1], f"[{GOOD}]", "[" * 100_000,
        f"Sure!\n```json\n{GOOD}\n```", f"```json\n{GOOD}\n```\nSo be it.", f"```json\n{GOOD[:-1]}\n```",
        f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", f"```json {GOOD} ```", f"```json\n{GOOD}", f"`{GOOD}`",
        f"````json\n{GOOD}\n```", f"```json\n{GOOD}\n~~~", f"<think>{GOOD}</think>", f"<think>Hm. {GOOD}",
        f"<think>Hm.</think>{GOOD}{GOOD}", f"<think>Hm.</think>Sure! {GOOD}",
        '{"verdict": "1"}', '{"reason": "r"}', '{"reason": "r", "verdict": 1}',
        '{"reason": "r", "verdict": "3"}', '{"reason": "r", "verdict": "TIE"}',
        '{"reason": null, "verdict": "1"}', '{"reason": "r", "verdict": "1", "sure": true}',
        '{"reason": "r", "verdict": "1", "verdict": "2"}', '{"reason": "r", "verdict": ["1"]}',
    ],
)  # fmt: skip
def test_a_verdict_is_one_object_of_the_schema_and_nothing_else(text):
    assert read_answer(GOOD, VERDICT_SCHEMA)["verdict"] == "1"
    with pytest.raises(ValueError):
        read_answer(text, VERDICT_SCHEMA)


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", f"\n```\n {GOOD}\n ```\n"])
def test_a_fence_around_the_object_is_markup_and_nothing_else(text):
    assert read_answer(text, VERDICT_SCHEMA) == json.loads(GOOD)


def test_a_better_parser_needs_no_new_answer(judge, server, monkeypatch):
    """The cache has raw answers, which are parsed anew by every run."""
    server.behave = lambda request, attempt: junk(f"Sure! {GOOD}")
    assert judge_both_orders(judge(retries=0), PAIRS)[0].failure == "unparsable"
    count = len(server.requests)
    monkeypatch.setattr(
        answers_module,
        "read_answer",
        lambda text, schema: read_answer(text.removeprefix("Sure! "), schema),
    )
    assert judge_both_orders(judge(retries=0), PAIRS)[0].verdict == "tie"
    assert len(server.requests) == count


ODD_TEXT = st.text(st.characters(), max_size=6)  # with halves of surrogate pairs


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


TEXTS = st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "", "null"]) | st.builds(
    lambda reason: json.dumps({"reason": reason, "verdict": "1"}), ODD_TEXT
)


PATHS = {
    "openai": [
        (), ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "refusal"),
        ("choices", 0, "finish_reason"), ("usage",), ("usage", "prompt_tokens"), ("usage", "completion_tokens"),
        ("choices", 0, "message", "content"),
    ],
    "anthropic": [
        (), ("content",), ("content", 0), ("content", 0, "type"), ("stop_reason",), ("usage",),
        ("usage", "input_tokens"), ("usage", "output_tokens"), ("content", 0, "text"),
    ],
}  # fmt: skip


def altered(value, path: tuple, replacement):
    """A copy of a JSON value with `replacement` at `path`."""
    if not path:
        return replacement
    step, *rest = path
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    copy = {
        key: altered(part, tuple(rest), replacement) if key == step else part for key, part in parts
    }
    return copy if isinstance(value, dict) else list(copy.values())


@st.composite
def odd_bodies(draw, provider: str, server) -> str:
    """A body in the format of the provider, with any value at one of its paths."""
    request_body = {"openai": {"model": "m"}, "anthropic": {"model": "m", "system": "s"}}[provider]
    request = llm_server.ChatRequest("k", {}, request_body, {}, 0)
    response_body = llm_server.message(server, request, draw(TEXTS))
    path = draw(st.sampled_from(PATHS[provider]))
    text = json.dumps(altered(response_body, path, draw(ODD | TEXTS)))
    return draw(st.sampled_from([text, text, text, text[:-3], "[" * 100_000]))


@pytest.fixture(scope="module")
def module_server():
    with llm_server.serving() as server:
        yield server


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_body_ends_as_a_label_or_a_named_exclusion(
    module_server, provider, data, tmp_path_factory
):
    """The second run reads the bodies from the cache."""
    folder = tmp_path_factory.mktemp("odd")
    bodies = data.draw(st.lists(odd_bodies(provider, module_server), min_size=3, max_size=3))

    def behave(request, attempt):
        number = request.data["conversation"].removeprefix("Poster: view ")
        return says() if number == "3" else body(bodies[int(number)])

    module_server.behave = behave
    settings = settings_of(module_server, folder, provider, retries=0)
    job = Job(folder, settings, pairs(4))
    for _ in range(2):
        counts = label_ai(
            responses=folder / "responses.jsonl", labels=folder / "labels.jsonl", judge="llm",
            noise=0, settings=JudgeSettings(seed=1, threads=1, llm=settings),
        )  # fmt: skip
        assert sum(counts.values()) == 4 and counts.keys() <= {*FAILURES, "1", "2", "tie", "none"}
        assert job.labels()[3]["verdict"] == "tie"


PARTS = [{"type": "text", "text": GOOD}]


@pytest.mark.parametrize(
    ("path", "replacement", "label"),
    [
        (("choices", 0, "message", "content"), PARTS, "1"),
        (("choices", 0, "message", "content"), [{"type": "image", "text": GOOD}], "unparsable"),
        (("choices", 0, "message", "content"), "[" * 100_000, "unparsable"),
        (("usage", "prompt_tokens"), "x", "1"),
        (("usage", "completion_tokens"), 10**30, "1"),
        (("usage",), ["x"], "1"),
    ],
)
def test_an_odd_answer_is_kept_and_counted(judge, server, tmp_path, path, replacement, label):
    request = llm_server.ChatRequest("k", {}, {"model": "m"}, {}, 0)
    response_body = llm_server.message(server, request, GOOD.replace("1", "tie"))
    server.behave = for_cars(body(json.dumps(altered(response_body, path, replacement))))
    for _ in range(2):
        judged = judge_both_orders(judge(retries=0), PAIRS[1:])[0]
        assert (judged.verdict or judged.failure) == label.replace("1", "tie")
    assert len(server.requests) == len(cached(tmp_path)) == 4
    assert all(0 < tokens < 10_000 for tokens in cached(tmp_path, "input_tokens"))


def test_half_a_surrogate_pair_in_a_reason_is_written(server, tmp_path):
    server.behave = lambda request, attempt: junk('{"reason": "so \\ud83d it is", "verdict": "1"}')
    job = Job(tmp_path, settings_of(server, tmp_path), PAIRS)
    job.run()
    assert job.labels()[0]["votes"][0]["reason"] == "so \ufffd it is"


def for_cars(action):
    """Take `action` for the pairs about cars, and answer the others with verdicts."""
    return lambda request, attempt: action if "cars" in request.data["conversation"] else says()
