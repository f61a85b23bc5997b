"""The inputs of the report by their names, and its tables as rows."""

from dataclasses import dataclass, field
from pathlib import Path

from persuasion_rl.evaluation.games import RANKING
from persuasion_rl.evaluation.measures import COLUMNS as MEASURES
from persuasion_rl.evaluation.measures import NOT_MEASURED
from persuasion_rl.evaluation.tables import DECLARED, POWER, WIN_RATES
from persuasion_rl.files import MADE_AGAIN, UserError
from persuasion_rl.judges.judge_trust import COLUMNS as TRUST
from persuasion_rl.report.compare_models import MODEL_COLUMNS, SEED_COLUMNS
from persuasion_rl.study.names import BASE
from persuasion_rl.tables import made_rows

COLUMNS_OF: dict[str, tuple[list[str], list[str]]] = {
    "win_rates": (WIN_RATES, WIN_RATES[3:]),
    "equal_honesty": (WIN_RATES, WIN_RATES[3:]),
    "ranking": (RANKING, []),
    "comparisons": (DECLARED, [*DECLARED[3:8], "seeds"]),
    "power": (POWER, POWER[1:]),
    "behaviour": (MEASURES, []),
    "honesty": (MEASURES, ["value"]),
    "truth": (["model", "mean", "low", "high"], ["mean"]),
    "truth_differences": (["model", "against", "difference", "low", "high"], ["difference"]),
}
"""Table of the evaluation -> its columns, and those of them that have a number in every row."""


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
            UserError: a file is no table, or lacks a column, a row or a number that the workflow writes.
        """
        rows = {
            name: made_rows(path, *COLUMNS_OF[name], words=[NOT_MEASURED])
            for name, path in files.tables.items()
        }
        votes = made_rows(files.arena, *COLUMNS_OF["ranking"]) if files.arena else []
        trust = made_rows(files.trust, TRUST, TRUST[2:5])
        models = made_rows(files.models_table, MODEL_COLUMNS)
        _refuse_missing_rows(files, rows, models)
        return cls(
            win_rates=rows["win_rates"],
            ranking=rows["ranking"] + votes,
            declared=rows["comparisons"],
            power=rows["power"],
            equal_honesty=rows["equal_honesty"],
            truth=rows.get("truth", []),
            differences=rows.get("truth_differences", []),
            trust=trust,
            models=models,
            seeds=made_rows(files.seeds_table, SEED_COLUMNS),
            behaviour=_by_measure(rows["behaviour"], "player"),
            honesty=_by_measure(rows["honesty"], "player"),
            trust_measures=_by_measure(trust, "judge"),
        )


def _refuse_missing_rows(
    files: ReportFiles, rows: dict[str, list[dict]], models: list[dict]
) -> None:
    """UserError where a row is missing, or is of a judge, a player or a model that the study has not."""
    for name, known in (("win_rates", files.verdicts), ("comparisons", files.verdicts), ("equal_honesty", files.verdicts),
                        ("ranking", files.verdicts)):  # fmt: skip
        if others := [row["judge"] for row in rows[name] if row["judge"] not in known]:
            raise UserError(
                f"{files.tables[name]}: no judge of the study is {others[0]!r}: {MADE_AGAIN}"
            )
    for name in ("behaviour", "honesty"):
        measured = {(row["measure"], row["player"]) for row in rows[name]}
        needed = {measure for measure, _ in measured} if name == "honesty" else {"words"}
        needed = {(measure, player) for measure in needed for player in files.responses}
        if missing := sorted(needed - measured):
            measure, player = missing[0]
            raise UserError(
                f"{files.tables[name]}: no row of {measure!r} of {player!r}: {MADE_AGAIN}"
            )
    names = [row["model"] for row in models]
    if sorted(names) != sorted(files.histories):
        odd = min({*names} ^ {*files.histories}, default="a model twice")
        raise UserError(
            f"{files.models_table}: its models are not those of the study ({odd}): {MADE_AGAIN}"
        )
    for row in models:
        if (
            row["parent"] not in (BASE, *names)
            or row["group"] not in names
            or row["method"] not in ("sft", "dpo")
        ):
            raise UserError(
                f"{files.models_table}: {row['model']}: no such parent, group or method: {MADE_AGAIN}"
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
