"""Ctrl-C and child processes."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def for_parent_alone() -> Generator[None]:
    """Keep Ctrl-C from the processes that are started inside this context, from their start.

    A terminal interrupts all processes of a command at once. The parent ends its own children; otherwise each of them
    would print a traceback first. An interrupt that arrives inside the context is delivered at its end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # a process starts it where it is missing, and then takes our signals back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
