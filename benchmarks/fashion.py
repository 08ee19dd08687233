"""Compare topologies on Fashion-MNIST at three levels: the class of an image, boxes in a scene, pixels of a scene.

python benchmarks/fashion.py --jobs 2                      what is missing, on the CPU
python benchmarks/fashion.py --stages search image --device cuda --jobs 12
python benchmarks/fashion.py --stages weights table    publish whatever is in
python benchmarks/fashion.py --again 54d2de00          does a run come out the same?

Stage `search` trains every topology at each size with three learning rates on 8,000 of the training images and keeps
the rate that is best on 4,000 others of them. Stage `image` trains with that rate on all 60,000. Stage `long` trains
ResNet-20 four times as long, to stand beside published figures. Stage `scenes` trains eight topologies to segment
scenes of garments and to detect the garments in them. Lines go to OUT/STAGE.jsonl, weights of stage `image` to
OUT/weights. What is there is not trained again, unless `--again` asks whether it comes out the same.

Stage `weights` puts one net of each topology into the package (tags `NAME.fashion`), and writes what every kept net
answers to the test images. Stage `table` writes tables, pictures and the report of whatever lines are in, and says how
many are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fashion_page import publish
from fashion_plan import OUT, SEEDS, SIZES, chosen_rates, image_runs, long_runs, scene_runs, search_runs
from fashion_study import LARGE, read_study
from fashion_weights import register, write_answers

from zoo.bench.engines import InProcess, Processes
from zoo.bench.one_run import Placement, run_of
from zoo.bench.progress import ProgressBar
from zoo.bench.sweep import SAVED, Outcome, sweep
from zoo.results import Run
from zoo.results.store import read_if_there

STAGES = ("search", "image", "long", "scenes", "weights", "table")
TRAINED = STAGES[:4]
USUAL = tuple(stage for stage in STAGES if stage != "weights")  # which changes the package


def train(runs: Sequence[Run], path: Path, args: argparse.Namespace, weights: Path | None = None) -> Outcome:
    """Train the runs that a results file lacks."""
    on_gpu = args.device != "cpu"
    saved = args.out.absolute() / SAVED
    placement = Placement(
        device=args.device,
        channels_last=not on_gpu,  # in float32 the slower layout on a GPU
        saved=None if on_gpu else saved,
        weights=weights,
        recorded=on_gpu,
        deterministic=on_gpu,
    )
    engine = Processes(args.jobs, 1) if args.jobs > 1 else InProcess()
    with ProgressBar(f"{len(runs)} runs; lines go to {path}") as progress:
        return sweep(runs, path, placement=placement, engine=engine, listener=progress)


def again(keys: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Train finished runs once more, as their lines say they were computed; return those that come out otherwise.

    A run on the CPU repeats to the last digit with the versions of its line; nothing is written to the results.

    Raises:
        ValueError: If a key is not that of exactly one line.
    """
    stored = [line for stage in TRAINED for line in read_if_there(args.out / f"{stage}.jsonl").trainings]
    differing = []
    for key in keys:
        found = [line for line in stored if line["key"].startswith(key)]
        if len(found) != 1:
            raise ValueError(
                f"--again {key} must be the key, or its start, of one line in {args.out}: {len(found)} are"
            )
        [line] = found
        computed, device = line["computed"], line["device"]
        if device["type"] == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--again {key} was computed on {device['name']}, and there is no GPU here")
        placement = Placement(
            device=device["type"],
            channels_last=computed["layout"] == "channels_last",
            recorded=computed.get("recorded", False),
            deterministic=computed.get("deterministic", False),
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            ProgressBar(f"{line['display']}, seed {line['seed']}") as progress,
        ):
            path = Path(folder) / "again.jsonl"
            sweep([run_of(line)], path, placement=placement, listener=progress)
            [other] = read_if_there(path).trainings
        same = figures(line) == figures(other)
        print(f"{line['key']}: {'the same to the last digit' if same else 'DIFFERENT'}: {figures(other)[-1]}")
        if not same:
            differing.append(f"{line['display']}: {figures(line)[-1]} is in the line")
    return differing


def figures(line: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return everything that was measured in each epoch but its time."""
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in line["epochs"]]


def keep_weights(out: Path) -> None:
    """Register the larger nets of the first seed with the package, and let all kept nets answer the test images."""
    study = read_study(out)
    first = [point.line(SEEDS[0]) for choice, point in study.points.items() if choice.size == LARGE]
    for name in register(out, [line for line in first if line is not None]):
        print(f"{name} comes with the package now")
    write_answers(out, [line for point in study.points.values() for line in point.result.runs])


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Compare sixteen topologies on Fashion-MNIST.")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=USUAL, help="default: all but weights")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="default: 0 1 2, on images at 0.3 M parameters 0 alone"
    )
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="default: all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--again", nargs="+", metavar="KEY", help="train these finished runs again, and compare")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results/fashion, beside this script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if a run failed."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    if args.again:
        try:
            return report(again(args.again, args))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    failures: list[str] = []
    seeds = SEEDS if args.seeds is None else args.seeds
    search = args.out / "search.jsonl"
    if "search" in args.stages:
        failures += train([run for _, run in search_runs().values()], search, args).failures
    if "image" in args.stages:
        runs = image_runs(chosen_rates(search), seeds, args.sizes, planned=args.seeds is None)
        failures += train(
            [run for _, run in runs.values()], args.out / "image.jsonl", args, args.out / "weights"
        ).failures
    if "long" in args.stages:
        failures += train(list(long_runs().values()), args.out / "long.jsonl", args).failures
    if "scenes" in args.stages:
        failures += train([run for _, run in scene_runs(seeds).values()], args.out / "scenes.jsonl", args).failures
    if "weights" in args.stages:
        keep_weights(args.out)
    if "table" in args.stages:
        print(publish(args.out))
    return report(failures)


def report(failures: Sequence[str]) -> int:
    """Print what failed; return the exit status."""
    for failed in failures:
        print(f"failed: {failed}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
