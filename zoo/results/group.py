"""Group runs by net and aggregate their scores: the only rule of aggregation.

**Comparable runs** (a `Comparison`): runs of one task on one image set. Two sets of one name are one set if their
fingerprints are equal. Lines from before fingerprints have none; they are kept apart from lines with one, except for
sets whose name identifies their images (`run.NAMED_SETS`).

**Runs of one net** (a `NetResult`): runs of a comparison with the same name, overrides, head, frozen, first weights,
frozen part, share of validation images, and recipe. A field that a recipe lacks has its default. Equal numbers such as
0.02 and 0.1 * 0.2 are one value. Seed, machine, versions and time do not matter. If several lines have one seed, the
last one counts.

**Figures of a score**: the arithmetic mean over the runs; the *spread*, their sample standard deviation (n - 1); and
the *standard error* from the finite number of test images, which is the mean of the runs' standard errors. More runs do
not shrink the standard error, because all use the same images. The error of a mean is at most the mean of the errors.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.published import published_error
from zoo.results.line import Line, score_key, task_of
from zoo.results.metrics import METRICS, Metric, standard_error
from zoo.results.recipe import DEFAULTS, words
from zoo.results.run import CLASSIFY, NAMED_SETS, display_name
from zoo.results.topologies import topology_of

DIGITS = 12
"""Significant digits at which numbers of recipes are compared."""


@dataclass(frozen=True, kw_only=True)
class NetResult:
    """One net of a comparison, over all of its seeds.

    Attributes:
        net: Display name: the preset with its overrides, and the model that it is built into.
        recipe: Special features of its recipe; empty for the recipe of more than half of the runs.
        family: Family of the net.
        params: Number of parameters.
        macs: Multiply-adds for one image of the dataset.
        activations: Elements that convolutions and linear layers write, for one image.
        score: Mean of the task's metric over the seeds. For classification it is the share of correctly classified test
            images.
        standard_error: Standard error of the score on the test images; None if no run has one.
        spread: Sample standard deviation of the score over the seeds; None for a single seed.
        seeds: Number of runs.
        seconds: Mean wall time of a run.
        test_images: Number of test images behind the score.
        uncounted: Operators that no figure counts, with the number of calls.
        task: Name of the task.
        trivial: Score of the task's trivial answer on the same images; None if there is none.
        published_error: Published top-1 error of this net on these images in percent, or None.
        remarks: Remarks that a reader of the figures needs; complete sentences.
        runs: The lines, one per seed, in the order in which they were read.
    """

    net: str
    recipe: str = ""
    family: str
    params: int
    macs: int
    activations: int
    score: float
    standard_error: float | None
    spread: float | None
    seeds: int
    seconds: float
    test_images: int
    uncounted: Mapping[str, int]
    task: str = CLASSIFY
    trivial: float | None = None
    published_error: float | None = None
    remarks: tuple[str, ...] = ()
    runs: tuple[Line, ...] = field(default=(), repr=False)

    @property
    def topology(self) -> str:
        """Topology of the net; see `zoo.results.topologies`."""
        line = self.runs[-1] if self.runs else {}
        return topology_of(self.family, line.get("spec"), line.get("name", self.net))

    @property
    def name(self) -> str:
        """Name of the net, followed by the special features of its recipe."""
        return f"{self.net} [{self.recipe}]" if self.recipe else self.net

    @property
    def versus_published(self) -> float | None:
        """Points by which the score exceeds the published figure; None if none is published."""
        return None if self.published_error is None else 100 * self.score - (100 - self.published_error)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Nets of one task on one image set.

    Attributes:
        title: Name of this comparison, unique among those made together.
        dataset: Name of the image set.
        fingerprint: Fingerprint of the image set. Empty if the name identifies the set, and for lines without one.
        task: Name of the task.
        nets: The nets, in the order of the first run of each.
    """

    title: str
    dataset: str
    fingerprint: str
    task: str
    nets: tuple[NetResult, ...]

    @property
    def metric(self) -> Metric:
        """Metric of the score."""
        return METRICS[self.task]

    @property
    def remarks(self) -> list[str]:
        """Remarks of all nets, each with the name of its net."""
        return [f"{net.name}: {remark}" for net in self.nets for remark in net.remarks]


def group(trainings: Iterable[Line]) -> list[Comparison]:
    """Group checked lines of finished runs into comparisons, in the order of the first run of each.

    Args:
        trainings: Lines such as `Results.trainings`.
    """
    places: dict[tuple[str, str, str], list[Line]] = {}
    for line in trainings:
        places.setdefault(place_of(line), []).append(line)
    named = Counter((task, dataset) for task, dataset, _ in places)
    return [
        Comparison(
            title=_title(dataset, task, fingerprint, ambiguous=named[task, dataset] > 1),
            dataset=dataset,
            fingerprint=fingerprint,
            task=task,
            nets=tuple(_nets(lines)),
        )
        for (task, dataset, fingerprint), lines in places.items()
    ]


