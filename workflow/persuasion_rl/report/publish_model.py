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
    check_publication(namespace, base_source, [name])
    with tempfile.TemporaryDirectory() as staging:
        _stage(folder, base_source, Path(staging))
        send(Path(staging), f"{namespace}/{name}", "model", private, output)


def send(staging: Path, repository: str, kind: str, private: bool, output: Path) -> None:
    """Upload a folder to a repository as one commit, and record what was sent.

    Args:
        kind: of repository, "model" or "dataset". private: of a repository that is new.

    Raises:
        UserError: no token, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub_token()
    api = HfApi()
    try:
        api.create_repo(repository, private=private, repo_type=kind, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=staging,
            commit_message=f"{repository.rpartition('/')[2]}, by persuasion-rl",
        )
    except (HfHubHTTPError, OSError) as error:
        reasons = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"publish: {repository} was not written: {reasons[0]}") from None
    sent = sorted(path for path in staging.rglob("*") if path.is_file())
    files = {str(path.relative_to(staging)): file_digest(path) for path in sent}
    write_json(output, {"repository": repository, "commit": commit.oid, "files": files})
    note(f"{repository}: {commit.oid}")


def _stage(folder: Path, base_source: str, staging: Path) -> None:
    """Put the files that are uploaded into a folder."""
    for name in (WEIGHTS, RECIPE, CARD):
        (staging / name).symlink_to((folder / name).resolve())
    settings = read_json(folder / SETTINGS) | {"base_model_name_or_path": base_source}
    (staging / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")


if __name__ == "__main__":
    stage(publish_model)
