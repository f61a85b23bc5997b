"""Groups of arguments that the trainings share; `runtime.command` makes flags of their fields."""

from dataclasses import dataclass, field
from pathlib import Path

from persuasion_rl.models.arguments import DeviceArguments
from persuasion_rl.training.tokenize import Tokens


@dataclass(kw_only=True)
class JobArguments(DeviceArguments):
    """Settings passed to every training besides its data and its recipe.

    Attributes:
        base: the folder of the base model.
        adapter: the file to write; the training's records go beside it.
        state: the model's own folder for checkpoints, which outlives a failed job.
        tracking: where and under which name the training is tracked (`runtime.tracking.start_tracking`).
    """

    base: Path
    adapter: Path
    state: Path
    tracking: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class PolicyArguments:
    """The training data of a language model, and the model that it starts from.

    Attributes:
        train, val: tables of tokens, as `training.tokenize` writes them.
        parent: the name of the model to start from.
        lineage: the adapters from the base to that model, its own last; empty if it is the base.
    """

    train: Path
    val: Path
    parent: str = "base"
    lineage: list[Path] = field(default_factory=list)

    def read_tokens(self, max_length: int) -> dict[str, Tokens]:
        """The tables "train" and "val".

        Raises:
            UserError: a row is longer than `max_length` tokens.
        """
        tables = {"train": Tokens.read(self.train), "val": Tokens.read(self.val)}
        for tokens in tables.values():
            tokens.refuse_long(max_length)
        return tables
