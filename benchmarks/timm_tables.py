"""Join timm's tables of results to the table that `zoo choose` asks, zoo/data/timm_results.csv.

    python benchmarks/timm_tables.py RESULTS

RESULTS is the folder `results` of timm's repository. Top-1 accuracies of all weights on six test sets come from it, and
parameters, multiply-adds and throughput of each net at the same image size, where timm has measured that. Family,
licence and the output strides that a net can be held at come from the installed timm, which builds each net once
without memory.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

OUT = Path(__file__).parents[1] / "zoo" / "data" / "timm_results.csv"
SETS = {
    "top1": "results-imagenet.csv",
    "real": "results-imagenet-real.csv",
    "v2": "results-imagenetv2-matched-frequency.csv",
    "sketch": "results-sketch.csv",
    "a": "results-imagenet-a.csv",
    "r": "results-imagenet-r.csv",
}
GPU = "benchmark-infer-amp-nchw-pt291-cu130-5090.csv"
CPU = "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"
STRIDES = (8, 16)
COLUMNS = ("model", "size", "family", "licence", "strides", "params", "macs", *SETS, "gpu", "cpu")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder of timm's tables")
    return parser


def read(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def held(name: str) -> list[int]:
    """Return the strides at which an architecture's last feature map can be held."""
    found = []
    for stride in STRIDES:
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                net: Any = timm.create_model(name, features_only=True, output_stride=stride)
        except Exception:  # whatever a net makes of an argument that it does not know
            continue
        if net.feature_info.reduction()[-1] == stride:
            found.append(stride)
    return found


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the joined table, in the order of timm's table for ImageNet."""
    scores = {key: {(r["model"], r["img_size"]): r["top1"] for r in read(folder / file)} for key, file in SETS.items()}
    machines = {
        key: {(r["model"], r["infer_img_size"]): r for r in read(folder / file)}
        for key, file in (("gpu", GPU), ("cpu", CPU))
    }
    strides: dict[str, list[int]] = {}
    for row in read(folder / SETS["top1"]):
        place, name = (row["model"], row["img_size"]), row["model"].partition(".")[0]
        measured = {key: machines[key].get((name, row["img_size"]), {}) for key in machines}
        known = timm.is_model(name)
        if known and name not in strides:
            strides[name] = held(name)
        config = timm.get_pretrained_cfg(row["model"], allow_unregistered=True) if known else None
        counted = measured["gpu"] or measured["cpu"]
        yield {
            "model": row["model"],
            "size": row["img_size"],
            "family": timm.model_entrypoint(name).__module__.rpartition(".")[2] if known else "",
            "licence": (config.license or "") if config else "",
            "strides": " ".join(map(str, strides.get(name, ()))),
            "params": row["param_count"].replace(",", ""),
            "macs": counted.get("infer_gmacs", "").replace(",", ""),
            **{key: f"{float(own[place]):g}" if place in own else "" for key, own in scores.items()},
            **{key: own.get("infer_samples_per_sec", "").replace(",", "") for key, own in measured.items()},
        }


def main() -> int:
    """Write the table."""
    args = build_parser().parse_args()
    with OUT.open("w", encoding="ascii", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows(args.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
