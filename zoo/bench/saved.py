"""A run in progress on disk: written after every epoch, read when it goes on, removed when its result is stored."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zoo.files import write_atomically


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
