"""The verb `zoo predict`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, tell

OWNERS = {"masks": ("segment",), "min_score": ("detect",), "fuse": ("classify",)}
"""Options with the tasks that they are for."""
STARTS = (b"picture,", b'{"picture":')
"""Beginnings of the files that this verb writes, in its formats."""


def add_predict(parser: Parser) -> None:
    """Add the arguments of `zoo predict`."""
    parser.description = """\
Name the classes of pictures by a trained net: a folder that `zoo bench` has kept in OUT/weights, or published weights
by name. Pictures are prepared exactly as the test images of the net were. Each picture is one line, in the order of the
names: the most probable classes with their probabilities. A picture that cannot be read is a line with an error; the
others go on, and the exit status is then 1.

Probabilities are the net's own. They sum to 1 over its classes, also for a picture of something else.

Nets of --task segment and detect are told by their folder. Segmentation gives the classes of each picture with their
shares of its pixels, and with --masks a PNG file of class numbers as large as the picture. Detection gives the boxes
from --min-score on, in pixels of the picture; as CSV a line for each box, and one without a class for a picture without
a box."""
    parser.epilog = """\
examples:
  zoo predict data/new --weights results/folder_flowers/weights/resnet18-seed0-51b0ad9b
  zoo predict a.jpg b.png --weights fishnet150 --top 1
  zoo predict data/new --weights resnet18-seed0-51b0ad9b --format jsonl --out found.jsonl
  zoo predict data/streets --weights results/segment/weights/unet-resnet_test-seed0-0d1f44c2 --masks masks
  zoo predict data/streets --weights results/detect/weights/fcos-resnet_test-seed0-55a1c0de --min-score 0.5
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
    parser.add_argument(
        "--top", type=int, metavar="N", help="most classes, or boxes, of a picture (default: 5 classes, all boxes)"
    )
    parser.add_argument("--masks", type=Path, metavar="DIR", help="folder for the masks of a segmentation")
    parser.add_argument("--min-score", type=float, metavar="X", help="lowest score of a box (default: 0.3)")
    parser.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="format of the lines (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for the lines (default: standard output)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pictures per batch (default: 64; 16 for masks and boxes)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="threads that read pictures (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--fuse", action="store_true", help="compute with the faster copy that zoo.fuse makes")


def run_predict(args: argparse.Namespace) -> int:
    """Print a line for each picture; return 1 if one could not be read."""
    from zoo.arguments import LARGEST
    from zoo.environment import MOST_IMAGES, MOST_THREADS, check_between, choose_device
    from zoo.files import check_writable, replacing
    from zoo.keeping import kept_line
    from zoo.results.line import task_of
    from zoo.results.run import CLASSIFY

    device = choose_device(args.device)
    for name, most in (("top", LARGEST), ("batch_size", MOST_IMAGES), ("workers", MOST_THREADS)):
        if (value := getattr(args, name)) is not None:
            check_between(name.replace("_", "-"), value, 1, most)
    line = kept_line(args.weights)
    task = CLASSIFY if line is None else task_of(line)
    for name, owners in OWNERS.items():
        if getattr(args, name) not in (None, False) and task not in owners:
            raise ValueError(f"{name.replace('_', '-')} is for {' and '.join(owners)}, and these weights are of {task}")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise ValueError(f"min-score must lie in [0, 1], got {args.min_score:g}")
    if args.out is not None:
        check_writable("out", args.out)
        _check_replaceable(args.out)
    if args.masks is not None:
        check_writable("masks", args.masks, folder=True)
    lines = _named_lines(args, device) if task == CLASSIFY else _found_lines(args, device)
    for folder in (args.masks, args.out and args.out.parent):  # now that net and pictures are known to be right
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    broken = 0
    with replacing(args.out) if args.out is not None else nullcontext(None) as file:
        for text, error in lines:
            broken += error
            if file is None:
                print(text)
            else:
                file.write(f"{text}\n".encode("utf-8", "backslashreplace"))
    if broken:
        told = "1 picture could not be read: its line says" if broken == 1 else f"{broken} pictures could not be read: "
        tell(f"{told}{'their lines say' * (broken > 1)} why")
    return 1 if broken else 0


def _check_replaceable(path: Path) -> None:
    """Raise ValueError for a file of something else, such as a picture or results, which would be lost."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(max(map(len, STARTS)))
        if start and not start.startswith(STARTS):
            raise ValueError(f"out {str(path)!r} holds other things than predictions, and would be lost: give another")


def _named_lines(args: argparse.Namespace, device: str) -> Iterator[tuple[str, bool]]:
    """Return the lines of a classification."""
    from zoo.predicting import open_classifier

    net, top = open_classifier(args.weights, device=device, fuse=args.fuse), args.top or 5
    found = net(_named(args.pictures), top=top, batch_size=args.batch_size or 64, workers=args.workers)
    return _lines(found, args.format, min(top, len(net.classes)))


def _found_lines(args: argparse.Namespace, device: str) -> Iterator[tuple[str, bool]]:
    """Return the lines of a segmentation or a detection."""
    from zoo.finding import LEAST_SCORE, open_finder

    net = open_finder(args.weights, device=device)
    least = LEAST_SCORE if args.min_score is None else args.min_score
    pictures = _named(args.pictures)
    masks = None
    if args.masks is not None:
        pictures = list(pictures)
        masks = mask_paths(pictures, args.masks)
    found = net(pictures, least=least, batch_size=args.batch_size or 16, workers=args.workers)
    if net.task == "segment":
        return _pixel_lines(found, args.format, min(args.top or 5, len(net.classes)), masks)
    return _box_lines(found, args.format, args.top)


def _named(given: list[str]) -> Iterator[Path]:
    """Return the named pictures, those on standard input in the place of a dash. Named folders are read now."""
    from zoo.predicting import find_pictures

    if "-" in given and sys.stdin is None:
        raise ValueError("picture '-' stands for names on standard input, and there is none")
    if isinstance(sys.stdin, io.TextIOWrapper):  # a name of a file may be any bytes
        sys.stdin.reconfigure(errors="surrogateescape")
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


def _pixel_lines(found: Iterator[Any], form: str, top: int, masks: list[Path] | None) -> Iterator[tuple[str, bool]]:
    """Write the masks, and yield the lines as `_lines` does."""
    if form == "csv":
        names = [f"{column}{i}" for i in range(1, top + 1) for column in ("class", "share")]
        yield _row(["picture", *names, *["mask"] * (masks is not None), "error"]), False
    for i, one in enumerate(found):
        pairs = list(zip(one.classes, one.values, strict=True))[:top]
        mask = "" if masks is None or one.mask is None else str(_write_mask(one, masks[i]))
        if form == "csv":
            cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
            cells += [""] * (2 * top - len(cells))
            yield _row([one.picture, *cells, *[mask] * (masks is not None), one.error]), bool(one.error)
        else:
            told: dict[str, Any] = {"picture": one.picture}
            told |= {"classes": [{"class": name, "share": round(share, 6)} for name, share in pairs]}
            told |= {"mask": mask} if mask else {}
            yield json.dumps(told | ({"error": one.error} if one.error else {})), bool(one.error)


def mask_paths(pictures: Sequence[Path], folder: Path) -> list[Path]:
    """Return a path for the mask of each picture, with its name; a number tells pictures of one name apart.

    Raises:
        ValueError: If a mask would take the place of a picture.
    """
    given = {picture.resolve() for picture in pictures}
    last: Counter[str] = Counter()
    taken: dict[Path, None] = {}
    for stem in (picture.stem for picture in pictures):
        path = None
        while path is None or path in taken:
            last[stem] += 1
            path = folder / (f"{stem}.png" if last[stem] == 1 else f"{stem}-{last[stem]}.png")
        if path.resolve() in given:
            raise ValueError(f"masks {str(folder)!r}: a mask would overwrite the picture {path}: name another folder")
        taken[path] = None
    return list(taken)


def _write_mask(one: Any, path: Path) -> Path:
    """Write a mask in the colours of its classes."""
    from PIL import Image

    from zoo.bench.prediction_pictures import colour_of
    from zoo.files import replacing

    image = Image.fromarray(one.mask)
    image.putpalette([int(colour_of(label)[i : i + 2], 16) for label in range(256) for i in (1, 3, 5)])
    with replacing(path, sweep=False) as file:
        image.save(file, format="PNG")
    return path


def _box_lines(found: Iterator[Any], form: str, top: int | None) -> Iterator[tuple[str, bool]]:
    """Yield the lines of boxes as `_lines` does; of one picture several in CSV."""
    if form == "csv":
        yield _row(["picture", "class", "score", "x0", "y0", "x1", "y1", "error"]), False
    for one in found:
        boxes = list(zip(one.classes, one.values, one.boxes, strict=True))[:top]
        if form == "csv":
            for name, score, box in boxes:
                yield _row([one.picture, name, f"{score:.6f}", *(f"{value:.1f}" for value in box), ""]), False
            if not boxes:
                yield _row([one.picture, *[""] * 6, one.error]), bool(one.error)
        else:
            told = [
                {"class": name, "score": round(score, 6), "box": [round(value, 1) for value in box]}
                for name, score, box in boxes
            ]
            error = {"error": one.error} if one.error else {}
            yield json.dumps({"picture": one.picture, "boxes": told} | error), bool(one.error)


def _row(cells: list[str]) -> str:
    from zoo.escape import for_csv

    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([for_csv(cell) for cell in cells])
    return out.getvalue()
