"""Our fabrics against a plain transcription of their equations, in one run on one machine.

python benchmarks/fabric_speed.py
python benchmarks/fabric_speed.py fabric_a_l9_s6_c128_post_cifar --batch 64 --repeats 15 --json fabric.json
python benchmarks/fabric_speed.py gridnet_l6_s5_c16x2 --batch 2 --input-size 96 --threads 1 --cpu-time

In training both sides have the same operators and weights. In inference ours is what `zoo.fuse` makes of the net, with
channels last. Steps alternate and ratios are taken within pairs, as in speed.py, whose measuring this is.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fabric_oracle import PlainFabric
from speed import MIB, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES = (
    "fabric_a_l9_s6_c128_post_cifar",
    "fabric_a_l3_s6_c128_post_gated_cifar",
    "fabric_a_l3_s6_c128_pre_gated_cifar",
)


def make_step(name: str, plain: bool, mode: str, batch: int, size: int | None) -> Callable[[], object]:
    """One step of a fresh net, at its own input size where none is given: a forward pass, or that, backward and SGD."""
    torch.manual_seed(0)
    net: Any = zoo.create_model(name)
    images = torch.randn(batch, *input_size(name, size))
    if plain:
        net = PlainFabric(net)
    elif mode == "infer":
        net = zoo.fuse(net.eval()).to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    return measure.make_step(net, images, "train" if mode == "train" else "eval")


def input_size(name: str, size: int | None) -> tuple[int, int, int]:
    """Channels, height and width of an image."""
    own = zoo.model_entry(name).input_size
    return (own[0], size, size) if size else own


def peak_memory(name: str, plain: bool, mode: str, batch: int, size: int | None) -> int | None:
    """Bytes that building the net and two steps add at the peak; for a process of its own."""
    return measure.added_memory(
        lambda: make_step(name, plain, mode, batch, size),
        lambda: make_step(name, plain, mode, 2, size)(),
        torch.device("cpu"),
    )


def median_memory(name: str, plain: bool, mode: str, batch: int, size: int | None) -> float | None:
    """Median of three processes: how much of what it was given back an allocator uses again is a matter of luck."""
    peaks = [measure.in_fresh_process(peak_memory, name, plain, mode, batch, size) for _ in range(3)]
    return None if None in peaks else statistics.median(peaks)


def measure_net(name: str, mode: str, args: argparse.Namespace) -> dict:
    """Times and peak memory of both ways to evaluate one net."""
    case = (mode, args.batch, args.input_size)
    memory: list[float | None] = [None, None]
    if not args.no_memory:
        memory = [median_memory(name, plain, *case) for plain in (False, True)]
    steps = [make_step(name, plain, *case) for plain in (False, True)]
    for step in steps:
        step()
    clock = time.process_time if args.cpu_time else time.perf_counter
    times = compare(*measure.interleave(steps, args.repeats, measure.clocked(clock)))
    return {
        "name": name,
        "mode": mode,
        "input_size": input_size(name, args.input_size),
        "time": asdict(times),
        "memory": dict(zip(("ours", "plain"), memory, strict=True)),
    }


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time and memory of fabrics against a plain transcription of them.")
    parser.add_argument("names", nargs="*", default=NAMES, help="fabrics of the zoo, or patterns")
    parser.add_argument("--mode", nargs="+", choices=("infer", "train"), default=["infer", "train"], help="both")
    parser.add_argument("--batch", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--input-size", type=int, metavar="PX", help="height and width (default: each net's own)")
    parser.add_argument(
        "--repeats", type=measure.rounds, default=9, help="timed steps of each side (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of all threads instead of wall time: other users disturb less"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the peak memory, which takes extra processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with versions and device")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    names = expand_names(args.names)
    rows = []
    for name in names:
        for mode in args.mode:
            print(f"{name}, {mode} ...", file=sys.stderr, flush=True)
            rows.append(measure_net(name, mode, args))
    result = {"rows": rows, "batch": args.batch, "repeats": args.repeats, "cpu_time": args.cpu_time}
    result["versions"] = versions()
    result["device"] = describe_device(torch.device("cpu"))
    clock, device = "CPU" if args.cpu_time else "wall", result["device"]["name"]
    print(f"batch {args.batch}, {clock} time, {device}, {args.threads} threads, torch {torch.__version__}\n")
    print(table(rows))
    if args.json:
        write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


def table(rows: Sequence[dict]) -> str:
    """A speed above 1 means that ours is faster, a memory below 1 that it needs less."""
    cells = []
    for row in rows:
        at, memory = row["time"], row["memory"]
        known = memory["ours"] and memory["plain"]
        cells.append(
            (
                row["name"],
                row["mode"],
                str(row["input_size"][-1]),
                f"{at['ours_ms']:.0f}",
                f"{at['theirs_ms']:.0f}",
                f"{at['ratio']:.2f}",
                f"{at['low']:.2f} .. {at['high']:.2f}",
                f"{memory['ours'] / MIB:.0f}" if known else "-",
                f"{memory['plain'] / MIB:.0f}" if known else "-",
                f"{memory['ours'] / memory['plain']:.2f}" if known else "-",
            )
        )
    header = ("net", "step", "px", "ours ms", "plain ms", "speed x", "quartiles", "ours MiB", "plain MiB", "memory x")
    return tabulate(cells, header, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
