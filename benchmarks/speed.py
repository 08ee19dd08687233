"""Speed and memory of one net against another, in one run on one machine.

python benchmarks/speed.py resnet50 timm:resnet50
python benchmarks/speed.py fishnet99 pytorchcv:fishnet99 --batch 8 --repeats 15 --json fish.json

Times of two nets compare only when they were taken side by side: clocks, other users and thermal limits drift by more
than most differences between implementations. So the repetitions alternate, the first of each pair changes sides from
one repetition to the next, and what is reported is the median of the ratios within a pair. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tabulate import tabulate

import zoo
from zoo.environment import describe_device, versions
from zoo.files import write_atomically
from zoo.speed import timing as measure
from zoo.speed.timing import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

MODES = ("infer", "train")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """What both nets are asked to do: one forward pass, or one training step (forward, backward, SGD).

    Attributes:
        mode: ``infer`` or ``train``.
        layout: Memory format of images and weights, a key of ``LAYOUTS``.
        batch: Images a step.
        size: Height and width in pixels.
        device: A torch device.
        dtype: Autocast type of the forward pass, a key of ``DTYPES``.
    """

    mode: str
    layout: str
    batch: int
    size: int
    device: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired times of two nets.

    Attributes:
        ours_ms: Median of a step, milliseconds.
        theirs_ms: The same of the other net.
        ratio: Median over the pairs of theirs / ours; above 1, ours is faster.
        low: Lower quartile of the ratios.
        high: Upper quartile; where low and high enclose 1, the difference is noise.
    """

    ours_ms: float
    theirs_ms: float
    ratio: float
    low: float
    high: float


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Summarise paired times in seconds.

    Raises:
        ValueError: If there are fewer than two pairs, or the two differ in number.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"ours ({len(ours)} times) and theirs ({len(theirs)}) must be at least two pairs")
    ratio = measure.ratios(theirs, ours)
    return Comparison(
        ours_ms=1e3 * statistics.median(ours),
        theirs_ms=1e3 * statistics.median(theirs),
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
    )


def create(name: str) -> nn.Module:
    """Net by name: ours, ``timm:<name>``, or ``pytorchcv:<name>``.

    Raises:
        ValueError: If the source does not know the name.
    """
    if name.startswith("pytorchcv:"):
        from pytorchcv.model_provider import get_model  # only in the `test` extra

        return get_model(name.removeprefix("pytorchcv:"), pretrained=False)
    return zoo.create_model(name)


def make_step(name: str, case: Case) -> Callable[[], object]:
    """One step of a freshly made net, ready to be called again and again."""
    torch.manual_seed(0)
    layout = LAYOUTS[case.layout]
    net = create(name).to(case.device).to(memory_format=layout)
    images = torch.randn(case.batch, 3, case.size, case.size, device=case.device).to(memory_format=layout)
    return measure.make_step(net, images, "train" if case.mode == "train" else "eval", case.dtype)


def peak_memory(name: str, case: Case) -> int | None:
    """Bytes that building the net and two steps add at the peak, see `zoo.speed.timing.added_memory`."""
    return measure.added_memory(
        lambda: make_step(name, case),
        lambda: make_step("resnet20_cifar", replace(case, batch=2, size=32))(),
        torch.device(case.device),
    )


def time_pairs(names: tuple[str, str], case: Case, repeats: int, warmup: int) -> Comparison:
    """Times of two nets for one case."""
    steps = (make_step(names[0], case), make_step(names[1], case))
    for _ in range(warmup):
        for step in steps:
            step()
    return compare(*measure.interleave(steps, repeats, measure.stopwatch(torch.device(case.device))))


def table(rows: Sequence[dict]) -> str:
    """Rows of `run` for a reader: ratios above 1 are in our favour."""

    def mib(value: int | None) -> str:
        return "-" if value is None else f"{value / MIB:.0f}"

    cells = [
        (
            row["case"]["mode"],
            row["case"]["layout"],
            f"{row['time']['ours_ms']:.1f}",
            f"{row['time']['theirs_ms']:.1f}",
            f"{row['time']['ratio']:.2f}",
            f"{row['time']['low']:.2f} .. {row['time']['high']:.2f}",
            mib(row["memory"]["ours"]),
            mib(row["memory"]["theirs"]),
            "-" if not (row["memory"]["ours"] and row["memory"]["theirs"]) else f"{memory_ratio(row):.2f}",
        )
        for row in rows
    ]
    header = ("step", "layout", "ours ms", "theirs ms", "speed x", "quartiles", "ours MiB", "theirs MiB", "memory x")
    return tabulate(cells, header, disable_numparse=True, stralign="right")


def memory_ratio(row: dict) -> float:
    """Peak memory of theirs over ours; above 1, ours needs less."""
    return row["memory"]["theirs"] / row["memory"]["ours"]


def run(args: argparse.Namespace) -> dict:
    """Measure everything that was asked for; the result is what ``--json`` writes."""
    names = (args.ours, args.theirs)
    rows = []
    for mode in args.mode:
        for layout in args.layout:
            case = Case(
                mode=mode, layout=layout, batch=args.batch, size=args.size, device=args.device, dtype=args.dtype
            )
            print(f"{mode}, {layout} ...", file=sys.stderr, flush=True)
            memory: list[int | None] = [None, None]
            if not args.no_memory:
                memory = [measure.in_fresh_process(peak_memory, name, case) for name in names]
            times = time_pairs(names, case, args.repeats, args.warmup)
            rows.append(
                {"case": asdict(case), "time": asdict(times), "memory": {"ours": memory[0], "theirs": memory[1]}}
            )
    return {
        "ours": args.ours,
        "theirs": args.theirs,
        "repeats": args.repeats,
        "rows": rows,
        "versions": versions(),
        "device": describe_device(torch.device(args.device)),
    }


def build_parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        description="Compare two nets side by side: time of an inference and of a training step, and peak memory.",
        epilog="Ratios are theirs / ours: above 1, ours is faster or smaller. Where the quartiles enclose 1 there is "
        "no difference to speak of. Nets are made anew with random weights; nothing is loaded.",
    )
    parser.add_argument("ours", nargs="?", default="resnet50", help="a name of the zoo (default: %(default)s)")
    parser.add_argument(
        "theirs",
        nargs="?",
        default="timm:resnet50",
        help="what to compare with: a name of the zoo, timm:<name> or pytorchcv:<name> (default: %(default)s)",
    )
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    parser.add_argument("--layout", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="default: both")
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=measure.rounds, default=9, help="timed steps of each net (default: %(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="autocast type (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--no-memory", action="store_true", help="skip the peak memory, which takes extra processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with versions and device")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    result = run(args)
    where = result["device"]
    print(f"{args.ours} (ours) against {args.theirs} (theirs), batch {args.batch}, {args.size} px, {args.dtype}")
    print(f"{where['name']}, {where['threads']} threads, torch {result['versions']['torch']}\n")
    print(table(result["rows"]))
    if args.json:
        write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
