"""The verbs `zoo bench`, `zoo recipes` and `zoo plot`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_cli.common import LOGS, Parser, parse_pairs, parse_value, print_json, printable, tell


def add_bench(parser: Parser) -> None:
    """Add the arguments of `zoo bench`."""
    parser.description = """\
Train nets with one recipe on real images and compare them. Every run that ends is one line in OUT/results.jsonl. Runs
that are in the file are not trained again. A run that was stopped goes on from its last epoch, so an interrupted
benchmark goes on where it stopped. Failed runs are lines as well; the next call tries them again.

Three tasks: classify names the digit of an image (accuracy); segment gives every pixel of a scene of several digits
a class (mIoU), with a decoder of segmentation_models_pytorch on the net; detect finds the digits' boxes (mAP), with a
detector of torchvision. The last two need nets of ImageNet scale, and pip install -e '.[downstream]'.

Images: digits need no download. --dataset also takes torch/cifar10, torch/cifar100 and others of torchvision,
hfds/NAME, and folder, for --data-dir/train/CLASS/*.png and --data-dir/validation/CLASS/*.png (or val, test, ...). Small
images of one size are held in memory, others are read batch by batch. All pictures are read once before the first
epoch: one that cannot be read, or that is in both halves of a folder, is an error that names it.

For segment and detect a folder holds, in each half, images/*.jpg with masks/*.png (class numbers; DIR/classes.txt names
them) or annotations.json (COCO)."""
    parser.epilog = """\
examples:
  zoo bench                                        the default line-up, one seed
  zoo bench resnet20_cifar preresnet20_cifar --seeds 0 1 2
  zoo bench resnet20_cifar --set order=pre         the preset with one field of its specification changed
  zoo bench resnet20_cifar --vary order post pre --vary squeeze 0 16 --seeds 0 1 2
  zoo bench 'resnet*_cifar' --epochs 2 --out results/quick
  zoo bench resnet20_cifar --recipe lr=0.05 --recipe max_shift=0
  zoo bench resnet110_cifar --dataset torch/cifar10 --data-dir data --download --recipe resnet110_cifar
  zoo bench resnet18 fishnet99 --dataset folder --data-dir data/flowers --recipe epochs=20 --bf16

  zoo bench --validation 0.1                       choose by images of the training half; test once, at the end
  zoo bench resnet18.a1_in1k --dataset folder --data-dir data/flowers --freeze until=stage3      fine-tune
  zoo bench --weights results/digits/weights/resnet20_cifar-seed0-8deb2467 --recipe layer_decay=0.7 --recipe lr=0.02

  zoo bench --dataset folder --data-dir data/flowers --recipe class_weights=balanced --log tensorboard

  zoo bench --task segment                         three small nets, each as the encoder of a U-Net
  zoo bench --task segment --decoder deeplabv3plus resnet18 fishnet_test --pictures
  zoo bench --task segment resnet18 --dataset folder --data-dir data/streets --recipe image_size=160
  zoo bench --task detect resnet18 --seeds 0 1 2
  zoo bench --task detect resnet18 --frozen        the net as it was initialised: what does training it add?

  zoo bench '*_cifar' --seeds 0 1 2 --jobs 4       four runs at a time in processes of this machine
  zoo bench '*_cifar' --engine ray --ray-address auto --gpus-per-run 0.5
  accelerate launch -m zoo.bench resnet50 --dataset folder --data-dir data/flowers   each run on several GPUs"""
    parser.add_argument("names", nargs="*", metavar="NAME", help="models, or patterns such as 'resnet*_cifar'")
    what = parser.add_argument_group("nets and task")
    what.add_argument(
        "--task", default="classify", metavar="TASK", help="classify, segment or detect (default: classify)"
    )
    what.add_argument(
        "--decoder", metavar="NAME", help="decoder of --task segment: unet or deeplabv3plus (default: unet)"
    )
    what.add_argument("--detector", metavar="NAME", help="detector of --task detect: fcos or retinanet (default: fcos)")
    what.add_argument(
        "--frozen", action="store_true", help="keep the nets' random weights and train only the layers on top"
    )
    what.add_argument(
        "--weights",
        type=Path,
        metavar="FILE|FOLDER",
        help="first weights (fine-tuning); a kept folder also names the net",
    )
    what.add_argument(
        "--freeze",
        default="none",
        metavar="PART",
        help="part that keeps first weights and norm statistics: body, until=STAGE, or none (default: %(default)s)",
    )
    what.add_argument("--lineup", help="line-up instead of names: default or all (default: default)")
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="changed field of the nets' specifications"
    )
    what.add_argument(
        "--vary",
        action="append",
        nargs="+",
        default=[],
        metavar=("KEY", "VALUE"),
        help="field with several values, one net for each; several --vary give all combinations",
    )
    what.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="seeds, one run each (default: 0)")

    images = parser.add_argument_group("images and recipe")
    images.add_argument("--dataset", help="image set (default: digits; scenes for segment and detect)")
    images.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the set; not for built-in sets")
    images.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be read; the lines count them"
    )
    images.add_argument("--download", action="store_true", help="download a missing set of torchvision")
    images.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that read images (default: %(default)s)"
    )
    images.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training images to test on after each epoch; the test images then count once, at the end",
    )
    images.add_argument("--epochs", type=int, help="number of epochs (default: the recipe's)")
    images.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME|KEY=VALUE",
        help="a name from `zoo recipes` (default: the dataset's), or a changed field of it",
    )

    how = parser.add_argument_group("execution (not part of a run's key, except --bf16)")
    how.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    how.add_argument("--threads", type=int, help="CPU threads of a run (default: all cores, shared by --jobs)")
    how.add_argument("--bf16", action="store_true", help="the same as --recipe amp=bfloat16")
    how.add_argument(
        "--layout",
        choices=("channels_last", "contiguous"),
        default="channels_last",
        help="memory format of weights and images (default: %(default)s)",
    )
    how.add_argument("--compile", action="store_true", help="compile nets with torch.compile")
    how.add_argument("--jobs", type=int, metavar="N", help="runs at a time on this machine (default: 1)")
    how.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="engine that computes the runs (default: local)"
    )
    how.add_argument(
        "--ray-address", metavar="ADDRESS", help="address of a Ray cluster; auto for the one of this machine"
    )
    how.add_argument(
        "--gpus-per-run", type=float, default=0.0, metavar="X", help="GPUs of a run with --engine ray (default: 0)"
    )
    how.add_argument(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="further tries if the process of a run dies (default: %(default)s)",
    )

    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, help="folder of results and plots (default: results/DATASET, or TASK)")
    out.add_argument("--force", action="store_true", help="train runs again that are in the results")
    out.add_argument(
        "--keep",
        choices=("last", "none"),
        default="last",
        help="weights of finished runs in OUT/weights: those after the last epoch, or none (default: %(default)s)",
    )
    out.add_argument(
        "--pictures", action="store_true", help="draw predictions of each trained model on test scenes (OUT/pictures)"
    )
    out.add_argument(
        "--log", choices=LOGS, help="program to watch the runs in; its package is installed by itself (default: none)"
    )
    _add_table_options(out)


def run_bench(args: argparse.Namespace) -> int:
    """Run a sweep and show the contents of the results file; return 1 if a run failed or there is nothing to show."""
    from zoo.bench.progress import ProgressBar
    from zoo.bench.request import prepare, run
    from zoo.bench.sweep import Listener
    from zoo.results.metrics import METRICS
    from zoo.results.store import read_if_there
    from zoo.results.table import sort_nets

    request = to_request(args)
    sort_nets([], args.sort, METRICS[request.task])  # a wrong column is an error now, not when the training is over
    prepared = prepare(request)
    path = prepared.path
    try:
        with ProgressBar(prepared.describe()) if prepared.team.leads else Listener() as listener:
            outcome = run(prepared, listener)
    except KeyboardInterrupt:
        tell(f"interrupted: finished runs are in {path}; the same command does the rest")
        return 130
    if not prepared.team.leads:
        return 0
    for failure in outcome.failures:
        tell(f"failed: {failure}")
    if outcome.elsewhere:
        tell(f"another bench is training into {path}: {', '.join(outcome.elsewhere)}")
    shown = bool(read_if_there(path).trainings)
    if shown:
        show(path, path.parent, args.sort, args.format, prepared.runs[0])
    return 1 if outcome.failures or not shown else 0


def to_request(args: argparse.Namespace) -> Any:
    """Return the request that the arguments of `zoo bench` describe.

    Raises:
        ValueError: If it is wrong.
    """
    from zoo.bench.request import Request

    names = [text for text in args.recipe if "=" not in text]
    if len(names) > 1:
        raise ValueError(f"recipe {names[0]!r} and recipe {names[1]!r} were given: choose one")
    changes = parse_pairs([text for text in args.recipe if "=" in text])
    if args.epochs is not None:
        changes["epochs"] = args.epochs
    if args.bf16:
        changes.setdefault("amp", "bfloat16")
    return Request(
        models=args.names,
        lineup=args.lineup or "",
        task=args.task,
        head=_head(args),
        frozen=args.frozen,
        weights=args.weights,
        freeze=args.freeze,
        validation=args.validation,
        overrides=parse_pairs(args.set),
        vary=_vary(args.vary),
        seeds=args.seeds,
        dataset=args.dataset or "",
        data_dir=args.data_dir,
        download=args.download,
        skip_broken=args.skip_broken,
        workers=args.workers,
        recipe=names[0] if names else "",
        changes=changes,
        device=args.device,
        threads=args.threads,
        layout=args.layout,
        compile=args.compile,
        jobs=args.jobs,
        engine=args.engine,
        ray_address=args.ray_address,
        gpus_per_run=args.gpus_per_run,
        retries=args.retries,
        out=args.out,
        force=args.force,
        keep=args.keep,
        pictures=args.pictures,
        log=args.log or "",
    )


def _vary(given: Sequence[Sequence[str]]) -> Mapping[str, list[Any]]:
    for key, *values in given:
        if not values:
            raise ValueError(f"vary {key!r} needs values, such as: --vary order post pre")
    return {key: [parse_value(value) for value in values] for key, *values in given}


def _head(args: argparse.Namespace) -> str:
    """Return the requested decoder or detector; an empty text for none.

    Raises:
        ValueError: If it belongs to another task, or does not exist; the message lists those that do.
    """
    from zoo.bench.tasks import task_row

    task = task_row(args.task)
    given = {"--decoder": args.decoder, "--detector": args.detector}
    for option, value in given.items():
        if value is not None and option != task.head_option:
            owner = {"--decoder": "segment", "--detector": "detect"}[option]
            raise ValueError(f"{option} {value!r} belongs to --task {owner}, not to {task.name}")
    name = given.get(task.head_option)
    if name is not None and name not in task.heads:
        raise ValueError(f"unknown {task.head_option.strip('-')} {name!r}: choose from {', '.join(task.heads)}")
    return name or ""


def add_recipes(parser: Parser) -> None:
    """Add the arguments of `zoo recipes`."""
    parser.description = """\
List the recipes for `zoo bench --recipe NAME`, or describe one of them. Every recipe names its source. The notes say
what the source leaves open or does differently."""
    parser.epilog = """\
examples:
  zoo recipes
  zoo recipes wide_resnet_cifar
  zoo recipes wide_resnet_cifar --json"""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="describe this recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_recipes(args: argparse.Namespace) -> int:
    """List the recipes, or print one completely."""
    from tabulate import tabulate

    from zoo.recipes import RECIPES, recipe_row

    rows = {args.name: recipe_row(args.name)} if args.name else RECIPES
    if args.json:
        told = [
            {"name": name, "images": row.images, "source": row.source, "notes": row.notes, **row.recipe.to_dict()}
            for name, row in rows.items()
        ]
        print_json(told)
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


def add_plot(parser: Parser) -> None:
    """Add the arguments of `zoo plot`."""
    parser.description = "Draw the table and the plots again from stored results; nothing is trained."
    parser.epilog = """\
examples:
  zoo plot results/digits
  zoo plot results/digits/results.jsonl --out figures --format md csv json --sort macs"""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="results file, or its folder")
    parser.add_argument("--out", type=Path, help="folder for the files (default: beside the results)")
    _add_table_options(parser)


def run_plot(args: argparse.Namespace) -> int:
    """Show the contents of a results file."""
    from zoo.extras import require
    from zoo.files import check_writable
    from zoo.results.store import RESULTS

    path = args.results / RESULTS if args.results.is_dir() else args.results
    require("bench", "matplotlib")
    out = args.out or path.parent
    check_writable("out", out, folder=True)
    show(path, out, args.sort, args.format)
    return 0


def show(path: Path, out: Path, sort: str, formats: Sequence[str], run: Any = None) -> None:
    """Print the table of a results file, write table and plots, and print their paths.

    Args:
        path: The file.
        out: Folder for table and plots.
        sort: Column to sort by; empty for the score.
        formats: Endings of the table's files.
        run: Show only nets that are comparable with this run. By default the file must hold one comparison.

    Raises:
        ValueError: If the file holds no finished run, or several image sets or tasks and no run chooses among them.
    """
    from zoo.results.group import group
    from zoo.results.plot import plot_all
    from zoo.results.store import read
    from zoo.results.table import choose, footnote, format_table, sort_nets, write_table

    results = read([path])
    if not results.trainings:
        raise ValueError(f"{path} holds no finished run: run zoo bench first")
    comparison, left_out = choose(group(results.trainings), run)
    for text in [*(results.warnings if run is None else []), *left_out]:
        tell(f"warning: {text}")
    if comparison is None:
        return
    nets = sort_nets(comparison.nets, sort)
    for text in comparison.remarks:
        tell(f"warning: {text}")
    print(f"\n{format_table(nets)}\n\n{footnote(nets)}\n")  # before a file that cannot be written
    files = [path, *(write_table(nets, out / f"table.{kind}") for kind in formats)]
    files += plot_all(nets, out, comparison.dataset)
    for file in files:
        print(printable(str(file)))


def _add_table_options(parser: Any) -> None:
    parser.add_argument("--sort", default="", metavar="COLUMN", help="column (default: accuracy, miou or map)")
    parser.add_argument(
        "--format", nargs="+", choices=("md", "csv", "json"), default=["md"], help="files of the table (default: md)"
    )
