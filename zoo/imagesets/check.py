"""All pictures of a set read once before anything is trained on them; what was found is remembered in a file."""

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

from zoo.files import write_atomically
from zoo.imagesets.decode import PictureError
from zoo.imagesets.fingerprint import digest
from zoo.imagesets.half import Half
from zoo.interrupts import for_parent_alone

VERSION = 1
"""Of the rules; another one looks at everything again."""
BATCH = 16
PATIENCE = 2.0
"""Seconds until a bar shows."""
SHOWN = 5
"""Pictures that a message names before it counts."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is wrong with a set.

    Attributes:
        broken: For each half, position among those found -> why the picture cannot be read, beginning with its name.
        twins: Names of a training picture and a test picture with the same content.
    """

    broken: tuple[Mapping[int, str], ...]
    twins: tuple[tuple[str, str], ...]


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
        halves: The two.
        title: What the bar calls them.
        workers: Processes that read; 0 for none.
        memory: File that remembers: a set of which no file was changed, added or removed since is not read again.
        looked_at: Which of them are read.
    """
    state = digest([VERSION, PIL.__version__, looked_at, *(half.state() for half in halves)])
    remembered = _read(memory)
    if state in remembered:
        return remembered[state]
    broken: list[dict[int, str]] = []
    seen: dict[bytes, str] = {}
    twins: list[tuple[str, str]] = []
    total = sum(len(half) for half, look in zip(halves, looked_at, strict=True) if look)
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, desc=f"checking {title}", unit="picture", delay=PATIENCE, leave=False, disable=quiet) as bar:
        for number, half in enumerate(halves):
            broken.append({})
            if not looked_at[number]:
                continue
            with for_parent_alone():
                looks = iter(DataLoader(_Looks(half), BATCH, num_workers=workers, collate_fn=list))
            for found, content, reason in (look for batch in looks for look in batch):
                bar.update()
                if reason:
                    broken[-1][found] = reason
                elif number == 0:
                    seen[content] = half.name(found)
                elif content in seen:
                    twins.append((seen[content], half.name(found)))
    result = Found(broken=tuple(broken), twins=tuple(twins))
    _write(memory, remembered | {state: result})
    return result


def refuse_twins(found: Found) -> None:
    """Raise a ValueError that names two files, if a picture is in both halves."""
    if found.twins:
        first, second = found.twins[0]
        more = f", and so are {len(found.twins) - 1} more" if len(found.twins) > 1 else ""
        raise ValueError(
            f"one picture is in both halves: {first} and {second} have the same content{more}; remove one of each pair"
        )


def leave_out(halves: Sequence[Half], found: Found, *, skip: bool) -> tuple[Half, ...]:
    """Return the halves without what cannot be read, with a warning that names it.

    Raises:
        ValueError: If there is such and it is not to be skipped, or if a class is empty without it.
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
    """Position among those found, digest of the content, and why there is none."""

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
    """What is remembered; nothing where the file is none of ours, for all can be looked at again."""
    if memory is None or not memory.is_file():
        return {}
    try:
        stored: dict[str, Any] = json.loads(memory.read_bytes())["sets"]
        return {
            state: Found(
                broken=tuple({int(i): str(reason) for i, reason in half.items()} for half in found["broken"]),
                twins=tuple((str(a), str(b)) for a, b in found["twins"]),
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
