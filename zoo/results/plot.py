"""Plot accuracy (or another task's metric) against cost: one labelled point per net, and the Pareto front."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from math import dist
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import files
from zoo.escape import for_picture
from zoo.results.group import NetResult, pareto_front
from zoo.results.plot_labels import AMBIGUOUS, leader_end, place_labels
from zoo.results.table import metric_of
from zoo.results.topologies import MARKS, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COSTS = {
    "params": "parameters",
    "macs": "multiply-adds (FLOPs in most papers)",
}
MARKER_POINTS = 6.0
LEADER_FROM = 5.0  # points between a marker's edge and its label from which on a line joins them
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    # Names come from files: a dollar sign in one begins no mathematics.
    "text.parse_math": False,
    "text.usetex": False,
}
NETS_IN_SMALLEST = 16  # more nets get a larger figure from the start
MOST_LABELS = 120
MOST_TOPOLOGIES = 24  # in the legend
APART = 2.0
"""Standard errors from which on the front is more than chance."""
SOFT = "0.88"
GROWTH = (1.0, 1.25, 1.6, 2.1, 2.8)


def plot_all(nets: Sequence[NetResult], folder: Path, dataset: str) -> list[Path]:
    """Write `accuracy_vs_params.png` and `accuracy_vs_macs.png` and return their paths.

    For other tasks the key of the metric replaces `accuracy`.

    Raises:
        ValueError: If there are no nets.
    """
    paths = []
    for cost in COSTS:
        paths.append(folder / f"{metric_of(nets).key}_vs_{cost}.png")
        files.write_in_folder(paths[-1], picture(nets, cost, dataset, "png"))
    return paths


def picture(nets: Sequence[NetResult], cost: str, dataset: str, kind: str) -> bytes:
    """Return the figure of `draw` as ``png`` or ``svg``. Equal nets give equal bytes."""
    import matplotlib as mpl

    figure, _ = draw(nets, cost, dataset)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "zoo"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def draw(nets: Sequence[NetResult], cost: str, dataset: str) -> tuple[Figure, list[Text]]:
    """Draw the score against one of `COSTS`, in a figure as large as its labels need.

    Every net has its name beside its point. With more than `MOST_LABELS` nets, or if the names do not fit, only nets on
    the Pareto front are named, or none. The figure then says so.

    Args:
        nets: Nets of one comparison.
        cost: Attribute of a net for the horizontal axis.
        dataset: Name for the vertical axis.

    Returns:
        The figure, laid out and ready to be saved at its own resolution, and the labels in the order of the nets.

    Raises:
        ValueError: If there are no nets.
    """
    if not nets:
        raise ValueError("nets must not be empty: run zoo bench first")
    import matplotlib as mpl  # optional dependency: the `bench` extra

    on_front = pareto_front([(getattr(net, cost), net.score) for net in nets])
    choices: list[tuple[str, list[int]]] = [
        ("", list(range(len(nets)))),
        ("only nets on the Pareto front are named", sorted(on_front)),
        ("the names of the nets find no room", []),
    ]
    with mpl.rc_context(STYLE):
        for note, named in choices:
            if len(named) > MOST_LABELS:
                continue
            roomy = max(1.0, (len(named) / NETS_IN_SMALLEST) ** 0.5)
            for growth in GROWTH:
                figure, axes = _axes(nets, cost, dataset, growth * roomy, note)
                labels = _label(axes, nets, named, cost)
                if labels is not None:
                    return figure, labels
    raise AssertionError("no label always fits")


def _axes(nets: Sequence[NetResult], cost: str, dataset: str, growth: float, note: str) -> tuple[Figure, Axes]:
    # Figure, not pyplot: no global state, no display, no backend to choose. Its canvas is Agg.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(6.5 * growth, 4.2 * growth), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    low, high = min(getattr(net, cost) for net in nets), max(getattr(net, cost) for net in nets)
    spare = max((high / low) ** 0.12, 1.2)  # one net alone has no range of its own
    axes.set_xlim(low / spare, high * spare)
    groups = _by_topology(nets)
    for (topology, own), look in zip(groups.items(), looks(groups).values(), strict=True):
        axes.errorbar(
            [getattr(net, cost) for net in own],
            [100 * net.score for net in own],
            yerr=[_error(net) for net in own],
            marker=MARKS[look.mark],
            linestyle="none",
            color=look.colour,
            ecolor=(look.colour, 0.45),
            elinewidth=1.0,
            markersize=MARKER_POINTS,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=_drawable(topology),
            zorder=3,
        )
    axes.margins(y=0.12)
    path = _front_path(nets, cost, high * spare)
    axes.plot(*zip(*path, strict=True), color="black", lw=1.0, ls=(0, (4, 2)), label="Pareto front", zorder=2)
    soft = _soft_path(nets, cost, high * spare)
    if any(upper > lower for _, upper, lower in soft):
        costs, uppers, lowers = zip(*soft, strict=True)
        label = f"within {APART:g} standard errors of it"
        axes.fill_between(costs, uppers, lowers, color=SOFT, lw=0, label=label, zorder=0)
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    if high > 8 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:  # so narrow a range may hold no 1, 2 or 5
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{COSTS[cost]}, logarithmic")
    seeds = {net.seeds for net in nets}
    mean = "" if seeds == {1} else f", mean of {'up to ' * (len(seeds) > 1)}{max(seeds)} seeds"
    axes.set_ylabel(f"test {metric_of(nets).title} on {_drawable(dataset)} [%]{mean}")
    axes.set_title(note, loc="right", fontsize=8)
    images = max(net.test_images for net in nets)
    axes.plot([], [], color="0.5", linewidth=1.0, label=f"standard error ({images} test images)")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, handlelength=1.8, columnspacing=1.4)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the labels are placed for the axes as they are now
    return figure, axes


def _by_topology(nets: Sequence[NetResult]) -> dict[str, list[NetResult]]:
    """Group the nets by topology for the legend, which has room for `MOST_TOPOLOGIES`."""
    topologies = list(dict.fromkeys(net.topology for net in nets))
    named = topologies if len(topologies) <= MOST_TOPOLOGIES else topologies[: MOST_TOPOLOGIES - 1]
    groups: dict[str, list[NetResult]] = {topology: [] for topology in named}
    for net in nets:
        groups.setdefault(net.topology if net.topology in named else "other topologies", []).append(net)
    return groups


def _error(net: NetResult) -> float:
    """Return the standard error in percent; 0 for a net without one, which then has no bar."""
    return 100 * (net.standard_error or 0.0)


def _drawable(text: str) -> str:
    """Return text in characters that the font has; other characters become escapes instead of empty boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(
        letter if ord(letter) in known else letter.encode("unicode_escape").decode("ascii")
        for letter in for_picture(text)
    )


