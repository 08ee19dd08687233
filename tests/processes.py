"""Processes that begin at once, for tests: forked from one that has imported what all of them need."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["zoo.bench.sweep", "zoo_cli.bench", "sklearn.datasets", "test_engines"])


@dataclass(frozen=True)
class Ended:
    """What a process has left: its status (below 0 the signal that ended it) and what it has printed."""

    status: int
    out: str
    err: str


def run_zoo(*words: str, folder: Path, encoding: str = "utf-8", prepare: Callable[[], object] | None = None) -> Ended:
    """Run the command line in a process of its own.

    Args:
        words: Verb and arguments.
        folder: For what it prints.
        encoding: Encoding of its terminal.
        prepare: Called in the process before. A function of a module, for it is sent by its name.
    """
    files = [folder / f"zoo-{name}.txt" for name in ("out", "err")]
    process = FORK.Process(target=_run, args=(words, files, encoding, prepare))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, *(file.read_text(encoding) for file in files))


def _run(words: tuple[str, ...], files: list[Path], encoding: str, prepare: Callable[[], object] | None) -> None:
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream, file in zip(streams, files, strict=True):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream.fileno())
        stream.reconfigure(encoding=encoding)
    if prepare is not None:
        prepare()
    from zoo_cli import main

    sys.exit(main(list(words)))
