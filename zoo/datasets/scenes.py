"""Compose scenes of several digits or garments, with boxes, instance masks and a semantic mask; nothing is downloaded.

Every object is a real image of scikit-learn's digits or of Fashion-MNIST, resized, coloured and placed on a plain
ground. Later objects cover earlier ones. Training scenes and test scenes use disjoint objects: the two halves of the
classification benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo.datasets import fashion
from zoo.datasets.built_in import systematic_split
from zoo.datasets.image_set import Dataset

SPLITS = ("train", "test")
BACKGROUND = 0
"""Class of the ground. An object of class c has class c + 1."""
NUM_CLASSES = 11
MIN_VISIBLE = 0.6
"""Share of its pixels that an object keeps when others are placed over it."""
TRIES = 20
"""Number of positions that are tried for an object before it is left out."""
TRAIN_SCENES, TEST_SCENES = 500, 150
FASHION_TRAIN, FASHION_TEST = 1000, 300


@dataclass(frozen=True, kw_only=True)
class Source:
    """Objects of scenes and defaults for composing them.

    Attributes:
        pool: Half -> (N, S, S) images in [0, 1], 0 for the background, and (N,) classes from 0 to 9.
        side: S, in pixels.
        ink: Smallest shade of a pixel that belongs to the object.
        opaque: True if an object hides everything below it; otherwise its shades let the ground shine through.
        size: Default height and width of a scene.
        objects: Default smallest and largest number of objects.
        sides: Default smallest and largest side of an object.
        seeded: Prefix of the seeds of a scene's random numbers.
        classes: Names of the ten classes.
    """

    pool: Callable[[str], tuple[Tensor, Tensor]]
    side: int
    ink: float
    opaque: bool
    size: int
    objects: tuple[int, int]
    sides: tuple[int, int]
    seeded: str
    classes: tuple[str, ...]


class Target(NamedTuple):
    """Contents of a scene with n objects, in the order in which they were placed.

    Attributes:
        boxes: (n, 4) float32, x0 y0 x1 y1 in pixels, tight around the visible part. x1 and y1 are one past the last
            pixel, so that x1 - x0 is the width.
        labels: (n,) int64, class + 1.
        masks: (n, H, W) bool, the visible pixels of each object; no two overlap.
        semantic: (H, W) int64, `BACKGROUND` or class + 1.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    semantic: Tensor


