"""Errors of a trained net on labelled images, prepared as its weights ask for."""

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

from zoo.imagesets.decode import PictureError
from zoo.imagesets.half import Half, Prepared, read_batches
from zoo.imagesets.library import open_half

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls pictures of so many channels."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Outcome of an evaluation.

    Attributes:
        images: Number of them.
        top1_error: Percent of images whose best class is wrong.
        top5_error: Percent of images whose class is not among the best five.
        standard_error: Of the top-1 error, in percentage points, from the number of images alone.
        left_out: Pictures that could not be read and have no part in the above.
    """

    images: int
    top1_error: float
    top5_error: float
    left_out: int = 0

    @property
    def standard_error(self) -> float:
        """Of the top-1 error, in percentage points, from the number of images alone."""
        p = self.top1_error / 100
        return 100 * math.sqrt(p * (1 - p) / self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, the standard error among them."""
        return asdict(self) | {"standard_error": self.standard_error}


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """Return size, crop, interpolation, mean and deviation of the net's weights, at the size of their evaluation.

    A net of other than three channels gets the mean over the channels in each of its own.
    """
    config = resolve_data_config(model=model, use_test_size=True)
    channels = getattr(model, "in_chans", None) or config["input_size"][0]
    if channels != config["input_size"][0]:
        config["input_size"] = (channels, *config["input_size"][1:])
        config |= {key: (statistics.fmean(config[key]),) * channels for key in ("mean", "std")}
    return {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}


def open_dataset(
    name: str, folder: str | Path, *, split: str = "validation", class_map: str = "", download: bool = False
) -> Half:
    """Open labelled images.

    Args:
        name: ``folder`` for one folder a class (with the split's folder in between or not), ``torch/cifar10``,
            ``torch/cifar100``, ``torch/imagenet``, ..., and ``hfds/NAME``; see `zoo.imagesets.library`.
        folder: Where they lie.
        split: Part of the set.
        class_map: File with one class name a line, in the order of the net's classes; for folders.
        download: Whether torchvision may fetch a set of its own into the folder.

    Raises:
        ValueError: If there is no such set or split, or no images of it; the message lists what there is.
    """
    return open_half(name, Path(folder), split, class_map=Path(class_map) if class_map else None, download=download)


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
        model: The net; it is moved to the device and set to evaluation.
        dataset: What `open_dataset` returns, or any that gives pictures with labels.
        batch_size: Images at a time.
        workers: Processes that read images; 0 for none.
        device: Where the net runs.
        prepared: As `preprocessing` returns it; that of the net if None.
        skip_broken: Whether pictures that cannot be read are left out, with their labels; told in a warning.

    Raises:
        PictureError: If one cannot be read, unless such are left out; the message names it.
        ValueError: If there are no images, or a label that the net has no class for.
    """
    model = model.to(device).eval()
    items = Prepared(dataset, _transform(prepared or preprocessing(model)))
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
            if logits.ndim > 2:  # a net that scores every position
                logits = logits.mean(dim=(2, 3))
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


def _transform(prepared: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """What makes a net's input of a picture in RGB; grey for a net of one channel."""
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
