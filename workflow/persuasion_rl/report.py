"""The study on one page: what was asked, what came out with its intervals, what it was made from.

One HTML file with everything inside; figures are inline SVG. It says wherever labels are simulated, the
base model is a stand-in, or a branch is pending.
"""

from pathlib import Path

from persuasion_rl.command import note, stage
from persuasion_rl.data_report import shortage
from persuasion_rl.figures import COLORS, axes, page, svg
from persuasion_rl.files import read_csv, read_json, read_jsonl, write_text

TEMPLATE = Path(__file__).with_name("report.html.j2")
HUMAN = "human"
MEASURES = {"sft": "eval_loss", "dpo": "eval_reward_accuracy"}
"""What models of a method are compared by."""


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
    data_report: str,
    output: Path,
    pending: list[str] = [],
) -> None:
    """Read the study's tables from `folder` (results/{study}) and write the report.

    Args:
        trust: the table of `trust.judge_trust`. models_table, seeds_table: those of `variants.compare_models`.
        scope: "evaluation" or "unattended": where the others are.
        models: the trained models. pending: the models that wait for people's labels.
        sources: where examples come from ("cmv", "p4g"). data_report: where the page about the data is,
            seen from `output`.
    """
    tables = folder / scope
    win_rates = _numbers(read_csv(tables / "win_rates.csv"))
    trust_rows = _numbers(read_csv(trust))
    truth = _numbers(read_csv(tables / "truth.csv")) if synthetic else []
    differences = _numbers(read_csv(tables / "truth_differences.csv")) if synthetic else []
    model_rows = _numbers(read_csv(models_table))
    histories = {name: list(read_jsonl(folder / f"models/{name}/history.jsonl")) for name in models}
    judges = list(dict.fromkeys(row["judge"] for row in win_rates))
    splits = read_json(folder / "splits/summary.json")
    text = page(
        TEMPLATE,
        study=study,
        notices=_notices(
            base_source, synthetic, ai_judge, ai_noise, human_source, human_judge, pending
        )
        + shortage(splits)
        + _warnings(trust_rows, judges),
        findings=_findings(differences, win_rates, trust_rows, judges, ai_judge),
        truth=truth,
        truth_figure=_truth_figure(truth) if synthetic else "",
        differences=differences,
        judges=judges,
        matrices={judge: _matrix_figure(judge, win_rates, players) for judge in judges},
        win_rates=[row for row in win_rates if "base" in (row["player"], row["against"])],
        trust=trust_rows,
        behaviour=_measures(read_csv(tables / "behaviour.csv")),
        honesty=_measures(read_csv(tables / "honesty.csv")),
        equal_honesty=_numbers(read_csv(tables / "equal_honesty.csv")),
        models=model_rows,
        variants_figure=_variants_figure(model_rows),
        seeds=_numbers(read_csv(seeds_table)),
        delta_judge=read_json(folder / "judges/delta/metrics.json"),
        loss_figures=_loss_figures(
            {
                **_by_group(model_rows, histories),
                "delta judge": [list(read_jsonl(folder / "judges/delta/history.jsonl"))],
            }
        ),
        data_report=data_report,
        splits=splits,
        processing={s: read_json(folder / f"processed/{s}_counts.json") for s in sources},
        labels=_label_table(folder, pools),
        pools=pools,
        ai_judge=ai_judge,
        human_judge=human_judge if human_source == "simulated" else None,
        samples=_samples(folder, players, sample_replies),
        players=players,
    )
    write_text(output, text)
    note(f"{output}: {len(text) / 1e6:.1f} MB")


def _numbers(rows: list[dict[str, str]]) -> list[dict]:
    """Rows of a table with their numbers as numbers."""

    def value(text: str):
        try:
            return float(text) if not text.isdigit() else int(text)
        except ValueError:
            return text

    return [{key: value(text) for key, text in row.items()} for row in rows]


def _measures(rows: list[dict[str, str]]) -> list[dict]:
    """A row a measure, with the row of every player that has it; of a table of `measures`."""
    found: dict[str, dict] = {}
    for row in _numbers(rows):
        one = found.setdefault(row["measure"], {"measure": row["measure"], "unit": row["unit"]})
        one[row["player"]] = row
    return list(found.values())


