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
    inside = recipe.augment or recipe.colour or recipe.erase or recipe.mixup or recipe.cutmix or recipe.image_size
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


def erasing(recipe: Recipe) -> list[Callable[[Any], Any]]:
    """Return the operations on one image after normalisation. An erased rectangle is zero, the mean of all images."""
    return [v2.RandomErasing(recipe.erase)] if recipe.erase else []


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
