"""Prompts: the budget holds, the claim and the answered comment stay, and what fits is not touched."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from persuasion_rl.files import UserError
from persuasion_rl.prompts import (
    CUT,
    SYSTEM,
    TASKS,
    TokenCounter,
    Turn,
    fit_context,
    read_chat_template,
    render,
)

WORDS = st.lists(
    st.sampled_from(
        ["bike", "lanes", "cost", "money", "noise", "\n\n", "the", "ß", "naïve", "日本", "🙂"]
    )
    | st.text(max_size=8),
    max_size=60,
).map(" ".join)
LINES = st.lists(
    st.sampled_from(["cats", "are", "better", "日本", "than", "dogs"]), min_size=1, max_size=12
).map(" ".join)


@pytest.fixture(scope="module")
def counter(tokenizer):
    return TokenCounter(tokenizer)


@given(text=WORDS, tokens=st.integers(0, 80))
@example(text="the", tokens=2)
@example(text="the", tokens=0)
def test_cut_middle_never_exceeds_its_tokens_and_keeps_what_fits(counter, text, tokens):
    shorter = counter.cut_middle(text, tokens)
    size = counter.counts([text])[0]
    if size <= tokens:
        assert shorter == text
        return
    assert counter.counts([shorter])[0] <= tokens
    if shorter:
        head, _, tail = shorter.partition(CUT)
        assert text.startswith(head) and text.endswith(tail)


def test_cut_middle_uses_the_room_it_has(counter):
    text = " ".join(["money", "noise"] * 100)
    for tokens in range(20, 150):
        assert counter.counts([counter.cut_middle(text, tokens)])[0] >= tokens - 4


@given(claim=LINES, middle=st.lists(WORDS, max_size=3), answered=WORDS, spare=st.integers(0, 250))
def test_a_context_keeps_its_budget_and_what_matters(counter, claim, middle, answered, spare):
    turns = [
        Turn("Claim", claim),
        *(Turn("Poster", text) for text in middle),
        Turn("Other", answered),
    ]
    whole = "\n".join(map(str, turns))
    both = f"{turns[0]}\n{turns[-1]}"
    budget = counter.counts([f"{turns[0]}\n"])[0] + spare
    context, cut = fit_context(turns, counter, budget)
    assert counter.counts([context])[0] <= budget
    assert context.startswith(f"{turns[0]}\n")
    if counter.counts([whole])[0] <= budget:
        assert (context, cut) == (whole, False)
    else:
        assert cut
    if counter.counts([both])[0] <= budget:
        assert context.endswith(f"\n{turns[-1]}")


@given(claim=LINES, middle=WORDS, answered=LINES)
def test_where_claim_and_answered_comment_just_fit_both_are_whole(counter, claim, middle, answered):
    turns = [Turn("Claim", claim), Turn("Poster", middle), Turn("Other", answered)]
    both = f"{turns[0]}\n{turns[-1]}"
    budget = counter.counts([both])[0]
    assume(counter.counts(["\n".join(map(str, turns))])[0] > budget)
    context, cut = fit_context(turns, counter, budget)
    assert cut and context.startswith(str(turns[0])) and context.endswith(str(turns[-1]))


def test_the_middle_goes_first_and_then_the_middle_of_the_answered_comment(counter):
    post = Turn("Poster", " ".join(["noise"] * 200) + " end of the post.")
    answered = Turn("Other", "It begins so. " + " ".join(["money"] * 100) + " It ends so.")
    turns = [Turn("Claim", "CMV: cats"), post, answered]
    both, short = counter.counts(
        [f"{turns[0]}\n{answered}", "Claim: CMV: cats\nOther: It begins so."]
    )
    roomy, _ = fit_context(turns, counter, both + 60)
    assert roomy.startswith("Claim: CMV: cats\nPoster: noise noise") and CUT in roomy
    assert "end of the post.\nOther: It begins" in roomy and roomy.endswith(str(answered))
    tight, _ = fit_context(turns, counter, short + 40)
    assert tight.startswith("Claim: CMV: cats\nOther: It begins so.") and tight.endswith(
        " It ends so."
    )
    assert "noise" not in tight


def test_the_plain_prompt_is_tagged_text():
    assert render("Claim: cats\nPoster: They are.", "cmv", "plain") == (
        f"[SYSTEM] {SYSTEM}\n[CONTEXT]\nClaim: cats\nPoster: They are.\n"
        "[TASK]\nWrite the next message to the poster.\n[RESPONSE]\n"
    )
    assert TASKS["p4g"] in render("Claim: x", "p4g", "plain")


def test_the_chat_prompt_is_what_the_real_template_renders(real_data):
    transformers = pytest.importorskip("transformers")
    folder = real_data / "qwen2.5-0.5b-instruct-tokenizer"
    template = (folder / "chat_template.jinja").read_text()
    prompt = render("Claim: cats", "cmv", "chat", template)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Claim: cats\n\n{TASKS['cmv']}"},
    ]
    real = transformers.AutoTokenizer.from_pretrained(folder)
    assert prompt == real.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n")


def test_a_chat_template_is_found_where_models_keep_it(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="has no chat template; use plain"):
        read_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert read_chat_template(tmp_path) == "{{ messages }}"
    (tmp_path / "chat_template.jinja").write_text("{{ own }}")
    assert read_chat_template(tmp_path) == "{{ own }}"
