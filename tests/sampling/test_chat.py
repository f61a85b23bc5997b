"""What a model says: its reasoning is left out, whatever marks it, and nothing else is."""

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.prompts.reasoning import without_reasoning
from persuasion_rl.sampling.chat import message_text
from persuasion_rl.sampling.request import STOPPED, Sample

REASONED = {
    "<think>hm</think>Yes.": "Yes.",
    "\n<think>\n\n</think>\n\nYes.": "Yes.",
    "<thinking>hm</thinking> Yes.": "Yes.",
    "<Reasoning>\nhm\n</Reasoning>\nYes.": "Yes.",
    "[THINK]hm[/THINK]Yes.": "Yes.",
    "◁think▷hm◁/think▷Yes.": "Yes.",
    "<seed:think>hm</seed:think>Yes.": "Yes.",
    '<thinking budget="9">hm</thinking>Yes.': "Yes.",
    "<think>hm</think>Yes.<think>hm</think> No.": "Yes. No.",
    "<think>a <think> b</think>Yes.": "Yes.",  # the first end counts
    "<think>a <reasoning>b</reasoning> c</think>Yes.": "Yes.",
    "hm, the user wants</think>\n\nYes.": "Yes.",  # the prompt opened it
    "hm</think>hm</think>Yes.": "Yes.",
    "<think>hm, the limit cut": "",
    "Yes. <think>hm, the limit cut": "Yes.",
    "<think>hm</think><answer>\nYes.\n</answer>": "Yes.",
}


@pytest.mark.parametrize("text", REASONED)
def test_reasoning_is_left_out(text):
    assert without_reasoning(text) == REASONED[text]


@pytest.mark.parametrize(
    "text",
    [
        " Yes. ",
        "I think so",
        "a < think > b",
        "[think] again",
        "<thinker>",
        "<b>think</b>",
        "",
        "<answer>Yes.</answer>",
    ],
)
def test_what_is_no_reasoning_is_left_as_it_is(text):
    assert without_reasoning(text) is text


@pytest.mark.parametrize(
    ("text", "said", "reasoning"),
    [
        ("\u200b", "", 0),
        (" \ufeff\x00\n", "", 0),
        ("<think>hm</think>\u200b", "", 18),
        ("<think>hm</think> Yes.\u200d", "Yes.\u200d", 18),
    ],
)
def test_a_reply_that_shows_nothing_is_empty(text, said, reasoning):
    sample = Sample(text, 3, STOPPED)
    assert (sample.reply, sample.reasoning) == (said, reasoning)


PARTS = st.lists(
    st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "a", " ", "<", ">"])
)


@given(PARTS)
def test_no_tag_stays_and_leaving_out_twice_is_leaving_out_once(parts):
    said = without_reasoning("".join(parts))
    # A tag may come about where reasoning between its halves is left out; no model writes that.
    assert "<think>" not in said or "<<" in "".join(parts) or "<" in parts
    if "<" not in parts:
        assert "think" not in said.lower() and without_reasoning(said) == said


@given(st.text("ab .\n", min_size=1), st.text("ab .\n"))
def test_what_follows_the_reasoning_is_all_that_is_said(reply, reasoning):
    assert without_reasoning(f"<think>{reasoning}</think>{reply}") == reply.strip()


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<think ", "[", "◁", "<thinking a", "<answer>", "<think></think>"],
)
def test_twice_the_text_takes_about_twice_the_time(piece):
    def seconds(times: int) -> float:
        best = []
        for _ in range(3):
            before = process_time()
            without_reasoning(piece * times)
            best.append(process_time() - before)
        return min(best)

    assert seconds(40_000) < 5 * seconds(20_000) + 0.02


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Yes."}, ("Yes.", False)),
        ({"content": None}, ("", False)),
        ({}, ("", False)),
        ({"content": None, "reasoning_content": "hm", "reasoning": "hm"}, ("", False)),
        ({"content": "Yes.", "reasoning_content": "hm", "thinking": "hm"}, ("Yes.", False)),
        ({"content": [{"type": "text", "text": "Ye"}, {"type": "output_text", "text": "s."}]}, ("Yes.", False)),
        ({"content": ["Ye", "s."]}, ("Yes.", False)),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Yes."}]}, ("Yes.", False)),
        ({"content": [{"type": "reasoning", "text": "hm"}, {"type": "image_url", "image_url": {}}, None, 5]}, ("", False)),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, ("No.", True)),
        ({"content": None, "refusal": "No."}, ("No.", True)),
        ({"content": None, "tool_calls": [{"type": "function"}]}, ("", False)),
        ({"content": 5}, ("", False)),
    ],
)  # fmt: skip
def test_the_text_of_a_message(message, text):
    assert message_text(message) == text
