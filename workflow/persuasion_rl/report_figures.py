"""The report's figures, as inline SVG."""

from persuasion_rl.figures import COLORS, axes, svg

MEASURES = {"sft": "eval_loss", "dpo": "eval_reward_accuracy"}
"""What models of a method are compared by."""


def ranking_figure(ranking: list[dict], judges: list[str]) -> str:
    """Strengths of the players, a panel a judge, in the first judge's order."""
    order = [row["player"] for row in ranking if row["judge"] == judges[0]]
    figure, found = axes(3.2 * len(judges), 0.3 * len(order) + 0.9, len(judges))
    for axis, judge in zip(found[0], judges, strict=True):
        rows = {row["player"]: row for row in ranking if row["judge"] == judge}
        for position, player in enumerate(reversed(order)):
            row = rows.get(player)
            if row is None:
                continue
            axis.plot([row["low"], row["high"]], [position] * 2, color=COLORS[0], lw=2)
            axis.plot(row["strength"], position, "o", color=COLORS[1])
        axis.axvline(0, color="#999", lw=1, ls=":")
        axis.set_yticks(
            range(len(order)), order[::-1] if axis is found[0][0] else [""] * len(order)
        )
        axis.set_ylim(-0.5, len(order) - 0.5)
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(f"judge {judge}")
        axis.set_xlabel("strength (log-odds), 95% interval")
    figure.tight_layout()
    return svg(figure)


def lineage_figure(models: list[dict]) -> str:
    """Which model was trained from which, by what and on whose labels."""
    depth, row_of = {"base": 0}, {"base": 0}
    for model in models:
        depth[model["model"]] = depth[model["parent"]] + 1
        above = row_of[model["parent"]]
        taken = {row_of[name] for name in row_of if depth[name] == depth[model["model"]]}
        row_of[model["model"]] = next(row for row in range(above, 99) if row not in taken)
    width, height = max(depth.values()) + 1, max(row_of.values()) + 1
    figure, found = axes(2.3 * width, 0.7 * height)
    axis = found[0][0]
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
        how = f"{model['method']}, {model['pool']} labels" if model["pool"] else model["method"]
        middle = ((depth[parent] + depth[name]) / 2, -(row_of[parent] + row_of[name]) / 2)
        level = row_of[parent] == row_of[name]
        axis.annotate(
            how,
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
    figure, found = axes(3.2 * len(judges), 2.6, len(judges))
    for axis, judge in zip(found[0], judges, strict=True):
        for place, player in enumerate(lengths):
            plain, equal = (_mean_rate(win_rates, judge, player, name) for name in RATES)
            if plain is None:
                continue
            color, form = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            axis.plot(lengths[player], plain, form, color=color, label=player)
            if equal is not None:
                axis.plot([lengths[player]] * 2, [plain, equal], color="#bbb", lw=1, zorder=1)
                axis.plot(lengths[player], equal, form, color=color, mfc="white")
        axis.axhline(0.5, color="#999", lw=1, ls=":")
        axis.set_title(f"judge {judge}")
        axis.set_xlabel("mean length of a reply (tokens)")
    found[0][0].set_ylabel("mean win rate")
    handles, names = found[0][0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=6, frameon=False
    )
    return svg(figure)


RATES = ("win_rate", "length_controlled")
MARKERS = "os^DvPX*"


def _mean_rate(win_rates: list[dict], judge: str, player: str, name: str) -> float | None:
    rows = [row for row in win_rates if row["judge"] == judge and row[name] != ""]
    rates = [row[name] for row in rows if row["player"] == player]
    rates += [1 - row[name] for row in rows if row["against"] == player]
    return sum(rates) / len(rates) if rates else None


def trust_figure(trust: list[dict], judges: list[str]) -> str:
    """How often each judge is right on held-out delta pairs, all of them and those of like length."""
    measures = {"delta_pairs": "all held-out delta pairs", "like_length": "those of like length"}
    figure, found = axes(6.5, 0.5 * len(judges) + 0.8)
    axis = found[0][0]
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


def honesty_figures(honesty: list[dict], players: list[str]) -> list[str]:
    """What was measured of honesty, a panel a measure, five beside one another."""
    rows = [row for row in honesty if isinstance(row[players[0]]["low"], float | int)]
    return [_honesty_figure(rows[i : i + 5], players) for i in range(0, len(rows), 5)]


def _honesty_figure(rows: list[dict], players: list[str]) -> str:
    figure, found = axes(2.2 * len(rows) + 0.8, 0.26 * len(players) + 1.0, len(rows))
    for axis, row in zip(found[0], rows, strict=True):
        for position, player in enumerate(reversed(players)):
            one = row[player]
            axis.plot([one["low"], one["high"]], [position] * 2, color=COLORS[0], lw=2)
            axis.plot(one["value"], position, "o", color=COLORS[1])
        first = axis is found[0][0]
        axis.set_yticks(range(len(players)), players[::-1] if first else [""] * len(players))
        axis.set_ylim(-0.5, len(players) - 0.5)
        axis.locator_params(axis="x", nbins=3)
        axis.set_title(row["measure"].replace("_", " "))
        axis.set_xlabel(row["unit"])
    figure.tight_layout()
    return svg(figure)


def truth_figure(truth: list[dict]) -> str:
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
    figure, found = axes(0.46 * len(players) + 0.9, 0.36 * len(players) + 0.8)
    axis = found[0][0]
    axis.set_title(f"Win rates, judge {judge}")
    axis.imshow(grid, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                ink = "white" if abs(value - 0.5) > 0.35 else "black"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axis.set_xlabel("against")
    axis.set_xticks(range(len(players)), players, rotation=30, ha="right")
    axis.set_yticks(range(len(players)), players)
    axis.spines[:].set_visible(False)
    return svg(figure)


def variants_figure(models: list[dict]) -> str:
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


def loss_figures(histories: dict[str, list[list[dict]]]) -> list[str]:
    """Losses over steps, an axis a group, five beside one another."""
    groups = list(histories.items())
    return [loss_figure(dict(groups[i : i + 5])) for i in range(0, len(groups), 5)]


def loss_figure(histories: dict[str, list[list[dict]]]) -> str:
    figure, found = axes(2.6 * len(histories), 2.3, len(histories))
    for axis, (name, runs) in zip(found[0], histories.items(), strict=True):
        for history in runs:
            _draw_losses(axis, history)
        axis.set_title(name if len(runs) == 1 else f"{name}, {len(runs)} runs")
        axis.set_xlabel("step")
    found[0][0].set_ylabel("loss (nats)")
    lines = {line.get_label(): line for axis in found[0] for line in axis.get_lines()}
    figure.tight_layout()
    figure.legend(
        lines.values(), lines, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, frameon=False
    )
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
