"""Hold a race of eight nets on 2,000 garments of Fashion-MNIST against training all eight to the end.

python benchmarks/race.py --out ../race                     both, on two cores, a budget of ten minutes
python benchmarks/race.py --pictures 200 --epochs 3 --out ../race     a miniature

Both have the same nets, recipe, pictures and validation half, and the exhaustive run trains as many epochs as the
winner of the race. Result lines go to OUT/race and OUT/exhaustive, the comparison to OUT/race.md. Times are those of
this call, so an OUT that holds results already is an error: runs that are in it would not be trained.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tabulate import tabulate

from zoo.bench.progress import ProgressBar
from zoo.bench.request import Request, run
from zoo.datasets import fashion
from zoo.datasets.split import systematic_split
from zoo.files import write_in_folder
from zoo.racing import Outcome, race
from zoo.results.store import RESULTS, read_if_there

OUT = Path(__file__).resolve().parent / "results" / "race"
NETS = (
    *("lenet5_cifar", "plain20_cifar", "resnet20_cifar", "preresnet20_cifar"),
    *("seresnet20_projection_cifar", "resnext20_4x8d_cifar", "highway11_cifar", "fabric_a_l3_s3_c32x2_post_cifar"),
)
RACE, EXHAUSTIVE = "race", "exhaustive"
EPOCHS = 18
VALIDATION = 0.1


def write_pictures(root: Path, number: int) -> None:
    """Save so many garments of each half as PNG files, every class in proportion."""
    for half, source in (("train", "train"), ("test", "test")):
        images, labels = fashion.read(fashion.find(), source)
        _, chosen = systematic_split(labels.numpy(), test_size=number)
        for name in fashion.CLASSES:
            (root / half / _plain(name)).mkdir(parents=True)
        for i in chosen.tolist():
            Image.fromarray(images[i].numpy()).save(root / half / _plain(fashion.CLASSES[int(labels[i])]) / f"{i}.png")


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def report(outcome: Outcome, lines: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> str:
    """Return the comparison as Markdown: both tables, the verdict on the winner, and the ratio of the times.

    Args:
        outcome: The race.
        lines: Result lines of the exhaustive run.
        seconds: Wall time of both, by ``race`` and ``exhaustive``.
    """
    ranked = sorted(lines, key=lambda line: -line["test_accuracy"])
    best, winner = ranked[0], next(line for line in lines if line["name"] == outcome.winner)
    behind, error = 100 * (best["test_accuracy"] - winner["test_accuracy"]), 100 * best["standard_error"]
    within = "within" if behind <= error else "NOT within"
    raced = [
        [row["net"], row["dropped"], row["epochs"], _number(row["validation"]), _number(row["behind"])]
        for row in outcome.table()
    ]
    trained = [
        [
            line["name"],
            *(_number(100 * line[key]) for key in ("test_accuracy", "validation_accuracy")),
            f"{line['seconds']:.0f}",
        ]
        for line in ranked
    ]
    return "\n".join(
        [
            f"The race took {seconds[RACE]:.0f} s, the exhaustive run {seconds[EXHAUSTIVE]:.0f} s: "
            f"{seconds[RACE] / seconds[EXHAUSTIVE]:.2f} of its time.",
            "",
            tabulate(raced, ["race", "dropped", "epochs", "validation [%]", "behind"], "pipe", disable_numparse=True),
            "",
            outcome.confidence() + ".",
            "",
            tabulate(trained, ["exhaustive", "test [%]", "validation [%]", "seconds"], "pipe", disable_numparse=True),
            "",
            f"The winner, {outcome.winner}, is {behind:.2f} points behind the best of all, {best['name']}: "
            f"{within} one standard error of its test accuracy ({error:.2f}).",
            "",
        ]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Hold a race of eight nets against training all of them.")
    parser.add_argument("--budget", type=float, default=600, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=2000, metavar="N", help="in each half (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="of the winner (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results/race, beside this script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if a run failed."""
    parser = build_parser()
    args = parser.parse_args(argv)
    for name in (RACE, EXHAUSTIVE):
        if (there := args.out / name / RESULTS).exists():
            parser.error(f"out: {there} holds results of an earlier call: delete it, or name another by --out")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "garments"
        write_pictures(root, args.pictures)

        def request(name: str, epochs: int) -> Request:
            return Request(
                models=NETS,
                dataset="folder",
                data_dir=root,
                workers=0,
                recipe="few_small",
                changes={"epochs": epochs},
                validation=VALIDATION,
                device="cpu",
                threads=args.threads,
                keep="none",
                out=args.out / name,
            )

        with ProgressBar() as listener:
            start = time.perf_counter()
            outcome = race(request(RACE, args.epochs), budget=args.budget, listener=listener)
            seconds[RACE] = time.perf_counter() - start
            start = time.perf_counter()
            done = run(request(EXHAUSTIVE, outcome.rounds[-1].epochs), listener)
            seconds[EXHAUSTIVE] = time.perf_counter() - start
    if done.failures:
        print("\n".join(done.failures), file=sys.stderr)
        return 1
    assert done.path is not None
    text = report(outcome, read_if_there(done.path).trainings, seconds)
    write_in_folder(args.out / "race.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
