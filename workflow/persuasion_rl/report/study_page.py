"""The study on one page: what was asked, what came out with its intervals, what it was made from.

One HTML file with everything inside; figures are inline SVG. It says wherever labels are simulated, the
base model is a stand-in, or a branch is pending.
"""

import subprocess
from importlib.metadata import version
from pathlib import Path

from persuasion_rl.evaluation.measures import NOT_MEASURED
from persuasion_rl.files import file_digest, read_json, read_jsonl, write_text
from persuasion_rl.judges.base import POINTS
from persuasion_rl.report.costs import api_cost, costs_of
from persuasion_rl.report.data_page import funnel_figure, shortage
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
from persuasion_rl.report.findings import (
    BASELINES,
    HUMAN,
    LABELLERS,
    findings,
    labelled_by,
    notices,
    scaled_down,
    warnings,
)
from persuasion_rl.report.plotting import page
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.tables import read_table, rows_of

COUNTED_BY = ("numpy", "scipy")
TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"


def write_report(
    *,
    folder: Path,
    trust: Path,
    models_table: Path,
    seeds_table: Path,
    scope: str,
    study: str,
    players: list[str],
    models: list[str],
    pools: list[str],
    sources: list[str],
    base_source: str,
    synthetic: bool,
    ai_judge: str,
    ai_noise: float,
    human_source: str,
    human_judge: str,
    sample_replies: int,
    draws: int,
    study_folder: str,
    config_file: str,
    seed: int,
    output: Path,
    figures: Path,
    max_context_tokens: int,
    max_new_tokens: int,
    pending: list[str] = [],
    arena: list[Path] = [],
) -> None:
    """Read the study's tables from `folder` (results/{study}) and write the report, and its figures as files.

    Args:
        trust: the table of `trust.judge_trust`. models_table, seeds_table: those of `variants.compare_models`.
        scope: "evaluation" or "unattended": where the others are.
        models: the trained models. pending: the models that wait for people's labels.
        sources: where examples come from ("cmv", "p4g"). study_folder: `folder` seen from the page, "" where it
            lies in it.
        ai_judge, human_source: "none" where there are no such labels.
        figures: a folder for the figures, as SVG.
        arena: the ranking by people's votes, if there are any.
    """
    tables = folder / scope
    win_rates = rows_of(read_table(tables / "win_rates.csv"))
    ranking = rows_of(read_table(tables / "ranking.csv"))
    declared = rows_of(read_table(tables / "comparisons.csv"))
    power = rows_of(read_table(tables / "power.csv"))
    behaviour = _measures(rows_of(read_table(tables / "behaviour.csv")), "player")
    honesty = _measures(rows_of(read_table(tables / "honesty.csv")), "player")
    trust_rows = rows_of(read_table(trust))
    truth = rows_of(read_table(tables / "truth.csv")) if synthetic else []
    differences = rows_of(read_table(tables / "truth_differences.csv")) if synthetic else []
    model_rows = rows_of(read_table(models_table))
    histories = {name: list(read_jsonl(folder / f"models/{name}/history.jsonl")) for name in models}
    histories = {
        **_by_group(model_rows, histories),
        "delta judge": [list(read_jsonl(folder / "judges/delta/history.jsonl"))],
    }
    judges = list(dict.fromkeys(row["judge"] for row in win_rates))
    trusted = list(dict.fromkeys([*judges, *(row["judge"] for row in trust_rows)]))
    for votes in arena:
        ranking += rows_of(read_table(votes))
    ranked_by = list(dict.fromkeys(row["judge"] for row in ranking))
    labelled = labelled_by(ai_judge, human_source, human_judge)

    def shown(judge: str) -> str:
        return f"{judge}*" if judge in labelled else judge

    def marked(rows: list[dict]) -> list[dict]:
        return [{**row, "judge": shown(row["judge"])} for row in rows]

    splits = read_json(folder / "splits/summary.json")
    processing = {s: read_json(folder / f"processed/{s}_counts.json") for s in sources}
    drawn = {
        "lineage": lineage_figure(model_rows),
        **({"truth": truth_figure(truth)} if synthetic else {}),
        **{
            f"win_rates_{judge}": matrix_figure(shown(judge), marked(win_rates), players)
            for judge in judges
        },
        "ranking": ranking_figure(marked(ranking), list(map(shown, ranked_by))),
        "length": length_figure(
            marked(win_rates), _lengths(behaviour, players), list(map(shown, judges))
        ),
        "trust": trust_figure(
            marked(trust_rows), [shown(judge) for judge in trusted if judge != LABELLERS]
        ),
        "honesty": honesty_figure(honesty, players),
        "variants": variants_figure(model_rows),
        "training": loss_figure(histories),
        **{f"funnel_{s}": funnel_figure(s, counts) for s, counts in processing.items()},
    }
    drawn = {name: text for name, text in drawn.items() if text}
    costs = costs_of(folder)
    text = page(
        TEMPLATE,
        study=study,
        notices=[
            *warnings(trust_rows, judges),
            *notices(
                base_source,
                synthetic,
                ai_judge,
                ai_noise,
                human_source,
                human_judge,
                scaled_down(splits, max_context_tokens, max_new_tokens),
                pending,
            ),
            *shortage(splits),
        ],
        findings=findings(
            judges=judges,
            ranked_by=ranked_by,
            labelled=labelled,
            differences=differences,
            truth=truth,
            ranking=ranking,
            declared=declared,
            win_rates=win_rates,
            trust=trust_rows,
            power=power,
            behaviour=behaviour,
            honesty=honesty,
            models=model_rows,
        ),
        figures=drawn,
        synthetic=synthetic,
        differences=differences,
        judges=judges,
        shown={judge: shown(judge) for judge in ranked_by + trusted},
        baselines=BASELINES,
        trusted=trusted,
        labelled=labelled,
        shares={row["judge"]: row["shares_weights"] for row in trust_rows},
        win_rates=marked(win_rates),
        trust=_measures(rows_of(read_table(trust)), "judge"),
        declared=marked(declared),
        power=power,
        made_from=_made_from(folder, models),
        commit=_commit(),
        draws=draws,
        config_file=config_file,
        seed=seed,
        behaviour=behaviour,
        honesty=honesty,
        equal_honesty=marked(rows_of(read_table(tables / "equal_honesty.csv"))),
        models=model_rows,
        seeds=rows_of(read_table(seeds_table)),
        delta_judge=read_json(folder / "judges/delta/metrics.json"),
        study_folder=study_folder,
        splits=splits,
        processing=processing,
        labels=_label_table(folder, pools),
        answers=read_json(folder / "preferences/human_answers.json") if HUMAN in pools else None,
        pools=pools,
        simulated=human_source == "simulated",
        api=api_cost(folder),
        costs=[
            {"rule": cost.rule, "seconds": round(cost.seconds), "memory": round(cost.memory)}
            for cost in costs
        ],
        seconds=sum(cost.seconds for cost in costs),
        samples=_samples(folder, tables / "verdicts", judges, players, model_rows, sample_replies),
        players=players,
    )
    for name, figure in drawn.items():
        write_text(figures / f"{name}.svg", figure)
    write_text(output, text)
    note(f"{output}: {len(text) / 1e6:.1f} MB, {len(drawn)} figures in {figures}")


