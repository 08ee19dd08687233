"""Digests of image sets. They tell apart sets that share a name, and versions of a set that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.datasets.decode import PictureError, read_file

LENGTH = 16
SMALL = 2**26
"""Total file size, in bytes, up to which a fingerprint reads all files; of larger sets it reads `SAMPLED` files."""
SAMPLED = 64


def digest(parts: Iterable[Any]) -> str:
    """Return a short digest of texts, numbers, bytes, tensors, and lists and dicts of them."""
    total = hashlib.sha256()
    for part in parts:
        _add(total, part)
    return total.hexdigest()[:LENGTH]


def file_digest(files: Sequence[tuple[str, Path, int, int]], *, whole: bool = False) -> str:
    """Return the digest of labelled files: names, labels, sizes and contents.

    Args:
        files: Name (relative, so that a copy of the folder is the same set), path, label and size in bytes of each
            file.
        whole: Read all files, whatever their size.
    """
    files = sorted(files, key=lambda file: file[0])
    whole = whole or sum(size for *_, size in files) <= SMALL
    read = files if whole else [files[i] for i in evenly(len(files), SAMPLED)]
    names = [(name, label, size) for name, _, label, size in files]
    return digest([names, *(_content(path) for _, path, *_ in read)])


def _content(path: Path) -> bytes:
    try:
        return hashlib.sha256(read_file(path, path.name)).digest()
    except PictureError:  # told where the picture is used
        return b""


def evenly(total: int, wanted: int) -> list[int]:
    """Return positions at even distances, including the first and the last."""
    if total <= wanted:
        return list(range(total))
    return [i * (total - 1) // (wanted - 1) for i in range(wanted)]


def _add(total: Any, part: Any) -> None:
    """Add a part with its kind and length, so that different lists of parts never give the same bytes."""
    if isinstance(part, Tensor):
        part = part.detach().cpu().contiguous().numpy()
    if isinstance(part, np.ndarray):
        total.update(f"array {part.dtype.str} {part.shape} ".encode())
        total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    elif isinstance(part, bytes):
        total.update(f"bytes {len(part)} ".encode())
        total.update(part)
    elif isinstance(part, dict):
        _add(total, sorted(part.items()))
    elif isinstance(part, list | tuple):
        total.update(f"list {len(part)} ".encode())
        for one in part:
            _add(total, one)
    else:
        text = f"{type(part).__name__} {part}".encode("utf-8", "surrogateescape")
        total.update(f"text {len(text)} ".encode())
        total.update(text)
