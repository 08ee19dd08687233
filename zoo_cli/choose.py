"""The verb `zoo choose`."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, print_json, print_table, printable, tell

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
NUMBERS = ("accuracy", "params [M]", "MACs [G]", "px", "GPU [1/s]", "CPU [1/s]")


def add_choose(parser: Parser) -> None:
    """Add the arguments of `zoo choose`."""
    parser.description = """\
List nets that fit a budget, from what is published and measured. Nothing is computed or downloaded.

Each source has a list of its own, because figures of two sources do not compare: results files that you name, timm's
evaluation of 1,556 weights, the weights that the zoo loads, and papers by series and protocol. A list holds the Pareto
front, the nets that no other in it beats in both multiply-adds and accuracy, the most accurate first; --all lists every
net that fits. A net whose source does not give a figure that is limited is left out, and counted below the list.

--needs weights asks for nets whose figure belongs to weights that can be loaded; output_stride=8 for nets whose last
map can be held at that stride. Throughputs are timm's, of one GPU and one CPU; they compare only with each other."""
    parser.epilog = """\
examples:
  zoo choose --max-params 30M --max-macs 5G --needs weights
  zoo choose --min-accuracy 80 --licence apache-2.0 mit --needs weights output_stride=8 --source timm
  zoo choose --dataset cifar10 --max-params 2M --source published
  zoo choose --dataset imagenet-r --min-cpu 30 --source timm --json
  zoo choose results/digits --max-params 300k --source results --cost params"""
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="results of zoo bench to ask as well")
    parser.add_argument(
        "--dataset",
        default="imagenet",
        help="test images: imagenet, imagenet-real, imagenetv2, imagenet-sketch, imagenet-a, imagenet-r, cifar10, ... "
        "(default: %(default)s)",
    )
    parser.add_argument("--max-params", metavar="N", help="most parameters, such as 30M or 300k")
    parser.add_argument("--max-macs", metavar="N", help="most multiply-adds an image, such as 5G")
    parser.add_argument("--max-size", type=int, metavar="PX", help="largest height and width of the images")
    parser.add_argument("--min-accuracy", type=float, metavar="PERCENT", help="least top-1 accuracy, or score")
    parser.add_argument(
        "--min-gpu", type=float, metavar="N", help="least images per second on timm's GPU (RTX 5090, amp)"
    )
    parser.add_argument("--min-cpu", type=float, metavar="N", help="least images per second on timm's CPU (i9-10940X)")
    parser.add_argument("--family", default="", metavar="PATTERN", help="family, such as resnet or 'conv*'")
    parser.add_argument(
        "--licence",
        nargs="+",
        default=[],
        metavar="NAME",
        help="licences of the weights, such as apache-2.0 mit 'cc-by-*'",
    )
    parser.add_argument("--needs", nargs="+", default=[], metavar="WHAT", help="weights, output_stride=8")
    parser.add_argument(
        "--source", nargs="+", default=[], metavar="KIND", help="results, timm, weights, published (default: all)"
    )
    parser.add_argument("--cost", default="macs", help="other axis of the front: macs or params (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="all nets that fit, not only the front")
    parser.add_argument("--json", action="store_true", help="print JSON, with how to create and load each net")


def run_choose(args: argparse.Namespace) -> int:
    """Print a list for each source."""
    from zoo.choosing import choose

    rankings = choose(to_wish(args), args.results, front=not args.all)
    if args.json:
        print_json([asdict(ranking) for ranking in rankings])
    elif rankings:
        for ranking in rankings:
            _show(ranking)
        if len(rankings) > 1:
            tell(f"{len(rankings)} lists from different sources: accuracies of two lists do not compare")
    else:
        print("no net fits")
    return 0


def to_wish(args: argparse.Namespace) -> Any:
    """Return the wish that the arguments describe.

    Raises:
        ValueError: If it is wrong.
    """
    from zoo.choosing import SOURCES, Wish

    needs: dict[str, Any] = {}
    for need in args.needs:
        name, _, value = need.partition("=")
        if need == "weights":
            needs["weights"] = True
        elif name == "output_stride" and re.fullmatch("[0-9]{1,4}", value):
            needs["output_stride"] = int(value)
        else:
            raise ValueError(f"needs {need!r} must be weights or output_stride=N, such as output_stride=8")
    if "results" in args.source and not args.results:
        raise ValueError("source 'results' was given without results: name a file or folder of zoo bench")
    return Wish(
        dataset=args.dataset,
        max_params=amount("max-params", args.max_params),
        max_macs=amount("max-macs", args.max_macs),
        max_size=args.max_size,
        min_accuracy=args.min_accuracy,
        min_gpu=args.min_gpu,
        min_cpu=args.min_cpu,
        family=args.family,
        licences=args.licence,
        sources=args.source or SOURCES,
        cost=args.cost,
        **needs,
    )


def amount(name: str, text: str | None) -> float | None:
    """Return the number of a text such as 30M, 4.5G or 1e6.

    Raises:
        ValueError: If it is no such number; the message begins with the name.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:e[0-9]{1,2})?)([kmgb]?)", text.strip().lower())
    if match is None:
        raise ValueError(f"{name} {text!r} must be a number, such as 30M, 300k or 4.5G")
    return float(match[1]) * UNITS[match[2]]


def _show(ranking: Any) -> None:
    rows = [_cells(row) for row in ranking.rows]
    empty = {column for column in rows[0] if all(row[column] == "-" for row in rows)}
    print(printable(f"{ranking.title}: {ranking.fitting} of {ranking.asked} nets fit"))
    print_table([{key: value for key, value in row.items() if key not in empty} for row in rows], NUMBERS)
    best = ranking.rows[0]
    print(printable(f"first: {best.load or best.create or 'nothing here creates it'}"))
    print(printable(ranking.note))
    if ranking.unknown:
        told = ", ".join(f"{name} of {number}" for name, number in ranking.unknown.items())
        print(printable(f"Left out, because the source does not tell: {told}."))
    print()


def _cells(row: Any) -> dict[str, str]:
    def number(value: float | None, form: str, unit: float = 1.0) -> str:
        return "-" if value is None else format(value / unit, form)

    return {
        "net": printable(_cut(row.net, 80)),
        "accuracy": f"{row.accuracy:.2f}",
        "params [M]": number(row.params, ".2f", 1e6),
        "MACs [G]": number(row.macs, ".3g", 1e9),
        "px": number(row.size, ".0f"),
        "GPU [1/s]": number(row.gpu, ",.0f"),
        "CPU [1/s]": number(row.cpu, ",.1f"),
        "licence": printable(row.licence) or "-",
        "from": printable(_cut(row.source)),
    }


def _cut(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
