"""What `zoo.set_lean` saves in training, and what it costs.

python benchmarks/lean.py
python benchmarks/lean.py resnet50 timm:resnet50 --batch 8 --size 224 --repeats 5

Bytes are those of all maps that autograd keeps between forward and backward pass: each storage once, without parameters
and buffers. The ordinary and the lean net take steps in turns (`zoo.speed.timing.interleave`); ratios of their CPU
times are taken within a round, and what is printed is their median and quartiles.
"""

from __future__ import annotations

import argparse
import copy
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

    from torch import Tensor, nn

NAMES = ("fishnet150", "preresnet50", "densenet121", "wide_resnet28_10_cifar", "resnet50", "vgg16_bn")
MIB = 2**20


def kept_bytes(net: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass."""
    with measure.kept_bytes(net) as kept:
        net(images)
    return kept()


def measure_net(name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """One row: bytes without and with it, and what a step costs."""
    torch.manual_seed(0)
    net: Any = zoo.create_model(name).train()
    lean = zoo.set_lean(copy.deepcopy(net))
    own = net.pretrained_cfg["input_size"][-1]
    size = args.size or min(own, 64)
    plain, less = (kept_bytes(each, torch.randn(args.batch, 3, size, size)) for each in (net, lean))
    size = args.size or own
    images = torch.randn(args.batch, 3, size, size)
    steps = [measure.make_step(each, images, "train") for each in (lean, net)]
    for step in steps * 2:
        step()
    times = measure.ratios(*measure.interleave(steps, args.repeats, measure.clocked(time.process_time)))
    figures = (f"{plain / MIB:.1f}", f"{less / MIB:.1f}", f"{less / plain:.2f}")
    return name, *figures, str(size), f"{times.median:.2f} ({times.low:.2f} .. {times.high:.2f})"


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description="Memory and time of training steps, ordinary and lean.")
    parser.add_argument("names", nargs="*", default=NAMES, help="models of the zoo, or timm:<name>")
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, help="height and width (default: 64 for bytes, each net's own for times)")
    parser.add_argument("--repeats", type=measure.rounds, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measure_net(name, args))
    device = describe_device(torch.device("cpu"))["name"]
    print(f"batch {args.batch}, CPU time, {device}, threads: {args.threads}, torch {torch.__version__}\n")
    header = ("net", "MiB", "lean MiB", "lean / plain", "px", "time, lean / plain")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
