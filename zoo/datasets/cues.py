"""Images with two cues to their class: the shape of a digit, and the texture that fills it. Made here, not loaded.

A substitute on small images for the photographs of Geirhos et al. 2019 (arXiv:1811.12231), which are elephants with the
skin of a clock; it is our own, and no number of it compares with one of theirs. The shapes are scikit-learn's digits
at 32x32 pixels; the texture of class k is a grating of the direction k * 18 degrees with a period of four pixels, at
a random phase. In training and testing both cues agree, so that a net may use either. `conflicting` gives images whose
cues disagree, and images with one of them alone.
"""

from dataclasses import dataclass, fields
from math import pi

import torch
from torch import Tensor

from zoo.datasets.image_set import Dataset

PERIOD = 4.0
"""Period of a grating in pixels."""
GREY = 0.5
"""Background, and the mean of a grating."""
CLASSES = 10


@dataclass(frozen=True)
class Conflicts:
    """Images with cues that disagree, normalised as a net has seen them in training.

    Attributes:
        both: (N, 3, 32, 32) with the shape of one class and the texture of another.
        shape: The same shapes, white on grey.
        texture: The same textures, over the whole image.
        shapes: (N,) classes of the shapes.
        textures: (N,) classes of the textures.
    """

    both: Tensor
    shape: Tensor
    texture: Tensor
    shapes: Tensor
    textures: Tensor

    def every(self, step: int) -> "Conflicts":
        """Return every ``step``-th of the images."""
        return Conflicts(*(getattr(self, field.name)[::step] for field in fields(self)))


def cues_from(digits: Dataset) -> Dataset:
    """Return images whose shape and texture agree.

    Args:
        digits: Set of the shapes, ``load_digits()``.
    """
    train, test = (
        _images(_masks(digits, images), _gratings(labels, seed))
        for seed, (images, labels) in enumerate(
            [(digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)]
        )
    )
    mean, std = train.mean(), train.std()
    train, test = (((half - mean) / std).expand(-1, 3, -1, -1).contiguous() for half in (train, test))
    return Dataset(
        name="cues",
        train_images=train,
        train_labels=digits.train_labels,
        test_images=test,
        test_labels=digits.test_labels,
        num_classes=CLASSES,
        classes=digits.classes,
        fill=float((GREY - mean) / std),
        mean=mean,
        std=std,
    )


def conflicting(cues: Dataset, digits: Dataset, seed: int = 0) -> Conflicts:
    """Return the shapes of the test half with textures of other classes, and each cue alone.

    Args:
        cues: Set that `cues_from` has made, for its statistics.
        digits: Set of the shapes.
        seed: Seed of the textures.
    """
    shapes = digits.test_labels
    generator = torch.Generator().manual_seed(seed)
    other = torch.randint(1, CLASSES, shapes.shape, generator=generator)
    textures = (shapes + other) % CLASSES
    masks, gratings = _masks(digits, digits.test_images), _gratings(textures, seed + 2)
    both, shape, texture = (
        ((images - cues.mean) / cues.std).expand(-1, 3, -1, -1).contiguous()
        for images in (_images(masks, gratings), _images(masks, torch.ones_like(gratings)), gratings)
    )
    return Conflicts(both, shape, texture, shapes, textures)


def _masks(digits: Dataset, images: Tensor) -> Tensor:
    """Return (N, 1, 32, 32): True inside of a digit."""
    return (images[:, :1] * digits.std + digits.mean) > GREY


def _gratings(labels: Tensor, seed: int) -> Tensor:
    """Return (N, 1, 32, 32): stripes in the directions of the classes, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * pi * torch.rand(len(labels), 1, 1, generator=generator)
    angle = (labels * pi / CLASSES)[:, None, None]
    axis = torch.arange(32.0)
    across = axis[None, :, None] * angle.sin() + axis[None, None, :] * angle.cos()
    return (GREY + 0.5 * (2 * pi * across / PERIOD + phase).sin())[:, None]


def _images(masks: Tensor, gratings: Tensor) -> Tensor:
    return torch.where(masks, gratings, torch.full_like(gratings, GREY))
