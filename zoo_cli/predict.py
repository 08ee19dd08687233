"""The verb `zoo predict`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, tell


def add_predict(parser: Parser) -> None:
    """Add the arguments of `zoo predict`."""
    parser.description = """\
Name the classes of pictures by a trained net: a folder that `zoo bench` has kept in OUT/weights, or published weights
by name. Pictures are prepared exactly as the test images of the net were. Each picture is one line, in the order of the
names: the most probable classes with their probabilities. A picture that cannot be read is a line with an error; the
others go on, and the exit status is then 1.

Probabilities are the net's own. They sum to 1 over its classes, also for a picture of something else."""
    parser.epilog = """\
examples:
  zoo predict data/new --weights results/folder_flowers/weights/resnet18-seed0-51b0ad9b
  zoo predict a.jpg b.png --weights fishnet150 --top 1
  zoo predict data/new --weights resnet18-seed0-51b0ad9b --format jsonl --out found.jsonl
  find . -name '*.jpg' | zoo predict - --weights resnet18-seed0-51b0ad9b --fuse"""
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="files, folders, or - for names on standard input, one a line"
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FOLDER|NAME",
        help="folder of a trained net, or a name with published weights",
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes a picture (default: %(default)s)")
    parser.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="format of the lines (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for the lines (default: standard output)")
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="pictures per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="threads that read pictures (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--fuse", action="store_true", help="compute with the faster copy that zoo.fuse makes")


def run_predict(args: argparse.Namespace) -> int:
    """Print a line for each picture; return 1 if one could not be read."""
    from zoo.environment import choose_device
    from zoo.files import check_writable, replacing
    from zoo.predicting import open_classifier

    device = choose_device(args.device)
    for name in ("top", "batch_size", "workers"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.out is not None:
        check_writable("out", args.out)
        args.out.parent.mkdir(parents=True, exist_ok=True)
    net = open_classifier(args.weights, device=device, fuse=args.fuse)
    found = net(_named(args.pictures), top=args.top, batch_size=args.batch_size, workers=args.workers)
    broken = 0
    with replacing(args.out) if args.out is not None else nullcontext(None) as file:
        for text, error in _lines(found, args.format, min(args.top, len(net.classes))):
            broken += error
            if file is None:
                print(text)
            else:
                file.write(f"{text}\n".encode("utf-8", "backslashreplace"))
    if broken:
        tell(f"{broken} pictures could not be read: their lines say why")
    return 1 if broken else 0


def _named(given: list[str]) -> Iterator[Path]:
    """Return the named pictures, those on standard input in the place of a dash. Named folders are read now."""
    from zoo.predicting import find_pictures

    lines = (text for line in sys.stdin if (text := line.rstrip("\r\n")))
    return chain.from_iterable([find_pictures(lines) if name == "-" else list(find_pictures([name])) for name in given])


def _lines(found: Iterator[Any], form: str, top: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a file, each with True if its picture could not be read."""
    if form == "csv":
        names = [f"{column}{i}" for i in range(1, top + 1) for column in ("class", "probability")]
        yield _row(["picture", *names, "error"]), False
    for prediction in found:
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if form == "csv":
            cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
            cells += [""] * (2 * top - len(cells))
            yield _row([prediction.picture, *cells, prediction.error]), bool(prediction.error)
        else:
            told: dict[str, Any] = {"picture": prediction.picture}
            told |= {"classes": [{"class": name, "probability": round(share, 6)} for name, share in pairs]}
            told |= {"error": prediction.error} if prediction.error else {}
            yield json.dumps(told), bool(prediction.error)


def _row(cells: list[str]) -> str:
    from zoo.escape import for_csv

    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([for_csv(cell) for cell in cells])
    return out.getvalue()
