"""A model's own chat template as a `PromptFormat`, whatever family the model is of."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from persuasion_rl.files import UserError, read_json
from persuasion_rl.prompts.reasoning import opens_reasoning
from persuasion_rl.prompts.wording import PLAIN, SYSTEM, PromptFormat

MARK = 'What "they" said: it\'s <1 & >0,\n\n{ naïve }!'
"""Stands for people's text when a template is rendered: a template that changes text changes it."""
DATE = datetime(2024, 7, 26)
"""The date for templates that ask for it, or prompts would change from day to day."""
NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_format(base: Path, name: str) -> PromptFormat:
    """The form of prompts of a name: "plain", or "chat" for the chat template in the folder of a model.

    The template is rendered once, with a mark for people's text, which it never sees: it cannot act on what they wrote.
    Where it takes no message of the system, or drops it, the system's line begins the user's message.

    Raises:
        UserError: there is no template, or it cannot be served.
    """
    if name == PLAIN.name:
        return PLAIN
    place_and_template = read_template(base)
    if place_and_template is None:
        raise UserError(f"prompt_format: chat, but {base} has no chat template; use plain")
    file, template = place_and_template
    special = special_tokens(base)
    user = {"role": "user", "content": MARK}
    try:
        rendered = _render(template, [{"role": "system", "content": SYSTEM}, user], special)
    except Exception:
        rendered = ""
    before_context = ""
    if SYSTEM not in rendered.partition(MARK)[0]:
        before_context = f"{SYSTEM}\n\n"
        try:
            rendered = _render(template, [user], special)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{file}: the chat template cannot be rendered: {reason}") from None
    if rendered.count(MARK) != 1:
        raise UserError(
            f"{file}: the chat template must show the user's text once and unchanged; use prompt_format: plain"
        )
    before, after = rendered.split(MARK)
    end = special.get("eos_token")
    if end and after.rstrip().endswith(end):
        raise UserError(
            f"{file}: the chat template ends a prompt with {end}, where a reply should begin; use prompt_format: plain"
        )
    if opens_reasoning(after):
        raise UserError(
            f"{file}: the chat template opens the model's reasoning where a reply should begin ({after[-40:].strip()!r}), so"
            " replies would be learned and sampled as reasoning; use prompt_format: plain, or name a copy of the model whose"
            " template closes it again, as <think></think> does"
        )
    return PromptFormat("chat", before + before_context, "\n\n", after)


def read_template(base: Path) -> tuple[Path, str] | None:
    """The file of a model's chat template, and its text, found as transformers finds it; None where there is none."""
    file = base / "chat_template.jinja"
    if file.is_file():
        return file, file.read_text(encoding="utf-8")
    template = tokenizer_config(base).get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}.get("default")
    return None if template is None else (base / "tokenizer_config.json", template)


def tokenizer_config(base: Path) -> dict[str, Any]:
    """The content of a model's tokenizer_config.json, laid over that of special_tokens_map.json.

    Raises:
        UserError: one of them is no object.
    """
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (base / name).is_file():
            content = read_json(base / name)
            if not isinstance(content, dict):
                raise UserError(f"{base / name}: holds no object")
            merged |= {key: value for key, value in content.items() if value is not None}
    return merged


def special_tokens(base: Path) -> dict[str, str]:
    """A tokenizer's named tokens ("bos_token", "eos_token", ...) as text; those that it has."""
    config = tokenizer_config(base)
    named = {f"{name}_token": config.get(f"{name}_token") for name in NAMED_TOKENS}
    return {name: spelling(token) for name, token in named.items() if token}


def spelling(token: str | dict[str, Any]) -> str:
    """The text of a token in a tokenizer's configuration, which may be an object."""
    return token["content"] if isinstance(token, dict) else token


class _Generation(Extension):
    """The tag `generation`, around what a model says; it changes nothing."""

    tags: ClassVar = {"generation"}

    def parse(self, parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _render(template: str, messages: list[dict[str, str]], special: dict[str, str]) -> str:
    """A conversation up to where the model answers, as transformers' `apply_chat_template` renders it but for the date.

    That needs two seconds to be imported, which the plan does not have.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": DATE.strftime}
    return environment.from_string(template).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, **special
    )


def _to_json(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **form)


def _raise(message: str) -> None:
    raise TemplateError(message)
