"""Puts a trained model on the Hugging Face Hub; nothing else of the workflow sends anything there."""

import json
import tempfile
from pathlib import Path

from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.keys import check_hub_token
from persuasion_rl.study.checks import check_publication
from persuasion_rl.study.names import TRAINED_FILES

WEIGHTS, SETTINGS, RECIPE = (TRAINED_FILES[name] for name in ("adapter", "config", "recipe"))
CARD = "README.md"


def publish_model(
    *, folder: Path, base_source: str, namespace: str, name: str, private: bool, output: Path
) -> None:
    """Upload an adapter with its settings, recipe and model card as one commit, and record what was sent.

    The token is HF_TOKEN, or the one of `hf auth login`. The adapter's settings name the base model as the Hub does,
    not as this machine's folders do.

    Args:
        folder: models/{model} of a study. namespace: a user or an organisation. private: of a repository that is new.

    Raises:
        UserError: no namespace, no token, a base model that is not on the Hub, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_publication(namespace, base_source, [name])
    check_hub_token()
    repository = f"{namespace}/{name}"
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as staging:
            file_digests = _stage(folder, base_source, Path(staging))
            commit = api.upload_folder(
                repo_id=repository, folder_path=staging, commit_message=f"{name}, by persuasion-rl"
            )
    except (HfHubHTTPError, OSError) as error:
        reasons = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"publish: {repository} was not written: {reasons[0]}") from None
    write_json(output, {"repository": repository, "commit": commit.oid, "files": file_digests})
    note(f"{repository}: {commit.oid}")


def _stage(folder: Path, base_source: str, staging: Path) -> dict[str, str]:
    """Put the files that are uploaded into a folder; returns name -> SHA-256."""
    for name in (WEIGHTS, RECIPE, CARD):
        (staging / name).symlink_to((folder / name).resolve())
    settings = read_json(folder / SETTINGS) | {"base_model_name_or_path": base_source}
    (staging / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return {path.name: file_digest(path) for path in sorted(staging.iterdir())}


if __name__ == "__main__":
    stage(publish_model)
