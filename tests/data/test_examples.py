"""Rows from turns and a response: within the budget, in either format, whatever the texts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.data.contexts import Turn
from persuasion_rl.data.examples import Budget, Draft, RowMaker
from persuasion_rl.files import UserError, write_jsonl
from persuasion_rl.training.tokenize import Tokens, tokenize
from small_corpora import WIDE
from tokenizer_kinds import TURNS, write_base

TEXTS = st.lists(
    st.sampled_from(["cats", "are", "clean", "dogs.", "日本", "\n\n", "> so?"]),
    min_size=1,
    max_size=60,
).map(lambda words: " ".join(words).strip() or "x")


CHATS = st.builds(
    lambda claim, post, comments: [
        Turn("Claim", claim.replace("\n", " ")),
        Turn("Poster", post, is_post=True),
        *(Turn(role, text) for role, text in comments),
    ],
    TEXTS,
    TEXTS,
    st.lists(st.tuples(st.sampled_from(["Poster", "Persuader", "Other"]), TEXTS), max_size=3),
)


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def row_maker(tokenizer, tmp_path_factory):
    """A function that makes a RowMaker with a budget, for either prompt format."""
    base = tmp_path_factory.mktemp("base")
    (base / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return lambda budget: RowMaker("cmv", base / "tokenizer.json", budget)


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@given(chats=st.lists(st.tuples(CHATS, TEXTS, TEXTS), min_size=1, max_size=3), data=st.data())
def test_prompt_and_response_fit_and_the_context_does_not_depend_on_the_response(
    row_maker, prompt_format, chats, data
):
    budget = Budget(
        min_tokens=data.draw(st.integers(1, 10)),
        max_tokens=data.draw(st.integers(20, 120)),
        max_context_tokens=data.draw(st.integers(10, 200)),
        max_seq_length=data.draw(st.integers(80, 300)),
        prompt_format=prompt_format,
    )
    maker = row_maker(budget)
    first = maker.rows([Draft(turns, response, {}) for turns, response, _ in chats])
    other = maker.rows([Draft(turns, response, {}) for turns, _, response in chats])
    for one, two, (_, response, _) in zip(first, other, chats, strict=True):
        if isinstance(one, dict) and isinstance(two, dict):
            assert one["input_text"] == two["input_text"]
        reasons = {"response_too_short", "response_too_long", "over_max_seq_length"}
        if "answered_comment_too_long" in (one, two):
            assert one == two
        elif isinstance(one, str):
            assert one in reasons
        else:
            (prompt,), (response_ids,) = (
                maker.tokenizer.prompt_ids([one["input_text"]]),
                maker.tokenizer.response_ids([response], ended=False),
            )
            prompt_tokens, response_tokens = len(prompt), len(response_ids)
            assert one["response"] == response
            assert one["full_text"] == one["input_text"] + response
            assert budget.min_tokens <= response_tokens + 1 <= budget.max_tokens
            assert prompt_tokens + response_tokens + 1 <= budget.max_seq_length
            assert one["metadata"]["response_tokens"] == response_tokens + 1
            assert one["metadata"]["context_tokens"] <= budget.max_context_tokens


def test_the_chat_format_needs_a_template(tokenizer):
    with pytest.raises(UserError, match="chat template"):
        RowMaker("cmv", tokenizer, replace(WIDE, prompt_format="chat"))


IDS = {"conversation_id": "c", "utterance_id": "u", "reply_to": "r"}


@pytest.mark.parametrize("form", ["plain", "chat"])
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "unigram"])
def test_a_row_that_is_kept_is_never_longer_when_it_is_trained_on(kind, form, tmp_path):
    """BOS, EOS and the frame count: what the data stage keeps at a limit, a training with that max_length takes."""
    base = write_base(tmp_path, kind, TURNS, begins=True, ends=True)
    turns = [Turn("Claim", "buses"), Turn("Poster", "They are slow, naïve and loud.", True)]
    responses = ["so " * count for count in range(1, 12)]
    drafts = [Draft(turns, text.strip(), IDS) for text in responses]
    wide = RowMaker("cmv", base, replace(WIDE, prompt_format=form)).rows(drafts)
    write_jsonl(tmp_path / "rows.jsonl", wide)
    tokenize(rows=tmp_path / "rows.jsonl", base=base, output=tmp_path / "ids", prompt_format=form)
    lengths = Tokens.read(tmp_path / "ids").lengths()
    assert len(set(lengths)) == len(responses)
    for limit in lengths:
        budget = replace(WIDE, prompt_format=form, max_seq_length=limit)
        kept = [isinstance(row, dict) for row in RowMaker("cmv", base, budget).rows(drafts)]
        assert kept == [length <= limit for length in lengths]
