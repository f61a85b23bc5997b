"""The study on one page: what was asked, what came out with its intervals, what it was made from.

One HTML file with everything inside; figures are inline SVG. It says wherever labels are simulated, the
base model is a stand-in, or a branch is pending. It reads the files that it is given; only what jobs cost it looks for
itself, since that is no input.
"""

from dataclasses import dataclass
from pathlib import Path

from persuasion_rl.files import as_made, read_made, write_text
from persuasion_rl.records import HistoryRow, read_rows
from persuasion_rl.report.costs import api_cost, costs_of
from persuasion_rl.report.figures import (
    honesty_figure,
    length_figure,
    lineage_figure,
    loss_figure,
    matrix_figure,
    ranking_figure,
    trust_figure,
    truth_figure,
    variants_figure,
)
from persuasion_rl.report.findings import findings
from persuasion_rl.report.judge_findings import BASELINES
from persuasion_rl.report.notices import StudyFacts, notices, warnings
from persuasion_rl.report.plotting import page
from persuasion_rl.report.pool_labels import label_table
from persuasion_rl.report.provenance import commit, made_from
from persuasion_rl.report.report_data import funnel_figure, shortage
from persuasion_rl.report.samples import samples
from persuasion_rl.report.study_tables import ReportFiles, Tables
from persuasion_rl.runtime.command import note, stage

TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"
OF_DELTA_JUDGE = (
    *("train_rows", "steps", "trainable_parameters", "eval_loss_before", "eval_loss"),
    "eval_accuracy",
)
OF_ANSWERS = (
    *("answered", "pairs", "annotators", "flagged", "agreement", "kappa", "alpha", "consistency"),
)
"""Keys of JSON files that the page shows."""
LABELLERS = "labellers"
"""Whom the table of trust has beside the judges: every two of a pool's."""


@dataclass(frozen=True)
class Costs:
    """Where costs are read from. They are no inputs: both change with every job, and either may be absent.

    Attributes:
        benchmarks: the folder of Snakemake's benchmark files. llm_answers: the store of answers of language models.
    """

    benchmarks: Path | None = None
    llm_answers: Path | None = None


def report_study(
    *,
    files: ReportFiles,
    facts: StudyFacts,
    costs: Costs,
    study: str,
    players: list[str],
    sample_replies: int,
    draws: int,
    seed: int,
    config_file: str,
    study_folder: str,
    output: Path,
    figures: Path,
    pending: list[str] = [],
) -> None:
    """Write the report of a study, and its figures as files.

    Args:
        players: in the order in which they are shown; `responses` has a file of each.
        sample_replies: prompts that are shown side by side. draws: of the bootstrap behind the intervals.
        config_file: what the study is run with. study_folder: the study's folder seen from the page, "" where the page
            lies in it.
        figures: the folder that gets the figures, as SVG. pending: the models that wait for people's labels.
    """
    tables = Tables.read(files)
    labelled = facts.labelled_by()
    judges = list(dict.fromkeys(row["judge"] for row in tables.win_rates))
    trusted = list(dict.fromkeys([*judges, *(row["judge"] for row in tables.trust)]))
    ranked_by = list(dict.fromkeys(row["judge"] for row in tables.ranking))
    # A judge that had a part in the labels has a star.
    titles = {j: f"{j}*" if j in labelled else j for j in ranked_by + trusted}
    splits = read_made(files.splits, "sft_to_rlaif", "sft_to_rlhf")
    with as_made(files.splits):
        warnings_shown = [*notices(facts, splits, pending), *shortage(splits)]
    processing = {
        source: read_made(path, "made.examples", "read.utterances")
        for source, path in files.counts.items()
    }
    drawings = _drawings(tables, titles, judges, trusted, ranked_by, players)
    drawings["training"] = loss_figure(_histories(files, tables.models))
    for name, counts in processing.items():
        with as_made(files.counts[name]):
            drawings[f"funnel_{name}"] = funnel_figure(name, counts)
    drawings = {name: drawing for name, drawing in drawings.items() if drawing}
    rules, unread = costs_of(costs.benchmarks) if costs.benchmarks else ([], [])
    for problem in unread:
        note(f"left out of the costs: {problem}")
    text = page(
        TEMPLATE,
        study=study,
        notices=[*warnings(tables.trust, judges), *warnings_shown],
        findings=findings(tables, judges=judges, ranked_by=ranked_by, labelled=labelled),
        figures=drawings,
        synthetic=facts.synthetic,
        differences=tables.differences,
        judges=judges,
        shown=titles,
        baselines=BASELINES,
        trusted=trusted,
        labelled=labelled,
        shares={row["judge"]: row["shares_weights"] for row in tables.trust},
        win_rates=_titled(tables.win_rates, titles),
        trust=tables.trust_measures,
        declared=_titled(tables.declared, titles),
        power=tables.power,
        made_from=made_from(files.recipes, files.delta_judge["recipe"], files.prompts),
        commit=commit(),
        draws=draws,
        config_file=config_file,
        seed=seed,
        behaviour=tables.behaviour,
        honesty=tables.honesty,
        equal_honesty=_titled(tables.equal_honesty, titles),
        models=tables.models,
        seeds=tables.seeds,
        delta_judge=read_made(files.delta_judge["metrics"], *OF_DELTA_JUDGE),
        study_folder=study_folder,
        splits=splits,
        processing=processing,
        labels=label_table(files.pool_counts, files.pool_pairs),
        answers=read_made(files.answers, *OF_ANSWERS) if files.answers else None,
        pools=list(files.pool_counts),
        simulated=facts.human_source == "simulated",
        api=api_cost(costs.llm_answers) if costs.llm_answers else None,
        costs=[
            {"rule": cost.rule, "seconds": round(cost.seconds), "memory": round(cost.memory)}
            for cost in rules
        ],
        seconds=sum(cost.seconds for cost in rules),
        unread=unread,
        samples=samples(
            files.responses,
            {judge: files.verdicts[judge] for judge in judges},
            players,
            tables.models,
            sample_replies,
        ),
        players=players,
    )
    for name, drawing in drawings.items():
        write_text(figures / f"{name}.svg", drawing)
    write_text(output, text)
    note(f"{output}: {len(text) / 1e6:.1f} MB, {len(drawings)} figures in {figures}")


