"""The report's figures, as inline SVG."""

from persuasion_rl.records import HistoryRow
from persuasion_rl.report.plotting import COLORS, axes, panels, svg

MEASURES = {"sft": "eval_loss", "dpo": "eval_reward_accuracy"}
"""The metric by which models of a method are compared."""


def ranking_figure(ranking: list[dict], judges: list[str]) -> str:
    """Strengths of the players, a panel a judge, in the first judge's order."""
    order = [row["player"] for row in ranking if row["judge"] == judges[0]]
    figure, all_axes = panels(len(judges), 2.3, 0.3 * len(order) + 0.9)
    for place, (axis, judge) in enumerate(zip(all_axes, judges, strict=True)):
        against = next(row["against"] for row in ranking if row["judge"] == judge)
        rows = {row["player"]: row for row in ranking if row["judge"] == judge}
        for position, player in enumerate(reversed(order)):
            if row := rows.get(player):
                _draw_interval(axis, row, "strength", position)
        axis.axvline(0, color="#999", lw=1, ls=":")
        _name_rows(axis, order[::-1], place)
        axis.set_ylim(-0.5, len(order) - 0.5)
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(f"judge {judge}")
        axis.set_xlabel(f"log-odds against {against}")
    figure.tight_layout()
    return svg(figure)


def _name_rows(axis, names: list[str], place: int) -> None:
    """Set the ticks of a panel; only the first of three panels in a row shows the names."""
    axis.set_yticks(range(len(names)), names if place % 3 == 0 else [""] * len(names))


def _draw_interval(axis, row: dict, value: str, position: float) -> None:
    """Draw the number in a row and its interval, or what is known of them."""
    if row["low"] != "":
        axis.plot([row["low"], row["high"]], [position] * 2, color=COLORS[0], lw=2)
    if row[value] != "":
        axis.plot(row[value], position, "o", color=COLORS[1])


def lineage_figure(models: list[dict]) -> str:
    """A tree of the models, with the method and the labels of each training."""
    parents = {model["model"]: model["parent"] for model in models}

    def steps(name: str) -> int:
        return 1 + steps(parents[name]) if name in parents else 0

    depth, row_of = {"base": 0}, {"base": 0}
    for model in sorted(models, key=lambda model: steps(model["model"])):
        depth[model["model"]] = steps(model["model"])
        above = row_of[model["parent"]]
        used_rows = {row_of[name] for name in row_of if depth[name] == depth[model["model"]]}
        row_of[model["model"]] = next(row for row in range(above, 99) if row not in used_rows)
    width, height = max(depth.values()) + 1, max(row_of.values()) + 1
    figure, axis = axes(2.3 * width, 0.7 * height + 0.3)
    axis.set_title("Lineage of the models")
    texts = {
        name: axis.text(
            depth[name],
            -row_of[name],
            name,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.4", "fc": "white", "ec": COLORS[0]},
        )
        for name in depth
    }
    for model in models:
        parent, name = model["parent"], model["model"]
        ends = {"patchA": texts[parent].get_bbox_patch(), "patchB": texts[name].get_bbox_patch()}
        axis.annotate(
            "",
            (depth[name], -row_of[name]),
            (depth[parent], -row_of[parent]),
            arrowprops={"arrowstyle": "->", "color": "#666", "shrinkA": 2, "shrinkB": 2, **ends},
        )
        edge_label = (
            f"{model['method']}, {model['pool']} labels" if model["pool"] else model["method"]
        )
        middle = ((depth[parent] + depth[name]) / 2, -(row_of[parent] + row_of[name]) / 2)
        level = row_of[parent] == row_of[name]
        axis.annotate(
            edge_label,
            middle,
            (0, 5) if level else (-4, -12),
            textcoords="offset points",
            ha="center" if level else "right",
            fontsize=8,
            color="#555",
        )
    axis.set_xlim(-0.4, width - 0.6)
    axis.set_ylim(-height + 0.5, 0.5)
    axis.axis("off")
    return svg(figure)


