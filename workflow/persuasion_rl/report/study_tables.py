"""The inputs of the report by their names, and its tables as rows."""

from dataclasses import dataclass, field
from pathlib import Path

from persuasion_rl.evaluation.measures import NOT_MEASURED
from persuasion_rl.tables import read_table, rows_of


@dataclass(frozen=True)
class ReportFiles:
    """The inputs of a report, each by its name.

    Attributes:
        tables: the tables of the evaluation by their names (win_rates, ranking, comparisons, power, behaviour, honesty,
            equal_honesty; of a synthetic study truth and truth_differences).
        trust: the table of `judges.judge_trust`. models_table, seeds_table: those of `report.compare_models`.
        verdicts: judge -> its verdicts. responses: player -> its replies.
        histories, recipes: trained model -> its history.jsonl, its recipe.json.
        delta_judge: metrics, history and recipe of the delta judge.
        prompts: the held-out prompts. splits: the summary of `data.split`.
        counts: source ("cmv", "p4g") -> the counts of its processing.
        pool_counts, pool_pairs: pool -> the counts of its responses, the report of its preference pairs.
        answers: how annotators agree, where there are human labels. arena: the ranking by people's votes, if any.
    """

    tables: dict[str, Path]
    trust: Path
    models_table: Path
    seeds_table: Path
    verdicts: dict[str, Path]
    responses: dict[str, Path]
    delta_judge: dict[str, Path]
    prompts: Path
    splits: Path
    counts: dict[str, Path]
    histories: dict[str, Path] = field(default_factory=dict)
    recipes: dict[str, Path] = field(default_factory=dict)
    pool_counts: dict[str, Path] = field(default_factory=dict)
    pool_pairs: dict[str, Path] = field(default_factory=dict)
    answers: Path | None = None
    arena: Path | None = None


@dataclass(frozen=True)
class Tables:
    """The tables of a study as rows, their numbers as numbers; empty where it has none.

    Attributes:
        behaviour, honesty, trust_measures: a row a measure, with the row of each player or judge that has it.
    """

    win_rates: list[dict] = field(default_factory=list)
    ranking: list[dict] = field(default_factory=list)
    declared: list[dict] = field(default_factory=list)
    power: list[dict] = field(default_factory=list)
    equal_honesty: list[dict] = field(default_factory=list)
    truth: list[dict] = field(default_factory=list)
    differences: list[dict] = field(default_factory=list)
    trust: list[dict] = field(default_factory=list)
    models: list[dict] = field(default_factory=list)
    seeds: list[dict] = field(default_factory=list)
    behaviour: list[dict] = field(default_factory=list)
    honesty: list[dict] = field(default_factory=list)
    trust_measures: list[dict] = field(default_factory=list)

    @classmethod
    def read(cls, files: ReportFiles) -> "Tables":
        """Read the tables of a report.

        Raises:
            UserError: a file is no table.
        """
        rows = {name: rows_of(read_table(path)) for name, path in files.tables.items()}
        votes = rows_of(read_table(files.arena)) if files.arena else []
        trust = rows_of(read_table(files.trust))
        return cls(
            win_rates=rows["win_rates"],
            ranking=rows["ranking"] + votes,
            declared=rows["comparisons"],
            power=rows["power"],
            equal_honesty=rows["equal_honesty"],
            truth=rows.get("truth", []),
            differences=rows.get("truth_differences", []),
            trust=trust,
            models=rows_of(read_table(files.models_table)),
            seeds=rows_of(read_table(files.seeds_table)),
            behaviour=_by_measure(rows["behaviour"], "player"),
            honesty=_by_measure(rows["honesty"], "player"),
            trust_measures=_by_measure(trust, "judge"),
        )


def _by_measure(rows: list[dict], whose: str) -> list[dict]:
    """A row a measure, with the row of each player or judge (the column `whose`) that has it; "missing" where it is not
    measured of any."""
    measures: dict[str, dict] = {}
    for row in rows:
        measure = measures.setdefault(
            row["measure"], {"measure": row["measure"], "unit": row.get("unit", "")}
        )
        measure[row[whose]] = row
        measure["missing"] = measure.get("missing", True) and row["value"] == NOT_MEASURED
    return list(measures.values())
