"""Write files completely or not at all, and check that they can be written."""

import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED = 24 * 3600
"""Seconds without a change after which an unfinished file belongs to no process."""


def check_writable(name: str, path: Path, *, folder: bool = False) -> None:
    """Check that a file, or files in a folder, can be written; leave nothing behind.

    Args:
        name: Name of the option or argument, for the message.
        path: The file or folder. It and the folders above it may be missing.
        folder: True if the path is a folder.

    Raises:
        ValueError: If it cannot be written; the message says why.
    """
    try:
        if path.is_dir() and not folder:
            raise ValueError(f"{name} {path} is a folder: name a file in it")
        if path.exists() and not folder:
            if not path.is_file():  # a device would be replaced, and a pipe waits for a reader
                raise ValueError(f"{name} {path} is no regular file: name another")
            path.open("ab").close()
        above = path.absolute() if folder else path.absolute().parent
        tempfile.TemporaryFile(dir=next(p for p in (above, *above.parents) if p.exists())).close()
    except OSError as error:
        raise ValueError(f"{name} {path} cannot be written: {error.strerror or error}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file in one step, so that no reader and no crash ever sees half of it. Its folder must exist."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | os.PathLike[str], *, sweep: bool = True) -> Generator[BinaryIO]:
    """Open a file for writing that replaces another when it is closed, and is removed if an error is raised.

    Its permissions are those that `open` would give: those of the old file, or the umask's for a new one.

    Args:
        path: The file to replace; its folder must exist. A link is followed.
        sweep: Remove what killed processes have left of this file. It lists the folder, which takes long where each of
            many files does it.

    Raises:
        OSError: If it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if sweep:
        _remove_remains(target)
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_remains(target: Path) -> None:
    """Remove unfinished files of this name that nobody has written to for long: their processes were killed."""
    name = re.compile(re.escape(f".{target.name[:50]}.") + "[0-9a-f]{8}")
    with suppress(OSError):
        for path in target.parent.iterdir():
            if name.fullmatch(path.name) and path.lstat().st_mtime < time.time() - ABANDONED:
                path.unlink()


def write_in_folder(path: Path, content: bytes) -> None:
    """Replace a file in one step, and create its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
