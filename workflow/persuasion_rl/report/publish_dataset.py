"""Puts the exported rows of a study on the Hugging Face Hub, where its settings ask for it."""

import tempfile
from pathlib import Path

from persuasion_rl.report.publish_model import send
from persuasion_rl.runtime.command import stage
from persuasion_rl.study.checks import check_repositories


def publish_dataset(
    *, folder: Path, files: list[Path], namespace: str, name: str, private: bool, output: Path
) -> None:
    """Upload the data set of a study as one commit, and record what was sent.

    Args:
        folder: the folder of `export_dataset`. files: those in it that are sent.
        namespace: a user or an organisation. private: of a repository that is new.

    Raises:
        UserError: no namespace, no token, or the Hub refuses.
    """
    check_repositories(namespace, [name])
    with tempfile.TemporaryDirectory() as staging:
        for file in files:
            link = Path(staging, file.relative_to(folder))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file.resolve())
        send(Path(staging), f"{namespace}/{name}", "dataset", private, output)


if __name__ == "__main__":
    stage(publish_dataset)
