"""Compare topologies on Fashion-MNIST at three levels: the class of an image, boxes in a scene, pixels of a scene.

python benchmarks/fashion.py --jobs 2                      what is missing, on the CPU
python benchmarks/fashion.py --stages search image --device cuda --jobs 12

Stage `search` trains every topology at each size with three learning rates on 8,000 of the training images and keeps
the rate that is best on 4,000 others of them. Stage `image` trains with that rate on all 60,000. Stage `scenes` trains
eight topologies to segment scenes of garments and to detect the garments in them. Lines go to OUT/STAGE.jsonl, weights
of stage `image` to OUT/weights. What is there is not trained again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fashion_nets import FLOOR, HEADS, NETWORKS, DenseNetwork
from study import STUDY, Topology
from tabulate import tabulate

import zoo
from zoo.bench.engines import InProcess, Processes
from zoo.bench.one_run import Placement
from zoo.bench.progress import ProgressBar
from zoo.bench.sweep import SAVED, Outcome, plan, sweep
from zoo.recipes import RECIPES
from zoo.results import Run
from zoo.results.store import read_if_there

OUT = Path(__file__).resolve().parent / "results" / "fashion"
SIZES = {"0.1 M": (100_000, 1), "0.3 M": (300_000, 2)}
"""Parameters of the two sizes, and the place of their widths in `study.STUDY`."""
RATES = (0.03, 0.1, 0.3)
"""Learning rates that are tried, times the factor of the net's row (0.2 for highway networks and LeNet)."""
SEEDS = (0, 1, 2)
STAGES = ("search", "image", "scenes", "table")
FITTED: Mapping[str, Mapping[str, Any]] = {"VGG": {"output_stride": 16}}
"""What a net needs for images of 28 px: five poolings would leave nothing, so the last one of VGG keeps the size."""
RECIPE = RECIPES["fashion"].recipe


@dataclass(frozen=True)
class Choice:
    """A topology at a size.

    Attributes:
        label: Of the topology.
        size: Key of `SIZES`.
    """

    label: str
    size: str


def overrides(topology: Topology, size: str) -> dict[str, Any]:
    """Return the changed fields of a topology's preset at a size, for images of 28 px."""
    return {**topology.sizes[SIZES[size][1]], **FITTED.get(topology.label, {})}


def rates(topology: Topology) -> tuple[float, ...]:
    """Return the learning rates that are tried for a topology."""
    return tuple(round(rate * zoo.model_entry(topology.preset).lr_factor, 6) for rate in RATES)


def search_runs() -> dict[str, tuple[Choice, Run]]:
    """Return the runs that choose learning rates, by key."""
    return {
        run.key: (Choice(topology.label, size), run)
        for size in SIZES
        for topology in STUDY
        for rate in rates(topology)
        for run in _plan(topology, size, "fashion_search", rate, 0)
    }


def image_runs(
    chosen: Mapping[Choice, float], seeds: Iterable[int] = SEEDS, sizes: Collection[str] = tuple(SIZES)
) -> dict[str, tuple[Choice, Run]]:
    """Return the runs of the comparison, by key; all nets with the first seed come first."""
    return {
        run.key: (choice, run)
        for seed in seeds
        for size in reversed(SIZES)
        if size in sizes
        for topology in STUDY
        if (choice := Choice(topology.label, size)) in chosen
        for run in _plan(topology, size, "fashion", chosen[choice], seed)
    }


def scene_runs(seeds: Iterable[int] = SEEDS) -> dict[str, tuple[DenseNetwork, Run]]:
    """Return the runs on scenes of garments, by key; all nets with the first seed come first."""
    return {
        run.key: (network, run)
        for seed in seeds
        for network in NETWORKS
        for frozen in ((False, True) if (network.label, network.size) == (FLOOR, "large") else (False,))
        for run in plan(
            [network.preset],
            "fashion_scenes",
            RECIPES["fashion_scenes"].recipe,
            [seed],
            network.overrides,
            task=network.task,
            head=HEADS[network.task],
            frozen=frozen,
        )
    }


