"""`accelerate launch -m zoo.bench NAME...`: the verb `zoo bench` as a module, for launchers of several processes."""

import argparse
import sys

from zoo.bench.command import BENCH_EXAMPLES, BENCH_HELP, add_bench_options
from zoo.bench.options import DESCRIPTION, run_verb

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m zoo.bench", description=BENCH_HELP, epilog=BENCH_EXAMPLES, formatter_class=DESCRIPTION
    )
    add_bench_options(parser)
    sys.exit(run_verb(parser.parse_args()))
