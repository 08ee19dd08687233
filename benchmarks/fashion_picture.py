"""Picture of the comparison on Fashion-MNIST: a row a topology, with its images, pixels and regions; and both costs.

The rows are the legend: every topology has its colour, its mark and its name there, so that none needs the colour.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fashion_nets import HEADS, NETWORKS
from fashion_plan import PLANNED, SEEDS, SIZES, Choice
from fashion_study import Study, seed_error

import zoo
from zoo import published
from zoo.report.rows import figure_topology, own_families
from zoo.results.metrics import METRICS
from zoo.results.plot import COSTS, STYLE
from zoo.results.plot_labels import leader_end, place_labels
from zoo.results.topologies import MARKS, TOPOLOGIES, looks

DATASET = "Fashion-MNIST"
SHORT = {
    "Random Erasing": "RE",
    " (Random-Erasing)": "",
    " (paper)": "",
    " on WRN-28-10": "",
    "2 convolutions 113K parameters": "2 convolutions",
    " (torchvision; fine-tuned from ImageNet)": ", fine-tuned",
}
"""Parts of published names, as the picture writes them."""
MARKERS = {"0.1 M": 5.5, "0.3 M": 8.5}
"""Size of the marks in points."""
SLIGHT = {"star": 1.4, "star-diamond": 1.3, "diamond-wide": 1.3, "diamond-tall": 1.2, "triangle-left": 1.1}
"""Factor on the size of marks that cover little of it."""
LEVELS = ("images", "scenes")
SCENES = {"segment": "pixels of scenes", "detect": "regions of scenes"}
INK, FAINT = "0.25", "0.6"
FONT = 7.0


@dataclass(frozen=True)
class Figure:
    """A published figure whose net has a known number of parameters."""

    name: str
    topology: str
    params: int
    macs: int | None
    accuracy: float
    source: str


def published_figures() -> list[Figure]:
    """Return the published figures on the same images, the best one of each name, with parameters or none of them."""
    families, found = own_families(), {}
    for row in published.results():
        params = row.params or (zoo.model_entry(row.entry).params if row.entry else None)
        if row.dataset != DATASET or row.top1_error is None or params is None:
            continue
        name = row.model
        for long, short in SHORT.items():
            name = name.replace(long, short)
        figure = Figure(name, figure_topology(row, families), params, row.macs, 100 - row.top1_error, row.source)
        if name not in found or found[name].accuracy < figure.accuracy:
            found[name] = figure
    return list(found.values())


def digest_of(table: str) -> str:
    """Return a digest of what a picture shows: the table as CSV, and the published figures."""
    return hashlib.sha256(f"{table}{published_figures()}".encode()).hexdigest()[:16]


def draw(study: Study, kind: str, source: str) -> bytes:
    """Return the picture as ``png`` or ``svg``. Equal lines give equal bytes.

    Args:
        study: The results.
        kind: ``png`` or ``svg``.
        source: Digest of what it shows, which the file holds as its source.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({**STYLE, "svg.hashsalt": "zoo", "font.size": 8, "axes.labelsize": 8}):
        canvas = Canvas(figsize=(9, 9.8), dpi=200, layout="constrained")
        done, planned = (sum(counts[level] for level in LEVELS) for counts in (study.done, study.planned))
        whole = done == planned
        lost = sum(study.lost.values())
        note = f"{done} of {planned} runs are in" + (f", {lost} failed" if lost else "")
        title = f"Sixteen topologies of one size on {DATASET}: " + (note if whole else f"NOT COMPLETE, {note}")
        canvas.suptitle(title, fontsize=10, fontweight="bold", color="black" if whole else "#B00000", x=0.01, ha="left")
        parts = canvas.add_gridspec(2, 12, height_ratios=(6, 4))
        rows = canvas.add_subplot(parts[0, :6])
        _draw_rows(rows, study)
        for place, task in zip((slice(6, 9), slice(9, 12)), HEADS, strict=True):
            _draw_scenes(canvas.add_subplot(parts[0, place], sharey=rows), study, task)
        figures = published_figures()
        panels = [canvas.add_subplot(parts[1, place]) for place in (slice(6), slice(6, 12))]
        named = [_draw_costs(axes, study, cost, figures) for axes, cost in zip(panels, COSTS, strict=True)]
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # names are placed for the axes as they are now
        for axes, (names, others) in zip(panels, named, strict=True):
            _name(axes, names, others)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=kind, metadata={"Source": source} | ({"Date": None} if kind == "svg" else {}))
    return buffer.getvalue()


