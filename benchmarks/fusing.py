"""What `zoo.fuse` saves: a net and its fused copy beside the convolutions and products of the net alone.

python benchmarks/fusing.py
python benchmarks/fusing.py resnet50 timm:resnet50 --batch 8 --threads 2 --wall

All three live in one process and take turns (`zoo.speed.timing.interleave`); ratios are taken within a round, and what
is printed is their median and quartiles. The clock is the CPU time of the process unless --wall is given, for other
users disturb that less.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from tabulate import tabulate

import zoo
from zoo.environment import describe_device
from zoo.speed import timing as measure

NAMES = ("resnet50", "densenet121", "fishnet150", "fabric_a_l9_s6_c128_post_cifar")


def measure_net(name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """One row: plain / bound, fused / bound, plain / fused."""
    torch.manual_seed(0)
    layout = measure.LAYOUTS[args.layout]
    net: Any = zoo.create_model(name).eval().to(memory_format=layout)
    size = args.size or net.pretrained_cfg["input_size"][-1]
    images = torch.randn(args.batch, 3, size, size).to(memory_format=layout)
    steps = [measure.make_step(each, images, "eval") for each in (net, zoo.fuse(net))]
    steps.append(measure.Products(steps[0], net).run)
    for step in steps * 2:
        step()
    clock = measure.clocked(time.perf_counter if args.wall else time.process_time)
    plain, fused, bound = measure.interleave(steps, args.repeats, clock)
    pairs = [measure.ratios(*pair) for pair in ((plain, bound), (fused, bound), (plain, fused))]
    return name, str(size), *(f"{pair.median:.2f} ({pair.low:.2f} .. {pair.high:.2f})" for pair in pairs)


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description="Nets, their fused copies, and their convolutions alone.")
    parser.add_argument("names", nargs="*", default=NAMES, help="models of the zoo, or timm:<name>")
    parser.add_argument("--layout", choices=list(measure.LAYOUTS), default="channels_last")
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, help="height and width (default: each net's own)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    return parser


def main() -> None:
    """Run from the command line."""
    args = build_parser().parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measure_net(name, args))
    clock, device = "wall" if args.wall else "CPU", describe_device(torch.device("cpu"))["name"]
    heading = (f"batch {args.batch}", args.layout, f"{clock} time", device, f"threads: {args.threads}")
    print(f"{', '.join(heading)}, torch {torch.__version__}\n")
    print(tabulate(rows, ("net", "px", "plain / bound", "fused / bound", "plain / fused"), tablefmt="github"))


if __name__ == "__main__":
    main()
