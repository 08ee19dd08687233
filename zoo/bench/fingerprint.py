"""Digests of image sets: two sets that share a name, or one that has changed, are two to the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

LENGTH = 16
SMALL = 2**26
"""Bytes of files up to which all of them are read for a fingerprint; of larger sets `SAMPLED` files are."""
SAMPLED = 64


def digest(parts: Iterable[Any]) -> str:
    """Return a short digest of texts, numbers, bytes, tensors, and lists and dicts of them."""
    total = hashlib.sha256()
    for part in parts:
        _add(total, part)
    return total.hexdigest()[:LENGTH]


def file_digest(half: Sequence[tuple[str, Path, int]]) -> str:
    """Return the digest of labelled files: names, labels, sizes, and what is in them.

    Args:
        half: Name (relative, so that a copy of the folder is the same set), path and label of each file.

    Raises:
        OSError: If a file cannot be read.
    """
    files = sorted(half, key=lambda file: file[0])
    sizes = [path.stat().st_size for _, path, _ in files]
    whole = sum(sizes) <= SMALL
    read = files if whole else [files[i] for i in evenly(len(files), SAMPLED)]
    names = [(name, label, size) for (name, _, label), size in zip(files, sizes, strict=True)]
    return digest([names, *(hashlib.sha256(path.read_bytes()).digest() for _, path, _ in read)])


def evenly(total: int, wanted: int) -> list[int]:
    """Return positions at even distances, the first and the last among them."""
    if total <= wanted:
        return list(range(total))
    return [i * (total - 1) // (wanted - 1) for i in range(wanted)]


def _add(total: Any, part: Any) -> None:
    """Add a part with its kind and length, so that no two lists of parts read the same."""
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