def _draw_rows(axes: Any, study: Study) -> None:
    """A row a topology, the best larger net on top: both sizes with their errors, and the figures beside them."""
    labels = study.ranked
    own = list(study.points.values())
    low = min((point.accuracy for point in own), default=88.0)
    high = max((point.accuracy for point in own), default=94.0)
    axes.set_xlim(low - 0.5, high + 0.6)
    for row, label in enumerate(labels):
        for place, size in enumerate(SIZES):
            height = row + (0.2, -0.2)[place]
            point = study.points.get(Choice(label, size))
            if point is None:
                axes.text(low - 0.4, height, f"{size}: not yet", va="center", fontsize=6, color=FAINT)
                continue
            look = _look(label)
            if point.seed_error is not None:
                ends = [point.accuracy - point.seed_error, point.accuracy + point.seed_error]
                axes.plot(ends, [height, height], color=look["color"], linewidth=1.2)
            axes.plot([point.accuracy], [height], **look, linestyle="none", markersize=_size(label, size))
            seeds = point.result.seeds
            missing = seeds < len(PLANNED[size])
            text = f"{point.accuracy:.2f}" + f" ({seeds} of {len(PLANNED[size])})" * missing
            end = point.accuracy + (point.seed_error or 0)
            axes.annotate(text, (end, height), (8, 0), textcoords="offset points", va="center", fontsize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color="0.93", linewidth=0.8, zorder=0)
    axes.grid(True, axis="x", color="0.9", linewidth=0.6)
    small, large = SIZES
    axes.set_title(
        f"images: {small} (small marks, {len(PLANNED[small])} seeds)\n"
        f"and {large} parameters (large marks, {len(PLANNED[large])} seed)",
        fontsize=8,
        loc="left",
    )
    error = 100 * (0.93 * 0.07 / 10_000) ** 0.5
    axes.set_xlabel(
        "accuracy on 10,000 test images [%]; bars: standard error over seeds,\n"
        f"which leaves out that of the test images, {error:.2f} points at 93 %"
    )


def _draw_scenes(axes: Any, study: Study, task: str) -> None:
    """The same rows in scenes: nets with random and frozen weights, and the answer without content, as lines."""
    labels, metric = study.ranked, METRICS[task]
    scores = {
        (network.label, network.size, frozen): net
        for (network, frozen), net in study.scenes.items()
        if network.task == task
    }
    for (label, size, frozen), net in scores.items():
        score, error = 100 * net.score, seed_error(net) or 0.0
        if frozen:
            axes.axvline(score, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
            axes.annotate(
                f"{label} with random,\nfrozen weights", (score, len(labels) - 0.5), (2, 2), textcoords="offset points",
                fontsize=5.5, color=INK, va="bottom",
            )  # fmt: skip
            continue
        height = labels.index(label) + (-0.2 if size == "large" else 0.2) * ((label, "small", False) in scores)
        look = _look(label)
        if error:
            axes.plot([score - error, score + error], [height, height], color=look["color"], linewidth=1.2)
        mark = _size(label, dict(zip(("small", "large"), SIZES, strict=True))[size])
        axes.plot([score], [height], **look, linestyle="none", markersize=mark)
        text = f"{score:.1f}" + f" ({net.seeds} of {len(SEEDS)})" * (net.seeds < len(SEEDS))
        axes.annotate(text, (score + error, height), (8, 0), textcoords="offset points", va="center", fontsize=6)
    for network in NETWORKS:
        if network.task == task and (network.label, network.size, False) not in scores and network.size == "large":
            axes.text(0.03, labels.index(network.label), "not yet", transform=axes.get_yaxis_transform(), va="center",
                      fontsize=6, color=FAINT)  # fmt: skip
    drawn = [100 * net.score for net in scores.values()] or [0, 100]
    spare = 0.1 * (max(drawn) - min(drawn) or 1)
    axes.set_xlim(min(drawn) - spare, max(drawn) + 5 * spare)
    axes.tick_params(axis="y", length=0, labelleft=False)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color="0.93", linewidth=0.8, zorder=0)
    axes.grid(True, axis="x", color="0.9", linewidth=0.6)
    axes.set_title(f"{SCENES[task]}\n(large and small nets)", fontsize=8, loc="left")
    axes.set_xlabel(f"{metric.title} [%]")


