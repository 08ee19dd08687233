"""The command `zoo`: what there is, what it costs, how it compares. Presentation only."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from zoo import weights_command
from zoo.bench.command import add_verbs
from zoo.bench.options import DESCRIPTION, Parser, cores, parse_size, run_verb
from zoo.bench.speed_command import add_speed
from zoo.published_command import add_verb as add_published
from zoo.report.command import add_verb as add_report

LIST_EXAMPLES = """\
examples:
  zoo list                            every model
  zoo list cifar --sort params        names that contain a word, smallest first
  zoo list 'resnet*' --family resnet --counts --sort macs --reverse
  zoo list --papers                   what the papers describe, and where it is
  zoo list --papers planned           the same, filtered by any of its words
  zoo list --json | jq '.[].name'"""

INFO_EXAMPLES = """\
examples:
  zoo info fishnet99
  zoo info resnet20_cifar --json"""

COUNT_EXAMPLES = """\
examples:
  zoo count fishnet99 resnet50
  zoo count '*_cifar'                 every model of the zoo that matches
  zoo count timm:resnet50 --input-size 3x288x288"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status, see `run_verb`."""
    return run_verb(lambda: _parser().parse_args(argv))


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
        print(json.dumps(rows, indent=2))
    else:
        _print_table([{column: _text(row[column], column) for column in columns} for row in rows])
    return 0


def _list_papers(args: argparse.Namespace) -> int:
    from zoo.papers import systems

    given = [f"--{name}" for name in ("family", "sort", "reverse", "counts") if getattr(args, name)]
    if given:
        raise ValueError(f"--papers lists papers, not nets: leave out {', '.join(given)}")
    found = systems(args.filter)
    if args.json:
        print(json.dumps([{"subject": subject, **dataclasses.asdict(system)} for subject, system in found], indent=2))
        return 0
    if not found:
        print("no paper matches")
    for i, subject in enumerate(dict.fromkeys(subject for subject, _ in found)):
        rows = [system for other, system in found if other == subject]
        print(f"\n{subject}" if i else subject)
        _print_table([{"system": s.name, "kind": s.kind, "found": s.found(), "source": s.source} for s in rows])
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print all that is known of one model."""
    from zoo import create_model, model_entry
    from zoo.complexity import count

    entry = model_entry(args.name)
    model: Any = create_model(entry.name, device="meta")
    counts = count(model, entry.input_size).to_dict()
    taps = [{"module": t["module"], "channels": t["num_chs"], "stride": t["reduction"]} for t in model.feature_info]
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
        print(
            json.dumps(
                {
                    **facts,
                    "spec": entry.spec.to_dict(),
                    "structure": entry.spec.facts(),
                    "counts": counts,
                    "taps": taps,
                },
                indent=2,
            )
        )
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
    _print_table(taps)
    print("\nStages")
    _print_table([{column: _text(value, column) for column, value in stage.items()} for stage in stages])
    return 0


def run_count(args: argparse.Namespace) -> int:
    """Print what models cost."""
    from zoo.bench.runner import expand_names

    names = expand_names(args.names)
    counts = _count_all(names, parse_size(args.input_size) if args.input_size else None)
    rows = [{"name": name, **result.to_dict()} for name, result in zip(names, counts, strict=True)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    columns = ("name", "params", "macs", "fvcore_flops", "activations", "input_size", "uncounted")
    _print_table([{column: _text(row[column], column) for column in columns} for row in rows])
    return 0


def _count_all(names: Sequence[str], size: tuple[int, int, int] | None = None) -> list[Any]:
    from tqdm import tqdm

    from zoo.catalogue import count_names

    hide = len(names) < 3 or not sys.stderr.isatty()
    counts = count_names(names, size, cores())
    return list(tqdm(counts, "counting", len(names), unit="net", leave=False, disable=hide))


def _text(value: Any, column: str = "") -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.removeprefix('aten::')} {n}" for key, n in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ("x" if column.startswith("input") else " ").join(map(str, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value in ("", None) else str(value)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from tabulate import tabulate

    if not rows:
        print("no model matches")
        return
    numbers = ("params", "macs", "fvcore_flops", "activations", "channels", "stride")
    align = ["right" if column in numbers else "left" for column in rows[0]]
    print(tabulate([list(row.values()) for row in rows], headers=list(rows[0]), colalign=align, disable_numparse=True))


def _print_facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"  {key:{width}}  {_text(value, key)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="zoo",
        description="Interchangeable vision backbones: list them, look at them, count them, compare them.",
        epilog="zoo VERB --help shows examples.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="the catalogue", epilog=LIST_EXAMPLES, formatter_class=DESCRIPTION)
    listing.add_argument("filter", nargs="?", default="", help="part of the name, or a pattern such as 'resnet*'")
    listing.add_argument("--papers", action="store_true", help="what the papers describe, and where it is to be found")
    listing.add_argument("--family", help="only this family")
    listing.add_argument("--sort", metavar="COLUMN", help="any column (default: name)")
    listing.add_argument("--reverse", action="store_true", help="largest first")
    listing.add_argument("--counts", action="store_true", help="add macs and activations (about a minute for all)")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_list)

    info = verbs.add_parser("info", help="one model in detail", epilog=INFO_EXAMPLES, formatter_class=DESCRIPTION)
    info.add_argument("name", metavar="NAME", help="a model of the zoo")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)

    counting = verbs.add_parser(
        "count",
        help="parameters, multiply-adds, activations",
        description="macs: multiply-adds of convolutions, linear layers and matrix products. fvcore_flops: fvcore's "
        "total, which adds norms, pooling and interpolation. uncounted: operators that neither figure contains.",
        epilog=COUNT_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    counting.add_argument("names", nargs="+", metavar="NAME", help="models of the zoo or of timm, or patterns")
    counting.add_argument("--input-size", metavar="SIZE", help="224 or 3x224x224 (default: the model's own)")
    counting.add_argument("--json", action="store_true", help="print JSON")
    counting.set_defaults(run=run_count)

    weights_command.add_verbs(verbs)
    add_published(verbs)
    add_verbs(verbs)
    add_speed(verbs)
    add_report(verbs)
    return parser
