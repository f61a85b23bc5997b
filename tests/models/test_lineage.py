"""The lineage of adapters: a chain that does not fit is refused with the name of what does not fit."""

import shutil
from pathlib import Path

import pytest

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.models.lineage import base_digest, check_lineage
from persuasion_rl.study.names import MODEL_FILES
from tiny_trainings import ADAPTER, train_dpo, train_sft, training_run


@pytest.fixture
def chain(tmp_path) -> tuple[Path, list[Path]]:
    """A base folder and two adapters, one on the other, with the records that a training writes."""
    from persuasion_rl.training.trainer import write_record

    base = tmp_path / "base"
    base.mkdir()
    for name in MODEL_FILES:
        (base / name).write_text(f"this is {name}")
    parent, digest = "base", base_digest(base)
    adapters = []
    for name in ("sft", "rlaif"):
        adapter = tmp_path / name / ADAPTER
        adapter.parent.mkdir()
        adapter.write_text(f"weights of {name}")
        (adapter.parent / "adapter_config.json").write_text(f'{{"r": 8, "of": "{name}"}}')
        run = training_run(tmp_path, parent=parent, parent_digest=digest, adapter=adapter)
        write_record(run, history=[], metrics={}, batches={}, resolved={})
        parent, digest = name, file_digest(adapter)
        adapters.append(adapter)
    return base, adapters


def test_a_chain_that_fits_is_accepted(chain):
    base, (sft, rlaif) = chain
    assert check_lineage(base, []) == base_digest(base) == file_digest(base / "model.safetensors")
    assert check_lineage(base, [sft]) == file_digest(sft)
    assert check_lineage(base, [sft, rlaif]) == file_digest(rlaif)


def assert_refused(base: Path, adapters: list[Path], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        check_lineage(base, adapters)
    assert "\n" not in str(error.value)


def test_a_parent_that_was_trained_again_is_refused(chain):
    base, (sft, rlaif) = chain
    sft.write_text("other weights of sft")
    recipe = read_json(sft.parent / "recipe.json")
    write_json(sft.parent / "recipe.json", recipe | {"adapter_digest": file_digest(sft)})
    check_lineage(base, [sft])
    assert_refused(base, [sft, rlaif], "its parent sft has changed")


def test_a_chain_without_its_parent_is_refused(chain):
    base, (_, rlaif) = chain
    assert_refused(base, [rlaif], "its parent sft has changed")


def test_another_base_is_refused(chain):
    base, adapters = chain
    (base / "model.safetensors").write_text("another model")
    assert_refused(base, adapters, "another base model")


def test_an_adapter_file_that_its_recipe_does_not_describe_is_refused(chain):
    base, (sft, rlaif) = chain
    rlaif.write_text("weights from elsewhere")
    assert_refused(base, [sft, rlaif], r"rlaif.*is not the file that its recipe\.json describes")


def test_an_adapter_whose_scale_was_changed_is_refused(chain):
    base, (sft, rlaif) = chain
    (rlaif.parent / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 1}')
    assert_refused(base, [sft, rlaif], r"rlaif/adapter_config\.json: is not the file")


@pytest.mark.parametrize("key", ["parent_digest", "base_digest", "adapter_digest"])
def test_a_record_that_lacks_a_key_is_named(chain, key):
    base, (sft, rlaif) = chain
    recipe = read_json(sft.parent / "recipe.json")
    write_json(sft.parent / "recipe.json", {k: v for k, v in recipe.items() if k != key})
    assert_refused(base, [sft, rlaif], rf"sft/recipe\.json: the key '{key}' is missing")


@pytest.mark.parametrize("name", MODEL_FILES)
def test_an_incomplete_base_is_refused(chain, name):
    base, adapters = chain
    (base / name).unlink()
    assert_refused(base, adapters, f"{name} is missing")


@pytest.mark.slow
def test_an_adapter_on_the_wrong_parent_is_refused(tiny_rows, tiny_sft, tiny_dpo, tmp_path):
    other = tmp_path / "other"
    train_sft(tiny_rows, other, seed=2)
    assert_refused(tiny_rows.base, [other / ADAPTER, tiny_dpo], "its parent sft has changed")
    # The parent was trained again in its place, with another result.
    shutil.copytree(tiny_sft.parent, tmp_path / "sft", ignore=shutil.ignore_patterns("state"))
    for name in (ADAPTER, "recipe.json", "adapter_config.json"):
        shutil.copyfile(other / name, tmp_path / "sft" / name)
    assert_refused(
        tiny_rows.base, [tmp_path / "sft" / ADAPTER, tiny_dpo], "its parent sft has changed"
    )
    with pytest.raises(UserError, match="its parent sft has changed"):
        train_dpo(tiny_rows, tmp_path / "next", tiny_dpo)
