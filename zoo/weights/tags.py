"""Published weights: a *tag* says where they lie, how images are prepared for them and what error they reach."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from timm.models import get_arch_pretrained_cfgs

OSMR = "https://github.com/osmr/imgclsmob/releases/download"
"""Where pytorchcv's weights lie (O. Semery, MIT licence)."""

AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
"""Where the CIFAR-10 nets of Y. Idelbayev lie (BSD-2-Clause licence)."""

CLASSES = {"in1k": 1000, "c10": 10, "c100": 100, "svhn": 10}
"""Classes of the data sets that tags end in: ImageNet-1k, CIFAR-10, CIFAR-100, SVHN."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights of one model: what a tag stands for.

    Where preprocessing is None the model's row decides.

    Attributes:
        url: Address of a checkpoint, or of a zip that holds one.
        hub_id: Repository of the Hugging Face hub, which has priority over the address, as in timm.
        digest: Known start of the checkpoint's hash, ``sha1:93e2...`` or ``sha256:0676...``; of what is in the zip.
        num_classes: Classes of the checkpoint; 0 if it holds no classifier.
        top1_error: Published, in percent; None where none is.
        top5_error: Published, in percent.
        error_source: Who published the errors.
        licence: As an SPDX identifier in small letters.
        mean: Of each input channel.
        std: Of each input channel.
        crop_pct: Share of the resized image that the evaluation crop takes.
        interpolation: Of the evaluation resize.
        input_size: Channels, height and width in training.
        test_input_size: In evaluation, if another.
        test_crop_pct: At that size.
    """

    url: str = ""
    hub_id: str = ""
    digest: str = ""
    num_classes: int = 1000
    top1_error: float | None = None
    top5_error: float | None = None
    error_source: str = ""
    licence: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    input_size: tuple[int, int, int] | None = None
    test_input_size: tuple[int, int, int] | None = None
    test_crop_pct: float | None = None


def published_tags(model: str) -> dict[str, Weights]:
    """The tags of a model that ``zoo/data/weights.csv`` lists, the default first."""
    return {row["tag"]: PUBLISHERS[row["publisher"]](row) for row in _rows() if row["model"] == model}


def published_models() -> set[str]:
    """Names of all models that ``zoo/data/weights.csv`` lists."""
    return {row["model"] for row in _rows()}


def _pytorchcv(row: Mapping[str, str]) -> Weights:
    """A file of pytorchcv's model store; the digest is the SHA-1 of the checkpoint in the zip.

    The evaluation of its authors is that of the models' rows: for ImageNet a bilinear resize and a crop of 0.875, for
    the three small sets the mean and deviation of CIFAR-10. A file's name quotes the top-5 error, if there is one.
    """
    quoted = round(100 * float(row["top5_error"] or row["top1_error"]))
    return Weights(
        url=f"{OSMR}/v0.0.{row['release']}/{row['net']}-{quoted:04d}-{row['digest'][:8]}.pth.zip",
        digest=f"sha1:{row['digest']}",
        num_classes=CLASSES[row["tag"].rpartition("_")[2]],
        top1_error=float(row["top1_error"]),
        top5_error=float(row["top5_error"]) if row["top5_error"] else None,
        error_source="pytorchcv",
        licence="mit",
    )


