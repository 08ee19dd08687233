"""Results on disk: one JSON line a run that has ended, appended in one write and never touched again.

A line with an ``error`` is a run that failed. It is not finished: asked for again, it is tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.bench.recipe import Recipe

try:
    import fcntl
except ImportError:  # Windows: appending works, two benches at a time in one file are not protected from each other
    fcntl = None  # type: ignore[assignment]

KEY_LENGTH = 16
CLASSIFY = "classify"
"""The task that results without a task belong to."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is asked of the benchmark: one net, trained once.

    Attributes:
        name: Name of the model in the registry.
        overrides: Changed fields of its specification; values are plain JSON types or tuples of them.
        dataset: Name of the image set.
        recipe: How it is trained.
        seed: Seed of initialisation, order and augmentation.
        task: Name of the task, see `zoo.bench.tasks`.
        head: What the net is built into, for tasks that have a choice.
        frozen: Whether the net keeps its first weights, so that only what is put on top of it learns. The statistics
            of its norms still follow the batches.
        fingerprint: Of the image set, see `zoo.bench.data.ImageSet`; empty for a set that its name tells.
    """

    name: str
    dataset: str
    recipe: Recipe
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    task: str = CLASSIFY
    head: str = ""
    frozen: bool = False
    fingerprint: str = ""

    @property
    def net(self) -> str:
        """The net as it is shown: a preset with overrides is no longer the preset."""
        return display_name(self.name, self.overrides)

    @property
    def display(self) -> str:
        """The run as it is shown, without its seed: `net`, `frozen net`, `head(net)` or `head(frozen net)`."""
        net = f"frozen {self.net}" if self.frozen else self.net
        return f"{self.head}({net})" if self.head else net

    @property
    def key(self) -> str:
        """Short hash of what is asked; versions, device and time have no part in it."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types; the last four only where they are not the default.

        So the keys of classification runs on digits are those from before there were other tasks and fingerprints.
        """
        extra = {"task": self.task, "head": self.head, "frozen": self.frozen, "fingerprint": self.fingerprint}
        default = {"task": CLASSIFY, "head": "", "frozen": False, "fingerprint": ""}
        return {
            "name": self.name,
            "overrides": dict(self.overrides),
            "dataset": self.dataset,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            **{key: value for key, value in extra.items() if value != default[key]},
        }


def display_name(name: str, overrides: Mapping[str, Any]) -> str:
    """Return `name` or `name + key=value, key=value`."""
    if not overrides:
        return name
    return f"{name} + " + ", ".join(f"{key}={_plain(value)}" for key, value in sorted(overrides.items()))


def _plain(value: Any) -> str:
    """Text of a value that does not depend on a trip through JSON, which turns tuples into lists."""
    return f"({', '.join(map(_plain, value))})" if isinstance(value, list | tuple) else str(value)


def append_result(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record as one line, on disk when this returns.

    The line goes out in one write to a descriptor that always appends, under a lock, so that a kill loses no finished
    run and two benches may share a file. A line that does not fit on the disk is taken back; of an earlier writer that
    died within its line, the part that is there is removed. So a file holds whole lines only, but for the moment of a
    write.

    Args:
        path: The file; it and its folder are made if missing.
        record: Finite numbers, strings, lists and dicts, with a `key`.

    Raises:
        ValueError: If the record has no `key`, or holds what JSON cannot.
        OSError: If the line did not fit on the disk.
    """
    if "key" not in record:
        raise ValueError("record must have a 'key': take Run.key")
    line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with _locked(descriptor):
            size = _whole_lines(descriptor)
            try:
                written = os.write(descriptor, line)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            if written != len(line):
                os.ftruncate(descriptor, size)
                raise OSError(f"{path}: a result of {len(line)} bytes did not fit; is the disk full?")
    finally:
        os.close(descriptor)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return all whole records of a file, oldest first; none if there is no file.

    A line that is cut off, as a kill or a full disk leaves it, is skipped with a warning.

    Raises:
        ValueError: If a whole line is not a record of the benchmark; the message names file and line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            # The beginning of a JSON object is never JSON itself, so a torn line cannot pass for a record.
            warnings.warn(f"{path}, line {number}: skipped a line that is cut off", stacklevel=2)
            continue
        if not isinstance(record, dict) or "key" not in record:
            raise ValueError(f"{path}, line {number} is no benchmark result (no 'key'): give a file of zoo bench")
        records.append(record)
    return records


def finished_keys(path: Path) -> set[str]:
    """Return the keys of all finished runs in a file."""
    return {record["key"] for record in read_results(path) if "error" not in record}


def newest_results(path: Path) -> list[dict[str, Any]]:
    """Return one record a finished run, the last that was written."""
    return list({record["key"]: record for record in read_results(path) if "error" not in record}.values())


def failed_runs(path: Path) -> list[dict[str, Any]]:
    """Return the last record of each run that has failed and was never finished."""
    records = read_results(path)
    finished = {record["key"] for record in records if "error" not in record}
    return list({record["key"]: record for record in records if record["key"] not in finished}.values())


@contextmanager
def _locked(descriptor: int) -> Generator[None]:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # closing the descriptor, or dying, releases it
    yield


def _whole_lines(descriptor: int) -> int:
    """Bytes of a file's whole lines; what follows the last is cut off, or ended where it is a record."""
    size = os.fstat(descriptor).st_size
    # From the end in steps: a line is short and a file may be long.
    tail = b""
    start = size
    while start and b"\n" not in tail:
        step = min(1 << 16, start)
        start -= step
        os.lseek(descriptor, start, os.SEEK_SET)
        tail = os.read(descriptor, step) + tail
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return size
    try:
        json.loads(rest)
    except ValueError:  # the beginning of a JSON object is never JSON itself
        os.ftruncate(descriptor, size - len(rest))
        return size - len(rest)
    os.write(descriptor, b"\n")  # whole, and somebody's editor left out the end
    return size + 1