def _measures(rows: list[dict], whose: str) -> list[dict]:
    """A row a measure, with the row of each player or judge (the column `whose`) that has it; "missing" where it is not
    measured of any."""
    found: dict[str, dict] = {}
    for row in rows:
        one = found.setdefault(
            row["measure"], {"measure": row["measure"], "unit": row.get("unit", "")}
        )
        one[row[whose]] = row
        one["missing"] = one.get("missing", True) and row["value"] == NOT_MEASURED
    return list(found.values())


def _lengths(behaviour: list[dict], players: list[str]) -> dict[str, float]:
    """Mean words of a reply."""
    (row,) = (row for row in behaviour if row["measure"] == "words")
    return {player: row[player]["value"] for player in players}


def _made_from(folder: Path, models: list[str]) -> dict:
    """Python, packages and digests: of weights and of the rows that they learned from, as the recipes have them, of the
    judge that learns and of the prompts that all players answer."""
    recipes = {name: read_json(folder / f"models/{name}/recipe.json") for name in models}
    first = next(iter(recipes.values()), {})
    digests = {"base": first.get("base_digest", "")}
    digests |= {name: recipe["adapter_digest"] for name, recipe in recipes.items()}
    for name, recipe in recipes.items():
        digests |= {f"{name}, {rows} rows": digest for rows, digest in recipe["data"].items()}
    digests["delta judge"] = read_json(folder / "judges/delta/recipe.json")["adapter_digest"]
    digests["prompts of the evaluation"] = file_digest(
        folder / "preferences/final_eval_prompts.jsonl"
    )
    return {
        "python": first.get("python", "unknown"),
        "packages": first.get("packages", {}) | {name: version(name) for name in COUNTED_BY},
        "digests": digests,
    }


