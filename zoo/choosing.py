"""Nets that fit a budget, from what is published and measured: the question of `zoo choose`.

Four kinds of figures are asked, and never mixed in one ranking, because they were obtained in different ways:

- ``results``: runs of `zoo bench`, from files that the caller names; a ranking for each image set;
- ``timm``: timm's own evaluation of its weights on ImageNet and five harder test sets, with its own counts and
  throughputs, from ``zoo/data/timm_results.csv``;
- ``weights``: the errors that publishers give with the weights that the zoo loads by tags, by publisher;
- ``published``: papers and other collections, see `zoo.published`, by series and protocol.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from zoo import arguments, published, registry
from zoo.escape import for_terminal
from zoo.results.group import group, pareto_front
from zoo.results.run import CLASSIFY
from zoo.results.store import read

SOURCES = ("results", "timm", "weights", "published")
COSTS = ("macs", "params")
IMAGENET = "ImageNet-1k"
TIMM_SETS = {
    IMAGENET: "top1",
    "ImageNet-ReaL": "real",
    "ImageNetV2": "v2",
    "ImageNet-Sketch": "sketch",
    "ImageNet-A": "a",
    "ImageNet-R": "r",
}
"""Test sets of timm's tables with their columns. A and R have 200 of the 1,000 classes."""
TIMM_NOTE = (
    "timm's own evaluation of its weights, one crop; parameters, multiply-adds and images per second as timm measured "
    "them (GPU: RTX 5090, amp; CPU: i9-10940X, float32, batch 1). Nets whose tag names other images (in22k, in12k, "
    "jft, ...) learned from more than ImageNet-1k. Copied from timm's repository in November 2026."
)
WEIGHTS_NOTE = "errors that the publisher gives with its weights; recipes differ. Multiply-adds are the zoo's count."
TAGGED = {"in1k": IMAGENET, "c10": "CIFAR-10", "c100": "CIFAR-100", "svhn": "SVHN", "fashion": "Fashion-MNIST"}
"""Test images of published weights, by the end of their tags."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Limits on the nets. None is no limit; a figure that a source does not give does not meet a limit.

    Attributes:
        dataset: Test images, such as ``ImageNet-1k``, ``imagenet-r`` or ``cifar10``. Own results are asked whatever
            their images.
        max_params: Largest number of parameters.
        max_macs: Largest number of multiply-adds for one image of the row's size.
        max_size: Largest height and width of an image in pixels.
        min_accuracy: Smallest top-1 accuracy, or score of the task, in percent.
        min_gpu: Smallest number of images per second on the GPU of timm's table.
        min_cpu: Smallest number of images per second on its CPU.
        family: Pattern of the family's name; case does not matter.
        licences: Patterns of licences, one of which must fit. An unknown licence fits none.
        weights: True for nets whose figure belongs to weights that can be loaded.
        output_stride: Stride at which the net's last map can be held; None for any.
        sources: Kinds of figures, of `SOURCES`.
        cost: ``macs`` or ``params``: the other axis of the Pareto front.

    Raises:
        ValueError: If a value is wrong; the message begins with its name.
    """

    dataset: str = IMAGENET
    max_params: float | None = None
    max_macs: float | None = None
    max_size: int | None = None
    min_accuracy: float | None = None
    min_gpu: float | None = None
    min_cpu: float | None = None
    family: str = ""
    licences: Sequence[str] = ()
    weights: bool = False
    output_stride: int | None = None
    sources: Sequence[str] = SOURCES
    cost: str = "macs"

    def __post_init__(self) -> None:
        arguments.check_types(self)
        for name in ("max_params", "max_macs", "max_size", "min_accuracy", "min_gpu", "min_cpu", "output_stride"):
            value = getattr(self, name)
            if value is not None:
                arguments.positive(name, value)
        for value in self.sources:
            if value not in SOURCES:
                raise ValueError(f"source {value!r} must be one of {', '.join(SOURCES)}")
        if self.cost not in COSTS:
            raise ValueError(f"cost {self.cost!r} must be one of {', '.join(COSTS)}")

    def limits(self) -> list[tuple[str, Callable[[Candidate], Any], Callable[[Any], bool]]]:
        """Return name, figure and condition of each limit that is asked for."""
        found: list[tuple[str, Callable[[Candidate], Any], Callable[[Any], bool]]] = []
        for name, key in (("max_params", "params"), ("max_macs", "macs"), ("max_size", "size")):
            if (most := getattr(self, name)) is not None:
                found.append((key, lambda row, key=key: getattr(row, key), lambda value, most=most: value <= most))
        for name, key in (("min_accuracy", "accuracy"), ("min_gpu", "gpu"), ("min_cpu", "cpu")):
            if (least := getattr(self, name)) is not None:
                found.append((key, lambda row, key=key: getattr(row, key), lambda value, least=least: value >= least))
        if self.family:
            found.append(("family", lambda row: row.family or None, lambda value: _matches(value, [self.family])))
        if self.licences:
            found.append(("licence", lambda row: row.licence or None, lambda value: _matches(value, self.licences)))
        if self.output_stride is not None:
            found.append(("output stride", lambda row: row.strides, lambda value: self.output_stride in value))
        if self.weights:
            found.append(("weights", lambda row: bool(row.load), bool))
        return found


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A net with a figure.

    Attributes:
        net: Name of the net, with the tag of its weights.
        accuracy: Top-1 accuracy, or score of the task, in percent.
        standard_error: Standard error of a measured accuracy in points; None if unknown.
        params: Number of parameters; None if the source does not give it.
        macs: Multiply-adds for one image of that size; None if the source does not give them.
        size: Height and width of the images; None if there is no single one.
        gpu: Images per second on the GPU of timm's table; None if unknown.
        cpu: Images per second on its CPU; None if unknown.
        family: Family in the source.
        licence: Licence of the weights as their publisher names it; empty if unknown.
        strides: Strides at which the last map can be held besides the native one; None if unknown.
        source: Place of the figure.
        create: Python that creates the net; empty if neither the zoo nor timm has it.
        load: Python that creates it with the weights that the figure belongs to; empty if there are none to load.
    """

    net: str
    accuracy: float
    standard_error: float | None = None
    params: float | None = None
    macs: float | None = None
    size: int | None = None
    gpu: float | None = None
    cpu: float | None = None
    family: str = ""
    licence: str = ""
    strides: tuple[int, ...] | None = None
    source: str
    create: str = ""
    load: str = ""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Nets of one source that fit, the most accurate first. Figures of two rankings do not compare.

    Attributes:
        kind: Kind of figures, of `SOURCES`.
        title: Title with the test images and the source.
        note: How the figures were obtained.
        rows: The nets that fit; those of the Pareto front only, unless all were asked for.
        fitting: Number of nets that fit.
        asked: Number of nets in the source.
        unknown: Limits that could not be checked, with the number of nets that were left out because of it.
    """

    kind: str
    title: str
    note: str
    rows: tuple[Candidate, ...]
    fitting: int
    asked: int
    unknown: Mapping[str, int] = field(default_factory=dict)


