"""One half of an image set: pictures with labels, by position. A picture comes with its own label or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from zoo.datasets.decode import PictureError
from zoo.interrupts import for_parent_alone

Item = tuple[Tensor, int] | PictureError
"""A picture as a tensor with its label, or the error that it gave."""


@dataclass(kw_only=True, eq=False)
class Half(Dataset):
    """Labelled pictures.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        all_labels: (N,) int64 class of each found picture.
        kept: Positions of the used pictures, in ascending order; None for all.
    """

    classes: tuple[str, ...]
    all_labels: np.ndarray
    kept: np.ndarray | None = None

    def picture(self, found: int) -> Image.Image:
        """Return the picture at position ``found`` among those that were found, in RGB.

        Raises:
            PictureError: If it cannot be read.
        """
        raise NotImplementedError

    def look(self, found: int) -> bytes:
        """Read a whole picture and return a digest of its content.

        Raises:
            PictureError: If it cannot be read.
        """
        raise NotImplementedError

    def name(self, found: int) -> str:
        """Return the name of a picture in errors."""
        raise NotImplementedError

    def digest(self) -> str:
        """Return a digest of the used pictures, for the fingerprint of a set."""
        raise NotImplementedError

    def state(self) -> str:
        """Return a digest that changes when a picture is changed, added or removed; no picture is read."""
        raise NotImplementedError

    @property
    def positions(self) -> np.ndarray:
        """Positions of the used pictures among the found ones."""
        return np.arange(len(self.all_labels)) if self.kept is None else self.kept

    @property
    def labels(self) -> np.ndarray:
        """Class of each used picture."""
        return self.all_labels if self.kept is None else self.all_labels[self.kept]

    def without(self, found: Collection[int]) -> Self:
        """Return the half without some of the found pictures."""
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
    """Pictures as tensors. An unreadable one gives its error as item, because a worker could only raise a traceback."""

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
    """Yield images, labels and errors of each batch; images and labels are None if no picture can be read.

    Args:
        items: Dataset of `Item`.
        batch_size: Number of items per batch.
        order: Indices into ``items``, in order. Default: all positions.
        workers: Number of reading processes; 0 for none.
        **options: Options of torch's loader.
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
