"""Runs in progress on disk: their states, and which process trains which.

A state is written after every epoch, read when its run goes on, and removed when the result is stored.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zoo.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows: two benches at a time in one folder are not protected from each other
    fcntl = None  # type: ignore[assignment]

FILE = re.compile(r"\.?(?P<key>[0-9a-f]+)\.(?P<kind>pt|lock)(?P<unfinished>\..+)?")
"""Names in the folder: ``KEY.pt``, ``KEY.lock``, and ``.KEY.pt.xxxx`` while a state is being written."""


class Saved:
    """The file of one run.

    It holds tensors and plain values only and is read with ``weights_only=True``, for it may be anybody's.

    Args:
        path: The file; its folder is made when it is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """Return the state of the last epoch; None if there is no file, or none that can be read."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a broken or foreign file makes of the reader: the run starts anew
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"{self.path} cannot be read, its run begins anew: {reason}", stacklevel=2)
            return None
        return state if isinstance(state, dict) else None

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file; a disk that has no room is a warning, for the run itself can go on."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            warnings.warn(f"{self.path} could not be written, the run cannot be resumed here: {error}", stacklevel=2)

    def remove(self) -> None:
        """Remove the file, and its folder where it was the last."""
        with suppress(OSError):  # there is none
            self.path.unlink()
        with suppress(OSError):  # others are in it
            self.path.parent.rmdir()


class Claim:
    """A run that this process trains and no other one, until it is released or the process ends.

    Args:
        path: The lock file.
        descriptor: The open lock file; None where the file system has no locks.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others train the run, and remove the lock file, and its folder where it was the last."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):  # others are in it
            self.path.parent.rmdir()


class States:
    """The folder of the runs in progress of one results file.

    Args:
        folder: It is made with the first claim or state. None keeps nothing, and protects no run.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def claim(self, key: str) -> Claim | None:
        """Claim the run of that key; return None if another process trains it."""
        # Locks of processes, which no child inherits: those that read images outlive a killed parent for a moment.
        path = (self.folder or Path()) / f"{key}.lock"
        if fcntl is None or self.folder is None:
            return Claim(path)
        for _ in range(100):  # more than once only where others come and go
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # another process has just removed the folder with its last lock
                continue
            except OSError:
                break
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return Claim(path, descriptor)
                os.close(descriptor)
            except FileNotFoundError:  # its owner removed it between the opening and the lock
                os.close(descriptor)
            except (BlockingIOError, PermissionError):
                os.close(descriptor)
                return None
            except OSError:  # a file system without locks
                os.close(descriptor)
                break
        return Claim(path)

    def clean(self, finished: Collection[str]) -> None:
        """Remove what processes that were killed have left: half-written states, states of finished runs, locks.

        Args:
            finished: Keys of the finished runs.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        found: dict[str, list[tuple[Path, re.Match[str]]]] = {}
        for path in self.folder.iterdir():
            if match := FILE.fullmatch(path.name):
                found.setdefault(match["key"], []).append((path, match))
        for key, files in found.items():
            claim = self.claim(key)
            if claim is None:
                continue
            for path, match in files:
                if match["unfinished"] or (match["kind"] == "pt" and key in finished):
                    with suppress(OSError):
                        path.unlink()
            claim.release()
