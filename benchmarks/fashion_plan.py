"""Plan of the comparison on Fashion-MNIST: which runs there are, and which rate suits which net."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_nets import FLOOR, HEADS, NETWORKS, DenseNetwork
from study import STUDY, Topology

import zoo
from zoo.bench.sweep import plan
from zoo.recipes import RECIPES
from zoo.results import Run
from zoo.results.store import read_if_there

OUT = Path(__file__).resolve().parent / "results" / "fashion"
SIZES = {"0.1 M": (100_000, 1), "0.3 M": (300_000, 2)}
"""Parameters of the two sizes, and the place of their widths in `study.STUDY`."""
RATES = (0.03, 0.1, 0.3)
"""Learning rates that are tried, times the factor of the net's row (0.2 for highway networks and LeNet)."""
SEEDS = (0, 1, 2)
PLANNED = {"0.1 M": SEEDS, "0.3 M": SEEDS[:1]}
"""Seeds of the plan, by size. Two cores are enough for them; a GPU can take all of `SEEDS` at both sizes."""
FITTED: Mapping[str, Mapping[str, Any]] = {"VGG": {"output_stride": 16}}
"""What a net needs for images of 28 px: five poolings would leave nothing, so the last one of VGG keeps the size."""
RECIPE = RECIPES["fashion"].recipe
LONG, LONG_EPOCHS = "resnet20_cifar", 20
"""A net that is also trained for longer than the comparison, to stand beside published figures of its size."""


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
    chosen: Mapping[Choice, float],
    seeds: Iterable[int] = SEEDS,
    sizes: Collection[str] = tuple(SIZES),
    *,
    planned: bool = False,
) -> dict[str, tuple[Choice, Run]]:
    """Return the runs of the comparison, by key; all nets with the first seed come first.

    Args:
        chosen: Learning rates; what has none is left out.
        seeds: Seeds of the runs.
        sizes: Keys of `SIZES`.
        planned: Leave out the seeds of a size that are not planned.
    """
    return {
        run.key: (choice, run)
        for seed in seeds
        for size in reversed(SIZES)
        if size in sizes and (seed in PLANNED[size] or not planned)
        for topology in STUDY
        if (choice := Choice(topology.label, size)) in chosen
        for run in _plan(topology, size, "fashion", chosen[choice], seed)
    }


def long_runs() -> dict[str, Run]:
    """Return the run with a recipe of the usual length, by key: ResNet-20 as in its paper."""
    return {run.key: run for run in plan([LONG], "fashion", RECIPE.changed(epochs=LONG_EPOCHS), SEEDS[:1])}


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
