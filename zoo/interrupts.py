"""Ctrl-C and the processes that this one starts."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def for_parent_alone() -> Generator[None]:
    """Let Ctrl-C not reach the processes that are started within, from their first moment on.

    A terminal interrupts all processes of a command at once. The parent ends its own children; each of them would print
    a traceback before. An interrupt that comes meanwhile is delivered at the end.
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
