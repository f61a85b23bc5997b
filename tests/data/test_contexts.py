"""Contexts: the budget holds, the claim and the answered comment stay, and what fits is not touched."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from persuasion_rl.data.contexts import SEAM_TOKENS, Turn, fit_contexts
from persuasion_rl.prompts.tokens import TextTokenizer

VOCABULARY = [
    "bike",
    "lanes",
    "cost",
    "money",
    "the",
    "ß",
    "naïve",
    "日本",
    "🙂",
    "a.",
    "(b)",
    "'s",
    "> c",
]
WORDS = st.sampled_from(VOCABULARY) | st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="[]"), min_size=1, max_size=6
)
LINE = st.lists(WORDS, min_size=1, max_size=50).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=3).map("\n\n".join)
ROLES = st.sampled_from(["Poster", "Persuader", "Other", "Persuadee"])


@st.composite
def threads(draw, texts=TEXT):
    """The claim, the post, and comments down to the answered one (or none, where the post is answered)."""
    turns = [Turn("Claim", draw(LINE)), Turn("Poster", draw(texts), is_post=True)]
    return turns + draw(st.lists(st.builds(Turn, ROLES, texts), max_size=4))


@pytest.fixture(scope="module")
def counter(tokenizer):
    return TextTokenizer(tokenizer)


@pytest.fixture(scope="module")
def joining(tmp_path_factory):
    """A tokenizer of characters that joins the end of a line with a P after it."""
    characters = sorted(set(" \n.:[]>*()?!#'é…\t") | {chr(c) for c in range(48, 123)})
    vocabulary = {c: number for number, c in enumerate([*characters, "\nP", "?"])}
    path = tmp_path_factory.mktemp("joining") / "tokenizer.json"
    Tokenizer(models.BPE(vocabulary, [("\n", "P")], unk_token="?")).save(str(path))
    return TextTokenizer(path)


def length(tokenizer: TextTokenizer, text: str) -> int:
    """The tokens that a text makes a prompt longer, by its whole ids."""
    whole = tokenizer.format.render(text.removesuffix("\n"), "cmv")
    return len(tokenizer.prompt_ids([whole])[0]) - tokenizer.frame_tokens("cmv")


@given(turns=threads(), share=st.floats(0, 1.1))
def test_a_context_keeps_its_budget_and_what_matters(counter, turns, share):
    claim, answered = turns[0], turns[-1]
    full_text = "\n".join(map(str, turns))
    budget = int(length(counter, f"{full_text}\n") * share)
    (context,) = fit_contexts([turns], counter, "cmv", budget)
    required = [claim] if answered.is_post else [claim, answered]
    needed = length(counter, "".join(f"{turn}\n" for turn in required))
    if length(counter, f"{full_text}\n") <= budget:
        assert (context.text, context.cut) == (full_text, False)
    elif needed > budget:
        assert context is None
    elif not answered.is_post:
        assert context is not None
    if context is None:
        return
    assert context.tokens == length(counter, context.text + "\n") <= budget
    assert length(counter, context.text) <= budget
    assert context.cut == (context.text != full_text)
    assert context.text.startswith(f"{claim}\n")
    if not answered.is_post:
        assert context.text.endswith(f"\n{answered}")


@given(turns=threads(texts=LINE), share=st.floats(0, 1))
@example(turns=[Turn("Claim", "x"), *(Turn("Persuadee", "cost") for _ in range(6))], share=0.8)
def test_every_line_that_is_left_is_the_head_or_the_tail_of_a_turn_with_its_role(
    counter, turns, share
):
    budget = int(length(counter, "\n".join(map(str, turns)) + "\n") * share)
    (context,) = fit_contexts([turns], counter, "cmv", budget)
    if context is None:
        return
    lines = context.text.split("\n")
    place, marks = 0, 0
    for line in lines:
        role, _, text = line.partition(": ")
        head, mark, tail = re.fullmatch(r"(.*?)( ?\[\.\.\.\] ?|$)(.*)", text).groups()
        marks += bool(mark)
        place += next(
            number
            for number, turn in enumerate(turns[place:], 1)
            if turn.role == role and turn.text.startswith(head) and turn.text.endswith(tail)
            if mark or turn.text == head
        )
    assert marks <= 2
    if marks:  # then the end of the middle is left
        last = turns[-1] if turns[-1].is_post else turns[-2]
        line = lines[-1] if turns[-1].is_post else lines[-2]
        assert line.startswith(f"{last.role}: ") and line.endswith((last.text[-1], "[...]"))


@given(st.lists(threads(), max_size=5), st.integers(20, 300))
def test_a_batch_gives_what_each_thread_alone_gives(counter, batch, budget):
    assert fit_contexts(batch, counter, "cmv", budget) == [
        fit_contexts([turns], counter, "cmv", budget)[0] for turns in batch
    ]


@given(turns=threads())
def test_claim_and_answered_comment_just_fit_or_do_not(counter, turns):
    required = [turns[0], turns[-1]]
    exact = length(counter, "".join(f"{turn}\n" for turn in required))
    if turns[-1].is_post:
        return
    (just,) = fit_contexts([turns], counter, "cmv", exact)
    assert just.text == "\n".join(map(str, required)) and just.cut
    assert fit_contexts([turns], counter, "cmv", exact - 1) == [None]


@pytest.mark.parametrize("answered", ["post", "comment"])
def test_a_cut_context_uses_the_room_it_has(counter, answered):
    turns = [Turn("Claim", "cats"), Turn("Poster", "money noise " * 200, is_post=True)]
    turns += [Turn("Other", "It is so.")] if answered == "comment" else []
    for budget in range(60, 400, 7):
        (context,) = fit_contexts([turns], counter, "cmv", budget)
        assert budget - SEAM_TOKENS - 8 <= context.tokens <= budget


def test_the_middle_goes_and_its_head_and_tail_stay(counter):
    post = Turn("Poster", "It begins. " + "noise " * 200 + "It ends.", is_post=True)
    comments = [Turn("Persuader", "money " * 100 + "I say."), Turn("Poster", "I doubt it.")]
    budget = length(counter, f"Claim: cats\n{comments[-1]}\n") + 80
    (context,) = fit_contexts([[Turn("Claim", "cats"), post, *comments]], counter, "cmv", budget)
    lines = context.text.split("\n")
    assert [line.split(": ")[0] for line in lines] == ["Claim", "Poster", "Persuader", "Poster"]
    assert re.fullmatch(r"Poster: It begins\. (noise )+\w* ?\[\.\.\.\]", lines[1])
    assert re.fullmatch(r"Persuader: \[\.\.\.\] \w* (money )+I say\.", lines[2])
    assert lines[3] == "Poster: I doubt it."


def test_an_answered_post_loses_its_middle(counter):
    post = Turn("Poster", "It begins. " + "noise " * 200 + "It ends.", is_post=True)
    (context,) = fit_contexts([[Turn("Claim", "cats"), post]], counter, "cmv", 70)
    claim, rest = context.text.split("\n")
    assert claim == "Claim: cats"
    pattern = r"Poster: It begins\. (noise )+\w* ?\[\.\.\.\] \w* ?(noise )+It ends\."
    assert re.fullmatch(pattern, rest)


def test_a_role_at_the_seam_is_whole_or_gone(counter):
    """The head may end anywhere, even inside a role."""
    turns = [Turn("Claim", "cats"), *(Turn("Persuadee", "Yes, it is.") for _ in range(30))]
    for budget in range(40, 250):
        (context,) = fit_contexts([turns], counter, "cmv", budget)
        lines = context.text.split("\n")[1:]
        assert all(line.startswith("Persuadee: ") for line in lines), context.text


@settings(max_examples=25)
@given(st.lists(st.lists(threads().map(lambda turns: [f"{t}\n" for t in turns]), max_size=2)))
def test_parts_are_counted_as_their_whole_is(counter, joining, batches):
    contexts = [parts for batch in batches for parts in batch]
    assert counter.divides_at_lines and not joining.divides_at_lines
    for one in (counter, joining):
        assert one.context_counts(contexts, "cmv") == [length(one, "".join(c)) for c in contexts]


def test_a_tokenizer_that_joins_lines_keeps_the_budget_too(joining):
    turns = [Turn("Claim", "cats"), Turn("Poster", "money " * 50, True), Turn("Poster", "No.")]
    for budget in range(20, 300, 5):
        (context,) = fit_contexts([turns], joining, "cmv", budget)
        if context is not None:
            assert context.tokens == length(joining, context.text + "\n") <= budget


def test_lines_of_real_dialogues_divide_with_the_real_tokenizer(real_data, qwen_tokenizer):
    real = TextTokenizer(qwen_tokenizer)
    assert real.divides_at_lines
    for name in ("winning-args-corpus", "persuasionforgood-corpus"):
        with (real_data / name / "utterances.jsonl").open() as lines:
            texts = [
                json.loads(line)["text"] or "" for _, line in zip(range(250), lines, strict=False)
            ]
        parts = [[f"Poster: {a}\n", f"Other: {b}\n"] for a, b in pairwise(texts)]
        assert real.context_counts(parts, "cmv") == [length(real, "".join(both)) for both in parts]


@pytest.mark.parametrize("answered", ["post", "comment"])
def test_a_long_post_is_encoded_as_often_whatever_the_number_of_its_replies(
    counter, monkeypatch, answered
):
    encoded = 0

    def counted(method):
        def method_that_counts(self, texts):
            nonlocal encoded
            encoded += sum(map(len, texts))
            return method(self, texts)

        return method_that_counts

    for name in ("_ids", "encode"):
        monkeypatch.setattr(TextTokenizer, name, counted(getattr(TextTokenizer, name)))
    turns = [Turn("Claim", "cats"), Turn("Poster", "money noise " * 5000, is_post=True)]
    work = []
    for replies in (5, 40):
        encoded = 0
        answers = [[Turn("Other", f"{number}.")] for number in range(replies)]
        batch = [turns + (answer if answered == "comment" else []) for answer in answers]
        assert all(context.cut for context in fit_contexts(batch, counter, "cmv", 200))
        work.append(encoded)
    assert work[1] < 1.5 * work[0]
