"""The verb `zoo draw`: draw nets from left to right and from fine to coarse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, parse_pairs, parse_size, printable

LEVELS = ("stages", "units", "layers")


def add_draw(parser: Parser) -> None:
    """Add the arguments of `zoo draw`."""
    parser.description = """\
Draw nets. Everything is read from the nets themselves, by one rule for all families: boxes stand from left to right in
the order of computation and from top to bottom by resolution, the finest on top. Height tells channels, colour the kind
of unit. Shortcuts, concatenations and gates are lines; feature taps are circles with their number; what only taps need,
and not the output, is dotted. Several nets share one scale, so that sizes can be compared.

SVG needs nothing else, and shows name and size of a box under the pointer. PNG and PDF need matplotlib."""
    parser.epilog = """\
examples:
  zoo draw fishnet99                                     a fish, in drawing.svg
  zoo draw fabric_a_l8_s4_c64x2_post -o grid.png         a grid, as a picture
  zoo draw resnet50 fishnet99 densenet121 --level stages -o three.svg
  zoo draw resnet20_cifar resnet20_cifar order=pre       a net and its variant: changes stand behind a name
  zoo draw 'resnet*_test' --set widths='(8,16,32,64)'    a change of every net
  zoo draw resnet18 --level layers -o layers.pdf         every convolution, norm and activation
  zoo draw timm:resnet50 --input-size 3x288x288          nets of timm that torch.fx can follow"""
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="models or patterns, each with its own changes as KEY=VALUE behind it"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("drawing.svg"),
        metavar="FILE",
        help="file that ends in .svg, .png or .pdf (default: %(default)s)",
    )
    parser.add_argument("--level", choices=LEVELS, default="units", help="how much a box holds (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="changed field of all nets' specifications"
    )
    parser.add_argument("--input-size", metavar="SIZE", help="224 or 3x224x224 (default: each net's own)")


def run_draw(args: argparse.Namespace) -> int:
    """Draw the nets and print the path."""
    size = None if args.input_size is None else parse_size(args.input_size)
    changes = parse_pairs(args.set)
    nets = nets_of(args.names)
    from zoo.drawing import check_path, draw
    from zoo.files import check_writable
    from zoo.registry import expand_names

    check_writable("out", check_path(args.out))
    named = [(name, {**changes, **own}) for pattern, own in nets for name in expand_names([pattern])]
    try:
        drawing = draw(*named, level=args.level, input_size=size)
    except TypeError as error:  # an override that the net does not know
        raise ValueError(str(error)) from error
    drawing.save(args.out)
    print(printable(str(args.out)))
    return 0


def nets_of(words: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return names, each with the changes that stand behind it.

    Raises:
        ValueError: If a change stands before all names.
    """
    nets: list[tuple[str, list[str]]] = []
    for word in words:
        if "=" not in word:
            nets.append((word, []))
        elif nets:
            nets[-1][1].append(word)
        else:
            raise ValueError(f"{word!r} changes no net: it must stand behind a name (--set changes all nets)")
    return [(name, parse_pairs(pairs)) for name, pairs in nets]
