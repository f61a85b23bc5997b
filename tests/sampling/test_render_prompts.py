"""Prompts that are rendered for players in their own format."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError, read_jsonl, write_jsonl
from persuasion_rl.prompts.templates import read_format
from persuasion_rl.prompts.wording import PLAIN, SYSTEM, TASKS, PromptFormat
from persuasion_rl.sampling.render_prompts import render_prompts
from persuasion_rl.study.loading import load_config
from tiny_models import sft_row

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXTS = ["Claim: CMV: cars are bad\nPoster: They are loud.", "Claim: [TASK]\nPoster: <|end|> é"]


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.sampled_from(sorted(TASKS)),
)
def test_a_context_comes_back_from_its_prompt(context, source):
    assert PLAIN.context_of(PLAIN.render(context, source), source) == context


@pytest.fixture
def chat(tmp_path) -> PromptFormat:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "chat_template.jinja").write_text(TEMPLATE)
    return read_format(tmp_path / "base", "chat")


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_comes_back_from_a_chat(context, chat):
    assert chat.context_of(chat.render(context, "cmv"), "cmv") == context


def test_a_prompt_of_another_format_is_refused(chat):
    with pytest.raises(UserError, match="not a prompt of the format plain"):
        PLAIN.context_of(chat.render("a", "cmv"), "cmv")
    with pytest.raises(UserError, match="not a prompt of the format chat"):
        chat.context_of(chat.before + chat.after, "cmv")


@pytest.fixture
def prompts_of_player(tmp_path, chat):
    """A function that renders two prompts for a player; their human replies have 4 and 57 words."""
    prompts = [
        {
            "prompt": PLAIN.render(context, "cmv"),
            "metadata": {"prompt_id": f"p{i}", "conversation_id": "c", "source": "cmv"},
        }
        for i, context in enumerate(CONTEXTS)
    ]
    replies = ["But they are useful.", "word " * 57]
    held_out = [sft_row(row["prompt"], reply) for row, reply in zip(prompts, replies, strict=True)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    write_jsonl(tmp_path / "held_out.jsonl", held_out)

    def run(**settings) -> list[str]:
        render_prompts(
            prompts=tmp_path / "prompts.jsonl", held_out=tmp_path / "held_out.jsonl",
            output=tmp_path / "asked.jsonl", study_format="plain", study_base=tmp_path / "base",
            player_base=tmp_path / "base", **settings,
        )  # fmt: skip
        rows = list(read_jsonl(tmp_path / "asked.jsonl"))
        assert [{key: row[key] for key in ("prompt", "metadata")} for row in rows] == prompts
        return [row["asked"] for row in rows]

    return run


def test_a_player_is_asked_by_its_own_chat_template(prompts_of_player, chat):
    prompts = prompts_of_player(player_format="chat", match_length=False)
    assert prompts == [chat.render(context, "cmv") for context in CONTEXTS]


def test_a_control_of_length_is_asked_for_the_human_replys_words(prompts_of_player):
    short, long = prompts_of_player(player_format="plain", match_length=True)
    assert "Use about 10 words." in short and "Use about 60 words." in long


def test_an_endpoint_gets_a_conversation(prompts_of_player):
    for text, context in zip(
        prompts_of_player(player_format="messages", match_length=False), CONTEXTS, strict=True
    ):
        system, user = json.loads(text)
        assert system == {"role": "system", "content": SYSTEM}
        assert user["content"] == f"{context}\n\n{TASKS['cmv']}"


STUDY = {
    "study": "x",
    "models": {"base": {"source": "org/name"}, "sft": {"parent": "base", "method": "sft"}},
}


def with_player(**player) -> dict:
    evaluation = {"players": ["base", "sft", "other"], "other_players": {"other": player}}
    return load_config({**STUDY, "evaluation": evaluation}).resolved()


@pytest.mark.parametrize(
    "player, expected",
    [
        ({}, "needs one of model, source and endpoint"),
        ({"model": "base", "source": "a/b"}, "needs one of model, source and endpoint"),
        ({"model": "stf"}, "unknown model 'stf'"),
        ({"endpoint": "https://localhost/v1"}, "endpoint and served_model go together"),
        (
            {"endpoint": "https://u:secretsecret@localhost/v1", "served_model": "m"},
            "looks like a key",
        ),
        ({"model": "base", "format": "chat"}, "unknown key"),
    ],
)
def test_a_mistake_in_a_player_is_one_line(player, expected):
    with pytest.raises(UserError, match=r"evaluation.other_players.other") as raised:
        with_player(**player)
    assert expected in str(raised.value) and "\n" not in str(raised.value)
    assert "secretsecret" not in str(raised.value)


def test_players_have_their_defaults_and_models_none():
    study = with_player(model="base")
    assert study["evaluation"]["other_players"]["other"] == {
        "model": "base", "revision": "main", "prompt_format": "chat", "match_length": False,
    }  # fmt: skip
    assert study["models"] == STUDY["models"]
