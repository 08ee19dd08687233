"""The verb `zoo published`: published figures of a net, with their source and protocol."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from zoo_cli.common import Parser, print_json, print_table

if TYPE_CHECKING:
    from zoo.published import Published

NUMBERS = ("size", "params [M]", "macs [G]", "top-1 [%]", "top-5 [%]")
"""Columns that are aligned to the right."""


def add_published(parser: Parser) -> None:
    """Add the arguments of `zoo published`."""
    parser.description = """\
Show published figures. Nothing in this table was measured here.

A NAME of the zoo shows the figures of the same net and, below, those of similar nets. The column "net" of a similar net
begins with ~, and --notes shows the differences. Other words are searched in the sources' names and in ours.

Read the columns "series" (source and recipe) and "protocol" (view of the test image, number of runs) before you
compare: errors of two series, or of two protocols, do not compare. The row with * is the one that zoo bench compares a
run of the net with: the paper's or its authors', one net, one view of the image.
Parameters and multiply-adds are as printed, in millions and in thousand millions; sources count multiply-adds in
different ways (see zoo count)."""
    parser.epilog = """\
examples:
  zoo published resnet50                          the same net as the zoo's, from all sources
  zoo published resnet110_cifar --dataset cifar10 --notes
  zoo published 'densenet*_cifar' --series paper
  zoo published 'FishNe*'                         names as the sources write them
  zoo published --json | jq '.[] | select(.top1_error < 20) | .model'"""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="a model of the zoo, a word, or a pattern")
    parser.add_argument("--dataset", help="only these test images, such as cifar10, imagenet or CIFAR-100")
    parser.add_argument("--series", help="only this series, such as paper, pytorchcv or 'timm weights'")
    parser.add_argument("--notes", action="store_true", help="add the columns source and note")
    parser.add_argument("--json", action="store_true", help="print JSON, with all columns")


def run_published(args: argparse.Namespace) -> int:
    """Print the matching figures."""
    from zoo.published import SERIES, select

    rows = select(args.name, args.dataset, args.series)
    if args.json:
        print_json([asdict(row) for row in rows])
    elif rows:
        print_table([_cells(row, args.notes) for row in rows], NUMBERS)
        print()
        for series in dict.fromkeys(row.series for row in rows):
            print(f"{series}: {SERIES[series]}")
    else:
        print("nothing published in the table")
    return 0


def _cells(row: Published, notes: bool) -> dict[str, str]:
    from zoo.published import primary

    best = row.entry and primary(row.entry, row.dataset) == row
    cells = {
        "": "*" if best else "",
        "model": row.model,
        "net": row.entry or (f"~{row.near}" if row.near else "-"),
        "dataset": row.dataset,
        "size": str(row.input_size or "-"),
        "params [M]": row.params_printed or "-",
        "macs [G]": row.macs_printed or "-",
        "top-1 [%]": "-" if row.top1_error is None else f"{row.top1_error:.2f}",
        "top-5 [%]": "-" if row.top5_error is None else f"{row.top5_error:.2f}",
        "series": row.series,
        "protocol": row.protocol,
    }
    return {**cells, "source": row.source, "note": row.note or "-"} if notes else cells