def choose(wish: Wish, results: Sequence[Path] = (), *, front: bool = True) -> list[Ranking]:
    """Return the nets that fit a wish, in one ranking for each source.

    Args:
        wish: The limits.
        results: Result files of `zoo bench`, or folders with one.
        front: Return only nets that no other of the ranking beats in both cost and accuracy.

    Raises:
        ValueError: If no source knows the test images, family, licence or stride, or a result file is wrong.
    """
    kinds = {"results": _results(results), "timm": _timm(wish.dataset), "weights": _tags(wish.dataset)}
    kinds |= {"published": _published(wish.dataset)}
    listed = [(kind, *ranking) for kind in wish.sources for ranking in kinds[kind]]
    if not any(rows for kind, _, _, rows in listed if kind != "results") and not results:
        known = dict.fromkeys([*TIMM_SETS, *(row.dataset for row in published.results())])
        raise ValueError(f"dataset {for_terminal(wish.dataset)!r} is in no table asked: choose from {', '.join(known)}")
    _check_words(wish, [row for *_, rows in listed for row in rows])
    rankings = [_rank(wish, kind, title, note, rows, front) for kind, title, note, rows in listed]
    return [ranking for ranking in rankings if ranking.fitting]


def _check_words(wish: Wish, rows: Sequence[Candidate]) -> None:
    """Raise ValueError if a word of the wish fits no net at all, which a budget may do and a word may not."""
    given = {"family": wish.family, "licence": " ".join(wish.licences), "output stride": wish.output_stride}
    for name, figure, fits in wish.limits():
        values = [value for value in map(figure, rows) if value is not None]
        if name in given and not any(map(fits, values)):
            known = sorted({v for value in values for v in (value if isinstance(value, tuple) else (value,))})
            close = difflib.get_close_matches(str(given[name]), list(map(str, known)), n=3) or known[:12]
            more = ", ..." if len(close) < len(known) else ""
            told = f"there are {', '.join(map(str, close))}{more}" if known else "none gives it"
            raise ValueError(f"{name} {for_terminal(given[name])!r} is that of no net in the tables asked: {told}")


