"""The verb `zoo report`: make one page from result files."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo_cli.common import Parser, printable, tell

KINDS = ("png", "svg", "md", "csv")


def add_report(parser: Parser) -> None:
    """Add the arguments of `zoo report`."""
    parser.description = """\
Write one self-contained HTML page that compares measured with published results. It opens without network and without
server: plots of the score against parameters, multiply-adds, activations, throughput and memory, Pareto
fronts, a table to sort and filter, a card for each net, and which file, device and revision every figure is from.

Scores come from `zoo bench`, images a second and memory from `zoo bench` (of the training) and `zoo speed`; give both
kinds of files in any number. If several files hold a run, the last one counts. The page lists all published figures.
Those of your data sets are in the same plots, hollow instead of filled, in series of their own, because recipes
differ."""
    parser.epilog = """\
examples:
  zoo report results/digits                               report.html
  zoo report results/digits results/scenes speed.jsonl -o compare.html
  zoo report results/digits --also png svg md csv         and pictures and tables beside the page
  zoo report results/digits --count                       and counts by stage for lines of earlier versions
  zoo report results/digits --no-published --title 'Three seeds on digits'"""
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="result files, or their folders")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default: %(default)s)"
    )
    parser.add_argument(
        "--title", default="Backbones compared", metavar="TEXT", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        choices=KINDS,
        default=[],
        metavar="KIND",
        help="write the table (md, csv) and the plots against parameters and multiply-adds (png, svg) beside the page",
    )
    parser.add_argument("--no-published", action="store_true", help="show only measured results")
    parser.add_argument(
        "--count", action="store_true", help="count stages that the lines do not hold (a second per net)"
    )


def run_report(args: argparse.Namespace) -> int:
    """Write the page and other requested files, and print the paths."""
    from zoo.extras import require
    from zoo.files import check_writable, write_in_folder
    from zoo.report.page import render
    from zoo.report.rows import gather
    from zoo.report.tables import pictures, to_csv, to_markdown
    from zoo.results.store import read

    pictured = [kind for kind in args.also if kind in ("png", "svg")]
    require("report", "plotly", *["matplotlib"] * bool(pictured))
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out ({args.out}) must end in .html")
    check_writable("out", args.out)
    results = read(args.results)
    if not results.trainings and not results.timings:
        names = ", ".join(map(str, args.results))
        failed = f" (failed runs: {len(results.failures)})" if results.failures else ""
        raise ValueError(f"nothing to show: {names} hold no finished run{failed}; run zoo bench or zoo speed first")
    contents = gather(results, with_published=not args.no_published, count_stages=args.count)
    if not contents["rows"]:
        raise ValueError("nothing to show: the files hold no score, and --no-published leaves out all others")
    files = {args.out: render(contents, args.title)}
    if "md" in args.also:
        files[args.out.with_suffix(".md")] = to_markdown(contents).encode()
    if "csv" in args.also:
        files[args.out.with_suffix(".csv")] = to_csv(contents).encode()
    for kind in pictured:
        files |= {args.out.with_name(f"{args.out.stem}_{name}"): content for name, content in pictures(results, kind)}
    for warning in contents["provenance"]["warnings"]:
        tell(f"warning: {warning}")
    for path, content in files.items():
        write_in_folder(path, content)
        print(printable(str(path)))
    return 0
