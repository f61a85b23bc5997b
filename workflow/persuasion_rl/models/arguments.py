"""Groups of arguments that stages with a model share; `runtime.command` makes flags of their fields."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class DeviceArguments:
    """How a job that loads a model runs.

    Attributes:
        seed: of whatever is drawn at random.
        threads: CPU threads of torch.
        device: "auto", "cuda" or "cpu".
        trust_remote_code: whether the code that a model brings may run.
    """

    seed: int
    threads: int
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(kw_only=True)
class ModelArguments(DeviceArguments):
    """A model of the study, and how it is loaded to be measured.

    Attributes:
        base: the folder of the base model.
        lineage: the adapters from the first one above the base to the model's own; none where it is the base.
    """

    base: Path
    lineage: list[Path] = field(default_factory=list)