def _akamaster(row: Mapping[str, str]) -> Weights:
    """A file of the repository pytorch_resnet_cifar10, whose name quotes the start of its SHA-256.

    Images are normalised there with ImageNet's mean and deviation. The error is that of the best epoch on the test
    images; there was no other half to choose on.
    """
    return Weights(
        url=f"{AKAMASTER}/{row['net']}-{row['digest']}.th",
        digest=f"sha256:{row['digest']}",
        num_classes=CLASSES[row["tag"].rpartition("_")[2]],
        top1_error=float(row["top1_error"]),
        error_source="akamaster",
        licence="bsd-2-clause",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


PUBLISHERS = {"pytorchcv": _pytorchcv, "akamaster": _akamaster}
"""How a row of the table becomes a tag, by who published the file."""


@cache
def _rows() -> list[dict[str, str]]:
    return _table("weights.csv")


def _table(name: str) -> list[dict[str, str]]:
    """The rows of a table of the package's."""
    text = resources.files("zoo").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def tags(model: str, reference: str) -> dict[str, Weights]:
    """All tags of a model, the default first.

    Args:
        model: Its name.
        reference: The implementation that it equals; weights of timm's and torchvision's belong to it.
    """
    library, _, net = reference.partition(":")
    of_library = {"timm": lambda: timm_tags(model), "torchvision": lambda: torchvision_tags(net)}
    return of_library.get(library, dict)() | published_tags(model)


_CHANGE_THEIR_INPUT = ("googlenet",)
"""Nets of torchvision's that take images with ImageNet's mean and deviation, and change these to 0.5 by themselves."""


def torchvision_tags(net: str) -> dict[str, Weights]:
    """The tags of a net of torchvision's, ``tv_in1k`` first, as the installed torchvision describes them.

    Args:
        net: Its name there.
    """
    from torchvision.models import get_model_weights
    from torchvision.transforms import InterpolationMode

    tags = {}
    for number, row in enumerate(get_model_weights(net), 1):
        prepared = row.transforms()
        changes = net in _CHANGE_THEIR_INPUT
        metrics = next(iter(row.meta["_metrics"].values()))
        [crop], [resize] = prepared.crop_size, prepared.resize_size
        fields: dict[str, Any] = dict(
            url=row.url,
            digest="sha256:" + row.url.rpartition("-")[2].partition(".")[0],
            num_classes=len(row.meta["categories"]),
            top1_error=round(100 - metrics["acc@1"], 3),
            top5_error=round(100 - metrics["acc@5"], 3),
            error_source="torchvision",
            licence="bsd-3-clause",
            mean=(0.5, 0.5, 0.5) if changes else tuple(prepared.mean),
            std=(0.5, 0.5, 0.5) if changes else tuple(prepared.std),
            interpolation=InterpolationMode(prepared.interpolation).value,
            input_size=(3, crop, crop),
            crop_pct=round(crop / resize, 3),
        )
        tags["tv_in1k" if number == 1 else f"tv{number}_in1k"] = Weights(**fields)
    return tags


def timm_tags(name: str) -> dict[str, Weights]:
    """The tags of a net of timm's, its default first, as the installed timm describes them.

    Errors are those of timm's own evaluation at the tag's test size.
    """
    tags = {}
    for tag, cfg in get_arch_pretrained_cfgs(name).items():
        if not cfg.has_weights:
            continue
        url = cfg.url if isinstance(cfg.url, str) else ""
        size = (cfg.test_input_size or cfg.input_size)[-1]
        top1, top5 = _timm_errors().get((tag, size), (None, None))
        start = re.search(r"-([0-9a-f]{8,})\.", url)
        tags[tag.partition(".")[2]] = Weights(
            url=url,
            hub_id=cfg.hf_hub_id or "",
            digest=f"sha256:{start[1]}" if start else "",
            num_classes=cfg.num_classes,
            top1_error=top1,
            top5_error=top5,
            error_source="" if top1 is None else "timm",
            licence=cfg.license or "",
            mean=cfg.mean,
            std=cfg.std,
            crop_pct=cfg.crop_pct,
            interpolation=cfg.interpolation,
            input_size=cfg.input_size,
            test_input_size=cfg.test_input_size,
            test_crop_pct=cfg.test_crop_pct,
        )
    return tags


@cache
def _timm_errors() -> dict[tuple[str, int], tuple[float, float]]:
    """Top-1 and top-5 errors on ImageNet that timm publishes beside its releases, by tag and input size."""
    return {
        (row["model"], int(row["input_size"])): (float(row["top1_error"]), float(row["top5_error"]))
        for row in _table("timm_errors.csv")
    }