def _notices(
    base_source: str,
    synthetic: bool,
    ai_judge: str,
    ai_noise: float,
    human_source: str,
    human_judge: str,
    pending: list[str],
) -> list[str]:
    """What a reader must know before any number."""
    notices = []
    if synthetic:
        notices.append(
            "Synthetic data: posts, replies and deltas come from a small grammar with a known delta function."
            " The numbers test this workflow; they say nothing about people."
        )
    if base_source == "standin":
        notices.append(
            "Stand-in base model: a very small one, trained here on the train side only. It is not"
            f" Qwen2.5, and {'its replies are grammar' if synthetic else 'its replies are hardly English'}."
        )
    if ai_judge == "truth":
        notices.append(
            f"AI labels are simulated: the demo's own delta function, {ai_noise:.0%} of its decided verdicts"
            " turned round. The judge `truth` that evaluates is the same function without that noise."
        )
    if ai_judge == "llm":
        notices.append(
            "AI labels are a language model's opinions by a rubric, in both orders; their reasons are beside them in"
            " preferences/ai_pool_labels.jsonl. How far they agree with deltas and people is below."
        )
    if human_source == "simulated":
        notices.append(
            f"Human labels are simulated: noisy annotators who see what the judge `{human_judge}` sees."
            " No person labelled anything."
        )
    if pending:
        notices.append(
            f"Pending: {', '.join(pending)} wait for people's labels and are not in this report."
        )
    return notices


def _beats_length(trust: list[dict], judge: str) -> bool:
    """Whether the interval of a judge's accuracy on held-out delta pairs lies above the length baseline."""
    right = {row["judge"]: row for row in trust if row["measure"] == "delta_pairs"}
    return judge in right and right[judge]["low"] > right["length"]["value"]


def _warnings(trust: list[dict], judges: list[str]) -> list[str]:
    """What takes the weight from the verdicts."""
    if any(_beats_length(trust, judge) for judge in judges):
        return []
    return [
        "No judge of this study clearly beats the length baseline on held-out delta pairs: the win rates are"
        " no evidence of persuasiveness."
    ]


def _findings(differences, win_rates, trust, judges, ai_judge) -> list[str]:
    """The results in sentences, each with its interval, and what weakens them."""
    found = []
    for row in differences:
        found.append(
            f"Truth of {row['model']} minus {row['against']}: {row['difference']:+.3f}"
            f" [{row['low']:+.3f}, {row['high']:+.3f}], {_side(row['low'], row['high'], 0)} zero."
        )
    for row in win_rates:
        if (
            not differences
            and row["player"] == "base"
            and row["judge"] != "length"
            and row["against"] != HUMAN
        ):
            found.append(
                f"{row['against']} wins {1 - row['win_rate']:.3f} [{1 - row['high']:.3f}, {1 - row['low']:.3f}]"
                f" of its comparisons with base, judge {row['judge']}: {_side(1 - row['high'], 1 - row['low'], 0.5)}"
                " one half."
            )
    of = {(row["judge"], row["measure"]): row for row in trust}
    length = of.get(("length", "delta_pairs"))
    for judge in judges:
        own = of.get((judge, "delta_pairs"))
        if judge != "length" and own and length:
            verb = "beats" if _beats_length(trust, judge) else "does not clearly beat"
            found.append(
                f"Judge {judge} is right on {own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}] of held-out"
                f" delta pairs; it {verb} the length baseline's {length['value']:.3f}."
            )
    if ai_judge in judges:
        found.append(
            f"Judge {ai_judge} also made the AI labels that the models were trained on: its verdicts alone"
            " do not show that a model improved."
        )
    return found


def _side(low: float, high: float, middle: float) -> str:
    """Where an interval lies."""
    if low > middle:
        return "all above"
    return "all below" if high < middle else "around"


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


def _samples(folder: Path, players: list[str], count: int) -> list[dict]:
    """The first prompts with every player's reply."""
    rows = {
        p: list(read_jsonl(folder / f"evaluation/responses/{p}.jsonl"))[:count] for p in players
    }
    return [
        {
            "context": rows[players[0]][i]["prompt"],
            "replies": {player: rows[player][i]["response"] for player in players},
        }
        for i in range(len(rows[players[0]]))
    ]


def _truth_figure(truth: list[dict]) -> str:
    figure, found = axes(6.5, 0.38 * len(truth) + 0.7)
    axis = found[0][0]
    for position, row in enumerate(reversed(truth)):
        axis.plot([row["low"], row["high"]], [position] * 2, color=COLORS[0], lw=2)
        axis.plot(row["mean"], position, "o", color=COLORS[1])
        axis.annotate(
            f"{row['mean']:.3f}",
            (row["mean"], position),
            (0, 6),
            textcoords="offset points",
            ha="center",
        )
    axis.set_yticks(range(len(truth)), [row["model"] for row in reversed(truth)])
    axis.set_ylim(-0.5, len(truth) - 0.3)
    axis.set_xlabel("mean probability of a delta, with 95% interval")
    return svg(figure)


