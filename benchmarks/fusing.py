"""What `zoo.fuse` saves: a net and its fused copy beside the convolutions and products of the net alone.

python benchmarks/fusing.py
python benchmarks/fusing.py resnet50 timm:resnet50 --batch 8 --threads 2 --wall
python benchmarks/fusing.py fishnet150 --batch 8 --threads 2 --wall --compile

All live in one process and take turns (`zoo.speed.timing.interleave`); ratios are taken within a round, and what is
printed is their median and quartiles. The clock is the CPU time of the process unless --wall is given, for other users
disturb that less. With --compile the fused net is compiled, too: by torch's inductor, with its weights frozen into what
it makes. That takes minutes a net on two cores, before the rounds begin.
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

NAMES = ("resnet50", "densenet121", "fishnet150", "fabric_a_l9_s6_c128_post_cifar")


def measure_net(name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """One row: plain / bound, fused / bound, plain / fused, and compiled / bound if it is asked for."""
    torch.manual_seed(0)
    layout = measure.LAYOUTS[args.layout]
    net: Any = zoo.create_model(name).eval().to(memory_format=layout)
    size = args.size or net.pretrained_cfg["input_size"][-1]
    images = torch.randn(args.batch, 3, size, size).to(memory_format=layout)
    fused = zoo.fuse(net)
    nets = [net, fused, *([torch.compile(fused, options={"freezing": True})] if args.compile else [])]
    steps = [measure.make_step(each, images, "eval") for each in nets]
    steps.append(measure.Products(steps[0], net).run)
    for step in steps * 2:
        step()
    clock = measure.clocked(time.perf_counter if args.wall else time.process_time)
    plain, fast, *compiled, bound = measure.interleave(steps, args.repeats, clock)
    pairs = [(plain, bound), (fast, bound), (plain, fast), *((each, bound) for each in compiled)]
    found = [measure.ratios(*pair) for pair in pairs]
    return name, str(size), *(f"{pair.median:.2f} ({pair.low:.2f} .. {pair.high:.2f})" for pair in found)


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description="Nets, their fused copies, and their convolutions alone.")
    parser.add_argument("names", nargs="*", default=NAMES, help="models of the zoo, or timm:<name>")
    parser.add_argument("--layout", choices=list(measure.LAYOUTS), default="channels_last")
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, help="height and width (default: each net's own)")
    parser.add_argument("--repeats", type=measure.rounds, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    parser.add_argument("--compile", action="store_true", help="also compile the fused net, with frozen weights")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measure_net(name, args))
    clock, device = "wall" if args.wall else "CPU", describe_device(torch.device("cpu"))["name"]
    heading = (f"batch {args.batch}", args.layout, f"{clock} time", device, f"threads: {args.threads}")
    print(f"{', '.join(heading)}, torch {torch.__version__}\n")
    header = ("net", "px", "plain / bound", "fused / bound", "plain / fused", "compiled / bound")
    print(tabulate(rows, header[: len(rows[0])], tablefmt="github"))


if __name__ == "__main__":
    main()
