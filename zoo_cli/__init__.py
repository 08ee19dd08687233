"""The command `zoo`: list, count, train and compare nets. It only presents results.

It is a package beside `zoo`, because importing `zoo` loads torch: help, version and a wrong option are answered without
torch. Therefore no file here imports `zoo`, or anything outside Python's standard library, before a verb runs.

`VERBS` is the table of all verbs. A file holds the verbs of a group. Each verb has a function that adds its arguments
to a parser, and one that runs it and returns the exit status.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zoo_cli import analyse, bench, catalogue, choose, draw, predict, published, race, report, speed, weights
from zoo_cli.common import Parser, guarded, version

DESCRIPTION = "Interchangeable vision backbones: list them, look at them, count them, compare them."


class Verb(NamedTuple):
    """A verb: a short summary, a function that adds its arguments, and a function that runs it."""

    summary: str
    add: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


VERBS = {
    "list": Verb("list the models", catalogue.add_list, catalogue.run_list),
    "info": Verb("show one model in detail", catalogue.add_info, catalogue.run_info),
    "count": Verb("count parameters, multiply-adds, activations", catalogue.add_count, catalogue.run_count),
    "draw": Verb("draw nets: a fish, a grid, a staircase", draw.add_draw, draw.run_draw),
    "weights": Verb("list published weights", weights.add_weights, weights.run_weights),
    "convert": Verb("rewrite a checkpoint under our names", weights.add_convert, weights.run_convert),
    "verify": Verb("check whether a checkpoint would load", weights.add_verify, weights.run_verify),
    "validate": Verb("measure the error of trained weights", weights.add_validate, weights.run_validate),
    "published": Verb(
        "show published results with source and protocol", published.add_published, published.run_published
    ),
    "choose": Verb("list nets that fit a budget", choose.add_choose, choose.run_choose),
    "bench": Verb("train nets with one recipe and compare them", bench.add_bench, bench.run_bench),
    "race": Verb("find the best of several nets for pictures, within a time", race.add_race, race.run_race),
    "predict": Verb("name the classes of pictures by a trained net", predict.add_predict, predict.run_predict),
    "recipes": Verb("list training recipes", bench.add_recipes, bench.run_recipes),
    "plot": Verb("draw table and plots from stored results", bench.add_plot, bench.run_plot),
    "speed": Verb("measure time and memory of nets, side by side", speed.add_speed, speed.run_speed),
    "analyse": Verb("repeat an experiment of the papers on any nets", analyse.add_analyse, analyse.run_analyse),
    "report": Verb("write one page to explore results", report.add_report, report.run_report),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status, see `zoo_cli.common.guarded`.

    Args:
        argv: The words after the command's name. Default: those of the process.
    """

    def run() -> int:
        words = sys.argv[1:] if argv is None else argv
        args = parse(words)
        return VERBS[words[0]].run(args)

    return guarded(run)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Args:
        words: A verb and its arguments.

    Returns:
        The arguments of the verb.

    Raises:
        ValueError: If the verb does not exist, or an argument is wrong.
        SystemExit: With status 0 after help or version have been printed.
    """
    if not words:
        raise ValueError("a verb is missing (see zoo --help)")
    verb = words[0]
    if verb in VERBS:
        return parser_of(verb).parse_args(words[1:])
    if verb.startswith("-"):
        overview().parse_args(words)
    close = difflib.get_close_matches(verb, VERBS, n=2)
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"unknown verb {verb!r}{hint} (see zoo --help)")


def parser_of(verb: str) -> Parser:
    """Return the parser of one verb's arguments."""
    parser = Parser(prog=f"zoo {verb}")
    VERBS[verb].add(parser)
    return parser


def overview() -> Parser:
    """Return the parser that shows all verbs, and reads options without a verb."""
    parser = Parser(prog="zoo", description=DESCRIPTION, epilog="zoo VERB --help shows examples.")
    parser.add_argument("--version", action="version", version=version())
    verbs = parser.add_subparsers(metavar="VERB")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.summary)
    return parser