def _matrix_figure(judge: str, win_rates: list[dict], players: list[str]) -> str:
    """Win rate of the row's player against the column's."""
    rate = {}
    for row in win_rates:
        if row["judge"] == judge:
            rate[row["player"], row["against"]] = row["win_rate"]
            rate[row["against"], row["player"]] = 1 - row["win_rate"]
    grid = [[rate.get((one, other), float("nan")) for other in players] for one in players]
    figure, found = axes(0.62 * len(players) + 1.2, 0.42 * len(players) + 0.8)
    axis = found[0][0]
    axis.imshow(grid, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                axis.text(j, i, f"{value:.2f}", ha="center", va="center")
    axis.set_xticks(range(len(players)), players, rotation=30, ha="right")
    axis.set_yticks(range(len(players)), players)
    axis.spines[:].set_visible(False)
    return svg(figure)


def _variants_figure(models: list[dict]) -> str:
    """What can be compared: losses of supervised models, and accuracies of dpo models on one pool's pairs.

    Empty where no method and pool has two models.
    """
    panels: dict[tuple[str, str], list[dict]] = {}
    for row in models:
        if row[MEASURES[row["method"]]] != "":
            panels.setdefault((row["method"], row["pool"]), []).append(row)
    panels = {key: rows for key, rows in panels.items() if len(rows) > 1}
    if not panels:
        return ""
    most = max(map(len, panels.values()))
    figure, found = axes(3.6 * len(panels), 0.26 * most + 0.9, len(panels))
    for axis, ((method, pool), rows) in zip(found[0], panels.items(), strict=True):
        _draw_models(axis, method, rows)
        axis.set_title(f"{method}, {pool} pool" if pool else method)
    figure.tight_layout()
    return svg(figure)


def _draw_models(axis, method: str, rows: list[dict]) -> None:
    """A point a model, and what gives it a scale: the loss before training, or a coin's accuracy."""
    measure = MEASURES[method]
    for position, row in enumerate(reversed(rows)):
        ends = [row.get(f"{measure}_{end}", "") for end in ("low", "high")]
        if "" not in ends:
            axis.plot(ends, [position] * 2, color=COLORS[0], lw=2)
        if method == "sft":
            axis.plot(row["eval_loss_before"], position, "o", color=COLORS[1], mfc="none")
        axis.plot(row[measure], position, "o", color=COLORS[1])
    if method == "dpo":
        axis.axvline(0.5, color="#999", lw=1, ls=":")
    axis.set_yticks(range(len(rows)), [row["model"] for row in reversed(rows)])
    axis.set_ylim(-0.5, len(rows) - 0.5)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel("validation loss" if method == "sft" else "accuracy on held-out pairs")


def _by_group(models: list[dict], histories: dict[str, list[dict]]) -> dict[str, list[list[dict]]]:
    """Histories by what differs in nothing but the seed."""
    found: dict[str, list[list[dict]]] = {}
    for row in models:
        found.setdefault(row["group"], []).append(histories[row["model"]])
    return found


def _loss_figures(histories: dict[str, list[list[dict]]]) -> list[str]:
    """Losses over steps, an axis a group, five beside one another."""
    groups = list(histories.items())
    return [_loss_figure(dict(groups[i : i + 5])) for i in range(0, len(groups), 5)]


def _loss_figure(histories: dict[str, list[list[dict]]]) -> str:
    figure, found = axes(2.6 * len(histories), 2.3, len(histories))
    for axis, (name, runs) in zip(found[0], histories.items(), strict=True):
        for history in runs:
            _draw_losses(axis, history)
        axis.set_title(name if len(runs) == 1 else f"{name}, {len(runs)} runs")
        axis.set_xlabel("step")
    found[0][0].set_ylabel("loss")
    lines = {line.get_label(): line for line in found[0][0].get_lines()}
    found[0][0].legend(lines.values(), lines, frameon=False)
    figure.tight_layout()
    return svg(figure)


def _draw_losses(axis, history: list[dict]) -> None:
    for key, style, label in (("loss", "-", "training"), ("eval_loss", "o--", "validation")):
        points = [(row["step"], float(row[key])) for row in history if key in row]
        if points:
            axis.plot(
                *zip(*points, strict=False),
                style,
                label=label,
                ms=4,
                color=COLORS[0 if style == "-" else 1],
            )


if __name__ == "__main__":
    stage(write_report)
