"""Lines of the comparison on Fashion-MNIST, as topologies, scenes and pairs, and how many of the plan are in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from fashion_nets import HEADS, DenseNetwork
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
from zoo.results.chance import LEVEL, Paired, holm, mcnemar
from zoo.results.metrics import METRICS
from zoo.results.store import read_if_there

_, LARGE = SIZES
Line = Mapping[str, Any]


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
        return None if self.result.spread is None else 100 * self.result.spread / self.result.seeds**0.5

    def line(self, seed: int) -> Line | None:
        """Return the line of a seed, if it is in."""
        return next((line for line in self.result.runs if line["seed"] == seed), None)


@dataclass(frozen=True)
class Pair:
    """Two topologies of a size, on the same seed and test images, and the p-value after Holm's correction."""

    size: str
    labels: tuple[str, str]
    paired: Paired
    corrected: float

    @property
    def differs(self) -> bool:
        """True if the nets differ by more than chance."""
        return self.corrected < LEVEL


def ahead(pair: Pair, label: str) -> bool:
    """Return True if a net of a pair has more right answers than the other."""
    return pair.paired.difference * (1 if pair.labels[0] == label else -1) > 0


@dataclass(frozen=True)
class Study:
    """Everything that the files of the comparison hold.

    Attributes:
        points: Image level, by topology and size.
        rates: Chosen learning rates.
        scenes: Nets on scenes, by net and whether its weights are frozen.
        long: The net that is trained for longer; None if it is not in.
        done: Number of finished runs of the plan, by stage.
        planned: Number of planned runs, by stage.
        failed: Failed runs of the image level and the scenes, one text each.
        answers: Answers to the test images, by key of the run; see `fashion_weights`.
    """

    points: Mapping[Choice, Point]
    rates: Mapping[Choice, float]
    scenes: Mapping[tuple[DenseNetwork, bool], NetResult]
    done: Mapping[str, int]
    planned: Mapping[str, int]
    long: NetResult | None = None
    failed: Sequence[str] = ()
    answers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def ranked(self) -> list[str]:
        """Labels, the best larger net first; those without one last."""
        means = {choice: point.accuracy for choice, point in self.points.items()}
        return sorted((t.label for t in STUDY), key=lambda label: -means.get(Choice(label, LARGE), 0.0))

    @property
    def state(self) -> str:
        """Sentence on how many runs are in."""
        counts = " and ".join(f"{self.done[s]} of {self.planned[s]} runs on {s}" for s in ("images", "scenes"))
        whole = all(self.done[stage] == self.planned[stage] for stage in self.planned)
        return f"{'' if whole else 'Not complete: '}{counts} are in."

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs of nets of one size whose answers with the first seed are there."""
        return [pair for size in SIZES for pair in self._pairs(size)]

    def _pairs(self, size: str) -> list[Pair]:
        truth, right = self.answers.get(TRUTH, ""), {}
        for topology in STUDY:
            point = self.points.get(Choice(topology.label, size))
            line = point.line(SEEDS[0]) if point else None
            if line is not None and line["key"] in self.answers:
                own = self.answers[line["key"]]
                right[topology.label] = [a == b for a, b in zip(own, truth, strict=True)]
        names = list(combinations(right, 2))
        found = [mcnemar(right[a], right[b]) for a, b in names]
        corrected = holm([paired.p_value for paired in found])
        return [Pair(size, *each) for each in zip(names, found, corrected, strict=True)]

    def verdict(self, label: str, size: str) -> str:
        """Return the numbers of nets of a size that a net is better and worse than by more than chance; "-" if unknown.

        Those of both directions that are missing are not told apart from it.
        """
        own = [pair for pair in self.pairs if pair.size == size and label in pair.labels]
        better = [ahead(pair, label) for pair in own if pair.differs]
        return f"{sum(better)} / {len(better) - sum(better)} of {len(own)}" if own else "-"

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
    lost = [line for line in (*images.failures, *scenes.failures, *long.failures) if line["key"] in known]
    return Study(
        points=points,
        rates=rates,
        scenes=nets,
        long=next((c.nets[0] for c in group(line for line in long.trainings if line["key"] in longer)), None),
        done={
            "search": len(tried),
            "images": sum(line["key"] in planned for point in points.values() for line in point.result.runs),
            "scenes": sum(net.seeds for net in nets.values()),
        },
        planned={
            "search": len(search),
            "images": len(STUDY) * sum(map(len, PLANNED.values())),
            "scenes": len(dense),
        },
        failed=[f"{line.get('display', line['name'])}, seed {line.get('seed')}: {line['error']}" for line in lost],
        answers=read_answers(out),
    )


def levels(study: Study) -> dict[str, dict[str, float]]:
    """Return the score of each topology at each level: images of two sizes, pixels, regions."""
    found: dict[str, dict[str, float]] = {
        f"images, {size}": {p.label: p.accuracy for choice, p in study.points.items() if choice.size == size}
        for size in SIZES
    }
    for task in HEADS:
        found[scene_level(task)] = {
            network.label: 100 * net.score
            for (network, frozen), net in study.scenes.items()
            if (network.task, network.size, frozen) == (task, "large", False)
        }
    return found


def scene_level(task: str) -> str:
    """Return the name of the level of a task on scenes."""
    return f"scenes, {METRICS[task].title}"
