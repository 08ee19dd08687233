"""The verb `zoo published`: what was published about a net, by whom, and with what protocol."""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from zoo.published import SERIES, Published, dataset_name, primary, results

HELP = """\
Show published figures. Nothing in this table was measured here.

A NAME of the zoo shows the figures of the same net and, below, those of nets that are near and not the same: their
column "net" begins with ~, and --notes says what differs. Other words are looked for in the names that the sources
use, and in ours.

Read the columns "series" (who measured, with what recipe) and "protocol" (what the net saw of a test image, how many
runs) before you compare: errors of two series, or of two protocols, do not compare. The row with * is the one that a
run of the net is held against by zoo bench: the paper's or its authors', one net, one view of the image.
Parameters and multiply-adds are as printed, in millions and in thousand millions; sources count multiply-adds in
different ways (see zoo count)."""

EXAMPLES = """\
examples:
  zoo published resnet50                          the same net as the zoo's, by whoever measured it
  zoo published resnet110_cifar --dataset cifar10 --notes
  zoo published 'densenet*_cifar' --series paper
  zoo published 'FishNe*'                         names as the sources write them
  zoo published --json | jq '.[] | select(.top1_error < 20) | .model'"""


def add_verb(verbs: Any) -> None:
    """Add `published` to a parser's verbs."""
    verb = verbs.add_parser(
        "published",
        help="published results, with who measured them and how",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("name", nargs="?", default="", metavar="NAME", help="a model of the zoo, a word, or a pattern")
    verb.add_argument("--dataset", help="only these test images, such as cifar10, imagenet or CIFAR-100")
    verb.add_argument("--series", help=f"only this series: {', '.join(SERIES)}")
    verb.add_argument("--notes", action="store_true", help="add the columns source and note")
    verb.add_argument("--json", action="store_true", help="print JSON, with all columns")
    verb.set_defaults(run=run_published)


def run_published(args: argparse.Namespace) -> int:
    """Print the figures that match."""
    rows = select(args.name, args.dataset, args.series)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        _print_table([_cells(row, args.notes) for row in rows])
        print()
        for series in dict.fromkeys(row.series for row in rows):
            print(f"{series}: {SERIES[series]}")
    else:
        print("nothing published in the table")
    return 0


def select(name: str = "", dataset: str | None = None, series: str | None = None) -> list[Published]:
    """Return the rows that match, those of the same net first.

    Args:
        name: A registered model: its rows and those that are near it. Else a pattern or a part of a name, of ours or
            of the source, in small or capital letters. Empty for all.
        dataset: Only these test images.
        series: Only this series.

    Raises:
        ValueError: If the name is neither a model nor in the table, or dataset or series are not in it.
    """
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
    from zoo import list_models, model_entry

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


def _cells(row: Published, notes: bool) -> dict[str, str]:
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


def _print_table(rows: Sequence[Mapping[str, str]]) -> None:
    from tabulate import tabulate

    numbers = ("size", "params [M]", "macs [G]", "top-1 [%]", "top-5 [%]")
    align = ["right" if column in numbers else "left" for column in rows[0]]
    print(tabulate([list(row.values()) for row in rows], headers=list(rows[0]), colalign=align, disable_numparse=True))
