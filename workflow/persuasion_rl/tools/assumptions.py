"""The doctor's assumptions: prices and speeds of rented GPUs, and numbers about studies and machines.

They are in assumptions.yaml, each with its date and source.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

TABLE = Path(__file__).with_name("assumptions.yaml")


@dataclass(frozen=True)
class Gpu:
    """A GPU for rent: peak dense 16-bit TFLOP/s, and USD an hour."""

    name: str
    tflops: float
    usd_per_hour: float


@dataclass(frozen=True)
class Assumptions:
    """The content of the table, which states the units."""

    gpus: list[Gpu]
    prices_are: str
    row_tokens: int
    prompt_tokens: int
    supervised_share: float
    delta_pairs: int
    peak_share: float
    cuda_gb: float
    corpus_gb: dict[str, float]
    other_corpus_gb: float
    hub_model_gb: float
    example_kb: float
    trained_model_gb: float
    synthetic_study_gb: float

    @classmethod
    def read(cls, table: Path = TABLE) -> "Assumptions":
        rows = yaml.safe_load(table.read_text(encoding="utf-8"))
        gpus = [
            Gpu(name, row["tflops"], row["usd_per_hour"]) for name, row in rows.pop("gpus").items()
        ]
        prices_are = rows.pop("prices_are")
        return cls(gpus, prices_are, **{name: row["value"] for name, row in rows.items()})


ASSUMED = Assumptions.read()
