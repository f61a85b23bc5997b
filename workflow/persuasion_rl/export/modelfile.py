"""Writes what Ollama is told of a model: a Modelfile with the study's frame of prompts, its sampling, and what ends a reply."""

from pathlib import Path
from typing import Any

from persuasion_rl.export.llama_tokenizer import CONVERTER
from persuasion_rl.files import UserError
from persuasion_rl.prompts.templates import special_tokens
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.prompts.wording import task

PROMPT = "{{ .Prompt }}"
"""Where Ollama puts what the user writes: the thread, as "Claim: ...", then "Poster: ...", as the study's contexts are."""


def modelfile_text(
    gguf: str,
    model: Path,
    prompt_format: str,
    source: str,
    parameters: dict[str, Any],
    stops: list[str],
    add_bos: bool,
) -> str:
    """The text of a Modelfile.

    Args:
        gguf: the name of the GGUF file beside it. model: the folder of the model, for its chat template.
        prompt_format: "plain" or "chat". source: of the prompts, "cmv" or "p4g".
        parameters: Ollama's names -> values. stops: the texts of the tokens that end a reply.
        add_bos: whether llama.cpp puts BOS in front, so that the template must not.

    Raises:
        UserError: the frame has braces or quotes that a Modelfile cannot hold, or a stop has quotes.
    """
    before, behind = frame(model, prompt_format, source)
    if add_bos:
        before = before.removeprefix(special_tokens(model).get("bos_token", ""))
    if any(sign in before + behind for sign in ("{{", "}}", '"""')):
        raise UserError(_not_held(model, "its chat template writes '{{' or three quotes"))
    if quoted := [stop for stop in stops if '"' in stop]:
        raise UserError(_not_held(model, f"the token {quoted[0]}, which has a quote, ends a reply"))
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{before}{PROMPT}{behind}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def _not_held(model: Path, why: str) -> str:
    return f"{model}: {why}, so no Modelfile of Ollama can hold it; use prompt_format: plain, or that folder: {CONVERTER}"


def frame(model: Path, prompt_format: str, source: str) -> tuple[str, str]:
    """What stands before and behind the context in every prompt of a source.

    Args:
        model: the folder of a base or merged model.
    """
    form = TextTokenizer(model, prompt_format).format
    return form.before, form.between + task(source) + form.after