def length_figure(win_rates: list[dict], lengths: dict[str, float], judges: list[str]) -> str:
    """Each player's mean win rate against all others, plain and at equal length, over its mean length."""
    figure, all_axes = panels(len(judges), 2.4, 2.8)
    for axis, judge in zip(all_axes, judges, strict=True):
        for place, (player, across) in enumerate(_spread_out(lengths).items()):
            plain, equal = (_mean_rate(win_rates, judge, player, name) for name in RATES)
            if plain is None:
                continue
            color, form = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            axis.plot(across, plain, form, color=color, label=player)
            if equal is not None:
                axis.plot([across] * 2, [plain, equal], color="#bbb", lw=1, zorder=1)
                axis.plot(across, equal, form, color=color, mfc="white")
        axis.axhline(0.5, color="#999", lw=1, ls=":")
        axis.set_ylim(0, 1)
        axis.set_title(f"judge {judge}")
        words = [f"{n:.0f}" for n in sorted(lengths.values())]
        axis.set_xticks(range(len(lengths)), words, rotation=45 if len(lengths) > 6 else 0)
        axis.set_xlabel("mean length (words), in order")
    all_axes[0].set_ylabel("mean win rate")
    handles, names = all_axes[0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4, frameon=False
    )
    return svg(figure)


def _spread_out(lengths: dict[str, float]) -> dict[str, int]:
    """Places in the order of length. At their actual lengths, players of like length would overlap."""
    order = sorted(lengths, key=lengths.__getitem__)
    return {player: order.index(player) for player in lengths}


RATES = ("win_rate", "length_controlled")
MARKERS = "os^DvPX*"


def _mean_rate(win_rates: list[dict], judge: str, player: str, name: str) -> float | None:
    """A player's mean win rate over all opponents; None if no rate is known.

    Args:
        name: the column of the rate, one of RATES.
    """
    rows = [row for row in win_rates if row["judge"] == judge and row[name] != ""]
    rates = [row[name] for row in rows if row["player"] == player]
    rates += [1 - row[name] for row in rows if row["against"] == player]
    return sum(rates) / len(rates) if rates else None


def trust_figure(trust: list[dict], judges: list[str]) -> str:
    """How often each judge is right on held-out delta pairs, all of them and those of like length."""
    measures = {"delta_pairs": "all held-out delta pairs", "like_length": "those of like length"}
    figure, axis = axes(6.5, 0.5 * len(judges) + 0.8)
    for row in trust:
        if row["measure"] in measures and row["judge"] in judges:
            place = list(measures).index(row["measure"])
            height = len(judges) - 1 - judges.index(row["judge"]) + 0.15 - 0.3 * place
            axis.plot([row["low"], row["high"]], [height] * 2, color=COLORS[place], lw=2)
            axis.plot(row["value"], height, "os"[place], color=COLORS[place])
    for place, name in enumerate(measures.values()):
        axis.plot([], [], "os"[place], color=COLORS[place], label=name)
    axis.axvline(0.5, color="#999", lw=1, ls=":")
    axis.set_yticks(range(len(judges)), judges[::-1])
    axis.set_ylim(-0.5, len(judges) - 0.5)
    axis.set_title("How often a judge is right")
    axis.set_xlabel("share of delta pairs, a tie is half right; 95% interval")
    figure.tight_layout()
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, frameon=False)
    return svg(figure)


def honesty_figure(honesty: list[dict], players: list[str]) -> str:
    """Measures of honesty, a panel each."""
    rows = [row for row in honesty if isinstance(row[players[0]]["low"], float | int)]
    figure, all_axes = panels(len(rows), 2.3, 0.26 * len(players) + 1.0)
    for place, (axis, row) in enumerate(zip(all_axes, rows, strict=True)):
        for position, player in enumerate(reversed(players)):
            _draw_interval(axis, row[player], "value", position)
        _name_rows(axis, players[::-1], place)
        axis.set_ylim(-0.5, len(players) - 0.5)
        axis.locator_params(axis="x", nbins=3)
        axis.set_title(row["measure"].replace("_", " "))
        axis.set_xlabel(row["unit"])
    figure.tight_layout()
    return svg(figure)


