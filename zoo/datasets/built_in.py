"""The built-in image sets: scikit-learn's digits, Fashion-MNIST, and digits with a texture, with a fixed split.

A new one is a function that returns a `Dataset` and one row in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from zoo.datasets import fashion
from zoo.datasets.cues import cues_from
from zoo.datasets.image_set import Dataset
from zoo.datasets.library import unknown
from zoo.datasets.split import systematic_split
from zoo.recipes import RECIPES
from zoo.results.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """Loader of a built-in set, and the recipe of every net on it.

    Attributes:
        load: Returns the set; called with `folder` and `download` if the set is `located`.
        recipe: The default recipe.
        keyed_by_name: True if the key of a run holds only the name of the set: for sets whose content is checked or
            comes with a package, so that one name is one set.
        located: True if the set's files may be in a folder that the user names.
    """

    load: Callable[..., Dataset]
    recipe: Recipe
    keyed_by_name: bool = False
    located: bool = False


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
        classes=tuple(map(str, range(10))),
        fill=float(-mean / std),
        mean=mean,
        std=std,
    )


def load_fashion(folder: Path | None = None, download: bool = False) -> Dataset:
    """Return Fashion-MNIST: 60,000 training and 10,000 test images of shape (3, 28, 28), as bytes.

    The grey images are repeated to three channels, as the digits are.

    Args:
        folder: Folder of its four files, see `zoo.datasets.fashion.find`; None for the folder of Debian's package.
        download: True if torchvision may download them into `folder`.

    Raises:
        ValueError: If the files are missing, or are not the published ones.
    """
    place = fashion.find(folder, download=download)
    return _fashion("fashion", fashion.read(place, "train"), fashion.read(place, "test"))


def load_fashion_search(folder: Path | None = None, download: bool = False) -> Dataset:
    """Return 12,000 training images of Fashion-MNIST, split to choose a recipe: 8,000 to train, 4,000 to validate.

    No image of the test half is among them. Each class has its share on both sides, see `systematic_split`.

    Args:
        folder: See `load_fashion`.
        download: See `load_fashion`.

    Raises:
        ValueError: See `load_fashion`.
    """
    whole = fashion.read(fashion.find(folder, download=download), "train")
    _, chosen = systematic_split(whole.labels.numpy(), test_size=12_000)
    train, test = systematic_split(whole.labels[chosen].numpy(), test_size=4_000)
    halves = [fashion.Half(whole.images[chosen[own]], whole.labels[chosen[own]]) for own in (train, test)]
    return _fashion("fashion_search", *halves)


def _fashion(name: str, train: fashion.Half, test: fashion.Half) -> Dataset:
    grey = train.images.float() / 255
    mean, std = grey.mean(), grey.std()
    return Dataset(
        name=name,
        # One byte a pixel: the three channels are one in memory.
        train_images=train.images[:, None].expand(-1, 3, -1, -1),
        train_labels=train.labels,
        test_images=test.images[:, None].expand(-1, 3, -1, -1),
        test_labels=test.labels,
        num_classes=len(fashion.CLASSES),
        classes=fashion.CLASSES,
        fill=float(-mean / std),
        mean=mean,
        std=std,
    )


def load_cues() -> Dataset:
    """Return digits whose shape and texture agree, see `zoo.datasets.cues`: 897 training and 900 test images."""
    return cues_from(load_digits())


DATASETS = {
    "digits": DatasetRow(load=load_digits, recipe=RECIPES["digits"].recipe, keyed_by_name=True),
    "cues": DatasetRow(load=load_cues, recipe=RECIPES["digits"].recipe),
    # Their files are checked against the published ones, so one name is one set.
    "fashion": DatasetRow(load=load_fashion, recipe=RECIPES["fashion"].recipe, keyed_by_name=True, located=True),
    "fashion_search": DatasetRow(
        load=load_fashion_search, recipe=RECIPES["fashion"].recipe, keyed_by_name=True, located=True
    ),
}


def dataset_row(name: str) -> DatasetRow:
    """Return the row of a set.

    Raises:
        ValueError: If the set does not exist; the message lists the sets.
    """
    if name not in DATASETS:
        raise unknown(name, tuple(DATASETS))
    return DATASETS[name]


def load_dataset(name: str, folder: Path | None = None, download: bool = False) -> Dataset:
    """Load a built-in set, once per process.

    Args:
        name: A key of `DATASETS`.
        folder: Folder of its files, for sets that have files.
        download: True if they may be downloaded into the folder.

    Raises:
        ValueError: If the set does not exist, or its files cannot be read.
    """
    return _load(dataset_row(name), folder, download)


@cache
def _load(row: DatasetRow, folder: Path | None, download: bool) -> Dataset:
    return row.load(folder, download) if row.located else row.load()
