"""A model card: what an adapter is, how it was made, and what it must not be taken for."""

import json
from pathlib import Path

from persuasion_rl.command import stage
from persuasion_rl.files import read_json, write_text


def write_model_card(
    *,
    model: str,
    study: str,
    base_source: str,
    labels: str,
    metrics: Path,
    recipe: Path,
    output: Path,
) -> None:
    """Write a model card in the Hub's format (YAML front matter, then Markdown).

    Args:
        labels: where the preferences come from, in words; "none" for a supervised model.
    """
    measured, made = read_json(metrics), read_json(recipe)
    losses = f"{measured['eval_loss_before']:.4f} before, {measured['eval_loss']:.4f} after"
    front = {"library_name": "peft", "tags": ["persuasion", "changemyview", measured["method"]]}
    if base_source != "standin":
        front["base_model"] = base_source
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    write_text(
        output,
        f"""---
{json.dumps(front)}
---
# {model} (study {study})

A LoRA adapter, complete on its base model ({base_source}), trained with {measured["method"].upper()} from
`{made["parent"]}` by persuasion-rl.

- Labels: {labels}
- Rows: {measured["train_rows"]:,} to train, {measured["val_rows"]:,} to validate; {measured["steps"]:,} steps
- Validation loss: {losses}
- Seed {made["seed"]}, device {made["device"]}; {packages}
- Base weights (SHA-256): `{made["base_digest"]}`
- Parent weights (SHA-256): `{made["parent_digest"]}`

## Recipe
```json
{json.dumps(made["recipe"], indent=2, sort_keys=True)}
```

## Limits
Made to study persuasion, not to persuade anybody. It was not checked for truthfulness: it may invent facts
and experiences. Do not put it in front of people who do not know that they talk to a model.
""",
    )


if __name__ == "__main__":
    stage(write_model_card)
