"""The delta function of the embedded study: what it documents is what it does."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from csv_files import read_csv
from persuasion_rl.data.clean import clean
from persuasion_rl.data.corpus import read_threads
from persuasion_rl.data.synthetic import grammar
from persuasion_rl.files import write_jsonl

BY_TOPIC_AND_KIND: dict[tuple, list[str]] = {}
for sentence, move in grammar.reply_sentences().items():
    BY_TOPIC_AND_KIND.setdefault((move.topic, move.kind), []).append(sentence)

TOPIC = "bike lanes"
POST = (
    "Claim: CMV: Bike lanes do more harm than good\n"
    "Poster: I grew up in Oslo, where everyone thinks so."
    " Every year more money goes into bike lanes. Bike lanes produce too much waste. Convince me."
)
ANSWER = "As for money, bike lanes replace services that cost more."
SAME_REASON = "The money for bike lanes is paid once, and after that they are cheap to keep."
FURTHER = "As for waste, nearly all that bike lanes use is made into something new."
GRANT = "You are right that money matters with bike lanes."
MISSED = "As for choice, nobody is made to use bike lanes."
EVIDENCE = "When Oslo kept bike lanes, complaints fell by 12 percent in three years."
QUESTION = "Which of your friends actually uses bike lanes?"
ANALOGY = "We do not close a bakery because one loaf was burnt."
OPENING = "Here is how I see it."
OTHER_TOPIC = "Which of your friends actually uses pet shops?"
INSULT = "Only a fool could believe this."


@st.composite
def exchanges(draw):
    """A post on a topic with its reasons, and a reply of the grammar's sentences on this topic, another, or none."""
    topic = draw(st.sampled_from(grammar.TOPICS))
    reasons = draw(
        st.lists(st.sampled_from(grammar.reasons_of(topic)), min_size=1, max_size=3, unique=True)
    )
    statements = [
        grammar.sentence(draw(st.sampled_from(grammar.REASONS[name].statements)), topic=topic)
        for name in reasons
    ]
    groups = [key for key in BY_TOPIC_AND_KIND if key[0] in (None, topic, "pet shops")]
    sentence = st.sampled_from(groups).flatmap(lambda key: st.sampled_from(BY_TOPIC_AND_KIND[key]))
    reply = draw(st.lists(sentence, max_size=6))
    return topic, reasons, f"Poster: I am sure of it. {' '.join(statements)}", reply


def test_the_documented_weights_are_the_weights():
    table = dict(re.findall(r"^\| `(\w+)` .*\|\s*([+-]?\d\.\d)\s*\|$", grammar.__doc__, re.M))
    assert {move: float(weight) for move, weight in table.items()} == grammar.WEIGHTS
    assert f"BIAS is {grammar.BIAS}" in grammar.__doc__


def test_there_are_at_least_24_topics_with_eight_reasons_each():
    assert len(set(grammar.TOPICS)) >= 24
    for topic in grammar.TOPICS:
        assert len(set(grammar.reasons_of(topic))) == 8


def test_no_two_sentences_of_the_grammar_are_the_same():
    numbers = len(grammar.PLACES) * len(grammar.MEASURES) * len(grammar.PERCENTAGES)
    per_topic = len(grammar.QUESTIONS) + len(grammar.EVIDENCE) * numbers
    for reason in grammar.REASONS.values():
        per_topic += len(reason.answers) + len(grammar.ACKNOWLEDGEMENTS)
    anywhere = len(grammar.OPENINGS + grammar.ANALOGIES + grammar.OFF_TOPIC + grammar.INSULTS)
    assert len(grammar.reply_sentences()) == anywhere + len(grammar.TOPICS) * per_topic
    statements = sum(
        len(grammar.REASONS[name].statements)
        for topic in grammar.TOPICS
        for name in grammar.reasons_of(topic)
    )
    assert len(grammar.poster_sentences()) == statements
    assert not grammar.reply_sentences().keys() & grammar.poster_sentences().keys()


def test_every_sentence_of_the_grammar_is_read_back_as_one_move():
    for sentence, move in grammar.reply_sentences().items():
        assert grammar.moves(sentence) == [move]
    for statement, move in grammar.poster_sentences().items():
        assert grammar.topics_and_reasons(f"Poster: It is so. {statement}") == (
            {move.topic},
            {move.reason},
        )


