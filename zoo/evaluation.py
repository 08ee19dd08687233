"""Errors of a trained net on labelled images, prepared as its weights ask for."""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from torch import nn
from torchvision.datasets import SVHN
from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Outcome of an evaluation.

    Attributes:
        images: Number of them.
        top1_error: Percent of images whose best class is wrong.
        top5_error: Percent of images whose class is not among the best five.
        standard_error: Of the top-1 error, in percentage points, from the number of images alone.
    """

    images: int
    top1_error: float
    top5_error: float

    @property
    def standard_error(self) -> float:
        """Of the top-1 error, in percentage points, from the number of images alone."""
        p = self.top1_error / 100
        return 100 * math.sqrt(p * (1 - p) / self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, the standard error among them."""
        return asdict(self) | {"standard_error": self.standard_error}


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """Size, crop, interpolation, mean and deviation of the net's weights, at the size that they are evaluated at."""
    config = resolve_data_config(model=model, use_test_size=True)
    return {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}


def open_dataset(
    name: str, folder: str | Path, *, split: str = "validation", class_map: str = "", download: bool = False
) -> Any:
    """Labelled images.

    Args:
        name: As timm names them: ``folder`` for one folder a class (with the split's folder in between or not),
            ``torch/cifar10``, ``torch/cifar100``, ``torch/imagenet``, ...; and ``torch/svhn``.
        folder: Where they lie.
        split: Part of the set.
        class_map: File with one class name a line, in the order of the net's classes; for folders.
        download: Whether torchvision may fetch a set of its own into the folder.

    Raises:
        ValueError: If there is no such set, or no images of it.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"data-dir {str(folder)!r} is not a folder")
    try:
        if name.lower() == "torch/svhn":
            return SVHN(str(folder), split="train" if split.startswith("train") else "test", download=download)
        kind = "" if name == "folder" else name
        options: Any = {"class_map": class_map or None, "download": download}
        return create_dataset(kind, str(folder), split=split, **options)
    except (AssertionError, RuntimeError, OSError, ValueError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"dataset {name!r} cannot be read from {str(folder)!r}: {reason}") from error


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "cpu",
    prepared: Mapping[str, Any] | None = None,
) -> Errors:
    """Count the wrong answers of a net.

    Args:
        model: The net; it is moved to the device and set to evaluation.
        dataset: What `open_dataset` returns.
        batch_size: Images at a time.
        workers: Processes that read images; 0 for none.
        device: Where the net runs.
        prepared: As `preprocessing` returns it; that of the net if None.

    Raises:
        ValueError: If there are no images, or a label that the net has no class for.
    """
    model = model.to(device).eval()
    loader = create_loader(
        dataset,
        batch_size=batch_size,
        use_prefetcher=False,
        num_workers=workers,
        persistent_workers=False,
        device=torch.device(device),
        **(prepared or preprocessing(model)),
    )
    images = first = five = 0
    with tqdm(loader, desc="validating", unit="batch", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        for x, label in bar:
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
    return Errors(images=images, top1_error=100 * (1 - first / images), top5_error=100 * (1 - five / images))
