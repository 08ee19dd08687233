"""Results that papers, authors and other collections have published about nets: one row per figure.

Nothing here was measured by the zoo. The table is ``zoo/data/published.csv``; docs/published.md describes its sources
and how it was cleaned. Figures of two rows compare only if series and protocol show that they were obtained alike.
`primary` picks the figure that a run of a registered net may be compared with.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

PAPER, AUTHORS = "paper", "authors' code"
SERIES = {
    PAPER: "the paper that introduced the net, its own runs",
    AUTHORS: "figures that the authors give beside their released code or weights",
    "authors' weights elsewhere": "weights of the authors, evaluated by somebody else",
    "other papers": "measured or quoted in a later paper, as a baseline",
    "fb.resnet.torch": "Facebook's re-implementation of ResNet in Torch",
    "torchvision V1 weights": "torchvision's first recipe, evaluated with resize 256",
    "torchvision V2 weights": "torchvision's long recipe of 2021, evaluated with resize 232",
    "torchvision other recipes": "torchvision's weights of neither recipe",
    "timm weights": "weights that timm's author trained, by several recipes, evaluated by timm",
    "timm on others' weights": "weights of torchvision, GluonCV and others, evaluated by timm",
    "pytorchcv": "pytorchcv's own training; its recipe is not in its table, the errors are far below the papers'",
    "pytorchcv on others' weights": "weights of others, evaluated by pytorchcv",
    "mmpretrain": "mmpretrain's own training",
    "mmpretrain on others' weights": "weights of others, evaluated by mmpretrain",
    "pycls": "one recipe of 100 epochs for all nets, means of five runs",
    "akamaster": "a re-implementation of the CIFAR ResNets in PyTorch: best test error of a run",
    "bearpaw": "pytorch-classification",
    "kuangliu": "pytorch-cifar: nets of ImageNet width on CIFAR-10",
    "pustar": "ResNeXt in Caffe",
    "fashion-mnist": "submitted by many to the page of the data set, whose authors have not verified them",
    "random erasing": "baselines of a later paper and its code: the best epoch on the test images",
    "convnet-burden": "MatConvNet's and PyTorch's imports, and a column of errors of unstated protocol",
    "other sources": "single figures of web pages, lectures and small repositories",
}
"""Source of a series of figures and its recipe. Errors of different series do not compare."""

VIEWS = {
    "single crop": "one crop of one image size",
    "whole image": "the whole image, as on CIFAR",
    "10-crop": "mean over the centre and corners, mirrored too",
    "144 crops": "mean over 144 crops of four scales",
    "dense": "the net applied as convolutions to the whole image, scores averaged",
    "multi-scale dense": "the same over several image sizes",
    "ensemble": "several nets",
    "linear probe": "a linear classifier on features that were not trained with it",
    "segmentation": "score of a segmentation, in the note",
    "detection": "score of a detection or an instance segmentation, in the note",
    "not stated": "the source does not say",
}
"""First part of a protocol: the part of a test image that the net saw."""
ONE_VIEW = ("single crop", "whole image")
RUNS = r"one run|(mean|median) of \d+"

DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet-1k",
    "imagenet1k": "ImageNet-1k",
    "ilsvrc2012": "ImageNet-1k",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion": "Fashion-MNIST",
    "fashionmnist": "Fashion-MNIST",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure.

    Attributes:
        model: Name in the source, with the author in brackets if several have built it.
        entry: Our registered name; empty if none of our nets is the same.
        near: Registered name of the nearest net if none is the same; the note gives the differences.
        family: Family in the table's grouping, which is not the registry's.
        dataset: Test images, such as ``CIFAR-10`` or ``ImageNet-1k``.
        input_size: Height and width in pixels; None if there is no single one.
        params: Number of parameters; None if not given.
        params_printed: Parameters as printed, in millions, without trailing zeros. The digits show the precision.
        macs: Multiply-adds for one image of `input_size`, counted as the source does. If the source prints none, they
            are our count, if `entry` is the same net; otherwise None.
        macs_printed: Multiply-adds as printed, in thousand millions.
        top1_error: Top-1 error in percent.
        top5_error: Top-5 error in percent.
        series: Source of the measurement and its recipe: a key of `SERIES`.
        protocol: A key of `VIEWS`, followed by other conditions after semicolons: ``10-crop``,
            ``whole image; median of 5; ZCA whitening``.
        source: Paper and table, or repository and file.
        note: Other statements of the source, and warnings.
    """

    model: str
    entry: str = ""
    near: str = ""
    family: str
    dataset: str
    input_size: int | None = None
    params: int | None = None
    params_printed: str = ""
    macs: int | None = None
    macs_printed: str = ""
    top1_error: float | None = None
    top5_error: float | None = None
    series: str
    protocol: str
    source: str
    note: str = ""

    @property
    def view(self) -> str:
        """View of the test images: the first part of the protocol."""
        return self.protocol.partition("; ")[0]

    @property
    def counted(self) -> bool:
        """True if the multiply-adds are our count instead of the source's."""
        return self.macs is not None and not self.macs_printed

    @property
    def departures(self) -> tuple[str, ...]:
        """Conditions in the protocol besides the view, and besides a number of runs, which only affects the spread."""
        return tuple(part for part in self.protocol.split("; ")[1:] if not re.fullmatch(RUNS, part))


def results(entry: str | None = None) -> tuple[Published, ...]:
    """Return the published figures, in the order of the table.

    Args:
        entry: Only figures of this registered net, for exactly the same net; None for all.
    """
    return tuple(row for row in _table() if entry is None or row.entry == entry)