class Scenes(torch.utils.data.Dataset[tuple[Tensor, Target]]):
    """Scenes of one split, composed on access.

    Scene number i depends only on split, seed and i: not on the length, the order or the version of any library's
    random numbers (Python guarantees those of `random.Random.random`). The images repeat up to rounding errors of the
    interpolation.

    Args:
        split: "train" or "test": the half of the objects that the scenes use.
        length: Number of scenes.
        source: Key of `SOURCES`: "digits" or "fashion". It also gives the defaults of the next three.
        size: Height and width of a scene in pixels. At 64 the maps of stride 4 to 32 are 16x16 to 2x2.
        objects: Smallest and largest number of objects. An object that finds no place is left out.
        sides: Smallest and largest side of an object in pixels; digits have 8 originally, garments 28.
        seed: Another seed gives other scenes.

    Raises:
        ValueError: If an argument lies outside its range.
        IndexError: If the scene does not exist.
    """

    def __init__(
        self,
        split: str,
        length: int,
        *,
        source: str = "digits",
        size: int | None = None,
        objects: tuple[int, int] | None = None,
        sides: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        _check("split", split, split in SPLITS, f"be one of {', '.join(SPLITS)}")
        _check("length", length, length >= 1, "be at least 1")
        _check("source", source, source in SOURCES, f"be one of {', '.join(SOURCES)}")
        self.source = SOURCES[source]
        size, objects, sides = size or self.source.size, objects or self.source.objects, sides or self.source.sides
        _check("objects", objects, 1 <= objects[0] <= objects[1], "be (fewest, most) with 1 <= fewest <= most")
        fits = 8 <= sides[0] <= sides[1] <= size
        _check(
            "sides", sides, fits, f"be (smallest, largest) with 8 <= smallest <= largest <= {size}, the scene's size"
        )
        self.split, self.length, self.size, self.seed = split, length, size, seed
        self.objects, self.sides = objects, sides

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return a scene, (3, H, W) float32 in [0, 1], and its contents."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length} does not exist")
        source = self.source
        rng = random.Random(f"{source.seeded} {self.seed} {self.split} {index}")
        images, classes = source.pool(self.split)
        canvas = _colour(rng, 0.0, 0.3).expand(3, self.size, self.size).clone()
        masks: list[Tensor] = []
        areas: list[int] = []  # pixels of each object before others covered it
        labels: list[int] = []
        for _ in range(_between(rng, *self.objects)):
            number, side = _between(rng, 0, len(images) - 1), _between(rng, *self.sides)
            ink = interpolate(images[number][None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
            colour = _colour(rng, 0.5, 1.0)
            placed = self._place(rng, ink > source.ink, masks, areas)
            if placed is None:
                continue
            mask, (top, left) = placed
            window = canvas[:, top : top + side, left : left + side]
            if source.opaque:
                window.copy_(torch.where(ink > source.ink, colour * ink, window))
            else:
                window.lerp_(colour.expand_as(window), ink.expand_as(window))
            masks = [*(other & ~mask for other in masks), mask]
            areas.append(int(mask.sum()))
            labels.append(int(classes[number]) + 1)
        return canvas, _target(torch.stack(masks), torch.tensor(labels))

    def _place(
        self, rng: random.Random, ink: Tensor, masks: list[Tensor], areas: list[int]
    ) -> tuple[Tensor, tuple[int, int]] | None:
        """Return an object's mask and corner at a place that leaves enough of all others; None if there is none."""
        side = len(ink)
        for _ in range(TRIES):
            top, left = _between(rng, 0, self.size - side), _between(rng, 0, self.size - side)
            mask = torch.zeros(self.size, self.size, dtype=torch.bool)
            mask[top : top + side, left : left + side] = ink
            if all(int((m & ~mask).sum()) >= MIN_VISIBLE * area for m, area in zip(masks, areas, strict=True)):
                return mask, (top, left)
        return None


@cache
def digit_pool(split: str) -> tuple[Tensor, Tensor]:
    """Return the (N, 8, 8) images in [0, 1] and the (N,) digits of a half: 897 train, 900 test."""
    from sklearn.datasets import load_digits  # optional dependency: the `bench` extra

    bunch = load_digits()
    chosen = systematic_split(bunch.target, test_size=900)[SPLITS.index(split)]
    return torch.from_numpy(bunch.images[chosen] / bunch.images.max()).float(), torch.from_numpy(bunch.target[chosen])


@cache
def garment_pool(split: str) -> tuple[Tensor, Tensor]:
    """Return the (N, 28, 28) images in [0, 1] and the (N,) classes of a half: 60,000 train, 10,000 test."""
    half = fashion.read(fashion.find(), split)
    return half.images.float() / 255, half.labels


# Attribute access at call time, so that a test can put another pool in place.
SOURCES = {
    "digits": Source(
        pool=lambda split: digit_pool(split),
        side=8,
        ink=0.3,
        opaque=False,
        size=64,
        objects=(2, 4),
        sides=(20, 32),
        seeded="zoo scenes",
        classes=tuple(map(str, range(10))),
    ),
    # Scales 0.7 to 1.3. Dark cloth has shades near 0, which are not told from the ground: the mask leaves them out.
    "fashion": Source(
        pool=lambda split: garment_pool(split),
        side=28,
        ink=0.1,
        opaque=True,
        size=96,
        objects=(3, 6),
        sides=(20, 36),
        seeded="zoo fashion scenes",
        classes=fashion.CLASSES,
    ),
}


def segmentation_scenes(train: int = TRAIN_SCENES, test: int = TEST_SCENES, source: str = "digits") -> Dataset:
    """Return scenes whose labels are semantic masks, (N, H, W) int64."""
    return _dataset(train, test, source, lambda targets: torch.stack([target.semantic for target in targets]))


def detection_scenes(train: int = TRAIN_SCENES, test: int = TEST_SCENES, source: str = "digits") -> Dataset:
    """Return scenes with one dict per scene as labels, `boxes` and `labels`, in the form of torchvision's detectors."""
    return _dataset(train, test, source, lambda targets: [{"boxes": t.boxes, "labels": t.labels} for t in targets])


def _dataset(train: int, test: int, source: str, labels: Callable[[Sequence[Target]], Any]) -> Dataset:
    train_images, train_targets = zip(*Scenes("train", train, source=source), strict=True)
    test_images, test_targets = zip(*Scenes("test", test, source=source), strict=True)
    images = torch.stack(train_images)
    mean, std = images.mean(), images.std()
    return Dataset(
        name="scenes" if source == "digits" else f"{source}_scenes",
        train_images=(images - mean) / std,
        train_labels=labels(train_targets),
        test_images=(torch.stack(test_images) - mean) / std,
        test_labels=labels(test_targets),
        num_classes=NUM_CLASSES,
        classes=("background", *SOURCES[source].classes),
        fill=float(-mean / std),
        mean=mean,
        std=std,
    )


def _target(masks: Tensor, labels: Tensor) -> Target:
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=labels,
        masks=masks,
        semantic=(masks * labels[:, None, None]).sum(0),
    )


def _between(rng: random.Random, low: int, high: int) -> int:
    # Not randint, whose numbers may change between versions of Python.
    return low + int(rng.random() * (high - low + 1))


def _colour(rng: random.Random, low: float, high: float) -> Tensor:
    return torch.tensor([low + (high - low) * rng.random() for _ in range(3)])[:, None, None]


def _check(name: str, value: object, fine: bool, rule: str) -> None:
    if not fine:
        raise ValueError(f"{name} must {rule}, got {value!r}")
