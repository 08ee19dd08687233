"""Functions of the former `zoo.bench.results`, see `zoo.former_paths`. They are removed in the next release.

`newest_results(path)` is now `zoo.results.read([path]).trainings`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo import results
from zoo.results.run import CLASSIFY, KEY_LENGTH, Run, display_name

__all__ = [
    "CLASSIFY",
    "KEY_LENGTH",
    "Run",
    "append_result",
    "display_name",
    "failed_runs",
    "finished_keys",
    "newest_results",
    "read_results",
]


def append_result(path: Path, record: Mapping[str, Any]) -> None:
    """See `zoo.results.append`."""
    results.append(path, record)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a file, oldest first; an empty list if there is no file."""
    cut_off: list[str] = []
    lines = list(results.store.parse_all(path, path.read_bytes(), cut_off)) if path.exists() else []
    for text in cut_off:
        warnings.warn(text, stacklevel=2)
    return lines


def newest_results(path: Path) -> list[dict[str, Any]]:
    """Return the last written line of each finished run or timing."""
    return list({line["key"]: line for line in read_results(path) if "error" not in line}.values())


def finished_keys(path: Path) -> set[str]:
    """Return the keys of all finished runs in a file."""
    return {line["key"] for line in newest_results(path)}


def failed_runs(path: Path) -> list[dict[str, Any]]:
    """Return the last line of each run that failed and was never finished."""
    return results.store.read_if_there(path).failures