def primary(entry: str, dataset: str) -> Published | None:
    """Return the published figure that is best compared with one run of a registered net on a dataset.

    Candidates are the paper's figures and those of its authors' code (one net, never an ensemble, with an error).
    Figures of a single crop or the whole image come first. Next are those whose protocol departs least from the paper's
    standard (no whitening, no choice of the best run, no other test size). Ties go to the paper.

    Args:
        entry: A registered name.
        dataset: Name in the table, or a name used elsewhere (``torch/cifar10``).

    Returns:
        The figure; None if neither the paper nor its authors give one.
    """
    name = dataset_name(dataset)
    rows = [
        row
        for row in results(entry)
        if row.dataset == name and row.series in (PAPER, AUTHORS) and row.view in (*ONE_VIEW, *CROPS)
        if row.top1_error is not None
    ]
    order = (PAPER, AUTHORS)
    return min(
        rows,
        key=lambda row: (row.view not in ONE_VIEW, len(row.departures), order.index(row.series)),
        default=None,
    )


def published_error(record: Mapping[str, Any]) -> float | None:
    """Return the published top-1 error, in percent, for the net of a result; None if there is none.

    There is none for a preset with overrides, for a net with frozen random weights, for images of another size than
    those of the published figure, and if all published figures come from several crops.

    Args:
        record: A result of classification, with ``name`` and ``dataset.name``.
    """
    if record.get("overrides") or record.get("frozen"):
        return None
    figure = primary(record["name"], record["dataset"]["name"])
    size = record["dataset"].get("input_size")
    if figure is None or size is None or figure.view not in ONE_VIEW or figure.input_size != size[-1]:
        return None
    return figure.top1_error


CROPS = ("10-crop", "144 crops", "dense", "multi-scale dense")


def dataset_name(text: str) -> str:
    """Return the table's name for a dataset with another name elsewhere; unknown names stay unchanged."""
    return DATASETS.get(re.sub(r"[^a-z0-9]", "", text.lower().rpartition("/")[2]), text)


@cache
def _table() -> tuple[Published, ...]:
    text = resources.files("zoo").joinpath("data", "published.csv").read_text(encoding="ascii")
    return tuple(_row(cells) for cells in csv.DictReader(text.splitlines()))


def _row(cells: dict[str, str]) -> Published:
    values: dict[str, Any] = dict(cells)
    values["input_size"] = int(cells["input_size"]) if cells["input_size"] else None
    values["params"] = _scaled(cells["params_printed"], 10**6)
    values["macs"] = _scaled(cells["macs_printed"], 10**9)
    if values["macs"] is None:
        values["macs"] = counted_macs().get((cells["entry"], cells["dataset"], values["input_size"]))
    for name in ("top1_error", "top5_error"):
        values[name] = float(cells[name]) if cells[name] else None
    return Published(**values)


@cache
def counted_macs() -> dict[tuple[str, str, int | None], int]:
    """Return multiply-adds, as `benchmarks` counted them, by net, dataset (for its number of classes) and size."""
    text = resources.files("zoo").joinpath("data", "published_counts.csv").read_text(encoding="ascii")
    rows = csv.DictReader(text.splitlines())
    return {(row["entry"], row["dataset"], int(row["input_size"])): int(row["macs"]) for row in rows}


def _scaled(text: str, unit: int) -> int | None:
    return round(float(text) * unit) if text else None


COLUMNS = tuple(f.name for f in fields(Published) if f.name not in ("params", "macs"))
"""Columns of the table."""


def select(name: str = "", dataset: str | None = None, series: str | None = None) -> list[Published]:
    """Return the matching rows, those of the same net first.

    Args:
        name: A registered model, for its rows and those near it. Otherwise a pattern or part of a name, ours or the
            source's; case does not matter. Empty for all.
        dataset: Only these test images.
        series: Only this series.

    Raises:
        ValueError: If the name is neither a model nor in the table, or dataset or series are not in it.
    """
    for what, value in (("name", name), ("dataset", dataset), ("series", series)):
        if not isinstance(value, str | None):
            raise ValueError(f"{what} ({value!r}) must be a text")
    rows = results()
    if dataset is not None:
        known = {row.dataset for row in rows}
        wanted = next((d for d in known if d.lower() == dataset_name(dataset).lower()), None)
        if wanted is None:
            raise ValueError(f"dataset {dataset!r} is not in the table: choose from {', '.join(sorted(known))}")
        rows = tuple(row for row in rows if row.dataset == wanted)
    if series is not None:
        if series not in SERIES:
            raise ValueError(f"series {series!r} is not in the table: choose from {', '.join(SERIES)}")
        rows = tuple(row for row in rows if row.series == series)
    return _named(rows, name) if name else list(rows)


def _named(rows: Sequence[Published], name: str) -> list[Published]:
    from zoo.registry import list_models, model_entry  # not above: who only reads the table needs no nets

    try:
        entry = model_entry(name).name
    except ValueError:
        pass
    else:
        return [row for row in rows if row.entry == entry] + [row for row in rows if row.near == entry]
    pattern = (name if any(c in name for c in "*?[") else f"*{name}*").lower()

    def matches(text: str) -> bool:
        return bool(text) and fnmatch.fnmatchcase(text.lower(), pattern)

    found = [row for row in rows if any(map(matches, (row.entry, row.near, row.model)))]
    every = {*list_models(), *(row.model for row in results())}
    if not found and not any(map(matches, every)):
        close = difflib.get_close_matches(name, sorted(every), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "zoo published shows all."
        raise ValueError(f"name {name!r} is neither a model nor in the table of published results: {hint}")
    return found
