"""Errors of a trained net on labelled images, with the preprocessing of its weights."""

import math
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from zoo.datasets.decode import PictureError
from zoo.datasets.half import Half, Prepared, read_batches
from zoo.datasets.library import open_half
from zoo.environment import MOST_IMAGES, MOST_THREADS, check_between, choose_device

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for pictures with this number of channels."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Outcome of an evaluation.

    Attributes:
        images: Number of images.
        top1_error: Percent of images whose best class is wrong.
        top5_error: Percent of images whose class is not among the best five.
        standard_error: Standard error of the top-1 error in percentage points, from the number of images alone.
        left_out: Number of pictures that could not be read and are not part of the figures above.
    """

    images: int
    top1_error: float
    top5_error: float
    left_out: int = 0

    @property
    def standard_error(self) -> float:
        """Standard error of the top-1 error in percentage points, from the number of images alone."""
        p = self.top1_error / 100
        return 100 * math.sqrt(p * (1 - p) / self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the standard error as a dictionary."""
        return asdict(self) | {"standard_error": self.standard_error}


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """Return size, crop, interpolation, mean and deviation of the net's weights, at their evaluation size.

    A net with other than three channels gets the mean over the channels for each of its own.
    """
    config = resolve_data_config(model=model, use_test_size=True)
    channels = getattr(model, "in_chans", None) or config["input_size"][0]
    if channels != config["input_size"][0]:
        config["input_size"] = (channels, *config["input_size"][1:])
        config |= {key: (statistics.fmean(config[key]),) * channels for key in ("mean", "std")}
    return {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}


def open_dataset(
    name: str,
    folder: str | Path | None = None,
    *,
    split: str = "validation",
    class_map: str = "",
    download: bool = False,
) -> Half:
    """Open labelled images.

    Args:
        name: ``folder`` for one folder per class (with or without the split's folder above), ``torch/cifar10``,
            ``torch/cifar100``, ``torch/imagenet``, ..., ``hfds/NAME``, and ``fashion``; see `zoo.datasets.library`.
        folder: Folder of the images. Without one, ``fashion`` is read where Debian's package has put it.
        split: Part of the set.
        class_map: File with one class name per line, in the order of the net's classes; for folders.
        download: True if torchvision may download a set of its own into the folder.

    Raises:
        ValueError: If the set or split does not exist, or has no images; the message lists those that exist.
    """
    place = None if folder is None else Path(folder)
    return open_half(name, place, split, class_map=Path(class_map) if class_map else None, download=download)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "cpu",
    prepared: Mapping[str, Any] | None = None,
    skip_broken: bool = False,
) -> Errors:
    """Count the wrong answers of a net.

    Args:
        model: The net. It is moved to the device and set to evaluation mode.
        dataset: A set from `open_dataset`, or any dataset of pictures with labels.
        batch_size: Images per batch.
        workers: Number of processes that read images; 0 for none.
        device: Device of the net.
        prepared: Preprocessing as `preprocessing` returns it. Default: that of the net.
        skip_broken: Leave out unreadable pictures with their labels, and warn.

    Raises:
        PictureError: If a picture cannot be read, unless ``skip_broken``; the message names it.
        ValueError: If there are no images, a label has no class, a number is out of range, or scores are not finite.
    """
    check_between("batch_size", batch_size, 1, MOST_IMAGES)
    check_between("workers", workers, 0, MOST_THREADS)
    model = model.to(choose_device(device)).eval()
    items = Prepared(dataset, transform(prepared or preprocessing(model)))
    total = -(-len(items) // batch_size)
    images = first = five = 0
    left_out: list[PictureError] = []
    batches = read_batches(items, batch_size, workers=workers)
    quiet = not sys.stderr.isatty()
    with tqdm(batches, "validating", total, unit="batch", disable=quiet, dynamic_ncols=True) as bar:
        for x, label, broken in bar:
            left_out += broken
            if broken and not skip_broken:
                raise PictureError(f"{broken[0]}. Mend or remove it, or leave such pictures out by --skip-broken")
            if x is None or label is None:
                continue
            logits = model(x.to(device)).cpu()
            logits = finite(pooled(logits))
            if label.max() >= logits.shape[1] or label.min() < 0:
                raise ValueError(
                    f"label {int(label.max())} has no class: the net has {logits.shape[1]}; is it the right data set, "
                    "or is a class map missing?"
                )
            best = logits.topk(min(5, logits.shape[1])).indices
            hits = best == label[:, None]
            images += len(label)
            first += int(hits[:, 0].sum())
            five += int(hits.sum())
            bar.set_postfix(top1_error=f"{100 * (1 - first / images):.2f} %", refresh=False)
    if not images:
        raise ValueError("the data set holds no images")
    if left_out:
        listed = "; ".join(map(str, left_out[:5]))
        warnings.warn(f"{len(left_out)} pictures cannot be read and are left out: {listed}", stacklevel=3)
    return Errors(
        images=images,
        top1_error=100 * (1 - first / images),
        top5_error=100 * (1 - five / images),
        left_out=len(left_out),
    )


def pooled(logits: Tensor) -> Tensor:
    """Return scores (N, classes), also of a net that scores every position (N, classes, H, W)."""
    return logits.mean(dim=(2, 3)) if logits.ndim > 2 else logits


def finite(scores: Tensor) -> Tensor:
    """Return scores unchanged.

    Raises:
        ValueError: If one is not finite: no answer can be read from it.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("the net's scores are not finite (nan or inf): its weights are spoiled, or have diverged")
    return scores


def transform(prepared: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """Return the transform from an RGB picture to the net's input; grey for a net with one channel.

    Args:
        prepared: Preprocessing as `preprocessing` returns it.

    Raises:
        ValueError: If the input has other than one or three channels.
    """
    channels = prepared["input_size"][0]
    if channels not in MODES:
        raise ValueError(f"in-chans must be 1 or 3 to measure on pictures, got {channels}")
    return _Change(MODES[channels], create_transform(is_training=False, **prepared))


@dataclass(frozen=True)
class _Change:
    mode: str
    change: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.change(image.convert(self.mode))
