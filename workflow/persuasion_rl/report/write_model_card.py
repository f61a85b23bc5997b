"""Writes a model card: what an adapter is, how it was made, what it can do, and what it must not be used for."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from persuasion_rl.files import read_json, read_made, write_text
from persuasion_rl.prompts.wording import PLAIN, messages, task
from persuasion_rl.report.notices import StudyFacts, notices, warnings
from persuasion_rl.report.plotting import page
from persuasion_rl.runtime.command import stage
from persuasion_rl.study.names import kind_of
from persuasion_rl.tables import read_table, rows_of

TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"


@dataclass(frozen=True)
class Loading:
    """How a reader loads the model and asks it, as code in the card.

    Attributes:
        base: the base model as transformers loads it: a name on the Hub or a folder. revision: of a name on the Hub.
        adapter: the adapter as peft loads it. exported: the folder of the merged model and the GGUF file.
        prompt_format: the study's, "plain" or "chat". prompt_source: of its prompts, "cmv" or "p4g".
        temperature, top_p: the study's sampling.
    """

    base: str
    adapter: str
    exported: str
    prompt_format: str
    prompt_source: str
    temperature: float
    top_p: float
    revision: str | None = None


def write_model_card(
    *,
    model: str,
    study: str,
    facts: StudyFacts,
    loading: Loading,
    sources: list[str],
    labels: str,
    metrics: Path,
    recipe: Path,
    comparisons: Path,
    behaviour: Path,
    honesty: Path,
    trust: Path,
    splits: Path,
    output: Path,
    origin: Path | None = None,
    merged: bool = False,
) -> None:
    """Write a model card in the Hub's format (YAML front matter, then Markdown).

    Args:
        facts: about the labels behind this model only, "none" for a kind without labels.
        loading: how the model is loaded.
        sources: sources of the examples ("cmv", "p4g").
        labels: where the preferences come from, in words; "none" for a supervised model.
        metrics, recipe: of the model's training.
        comparisons, behaviour, honesty, trust: tables of the evaluation. splits: the summary of `data.split`.
        origin: what the base model was unpacked from (`models.unpack`); None for one that was not.
        merged: whether the card is of the merged model, and not of the adapter.
    """
    training = read_json(recipe)
    declared = rows_of(read_table(comparisons))
    trust_rows = rows_of(read_table(trust))
    measures = rows_of(read_table(behaviour)) + rows_of(read_table(honesty))
    model_measures = [row for row in measures if row["player"] == model]
    judges = list(dict.fromkeys(row["judge"] for row in declared))
    front = ModelCardData(
        base_model=facts.base_source if kind_of(facts.base_source) == "hub" else None,
        language="en",
        library_name="transformers" if merged else "peft",
        license="other",
        pipeline_tag="text-generation",
        tags=[
            "persuasion",
            "changemyview",
            *([] if merged else ["lora"]),
            training["method"],
        ],
    )
    text = page(
        TEMPLATE,
        model=model,
        study=study,
        merged=merged,
        loading=loading,
        # As strings of Python.
        before=json.dumps(PLAIN.before),
        behind=json.dumps(PLAIN.between + task(loading.prompt_source) + PLAIN.after),
        said=[json.dumps(each["content"]) for each in messages("", loading.prompt_source)],
        max_new_tokens=facts.max_new_tokens,
        front=front.to_yaml(),
        base_source=facts.base_source,
        origin=read_made(origin, "file", "sha256", "licence") if origin else None,
        notices=notices(facts, read_json(splits), pending=[]),
        synthetic=facts.synthetic,
        sources=sources,
        labels=labels,
        made=training,
        measured=read_json(metrics),
        recipe=json.dumps(training["recipe"], indent=2, sort_keys=True),
        evaluated=bool(model_measures),
        limits=warnings(trust_rows, judges) if judges else [],
        labelled=facts.labelled_by(),
        compared=[row for row in declared if row["player"] == model],
        trusted=[
            row for row in trust_rows if row["measure"] == "delta_pairs" and row["judge"] in judges
        ],
        measures=model_measures,
    )
    write_text(output, text)


if __name__ == "__main__":
    stage(write_model_card)
