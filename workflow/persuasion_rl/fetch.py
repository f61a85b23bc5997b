"""Fetches what comes from outside: corpora through ConvoKit's download, base models from the Hub."""

import shutil
import tempfile
from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.corpus import read_corpus
from persuasion_rl.files import UserError


def fetch_corpus(*, name: str, output: Path) -> None:
    """Download a ConvoKit corpus, check that it can be read, and move it to folder `output` when whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{name}.") as temporary:
        try:
            from convokit import download

            folder = Path(download(name, data_dir=temporary))
        except Exception as error:  # ConvoKit raises whatever its transport raises
            raise UserError(
                f"cannot download {name} ({type(error).__name__}: {error}); download it by hand from"
                " https://convokit.cornell.edu/documentation/datasets.html and set corpora_dir to the"
                f" folder that holds {name}/"
            ) from None
        read_corpus(folder)
        _move_into(folder, output)
    note(f"{name} is in {output}")


def fetch_base_model(*, source: str, revision: str, output: Path) -> None:
    """Download a model's weights, configuration and tokenizer at a pinned revision into folder `output`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        try:
            from huggingface_hub import snapshot_download

            snapshot_download(
                source,
                revision=revision,
                local_dir=temporary,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
            )
        except Exception as error:  # the Hub's client raises many kinds
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot download {source} at {revision} ({type(error).__name__}: {reason}); where there"
                " is no network, set models.base.source to a local folder"
            ) from None
        _move_into(Path(temporary), output)
    note(f"{source} is in {output}")


def _move_into(folder: Path, output: Path) -> None:
    """Move a folder's files; Snakemake has made `output` itself already."""
    output.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        target = output / path.name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.move(path, target)


if __name__ == "__main__":
    stage(fetch_corpus, fetch_base_model)
