"""Random arguments for nets of all families: each set gives the promised shapes, or an error that names an argument.

python tests/fuzz_arguments.py --count 10000 --seed 0

The suite runs the first sets alone (``test_arguments.py``); both draw them in ``argument_sets.py``. A set is known by
its number: ``--count 1 --seed 4711`` repeats number 4711. The status is 1 if any set did something else.
"""

import argparse
import sys
import time
from collections import Counter

import torch
from argument_sets import NAMES, argument_set, outcome

import zoo


def fuzz(count: int, first: int) -> int:
    """Try ``count`` sets from number ``first`` on, print what came of them, and return how many were faults."""
    outcomes: Counter[str] = Counter()
    families: Counter[str] = Counter()
    slowest = (0.0, "none")
    for seed in range(first, first + count):
        name, arguments, size = argument_set(seed)
        begin = time.process_time()
        try:
            result = outcome(name, arguments, size)
        except BaseException as error:  # whatever it is, it is a fault
            if isinstance(error, KeyboardInterrupt):
                raise
            result = "fault"
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"set {seed}: {name} {arguments} {size}: {what}", flush=True)
        outcomes[result] += 1
        families[zoo.model_entry(name).family] += 1
        slowest = max(slowest, (time.process_time() - begin, f"set {seed}: {name} {arguments}"[:200]))
    print(f"{count} sets from {first} on over {len(NAMES)} nets: {dict(sorted(outcomes.items()))}")
    print("sets a family:", ", ".join(f"{family} {n}" for family, n in sorted(families.items())))
    print(f"slowest: {slowest[0]:.1f} s of the processor, {slowest[1]}")
    return outcomes["fault"]


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description="Random arguments for nets of all families.")
    parser.add_argument("--count", type=int, default=10_000, help="sets to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first set (default: %(default)s)")
    return parser


def main() -> int:
    """Run from the command line."""
    args = build_parser().parse_args()
    torch.set_num_threads(1)
    return 1 if fuzz(args.count, args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
