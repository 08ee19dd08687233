"""Result lines as `zoo bench` and `zoo speed` write them, for tests of what reads them."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# A run of resnet20_cifar on digits, two of its eight epochs.
RUN: dict[str, Any] = {
    "key": "8deb2467a233cec8",
    "name": "resnet20_cifar",
    "overrides": {},
    "display": "resnet20_cifar",
    "family": "resnet",
    "spec": {"depths": [3, 3, 3], "widths": [16, 32, 64], "order": "post", "squeeze": 0, "close": True},
    "counts": {
        "params": 269_722,
        "macs": 40_551_040,
        "fvcore_flops": 40_928_768,
        "activations": 188_426,
        "uncounted": {"aten::add": 9, "aten::pad": 2},
    },
    "dataset": {"name": "digits", "train": 897, "test": 900, "num_classes": 10, "input_size": [3, 32, 32]},
    "recipe": {"epochs": 8, "batch_size": 32, "lr": 0.1, "amp": ""},
    "seed": 0,
    "test_accuracy": 0.9911111111111112,
    "standard_error": 0.0031286,
    "epochs": [
        {"epoch": 1, "lr": 0.098, "train_loss": 1.6, "train_accuracy": 0.42, "test_accuracy": 0.5, "seconds": 2.1},
        {"epoch": 8, "lr": 0.001, "train_loss": 0.1, "train_accuracy": 0.99, "test_accuracy": 0.991, "seconds": 2.1},
    ],
    "seconds": 22.9,
    "cpu_seconds": 22.8,
    "images_per_second": 323.99,
    "peak_memory": 1_086_308_352,
    "versions": {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31", "zoo": "0.1.0"},
    "device": {"type": "cpu", "name": "AMD EPYC", "threads": 1},
    "git_revision": "a285dddddb4a0191bbfb8f27e5a9496d41ed64c3",
    "finished_at": "2026-11-20T22:08:59+00:00",
}
SPEED: dict[str, Any] = {
    "key": "51b0ad9b8c2cbd8e",
    "kind": "speed",
    "name": "resnet20_cifar",
    "family": "resnet",
    "case": {
        "mode": "eval",
        "batch_size": 8,
        "input_size": [3, 32, 32],
        "layout": "contiguous",
        "compile": False,
        "dtype": "float32",
    },
    "images_per_second": 1234.5,
    "peak_memory": 54_321_000,
    "versions": RUN["versions"],
    "device": RUN["device"],
}


def changed(line: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a line; dots in names are written ``__``, and None removes."""
    result = copy.deepcopy(dict(line))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = result
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return result


def run(name: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A run of another net or seed."""
    return changed(RUN, **{"key": f"{name}-{seed}", "name": name, "display": name, "seed": seed, **changes})


def stored(path: Path) -> list[dict[str, Any]]:
    """All lines of a result file, oldest first; none if there is no file."""
    return [json.loads(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write a result file and return its path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
    return path
