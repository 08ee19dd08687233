"""Accuracy (or another task's metric) against cost: one point a net, every point labelled, the Pareto front drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from itertools import pairwise
from math import dist
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bench.labels import AMBIGUOUS, leader_end, place_labels
from zoo.bench.report import Row, pareto_front, task_of, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COSTS = {
    "params": "parameters",
    "macs": "multiply-adds (FLOPs in most papers)",
}
# Okabe and Ito 2008: told apart by readers with any common kind of colour blindness; the markers tell the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
MARKER_POINTS = 6.0
LEADER_FROM = 5.0  # points between a marker's edge and its label from which on a line joins them
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
}
NETS_IN_SMALLEST = 16  # more nets get a larger figure from the start
GROWTH = (1.0, 1.25, 1.6, 2.1, 2.8)


def plot_all(rows: Sequence[Row], folder: Path, dataset: str) -> list[Path]:
    """Write `accuracy_vs_params.png` and `accuracy_vs_macs.png` and return their paths.

    For another task than classification its metric stands in place of `accuracy`.

    Raises:
        ValueError: If there are no rows.
    """
    paths = []
    for cost in COSTS:
        figure, _ = draw(rows, cost, dataset)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        paths.append(folder / f"{task_of(rows).metric}_vs_{cost}.png")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def draw(rows: Sequence[Row], cost: str, dataset: str) -> tuple[Figure, list[Text]]:
    """Draw the metric against one of `COSTS`, in a figure as large as its labels need.

    Args:
        rows: The nets.
        cost: Field of a row on the horizontal axis.
        dataset: Name for the vertical axis.

    Returns:
        The figure, laid out and ready to be saved at its own resolution, and the labels in the order of the rows.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("rows must not be empty: run zoo bench first")
    import matplotlib as mpl  # optional dependency: the `bench` extra

    with mpl.rc_context(STYLE):
        roomy = max(1.0, (len(rows) / NETS_IN_SMALLEST) ** 0.5)
        for growth in GROWTH:
            figure, axes = _axes(rows, cost, dataset, growth * roomy)
            labels = _label(axes, rows, cost)
            if labels is not None:
                return figure, labels
    warnings.warn(f"{len(rows)} labels do not fit into the figure of accuracy and {cost}", stacklevel=2)
    return figure, []


def _axes(rows: Sequence[Row], cost: str, dataset: str, growth: float) -> tuple[Figure, Axes]:
    # Figure, not pyplot: no global state, no display, no backend to choose. Its canvas is Agg.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(6.5 * growth, 4.2 * growth), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    low, high = min(getattr(row, cost) for row in rows), max(getattr(row, cost) for row in rows)
    spare = max((high / low) ** 0.12, 1.2)  # one net alone has no range of its own
    axes.set_xlim(low / spare, high * spare)
    families = list(dict.fromkeys(row.family for row in rows))
    for number, family in enumerate(families):
        own = [row for row in rows if row.family == family]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            [getattr(row, cost) for row in own],
            [100 * row.score for row in own],
            yerr=[100 * row.standard_error for row in own],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour,
            ecolor=(colour, 0.45),
            elinewidth=1.0,
            markersize=MARKER_POINTS,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=family,
            zorder=3,
        )
    axes.margins(y=0.12)
    path = _front_path(rows, cost, high * spare)
    axes.plot(*zip(*path, strict=True), color="black", lw=1.0, ls=(0, (4, 2)), label="Pareto front", zorder=2)
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    if high > 8 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:  # so narrow a range may hold no 1, 2 or 5
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(COSTS[cost])
    seeds = {row.seeds for row in rows}
    mean = "" if seeds == {1} else f", mean of {'up to ' * (len(seeds) > 1)}{max(seeds)} seeds"
    axes.set_ylabel(f"test {task_of(rows).title} on {dataset} [%]{mean}")
    images = max(row.test_images for row in rows)
    axes.plot([], [], color="0.5", linewidth=1.0, label=f"standard error ({images} test images)")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, handlelength=1.8, columnspacing=1.4)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the labels are placed for the axes as they are now
    return figure, axes


def _label(axes: Axes, rows: Sequence[Row], cost: str) -> list[Text] | None:
    """Write the name of each net beside its point, joined by a line where it is far; None if there is no room."""
    figure = axes.figure
    scale = figure.dpi / 72
    labels = [axes.text(0, 0, row.name, fontsize=7.5, ha="left", va="bottom", zorder=4) for row in rows]
    extents = [label.get_window_extent() for label in labels]
    values = [(getattr(row, cost), 100 * row.score, 100 * row.standard_error) for row in rows]
    points = [tuple(axes.transData.transform((x, y))) for x, y, _ in values]
    bars = [
        (*axes.transData.transform((x, y - error)), *axes.transData.transform((x, y + error))) for x, y, error in values
    ]
    front = [tuple(axes.transData.transform(place)) for place in _front_path(rows, cost, axes.get_xlim()[1])]
    steps = [(*a, *b) for a, b in pairwise(front)]
    boxes = place_labels(
        points,
        [(extent.width, extent.height) for extent in extents],
        axes.bbox.extents,
        radius=MARKER_POINTS * scale / 2 + 1,
        lines=[*bars, *steps],
    )
    if boxes is None:
        for label in labels:
            label.remove()
        return None
    to_data = axes.transData.inverted()
    for label, box, point in zip(labels, boxes, points, strict=True):
        x, y = to_data.transform(box[:2])
        label.set_position((x, y))
        if _needs_leader(point, box, points, scale):
            (x0, y0), (x1, y1) = to_data.transform([point, leader_end(point, box)])
            axes.plot([x0, x1], [y0, y1], color="0.45", linewidth=0.5, zorder=1, scalex=False, scaley=False)
    return labels


def _front_path(rows: Sequence[Row], cost: str, right: float) -> list[tuple[float, float]]:
    """Corners of the front's staircase: the best accuracy that each cost buys, up to the right edge."""
    front = [rows[i] for i in pareto_front([(getattr(row, cost), row.score) for row in rows])]
    path = []
    for row in front:
        if path:
            path.append((getattr(row, cost), path[-1][1]))
        path.append((getattr(row, cost), 100 * row.score))
    return [*path, (right, path[-1][1])]


def _needs_leader(
    point: tuple[float, float],
    box: tuple[float, float, float, float],
    points: Sequence[tuple[float, float]],
    scale: float,
) -> bool:
    """Whether a reader could take the label for that of another point, or for that of none."""
    distances = sorted(dist(other, leader_end(other, box)) for other in points)
    own = dist(point, leader_end(point, box))
    others = distances[1] if distances[0] == own and len(distances) > 1 else distances[0]
    return own > (MARKER_POINTS / 2 + LEADER_FROM) * scale or (len(points) > 1 and others < AMBIGUOUS * own)