def truth_figure(truth: list[dict]) -> str:
    """The mean probability of a delta for each player's replies, by the grammar of the demo."""
    figure, axis = axes(6.5, 0.38 * len(truth) + 0.7)
    for position, row in enumerate(reversed(truth)):
        _draw_interval(axis, row, "mean", position)
        axis.annotate(
            f"{row['mean']:.3f}",
            (row["mean"], position),
            (0, 6),
            textcoords="offset points",
            ha="center",
        )
    axis.set_yticks(range(len(truth)), [row["model"] for row in reversed(truth)])
    axis.set_ylim(-0.5, len(truth) - 0.3)
    axis.set_title("Measured truth of the replies")
    axis.set_xlabel("mean probability of a delta, with 95% interval")
    return svg(figure)


def matrix_figure(judge: str, win_rates: list[dict], players: list[str]) -> str:
    """Win rate of the row's player against the column's."""
    rate = {}
    for row in win_rates:
        if row["judge"] == judge:
            rate[row["player"], row["against"]] = row["win_rate"]
            rate[row["against"], row["player"]] = 1 - row["win_rate"]
    grid = [[rate.get((one, other), float("nan")) for other in players] for one in players]
    figure, axis = axes(0.46 * len(players) + 0.9, 0.36 * len(players) + 0.8)
    axis.set_title(f"Win rates, judge {judge}")
    axis.imshow(grid, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                ink = "white" if abs(value - 0.5) > 0.35 else "black"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axis.set_xlabel("against")
    axis.set_ylabel("win rate of")
    axis.set_xticks(range(len(players)), players, rotation=30, ha="right")
    axis.set_yticks(range(len(players)), players)
    axis.spines[:].set_visible(False)
    return svg(figure)


def variants_figure(models: list[dict]) -> str:
    """Losses of supervised models, and accuracies of dpo models on the pairs of the same pool.

    Empty unless a method and pool has two models.
    """
    compared: dict[tuple[str, str], list[dict]] = {}
    for row in models:
        if row[MEASURES[row["method"]]] != "":
            compared.setdefault((row["method"], row["pool"]), []).append(row)
    compared = {key: rows for key, rows in compared.items() if len(rows) > 1}
    if not compared:
        return ""
    most = max(map(len, compared.values()))
    figure, all_axes = panels(len(compared), 3.4, 0.26 * most + 0.9, across=2)
    for axis, ((method, pool), rows) in zip(all_axes, compared.items(), strict=True):
        _draw_models(axis, method, rows)
        axis.set_title(f"{method}, {pool} pool" if pool else method)
    figure.tight_layout()
    return svg(figure)


def _draw_models(axis, method: str, rows: list[dict]) -> None:
    """Draw a point for each model, and a reference: the loss before training, or the accuracy of a coin."""
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
    axis.set_xlabel(
        "validation loss (nats a token)" if method == "sft" else "accuracy on held-out pairs"
    )


def loss_figure(histories: dict[str, list[list[HistoryRow]]]) -> str:
    """Losses over steps, a panel a group."""
    figure, all_axes = panels(len(histories), 2.3, 2.1)
    for place, (axis, (name, trainings)) in enumerate(
        zip(all_axes, histories.items(), strict=True)
    ):
        for history in trainings:
            _draw_losses(axis, history)
        axis.set_title(name if len(trainings) == 1 else f"{name}, {len(trainings)} runs")
        axis.set_xlabel("step")
        if place % 3 == 0:
            axis.set_ylabel("loss (nats)")
    lines = {line.get_label(): line for axis in all_axes for line in axis.get_lines()}
    figure.tight_layout()
    figure.legend(
        lines.values(), lines, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, frameon=False
    )
    return svg(figure)


def _draw_losses(axis, history: list[HistoryRow]) -> None:
    """Draw the lines of a training, with the later one of two measurements at a step; a single log is a point."""
    for key, style, label in (("loss", "-", "training"), ("eval_loss", "o--", "validation")):
        points = {row["step"]: float(row[key]) for row in history if key in row}
        if points:
            axis.plot(
                *zip(*points.items(), strict=True),
                ".-" if len(points) == 1 else style,
                label=label,
                ms=4,
                color=COLORS[0 if style == "-" else 1],
            )