def place_of(line: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return task, image set and fingerprint. Lines with equal triples are comparable."""
    dataset = line["dataset"]
    fingerprint = "" if dataset["name"] in NAMED_SETS else dataset.get("fingerprint") or ""
    return task_of(line), dataset["name"], fingerprint


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other point beats, by rising cost.

    A (cost, value) point beats another if it costs no more, is worth no less, and is better in at least one of the two.
    Equal points do not beat each other.
    """
    front: list[int] = []
    best = -float("inf")
    previous = None
    for position in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        cost, value = points[position]
        if value > best or (cost, value) == previous:
            front.append(position)
            best, previous = value, (cost, value)
    return front


def display_of(line: Mapping[str, Any]) -> str:
    """Return the display name of the net of a training."""
    head, frozen = line.get("head") or "", bool(line.get("frozen"))
    return display_name(line["name"], line.get("overrides") or {}, head, frozen, line)


def _title(dataset: str, task: str, fingerprint: str, *, ambiguous: bool) -> str:
    title = dataset if task == CLASSIFY else f"{dataset}, {task}"
    images = f"images {fingerprint}" if fingerprint else "images unknown"
    return f"{title} ({images})" if ambiguous else title


def _nets(lines: Sequence[Line]) -> Iterable[NetResult]:
    """Yield the nets of one comparison."""
    recipes = [_plain_recipe(line) for line in lines]
    nets: dict[str, list[Line]] = {}
    for line, recipe in zip(lines, recipes, strict=True):
        built = line["name"], _plain(line.get("overrides") or {}), line.get("head") or "", bool(line.get("frozen"))
        built += tuple(line.get(key) or "" for key in ("digest", "freeze", "validation"))
        nets.setdefault(_text([*built, recipe]), []).append(line)
    special = dict(zip(map(_text, recipes), _specials(lines, recipes), strict=True))
    for own in nets.values():
        yield _net(own, special[_text(_plain_recipe(own[0]))])


def _plain_recipe(line: Line) -> dict[str, Any]:
    """Return a recipe with all of its fields, in plain types that compare."""
    return _plain({**DEFAULTS, **line["recipe"]})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(f"{value:.{DIGITS}g}")
    return value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _specials(lines: Sequence[Line], recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the special features of each line's recipe: its name, or the fields that differ from most lines.

    Values that more than half of the lines share are not mentioned.
    """
    texts = [{key: _text(value) for key, value in recipe.items()} for recipe in recipes]
    fields = dict.fromkeys(key for recipe in texts for key in recipe)
    values = {key: Counter(recipe.get(key) for recipe in texts) for key in fields}
    differs = [
        [key for key in fields if len(values[key]) > 1 and 2 * values[key][recipe.get(key)] <= len(lines)]
        for recipe in texts
    ]
    names = [line.get("recipe_name") or "" for line in lines]
    meant: dict[str, set[str]] = {}
    for name, recipe in zip(names, recipes, strict=True):
        meant.setdefault(name, set()).add(_text(recipe))
    return [
        f"recipe {name}"
        if keys and name and len(meant[name]) == 1
        else words({key: _shown(recipe.get(key)) for key in keys})
        for keys, name, recipe in zip(differs, names, recipes, strict=True)
    ]


def _shown(value: Any) -> Any:
    """Return a value of a recipe in Python's types: tuples instead of lists."""
    return tuple(map(_shown, value)) if isinstance(value, list) else value


def _net(lines: Sequence[Line], recipe: str) -> NetResult:
    newest: dict[int, Line] = {}
    for line in lines:
        newest[line["seed"]] = line
    runs, last = list(newest.values()), lines[-1]
    remarks = []
    if len(runs) < len(lines):
        remarks.append(f"{len(lines)} lines with {len(runs)} seeds; of each seed the last line counts")
    counts = last["counts"]
    if any(run["counts"] != counts for run in runs):
        remarks.append("its runs were counted differently; the newest counts are shown")
    devices = sorted({str((run.get("device") or {}).get("name", "unknown")) for run in runs})
    if len(devices) > 1:
        remarks.append(f"its runs are of different devices ({', '.join(devices)}); its seconds are a mean over them")
    scores = [run[score_key(run)] for run in runs]
    errors = [error for run in runs if (error := error_of(run)) is not None]
    return NetResult(
        net=display_of(last),
        recipe=recipe,
        family=last["family"],
        params=counts["params"],
        macs=counts["macs"],
        activations=counts["activations"],
        score=statistics.fmean(scores),
        standard_error=statistics.fmean(errors) if errors else None,
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        seeds=len(runs),
        seconds=statistics.fmean(run["seconds"] for run in runs),
        test_images=last["dataset"]["test"],
        uncounted=counts["uncounted"],
        task=task_of(last),
        trivial=last.get(score_key(last).replace("test_", "trivial_")),
        published_error=published_error(last) if task_of(last) == CLASSIFY else None,
        remarks=tuple(remarks),
        runs=tuple(runs),
    )


def error_of(line: Mapping[str, Any]) -> float | None:
    """Return the standard error of a training's score; None if it is neither stored nor derivable.

    Old lines of classification without one get the binomial error, which newer lines store.
    """
    error = line.get("standard_error")
    if error is None and task_of(line) == CLASSIFY:
        return standard_error(line[score_key(line)], line["dataset"]["test"])
    return error