def _drawings(
    tables: Tables,
    titles: dict[str, str],
    judges: list[str],
    trusted: list[str],
    ranked_by: list[str],
    players: list[str],
) -> dict[str, str]:
    """Name -> figure, of what the tables tell; empty where there is nothing to draw.

    Args:
        titles: judge -> its name on the page. judges: those that evaluate. trusted: those whose trust is measured.
        ranked_by: those that have a ranking, and people where they voted.
    """
    win_rates, ranking = _titled(tables.win_rates, titles), _titled(tables.ranking, titles)
    measured = [titles[judge] for judge in trusted if judge != LABELLERS]
    lengths = _lengths(tables.behaviour, players)
    return {
        "lineage": lineage_figure(tables.models),
        **({"truth": truth_figure(tables.truth)} if tables.truth else {}),
        **{f"win_rates_{j}": matrix_figure(titles[j], win_rates, players) for j in judges},
        "ranking": ranking_figure(ranking, [titles[judge] for judge in ranked_by]),
        "length": length_figure(win_rates, lengths, [titles[judge] for judge in judges]),
        "trust": trust_figure(_titled(tables.trust, titles), measured),
        "honesty": honesty_figure(tables.honesty, players),
        "variants": variants_figure(tables.models),
    }


def _titled(rows: list[dict], titles: dict[str, str]) -> list[dict]:
    """Rows of a table with the judges' names as they stand on the page."""
    return [{**row, "judge": titles[row["judge"]]} for row in rows]


def _lengths(behaviour: list[dict], players: list[str]) -> dict[str, float]:
    """Mean words of a reply."""
    (row,) = (row for row in behaviour if row["measure"] == "words")
    return {player: row[player]["value"] for player in players}


def _histories(files: ReportFiles, models: list[dict]) -> dict[str, list[list[HistoryRow]]]:
    """Histories of what differs in nothing but the seed, by its first model; and that of the delta judge."""
    histories: dict[str, list[list[HistoryRow]]] = {}
    for row in models:
        history = list(read_rows(files.histories[row["model"]], HistoryRow))
        histories.setdefault(row["group"], []).append(history)
    delta_judge = list(read_rows(files.delta_judge["history"], HistoryRow))
    return histories | {"delta judge": [delta_judge]}


if __name__ == "__main__":
    stage(report_study)
