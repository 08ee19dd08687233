"""The verb `zoo analyse`."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo_cli.common import Parser, parse_size, print_json, print_table, tell, text_of

ANALYSES = {
    "receptive-field": "pixels that each map depends on, and the memory of the maps on the way there",
    "effective-field": "part of the field whose pixels matter, of fresh nets and trained ones",
    "paths": "number of paths from image to features, by length",
    "path-gradients": "gradient along single paths of a residual net, by length",
    "lesion": "error of a trained net without one unit, without several, and with units in another order",
    "responses": "standard deviation of what each 3x3 convolution brings",
    "gradients": "gradients by depth, and gains of units, of fresh nets and trained ones",
    "probes": "accuracy of classifiers that read each map of a frozen net, trained and fresh",
    "gates": "gates and edges of a trained fabric, and the smaller fabric without those that it does not need",
    "units": "image that excites a unit most, by gradient ascent, and the patches of a set that do",
    "shape-or-texture": "cue that a net follows where two disagree, on images of our own (zoo bench --dataset cues)",
}
"""Names of the analyses, each with what it shows. `zoo.analysis.run` has the functions."""
NUMBERS = (
    *("channels", "map", "field", "rows", "columns", "paths", "shortest", "mean", "longest", "effective", "share"),
    *("linear", "nearest", "norm", "largest", "identity", "ratio", "skip", "edge"),
    *("channel", "start", "reached", "rank", "image", "value", "row", "column"),
    *("agreeing", "shape", "texture", "shape_alone", "texture_alone", "shape_bias"),
)
FOLDER = Path("results") / "analyses"


def add_analyse(parser: Parser) -> None:
    """Add the arguments of `zoo analyse`."""
    listed = "\n".join(f"  {name:18}{summary}" for name, summary in ANALYSES.items())
    parser.description = f"""\
Repeat an experiment of the papers on any nets: print a table, and write a CSV and a picture (PNG and SVG) of it.

analyses:
{listed}

docs/analyses.md describes each with its formulas and the figure of its paper."""
    parser.epilog = """\
examples:
  zoo analyse receptive-field resnet50 fishnet99 vgg16
  zoo analyse receptive-field timm:convnext_tiny --input-size 256
  zoo analyse receptive-field resnet20_cifar --gates whole --out results/fields
  zoo analyse effective-field plain20_cifar results/digits/weights/resnet20_cifar-seed0-8deb2467
  zoo analyse paths preresnet110_cifar fishnet58_cifar --counted convolutions
  zoo analyse lesion results/digits/weights/*
  zoo analyse probes results/digits/weights/resnet20_cifar-seed0-8deb2467 --images 500
  zoo analyse gates results/fabrics/weights/fabric_a_l3_s3_c32x2_post_cifar-seed0-ff5bab27 --threshold 0.2
  zoo analyse units results/digits/weights/resnet20_cifar-seed0-8deb2467 --module stage2 --units 8
  zoo analyse shape-or-texture results/cues/weights/*"""
    parser.add_argument("what", choices=tuple(ANALYSES), metavar="WHAT", help="one of the analyses above")
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="models of the zoo or of timm, patterns, or folders of trained nets"
    )
    parser.add_argument("--input-size", metavar="SIZE", help="224 or 3x224x224 (default: each net's own)")
    parser.add_argument(
        "--gates",
        choices=("constant", "whole"),
        default="constant",
        help="receptive-field: leave gates out, or follow them to the whole image (default: %(default)s)",
    )
    parser.add_argument(
        "--counted",
        choices=("units", "convolutions"),
        default="units",
        help="paths: what the length of a path counts (default: %(default)s)",
    )
    parser.add_argument(
        "--module", metavar="NAME", help="module whose map is looked at (default: see docs/analyses.md)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="gates: accuracy that an edge must be worth, or it is pruned (default: %(default)s)",
    )
    parser.add_argument(
        "--units",
        type=int,
        default=3,
        metavar="N",
        help="units: units of each map, evenly spaced among its channels (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", help="image set, as in zoo bench (default: what the net was trained on, or digits)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the set; not for built-in sets")
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        metavar="N",
        help="largest number of images from each half of the set (default: %(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=5,
        metavar="N",
        help="lesion, path-gradients, gradients: random choices of units or of vectors (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of fresh weights and of draws (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="FOLDER", help="folder for the files (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the rows of the CSV as JSON instead of a table")


def run_analyse(args: argparse.Namespace) -> int:
    """Run an analysis, print its table and write its files."""
    size = None if args.input_size is None else parse_size(args.input_size)
    from zoo.analysis.nets import Options
    from zoo.analysis.run import analyse
    from zoo.files import check_writable

    check_writable("out", args.out, folder=True)
    options = Options(
        input_size=size,
        gates=args.gates,
        counted=args.counted,
        seed=args.seed,
        dataset=args.dataset or "",
        data_dir=args.data_dir,
        images=args.images,
        module=args.module or "",
        draws=args.draws,
        threshold=args.threshold,
        units=args.units,
    )
    outcome = analyse(args.what, args.names, options)
    if args.json:
        print_json(list(outcome.rows))
    else:
        rows = outcome.shown or outcome.rows
        print_table([{column: text_of(value, column) for column, value in row.items()} for row in rows], NUMBERS)
        for note in outcome.notes:
            print(f"\n{note}")
    for path in outcome.write(args.out):
        tell(f"written: {path}")
    return 0
