"""Memory of a training step with and without checkpointing, in one run on one machine.

python benchmarks/densenet_memory.py
python benchmarks/densenet_memory.py densenet121 densenet201 resnet50 --batch 16 --json memory.json

Dense blocks are what checkpointing pays most for: stored, the concatenations of a block grow with the square of its
depth, recomputed with the depth (arXiv:1707.06990). Each side of a pair has a process of its own for its memory. What
it costs is CPU time, taken in pairs as in speed.py; use one thread, for threads that wait burn time, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate

import zoo
from zoo.environment import describe_device, versions
from zoo.files import write_atomically
from zoo.registry import expand_names
from zoo.speed import timing as measure

sys.path.insert(0, str(Path(__file__).resolve().parent))

from speed import MIB, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def make_step(name: str, checkpoint: bool, batch: int, size: int) -> Callable[[], object]:
    """One training step of a fresh net: forward, backward and SGD."""
    torch.manual_seed(0)
    net: Any = zoo.create_model(name)
    net.set_grad_checkpointing(checkpoint)
    images = torch.randn(batch, 3, size, size)
    return measure.make_step(net, images, "train")


def peak_memory(name: str, checkpoint: bool, batch: int, size: int) -> int | None:
    """Bytes that building the net and two steps add at the peak; for a process of its own."""
    return measure.added_memory(
        lambda: make_step(name, checkpoint, batch, size),
        lambda: make_step("resnet_test", checkpoint, 2, 64)(),
        torch.device("cpu"),
    )


def measure_net(name: str, args: argparse.Namespace) -> dict:
    """Peak memory and CPU times of one net, recomputing and storing."""
    memory = [
        measure.in_fresh_process(peak_memory, name, checkpoint, args.batch, args.size) for checkpoint in (True, False)
    ]
    steps = (make_step(name, True, args.batch, args.size), make_step(name, False, args.batch, args.size))
    for step in steps:
        step()
    times = compare(*measure.interleave(steps, args.repeats, measure.clocked(time.process_time)))
    return {"name": name, "time": asdict(times), "memory": dict(zip(("checkpointed", "stored"), memory, strict=True))}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Memory and CPU time of a training step with and without checkpointing."
    )
    parser.add_argument("names", nargs="*", default=("densenet121",), help="nets of the zoo, or patterns")
    parser.add_argument("--batch", type=int, default=8, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=measure.rounds, default=3, help="timed steps of each side (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with versions and device")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for name in expand_names(args.names):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measure_net(name, args))
    settings = {key: getattr(args, key) for key in ("batch", "size", "repeats", "threads")}
    result = {"rows": rows, **settings, "versions": versions(), "device": describe_device(torch.device("cpu"))}
    device = result["device"]["name"]
    print(f"batch {args.batch}, {args.size} px, {device}, {args.threads} threads, torch {torch.__version__}\n")
    print(table(rows))
    if args.json:
        write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


def table(rows: Sequence[dict]) -> str:
    """Ratios are checkpointed / stored: of memory the less the better, of time what it costs."""
    cells = []
    for row in rows:
        at, memory = row["time"], row["memory"]
        known = memory["checkpointed"] and memory["stored"]
        cells.append(
            (
                row["name"],
                f"{memory['checkpointed'] / MIB:.0f}" if known else "-",
                f"{memory['stored'] / MIB:.0f}" if known else "-",
                f"{memory['checkpointed'] / memory['stored']:.2f}" if known else "-",
                f"{at['ours_ms']:.0f}",
                f"{at['theirs_ms']:.0f}",
                f"{1 / at['ratio']:.2f}",
                f"{1 / at['high']:.2f} .. {1 / at['low']:.2f}",
            )
        )
    header = (
        "net",
        "checkpointed MiB",
        "stored MiB",
        "memory x",
        "checkpointed ms",
        "stored ms",
        "time x",
        "quartiles",
    )
    return tabulate(cells, header, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
