"""The image sets of the benchmark that are held in memory, and what the training loop asks of any set.

A new built-in set is one function that returns a `Dataset` and one row in `DATASETS`; `zoo.bench.images` opens those of
timm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from zoo.bench import fashion
from zoo.bench.augment import byte_changes, draw, each, erasing, flip_images, mix, shift_images
from zoo.bench.recipes import RECIPES
from zoo.imagesets.fingerprint import digest
from zoo.imagesets.library import unknown
from zoo.results.recipe import Recipe

TEST_BATCH_SIZE = 100
SHADES = 1024
"""Steps that normalised images are rounded to for their fingerprint: finer than bytes, coarser than rounding errors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """What the training loop asks of a set; `Dataset` holds one in memory, `zoo.bench.images.Stream` reads one.

    Attributes:
        name: As it is asked for: a key of `DATASETS`, or as timm names it.
        num_classes: Number of classes.
        test_labels: (M,) int64 of the test images; what a task other than classification predicts, see
            `zoo.bench.tasks`.
        classes: Their names, in the order of the net's outputs; empty where the set tells none.
        left_out: Training images and test images that could not be read and are no part of the set.
    """

    name: str
    num_classes: int
    test_labels: Any
    classes: tuple[str, ...] = ()
    left_out: tuple[int, int] = (0, 0)

    @property
    def fingerprint(self) -> str:
        """Digest of what both halves hold; the name has no part in it."""
        raise NotImplementedError

    @property
    def prepared(self) -> dict[str, Any]:
        """How an image comes to a net in evaluation, under timm's names: mean, std, interpolation, crop_pct.

        The interpolation is None where images are used at the size that they have.
        """
        raise NotImplementedError

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        raise NotImplementedError

    @property
    def train_size(self) -> int:
        """Number of training images."""
        raise NotImplementedError

    @property
    def test_size(self) -> int:
        """Number of test images."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what is stored with a result: what the images are, and all that a net needs to be used on others."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "train": self.train_size,
            "test": self.test_size,
            **({"left_out": dict(zip(("train", "test"), self.left_out, strict=True))} if any(self.left_out) else {}),
            "num_classes": self.num_classes,
            "input_size": list(self.input_size),
            **self.prepared,
            "classes": list(self.classes),
        }

    def for_recipe(self, recipe: Recipe) -> Self:
        """Return the set as a recipe wants its images.

        Raises:
            ValueError: If the set cannot give them.
        """
        raise NotImplementedError

    def on(self, device: torch.device) -> Self:
        """Return the set with batches on a device."""
        raise NotImplementedError

    def train_batches(
        self, recipe: Recipe, generator: torch.Generator, *, rank: int = 0, of: int = 1
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield images and targets of an epoch, without the incomplete last batch.

        Args:
            recipe: Batch size and changes of the images.
            generator: What chance is drawn from; it moves on by one epoch.
            rank: Of several processes that share each batch, this one's number.
            of: How many there are.
        """
        raise NotImplementedError

    def test_batches(self, *, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Any]]:
        """Yield test images and their targets, every ``of``-th from ``rank`` on."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(ImageSet):
    """A labelled image set, split in two, in memory.

    Attributes:
        train_images: (N, C, H, W), either float32 and normalised with the statistics of the training half, or bytes.
        train_labels: Of the training images, as `test_labels` are.
        test_images: (M, C, H, W), of the same kind, normalised with the same statistics.
        fill: Normalised value of the background, which a shifted image shows at its border; one for all channels, or
            one for each.
        mean: Of each channel of the training half, in [0, 1]: what normalising subtracts.
        std: What it divides by.
    """

    train_images: Tensor
    train_labels: Any
    test_images: Tensor
    fill: float | Tensor
    mean: Tensor
    std: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """Digest of images, labels and class names."""
        images = self.train_images, self.test_images
        if self.train_images.dtype != torch.uint8:
            images = tuple((self._raw(half) * SHADES).round().short() for half in images)
        return digest([self.classes, images[0], self.train_labels, images[1], self.test_labels])

    @property
    def prepared(self) -> dict[str, Any]:
        """See `ImageSet.prepared`; images are used as they are."""
        channels = self.input_size[0]
        mean, std = (value.flatten().expand(channels).tolist() for value in (self.mean, self.std))
        return {"mean": mean, "std": std, "interpolation": None, "crop_pct": 1.0}

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train_images)

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.test_images)

    def for_recipe(self, recipe: Recipe) -> Self:
        """Return the set as a recipe wants its images.

        Raises:
            ValueError: If it wants another size.
        """
        if recipe.image_size:
            raise ValueError(
                f"recipe field image_size must be 0 for {self.name}, whose images are used as they are, got "
                f"{recipe.image_size}"
            )
        return self

    def on(self, device: torch.device) -> Self:
        """Return the set with its images and training labels on a device."""
        images = {name: getattr(self, name).to(device) for name in ("train_images", "test_images", "mean", "std")}
        return replace(self, **images, train_labels=to_device(self.train_labels, device))

    def train_batches(
        self, recipe: Recipe, generator: torch.Generator, *, rank: int = 0, of: int = 1
    ) -> Iterator[tuple[Tensor, Any]]:
        """See `ImageSet.train_batches`."""
        draws = draw(self.train_size, recipe, generator)
        draws = replace(draws, order=draws.order.to(self.train_images.device))
        for start in range(0, self.train_size - recipe.batch_size + 1, recipe.batch_size):
            own = slice(start + rank, start + recipe.batch_size, of)
            chosen = draws.order[own]
            seeds = [] if draws.seeds is None else draws.seeds[own].tolist()
            images = self.train_images[chosen]
            if changes := byte_changes(recipe):
                images = each(self._bytes(images), seeds, v2.Compose(changes))
            images = self._normalised(images)
            if recipe.max_shift:
                fill = 0.0 if recipe.border == "mean" else self.fill
                images = shift_images(images, draws.shifts[own].to(images.device), fill, recipe.border)
            if draws.flips is not None:
                images = flip_images(images, draws.flips[own].to(images.device))
            if changes := erasing(recipe):
                images = each(images, seeds, v2.Compose(changes))
            labels = take(self.train_labels, chosen)
            if recipe.mixup or recipe.cutmix:
                images, labels = mix(images, labels, self.num_classes, recipe, seeds[0])
            yield images, labels

    def test_batches(self, *, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Any]]:
        """Yield test images and their targets, every ``of``-th from ``rank`` on."""
        own = torch.arange(rank, self.test_size, of)
        for chosen in own.split(TEST_BATCH_SIZE):
            images = self._normalised(self.test_images[chosen.to(self.test_images.device)])
            yield images, take(self.test_labels, chosen)

    def _normalised(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        return (images.float() / 255 - _channels(self.mean)) / _channels(self.std)

    def _bytes(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return images
        return (self._raw(images) * 255).round().clamp(0, 255).byte()

    def _raw(self, images: Tensor) -> Tensor:
        """Normalised images as they were, in [0, 1]."""
        return images * _channels(self.std) + _channels(self.mean)


def _channels(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)


def take(targets: Any, chosen: Tensor) -> Any:
    """Return the targets of some images: of a tensor by its first dimension, of a list by position."""
    if isinstance(targets, Tensor):
        return targets[chosen.to(targets.device)]
    return [targets[i] for i in chosen.tolist()]


def to_device(targets: Any, device: torch.device) -> Any:
    """Return targets on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device)
    return [{key: value.to(device) for key, value in target.items()} for target in targets]


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """How to load a built-in set, and the recipe that every net is trained with on it.

    Attributes:
        load: Returns the set; called with `folder` and `download` where the set is `located`.
        recipe: The default recipe.
        keyed_by_name: Whether runs on it are known by its name alone: for sets whose content is checked or comes with a
            package, so that one name is one set.
        located: Whether the set's files may lie in a folder that the user names.
    """

    load: Callable[..., Dataset]
    recipe: Recipe
    keyed_by_name: bool = False
    located: bool = False


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
        classes=tuple(map(str, range(10))),
        fill=float(-mean / std),
        mean=mean,
        std=std,
    )


