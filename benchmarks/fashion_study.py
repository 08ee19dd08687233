"""Lines of the comparison on Fashion-MNIST, as topologies, scenes and pairs, and how many of the plan are in."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from fashion_nets import HEADS, NETWORKS, DenseNetwork
from fashion_plan import (
    PLANNED,
    SEEDS,
    SIZES,
    STUDY,
    Choice,
    chosen_rates,
    image_runs,
    long_runs,
    scene_runs,
    search_runs,
)
from fashion_weights import TRUTH, read_answers

from zoo.results import NetResult, group
from zoo.results.chance import LEVEL, OverSeeds, Paired, holm, mcnemar, over_seeds
from zoo.results.metrics import METRICS
from zoo.results.store import read_if_there

_, LARGE = SIZES
Line = Mapping[str, Any]


def image_level(size: str) -> str:
    """Return the name of the level of images for a size."""
    return f"images, {size}"


def scene_level(task: str) -> str:
    """Return the name of the level of a task on scenes."""
    return f"scenes, {METRICS[task].title}"


PLANNED_AT = {image_level(size): ({topology.label for topology in STUDY}, seeds) for size, seeds in PLANNED.items()} | {
    scene_level(task): ({network.label for network in NETWORKS}, SEEDS) for task in HEADS
}
"""Topologies and seeds of the plan, by level."""


def seed_error(net: NetResult) -> float | None:
    """Return the standard error of a net's score over its seeds, in points; None for a single seed."""
    return None if net.spread is None else 100 * net.spread / net.seeds**0.5


