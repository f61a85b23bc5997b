"""Reports trainings to Weights & Biases if the config says so. No training depends on it or waits for it.

history.jsonl and the report's curves are made in any case.
"""

import os
import sys
from pathlib import Path
from typing import Any

from persuasion_rl.runtime.command import is_main_process, note

WAITS_S = 30
"""Seconds that the server may take to answer."""


def start_tracking(
    config: dict[str, Any],
    mode: str = "off",
    project: str | None = None,
    name: str | None = None,
    folder: str = ".",
) -> list[str]:
    """Open a run of Weights & Biases and return the value of transformers' `report_to`.

    Without a key, or if the server does not answer in time, an online run becomes an offline one: its files wait in
    `folder` for `wandb sync`.

    Args:
        config: the settings that the run's page shows.
        mode: "off", "offline" or "online". The key is the environment's WANDB_API_KEY.
        project, name: the project and the name of the run.
        folder: for the run's files.

    Returns:
        ["wandb"], or [] if the training is not tracked.
    """
    if mode == "off" or not is_main_process():
        return []
    import wandb

    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        note("wandb: no WANDB_API_KEY, so this run is kept offline; `wandb sync` sends it")
        mode = "offline"
    os.environ |= {"WANDB_SILENT": "true", "WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false"}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for attempt in dict.fromkeys((mode, "offline")):
        settings = wandb.Settings(
            init_timeout=WAITS_S, login_timeout=WAITS_S, finish_timeout=2 * WAITS_S
        )
        try:
            wandb.init(
                project=project, name=name, dir=folder, mode=attempt, config=config, settings=settings
            )  # fmt: skip
            return ["wandb"]
        except (wandb.errors.Error, OSError) as error:
            note(f"wandb: the {attempt} run did not start ({' '.join(str(error).split())[:200]})")
    note("wandb: this training is not tracked; history.jsonl has all of it")
    return []


def end_tracking() -> None:
    """Close the run, if one is open."""
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()