def _rank(wish: Wish, kind: str, title: str, note: str, rows: Sequence[Candidate], front: bool) -> Ranking:
    unknown: Counter[str] = Counter()
    fitting = []
    for row in rows:
        figures = [(name, figure(row), fits) for name, figure, fits in wish.limits()]
        if all(value is None or fits(value) for _, value, fits in figures):
            missing = [name for name, value, _ in figures if value is None]
            unknown.update(missing)
            if not missing:
                fitting.append(row)
    chosen = fitting
    if front:
        costed = [row for row in fitting if getattr(row, wish.cost) is not None]
        chosen = [costed[i] for i in pareto_front([(getattr(row, wish.cost), row.accuracy) for row in costed])]
        if not costed:  # of a source without costs only the most accurate is beaten by none
            chosen = sorted(fitting, key=lambda row: -row.accuracy)[:1]
    ordered = sorted(chosen, key=lambda row: (-row.accuracy, getattr(row, wish.cost) or 0))
    return Ranking(
        kind=kind,
        title=title,
        note=note,
        rows=tuple(ordered),
        fitting=len(fitting),
        asked=len(rows),
        unknown=dict(unknown),
    )


Source = Iterator[tuple[str, str, list[Candidate]]]
"""Title, note and nets of each ranking of a kind."""


def _timm(dataset: str) -> Source:
    wanted = _plain(published.dataset_name(dataset))
    name = next((name for name in TIMM_SETS if _plain(name) == wanted), None)
    if name is not None:
        column = TIMM_SETS[name]
        rows = [_timm_row(cells, column) for cells in _timm_table() if cells[column]]
        yield f"{name}, timm's weights", TIMM_NOTE, rows


def _timm_row(cells: Mapping[str, str], column: str) -> Candidate:
    def number(key: str, unit: float = 1.0) -> float | None:
        return float(cells[key]) * unit if cells[key] else None

    name = f'"timm:{cells["model"]}"'
    return Candidate(
        net=f"timm:{cells['model']}",
        accuracy=float(cells[column]),
        params=number("params", 1e6),
        macs=number("macs", 1e9),
        size=int(cells["size"]),
        gpu=number("gpu"),
        cpu=number("cpu"),
        family=cells["family"],
        licence=cells["licence"],
        strides=tuple(map(int, cells["strides"].split())),
        source="timm's results",
        create=f"zoo.create_model({name})",
        load=f"zoo.create_model({name}, pretrained=True)",
    )


@cache
def _timm_table() -> tuple[dict[str, str], ...]:
    text = resources.files("zoo").joinpath("data", "timm_results.csv").read_text(encoding="ascii")
    return tuple(csv.DictReader(text.splitlines()))


