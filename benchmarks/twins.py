"""Nets of the zoo against timm's of the same name: evaluation and training step, in both layouts.

python benchmarks/twins.py
python benchmarks/twins.py resnet50 --batch 8 --threads 2 --wall

All take steps in turns (`zoo.speed.timing.interleave`). What is printed is timm's time divided by ours, within a round:
median and quartiles. Above 1, ours is faster. The clock is the CPU time of the process unless --wall is given, for
other users disturb that less.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate

import zoo
from zoo.environment import describe_device
from zoo.speed import timing as measure

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("resnet50", "densenet121", "vgg16_bn")


def measure_net(name: str, mode: str, layout: str, args: argparse.Namespace) -> tuple[str, ...]:
    """One row: timm's time / ours."""
    torch.manual_seed(0)
    kind = measure.LAYOUTS[layout]
    images = torch.randn(args.batch, 3, args.size, args.size).to(memory_format=kind)
    steps = []
    for prefix in ("timm:", ""):
        net: Any = zoo.create_model(prefix + name).to(memory_format=kind)
        steps.append(measure.make_step(net, images, mode))
    for step in steps * 2:
        step()
    clock = measure.clocked(time.perf_counter if args.wall else time.process_time)
    times = measure.ratios(*measure.interleave(steps, args.repeats, clock))
    return name, mode, layout, f"{times.median:.2f}", f"{times.low:.2f} .. {times.high:.2f}"


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description="Nets of the zoo against timm's of the same name.")
    parser.add_argument("names", nargs="*", default=NAMES, help="models that timm has as well")
    parser.add_argument("--mode", nargs="+", choices=measure.MODES, default=measure.MODES, help="default: both")
    parser.add_argument("--layout", nargs="+", choices=list(measure.LAYOUTS), default=list(measure.LAYOUTS))
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width (default: %(default)s)")
    parser.add_argument("--repeats", type=measure.rounds, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.names:
        for mode in args.mode:
            for layout in args.layout:
                print(f"{name}, {mode}, {layout} ...", file=sys.stderr, flush=True)
                rows.append(measure_net(name, mode, layout, args))
    clock, device = "wall" if args.wall else "CPU", describe_device(torch.device("cpu"))["name"]
    heading = (f"batch {args.batch}", f"{args.size} px", f"{clock} time", device, f"threads: {args.threads}")
    print(f"{', '.join(heading)}, torch {torch.__version__}\n")
    header = ("net", "step", "layout", "speed x", "quartiles")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