def _label(axes: Axes, nets: Sequence[NetResult], named: Sequence[int], cost: str) -> list[Text] | None:
    """Write names of some nets beside their points, with a line if far away; return None if there is no room."""
    figure = axes.figure
    scale = figure.dpi / 72
    labels = [axes.text(0, 0, _drawable(nets[i].name), fontsize=7.5, ha="left", va="bottom", zorder=4) for i in named]
    extents = [label.get_window_extent() for label in labels]
    values = [(getattr(net, cost), 100 * net.score, _error(net)) for net in nets]
    every = [tuple(axes.transData.transform((x, y))) for x, y, _ in values]
    points = [every[i] for i in named]
    bars = [
        (*axes.transData.transform((x, y - error)), *axes.transData.transform((x, y + error))) for x, y, error in values
    ]
    front = [tuple(axes.transData.transform(place)) for place in _front_path(nets, cost, axes.get_xlim()[1])]
    steps = [(*a, *b) for a, b in pairwise(front)]
    boxes = place_labels(
        points,
        [(extent.width, extent.height) for extent in extents],
        axes.bbox.extents,
        radius=MARKER_POINTS * scale / 2 + 1,
        others=[every[i] for i in set(range(len(nets))) - set(named)],
        lines=steps,
        bars=bars,
    )
    if boxes is None:
        for label in labels:
            label.remove()
        return None
    to_data = axes.transData.inverted()
    for label, box, point in zip(labels, boxes, points, strict=True):
        x, y = to_data.transform(box[:2])
        label.set_position((x, y))
        if _needs_leader(point, box, every, scale):
            (x0, y0), (x1, y1) = to_data.transform([point, leader_end(point, box)])
            axes.plot([x0, x1], [y0, y1], color="0.45", linewidth=0.5, zorder=1, scalex=False, scaley=False)
    return labels


def _front_path(nets: Sequence[NetResult], cost: str, right: float) -> list[tuple[float, float]]:
    """Return the corners of the front's staircase: the best score up to each cost, up to the right edge."""
    front = [nets[i] for i in pareto_front([(getattr(net, cost), net.score) for net in nets])]
    path = []
    for net in front:
        if path:
            path.append((getattr(net, cost), path[-1][1]))
        path.append((getattr(net, cost), 100 * net.score))
    return [*path, (right, path[-1][1])]


def _soft_path(nets: Sequence[NetResult], cost: str, right: float) -> list[tuple[float, float, float]]:
    """Return the band below the front in which a net is not told apart from it: cost, upper and lower score."""
    front = [nets[i] for i in pareto_front([(getattr(net, cost), net.score) for net in nets])]
    ends = [*(getattr(net, cost) for net in front[1:]), right]
    band = []
    for net, end in zip(front, ends, strict=True):
        upper = 100 * net.score
        band += [(place, upper, upper - APART * _error(net)) for place in (getattr(net, cost), end)]
    return band


def _needs_leader(
    point: tuple[float, float],
    box: tuple[float, float, float, float],
    points: Sequence[tuple[float, float]],
    scale: float,
) -> bool:
    """Return True if a reader could relate the label to another point, or to none."""
    distances = sorted(dist(other, leader_end(other, box)) for other in points)
    own = dist(point, leader_end(point, box))
    others = distances[1] if distances[0] == own and len(distances) > 1 else distances[0]
    return own > (MARKER_POINTS / 2 + LEADER_FROM) * scale or (len(points) > 1 and others < AMBIGUOUS * own)
