"""Change training images, one batch at a time, with separate random numbers for each image.

The random numbers of an image follow from the seed of the run, the epoch and the image's place in the epoch. The net,
the number of processes and the number of workers do not matter. Single operations are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad
from torchvision.transforms import v2

from zoo.results.recipe import Recipe

SEEDS = 2**62
"""Upper bound of the seeds of images and batches."""
PRINCIPAL = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
SPREADS = (0.2175, 0.0188, 0.0045)
"""Principal components of the colours of ImageNet, in columns, and the factors on noise along them. Colours lie in 0 to
1, red first. From fb.resnet.torch (datasets/imagenet.lua), as everywhere."""


@dataclass(frozen=True, kw_only=True)
class BatchDraws:
    """Random draws for the images of an epoch, in their order.

    Attributes:
        order: (N,) positions of the images in the set.
        shifts: (N, 2) pixels down and to the right.
        flips: (N,) True for mirrored images; None if the recipe has none.
        seeds: (N,) seeds of the draws inside operations; None if there are none.
    """

    order: Tensor
    shifts: Tensor
    flips: Tensor | None
    seeds: Tensor | None


def draw(images: int, recipe: Recipe, generator: torch.Generator) -> BatchDraws:
    """Draw the numbers of one epoch; the generator moves on."""
    order = torch.randperm(images, generator=generator)
    shifts = torch.randint(-recipe.max_shift, recipe.max_shift + 1, (images, 2), generator=generator)
    flips = torch.rand(images, generator=generator) < 0.5 if recipe.flip else None
    names = ("augment", "colour", "lighting", "erase", "mixup", "cutmix", "image_size")
    inside = any(getattr(recipe, name) for name in names)
    seeds = torch.randint(SEEDS, (images,), generator=generator) if inside else None
    return BatchDraws(order=order, shifts=shifts, flips=flips, seeds=seeds)


def shift_images(images: Tensor, shifts: Tensor, fill: float | Tensor, border: str = "background") -> Tensor:
    """Move each image by its own whole number of pixels: (N, C, H, W) -> (N, C, H, W).

    Args:
        images: (N, C, H, W).
        shifts: (N, 2) int64, pixels down and pixels to the right; negative is up and left.
        fill: Value of the pixels that enter at the border, or one per channel.
        border: ``reflect`` fills with the image itself.
    """
    height, width = images.shape[-2:]
    reach = int(shifts.abs().max()) if len(shifts) else 0
    if border == "reflect":
        padded = pad(images, (reach,) * 4, mode="reflect")
    else:
        values = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
        shape = (*images.shape[:2], height + 2 * reach, width + 2 * reach)
        padded = values.expand(shape).clone()
        padded[:, :, reach : reach + height, reach : reach + width] = images
    rows = torch.arange(height, device=images.device) + (reach - shifts[:, :1])  # (N, H)
    columns = torch.arange(width, device=images.device) + (reach - shifts[:, 1:])  # (N, W)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    # The index puts channels last, (N, H, W, C); the permutation hands them back without a copy.
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip_images(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror some images left to right: (N, C, H, W) and (N,) bool -> (N, C, H, W)."""
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def each(images: Tensor, seeds: Sequence[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change every image with random numbers from its own seed."""
    changed = []
    for image, seed in zip(images, seeds, strict=True):
        with seeded(int(seed)):
            changed.append(change(image))
    return torch.stack(changed)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed the CPU's random numbers inside this context; restore the caller's afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def byte_changes(recipe: Recipe) -> list[Callable[[Any], Any]]:
    """Return the operations on one image of bytes, before normalisation."""
    changes: list[Callable[[Any], Any]] = []
    if recipe.colour:
        changes.append(v2.ColorJitter(recipe.colour, recipe.colour, recipe.colour))
    if recipe.augment == "trivial":
        changes.append(v2.TrivialAugmentWide())
    elif recipe.augment == "rand":
        changes.append(v2.RandAugment())
    return changes


class Lighting:
    """Add noise along the principal components of colour to one image: the same change of all pixels.

    Krizhevsky et al. 2012, section 4.1: the component i is multiplied by its factor and by a normal number.

    Args:
        deviation: Standard deviation of the normal numbers.
        std: Deviation of each channel, or one of all, by which the image has been divided.
    """

    def __init__(self, deviation: float, std: Sequence[float] | Tensor) -> None:
        axes = torch.tensor(PRINCIPAL) * torch.tensor(SPREADS) * deviation
        self.axes = axes / torch.as_tensor(std).flatten().cpu()[:, None]

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image (3, H, W)."""
        return image + (self.axes @ torch.randn(3)).to(image)[:, None, None]


class ShortSide:
    """Resize an image such that its shorter side has a random length from a range."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def __call__(self, image: Tensor) -> Tensor:
        """Resize an image (C, H, W)."""
        side = int(torch.randint(self.least, self.most + 1, ()))
        return v2.functional.resize(image, [side], antialias=True)


def crops(recipe: Recipe, side: int) -> list[Callable[[Any], Any]]:
    """Return the operations that make a square of ``side`` pixels from an image of any size."""
    if recipe.short_sides:
        return [ShortSide(*recipe.short_sides), v2.RandomCrop(side)]
    return [v2.RandomResizedCrop(side, (recipe.crop_scale, 1.0), antialias=True)]


def late_changes(recipe: Recipe, std: Sequence[float] | Tensor) -> list[Callable[[Any], Any]]:
    """Return the operations on one image after normalisation.

    Args:
        recipe: Recipe that gives `lighting` and `erase`. An erased rectangle is zero, the mean of all images.
        std: Deviation of each channel, by which normalising divides.
    """
    changes: list[Callable[[Any], Any]] = [Lighting(recipe.lighting, std)] if recipe.lighting else []
    return changes + ([v2.RandomErasing(recipe.erase)] if recipe.erase else [])


def mix(images: Tensor, labels: Tensor, classes: int, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Mix the images of a batch with each other, and their labels in the same way.

    Args:
        images: (N, C, H, W).
        labels: (N,) int64.
        classes: Number of classes.
        recipe: Recipe that gives `mixup` and `cutmix`.
        seed: Seed of this batch.

    Returns:
        Images of the same shape and (N, classes) shares. Both are unchanged if the recipe mixes nothing.
    """
    mixers: list[Any] = [v2.MixUp(alpha=recipe.mixup, num_classes=classes)] if recipe.mixup else []
    mixers += [v2.CutMix(alpha=recipe.cutmix, num_classes=classes)] if recipe.cutmix else []
    if not mixers:
        return images, labels
    if len(images) == 1:  # there is no other image
        return images, one_hot(labels, classes).float()
    with seeded(seed):
        return mixers[int(torch.randint(len(mixers), ()))](images, labels)
