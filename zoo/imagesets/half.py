"""Half of an image set: pictures with labels, by position; each comes with its own label or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from zoo.imagesets.decode import PictureError
from zoo.interrupts import for_parent_alone

Item = tuple[Tensor, int] | PictureError
"""A picture as a tensor with its label, or why there is none."""


@dataclass(kw_only=True, eq=False)
class Half(Dataset):
    """Labelled pictures.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        all_labels: (N,) int64 class of each picture that was found.
        kept: Positions of those that are used, in ascending order; None for all.
    """

    classes: tuple[str, ...]
    all_labels: np.ndarray
    kept: np.ndarray | None = None

    def picture(self, found: int) -> Image.Image:
        """Return picture number ``found`` of those that were found, in RGB.

        Raises:
            PictureError: If it cannot be read.
        """
        raise NotImplementedError

    def look(self, found: int) -> bytes:
        """Read a picture as a whole and return a digest of what it holds.

        Raises:
            PictureError: If it cannot be read.
        """
        raise NotImplementedError

    def name(self, found: int) -> str:
        """What errors call a picture."""
        raise NotImplementedError

    def digest(self) -> str:
        """Return a digest of the pictures that are used, for the fingerprint of a set."""
        raise NotImplementedError

    def state(self) -> str:
        """Return a digest that changes when a picture is changed, added or removed; nothing is read for it."""
        raise NotImplementedError

    @property
    def positions(self) -> np.ndarray:
        """Positions of the pictures that are used among those that were found."""
        return np.arange(len(self.all_labels)) if self.kept is None else self.kept

    @property
    def labels(self) -> np.ndarray:
        """Class of each picture that is used."""
        return self.all_labels if self.kept is None else self.all_labels[self.kept]

    def without(self, found: Collection[int]) -> Self:
        """Return the half without some of the pictures that were found."""
        return replace(self, kept=np.setdiff1d(self.positions, np.fromiter(found, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.all_labels) if self.kept is None else len(self.kept)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        """Return a picture in RGB and its label.

        Raises:
            PictureError: If it cannot be read.
        """
        found = position if self.kept is None else int(self.kept[position])
        if not 0 <= found < len(self.all_labels):
            raise IndexError(f"picture {position} of {len(self)} does not exist")
        return self.picture(found), int(self.all_labels[found])


@dataclass(frozen=True)
class Prepared(Dataset):
    """Pictures as tensors; what cannot be read is an item, too, for an error that leaves a worker is a traceback."""

    half: Dataset
    change: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.half)  # ty: ignore[invalid-argument-type]

    def __getitem__(self, position: int) -> Item:
        try:
            image, label = self.half[position]
        except PictureError as error:
            return error
        return self.change(image), int(label)


def read_batches(
    items: Dataset, batch_size: int, order: Sequence[Any] | None = None, *, workers: int = 0, **options: Any
) -> Iterator[tuple[Tensor | None, Tensor | None, list[PictureError]]]:
    """Yield images, labels, and why others of the batch are missing; None where all are.

    Args:
        items: Gives `Item`.
        batch_size: Of them at a time.
        order: What ``items`` are asked for, one after the other; unless given, all positions.
        workers: Processes that read; 0 for none.
        **options: Of torch's loader.
    """
    loader = DataLoader(
        items,
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        collate_fn=_gather,
        # Not torch's own random numbers, which belong to the net.
        generator=torch.Generator(),
        **options,
    )
    with for_parent_alone():
        batches = iter(loader)
    yield from batches


def _gather(items: Sequence[Item]) -> tuple[Tensor | None, Tensor | None, list[PictureError]]:
    broken = [item for item in items if isinstance(item, PictureError)]
    whole = [item for item in items if not isinstance(item, PictureError)]
    images, labels = default_collate(whole) if whole else (None, None)
    return images, labels, broken
