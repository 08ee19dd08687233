"""Result files: the only writer, which appends one line, and the only reader.

A file holds one line per finished run or timing. A line is appended in one write and never changed. If several lines
have one key, the last one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.escape import for_terminal
from zoo.results.line import SCHEMA, Line, NoJSONError, kind_of, parse

try:
    import fcntl
except ImportError:  # Windows: appending works, two benches at a time in one file are not protected from each other
    fcntl = None  # type: ignore[assignment]

RESULTS = "results.jsonl"
"""Name of the file in a folder of results."""
OTHERS = "holds other things than results"
BEGINNING = b'{"key":'
"""Beginning of every line that the zoo writes, without spaces. It tells a line that was cut off from foreign text."""


@dataclass(kw_only=True)
class Results:
    """The checked lines of some files. If several lines share a key, the last one wins.

    A failure never replaces a finished run, for example one that failed when it was forced again.

    Attributes:
        trainings: Finished runs of `zoo bench`.
        timings: Cases of `zoo speed`.
        failures: Runs that ended with an error and were never finished.
        files: One object per file: name, lines, sha256.
        warnings: One text per skipped line, with file and line number.
    """

    trainings: list[Line] = field(default_factory=list)
    timings: list[Line] = field(default_factory=list)
    failures: list[Line] = field(default_factory=list)
    files: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def finished(self) -> set[str]:
        """Keys of everything that need not be run again."""
        return {line["key"] for line in [*self.trainings, *self.timings]}


def read(paths: Sequence[Path]) -> Results:
    """Read result files.

    A line that is cut off, as a kill or a full disk leaves it, is skipped with a warning, at any position.

    Args:
        paths: Files, or folders with a ``results.jsonl``. A path that is given twice is read once.

    Raises:
        ValueError: If a file cannot be read, or a line is no result; the message names file, line number and field.
    """
    results = Results()
    newest: dict[str, Line] = {}
    for path in dict.fromkeys(path / RESULTS if path.is_dir() else path for path in paths):
        if not path.is_file():
            where = for_terminal(path)
            raise ValueError(f"no results at {where}: give a file or folder that zoo bench or zoo speed wrote")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"results at {for_terminal(path)} cannot be read: {error.strerror}") from error
        for line in parse_all(path, content, results.warnings):
            if "failure" != kind_of(newest.get(line["key"], line)) != kind_of(line) == "failure":
                continue
            newest[line["key"]] = line
        results.files.append(
            {
                # Two levels tell a reader which file it was, and not where somebody's home is.
                "name": "/".join(path.parts[-2:]),
                "lines": len(content.splitlines()),
                "sha256": hashlib.sha256(content).hexdigest()[:16],
            }
        )
    places = {"training": results.trainings, "timing": results.timings, "failure": results.failures}
    for line in newest.values():
        places[kind_of(line)].append(line)
    return results


def read_if_there(path: Path) -> Results:
    """Read a result file that lines will be appended to; return empty results if it does not exist yet.

    Raises:
        ValueError: See `read`; also if the path is a folder or no regular file, or `append` would refuse the file.
    """
    if path.is_dir():
        name = for_terminal(path / "speed.jsonl")
        raise ValueError(f"path {for_terminal(path)} is a folder: name a file in it, such as {name}")
    if not path.exists():
        return Results()
    results = read([path])
    _check_ours(path.read_bytes(), path)
    return results


def finished_keys(path: Path) -> set[str]:
    """Return the keys of everything that a result file has finished; an empty set if it does not exist yet."""
    return read([path]).finished if path.exists() else set()


def parse_all(path: Path, content: bytes, warnings: list[str]) -> Iterator[Line]:
    """Yield the checked lines of a file, oldest first, and append a warning for each that is cut off.

    Raises:
        ValueError: If a line is no result; the message names file, line number and field.
    """
    for number, text in enumerate(content.split(b"\n"), start=1):
        if not text.strip():
            continue
        where = f"{for_terminal(path)}, line {number}"
        try:
            yield parse(text)
        except NoJSONError as error:
            if not _begins_as_ours(text):
                raise ValueError(f"{where}: {error}: remove the line, or give a file of zoo bench") from error
            warnings.append(f"{where}: passed over a line that is cut off")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record as one line; the line is on disk when this returns.

    The line is written in one call to a descriptor in append mode, under a lock. A kill therefore loses no finished
    run, and two benches may share a file. A line that does not fit on the disk is removed again. A partial line of an
    earlier writer that died is removed. Except during a write, a file therefore holds only whole lines.

    Args:
        path: The file. It and its folder are created if missing.
        record: The record to store, without ``schema``.

    Raises:
        ValueError: If the record does not follow the schema, or the file holds anything but results; the file is then
            unchanged.
        OSError: If the line did not fit on the disk.
    """
    if "key" not in record:
        raise ValueError("record must have a 'key': take Run.key")
    stored = {"key": record["key"], "schema": SCHEMA, **record}
    line = json.dumps(stored, allow_nan=False, separators=(",", ":")).encode("ascii")
    parse(line)  # what is written can be read
    line += b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with _locked(descriptor):
            size = _end_last_line(descriptor, path)
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


@contextmanager
def _locked(descriptor: int) -> Generator[None]:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # closing the descriptor, or dying, releases it
    yield


def _end_last_line(descriptor: int, path: Path) -> int:
    """Complete the last line of a file, or remove it if it is torn; return the size of the file.

    Raises:
        ValueError: If the file holds anything but result lines; it is then unchanged.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ValueError(f"{for_terminal(path)} {OTHERS}: it is no regular file; give another")
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        content = file.read()
    _check_ours(content, path)
    last = content.rpartition(b"\n")[2]
    if _is_result(last):
        os.write(descriptor, b"\n")  # somebody's editor left out the end
        return len(content) + 1
    size = len(content) - len(last)
    os.ftruncate(descriptor, size)
    return size


def _check_ours(content: bytes, path: Path) -> None:
    """Raise ValueError if a file holds anything but results, whole or cut off."""
    filled = [(number, text) for number, text in enumerate(content.split(b"\n"), start=1) if text.strip()]
    for number, text in filled:
        if not (_begins_as_ours(text) or _is_result(text)):
            raise ValueError(
                f"{for_terminal(path)} {OTHERS} (line {number}): nothing is written to it; give another file"
            )
    if not (any(_is_result(text) for _, text in filled) or all(_is_torn(text) for _, text in filled)):
        raise ValueError(f"{for_terminal(path)} {OTHERS}: nothing is written to it; give another file")


def _begins_as_ours(text: bytes) -> bool:
    """Return True if a line is the beginning of a result, however short. A crash of the machine may leave zeros."""
    start = text.strip(b"\0")[: 2 * len(BEGINNING)].replace(b" ", b"")[: len(BEGINNING)]
    return BEGINNING.startswith(start)


def _is_result(text: bytes) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _is_torn(text: bytes) -> bool:
    """Return True if a line that begins as a result is cut off, and long enough to be no other text."""
    try:
        parse(text)
    except ValueError as error:
        return isinstance(error, NoJSONError) and text.replace(b" ", b"").startswith(BEGINNING)
    return False
