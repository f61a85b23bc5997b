"""Chat templates of every family: rendered as transformers renders them, or refused in one line."""

import json

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.prompts.templates import read_format
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.prompts.wording import PLAIN, SYSTEM, TASKS, messages
from tokenizer_kinds import DATED, TEMPLATES, TURNS, WITHOUT_SYSTEM, write_base


def test_the_plain_prompt_is_tagged_text():
    assert PLAIN.render("Claim: cats\nPoster: They are.", "cmv") == (
        f"[SYSTEM] {SYSTEM}\n[CONTEXT]\nClaim: cats\nPoster: They are.\n"
        "[TASK]\nWrite the next message to the poster.\n[RESPONSE]\n"
    )
    assert TASKS["p4g"] in PLAIN.render("Claim: x", "p4g")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_a_chat_is_what_transformers_makes_of_it(name, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    base = write_base(tmp_path, kind, TEMPLATES[name], begins=True)
    theirs = transformers.AutoTokenizer.from_pretrained(base)
    context = 'Claim: cats & dogs\nPoster: {{ They }} <b>are</b>  "it".'
    system, user = messages(context, "p4g", words=20)
    if name in WITHOUT_SYSTEM:
        system, user["content"] = None, f"{SYSTEM}\n\n{user['content']}"
    conversation = [message for message in (system, user) if message]
    prompt = theirs.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    ids = theirs(prompt, add_special_tokens=False)["input_ids"]
    tokenizer = TextTokenizer(base, "chat")
    assert tokenizer.format.render(context, "p4g", words=20) == prompt
    assert tokenizer.prompt_ids([prompt]) == [ids]


def test_the_real_template(real_data):
    transformers = pytest.importorskip("transformers")
    folder = real_data / "qwen2.5-0.5b-instruct-tokenizer"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = read_format(folder, "chat").render("Claim: cats", "cmv")
    conversation = messages("Claim: cats", "cmv")
    assert prompt == theirs.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>assistant\n")


def test_a_template_never_sees_what_people_wrote(tmp_path):
    """Some act on words in a message: Qwen 3 on /no_think."""
    acts = "{% for m in messages %}{% if '/no_think' in m.content %}forged{% endif %}{{ m.content }}{% endfor %}"
    form = read_format(write_base(tmp_path, "byte_level", acts), "chat")
    assert "forged" not in form.render("Claim: /no_think", "cmv")


def test_a_date_is_always_the_same(tmp_path):
    form = read_format(write_base(tmp_path, "byte_level", DATED), "chat")
    assert form.before.startswith("26 Jul 2024 <|im_start|>")


def test_a_template_is_found_where_models_keep_it(tmp_path):
    base = write_base(tmp_path, "byte_level")
    with pytest.raises(UserError, match="has no chat template; use plain"):
        read_format(base, "chat")
    own = TURNS.replace("<|im_end|>", "END")
    write_base(tmp_path, "byte_level", chat_template=own)
    assert "END" in read_format(base, "chat").before
    named = [{"name": "tool_use", "template": "{{ x }}"}, {"name": "default", "template": own}]
    write_base(tmp_path, "byte_level", chat_template=named)
    assert "END" in read_format(base, "chat").before
    write_base(tmp_path, "byte_level", TURNS, chat_template=own)
    assert "END" not in read_format(base, "chat").before


@pytest.mark.parametrize(
    "template, why",
    [
        ("{% for m in messages %}", "cannot be rendered: "),
        ("{{ raise_exception('only\nwith tools') }}", "cannot be rendered: only with tools"),
        ("{{ messages[7]['content'] }}", "cannot be rendered: "),
        ("{{ strftime_then() }}", "cannot be rendered: 'strftime_then' is undefined"),
        ("{{ messages[-1].content | upper }}", "once and unchanged"),
        ("{{ messages[-1].content | tojson }}", "once and unchanged"),
        ("{{ messages[-1].content * 2 }}", "once and unchanged"),
        ("{{ messages[-1].content[0].text }}", "once and unchanged"),
        ("nothing", "once and unchanged"),
        ("{% for m in messages %}{{ m.content + eos_token }}\n{% endfor %}", "ends a prompt with </s>"),
        (TURNS + "<think>\n", "opens the model's reasoning where a reply should begin ('<|im_end|>\\n<|im_start|>assistant\\n<think>')"),
        (TURNS + "[THINK]", "use prompt_format: plain, or name a copy of the model whose template closes it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_that_cannot_be_served_is_one_line(template, why, place, tmp_path):
    inside = {"chat_template": template} if place == "tokenizer_config.json" else {}
    base = write_base(tmp_path, "byte_level", None if inside else template, **inside)
    with pytest.raises(UserError) as raised:
        read_format(base, "chat")
    assert why in str(raised.value) and str(base / place) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_reasoning_that_a_template_opens_and_closes_again_is_served(tmp_path):
    """Qwen 3 where it is not to think."""
    base = write_base(tmp_path, "byte_level", f"<think>{TURNS}<think>\n\n</think>\n\n")
    assert read_format(base, "chat").after.endswith("assistant\n<think>\n\n</think>\n")


def test_tokens_are_text_for_a_template_however_they_are_written(tmp_path):
    token = {"content": "<s>", "lstrip": False, "special": True}
    base = write_base(tmp_path, "byte_level", TEMPLATES["llama_3"], bos_token=token)
    assert read_format(base, "chat").before.startswith("<s><|start_header_id|>system")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None}))
    with pytest.raises(UserError, match="'bos_token' is undefined"):
        read_format(base, "chat")
