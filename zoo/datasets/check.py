"""Read all pictures of a set once before anything is trained on them, and store the findings in a file."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from zoo.datasets.decode import PictureError
from zoo.datasets.fingerprint import digest
from zoo.datasets.half import Half
from zoo.files import write_atomically
from zoo.interrupts import for_parent_alone

VERSION = 2
"""Version of the rules. A new version checks everything again."""
BATCH = 16
PATIENCE = 2.0
"""Seconds until a progress bar appears."""
SHOWN = 5
"""Number of pictures that a message names before it only counts."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Findings about a set.

    Attributes:
        broken: One mapping per half: position among the found pictures -> reason why the picture cannot be read,
            beginning with its name.
        twins: Names of a training picture and a test picture with the same content.
        doubles: Names of two pictures of one half with the same content.
    """

    broken: tuple[Mapping[int, str], ...]
    twins: tuple[tuple[str, str], ...]
    doubles: tuple[tuple[str, str], ...] = ()


def check_halves(
    halves: Sequence[Half],
    *,
    title: str,
    workers: int = 0,
    memory: Path | None = None,
    looked_at: tuple[bool, bool] = (True, True),
) -> Found:
    """Read every picture of the training and the test half.

    Args:
        halves: The training half and the test half.
        title: Name of the set in the progress bar.
        workers: Number of reading processes; 0 for none.
        memory: File for the findings. A set is not read again if no file was changed, added or removed since.
        looked_at: True for each half that is read.
    """
    state = digest([VERSION, PIL.__version__, looked_at, *(half.state() for half in halves)])
    remembered = _read(memory)
    if state in remembered:
        return remembered[state]
    broken: list[dict[int, str]] = []
    trained: dict[bytes, str] = {}
    twins: list[tuple[str, str]] = []
    doubles: list[tuple[str, str]] = []
    total = sum(len(half) for half, look in zip(halves, looked_at, strict=True) if look)
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, desc=f"checking {title}", unit="picture", delay=PATIENCE, leave=False, disable=quiet) as bar:
        for number, half in enumerate(halves):
            broken.append({})
            own = trained if number == 0 else {}
            if not looked_at[number]:
                continue
            with for_parent_alone():
                looks = iter(DataLoader(_Looks(half), BATCH, num_workers=workers, collate_fn=list))
            for found, content, reason in (look for batch in looks for look in batch):
                bar.update()
                if reason:
                    broken[-1][found] = reason
                    continue
                name = half.name(found)
                if number and content in trained:
                    twins.append((trained[content], name))
                if own.setdefault(content, name) != name:
                    doubles.append((own[content], name))
    result = Found(broken=tuple(broken), twins=tuple(twins), doubles=tuple(doubles))
    _write(memory, remembered | {state: result})
    return result


def tell_copies(found: Found, *, published: bool) -> None:
    """Warn of pictures that are twice in one half, and refuse a set with a picture in both halves.

    Args:
        found: Findings about the set.
        published: True for a set whose halves are others' work. It is used as it is, with a warning.

    Raises:
        ValueError: If a picture is in both halves; the message names two files.
    """
    if found.doubles:
        warnings.warn(f"one picture is twice in one half: {_same(found.doubles)}; each counts", stacklevel=3)
    if not found.twins:
        return
    told = f"one picture is in both halves: {_same(found.twins)}"
    if not published:
        raise ValueError(f"{told}; remove one of each pair")
    warnings.warn(f"{told}; they are used as they were published", stacklevel=3)


def _same(pairs: Sequence[tuple[str, str]]) -> str:
    first, second = pairs[0]
    more = f", and so are {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"{first} and {second} have the same content{more}"


def leave_out(halves: Sequence[Half], found: Found, *, skip: bool) -> tuple[Half, ...]:
    """Return the halves without unreadable pictures, with a warning that names them.

    Raises:
        ValueError: If there are unreadable pictures and ``skip`` is false, or if a class is empty without them.
    """
    reasons = [reason for broken in found.broken for reason in broken.values()]
    if not reasons:
        return tuple(halves)
    counts = " and ".join(
        f"{len(broken)} of {len(half)} {name} pictures"
        for half, broken, name in zip(halves, found.broken, ("training", "test"), strict=True)
        if broken
    )
    listed = "; ".join(reasons[:SHOWN]) + f"; and {len(reasons) - SHOWN} more" * (len(reasons) > SHOWN)
    if not skip:
        raise ValueError(f"{counts} cannot be read: {listed}. Mend or remove them, or leave them out by --skip-broken")
    left = tuple(half.without(broken) for half, broken in zip(halves, found.broken, strict=True))
    for half in left:
        if empty := set(range(len(half.classes))) - set(half.labels.tolist()):
            names = ", ".join(repr(half.classes[label]) for label in sorted(empty)[:SHOWN])
            raise ValueError(f"no picture of these classes can be read: {names}; {listed}")
    warnings.warn(f"{counts} cannot be read and are left out: {listed}", stacklevel=3)
    return left


@dataclass(frozen=True)
class _Looks(Dataset):
    """Dataset of (position among the found pictures, digest of the content, reason why it cannot be read)."""

    half: Half

    def __len__(self) -> int:
        return len(self.half)

    def __getitem__(self, position: int) -> tuple[int, bytes, str]:
        found = int(self.half.positions[position])
        try:
            return found, self.half.look(found), ""
        except PictureError as error:
            return found, b"", str(error)


def _read(memory: Path | None) -> dict[str, Found]:
    """Read stored findings. A file of another form gives an empty result, because everything can be checked again."""
    if memory is None or not memory.is_file():
        return {}
    try:
        stored: dict[str, Any] = json.loads(memory.read_bytes())["sets"]
        return {
            state: Found(
                broken=tuple({int(i): str(reason) for i, reason in half.items()} for half in found["broken"]),
                twins=tuple((str(a), str(b)) for a, b in found["twins"]),
                doubles=tuple((str(a), str(b)) for a, b in found["doubles"]),
            )
            for state, found in stored.items()
            if len(found["broken"]) == 2
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(memory: Path | None, sets: Mapping[str, Found]) -> None:
    if memory is None:
        return
    content = json.dumps({"version": VERSION, "sets": {state: asdict(found) for state, found in sets.items()}})
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, content.encode("ascii"))
    except OSError as error:
        warnings.warn(f"{memory}: what was checked cannot be remembered: {error.strerror}", stacklevel=3)
