"""`accelerate launch -m zoo.bench NAME...`: the verb `zoo bench` as a module, for launchers of several processes."""

import argparse
import sys

from zoo.bench.command import BENCH_EXAMPLES, BENCH_HELP, add_bench_options
from zoo.bench.options import DESCRIPTION, Parser, run_verb


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m zoo.bench", description=BENCH_HELP, epilog=BENCH_EXAMPLES, formatter_class=DESCRIPTION
    )
    add_bench_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_verb(build_parser().parse_args))
