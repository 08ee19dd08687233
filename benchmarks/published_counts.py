"""Multiply-adds of published nets and weights without printed ones, where we have the net: counted and written down.

python benchmarks/published_counts.py

Writes zoo/data/published_counts.csv, which `zoo.published` and `zoo.choosing` read.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from tqdm import tqdm

import zoo
from zoo.choosing import tagged
from zoo.complexity import count
from zoo.files import write_in_folder
from zoo.published import Published, results

PATH = Path(zoo.__file__).parent / "data" / "published_counts.csv"
CLASSES = {
    "CIFAR-10": 10,
    "CIFAR-100": 100,
    "SVHN": 10,
    "ImageNet-1k": 1000,
    "Fashion-MNIST": 10,
    "PASCAL VOC 2012": 21,
}


def wanted() -> list[tuple[str, str, int]]:
    """Return entry, dataset and size of each figure, or weights, of a registered net without multiply-adds."""

    def lacks(row: Published) -> bool:
        return bool(row.entry) and not row.macs_printed and row.input_size is not None and row.dataset in CLASSES

    rows = {(row.entry, row.dataset, row.input_size or 0) for row in results() if lacks(row)}
    return sorted(
        rows | {(entry.name, images, size) for entry, _, weights, images, size in tagged() if not weights.macs}
    )


def multiply_adds(entry: str, dataset: str, size: int) -> int:
    """Count a net with the classes of a dataset, for one image."""
    model = zoo.create_model(entry, device="meta", num_classes=CLASSES[dataset])
    return count(model, (3, size, size)).macs


def main() -> None:
    """Count what is wanted and write it down."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("entry", "dataset", "input_size", "macs"))
    for entry, dataset, size in tqdm(wanted(), "counting", unit="net", disable=not sys.stderr.isatty()):
        writer.writerow((entry, dataset, size, multiply_adds(entry, dataset, size)))
    write_in_folder(PATH, buffer.getvalue().encode("ascii"))
    print(PATH)


if __name__ == "__main__":
    main()
