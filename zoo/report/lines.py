"""Result lines from files: read, checked, and sorted into runs, speed measurements and failures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
SPEED = "speed"  # what `kind` says in the lines of zoo speed
Record = dict[str, Any]

# What a line must have for the report, by dotted name; the rest is shown where it is there.
ALWAYS = {"key": str, "name": str}
RUN = {
    "display": str,
    "family": str,
    "counts.params": int,
    "counts.macs": int,
    "counts.activations": int,
    "counts.uncounted": dict,
    "dataset.name": str,
    "recipe": dict,
    "seed": int,
    "seconds": float,
}
MEASURED = {
    "case.mode": str,
    "case.batch_size": int,
    "case.input_size": list,
    "images_per_second": float,
}
OPTIONAL = {
    "spec": dict,
    "epochs": list,
    "stages": list,
    "taps": list,
    "versions": dict,
    "device": dict,
    "git_revision": str,
    "finished_at": str,
    "images_per_second": float,
    "peak_memory": int,
    "standard_error": float,
    "task": str,
    "recipe_name": str,
}
NAMES: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


@dataclass(kw_only=True)
class Lines:
    """What some files hold; of lines with one key the last that was read, but no failure after a finished run.

    Attributes:
        runs: Finished runs of `zoo bench`.
        speeds: Cases of `zoo speed`.
        failures: Runs that ended with an error.
        files: One dict a file: name, lines, sha256.
        warnings: What was passed over, with file and line.
    """

    runs: list[Record] = field(default_factory=list)
    speeds: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)
    files: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_lines(paths: Sequence[Path]) -> Lines:
    """Read result files, or the ``results.jsonl`` of folders.

    A last line that is cut off, as a kill or a full disk leaves it, is passed over with a warning.

    Raises:
        ValueError: If a file is missing or a line is broken, with file and line; or if no line is left to show.
    """
    found = Lines()
    newest: dict[str, Record] = {}
    for path in dict.fromkeys(path / RESULTS if path.is_dir() else path for path in paths):
        if not path.is_file():
            raise ValueError(f"no results at {path}: give a file or folder that zoo bench or zoo speed wrote")
        content = path.read_bytes()
        number = 0
        for number, record in _records(path, content, found.warnings):
            try:
                _check_line(record)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if "error" not in newest.get(record["key"], {"error": ""}) and "error" in record:
                continue  # a run that was finished and failed when it was forced again is finished
            newest[record["key"]] = record
        # Two levels tell a reader which file it was, and not where somebody's home is.
        name = "/".join(path.parts[-2:])
        found.files.append({"name": name, "lines": number, "sha256": hashlib.sha256(content).hexdigest()[:16]})
    for record in newest.values():
        kind = found.speeds if record.get("kind") == SPEED else found.runs if metric_of(record) else found.failures
        kind.append(record)
    if not found.runs and not found.speeds:
        names = ", ".join(map(str, paths))
        failed = f" (failed runs: {len(found.failures)})" if found.failures else ""
        raise ValueError(f"nothing to show: {names} hold no finished run{failed}; run zoo bench or zoo speed first")
    return found


def metric_of(record: Mapping[str, Any]) -> str:
    """Name of the score that a run ended with, such as `accuracy` of ``test_accuracy``; empty if there is none."""
    return next((key.removeprefix("test_") for key in record if key.startswith("test_")), "")


def _records(path: Path, content: bytes, warnings: list[str]) -> Iterator[tuple[int, Record]]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # whole lines end with a newline
                warnings.append(f"{path}, line {number}: passed over a line that is cut off")
                continue
            raise ValueError(f"{path}, line {number} is no JSON ({error}): remove the line") from error
        if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in ALWAYS.items()):
            raise ValueError(f"{path}, line {number} is no result line: 'key' and 'name' must be texts")
        yield number, record


def _check_line(record: Record) -> None:
    """Raise ValueError that names the field where a line lacks something or holds something else."""
    required = MEASURED if record.get("kind") == SPEED else RUN if metric_of(record) else {}
    for name, kind in required.items():
        _check_value(name, _look_up(record, name), kind)
    for name, kind in OPTIONAL.items():
        if record.get(name) is not None:
            _check_value(name, record[name], kind)
    if required is RUN:
        name = f"test_{metric_of(record)}"
        _check_value(name, record[name], float)
        if not 0 <= record[name] <= 1:
            raise ValueError(f"{name} ({record[name]!r}) must be in [0, 1]")
    if not required and "error" not in record:
        raise ValueError("the line has neither a score ('test_accuracy') nor an 'error'")


def _check_value(name: str, value: Any, kind: type) -> None:
    kinds = (int, float) if kind is float else (kind,)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if good and kind in (int, float):
        good = math.isfinite(value) and value >= 0
    if not good:
        raise ValueError(f"{name} ({value!r:.40}) must be {NAMES[kind]}" + " from 0 up" * (kind in (int, float)))


def _look_up(record: Any, name: str) -> Any:
    for part in name.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record
