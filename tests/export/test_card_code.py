"""The code that a model card shows runs as it stands, and asks the model as the study does."""

import re
from pathlib import Path

import pytest

from persuasion_rl.export.export_model import export_model
from persuasion_rl.files import write_json
from persuasion_rl.prompts.tokens import TextTokenizer
from persuasion_rl.report.notices import PUBLISHED, StudyFacts
from persuasion_rl.report.write_model_card import Loading, write_model_card

FACTS = StudyFacts(
    base_source="standin", synthetic=True, ai_judge="none", ai_noise=0.0, human_source="none", human_judge="none",
    max_context_tokens=700, max_new_tokens=12,
)  # fmt: skip
TABLES = {
    "comparisons": "player,against,judge",
    "behaviour": "player,measure",
    "honesty": "player,measure",
    "trust": "judge,measure",
}


@pytest.fixture(scope="module")
def folder(tiny_rows, tiny_sft, tmp_path_factory) -> Path:
    """A study's folder with a base model, an adapter, the merged model, and what a card is made of."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(tiny_rows.base)
    (folder / "models/sft").symlink_to(tiny_sft.parent)
    export_model(
        base=tiny_rows.base, lineage=[tiny_sft], output=folder / "exported/sft",
        temperature=0.7, top_p=0.9, max_new_tokens=12,
    )  # fmt: skip
    for name, columns in TABLES.items():
        (folder / f"{name}.csv").write_text(columns + "\n")
    sizes = {name: {"used": 10**6, "planned": 10**6} for name in PUBLISHED}
    write_json(folder / "splits.json", {"parts": sizes})
    return folder


def card(folder: Path, prompt_format: str, merged: bool = False) -> str:
    loading = Loading(
        base="models/base", adapter="models/sft", exported="exported/sft", prompt_format=prompt_format,
        prompt_source="cmv", temperature=0.7, top_p=0.9,
    )  # fmt: skip
    own = folder / "models/sft"
    write_model_card(
        model="sft", study="tiny", facts=FACTS, loading=loading, sources=["cmv"], labels="none", merged=merged,
        metrics=own / "metrics.json", recipe=own / "recipe.json", splits=folder / "splits.json",
        output=folder / "card.md", **{name: folder / f"{name}.csv" for name in TABLES},
    )  # fmt: skip
    return (folder / "card.md").read_text()


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_the_code_of_a_card_runs_and_asks_as_the_study_does(folder, prompt_format, monkeypatch):
    tokenizer = TextTokenizer(folder / "models/base", prompt_format)
    thread = "Claim: We should close the zoos\nPoster: The animals suffer there."
    (ids,) = tokenizer.prompt_ids([tokenizer.format.render(thread, "cmv")])
    codes = re.findall(r"```python\n(.+?)```", card(folder, prompt_format), re.S)
    assert len(codes) == 2, "adapter and merged model"
    monkeypatch.chdir(folder)
    for code in codes:
        names = {}
        exec(code, names)
        assert names["inputs"]["input_ids"].tolist() == [ids]
        assert len(ids) < names["reply"].shape[1] <= len(ids) + 12


def test_the_card_of_merged_weights_says_so(folder):
    adapter, merged = card(folder, "plain"), card(folder, "plain", merged=True)
    assert "library_name: peft" in adapter and "\nA LoRA adapter, complete on" in adapter
    assert "library_name: transformers" in merged and "- lora\n" not in merged
    assert "adapter merged into them, which was trained with SFT from `base`" in merged
    assert "ollama create tiny-sft -f exported/sft/Modelfile" in merged
