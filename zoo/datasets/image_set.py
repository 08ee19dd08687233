"""Interface of image sets for the training loop, and a set that is held in memory.

`zoo.datasets.built_in` has the sets that need no folder; `zoo.datasets.external` opens all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torchvision.transforms import v2

from zoo.datasets.augment import byte_changes, draw, each, flip_images, late_changes, mix, shift_images
from zoo.datasets.fingerprint import digest
from zoo.datasets.split import hold_out
from zoo.results.recipe import Recipe

TEST_BATCH_SIZE = 100
SHADES = 1024
"""Steps to which normalised images are rounded for fingerprints: finer than bytes, coarser than rounding errors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Interface of an image set for the training loop.

    `Dataset` holds a set in memory, `zoo.datasets.external.Stream` reads one.

    Attributes:
        name: Requested name: a key of `DATASETS`, or timm's name.
        num_classes: Number of classes.
        test_labels: (M,) int64 of the test images; for tasks other than classification the targets of the task, see
            `zoo.bench.tasks`.
        classes: Names of the classes, in the order of the net's outputs; empty if the set has no names.
        left_out: Numbers of training images and test images that could not be read and are not in the set.
    """

    name: str
    num_classes: int
    test_labels: Any
    classes: tuple[str, ...] = ()
    left_out: tuple[int, int] = (0, 0)

    @property
    def fingerprint(self) -> str:
        """Digest of the content of both halves, without the name."""
        raise NotImplementedError

    @property
    def prepared(self) -> dict[str, Any]:
        """Preprocessing for evaluation, under timm's names: mean, std, interpolation, crop_pct.

        The interpolation is None if images are used at their own size.
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

    @property
    def class_counts(self) -> Tensor:
        """(num_classes,) int64: how often each class occurs among the training labels, of images, pixels or boxes."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the facts that are stored with a result: the images, and what a net needs for use on other images."""
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
        """Return the set with images as a recipe needs them.

        Raises:
            ValueError: If the set cannot give them.
        """
        raise NotImplementedError

    def searching(self, share: float, seed: int) -> Self:
        """Return a set in which images held out of the training half stand in for the test half.

        Args:
            share: Share of the training images.
            seed: Seed of the choice, see `zoo.datasets.split.hold_out`.

        Raises:
            ValueError: If the share is no image at all, or all of them.
        """
        raise NotImplementedError

    def on(self, device: torch.device) -> Self:
        """Return the set with its batches on a device."""
        raise NotImplementedError

    def train_batches(
        self, recipe: Recipe, generator: torch.Generator, *, rank: int = 0, of: int = 1
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield images and targets of an epoch, without the incomplete last batch.

        Args:
            recipe: Batch size and changes of the images.
            generator: Source of random numbers; it moves on by one epoch.
            rank: Rank of this process among those that share each batch.
            of: World size: number of these processes.
        """
        raise NotImplementedError

    def test_batches(self, *, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Any]]:
        """Yield test images and their targets, every ``of``-th from ``rank`` on."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(ImageSet):
    """A labelled image set in memory, split in two halves.

    Attributes:
        train_images: (N, C, H, W), either float32 and normalised with the statistics of the training half, or bytes.
        train_labels: Labels of the training images, in the form of `test_labels`.
        test_images: (M, C, H, W), of the same kind, normalised with the same statistics.
        fill: Normalised value of the background, which a shifted image shows at its border; one for all channels, or
            one per channel.
        mean: Mean of each channel of the training half, in [0, 1], which normalising subtracts.
        std: Deviation of each channel, by which normalising divides.
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
        """See `ImageSet.prepared`. Images are used unchanged."""
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

    @property
    def class_counts(self) -> Tensor:
        """See `ImageSet.class_counts`."""
        labels = self.train_labels
        whole = labels if isinstance(labels, Tensor) else torch.cat([target["labels"] for target in labels])
        return whole.flatten().bincount(minlength=self.num_classes)[: self.num_classes]  # what lies above is ignored

    def for_recipe(self, recipe: Recipe) -> Self:
        """Return the set with images as a recipe needs them.

        Raises:
            ValueError: If the recipe needs another size, or colours that are not there.
        """
        if recipe.image_size:
            raise ValueError(
                f"recipe field image_size must be 0 for {self.name}, whose images are used as they are, got "
                f"{recipe.image_size}"
            )
        if recipe.lighting and self.input_size[0] != 3:
            raise ValueError(
                f"recipe field lighting must be 0 for {self.name}, whose images have no red, green and blue, got "
                f"{recipe.lighting:g}"
            )
        return self

    def searching(self, share: float, seed: int) -> Self:
        """See `ImageSet.searching`. Mean and deviation stay those of the whole training half."""
        train, held = map(torch.from_numpy, hold_out(self.train_labels.cpu().numpy(), share, seed))
        there = train.to(self.train_images.device), held.to(self.train_images.device)
        return replace(
            self,
            train_images=self.train_images[there[0]],
            train_labels=take(self.train_labels, train),
            test_images=self.train_images[there[1]],
            test_labels=take(self.train_labels, held),
        )

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
            if changes := late_changes(recipe, self.std):
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
        """Return normalised images in their original range [0, 1]."""
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
