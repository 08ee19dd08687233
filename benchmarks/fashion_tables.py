"""Tables of the comparison on Fashion-MNIST: Markdown for its page, and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from fashion_nets import HEADS, NETWORKS
from fashion_picture import Figure, published_figures
from fashion_plan import LONG, LONG_EPOCHS, PLANNED, SEEDS, SIZES, Choice
from fashion_study import LARGE, PLANNED_AT, Pair, Point, Study, image_level, levels, scene_level, seed_error, verdict
from tabulate import tabulate

from zoo.results import NetResult
from zoo.results.chance import OverSeeds, Paired, rank_correlation
from zoo.results.metrics import METRICS
from zoo.results.table import to_csv

NEAR = (1 / 3, 3)
"""Parameters of published nets that stand beside the net that was trained for longer, as a share of its own."""


def image_table(study: Study) -> str:
    """Return the image level as Markdown, a row a topology, the best larger net first."""
    rows = []
    for label in study.ranked:
        cells = [label]
        for size in SIZES:
            choice = Choice(label, size)
            rate = study.rates.get(choice)
            cells += [_accuracy(study.points.get(choice)), "-" if rate is None else f"{rate:g}"]
            cells.append(_told(label, study.told_apart(image_level(size))))
        points = [study.points.get(Choice(label, size)) for size in SIZES]
        macs = " / ".join("-" if point is None else f"{point.result.macs / 1e6:.1f}" for point in points)
        rows.append([*cells, macs, *_costs(study, label)])
    columns = ("accuracy [%]", "rate", "better / worse")
    headers = ["topology", *(f"{size}: {what}" for size in SIZES for what in columns)]
    return _markdown([*headers, "M MACs", f"{LARGE}: s an epoch", f"{LARGE}: MiB"], rows)


def _told(label: str, pairs: Sequence[Pair]) -> str:
    found = verdict(label, pairs)
    return "-" if found is None else "{} / {} of {}".format(*found)


def _accuracy(point: Point | None) -> str:
    if point is None:
        return "not yet"
    error = "" if point.seed_error is None else f" +- {point.seed_error:.2f}"
    return f"{point.accuracy:.2f}{error} ({seeds_in(point.result.seeds, len(PLANNED[point.size]))})"


def seeds_in(seeds: int, planned: int) -> str:
    """Return how many seeds are in, and of how many where some are missing."""
    return f"{seeds} of {planned} seeds" if seeds < planned else f"{seeds} seed{'s' * (seeds > 1)}"


def _costs(study: Study, label: str) -> tuple[str, str]:
    """Return seconds of an epoch and peak memory of the larger net, if it was trained where most were."""
    point = study.points.get(Choice(label, LARGE))
    lines = [line for line in (point.result.runs if point else ()) if line["device"]["name"] == study.device]
    if not lines:
        return "-", "-"
    seconds = statistics.fmean(line["seconds"] / line["recipe"]["epochs"] for line in lines)
    memory = [line["peak_memory"] / 2**20 for line in lines if line.get("peak_memory")]
    return f"{seconds:.1f}", f"{statistics.fmean(memory):.0f}" if memory else "-"


def scene_table(study: Study) -> str:
    """Return the level of regions and pixels as Markdown; empty if no run is in."""
    if not study.scenes:
        return ""
    names = dict.fromkeys((n.label, n.size, frozen) for n in NETWORKS for frozen in (False, True))
    rows = []
    for label, size, frozen in names:
        own = {
            network.task: net
            for (network, still), net in study.scenes.items()
            if (network.label, network.size, still) == (label, size, frozen)
        }
        if own:
            title = f"{label}, {size}" + ", random and frozen" * frozen
            compared = size == "large" and not frozen
            told = {task: _told(label, study.told_apart(scene_level(task))) if compared else "-" for task in HEADS}
            rows.append([title, *(cell for task in HEADS for cell in (_score(own.get(task)), told[task]))])
    for task in HEADS:
        trivial = {net.trivial for net in study.scenes.values() if net.task == task and net.trivial is not None}
        cells = [f"{100 * trivial.pop():.2f}" if trivial and task == other else "-" for other in HEADS]
        rows.append([METRICS[task].trivial_title, *(cell for score in cells for cell in (score, "-"))])
    titles = [METRICS[task].title for task in HEADS]
    return _markdown(["net", *(f"{title}{what}" for title in titles for what in (" [%]", ": better / worse"))], rows)


def _score(net: NetResult | None) -> str:
    if net is None:
        return "not yet"
    own = seed_error(net)
    error = "" if own is None else f" +- {own:.2f}"
    return f"{100 * net.score:.2f}{error} ({seeds_in(net.seeds, len(SEEDS))})"


def long_table(study: Study) -> str:
    """Return the net that was trained for longer beside published nets of its size, as Markdown; empty if not in."""
    if study.long is None:
        return ""
    params = study.long.params
    near = [figure for figure in published_figures() if NEAR[0] <= figure.params / params <= NEAR[1]]
    own = Figure(f"{LONG}, {LONG_EPOCHS} epochs", "", params, study.long.macs, 100 * study.long.score, "this study")
    cells = [
        (
            *(f.name, f"{f.params / 1e6:.2f}", "-" if f.macs is None else f"{f.macs / 1e6:.1f}"),
            *(f"{f.accuracy:.2f}", f.source),
        )
        for f in sorted([own, *near], key=lambda figure: -figure.accuracy)
    ]
    headers = ("net", "M parameters", "M MACs", "accuracy [%]", "source")
    return tabulate(cells, headers, tablefmt="pipe", colalign=("left", *["right"] * 3, "left"), disable_numparse=True)


def correlation_table(study: Study) -> str:
    """Return the rank correlations between the levels as Markdown; levels without lines are said to be missing."""
    rows = []
    for (one, first), (two, second) in combinations(levels(study).items(), 2):
        both = [label for label in first if label in second]
        scores = [first[label] for label in both], [second[label] for label in both]
        if len(both) < 3 or any(len(set(side)) == 1 for side in scores):
            rows.append([one, two, len(both), "not yet", "-"])
        else:
            found = rank_correlation(*scores)
            rows.append(
                [
                    one,
                    two,
                    found.pairs,
                    f"{found.rho:.2f}",
                    "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
                ]
            )
    return _markdown(["level", "level", "topologies", "rank correlation", "p"], rows, texts=2)


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[Any]], texts: int = 1) -> str:
    align = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=align, disable_numparse=True)


COLUMNS = (
    *("topology", "size", "seeds", "planned", "accuracy", "seed_error", "standard_error", "rate"),
    *("params", "macs", "activations", "better", "worse", "not_told_apart"),
    *("seconds", "peak_memory", "device", "state"),
)
"""Columns of the table as CSV; accuracies and errors are in percent."""


def image_csv(study: Study) -> str:
    """Return the image level as CSV, a row a topology and size; what is not in is empty."""
    rows = []
    for label in study.ranked:
        for size in SIZES:
            choice = Choice(label, size)
            point = study.points.get(choice)
            cells = {"topology": label, "size": size, "seeds": 0, "planned": len(PLANNED[size]), "state": study.state}
            cells["rate"] = study.rates.get(choice)
            rows.append([{**cells, **(_cells(study, point) if point else {})}.get(column) for column in COLUMNS])
    return to_csv(COLUMNS, rows)


def _cells(study: Study, point: Point) -> dict[str, Any]:
    result, line = point.result, point.result.runs[0]
    told = verdict(point.label, study.told_apart(image_level(point.size)))
    device = line["device"]["name"]
    seconds = [run["seconds"] for run in result.runs if run["device"]["name"] == device]  # seeds may be of another one
    return {
        "seeds": result.seeds,
        "accuracy": round(point.accuracy, 4),
        "seed_error": None if point.seed_error is None else round(point.seed_error, 4),
        "standard_error": None if result.standard_error is None else round(100 * result.standard_error, 4),
        **{name: getattr(result, name) for name in ("params", "macs", "activations")},
        **_counts(told),
        "seconds": round(statistics.fmean(seconds), 2),
        "peak_memory": line.get("peak_memory"),
        "device": device,
    }


def _counts(told: tuple[int, int, int] | None) -> dict[str, int | None]:
    """Return the cells of a verdict; they are empty where there is none."""
    if told is None:
        return dict.fromkeys(("better", "worse", "not_told_apart"))
    better, worse, others = told
    return {"better": better, "worse": worse, "not_told_apart": others - better - worse}


SCENE_COLUMNS = (
    *("topology", "size", "task", "frozen", "seeds", "planned", "score", "seed_error", "standard_error"),
    *("better", "worse", "not_told_apart", "trivial", "params", "macs", "seconds", "device", "state"),
)
"""Columns of the table of scenes as CSV; scores, errors and the score of the answer without content are in percent."""


def scene_csv(study: Study) -> str:
    """Return the level of pixels and regions as CSV, a row a net that is in."""
    rows = []
    for (network, frozen), net in study.scenes.items():
        error, compared = seed_error(net), network.size == "large" and not frozen
        told = verdict(network.label, study.told_apart(scene_level(network.task))) if compared else None
        cells = {
            "topology": network.label,
            "size": network.size,
            "task": network.task,
            "frozen": frozen,
            "seeds": net.seeds,
            "planned": len(SEEDS),
            "score": round(100 * net.score, 4),
            "seed_error": None if error is None else round(error, 4),
            "standard_error": None if net.standard_error is None else round(100 * net.standard_error, 4),
            **_counts(told),
            "trivial": None if net.trivial is None else round(100 * net.trivial, 4),
            "params": net.params,
            "macs": net.macs,
            "seconds": round(net.seconds, 2),
            "device": net.runs[0]["device"]["name"],
            "state": study.state,
        }
        rows.append([cells[column] for column in SCENE_COLUMNS])
    return to_csv(SCENE_COLUMNS, rows)


def pairs_csv(study: Study) -> str:
    """Return the comparisons by answers to the same images as CSV."""
    header = ("level", "seed", "first", "second", "first_alone", "second_alone", "images")
    rows = [
        (pair.level, SEEDS[0], *pair.labels, own.first, own.second, own.images, *_chance(pair))
        for pairs in study.by_answers.values()
        for pair in pairs
        if isinstance(own := pair.compared, Paired)
    ]
    return to_csv((*header, *CHANCE), rows)


def seeds_csv(study: Study) -> str:
    """Return the comparisons over the same seeds as CSV; differences and errors are in points."""
    header = ("level", "seeds", "first", "second", "difference", "standard_error", "freedom")
    rows = [
        (
            *(level, len(PLANNED_AT[level][1]), *pair.labels),
            *(round(100 * own.difference, 4), round(100 * own.standard_error, 4), own.freedom, *_chance(pair)),
        )
        for level, pairs in study.by_seeds.items()
        for pair in pairs
        if isinstance(own := pair.compared, OverSeeds)
    ]
    return to_csv((*header, *CHANCE), rows)


CHANCE = ("p_value", "corrected", "differs")
"""Last columns of a table of pairs."""


def _chance(pair: Pair) -> tuple[str, str, bool]:
    return f"{pair.compared.p_value:.6g}", f"{pair.corrected:.6g}", pair.differs


def tables(study: Study) -> dict[str, str]:
    """Return the tables by name of their file."""
    made = {"study": image_csv, "scenes": scene_csv, "pairs": pairs_csv, "seeds": seeds_csv}
    return {f"{name}.csv": make(study) for name, make in made.items()}
