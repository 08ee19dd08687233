"""The verbs `zoo bench` and `zoo plot`: arguments in, tables and paths out."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
DESCRIPTION = argparse.RawDescriptionHelpFormatter

BENCH_HELP = """\
Train nets with one recipe on real images and compare them. Every finished run is one line in OUT/results.jsonl;
runs that are in the file are not done again, so an interrupted benchmark goes on where it stopped.

Three tasks: classify names the digit of an image (accuracy); segment gives every pixel of a scene of several digits
a class (mIoU), with a decoder of segmentation_models_pytorch on the net; detect finds the digits' boxes (mAP), with a
detector of torchvision. The last two need nets of ImageNet scale, and pip install 'backbone-zoo[downstream]'."""

BENCH_EXAMPLES = """\
examples:
  zoo bench                                        the default line-up, one seed
  zoo bench resnet20_cifar preresnet20_cifar --seeds 0 1 2
  zoo bench resnet20_cifar --set order=pre         the preset with one field of its specification changed
  zoo bench 'resnet*_cifar' --epochs 2 --out results/quick
  zoo bench resnet20_cifar --recipe lr=0.05 --recipe max_shift=0
  zoo bench --task segment                         three small nets, each as the encoder of a U-Net
  zoo bench --task segment --decoder deeplabv3plus resnet18 fishnet_test --pictures
  zoo bench --task detect resnet18 --seeds 0 1 2
  zoo bench --task detect resnet18 --frozen        the net as it was initialised: what does training it add?"""

PLOT_HELP = """\
Draw the table and the plots again from stored results; nothing is trained."""

PLOT_EXAMPLES = """\
examples:
  zoo plot results/digits
  zoo plot results/digits/results.jsonl --out figures --format md csv json --sort macs"""


def add_verbs(verbs: Any) -> None:
    """Add `bench` and `plot` to a parser's verbs."""
    bench = verbs.add_parser(
        "bench",
        help="train nets with one recipe and compare them",
        description=BENCH_HELP,
        epilog=BENCH_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    bench.add_argument("names", nargs="*", metavar="NAME", help="models, or patterns such as 'resnet*_cifar'")
    bench.add_argument(
        "--task", default="classify", metavar="TASK", help="classify, segment or detect (default: classify)"
    )
    bench.add_argument("--decoder", metavar="NAME", help="of --task segment: unet or deeplabv3plus (default: unet)")
    bench.add_argument("--detector", metavar="NAME", help="of --task detect: fcos or retinanet (default: fcos)")
    bench.add_argument(
        "--frozen", action="store_true", help="keep the nets' random weights and train only what is put on top"
    )
    bench.add_argument("--lineup", help="default or all, instead of names (default: default)")
    bench.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the named nets")
    bench.add_argument("--dataset", help="image set (default: digits; scenes for segment and detect)")
    bench.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one run each (default: 0)")
    bench.add_argument("--epochs", type=int, help="instead of the dataset's own number")
    bench.add_argument("--recipe", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    bench.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    bench.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    bench.add_argument("--out", type=Path, help="folder of results and plots (default: results/DATASET, or TASK)")
    bench.add_argument("--force", action="store_true", help="train also what the results already have")
    bench.add_argument(
        "--pictures", action="store_true", help="draw what each trained model predicts on test scenes (OUT/pictures)"
    )
    _add_table_options(bench)
    bench.set_defaults(run=run_bench)

    plot = verbs.add_parser(
        "plot",
        help="draw table and plots from stored results",
        description=PLOT_HELP,
        epilog=PLOT_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    plot.add_argument("results", type=Path, metavar="RESULTS", help="results file, or its folder")
    plot.add_argument("--out", type=Path, help="folder for the files (default: beside the results)")
    _add_table_options(plot)
    plot.set_defaults(run=run_plot)


def run_bench(args: argparse.Namespace) -> int:
    """Run a sweep and show what the results file then holds; 1 if a run failed or there is nothing to show."""
    import torch

    _require("sklearn", "matplotlib")  # now, not when the training is over
    from zoo.bench.pictures import PictureProgress
    from zoo.bench.progress import Progress
    from zoo.bench.report import sort_rows
    from zoo.bench.runner import expand_names, lineup, plan, sweep
    from zoo.bench.tasks import task_row

    task = task_row(args.task)
    head = _head(args, task)
    task.require()
    if args.names and args.lineup:
        raise ValueError(f"lineup {args.lineup!r} was given together with names: choose one of them")
    if args.pictures and not task.heads:
        raise ValueError(f"pictures are for the tasks segment and detect, not for {task.name}: leave --pictures out")
    dataset = args.dataset or next(iter(task.datasets))
    asked = parse_pairs(args.recipe)
    if args.epochs is not None:
        asked["epochs"] = args.epochs
    recipe = task.row(dataset).recipe.changed(**asked)
    sort_rows([], args.sort, task)  # a wrong column is an error now, too
    if args.names:
        names = expand_names(args.names)
    else:
        names = task.nets if task.nets and not args.lineup else lineup(args.lineup or "default")
    overrides = parse_pairs(args.set)
    runs = plan(
        names, dataset, recipe, args.seeds, overrides, task=task.name, head=head, frozen=args.frozen, fixed=asked
    )
    device = choose_device(args.device)
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"threads must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    out = args.out or Path("results") / (task.name if task.heads else dataset)
    path = out / RESULTS
    try:
        with PictureProgress(out / "pictures") if args.pictures else Progress() as progress:
            outcome = sweep(runs, path, device=device, force=args.force, listener=progress)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Finished runs are in {path}; the same command does the rest.", file=sys.stderr)
        return 130
    shown = path.exists()
    if shown:
        show(path, out, args.sort, args.format)
    for failure in outcome.failures:
        print(f"zoo: failed: {failure}", file=sys.stderr)
    return 1 if outcome.failures or not shown else 0


def run_plot(args: argparse.Namespace) -> int:
    """Show what a results file holds."""
    path = args.results / RESULTS if args.results.is_dir() else args.results
    if not path.is_file():
        raise ValueError(f"no results at {path}: give a file or folder that zoo bench wrote")
    _require("matplotlib")
    show(path, args.out or path.parent, args.sort, args.format)
    return 0


def show(path: Path, out: Path, sort: str, formats: Sequence[str]) -> None:
    """Print the table of a results file, write table and plots, and print where they are.

    Raises:
        ValueError: If the file holds no finished run.
    """
    from zoo.bench.plot import plot_all
    from zoo.bench.report import aggregate, footnote, format_table, sort_rows, write_table
    from zoo.bench.results import newest_results

    records = [record for record in newest_results(path) if record.get("kind") != "speed"]
    if not records:
        raise ValueError(f"{path} holds no finished run: run zoo bench first")
    rows = sort_rows(aggregate(records), sort)
    files = [path, *(write_table(rows, out / f"table.{kind}") for kind in formats)]
    files += plot_all(rows, out, records[0]["dataset"]["name"])
    print(f"\n{format_table(rows)}\n\n{footnote(rows)}\n")
    for file in files:
        print(file)


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as a dict; a value is a Python literal if it reads as one, else a string.

    Raises:
        ValueError: If a text has no `=`.
    """
    parsed = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} must have the form KEY=VALUE, such as order=pre")
        try:
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)  # what cannot be stored is no value
        except (ValueError, SyntaxError, TypeError):
            value = text
        parsed[key] = value
    return parsed


def parse_size(text: str) -> tuple[int, int, int]:
    """Read `224` (three channels, square) or `CxHxW`.

    Raises:
        ValueError: If the text is neither.
    """
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"input size {text!r} must look like 224 or 3x224x224")
    channels, height, width = (3, int(parts[0]), int(parts[0])) if len(parts) == 1 else map(int, parts)
    return channels, height, width


def _require(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"module {module!r} is not installed: pip install 'backbone-zoo[bench]'")


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sort", default="", metavar="COLUMN", help="column (default: accuracy, miou or map)")
    parser.add_argument(
        "--format", nargs="+", choices=("md", "csv", "json"), default=["md"], help="files of the table (default: md)"
    )


def _head(args: argparse.Namespace, task: Any) -> str:
    """The decoder or detector that is asked for; empty for none.

    Raises:
        ValueError: If it belongs to another task, or there is none of that name; the message lists them.
    """
    given = {"--decoder": args.decoder, "--detector": args.detector}
    for option, value in given.items():
        if value is not None and option != task.head_option:
            owner = {"--decoder": "segment", "--detector": "detect"}[option]
            raise ValueError(f"{option} {value!r} belongs to --task {owner}, not to {task.name}")
    name = given.get(task.head_option)
    if name is not None and name not in task.heads:
        raise ValueError(f"unknown {task.head_option.strip('-')} {name!r}: choose from {', '.join(task.heads)}")
    return name or ""


def choose_device(name: str) -> str:
    """The device of that name; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: If it is none of torch's, or not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is none of torch's: use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch sees no CUDA; use cpu")
    return name