Named = list[tuple[str, float, float]]
"""Name and place of each point that is to be named."""


def _draw_costs(
    axes: Any, study: Study, cost: str, figures: Sequence[Figure]
) -> tuple[Named, list[tuple[float, float]]]:
    """Draw accuracy against a cost: ours filled, published ones hollow.

    Returns:
        The points to name, which are the published ones and, where they do not stand in a column, our larger nets; and
        the places of all of ours.
    """
    from matplotlib.ticker import EngFormatter, NullFormatter

    shown = [figure for figure in figures if getattr(figure, cost) is not None]
    axes.set_xscale("log")
    points = [(point.label, point.size, getattr(point.result, cost), point.accuracy) for point in study.points.values()]
    for label, size, x, y in points:
        axes.plot([x], [y], **_look(label), linestyle="none", markersize=_size(label, size), zorder=3)
    for figure in shown:
        look = _look(figure.topology) | {"markerfacecolor": "none", "markeredgecolor": _look(figure.topology)["color"]}
        place = [getattr(figure, cost)], [figure.accuracy]
        axes.plot(*place, **look | {"markeredgewidth": 1.2}, linestyle="none", markersize=6.5, zorder=2)
    costs = [x for _, _, x, _ in points] + [getattr(figure, cost) for figure in shown]
    heights = [y for *_, y in points] + [figure.accuracy for figure in shown]
    if costs:
        spare = (max(costs) / min(costs)) ** 0.1
        axes.set_xlim(min(costs) / spare, max(costs) * spare**2)
        axes.set_ylim(min(heights) - 0.7, max(heights) + 0.8)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    axes.set_xlabel(f"{COSTS[cost]}, logarithmic")
    axes.set_ylabel("accuracy [%]")
    named = [(label, x, y) for label, size, x, y in points if cost == "macs" and size == list(SIZES)[-1]]
    named += [(figure.name, getattr(figure, cost), figure.accuracy) for figure in shown]
    axes.set_title("filled: ours, five epochs; hollow: published, most of 200 and more", fontsize=7.5, loc="left")
    return named, [(x, y) for _, _, x, y in points]


def _name(axes: Any, named: Sequence[tuple[str, float, float]], others: Sequence[tuple[float, float]]) -> None:
    """Write names beside points, where the package's plots would place them."""
    canvas = axes.figure
    texts = [axes.text(0, 0, name, fontsize=FONT, color=INK, ha="left", va="bottom", zorder=4) for name, _, _ in named]
    sizes = [(extent.width, extent.height) for extent in (text.get_window_extent() for text in texts)]
    points = [tuple(axes.transData.transform(place[1:])) for place in named]
    rest = [tuple(axes.transData.transform(place)) for place in others if place not in {p[1:] for p in named}]
    boxes = place_labels(points, sizes, axes.bbox.extents, radius=4.5 * canvas.dpi / 72, others=rest)
    if boxes is None:
        raise ValueError("the names find no room: make the picture larger")
    back = axes.transData.inverted()
    for text, box, point in zip(texts, boxes, points, strict=True):
        text.set_position(back.transform(box[:2]))
        end = leader_end(point, box)
        if (end[0] - point[0]) ** 2 + (end[1] - point[1]) ** 2 > (6 * canvas.dpi / 72) ** 2:
            (x0, y0), (x1, y1) = back.transform([point, end])
            axes.plot([x0, x1], [y0, y1], color="0.55", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _look(topology: str) -> dict[str, Any]:
    if topology not in TOPOLOGIES:  # published nets of kinds that are none of ours
        return {"color": FAINT, "marker": "o", "markeredgecolor": "white", "markeredgewidth": 0.5}
    look = looks([topology])[topology]
    return {"color": look.colour, "marker": MARKS[look.mark], "markeredgecolor": "white", "markeredgewidth": 0.5}


def _size(topology: str, size: str) -> float:
    """Return the size of a topology's mark in points, so that all marks of a size look alike."""
    return MARKERS[size] * SLIGHT.get(looks([topology])[topology].mark, 1.0)
