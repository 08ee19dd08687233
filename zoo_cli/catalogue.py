"""The verbs `zoo list`, `zoo info` and `zoo count`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_cli.common import Parser, parse_size, print_json, print_table, text_of

NUMBERS = ("params", "macs", "fvcore_flops", "activations", "channels", "stride", "field")
"""Columns that are aligned to the right."""


def add_list(parser: Parser) -> None:
    """Add the arguments of `zoo list`."""
    parser.epilog = """\
examples:
  zoo list                            every model
  zoo list cifar --sort params        names that contain a word, smallest first
  zoo list 'resnet*' --family resnet --counts --sort macs --reverse
  zoo list --papers                   what the papers describe, and where it is
  zoo list --papers planned           the same, filtered by any of its words
  zoo list --json | jq '.[].name'"""
    parser.add_argument("filter", nargs="?", default="", help="part of the name, or a pattern such as 'resnet*'")
    parser.add_argument("--papers", action="store_true", help="list what the papers describe, and where to find it")
    parser.add_argument("--family", help="list only this family")
    parser.add_argument("--sort", metavar="COLUMN", help="column to sort by (default: name)")
    parser.add_argument("--reverse", action="store_true", help="largest first")
    parser.add_argument("--counts", action="store_true", help="add macs and activations (about a minute for all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_list(args: argparse.Namespace) -> int:
    """Print the catalogue."""
    if args.papers:
        return _list_papers(args)
    from zoo import list_models, model_entry

    sort = args.sort or "name"
    columns = ["name", "family", "params", "input", "strides", "paper"]
    if args.counts:
        columns[3:3] = ["macs", "activations"]
    if sort not in columns:
        hint = "; macs and activations need --counts" if sort in ("macs", "activations") else ""
        raise ValueError(f"sort {sort!r} must be one of {', '.join(columns)}{hint}")
    entries = [model_entry(name) for name in list_models(args.filter, family=args.family)]
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "params": entry.params,
            "input": entry.input_size,
            "strides": entry.spec.tap_strides,
            "paper": entry.paper,
        }
        for entry in entries
    ]
    if args.counts:
        for row, counts in zip(rows, _count_all([entry.name for entry in entries]), strict=True):
            row |= {"macs": counts.macs, "activations": counts.activations}
    if sort != "name":  # the registry's order of names is the natural one: resnet20 before resnet110
        rows.sort(key=lambda row: row[sort])
    if args.reverse:
        rows.reverse()
    if args.json:
        print_json(rows)
    elif rows:
        print_table([{column: text_of(row[column], column) for column in columns} for row in rows], NUMBERS)
    else:
        print("no model matches")
    return 0


def _list_papers(args: argparse.Namespace) -> int:
    from zoo.papers import systems

    given = [f"--{name}" for name in ("family", "sort", "reverse", "counts") if getattr(args, name)]
    if given:
        raise ValueError(f"--papers lists papers, not nets: leave out {', '.join(given)}")
    found = systems(args.filter)
    if args.json:
        print_json([{"subject": subject, **dataclasses.asdict(system)} for subject, system in found])
        return 0
    if not found:
        print("no paper matches")
    for i, subject in enumerate(dict.fromkeys(subject for subject, _ in found)):
        rows = [system for other, system in found if other == subject]
        print(f"\n{subject}" if i else subject)
        print_table([{"system": s.name, "kind": s.kind, "found": s.found(), "source": s.source} for s in rows])
    return 0


def add_info(parser: Parser) -> None:
    """Add the arguments of `zoo info`."""
    parser.epilog = """\
examples:
  zoo info fishnet99
  zoo info resnet20_cifar --json"""
    parser.add_argument("name", metavar="NAME", help="a model of the zoo")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(args: argparse.Namespace) -> int:
    """Print the facts about one model."""
    from zoo import create_model, model_entry
    from zoo.analysis.field import known_fields
    from zoo.complexity import count

    entry = model_entry(args.name)
    model: Any = create_model(entry.name, device="meta")
    counts = count(model, entry.input_size).to_dict()
    taps = [
        {"module": tap["module"], "channels": tap["num_chs"], "stride": tap["reduction"], "field": field}
        for tap, field in zip(model.feature_info, known_fields()[entry.name], strict=True)
    ]
    facts = {
        "name": entry.name,
        "timm_name": entry.timm_name,
        "family": entry.family,
        "paper": entry.paper,
        "reference": entry.reference,
        "notes": entry.notes,
        "num_classes": entry.num_classes,
        "lineups": entry.lineups,
    }
    if args.json:
        spec = {"spec": entry.spec.to_dict(), "structure": entry.spec.facts()}
        print_json({**facts, **spec, "counts": counts, "taps": taps})
        return 0
    stages = counts.pop("stages")
    _print_facts(facts)
    print("\nSpecification")
    _print_facts(entry.spec.to_dict())
    if structure := entry.spec.facts():
        print("\nStructure")
        _print_facts(structure)
    print("\nCounts for one image")
    _print_facts({key.replace("_", " "): value for key, value in counts.items()})
    print("\nFeature taps")
    print_table(taps, NUMBERS)
    print("\nStages")
    print_table([{column: text_of(value, column) for column, value in stage.items()} for stage in stages], NUMBERS)
    print(f"\nPicture: zoo draw {entry.name} -o {entry.name}.svg")
    return 0


def _print_facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"  {key:{width}}  {text_of(value, key)}")


def add_count(parser: Parser) -> None:
    """Add the arguments of `zoo count`."""
    parser.description = """\
macs: multiply-adds of convolutions, linear layers and matrix products. fvcore_flops: fvcore's total, which adds norms,
pooling and interpolation. uncounted: operators that neither figure contains."""
    parser.epilog = """\
examples:
  zoo count fishnet99 resnet50
  zoo count '*_cifar'                 every model of the zoo that matches
  zoo count timm:resnet50 --input-size 3x288x288"""
    parser.add_argument("names", nargs="+", metavar="NAME", help="models of the zoo or of timm, or patterns")
    parser.add_argument("--input-size", metavar="SIZE", help="224 or 3x224x224 (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_count(args: argparse.Namespace) -> int:
    """Print the costs of models."""
    size = None if args.input_size is None else parse_size(args.input_size)
    from zoo.registry import expand_names

    names = expand_names(args.names)
    rows = [{"name": name, **counts.to_dict()} for name, counts in zip(names, _count_all(names, size), strict=True)]
    if args.json:
        print_json(rows)
        return 0
    columns = ("name", "params", "macs", "fvcore_flops", "activations", "input_size", "uncounted")
    print_table([{column: text_of(row[column], column) for column in columns} for row in rows], NUMBERS)
    return 0


def _count_all(names: Sequence[str], size: tuple[int, int, int] | None = None) -> list[Any]:
    from tqdm import tqdm

    from zoo.catalogue import count_names
    from zoo.environment import cores

    hide = len(names) < 3 or not sys.stderr.isatty()
    counts = count_names(names, size, cores())
    return list(tqdm(counts, "counting", len(names), unit="net", leave=False, disable=hide))