@dataclass(frozen=True)
class Point:
    """A topology at a size, over the seeds that are in.

    Attributes:
        label: Of the topology.
        size: Key of `SIZES`.
        rate: Its learning rate.
        result: The net over its seeds.
    """

    label: str
    size: str
    rate: float
    result: NetResult

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the seeds, in percent."""
        return 100 * self.result.score

    @property
    def seed_error(self) -> float | None:
        """Standard error of that mean over the seeds, in points; None for a single seed."""
        return seed_error(self.result)

    def line(self, seed: int) -> Line | None:
        """Return the line of a seed, if it is in."""
        return next((line for line in self.result.runs if line["seed"] == seed), None)


@dataclass(frozen=True)
class Pair:
    """Two topologies of a level, and how far chance explains their difference.

    Attributes:
        level: Key of `levels`.
        labels: Labels of the topologies.
        compared: Their comparison: by their answers to the same test images with the same seed, or over the same seeds.
        corrected: The p-value after Holm's correction for the pairs of the level.
    """

    level: str
    labels: tuple[str, str]
    compared: Paired | OverSeeds
    corrected: float

    @property
    def differs(self) -> bool:
        """True if the nets differ by more than chance."""
        return self.corrected < LEVEL


def verdict(label: str, pairs: Sequence[Pair]) -> tuple[int, int, int] | None:
    """Return of how many others a net is better and worse by more than chance, and how many others there are.

    Those of both directions that are missing are not told apart from it. None if it is compared with no other.
    """
    own = [pair for pair in pairs if label in pair.labels]
    better = [ahead(pair, label) for pair in own if pair.differs]
    return (sum(better), len(better) - sum(better), len(own)) if own else None


def ahead(pair: Pair, label: str) -> bool:
    """Return True if a net of a pair is better than the other."""
    return pair.compared.difference * (1 if pair.labels[0] == label else -1) > 0


@dataclass(frozen=True)
class Study:
    """Everything that the files of the comparison hold.

    Attributes:
        points: Image level, by topology and size.
        rates: Chosen learning rates.
        scenes: Nets on scenes, by net and whether its weights are frozen.
        long: The net that is trained for longer; None if it is not in.
        done: Number of finished runs of the plan, failed ones among them, by stage.
        planned: Number of planned runs, by stage.
        failed: Failed runs of the image level and the scenes, one text each.
        lost: Number of planned runs that failed, by stage.
        left_out: Level, topology and seed of the runs that failed among those that are compared over the seeds.
        answers: Answers to the test images, by key of the run; see `fashion_weights`.
    """

    points: Mapping[Choice, Point]
    rates: Mapping[Choice, float]
    scenes: Mapping[tuple[DenseNetwork, bool], NetResult]
    done: Mapping[str, int]
    planned: Mapping[str, int]
    long: NetResult | None = None
    failed: Sequence[str] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    left_out: Collection[tuple[str, str, int]] = frozenset()
    answers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def ranked(self) -> list[str]:
        """Labels, the best larger net first; those without one last."""
        means = {choice: point.accuracy for choice, point in self.points.items()}
        return sorted((t.label for t in STUDY), key=lambda label: -means.get(Choice(label, LARGE), 0.0))

    @property
    def state(self) -> str:
        """Sentence on how many runs are in."""
        lost = {stage: f" ({number} failed)" if number else "" for stage, number in self.lost.items()}
        counts = " and ".join(
            f"{self.done[stage]} of {self.planned[stage]} runs on {stage}{lost.get(stage, '')}"
            for stage in ("images", "scenes")
        )
        whole = all(self.done[stage] == self.planned[stage] for stage in self.planned)
        return f"{'' if whole else 'Not complete: '}{counts} are in."

    @cached_property
    def by_answers(self) -> dict[str, list[Pair]]:
        """Pairs of nets of one size whose answers with the first seed are there, by level."""
        return {image_level(size): self._by_answers(size) for size in SIZES}

    def _by_answers(self, size: str) -> list[Pair]:
        truth, right = self.answers.get(TRUTH, ""), {}
        for topology in STUDY:
            point = self.points.get(Choice(topology.label, size))
            line = point.line(SEEDS[0]) if point else None
            if line is not None and line["key"] in self.answers:
                own = self.answers[line["key"]]
                right[topology.label] = [a == b for a, b in zip(own, truth, strict=True)]
        return _pairs(image_level(size), {(a, b): mcnemar(right[a], right[b]) for a, b in combinations(right, 2)})

    @cached_property
    def by_seeds(self) -> dict[str, list[Pair]]:
        """Pairs of nets over the planned seeds, by level; none where one seed is planned, or a run is missing.

        A net is left out if one of its runs failed.
        """
        return {
            level: _pairs(level, _over_seeds(level, nets, self.left_out)) for level, nets in nets_by_level(self).items()
        }

    def told_apart(self, level: str) -> list[Pair]:
        """Return the pairs that tell nets of a level apart: over the seeds, or by answers where one seed is planned."""
        _, seeds = PLANNED_AT[level]
        return self.by_seeds[level] if len(seeds) > 1 else self.by_answers[level]

    @property
    def device(self) -> str:
        """Device of most larger nets: times of others are not shown beside theirs."""
        lines = [point.result.runs[0] for choice, point in self.points.items() if choice.size == LARGE]
        return statistics.mode(line["device"]["name"] for line in lines) if lines else ""


def read_study(out: Path) -> Study:
    """Read the results in a folder; lines of other runs are passed over."""
    rates = chosen_rates(out / "search.jsonl")
    runs, dense, search, longer = image_runs(rates), scene_runs(), search_runs(), long_runs()
    planned = image_runs(rates, planned=True)
    images, scenes, long = (read_if_there(out / f"{stage}.jsonl") for stage in ("image", "scenes", "long"))
    points: dict[Choice, Point] = {}
    for comparison in group(line for line in images.trainings if line["key"] in runs):
        for net in comparison.nets:
            choice, run = runs[net.runs[0]["key"]]
            points[choice] = Point(choice.label, choice.size, run.recipe.lr, net)
    nets: dict[tuple[DenseNetwork, bool], NetResult] = {}
    for comparison in group(line for line in scenes.trainings if line["key"] in dense):
        for net in comparison.nets:
            network, run = dense[net.runs[0]["key"]]
            nets[network, run.frozen] = net
    stored = read_if_there(out / "search.jsonl")
    tried = [line for line in (*stored.trainings, *stored.failures) if line["key"] in search]
    known = {*runs, *dense, *longer}
    failed = [line for line in (*images.failures, *scenes.failures, *long.failures) if line["key"] in known]
    lost_images = [planned[line["key"]] for line in images.failures if line["key"] in planned]
    lost_scenes = [dense[line["key"]] for line in scenes.failures if line["key"] in dense]
    left_out = {(image_level(choice.size), choice.label, run.seed) for choice, run in lost_images}
    left_out |= {
        (scene_level(network.task), network.label, run.seed)
        for network, run in lost_scenes
        if network.size == "large" and not run.frozen
    }
    return Study(
        points=points,
        rates=rates,
        scenes=nets,
        long=next((c.nets[0] for c in group(line for line in long.trainings if line["key"] in longer)), None),
        done={
            "search": len(tried),
            "images": len(lost_images)
            + sum(line["key"] in planned for point in points.values() for line in point.result.runs),
            "scenes": len(lost_scenes) + sum(net.seeds for net in nets.values()),
        },
        planned={
            "search": len(search),
            "images": len(STUDY) * sum(map(len, PLANNED.values())),
            "scenes": len(dense),
        },
        failed=[f"{line.get('display', line['name'])}, seed {line.get('seed')}: {line['error']}" for line in failed],
        lost={"images": len(lost_images), "scenes": len(lost_scenes)},
        left_out=left_out,
        answers=read_answers(out),
    )


def nets_by_level(study: Study) -> dict[str, dict[str, NetResult]]:
    """Return the net of each topology at each level: images of two sizes, pixels, regions."""
    found = {
        image_level(size): {choice.label: p.result for choice, p in study.points.items() if choice.size == size}
        for size in SIZES
    }
    for task in HEADS:
        found[scene_level(task)] = {
            network.label: net
            for (network, frozen), net in study.scenes.items()
            if (network.task, network.size, frozen) == (task, "large", False)
        }
    return found


def levels(study: Study) -> dict[str, dict[str, float]]:
    """Return the score of each topology at each level, in percent."""
    nets = nets_by_level(study)
    return {level: {label: 100 * net.score for label, net in own.items()} for level, own in nets.items()}


def _over_seeds(
    level: str, nets: Mapping[str, NetResult], left_out: Collection[tuple[str, str, int]]
) -> Mapping[tuple[str, str], OverSeeds]:
    """Compare the nets that have every planned seed; nothing as long as a run is neither in nor failed."""
    labels, seeds = PLANNED_AT[level]
    found = {label: _scores(nets[label]) if label in nets else {} for label in sorted(labels)}
    missing = {(level, label, seed) for label, own in found.items() for seed in seeds if seed not in own}
    whole = {label: [own[seed] for seed in seeds] for label, own in found.items() if own.keys() >= set(seeds)}
    if len(seeds) < 2 or len(whole) < 2 or not missing <= set(left_out):
        return {}
    return over_seeds(whole)


def _scores(net: NetResult) -> dict[int, float]:
    """Return the score of each run of a net, by seed."""
    return {line["seed"]: line[f"test_{METRICS[net.task].key}"] for line in net.runs}


def _pairs(level: str, compared: Mapping[tuple[str, str], Paired | OverSeeds]) -> list[Pair]:
    corrected = holm([pair.p_value for pair in compared.values()])
    return [Pair(level, *each) for each in zip(compared, compared.values(), corrected, strict=True)]