def _commit() -> str:
    """The commit of the code that writes this page, and whether files differ from it; "" outside a git checkout."""
    asked = [
        "git",
        "-C",
        str(TEMPLATE.parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _label_table(folder: Path, pools: list[str]) -> list[tuple[str, list[str]]]:
    """What the labels of the pools are like: rows of a name and a text a pool."""
    columns = [
        _label_column(
            read_json(folder / f"preferences/{pool}_pool_counts.json"),
            read_json(folder / f"preferences/{pool}_pairs.json"),
        )
        for pool in pools
    ]
    names = columns[0] if columns else []
    return [(name, [column[name] for column in columns]) for name in names]


def _label_column(responses: dict, labels: dict) -> dict[str, str]:
    """One pool: row of the table -> its text.

    Args:
        responses: counts of `responses.gather_pool`. labels: the report of `pairs.preference_pairs`.
    """
    unusable = {reason: count for reason, count in responses.items() if reason != "made"}
    flips, tokens = labels["flips"], labels["mean_tokens"]
    return {
        "prompts": f"{sum(responses.values()):,}",
        "prompts without two usable responses": _counts(unusable),
        "labels": f"{labels['labels']:,}",
        "verdicts": _counts(labels["verdicts"]),
        "could not be labelled": _counts(labels["excluded"]),
        "judge's answers differ with the order": "not asked in both orders"
        if flips is None
        else f"{flips['flipped']:,} of {flips['asked']:,}",
        "votes for the response shown first": _share(labels["first_shown"], "votes"),
        "chosen response is the longer one": _share(labels["longer_chosen"], "labels"),
        "words that the chosen one is longer": _estimate(labels["words_more"], "+.1f"),
        "duplicates dropped": _counts(labels["duplicates"]),
        "pairs": _counts(labels["pairs"]),
        "mean tokens of a pair": "unknown" if tokens is None else f"{tokens:.1f}",
    }


def _counts(counts: dict[str, int]) -> str:
    """Counts by name as text, without zeros."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count) or "none"


def _share(share: dict | None, of: str) -> str:
    return f"{_estimate(share, '.3f')} of {share['rows']:,} {of}" if share else "none"


def _estimate(interval: dict, form: str) -> str:
    return "{:{f}} [{:{f}}, {:{f}}]".format(
        *(interval[key] for key in ("value", "low", "high")), f=form
    )


def _samples(
    folder: Path,
    verdicts: Path,
    judges: list[str],
    players: list[str],
    models: list[dict],
    count: int,
) -> list[dict]:
    """The first prompts, and the first on which a model loses: every player's reply, and what it won there.

    A model loses where every judge but the baselines finds its reply worse than that of the model it comes from.
    """
    replies = {p: list(read_jsonl(folder / f"evaluation/responses/{p}.jsonl")) for p in players}
    prompts = [row["metadata"]["prompt_id"] for row in replies[players[0]]]
    readers = [judge for judge in judges if judge not in BASELINES]
    points = {judge: _points(verdicts / f"{judge}.jsonl") for judge in judges}
    shown: dict[int, list[str]] = {i: [] for i in range(min(count, len(prompts)))}
    for model in models:
        name, parent = model["model"], model["parent"]
        lost = [
            i
            for i, prompt in enumerate(prompts)
            if readers and all(points[judge].get((prompt, name, parent)) == 0 for judge in readers)
        ]
        for i in lost[:count]:
            shown.setdefault(i, []).append(f"{name} loses to {parent}")
    return [
        {
            "context": replies[players[0]][i]["prompt"],
            "lost": lost,
            "replies": [
                {
                    "player": player,
                    "text": replies[player][i]["response"],
                    "won": ", ".join(
                        f"{judge} {_won(points[judge], prompts[i], player, players)}"
                        for judge in judges
                    ),
                }
                for player in players
            ],
        }
        for i, lost in shown.items()
    ]


def _points(verdicts: Path) -> dict[tuple[str, str, str], float]:
    """Prompt, player and other player -> 1, 0 or .5, of what was decided."""
    found = {}
    for row in read_jsonl(verdicts):
        point = POINTS.get(row.get("verdict"))
        if point is not None:
            one, other = row["player_1"], row["player_2"]
            found[row["prompt_id"], one, other] = point
            found[row["prompt_id"], other, one] = 1 - point
    return found


def _won(points: dict, prompt: str, player: str, players: list[str]) -> str:
    """What a player won of its games on a prompt."""
    games = [points[prompt, player, o] for o in players if (prompt, player, o) in points]
    return f"{sum(games):g} of {len(games)}"


def _by_group(models: list[dict], histories: dict[str, list[dict]]) -> dict[str, list[list[dict]]]:
    """Histories by what differs in nothing but the seed."""
    found: dict[str, list[list[dict]]] = {}
    for row in models:
        found.setdefault(row["group"], []).append(histories[row["model"]])
    return found


if __name__ == "__main__":
    stage(write_report)