def _plan(topology: Topology, size: str, dataset: str, rate: float, seed: int) -> list[Run]:
    recipe = RECIPE.changed(lr=rate)
    return plan([topology.preset], dataset, recipe, [seed], overrides(topology, size), fixed=["lr"])


def chosen_rates(path: Path) -> dict[Choice, float]:
    """Return the rate with the best validation accuracy of every topology and size whose runs have all ended.

    A run that failed, as one does whose loss is not finite, counts as the worst. The smaller of two equal rates is
    taken.
    """
    runs = search_runs()
    scores: dict[Choice, dict[float, float]] = {}
    stored = read_if_there(path)
    for line in [*stored.trainings, *stored.failures]:
        if line["key"] in runs:
            choice, run = runs[line["key"]]
            scores.setdefault(choice, {})[run.recipe.lr] = line.get("test_accuracy", 0.0)
    return {
        choice: max(sorted(own), key=lambda rate: own[rate]) for choice, own in scores.items() if len(own) == len(RATES)
    }


def train(runs: Sequence[Run], path: Path, args: argparse.Namespace, weights: Path | None = None) -> Outcome:
    """Train the runs that a results file lacks."""
    on_gpu = args.device != "cpu"
    saved = args.out.absolute() / SAVED
    placement = Placement(
        device=args.device,
        channels_last=not on_gpu,  # in float32 the slower layout on a GPU
        saved=None if on_gpu else saved,
        weights=weights,
        recorded=on_gpu,
        deterministic=on_gpu,
    )
    engine = Processes(args.jobs, 1) if args.jobs > 1 else InProcess()
    with ProgressBar(f"{len(runs)} runs; lines go to {path}") as progress:
        return sweep(runs, path, placement=placement, engine=engine, listener=progress)


def table(out: Path) -> str:
    """Return the image level as Markdown: how many runs are in, and a row a topology, the best larger net first."""
    runs = image_runs(chosen_rates(out / "search.jsonl"))
    lines: dict[Choice, list[Mapping[str, Any]]] = {}
    for line in read_if_there(out / "image.jsonl").trainings:
        if line["key"] in runs:
            lines.setdefault(runs[line["key"]][0], []).append(line)
    rates = {choice: run.recipe.lr for choice, run in runs.values()}
    large = list(SIZES)[-1]
    means = {choice: statistics.fmean(line["test_accuracy"] for line in own) for choice, own in lines.items()}
    ranked = sorted(STUDY, key=lambda topology: -means.get(Choice(topology.label, large), 0.0))
    rows = []
    for topology in ranked:
        choices = [Choice(topology.label, size) for size in SIZES]
        row = [topology.label]
        for choice in choices:
            own = lines.get(choice, [])
            seeds = f"{len(own)} seed{'s' * (len(own) > 1)}"
            row += [f"{100 * means[choice]:.2f} ({seeds})" if own else "not yet", f"{rates[choice]:g}"]
        macs = [lines[choice][0]["counts"]["macs"] / 1e6 for choice in choices if choice in lines]
        rows.append([*row, " / ".join(f"{number:.1f}" for number in macs)])
    headers = ["topology", *(f"{size}: {what}" for size in SIZES for what in ("accuracy [%]", "rate")), "M MACs"]
    done = sum(map(len, lines.values()))
    text = tabulate(rows, headers=headers, tablefmt="pipe", colalign=["left"] + ["right"] * 5, disable_numparse=True)
    return f"{done} of {len(runs)} runs are in.\n\n{text}"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Compare sixteen topologies on Fashion-MNIST.")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N", help="default: 0 1 2")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="default: all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results/fashion, beside this script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if a run failed."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    failures: list[str] = []
    search = args.out / "search.jsonl"
    if "search" in args.stages:
        failures += train([run for _, run in search_runs().values()], search, args).failures
    if "image" in args.stages:
        runs = image_runs(chosen_rates(search), args.seeds, args.sizes)
        failures += train(
            [run for _, run in runs.values()], args.out / "image.jsonl", args, args.out / "weights"
        ).failures
    if "scenes" in args.stages:
        failures += train([run for _, run in scene_runs(args.seeds).values()], args.out / "scenes.jsonl", args).failures
    if "table" in args.stages:
        print(table(args.out))
    for failed in failures:
        print(f"failed: {failed}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
