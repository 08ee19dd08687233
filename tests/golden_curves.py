"""Training losses of the default line-up, as they were recorded: ``python tests/golden_curves.py`` writes them.

The runs are those of ``zoo bench --recipe epochs=2``: the same nets, seed, recipe, order and shifts of the images. They
hold the first 96 training images, and compute in double precision, so that they can be compared on any machine:
processors differ in the order of sums, and training makes differences grow. With all images in single precision, the
losses of a fabric on two instruction sets were 0.7 % apart after one epoch, and 3.5 % after two. Here the largest
differences of all nets were 0.003 % and 0.3 %: a channel that is constant gives a norm nothing but the rounding, whose
sign decides whether a gradient passes the activation behind it. The tolerances are about seven times that.

``--check`` compares and writes nothing, for instance on another machine.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.bench import Request, prepare
from zoo.bench.one_run import build
from zoo.bench.train import train
from zoo.datasets.image_set import Dataset
from zoo.results.run import Run

PATH = Path(__file__).with_name("golden") / "curves.json"
IMAGES, TESTED = 96, 16
TOLERANCES = (2e-4, 2e-2)
"""Of the losses of the first and of the second epoch, relative."""


def plan() -> tuple[list[Run], Dataset]:
    """The runs and the first of their images, in double precision."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Request(changes={"epochs": 2}, device="cpu", out=Path(folder) / "results"))
    digits: Any = prepared.images
    images = replace(
        digits,
        train_images=digits.train_images[:IMAGES].double(),
        train_labels=digits.train_labels[:IMAGES],
        test_images=digits.test_images[:TESTED].double(),
        test_labels=digits.test_labels[:TESTED],
        mean=digits.mean.double(),
        std=digits.std.double(),
    )
    return list(prepared.runs), images


def losses(run: Run, images: Dataset, **changes: Any) -> list[float]:
    """Mean training loss of each epoch; ``changes`` are of the recipe."""
    threads, single = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    # Not `double` of a net: in single precision even the first weights depend on the instruction set.
    torch.set_default_dtype(torch.float64)
    try:
        trained = train(lambda: build(run, images), images, replace(run.recipe, **changes), seed=run.seed)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(single)
    return [epoch.train_loss for epoch in trained.epochs]


def golden() -> dict[str, list[float]]:
    """The recorded losses by name."""
    return json.loads(PATH.read_text(encoding="ascii"))


def distances(have: list[float], want: list[float]) -> list[float]:
    """The relative difference of each epoch."""
    return [abs(a - b) / abs(b) for a, b in zip(have, want, strict=True)]


def agree(have: list[float], want: list[float]) -> bool:
    """Whether the losses are those that were recorded."""
    return all(d < bound for d, bound in zip(distances(have, want), TOLERANCES, strict=True))


def measure() -> Iterator[tuple[str, list[float]]]:
    """All runs, one after the other."""
    runs, images = plan()
    for run in runs:
        yield run.name, losses(run, images)


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description="Record training losses of the default line-up.")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded, and write nothing")
    return parser


if __name__ == "__main__":
    if build_parser().parse_args().check:
        recorded = golden()
        for name, have in measure():
            found = ", ".join(f"{d:.1e}" for d in distances(have, recorded[name]))
            print(f"{name}: {'as recorded' if agree(have, recorded[name]) else 'DIFFERS'} ({found})", flush=True)
    else:
        PATH.write_text(json.dumps(dict(measure()), indent=2) + "\n", encoding="ascii")
