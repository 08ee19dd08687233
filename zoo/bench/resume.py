"""Runs in progress on disk: their checkpoints, and locks that show which process trains which run.

A checkpoint is written after every epoch, read when its run goes on, and removed when the result is stored.
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
"""Names in the folder: ``KEY.pt``, ``KEY.lock``, and ``.KEY.pt.xxxx`` while a checkpoint is being written."""


class Saved:
    """Checkpoint file of one run.

    It holds only tensors and plain values and is read with ``weights_only=True``, because anybody may have written it.

    Args:
        path: The file. Its folder is created at the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """Return the state after the last epoch; None if there is no readable file."""
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
        """Replace the file. A full disk gives only a warning, because the run itself can go on."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            warnings.warn(f"{self.path} could not be written, the run cannot be resumed here: {error}", stacklevel=2)

    def remove(self) -> None:
        """Remove the file, and its folder if that is then empty."""
        with suppress(OSError):  # there is none
            self.path.unlink()
        with suppress(OSError):  # others are in it
            self.path.parent.rmdir()


class Claim:
    """Claim on a run: only this process trains it, until the claim is released or the process ends.

    Args:
        path: The lock file.
        descriptor: The open lock file; None if the file system has no locks.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others train the run. Remove the lock file, and its folder if that is then empty."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):  # others are in it
            self.path.parent.rmdir()


class States:
    """Folder of the runs in progress of one results file.

    Args:
        folder: The folder, created with the first claim or checkpoint. None keeps nothing, and protects no run.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def claim(self, key: str) -> Claim | None:
        """Claim the run of a key; return None if another process trains it."""
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
        """Remove the remains of killed processes: half-written checkpoints, checkpoints of finished runs, locks.

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
