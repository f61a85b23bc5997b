"""The lineage of a model: the chain of adapters between it and the base model, held together by digests.

Every adapter is complete on the base model. Its `recipe.json` holds the digests of the base and of the parent that it
was trained from, and whoever loads it passes the files of its whole lineage. Nothing here needs torch.
"""

from pathlib import Path

from persuasion_rl.files import UserError, file_digest, read_json, text_digest
from persuasion_rl.study.base_folder import check_files
from persuasion_rl.study.names import (
    MODEL_FILES,
    TRAINED_FILES,
    WEIGHTS,
    files_beside,
    weight_files,
)

ADAPTER_CONFIG, RECIPE = TRAINED_FILES["config"], TRAINED_FILES["recipe"]
LINEAGE_KEYS = ("base_digest", "parent", "parent_digest", "adapter_digest", "config_digest")


def base_digest(base: Path) -> str:
    """SHA-256 of the base model's weights; of the digests of all their files where there are several.

    Raises:
        UserError: the folder is no whole model.
    """
    check_files(base)
    names = weight_files(str(base))
    if names == [WEIGHTS]:
        return file_digest(base / WEIGHTS)
    return text_digest(*[f"{name} {file_digest(base / name)}" for name in names])


def settings_digest(base: Path) -> str:
    """A digest of what decides a base model's texts besides its weights: its configuration, tokenizer, template, code."""
    files = [base / name for name in MODEL_FILES if name != WEIGHTS]
    files += map(Path, files_beside(str(base)))
    return text_digest(*[f"{file.name} {file_digest(file)}" for file in files if file.is_file()])


def check_lineage(base: Path, adapters: list[Path]) -> str:
    """Check that each adapter was trained from the one before it.

    Args:
        adapters: the adapter files from the first one above the base to the model's own; may be empty.

    Returns:
        The digest of the last adapter, or of the base where there is none.

    Raises:
        UserError: an adapter is of another base or parent, or not the file that its record describes.
    """
    digest = root = base_digest(base)
    for adapter in adapters:
        recipe = read_json(adapter.parent / RECIPE)
        missing = [key for key in LINEAGE_KEYS if key not in recipe]
        if missing:
            raise UserError(f"{adapter.parent / RECIPE}: the key {missing[0]!r} is missing")
        if recipe["base_digest"] != root:
            raise UserError(f"{adapter}: was trained on another base model than {base}")
        if recipe["parent_digest"] != digest:
            raise UserError(
                f"{adapter}: its parent {recipe['parent']} has changed since it was trained;"
                " ask for the adapter again to train it from the parent that is there"
            )
        if recipe["adapter_digest"] != file_digest(adapter):
            raise UserError(f"{adapter}: is not the file that its {RECIPE} describes")
        if recipe["config_digest"] != file_digest(adapter.parent / ADAPTER_CONFIG):
            raise UserError(
                f"{adapter.parent / ADAPTER_CONFIG}: is not the file that {RECIPE} describes; its scale would"
                " be another one"
            )
        digest = recipe["adapter_digest"]
    return digest
