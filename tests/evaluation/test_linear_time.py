"""Everything that is applied to people's text takes twice as long for twice the text, whatever is repeated in it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persuasion_rl.annotation.exchange import TAKEN_FOR_ELSE, _cell, _from_cell
from persuasion_rl.annotation.plan import known_as
from persuasion_rl.data import deltas
from persuasion_rl.data.clean import RULES, clean, clean_post, is_bot, unescape, unusable
from persuasion_rl.data.contexts import Turn, fit_contexts, turns_of
from persuasion_rl.data.near_duplicates import NearDuplicateIndex, shingles
from persuasion_rl.evaluation.behaviour import distinct, repeated_share
from persuasion_rl.evaluation.markers import own_words, read_markers, words
from persuasion_rl.evaluation.memorised import TrainingText
from persuasion_rl.judges import interplay
from persuasion_rl.judges.llm.answers import read_answer
from persuasion_rl.prompts.reasoning import without_reasoning
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.text import readable
from running import ROOT

MARKERS = read_markers(sorted(Path(ROOT, "resources/markers").glob("*.txt")))
TRAINING = TrainingText(["One of the training replies, which has some more words than a span has."])


def answer(text: str) -> None:
    with suppress(ValueError):
        read_answer(f"{text}`\n{text}\n```", {})


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "readable": readable,
    **{rule: apply for rule, (_, apply) in RULES.items()},
    # The words in front are hints of all rules, so that each is tried.
    "clean": lambda text: clean(f"&amp; users of CMV! credit deltas ∆ u/\n{text}"),
    "clean_post": lambda text: clean_post(f"{text}\n{text}"),
    "unescape": unescape,
    "is_bot": is_bot,
    "unusable": lambda text: unusable("anna", text),
    "awards": lambda text: deltas.awards(f"{text} ∆ no {text}"),
    "confirmed": deltas.CONFIRMED.search,
    "refused": deltas.REFUSED.search,
    "cell of a table": TAKEN_FOR_ELSE.match,
    "name": lambda text: known_as(text, ["Anna"]),
    "shingles": shingles,
    "near-duplicates": lambda text: NearDuplicateIndex().add("a", text),
    "turns": turns_of,
    "words": words,
    "own words": own_words,
    **{f"markers {name}": markers.count for name, markers in MARKERS.items()},
    "repeated": lambda text: repeated_share(text.split()),
    "distinct": lambda text: distinct([text.split()], 2),
    "copied": lambda text: TRAINING.copied(text[: len(text) // 8]),
    "cell": lambda text: (_cell(text), _cell(f"'{text}x"), _from_cell(f"'{text}")),
    "reasoning": lambda text: without_reasoning(f"{text}<think>{text}</think>{text}"),
    "answer": answer,
    "interplay": lambda text: interplay.features("A prompt.", text),
}
STARTS = [
    "",
    "edit",
    "final",
    "> ",
    "delta",
    "no",
    "confirmed",
    "sorry",
    "&#",
    "1",
    "[",
    "http://",
    "award",
]
REPEATED = [
    *("\n", "\r\n", " ", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\x0b", "\x85", " \n", "\n ", "\n\n>"),
    *('"', "'", "“", "’", "`", "*", "**", "* ", "*a", "_", "___", "___\n", "~", "#", "-", "–", ">", "> ", "\n>"),
    *("[", "]", "[a", "[a](b", "[a]", "](", "(", ")", "!", "?", ".", "...", ". ", "!.", ",", ":", ";", "\\", "/"),
    *("1", "1.", "1,1", "$1,", "1 ", "a", "a ", "aA", "é", "日", "😀", "\u0301", "a'", "n't ", "not ", "no the "),
    *("∆", "∆ ", "!∆", "!delta ", "delta ", "deltas", "award", "give a ", "confirmed ", "confirmed:", "sorry "),
    *("edit", "edit ", "edit\n", "\nedit\n\n", "\nedit: x", "EDIT 1", "\nfinal ", "final\n", "edited a b ", "\nupdate_("),
    *("&", "&#", "&#9", "&amp;", "&#x", "&gt;", "/u/", "u/", "/user/a", "u/\\", "bot", "_bot", "aBot"),
    *("~~~", "```", "<think>", "</think>", "<", "<think ", "a:", "<answer>", "=", "may ", "1/", "true", "{", '{"a":'),
    *("http", "https://", "www.", "Poster: ", "\nPoster: a", "- ", "\n- ", "\n1. ", "i agree ", "your point about "),
    "_____\n\n> *Hello, users of CMV!", "users of CMV!", "\ud83d", "\x00",
]  # fmt: skip
NAMED = "\n\t \u00a0\u2003\"'*_~>#()[]-–—:;.!?&#xX19/\\u@∆Δeditndlaotwr"
"""Characters that a rule names."""
FAST = 0.02
"""Seconds below which a difference is chance."""


def seconds(function: Callable[[str], object], text: str, tries: int) -> float:
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        function(text)
        times.append(time.perf_counter() - start)
    return min(times)


def grows_faster(function: Callable[[str], object], start: str, unit: str, length: int) -> bool:
    """Whether twice as many repetitions of `unit` take more than three times as long."""
    once = start + unit * (length // len(unit))
    twice = start + unit * (2 * length // len(unit))
    for tries in (1, 3, 9):
        long = seconds(function, twice, tries)
        if long < FAST or long < 3 * seconds(function, once, tries):
            return False
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twice_the_text_takes_twice_as_long(name):
    slow = [unit for unit in REPEATED if grows_faster(FUNCTIONS[name], "", unit, 15_000)]
    assert slow == []


def test_fitting_a_context_takes_twice_as_long_for_twice_the_text(tokenizer):
    counter = TextTokenizer(tokenizer)

    def fit(text: str) -> object:
        turns = [Turn("Claim", "a"), Turn("Poster", readable(text), True), Turn("Other", "b")]
        return fit_contexts([turns], counter, "cmv", 200)

    slow = [unit for unit in REPEATED if grows_faster(fit, "", unit, 5_000)]
    assert slow == []


@settings(max_examples=25)
@given(
    start=st.sampled_from(STARTS),
    unit=st.text(NAMED, min_size=1, max_size=5) | st.sampled_from(REPEATED),
)
def test_whatever_is_repeated_twice_the_text_takes_twice_as_long(start, unit):
    slow = [
        name for name, function in FUNCTIONS.items() if grows_faster(function, start, unit, 10_000)
    ]
    assert slow == []


@pytest.mark.parametrize("unit", ["ha ", "ha ho "])
def test_a_search_for_what_training_text_repeats_takes_twice_as_long_for_twice_of_both(unit):
    def search(text: str) -> None:
        assert TrainingText([text]).copied(text) == (1.0, len(text.split()))

    assert not grows_faster(search, "", unit, 15_000)
