"""The verb `zoo race`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from zoo_cli.common import LOGS, Parser, parse_pairs, print_table, printable, tell

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def add_race(parser: Parser) -> None:
    """Add the arguments of `zoo race`."""
    parser.description = """\
Find which of several nets learns a set of pictures best, within a time. All nets train for a few epochs; the best third
goes on to three times as many, and so on; the last one trains to the end, and its weights are kept. Nets are compared
on images that are held out of the training half; the test images are never asked which net to keep.

Without names one net of every topology takes part (plain, residual, pre-activation, wide, ResNeXt, DenseNet, FishNet,
...): the largest within --max-params, --max-macs and --max-latency. Of named nets those that exceed a limit are left
out, and it is said. A latency is the median time of a net for one image, in evaluation, neither fused nor compiled; it
is measured here, once for each net, and is in the table.

The time of an epoch of each net is measured first. If --budget does not hold all epochs of the recipe, fewer are
trained, and it is said before the race starts; a budget that holds no race at all is an error. It is kept by estimate:
on a machine with other work a race takes longer.

The same command goes on where a race was stopped. Every run of it is a line in OUT/results.jsonl, as those of zoo bench
are."""
    parser.epilog = """\
examples:
  zoo race data/flowers --budget 30m
  zoo race digits --budget 5m --max-params 300k --max-latency 20
  zoo race fashion preresnet20_cifar densenet40_k12_bc_cifar fishnet58_cifar --recipe epochs=9
  zoo race torch/cifar10 --data-dir data --budget 2h --device cuda"""
    parser.add_argument("pictures", metavar="FOLDER|DATASET", help="folder with both halves, or a set's name")
    parser.add_argument("names", nargs="*", metavar="NAME", help="nets, or patterns (default: one of every topology)")
    parser.add_argument("--budget", metavar="TIME", help="time that the race may take, such as 90s, 30m or 2h")
    parser.add_argument(
        "--max-params", metavar="N", help="most parameters (default, without names: 1M; 30M over 96 px)"
    )
    parser.add_argument("--max-macs", metavar="N", help="most multiply-adds an image (default: any)")
    parser.add_argument("--max-latency", metavar="MS", help="most milliseconds for one image on this machine")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of images to choose by (default: 0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all runs (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of a named set")
    parser.add_argument("--skip-broken", action="store_true", help="leave out pictures that cannot be read")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read (default: 2)")
    parser.add_argument(
        "--recipe", action="append", default=[], metavar="NAME|KEY=VALUE", help="recipe, or a changed field of it"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads of a run (default: all cores, shared by --jobs)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--log", choices=LOGS, help="program to watch the runs in (default: none)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: results/race-DATASET)")


def run_race(args: argparse.Namespace) -> int:
    """Run a race and print its table; return 1 if all runs of a round failed."""
    from zoo.bench.progress import ProgressBar
    from zoo.racing import AllFailedError, draw, race

    request, limits = to_request(args)
    try:
        with ProgressBar() as listener:
            outcome = race(request, budget=span(args.budget), limits=limits, listener=listener, tell=tell)
    except KeyboardInterrupt:
        tell("interrupted: the same command goes on")
        return 130
    except AllFailedError as error:
        tell(f"failed: {error}")
        return 1
    print_table([_cells(row) for row in outcome.table()], ("epochs", "validation [%]", "behind", "latency [ms]"))
    line = outcome.line
    if outcome.latencies:
        print("\nLatency: median time for one image, measured on this machine before the race.")
    test, error = 100 * line["test_accuracy"], 100 * line["standard_error"]
    print()
    print(printable(f"{outcome.confidence()}."))
    print(printable(f"{outcome.winner}: {test:.2f} % +- {error:.2f} on {line['dataset']['test']:,} test images"))
    print(printable(str(draw(outcome, outcome.path.parent / "race.png"))))
    if line.get("weights"):
        print(printable(str(outcome.path.parent / line["weights"])))
    return 0


def to_request(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the request of the arguments, and the limits.

    Raises:
        ValueError: If they are wrong.
    """
    from zoo.bench.request import Request
    from zoo.racing import Limits
    from zoo_cli.choose import amount

    folder = Path(args.pictures)
    if folder.is_dir() and args.data_dir is not None:
        raise ValueError(f"data-dir {str(args.data_dir)!r} was given together with a folder: choose one")
    named = [text for text in args.recipe if "=" not in text]
    if len(named) > 1:
        raise ValueError(f"recipe {named[0]!r} and recipe {named[1]!r} were given: choose one")
    last = folder.resolve().name if folder.is_dir() else args.pictures.replace("/", "_")
    request = Request(
        models=args.names,
        seeds=[args.seed],
        dataset="folder" if folder.is_dir() else args.pictures,
        data_dir=folder if folder.is_dir() else args.data_dir,
        skip_broken=args.skip_broken,
        workers=args.workers,
        recipe=named[0] if named else "",
        changes=parse_pairs([text for text in args.recipe if "=" in text]),
        validation=args.validation,
        device=args.device,
        threads=args.threads,
        jobs=args.jobs,
        log=args.log or "",
        out=args.out or Path("results") / f"race-{last}",
    )
    span(args.budget)  # a wrong one is an error before the pictures are opened
    most = {name: amount(f"max-{name}", getattr(args, f"max_{name}")) for name in ("params", "macs", "latency")}
    return request, Limits(**most)


def span(text: str | None) -> float | None:
    """Return the seconds of a text such as 90s, 30m or 2h.

    Raises:
        ValueError: If it is no time.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip().lower())
    if match is None or not float(match[1]):
        raise ValueError(f"budget {text!r} must be a time, such as 90s, 30m or 2h")
    return float(match[1]) * UNITS[match[2]]


def _cells(row: dict[str, Any]) -> dict[str, str]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return {
        "net": printable(row["net"]),
        "dropped": row["dropped"],
        "epochs": str(row["epochs"]),
        "validation [%]": number(row["validation"]),
        "behind": number(row["behind"]),
        **({"latency [ms]": f"{row['latency']:.3g}"} if "latency" in row else {}),
    }
