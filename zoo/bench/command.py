"""The verbs `zoo bench`, `zoo recipes` and `zoo plot`: arguments in, tables and paths out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.bench.options import (
    DESCRIPTION,
    check_at_least,
    choose_device,
    cores,
    one_line,
    parse_pairs,
    parse_value,
)
from zoo.extras import require
from zoo.files import check_writable
from zoo.results.escape import for_terminal
from zoo.results.store import RESULTS, read, read_if_there

PICTURES = "pictures.json"
"""File beside the results that remembers which pictures were found to be whole."""
ENGINES = ("local", "ray")

BENCH_HELP = """\
Train nets with one recipe on real images and compare them. Every run that ends is one line in OUT/results.jsonl; runs
that are in the file are not done again, and a run that was stopped goes on from its last epoch, so an interrupted
benchmark goes on where it stopped. Failed runs are lines, too, and are tried again by the next call.

Three tasks: classify names the digit of an image (accuracy); segment gives every pixel of a scene of several digits
a class (mIoU), with a decoder of segmentation_models_pytorch on the net; detect finds the digits' boxes (mAP), with a
detector of torchvision. The last two need nets of ImageNet scale, and pip install -e '.[downstream]'.

Images: digits need no download. --dataset also takes torch/cifar10, torch/cifar100 and others of torchvision,
hfds/NAME, and folder, for --data-dir/train/CLASS/*.png and --data-dir/validation/CLASS/*.png (or val, test, ...). Small
images of one size are held in memory, others are read batch by batch. All pictures are looked at before the first
epoch: one that cannot be read, or that is in both halves of a folder, is an error that names it."""

BENCH_EXAMPLES = """\
examples:
  zoo bench                                        the default line-up, one seed
  zoo bench resnet20_cifar preresnet20_cifar --seeds 0 1 2
  zoo bench resnet20_cifar --set order=pre         the preset with one field of its specification changed
  zoo bench resnet20_cifar --vary order post pre --vary squeeze 0 16 --seeds 0 1 2
  zoo bench 'resnet*_cifar' --epochs 2 --out results/quick
  zoo bench resnet20_cifar --recipe lr=0.05 --recipe max_shift=0
  zoo bench resnet110_cifar --dataset torch/cifar10 --data-dir data --download --recipe resnet110_cifar
  zoo bench resnet18 fishnet99 --dataset folder --data-dir data/flowers --recipe epochs=20 --bf16

  zoo bench --task segment                         three small nets, each as the encoder of a U-Net
  zoo bench --task segment --decoder deeplabv3plus resnet18 fishnet_test --pictures
  zoo bench --task detect resnet18 --seeds 0 1 2
  zoo bench --task detect resnet18 --frozen        the net as it was initialised: what does training it add?

  zoo bench '*_cifar' --seeds 0 1 2 --jobs 4       four runs at a time in processes of this machine
  zoo bench '*_cifar' --engine ray --ray-address auto --gpus-per-run 0.5
  accelerate launch -m zoo.bench resnet50 --dataset folder --data-dir data/flowers   each run on several GPUs"""

RECIPES_HELP = """\
List the recipes that `zoo bench --recipe NAME` knows, or tell what one of them does. Every recipe names its source;
what the source leaves open, or does otherwise, stands in the notes."""

RECIPES_EXAMPLES = """\
examples:
  zoo recipes
  zoo recipes wide_resnet_cifar
  zoo recipes wide_resnet_cifar --json"""

PLOT_HELP = """\
Draw the table and the plots again from stored results; nothing is trained."""

PLOT_EXAMPLES = """\
examples:
  zoo plot results/digits
  zoo plot results/digits/results.jsonl --out figures --format md csv json --sort macs"""


def add_verbs(verbs: Any) -> None:
    """Add `bench`, `recipes` and `plot` to a parser's verbs."""

    def add(name: str, summary: str, text: str, examples: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=summary, description=text, epilog=examples, formatter_class=DESCRIPTION)

    add_bench_options(add("bench", "train nets with one recipe and compare them", BENCH_HELP, BENCH_EXAMPLES))

    recipes = add("recipes", "what nets can be trained with", RECIPES_HELP, RECIPES_EXAMPLES)
    recipes.add_argument("name", nargs="?", default="", metavar="NAME", help="tell all of this recipe")
    recipes.add_argument("--json", action="store_true", help="print JSON")
    recipes.set_defaults(run=run_recipes)

    plot = add("plot", "draw table and plots from stored results", PLOT_HELP, PLOT_EXAMPLES)
    plot.add_argument("results", type=Path, metavar="RESULTS", help="results file, or its folder")
    plot.add_argument("--out", type=Path, help="folder for the files (default: beside the results)")
    _add_table_options(plot)
    plot.set_defaults(run=run_plot)


def add_bench_options(bench: argparse.ArgumentParser) -> None:
    """Add the arguments of `zoo bench` to a parser."""
    bench.add_argument("names", nargs="*", metavar="NAME", help="models, or patterns such as 'resnet*_cifar'")
    what = bench.add_argument_group("what is trained")
    what.add_argument(
        "--task", default="classify", metavar="TASK", help="classify, segment or detect (default: classify)"
    )
    what.add_argument("--decoder", metavar="NAME", help="of --task segment: unet or deeplabv3plus (default: unet)")
    what.add_argument("--detector", metavar="NAME", help="of --task detect: fcos or retinanet (default: fcos)")
    what.add_argument(
        "--frozen", action="store_true", help="keep the nets' random weights and train only what is put on top"
    )
    what.add_argument("--lineup", help="default or all, instead of names (default: default)")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the named nets")
    what.add_argument(
        "--vary",
        action="append",
        nargs="+",
        default=[],
        metavar=("KEY", "VALUE"),
        help="an override with several values, one net for each; of several --vary, all combinations",
    )
    what.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one run each (default: 0)")

    images = bench.add_argument_group("images and recipe")
    images.add_argument("--dataset", help="image set (default: digits; scenes for segment and detect)")
    images.add_argument("--data-dir", type=Path, metavar="DIR", help="where the set lies; not for built-in sets")
    images.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be read; the lines count them"
    )
    images.add_argument("--download", action="store_true", help="fetch a set of torchvision that is not there")
    images.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that read images (default: %(default)s)"
    )
    images.add_argument("--epochs", type=int, help="instead of the recipe's own number")
    images.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME|KEY=VALUE",
        help="one of `zoo recipes` (default: the dataset's), and changes of it",
    )

    how = bench.add_argument_group("how it is computed (no part of what a run is, but for --bf16)")
    how.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    how.add_argument("--threads", type=int, help="CPU threads of a run (default: all cores, shared by --jobs)")
    how.add_argument("--bf16", action="store_true", help="the same as --recipe amp=bfloat16")
    how.add_argument(
        "--layout",
        choices=("channels_last", "contiguous"),
        default="channels_last",
        help="memory format of weights and images (default: %(default)s)",
    )
    how.add_argument("--compile", action="store_true", help="train nets that torch.compile made")
    how.add_argument("--jobs", type=int, metavar="N", help="runs at a time on this machine (default: 1)")
    how.add_argument("--engine", choices=ENGINES, default="local", help="what computes the runs (default: local)")
    how.add_argument("--ray-address", metavar="ADDRESS", help="of a Ray cluster; auto for the one of this machine")
    how.add_argument("--gpus-per-run", type=float, default=0.0, metavar="X", help="of --engine ray (default: 0)")
    how.add_argument(
        "--retries", type=int, default=1, metavar="N", help="tries for a run whose process died (default: %(default)s)"
    )

    out = bench.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, help="folder of results and plots (default: results/DATASET, or TASK)")
    out.add_argument("--force", action="store_true", help="train also what the results already have")
    out.add_argument(
        "--pictures", action="store_true", help="draw what each trained model predicts on test scenes (OUT/pictures)"
    )
    _add_table_options(out)
    bench.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    """Run a sweep and show what the results file then holds; 1 if a run failed or there is nothing to show."""
    import torch

    require("bench", "sklearn", "matplotlib")  # now, not when the training is over
    from zoo.bench.attempt import How
    from zoo.bench.engines import Here
    from zoo.bench.images import Where, set_name
    from zoo.bench.pictures import PictureProgress
    from zoo.bench.progress import Progress
    from zoo.bench.runner import SAVED, Listener, expand_names, lineup, plan, sweep
    from zoo.bench.tasks import default_recipe, load, task_row
    from zoo.bench.team import join
    from zoo.results.metrics import METRICS
    from zoo.results.table import sort_nets

    task = task_row(args.task)
    head = _head(args, task)
    task.require()
    if args.names and args.lineup:
        raise ValueError(f"lineup {args.lineup!r} was given together with names: choose one of them")
    if args.pictures and not task.heads:
        raise ValueError(f"pictures are for the tasks segment and detect, not for {task.name}: leave --pictures out")
    for name, least in (("threads", 1), ("jobs", 1), ("workers", 0), ("retries", 0), ("gpus_per_run", 0)):
        check_at_least(name, getattr(args, name), least)
    _check_place(args, task)
    where = Where(folder=args.data_dir, download=args.download, workers=args.workers)
    dataset = set_name(args.dataset or next(iter(task.datasets)), where)
    out = args.out or Path("results") / (task.name if task.heads else dataset.replace("/", "_"))
    where = replace(where, check=True, skip_broken=args.skip_broken, memory=out.absolute() / PICTURES)
    base, asked = _recipe(args, default_recipe(task.name, dataset, where))
    recipe = base.changed(**asked)
    sort_nets([], args.sort, METRICS[task.name])  # a wrong column is an error now, too
    if args.names:
        names = expand_names(args.names)
    else:
        names = task.nets if task.nets and not args.lineup else lineup(args.lineup or "default")
    runs = plan(
        names,
        dataset,
        recipe,
        args.seeds,
        parse_pairs(args.set),
        vary=_vary(args.vary),
        task=task.name,
        head=head,
        frozen=args.frozen,
        fixed=asked,
        where=where,
    )
    path = out / RESULTS
    check_writable("out", out, folder=True)
    if args.pictures:
        check_writable("pictures", out / "pictures", folder=True)
    on_ray = args.engine == "ray"
    device = ("cuda" if args.gpus_per_run else "cpu") if on_ray else choose_device(args.device)
    threads = args.threads or max(1, cores() // (args.jobs or 1))
    how = How(
        device=device,
        channels_last=args.layout == "channels_last",
        compiled=args.compile,
        where=where,
        saved=out.absolute() / SAVED,
    )
    engine = _engine(args, threads)
    team = join(device)
    if engine is not None and team.size > 1:
        raise ValueError(f"jobs and engine belong to one process, and a launcher started {team.size}: leave them out")
    if engine is not None and args.pictures:
        raise ValueError("pictures are drawn in this process: leave out --jobs and --engine ray")
    if engine is None and args.threads is not None:
        torch.set_num_threads(threads)
    images = load(task.name, dataset, where).for_recipe(recipe)
    heading = announce(runs, base, recipe, images, f"{device}, {_computed(args, team.size)}", path)
    listener = Progress(heading) if team.leads else Listener()
    if args.pictures:
        listener = pictures = PictureProgress(out / "pictures", heading)
        engine = Here(team, lambda job, model, dataset: pictures.on_trained(job.run, model, dataset))
    try:
        with listener:
            outcome = sweep(runs, path, how=how, engine=engine, team=team, force=args.force, listener=listener)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Finished runs are in {path}; the same command does the rest.", file=sys.stderr)
        return 130
    if not team.leads:
        return 0
    for failed in outcome.failures:
        print(f"zoo: failed: {one_line(failed)}", file=sys.stderr)
    if outcome.elsewhere:
        print(f"zoo: another bench is training into {path}: {', '.join(outcome.elsewhere)}", file=sys.stderr)
    shown = bool(read_if_there(path).trainings)
    if shown:
        show(path, out, args.sort, args.format, runs[0])
    return 1 if outcome.failures or not shown else 0


def run_recipes(args: argparse.Namespace) -> int:
    """List the recipes, or tell all of one."""
    from tabulate import tabulate

    from zoo.bench.recipes import RECIPES, recipe_row

    rows = {args.name: recipe_row(args.name)} if args.name else RECIPES
    if args.json:
        told = [
            {"name": name, "images": row.images, "source": row.source, "notes": row.notes, **row.recipe.to_dict()}
            for name, row in rows.items()
        ]
        print(json.dumps(told, indent=2))
    elif args.name:
        row = rows[args.name]
        print(f"{args.name}, for {row.images}\n")
        print("\n".join(f"  {sentence}" for sentence in row.recipe.describe()))
        print(f"\nsource: {row.source}" + f"\nnotes: {row.notes}" * bool(row.notes))
    else:
        cells = [(name, row.images, row.recipe.epochs, row.recipe.batch_size, row.source) for name, row in rows.items()]
        headers = ("name", "images", "epochs", "batch", "source")
        print(tabulate(cells, headers=headers, maxcolwidths=[None] * 4 + [64], disable_numparse=True))
    return 0


def run_plot(args: argparse.Namespace) -> int:
    """Show what a results file holds."""
    path = args.results / RESULTS if args.results.is_dir() else args.results
    require("bench", "matplotlib")
    out = args.out or path.parent
    check_writable("out", out, folder=True)
    show(path, out, args.sort, args.format)
    return 0


def show(path: Path, out: Path, sort: str, formats: Sequence[str], run: Any = None) -> None:
    """Print the table of a results file, write table and plots, and print where they are.

    Args:
        path: The file.
        out: Folder for table and plots.
        sort: Column to sort by; empty for the score.
        formats: Endings of the table's files.
        run: Of what the file holds, show what may be held against this run; by default it must be all.

    Raises:
        ValueError: If the file holds no finished run, or several image sets or tasks and no run chooses among them.
    """
    from zoo.results.group import group
    from zoo.results.plot import plot_all
    from zoo.results.table import choose, footnote, format_table, sort_nets, write_table

    results = read([path])
    if not results.trainings:
        raise ValueError(f"{path} holds no finished run: run zoo bench first")
    comparison, left_out = choose(group(results.trainings), run)
    for text in [*(results.warnings if run is None else []), *left_out]:
        print(f"zoo: warning: {for_terminal(text)}", file=sys.stderr)
    if comparison is None:
        return
    nets = sort_nets(comparison.nets, sort)
    files = [path, *(write_table(nets, out / f"table.{kind}") for kind in formats)]
    files += plot_all(nets, out, comparison.dataset)
    for text in comparison.remarks:
        print(f"zoo: warning: {for_terminal(text)}", file=sys.stderr)
    print(f"\n{format_table(nets)}\n\n{footnote(nets)}\n")
    for file in files:
        print(file)


def announce(runs: Sequence[Any], base: Any, recipe: Any, images: Any, computed: str, path: Path) -> str:
    """Return what is about to happen: nets, images, recipe with its source and what is changed, machine, files."""
    from zoo.bench.recipes import RECIPES, recipe_name

    nets, seeds = len({run.display for run in runs}), len({run.seed for run in runs})
    size = "x".join(map(str, images.input_size))
    name, changed = recipe_name(base), _differences(base, recipe)
    heading = f"recipe {name}" if name else "a recipe without a name"
    heading += f" with {changed}" * bool(changed) + (f" ({RECIPES[name].source})" if name else "")
    own = {run.display: run.recipe for run in runs if run.recipe != recipe}
    return "\n".join(
        [
            f"{nets} net{'s' * (nets > 1)}, {seeds} seed{'s' * (seeds > 1)} each, on {images.name}: "
            f"{images.train_size:,} training and {images.test_size:,} test images of {size}, "
            f"{images.num_classes} classes{_left_out(images)}",
            f"{heading}:",
            *(f"  {sentence}" for sentence in recipe.describe()),
            *(f"  {net}, as its row says: {_differences(recipe, other)}" for net, other in own.items()),
            f"on {computed}; results go to {path}",
        ]
    )


def _left_out(images: Any) -> str:
    train, test = images.left_out
    return f"; left out, because they cannot be read: {train} training and {test} test images" * bool(train or test)


def _differences(before: Any, after: Any) -> str:
    from zoo.results.recipe import words

    old = before.to_dict()
    return words({key: value for key, value in after.to_dict().items() if old.get(key) != value})


def _computed(args: argparse.Namespace, processes: int) -> str:
    parts = [args.layout, *["compiled"] * args.compile]
    if processes > 1:
        parts.append(f"{processes} processes a run")
    if args.engine == "ray":
        parts.append(f"Ray{f' at {args.ray_address}' if args.ray_address else ''}")
    if args.jobs:
        parts.append(f"{args.jobs} runs at a time")
    return ", ".join(parts)


def _recipe(args: argparse.Namespace, default: Any) -> tuple[Any, dict[str, Any]]:
    """The named recipe that is asked for, and the fields that are to be changed.

    Raises:
        ValueError: If a recipe is unknown or two are given, or a field is unknown or out of range.
    """
    from zoo.bench.recipes import recipe_row

    names = [text for text in args.recipe if "=" not in text]
    if len(names) > 1:
        raise ValueError(f"recipe {names[0]!r} and recipe {names[1]!r} were given: choose one")
    asked = parse_pairs([text for text in args.recipe if "=" in text])
    if args.epochs is not None:
        asked["epochs"] = args.epochs
    # What accelerate was configured with is the user's word, too.
    if args.bf16 or os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16":
        asked.setdefault("amp", "bfloat16")
    return (recipe_row(names[0]).recipe if names else default), asked


def _vary(given: Sequence[Sequence[str]]) -> Mapping[str, list[Any]]:
    for key, *values in given:
        if not values:
            raise ValueError(f"vary {key!r} needs values, such as: --vary order post pre")
    return {key: [parse_value(value) for value in values] for key, *values in given}


def _engine(args: argparse.Namespace, threads: int) -> Any:
    """What computes the runs; None for this process."""
    from zoo.bench.engines import Processes, Ray

    if args.engine == "ray":
        return Ray(
            address=args.ray_address,
            cpus=args.threads or 1,
            gpus=args.gpus_per_run,
            retries=args.retries,
            workers=args.jobs,
        )
    for option, value in (("ray_address", args.ray_address), ("gpus_per_run", args.gpus_per_run)):
        if value:
            raise ValueError(f"{option} {value!r} belongs to --engine ray")
    return Processes(args.jobs, threads, args.retries) if args.jobs and args.jobs > 1 else None


def _add_table_options(parser: Any) -> None:
    parser.add_argument("--sort", default="", metavar="COLUMN", help="column (default: accuracy, miou or map)")
    parser.add_argument(
        "--format", nargs="+", choices=("md", "csv", "json"), default=["md"], help="files of the table (default: md)"
    )


def _check_place(args: argparse.Namespace, task: Any) -> None:
    """Raise ValueError, if an option for sets that lie somewhere was given for one that needs no place."""
    from zoo.bench.images import is_external
    from zoo.imagesets.decode import printable
    from zoo.imagesets.library import FOLDER

    if args.dataset is not None and is_external(args.dataset):
        if args.download and args.dataset == FOLDER:
            raise ValueError("download is for sets of torchvision and Hugging Face, not for a folder: leave it out")
        return
    given = {
        f"data-dir {printable(args.data_dir or '')!r}": args.data_dir is not None,
        "download": args.download,
        "skip-broken": args.skip_broken,
    }
    if args.dataset is not None and task.row(args.dataset).located:
        given = {"skip-broken": args.skip_broken}
    wrong = next((option for option, value in given.items() if value), None)
    if wrong is None:
        return
    if not task.external:
        sets = ", ".join(task.datasets)
        raise ValueError(f"{wrong} was given, but task {task.name} has built-in images only ({sets}): leave it out")
    if args.dataset is None:
        raise ValueError(f"{wrong} was given without a data set: add --dataset folder, or the name of another")
    raise ValueError(f"{wrong} was given, but {args.dataset} is built in: leave it out, or add --dataset folder")


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