def test_everything_in_a_synthetic_corpus_is_read_back(synthetic):
    kinds = set()
    for thread in read_threads(synthetic):
        topics, reasons = grammar.topics_and_reasons(clean(thread.body))
        assert len(topics) == 1 and len(reasons) in (2, 3)
        for utterance in thread.utterances.values():
            if utterance.speaker.split("_")[0] in ("thoughtful", "average", "hasty", "rude"):
                reply_kinds = [move.kind for move in grammar.moves(clean(utterance.text))]
                assert len(reply_kinds) >= 3 and "unknown" not in reply_kinds, utterance.text
                kinds.update(reply_kinds)
    assert kinds == set(grammar.WEIGHTS) - {"further_answer", "missed", "repetition", "unknown"}


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("", -3.0),
        (OPENING, -3.0),
        (ANSWER, -3.0 + 2.0),
        (f"{ANSWER} {FURTHER}", -3.0 + 2.0 + 0.7),
        (f"{ANSWER} {SAME_REASON}", -3.0 + 2.0 - 0.6),
        (f"{GRANT} {ANSWER} {EVIDENCE} {QUESTION} {ANALOGY}", -3.0 + 1.0 + 2.0 + 1.2 + 0.5 + 0.4),
        (f"{ANSWER} {MISSED}", -3.0 + 2.0 - 0.5),
        (f"{QUESTION} {OTHER_TOPIC}", -3.0 + 0.5 - 1.0),
        (f"{ANSWER} Bicycles are nice.", -3.0 + 2.0 - 1.2),
        (f"{ANSWER} {INSULT} {INSULT}", -3.0 + 2.0 - 2.5 - 2.5),
        (f"{ANSWER.upper()}\n\n{QUESTION.lower()}", -3.0 + 2.0 + 0.5),
        (f"> {INSULT}\n\n{ANSWER}", -3.0 + 2.0),
    ],
)
def test_worked_examples(reply, score):
    assert grammar.truth(POST, reply) == pytest.approx(1 / (1 + math.exp(-score)))


def test_an_argument_counts_only_against_the_post_that_it_answers():
    elsewhere = POST.replace("ike lanes", "ity zoos").replace(
        "Every year more money goes into City", "X"
    )
    assert grammar.truth(elsewhere, ANSWER) < 0.06 < grammar.truth(POST, ANSWER)


@given(st.text(), st.text())
def test_the_truth_is_a_probability_of_any_text(prompt, reply):
    assert 0 <= grammar.truth(prompt, reply) <= 1


def test_a_long_text_that_the_grammar_does_not_know_has_a_probability_too():
    assert 0 <= grammar.truth(POST, "Nobody knows. " * 2_000) < 1e-300


@given(st.text())
def test_text_that_the_grammar_does_not_know_scores_low(text):
    assume(all(move.kind == "unknown" for move in grammar.moves(text)))
    assert grammar.truth(POST, text) < 0.06


@given(exchanges(), st.sampled_from(grammar.INSULTS), st.integers(0, 6))
def test_an_insult_lowers(exchange, insult, place):
    _, _, prompt, reply = exchange
    ruder = " ".join(reply[:place] + [insult] + reply[place:])
    assert grammar.truth(prompt, ruder) < grammar.truth(prompt, " ".join(reply))


@given(exchanges(), st.integers(0, 1), st.integers(0, 2))
def test_answering_a_reason_that_was_given_raises(exchange, template, which):
    topic, reasons, prompt, reply = exchange
    reason = reasons[which % len(reasons)]
    answer = grammar.sentence(grammar.REASONS[reason].answers[template], topic=topic)
    assume(grammar.Move("answer", topic, reason) not in grammar.moves(" ".join(reply)))
    assert grammar.truth(prompt, " ".join([*reply, answer])) > grammar.truth(
        prompt, " ".join(reply)
    )


@given(exchanges(), st.integers(0, 5))
def test_repeating_a_move_never_raises(exchange, which):
    _, _, prompt, reply = exchange
    assume(reply)
    again = [*reply, reply[which % len(reply)]]
    assert grammar.truth(prompt, " ".join(again)) < grammar.truth(prompt, " ".join(reply))


@given(exchanges(), exchanges())
def test_quoted_lines_do_not_count(exchange, other):
    _, _, prompt, reply = exchange
    quoted = "".join(f"> {sentence}\n" for sentence in other[3])
    own = " ".join(reply)
    assert grammar.truth(prompt, f"{quoted}\n{own}") == grammar.truth(prompt, own)


def test_the_truth_of_players_needs_no_declared_comparison(command_line, tmp_path):
    row = {"prompt_id": "p", "prompt": "I think cats are best.", "metadata": {"conversation_id": "c"}}  # fmt: skip
    write_jsonl(tmp_path / "base.jsonl", [row | {"response": "No."}])
    run = command_line("evaluation.truth", "--responses", f"base={tmp_path / 'base.jsonl'}",
                       "--truth", tmp_path / "truth.csv", "--differences", tmp_path / "differences.csv",
                       "--draws", 100, "--seed", 1)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [row["model"] for row in read_csv(tmp_path / "truth.csv")] == ["base"]
    assert read_csv(tmp_path / "differences.csv") == []
