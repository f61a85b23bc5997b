"""A model card: what an adapter is, how it was made, what it can do, and what it must not be used for."""

import json
from pathlib import Path

from huggingface_hub import ModelCardData

from persuasion_rl.files import read_json, write_text
from persuasion_rl.report.findings import labelled_by, notices, scaled_down, warnings
from persuasion_rl.report.plotting import page
from persuasion_rl.runtime.command import stage
from persuasion_rl.tables import read_table, rows_of

TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"


def write_model_card(
    *,
    model: str,
    study: str,
    base_source: str,
    synthetic: bool,
    sources: list[str],
    labels: str,
    ai_judge: str,
    ai_noise: float,
    human_source: str,
    human_judge: str,
    metrics: Path,
    recipe: Path,
    comparisons: Path,
    behaviour: Path,
    honesty: Path,
    trust: Path,
    splits: Path,
    max_context_tokens: int,
    max_new_tokens: int,
    output: Path,
) -> None:
    """Write a model card in the Hub's format (YAML front matter, then Markdown).

    Args:
        labels: where the preferences come from, in words; "none" for a supervised model.
        ai_judge, human_source: of the labels behind this model; "none" where it has none of the kind.
        comparisons, behaviour, honesty, trust: tables of the evaluation.
    """
    made = read_json(recipe)
    declared = rows_of(read_table(comparisons))
    trusted = rows_of(read_table(trust))
    measures = rows_of(read_table(behaviour)) + rows_of(read_table(honesty))
    own = [row for row in measures if row["player"] == model]
    judges = list(dict.fromkeys(row["judge"] for row in declared))
    front = ModelCardData(
        base_model=None if base_source == "standin" else base_source,
        language="en",
        library_name="peft",
        license="other",
        pipeline_tag="text-generation",
        tags=["persuasion", "changemyview", "lora", made["method"]],
    )
    text = page(
        TEMPLATE,
        model=model,
        study=study,
        front=front.to_yaml(),
        base_source=base_source,
        notices=notices(
            base_source,
            synthetic,
            ai_judge,
            ai_noise,
            human_source,
            human_judge,
            scaled_down(read_json(splits), max_context_tokens, max_new_tokens),
            pending=[],
        ),
        synthetic=synthetic,
        sources=sources,
        labels=labels,
        made=made,
        measured=read_json(metrics),
        recipe=json.dumps(made["recipe"], indent=2, sort_keys=True),
        evaluated=bool(own),
        limits=warnings(trusted, judges),
        labelled=labelled_by(ai_judge, human_source, human_judge),
        compared=[row for row in declared if row["player"] == model],
        trusted=[
            row for row in trusted if row["measure"] == "delta_pairs" and row["judge"] in judges
        ],
        measures=own,
    )
    write_text(output, text)


if __name__ == "__main__":
    stage(write_model_card)
