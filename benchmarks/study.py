"""The results that the zoo publishes of itself: counts of every net, and topologies of one size compared on digits.

python benchmarks/study.py --jobs 2
python benchmarks/study.py --only counts
python benchmarks/study.py --only study --seeds 0 --out results/study

Counts go to OUT/counts.csv. The study trains every CIFAR-scale topology at three sizes that are matched in parameters,
three seeds each, one recipe; its lines, tables, pictures and report go to OUT/digits. What is there is not trained
again, so the command also draws everything anew from the stored lines.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

import zoo
from zoo.bench.engines import InProcess, Processes
from zoo.bench.one_run import Placement
from zoo.bench.progress import ProgressBar
from zoo.bench.sweep import SAVED, plan, sweep
from zoo.catalogue import count_names
from zoo.environment import cores
from zoo.files import write_in_folder
from zoo.recipes import RECIPES
from zoo.results import NetResult, Run, group
from zoo.results.plot import COSTS, STYLE
from zoo.results.store import RESULTS, read_if_there
from zoo.results.topologies import COLOURS, MARKS, TOPOLOGIES, looks
from zoo_cli import main as zoo_command

OUT = Path(__file__).resolve().parent / "results"
SIZES = {"S": 50_000, "M": 100_000, "L": 300_000}
"""Parameters of the three sizes; every net is within `CLOSE` of them."""
CLOSE = 0.05
COUNTS = ("name", "family", "params", "macs", "fvcore_flops", "activations", "input_size", "uncounted")


@dataclass(frozen=True)
class Topology:
    """A topology at three sizes.

    Attributes:
        label: As tables and pictures call it.
        preset: Its row in the registry.
        sizes: Changed fields of the specification, smallest first: widths, where nothing else is needed.
    """

    label: str
    preset: str
    sizes: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]


def _stages(*widths: tuple[int, ...], stem: bool = True, **others: Any) -> tuple[Any, ...]:
    """Widths of the stages at each size; the stem is as wide as the first."""
    return tuple({"widths": own} | ({"stem_width": own[0]} if stem else {}) | others for own in widths)


def _fish(unit: int, **blocks: tuple[int, ...]) -> Mapping[str, Any]:
    """A fish whose widths are multiples of one number, with more blocks where widths alone miss the size."""
    return {
        "stem_width": 2 * unit,
        "tail_widths": (4 * unit, 8 * unit, 16 * unit),
        "body_widths": (16 * unit, 12 * unit, 8 * unit),
        **blocks,
    }


def _inception(scale: float) -> Mapping[str, Any]:
    """All widths of the preset times a number."""
    spec = zoo.model_entry("googlenet16_bn_cifar").spec
    names = ("stem_widths", "ones", "three_reduces", "threes", "five_reduces", "fives", "projections")
    return {name: tuple(round(width * scale) for width in getattr(spec, name)) for name in names}


STUDY = (
    Topology("plain", "plain20_cifar", _stages((7, 14, 27), (10, 20, 39), (17, 34, 67))),
    Topology("ResNet", "resnet20_cifar", _stages((7, 14, 27), (10, 20, 39), (17, 34, 67))),
    Topology("pre-activation", "preresnet20_cifar", _stages((7, 14, 27), (10, 19, 38), (17, 34, 67))),
    Topology("wide", "wide_resnet16_2_cifar", _stages((8, 17, 34), (12, 24, 48), (21, 42, 84), stem=False)),
    Topology(
        "ResNeXt",
        "resnext20_4x8d_cifar",
        (
            {"widths": (26, 52, 104), "mid_widths": (12, 24, 52)},
            {"widths": (36, 73, 146), "mid_widths": (20, 36, 72)},
            {"widths": (65, 129, 259), "mid_widths": (32, 64, 128)},
        ),
    ),
    Topology(
        "squeeze-excite",
        "seresnet20_projection_cifar",
        (
            {"widths": (7, 13, 27), "stem_width": 7, "squeeze": 4},
            *_stages((10, 19, 38), (17, 34, 67), squeeze=8),
        ),
    ),
    Topology(
        "DenseNet",
        "densenet40_k12_bc_cifar",
        (
            {"growth_rate": 6, "stem_width": 24},
            {"growth_rate": 9, "stem_width": 18},
            {"growth_rate": 16, "stem_width": 32},
        ),
    ),
    Topology(
        "VGG",
        "vgg11_c32_bn_cifar",
        _stages((5, 10, 19, 37, 37), (7, 13, 27, 54, 54), (12, 23, 46, 92, 92), stem=False),
    ),
    Topology("GoogLeNet", "googlenet16_bn_cifar", (_inception(0.397), _inception(0.568), _inception(0.994))),
    Topology(
        "highway",
        "highway11_cifar",
        (
            {"widths": (7, 15, 29), "last_width": 114},
            {"widths": (10, 21, 42), "last_width": 162},
            {"widths": (18, 36, 72), "last_width": 288},
        ),
    ),
    Topology(
        "BagNet",
        "bagnet17_cifar",
        (
            {"widths": (32, 68, 132), "stem_width": 9},
            {"widths": (48, 96, 192), "stem_width": 12},
            {"widths": (84, 168, 336), "stem_width": 21},
        ),
    ),
    Topology(
        "wider ResNet",
        "wider_resnet13_cifar",
        (
            {"widths": (10, 20, 40, 82), "mid_widths": (10, 20, 20, 40), "stem_width": 5},
            {"widths": (14, 29, 58, 115), "mid_widths": (14, 29, 29, 58), "stem_width": 7},
            {"widths": (25, 50, 100, 200), "mid_widths": (25, 50, 50, 100), "stem_width": 12},
        ),
    ),
    Topology(
        "FRRN",
        "frrn_small_cifar",
        (
            {"width": 9, "lanes": 5, "down_widths": (14, 19, 24), "up_widths": (19, 14)},
            {"width": 13, "lanes": 7, "down_widths": (20, 27, 33), "up_widths": (27, 20)},
            {"width": 23, "lanes": 12, "down_widths": (35, 46, 58), "up_widths": (46, 35)},
        ),
    ),
    Topology(
        "LeNet",
        "lenet5_cifar",
        (
            {"widths": (6, 14), "wide": (110, 76)},
            {"widths": (8, 20), "wide": (154, 108)},
            {"widths": (13, 36), "wide": (266, 186)},
        ),
    ),
    Topology(
        "FishNet",
        "fishnet58_cifar",
        (
            _fish(2, head_blocks=(1, 1, 2)),
            _fish(3, tail_blocks=(1, 1, 2), head_blocks=(1, 2, 1)),
            _fish(5, head_blocks=(1, 1, 2)),
        ),
    ),
    Topology(
        "fabric",
        "fabric_a_l3_s3_c32x2_post_cifar",
        ({"channels": (16, 32, 60)}, {"channels": (24, 44, 88)}, {"channels": (40, 76, 156)}),
    ),
)


def study_runs(seeds: Iterable[int]) -> dict[str, tuple[Topology, str, Run]]:
    """Topology, size and run, by the key of the run; the small ones first, all of them with the first seed."""
    runs = {}
    for seed in seeds:
        for number, size in enumerate(SIZES):
            for topology in STUDY:
                recipe = RECIPES["digits"].recipe
                [run] = plan([topology.preset], "digits", recipe, [seed], topology.sizes[number])
                runs[run.key] = topology, size, run
    return runs


def write_counts(path: Path) -> None:
    """Count every net of the registry, for one image of its own size."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COUNTS, lineterminator="\n")
    writer.writeheader()
    names = zoo.list_models()
    bar = tqdm(count_names(names, workers=cores()), "counting", len(names), unit="net", disable=not sys.stderr.isatty())
    for name, complexity in zip(names, bar, strict=True):
        entry, counts = zoo.model_entry(name), complexity.to_dict()
        size = "x".join(map(str, entry.input_size))
        row = {"name": name, "family": entry.family, **counts, "input_size": size}
        row["uncounted"] = json.dumps(counts["uncounted"])
        writer.writerow({column: row[column] for column in COUNTS})
    write_in_folder(path, buffer.getvalue().encode())
    print(path)


