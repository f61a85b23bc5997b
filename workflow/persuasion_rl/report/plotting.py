"""Shared by the pages: figures as inline SVG (same numbers, same bytes), numbers as text, and templates."""

import io
from math import floor, log10
from pathlib import Path
from typing import Any

COLORS = ("#4c6a92", "#c8553d", "#5b8e7d", "#8e6c8a", "#d9a441", "#6b705c")


def svg(figure) -> str:
    """A figure as inline SVG; closes the figure."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "persuasion-rl"
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    document = text.getvalue()
    return document[document.index("<svg") :]


def axes(width: float, height: float):
    """A figure with one axis, in inches."""
    figure, (axis,) = panels(1, width, height)
    return figure, axis


def panels(count: int, width: float, height: float, across: int = 3):
    """A figure and its `count` axes, each of this size in inches, `across` in a row: at most as wide as a paper page."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcdefaults()  # whatever a matplotlibrc of the user's says
    pyplot.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
         "font.family": "sans-serif"}
    )  # fmt: skip
    across = min(across, count)
    rows = -(-count // across)
    figure, grid = pyplot.subplots(
        rows, across, figsize=(width * across, height * rows), squeeze=False
    )
    for axis in grid.flat[count:]:
        axis.remove()
    return figure, list(grid.flat[:count])


def bars(title: str, rows: list[tuple[str, float]], label: str) -> str:
    """Horizontal bars, the first on top, each with its number: a figure as inline SVG.

    Args:
        rows: a name and a value for each bar. label: the quantity, with its unit.
    """
    figure, axis = axes(6.0, 0.24 * len(rows) + 0.7)
    patches = axis.barh(
        range(len(rows)), [value for _, value in rows][::-1], color=COLORS[0], height=0.7
    )
    axis.bar_label(patches, [f"{value:,.0f}" for _, value in rows][::-1], padding=3)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows][::-1])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_title(title)
    axis.set_xlabel(label)
    axis.margins(x=0.12)
    return svg(figure)


def number(value: Any, digits: int | None = None) -> str:
    """A number as text with three decimals; from ten on with one; small ones with two significant digits."""
    if isinstance(value, float):
        small = 0.01 if digits is None else 10**-digits
        if 0 < abs(value) < small:
            digits = 1 - floor(log10(abs(value)))
        elif digits is None:
            digits = 3 if abs(value) < 10 else 1
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(template: Path, **content: Any) -> str:
    """A page from its template: Markdown, or HTML, in which texts are escaped; figures are inline."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=select_autoescape(["html.j2"]),
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template.name).render(**content)