def load_fashion(folder: Path | None = None, download: bool = False) -> Dataset:
    """Return Fashion-MNIST: 60,000 training and 10,000 test images of shape (3, 28, 28), as bytes.

    The grey images are repeated to three channels, as the digits are.

    Args:
        folder: Where its four files lie, see `zoo.bench.fashion.find`; None for the folder of Debian's package.
        download: Whether torchvision may fetch them into `folder`.

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


DATASETS = {
    "digits": DatasetRow(load=load_digits, recipe=RECIPES["digits"].recipe, keyed_by_name=True),
    # Their files are checked against the published ones, so one name is one set.
    "fashion": DatasetRow(load=load_fashion, recipe=RECIPES["fashion"].recipe, keyed_by_name=True, located=True),
    "fashion_search": DatasetRow(
        load=load_fashion_search, recipe=RECIPES["fashion"].recipe, keyed_by_name=True, located=True
    ),
}


def dataset_row(name: str) -> DatasetRow:
    """Return the row of a set.

    Raises:
        ValueError: If there is no such set; the message lists them.
    """
    if name not in DATASETS:
        raise unknown(name, tuple(DATASETS))
    return DATASETS[name]


@cache
def load_dataset(name: str, folder: Path | None = None, download: bool = False) -> Dataset:
    """Load a built-in set once a process.

    Args:
        name: A key of `DATASETS`.
        folder: Where its files lie, for sets that have files.
        download: Whether they may be fetched into there.

    Raises:
        ValueError: If there is no such set, or its files cannot be read.
    """
    row = dataset_row(name)
    return row.load(folder, download) if row.located else row.load()
