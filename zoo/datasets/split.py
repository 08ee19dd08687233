"""Split a labelled set in two so that each class has its share on both sides."""

from __future__ import annotations

import numpy as np
import torch


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


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold images out of a training half at random, each class in proportion to within one image.

    Args:
        labels: (N,) class of each image.
        share: Share of the images that is held out, in (0, 1).
        seed: Seed of the choice.

    Returns:
        Positions of the other images and of those held out, each in ascending order.

    Raises:
        ValueError: If the share is no image at all, or all of them.
    """
    size = round(share * len(labels))
    if not 0 < size < len(labels):
        raise ValueError(
            f"validation {share:g} of {len(labels)} training images is {size} images: one at least must be on each side"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    others, held = systematic_split(labels[order], size)
    return np.sort(order[others]), np.sort(order[held])