def tagged() -> Iterator[tuple[Any, str, Any, str, int]]:
    """Yield entry, tag, weights, test images and size in pixels of all published weights whose error is given."""
    for name in registry.list_models():
        entry = registry.model_entry(name)
        for tag, weights in entry.weights.items():
            images = TAGGED.get(tag.rpartition("_")[2], "")
            if weights.top1_error is not None and images:
                size = (weights.test_input_size or weights.input_size or entry.input_size)[-1]
                yield entry, tag, weights, images, size


def _tags(dataset: str) -> Source:
    images = published.dataset_name(dataset)
    publishers: dict[str, list[Candidate]] = {}
    for entry, tag, weights, tested, size in tagged():
        if tested.lower() != images.lower():
            continue
        name = f"{entry.name}.{tag}"
        row = Candidate(
            net=name,
            accuracy=100 - weights.top1_error,
            params=weights.params or entry.params,
            macs=weights.macs or published.counted_macs().get((entry.name, tested, size)),
            size=size,
            family=entry.family,
            licence=weights.licence,
            strides=_strides(entry.name),
            source=weights.error_source,
            create=f'zoo.create_model("{name if weights.overrides else entry.name}")',
            load=f'zoo.create_model("{name}", pretrained=True)',
        )
        publishers.setdefault(weights.error_source, []).append(row)
    for publisher, rows in publishers.items():
        yield f"{images}, weights that the zoo loads, errors by {publisher}", WEIGHTS_NOTE, rows


def _published(dataset: str) -> Source:
    wanted = published.dataset_name(dataset).lower()
    series: dict[tuple[str, str], list[Candidate]] = {}
    for row in published.results():
        if row.top1_error is None or row.dataset.lower() != wanted:
            continue
        protocol = "; ".join((row.view, *row.departures))
        candidate = Candidate(
            net=row.entry or row.model,
            accuracy=100 - row.top1_error,
            params=row.params,
            macs=row.macs,
            size=row.input_size,
            family=row.family,
            strides=_strides(row.entry) if row.entry else None,
            source=row.source,
            create=f'zoo.create_model("{row.entry}")' if row.entry else "",
        )
        series.setdefault((row.series, protocol), []).append(candidate)
    for (name, protocol), rows in series.items():
        yield f"{published.dataset_name(dataset)}, {name}, {protocol}", published.SERIES[name], rows


def _results(paths: Sequence[Path]) -> Source:
    if not paths:
        return
    for comparison in group(read(paths).trainings):
        rows = []
        for net in comparison.nets:
            line = net.runs[-1]
            kept = [str(folder) for path in paths if (folder := _kept(path, line)) is not None]
            options = "".join(f", {key}={value!r}" for key, value in (line.get("overrides") or {}).items())
            rows.append(
                Candidate(
                    net=net.name,
                    accuracy=100 * net.score,
                    standard_error=None if net.standard_error is None else 100 * net.standard_error,
                    params=net.params,
                    macs=net.macs,
                    size=(line["dataset"].get("input_size") or [None])[-1],
                    family=net.family,
                    strides=_strides(line["name"]) if not options else None,
                    source=f"{net.seeds} seeds" if net.seeds > 1 else f"seed {line['seed']}",
                    create=f"zoo.create_model({json.dumps(line['name'])}{options})"
                    if comparison.task == CLASSIFY
                    else "",
                    load=f"zoo.create_model({json.dumps(f'local-dir:{kept[0]}')}, pretrained=True)" if kept else "",
                )
            )
        note = "measured by zoo bench: one recipe for all, unless a name says otherwise"
        yield f"{comparison.title}, own results ({comparison.metric.title})", note, rows


def _kept(path: Path, line: Mapping[str, Any]) -> Path | None:
    """Return the folder of a line's net beside its results; None if there is none."""
    folder = (path if path.is_dir() else path.parent) / (line.get("weights") or ".none")
    return folder if (folder / "config.json").is_file() else None


def _strides(name: str) -> tuple[int, ...] | None:
    """Return the output strides of a net of the zoo; None for any other."""
    try:
        spec = registry.model_entry(name.partition(".")[0]).spec
    except ValueError:
        return None
    return () if "output_stride" in spec.lacks else spec.output_strides


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in patterns)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
