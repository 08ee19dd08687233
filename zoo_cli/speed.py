"""The verb `zoo speed`: measure nets, print a table or JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo_cli.common import Parser, parse_size, print_json, tell


def add_speed(parser: Parser) -> None:
    """Add the arguments of `zoo speed`."""
    parser.description = """\
Measure nets side by side on this machine: time of a forward pass and of a training step, images a second, peak memory,
and how much of the time the net's own convolutions and matrix products take. Nets have random weights; nothing is
loaded.

Times are taken in rounds. A round times every net in every configuration once; the next round goes backwards. Medians
and quartiles are over the rounds, and ratios are taken within a round, so that a machine that slows down slows all
nets down. Do not compare times of two calls: name all nets in one."""
    parser.epilog = """\
columns:
  mode       eval: forward pass without autograd. train: forward, backward and an SGD step in training mode
  ms         median time of a step; at batch 1 the latency. quartiles: half of the rounds were within
  images/s   batch / ms: the throughput
  bound ms   the convolutions and matrix products of that very step alone, same shapes, layout and type, with nothing
             between them: what would be left if norms, activations, sums, pooling and Python cost nothing
  bound %    bound / ms. Near 100 nothing but faster convolutions can help
  MiB        peak memory that building the net and two steps add, in a fresh process (CPU: resident set, Linux only;
             CUDA: torch's allocator). Not taken of compiled nets on a CPU
  speed x    how many times as fast as the first net as it is, in the first layout, same mode and batch size.
             Where its quartiles enclose 1 there is no difference to speak of

examples:
  zoo speed resnet50 timm:resnet50                         latency, throughput and training step, against timm
  zoo speed 'resnet*_cifar' --batch-size 1 32 128 --mode eval
  zoo speed resnet50 fishnet99 --layout contiguous channels_last --threads 1
  zoo speed resnet50 --fuse --mode eval                    as it is, and what zoo.fuse makes of it
  zoo speed fishnet150 --lean --mode train                 as it is, and after zoo.set_lean: look at MiB
  zoo speed resnet50 --compile --out results/speed.jsonl   plain and compiled, kept as JSON lines
  zoo speed resnet50 --device cuda --dtype bfloat16 --batch-size 1 256 --repeats 50

Memory takes a few seconds more per row, in a new process (--no-memory skips it). On a shared machine, add --threads 1:
threads that wait for a busy core make every time long and random. Ctrl-C ends the rounds early and keeps rows with two
rounds."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="models, patterns such as 'resnet*', or timm:<name>")
    parser.add_argument(
        "--mode", nargs="+", choices=("eval", "train", "both"), default=["both"], help="modes (default: both)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        default=[1, 8],
        metavar="N",
        help="images per step (default: 1 8; training leaves out 1 unless it is the only one)",
    )
    parser.add_argument("--input-size", metavar="SIZE", help="224 or 3x224x224 (default: each net's own)")
    parser.add_argument(
        "--layout",
        nargs="+",
        choices=("contiguous", "channels_last"),
        default=["contiguous"],
        help="memory format of images and weights (default: contiguous)",
    )
    parser.add_argument("--fuse", action="store_true", help="also measure each net after zoo.fuse (eval only)")
    parser.add_argument("--lean", action="store_true", help="also measure each net after zoo.set_lean (train only)")
    parser.add_argument("--compile", action="store_true", help="also measure each net after torch.compile")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="autocast type (default: float32)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--repeats", type=int, default=15, help="number of rounds, at least 2 (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="time for the rounds of one row; the row ends after that, with two rounds at least (default: %(default)g)",
    )
    parser.add_argument("--no-bound", action="store_true", help="do not time the convolutions and products alone")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes a process per row")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append one JSON line per row to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_speed(args: argparse.Namespace) -> int:
    """Measure and show; return 1 if a net could not be measured, 130 after an interrupt."""
    size = None if args.input_size is None else parse_size(args.input_size)
    import torch

    from zoo.environment import MOST_THREADS, check_between, choose_device
    from zoo.registry import expand_names
    from zoo.speed.cases import plan, sweep
    from zoo.speed.table import SpeedProgress, format_table, heading
    from zoo.speed.timing import MODES

    if args.threads is not None:
        torch.set_num_threads(check_between("threads", args.threads, 1, MOST_THREADS))
    cases = plan(
        expand_names(args.names),
        modes=MODES if "both" in args.mode else args.mode,
        batch_sizes=args.batch_size,
        input_size=size,
        layouts=args.layout,
        compiled=(False, True) if args.compile else (False,),
        fused=(False, True) if args.fuse else (False,),
        lean=(False, True) if args.lean else (False,),
        dtype=args.dtype,
        device=choose_device(args.device),
    )
    with SpeedProgress() as progress:
        outcome = sweep(
            cases,
            repeats=args.repeats,
            seconds=args.seconds,
            bound=not args.no_bound,
            memory=not args.no_memory,
            path=args.out,
            listener=progress,
        )
    if args.json:
        print_json(outcome.records)
    elif outcome.records:
        print(f"{heading(outcome.records)}\n\n{format_table(outcome.records)}")
    if args.out and outcome.records:
        tell(f"{len(outcome.records)} lines appended to {args.out}")
    for failure in outcome.failures:
        tell(f"failed: {failure}")
    if outcome.interrupted:
        kept = f"{len(outcome.records)} of {len(cases)} rows had two rounds or more and are kept"
        tell(f"interrupted: {kept}")
        return 130
    return 1 if outcome.failures else 0