@dataclass(frozen=True)
class Point:
    """A topology at one size, over the seeds.

    Attributes:
        label: Of the topology.
        size: Key of `SIZES`.
        result: The net over its seeds.
        failed: Seeds without a score: the loss was not finite.
        recipe: What is special in the recipe, where something is.
    """

    label: str
    size: str
    result: NetResult
    failed: int
    recipe: str

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.result.macs

    @property
    def mean(self) -> float:
        """Accuracy in percent, over the seeds."""
        return 100 * self.result.score

    @property
    def deviation(self) -> float:
        """Of the accuracy in percent over the seeds; 0 for a single one."""
        return 100 * (self.result.spread or 0.0)


def points(path: Path, runs: Mapping[str, tuple[Topology, str, Run]]) -> list[Point]:
    """What the stored lines say of the study, in its order; lines of other runs are passed over.

    A topology that failed with every seed at some size has no point there.
    """
    stored, common = read_if_there(path), RECIPES["digits"].recipe
    found: dict[tuple[str, str], tuple[Run, NetResult]] = {}
    for comparison in group(line for line in stored.trainings if line["key"] in runs):
        for net in comparison.nets:
            topology, size, run = runs[net.runs[0]["key"]]
            found[topology.label, size] = run, net
    lost = [runs[line["key"]] for line in stored.failures if line["key"] in runs]
    study = []
    for label, size in ((topology.label, size) for topology in STUDY for size in SIZES):
        if (label, size) not in found:
            continue
        run, net = found[label, size]
        special = [f"lr {run.recipe.lr:g}"] * (run.recipe.lr != common.lr)
        special += [f"{run.recipe.epochs} epochs"] * (run.recipe.epochs != common.epochs)
        failed = sum((other.label, place) == (label, size) for other, place, _ in lost)
        study.append(Point(label=label, size=size, result=net, failed=failed, recipe=", ".join(special)))
    return study


