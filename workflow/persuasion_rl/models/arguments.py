"""Groups of arguments that stages with a model share; `runtime.command` makes flags of their fields."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class DeviceArguments:
    """Settings passed to jobs that load a model.

    Attributes:
        seed: for everything random.
        threads: CPU threads of torch. Stages of which many run side by side take one.
        device: "auto", "cuda" or "cpu".
        trust_remote_code: whether code in a model's folder may run.
    """

    seed: int
    threads: int = 1
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(kw_only=True)
class ModelArguments(DeviceArguments):
    """A model of the study, and how to load it for measuring.

    Attributes:
        base: the folder of the base model.
        lineage: the adapters from the first one above the base to the model's own; empty if it is the base.
        prompt_format: "plain" or "chat", the form that the prompts are in.
    """

    base: Path
    prompt_format: str = "plain"
    lineage: list[Path] = field(default_factory=list)
