"""Processes that begin at once, for tests: forked from one that has imported what all of them need."""

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo_cli

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["zoo.bench.sweep", "zoo_cli.bench", "sklearn.datasets", "test_engines"])


@dataclass(frozen=True)
class Ended:
    """What a process has left: its status (below 0 the signal that ended it) and what it has printed."""

    status: int
    out: str
    err: str


def run_zoo(*words: str, folder: Path, encoding: str = "utf-8", prepare: Callable[[], object] | None = None) -> Ended:
    """Run the command line in a process of its own; arguments as below."""
    return run_apart(zoo_cli.main, *words, folder=folder, encoding=encoding, prepare=prepare)


def run_apart(
    main: Callable[[list[str]], int | None],
    *words: str,
    folder: Path,
    encoding: str = "utf-8",
    prepare: Callable[[], object] | None = None,
) -> Ended:
    """Run a command in a process of its own.

    Args:
        main: The command. It takes the words and returns its status. As ``prepare``, a function of a module, for
            functions are sent by name.
        words: Arguments.
        folder: For what it prints.
        encoding: Encoding of its terminal.
        prepare: Called in the process before.
    """
    files = [folder / f"apart-{name}.txt" for name in ("out", "err")]
    process = FORK.Process(target=_run, args=(main, words, files, encoding, prepare))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, *(file.read_text(encoding) for file in files))


@contextmanager
def killed_at(files: str, last: int | None) -> Iterator[Callable[[], int]]:
    """Kill this process at a line of the code that runs inside, which is a moment that repeats everywhere.

    Args:
        files: Regular expression; lines of files that it finds are counted.
        last: Number of the line; None for none.

    Yields:
        A function that returns how many lines have run.
    """
    ran = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal ran
        if not re.search(files, frame.f_code.co_filename):
            return None
        ran += event == "line"
        if ran == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)
    try:
        yield lambda: ran
    finally:
        sys.settrace(None)


def _run(main: Any, words: tuple[str, ...], files: list[Path], encoding: str, prepare: Any) -> None:
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream, file in zip(streams, files, strict=True):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream.fileno())
        stream.reconfigure(encoding=encoding)
    if prepare is not None:
        prepare()
    sys.exit(main(list(words)))