def table(study: Sequence[Point]) -> str:
    """Markdown: a row a topology, a column a size; the best mean over the sizes first."""
    rows = []
    for label in _ranked(study):
        own = [point for point in study if point.label == label]
        cells = {point.size: _cell(point) for point in own}
        macs = {point.size: f"{point.macs / 1e6:.1f}" for point in own}
        special = f" ({own[0].recipe})" if own[0].recipe else ""
        rows.append([label + special, *(cells.get(s, "failed") for s in SIZES), *(macs.get(s, "-") for s in SIZES)])
    titles = [f"{size / 1e6:g} M" for size in SIZES.values()]
    headers = ["topology", *(f"{title}: accuracy [%]" for title in titles), *(f"{title}: M MACs" for title in titles)]
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cell(point: Point) -> str:
    lost = f" ({point.failed} of {point.failed + point.result.seeds} failed)" if point.failed else ""
    return f"{point.mean:.2f} +- {point.deviation:.2f}{lost}"


STRETCHED = "axis stretched towards 100 (logarithmic in the error)"
FLOOR = 94.0
"""Lowest accuracy in percent that pictures have room for; what is below stands at their edge, with its figure."""


def draw(study: Sequence[Point], kind: str) -> bytes:
    """Accuracy of every topology at each size, and against multiply-adds, as png or svg.

    Axes are logarithmic in the error. A topology has the same colour and marker in both panels, so that the rows of
    the first one are the legend of the second; markers grow with the size of the net.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"svg.hashsalt": "zoo"}):
        figure = Figure(figsize=(11, 6), dpi=160, layout="constrained")
        rows, costs = figure.subplots(1, 2, width_ratios=(5, 4))
        # Up to the best error that a deviation reaches, with some room.
        best = 0.9 * min((100 - point.mean - point.deviation for point in study), default=0.3)
        for axis in (rows.xaxis, costs.yaxis):
            _scale_errors(axis, max(best, 0.2))
        _draw_rows(rows, study)
        _draw_costs(costs, study)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _scale_errors(axis: Any, best: float) -> None:
    """Make an axis logarithmic in the error, labelled with accuracies, from the floor up to the best error."""
    from matplotlib.ticker import NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (100 - FLOOR, best)})
    ticks = [tick for tick in (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6) if best <= tick <= 100 - FLOOR]
    axis.set_ticks(ticks, [f"{100 - tick:g}" for tick in ticks])
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)
    axis.axes.grid(True, which="major", color="0.9", linewidth=0.6)


def _draw_rows(axes: Any, study: Sequence[Point]) -> None:
    """A row a topology, the best one on top; its sizes below each other, with their deviations."""
    labels = _ranked(study)
    for point in study:
        look, error = _look(point), 100 - point.mean
        height = labels.index(point.label) + 0.27 * (list(SIZES).index(point.size) - 1)
        if point.mean < FLOOR:
            text = f"   {point.mean:.0f} +- {point.deviation:.0f}"
            axes.text(100 - FLOOR, height, text, va="center", size=6.5)
            axes.plot([100 - FLOOR], [height], **look | {"marker": "<", "markersize": 4}, clip_on=False)
            continue
        ends = error + point.deviation, error - min(point.deviation, 0.9 * error)
        axes.plot([min(ends[0], 100 - FLOOR), ends[1]], [height, height], color=look["color"], linewidth=1)
        axes.plot([error], [height], **look)
    special = {point.label: f"\n({point.recipe})" for point in study if point.recipe}
    axes.set_yticks(range(len(labels)), [label + special.get(label, "") for label in labels])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    seeds = max((point.result.seeds for point in study), default=0)
    axes.set_xlabel(f"test accuracy on digits [%], mean and deviation of {seeds} seed{'s' * (seeds > 1)}\n{STRETCHED}")
    sizes = ", ".join(f"{size / 1e6:g} M" for size in SIZES.values())
    axes.set_title(f"{sizes} parameters, from small to large markers", fontsize=9, loc="left")


def _draw_costs(axes: Any, study: Sequence[Point]) -> None:
    """Mean accuracy against multiply-adds, a line a topology."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    for label in dict.fromkeys(point.label for point in study):
        own = [point for point in study if point.label == label]
        errors = [100 - max(point.mean, FLOOR) for point in own]
        axes.plot([point.macs for point in own], errors, linewidth=1, **_look(own[0]) | {"marker": ""})
        for point, error in zip(own, errors, strict=True):
            below = {"marker": "v"} if point.mean < FLOOR else {}
            axes.plot([point.macs], [error], **_look(point) | below, clip_on=False)
        if own[-1].mean < FLOOR:
            axes.annotate(f"{label}, below", (own[-1].macs, 100 - FLOOR), (6, 3), textcoords="offset points", size=6.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{COSTS['macs']}, logarithmic")
    axes.set_ylabel(f"test accuracy on digits [%], mean; {STRETCHED}")


def _look(point: Point) -> dict[str, Any]:
    """Colour, marker and line of a topology, the marker in the size of the net."""
    look = looks([point.label])[point.label]
    return {
        "color": look.colour,
        "linestyle": ("-", "--", ":")[TOPOLOGIES.index(point.label) // len(COLOURS)],
        "marker": MARKS[look.mark],
        "markersize": (4, 6, 8.5)[list(SIZES).index(point.size)],
    }


def _ranked(study: Sequence[Point]) -> list[str]:
    """Labels; the best mean over the sizes first."""
    means: dict[str, list[float]] = {}
    for point in study:
        means.setdefault(point.label, []).append(point.mean)
    return sorted(means, key=lambda label: -statistics.fmean(means[label]))


def run_study(out: Path, seeds: Sequence[int], jobs: int, threads: int) -> int:
    """Train what is missing, then write table, pictures and report; 1 if a run failed."""
    path, runs = out / RESULTS, study_runs(seeds)
    engine = Processes(jobs, threads) if jobs > 1 else InProcess()
    torch.set_num_threads(threads)
    heading = f"{len(STUDY)} topologies at {len(SIZES)} sizes, {len(seeds)} seeds each; lines go to {path}"
    with ProgressBar(heading) as progress:
        outcome = sweep(
            [run for _, _, run in runs.values()],
            path,
            placement=Placement(saved=out.absolute() / SAVED),
            engine=engine,
            listener=progress,
        )
    study = points(path, runs)
    files = {f"study.{kind}": draw(study, kind) for kind in ("png", "svg")} | {"study.md": f"{table(study)}\n".encode()}
    for name, content in files.items():
        write_in_folder(out / name, content)
        print(out / name)
    print(f"\n{table(study)}\n")
    for failed in outcome.failures:
        print(f"failed: {failed}", file=sys.stderr)
    title = "Topologies of one size on handwritten digits"
    return zoo_command(["report", str(path), "-o", str(out / "report.html"), "--title", title]) or bool(
        outcome.failures
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Count every net, and compare topologies of one size on digits; what is done is not done again."
    )
    parser.add_argument("--only", choices=("counts", "study"), help="leave the other part out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results, beside this script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    if args.only != "study":
        write_counts(args.out / "counts.csv")
    return run_study(args.out / "digits", args.seeds, args.jobs, args.threads) if args.only != "counts" else 0


if __name__ == "__main__":
    sys.exit(main())
