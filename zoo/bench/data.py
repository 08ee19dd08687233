"""The image sets of the benchmark, held in memory as normalised tensors.

A new set is one function that returns a `Dataset` and one row in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo.bench.recipe import Recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled image set, split in two.

    Attributes:
        name: The key in `DATASETS`.
        train_images: (N, C, H, W) float32, normalised with the statistics of the training half.
        train_labels: (N,) int64; what a task other than classification predicts, see `zoo.bench.tasks`.
        test_images: (M, C, H, W) float32, normalised with the same statistics.
        test_labels: The same of the test images.
        num_classes: Number of classes.
        fill: Normalised value of the background, which a shifted image shows at its border.
    """

    name: str
    train_images: Tensor
    train_labels: Any
    test_images: Tensor
    test_labels: Any
    num_classes: int
    fill: float

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def describe(self) -> dict[str, Any]:
        """Return name, sizes and classes as they are stored with a result."""
        return {
            "name": self.name,
            "train": len(self.train_images),
            "test": len(self.test_images),
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
        }


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """How to load a set, and the recipe that every net is trained with on it."""

    load: Callable[[], Dataset]
    recipe: Recipe


def systematic_split(labels: np.ndarray, test_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a labelled set so that each class has its share, to within one image, on both sides.

    The images are ordered by class, then by position, and `test_size` of them are drawn at even distances (systematic
    sampling). No random generator takes part, so the split is the same with every version of every library.

    Args:
        labels: (N,) class of each image.
        test_size: Images in the test half.

    Returns:
        Positions of the training images and of the test images, each in ascending order.

    Raises:
        ValueError: If one of the halves would be empty.
    """
    total = len(labels)
    if not 0 < test_size < total:
        raise ValueError(f"test_size must lie between 1 and {total - 1} for {total} images, got {test_size}")
    by_class = np.argsort(labels, kind="stable")
    steps = np.arange(total + 1) * test_size // total
    drawn = steps[1:] > steps[:-1]
    return np.sort(by_class[~drawn]), np.sort(by_class[drawn])


def load_digits() -> Dataset:
    """Return scikit-learn's handwritten digits: 897 training and 900 test images of shape (3, 32, 32).

    The 1,797 grey 8x8 images are part of the scikit-learn package (the test part of the UCI set "Optical Recognition
    of Handwritten Digits", Alpaydin and Kaynak 1998), so nothing is downloaded. They are up-sampled bilinearly and
    repeated to three channels: a preset then keeps the stem, and the parameter count, that its paper has. The writers
    are not recorded, so both halves hold digits of the same hands.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # optional dependency: the `bench` extra

    bunch = sklearn_digits()
    train, test = systematic_split(bunch.target, test_size=900)
    grey = torch.from_numpy(bunch.images / bunch.images.max()).float()[:, None]  # (1797, 1, 8, 8) in [0, 1]
    images = interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    mean, std = images[train].mean(), images[train].std()
    images = ((images - mean) / std).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    return Dataset(
        name="digits",
        train_images=images[train].contiguous(),
        train_labels=labels[train],
        test_images=images[test].contiguous(),
        test_labels=labels[test],
        num_classes=10,
        fill=float(-mean / std),
    )


DATASETS = {
    "digits": DatasetRow(
        load=load_digits,
        recipe=Recipe(epochs=8, batch_size=32, lr=0.1, weight_decay=5e-4, warmup_epochs=1, max_shift=2),
    ),
}


def dataset_row(name: str) -> DatasetRow:
    """Return the row of a set.

    Raises:
        ValueError: If there is no such set; the message lists them.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


@cache
def load_dataset(name: str) -> Dataset:
    """Load a set once a process.

    Raises:
        ValueError: If there is no such set; the message lists them.
    """
    return dataset_row(name).load()
