"""Published weights. A *tag* names where they are, how their images are prepared and which error they reach.

Small weights of the zoo's own come with the package, in ``zoo/data/trained``: a file of tensors and a model card for
each tag, and ``tags.json``, which `benchmarks/fashion.py` writes. Such a tag may belong to a net whose preset was
changed; then it is never the default of the preset.
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from timm.models import get_arch_pretrained_cfgs

OSMR = "https://github.com/osmr/imgclsmob/releases/download"
"""Address of pytorchcv's weights (O. Semery, MIT licence)."""

AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
"""Address of the CIFAR-10 nets of Y. Idelbayev (BSD-2-Clause licence)."""

CLASSES = {"in1k": 1000, "c10": 10, "c100": 100, "svhn": 10}
"""Number of classes of the data set at the end of a tag: ImageNet-1k, CIFAR-10, CIFAR-100, SVHN."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights of one model: the content of a tag.

    If preprocessing is None, the model's row applies.

    Attributes:
        file: Name of a file in ``zoo/data/trained``, which comes with the package.
        overrides: Arguments of the net that the weights belong to, where it is not the preset. Creating the tag's net
            sets them.
        params: Parameters of that net; 0 for the preset.
        macs: Multiply-adds of that net for one image of its input size; 0 for the preset.
        dataset: Image set of `zoo bench` that the net was trained on; empty if it is none.
        label_names: Names of the classes, in the order of the net's outputs; empty if unknown.
        url: Address of a checkpoint, or of a zip that holds one.
        hub_id: Repository of the Hugging Face hub. As in timm, it takes precedence over the address.
        digest: Known start of the checkpoint's hash, ``sha1:93e2...`` or ``sha256:0676...``. For a zip, it is the hash
            of the file inside.
        num_classes: Classes of the checkpoint; 0 if it holds no classifier.
        top1_error: Published top-1 error in percent; None if none is published.
        top5_error: Published top-5 error in percent; None if none is published.
        error_source: Publisher of the errors.
        licence: SPDX identifier in lower case.
        mean: Mean of each input channel.
        std: Standard deviation of each input channel.
        crop_pct: Share of the resized image that the evaluation crop takes.
        interpolation: Interpolation of the evaluation resize.
        input_size: Channels, height and width in training.
        test_input_size: Channels, height and width in evaluation, if different.
        test_crop_pct: ``crop_pct`` at ``test_input_size``.
    """

    file: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    params: int = 0
    macs: int = 0
    dataset: str = ""
    label_names: tuple[str, ...] = ()
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

    @property
    def path(self) -> str:
        """Path of the file that comes with the package; empty if there is none."""
        return str(_trained_file(self.file)) if self.file else ""

    @property
    def card(self) -> str:
        """Path of the model card beside that file; empty if there is none."""
        return self.path.removesuffix(".safetensors") + ".md" if self.file else ""


def published_tags(model: str) -> dict[str, Weights]:
    """Return the tags of a model in ``zoo/data/weights.csv``, the default first, then those in ``zoo/data/trained``."""
    tags = {row["tag"]: PUBLISHERS[row["publisher"]](row) for row in _rows() if row["model"] == model}
    return tags | {row["tag"]: _trained(row) for row in _trained_rows() if row["model"] == model}


def published_models() -> set[str]:
    """Return the names of all models with tags in the tables of the package."""
    return {row["model"] for row in (*_rows(), *_trained_rows())}


def _pytorchcv(row: Mapping[str, str]) -> Weights:
    """Return the weights of a file in pytorchcv's model store; the digest is the SHA-1 of the checkpoint in the zip.

    The authors evaluate as the models' rows say: for ImageNet a bilinear resize and a crop of 0.875, for the three
    small sets the mean and deviation of CIFAR-10. The file name quotes the top-5 error if there is one, else the top-1
    error.
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
    """Return the weights of a file in the repository pytorch_resnet_cifar10. Its name quotes the start of its SHA-256.

    That repository normalises images with ImageNet's mean and deviation. The error is that of the best epoch on the
    test images; there was no separate validation set.
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


def _trained(row: Mapping[str, Any]) -> Weights:
    """Return the weights of a row of ``tags.json``, whose lists are the tuples of `Weights`."""
    lists = ("mean", "std", "input_size", "label_names")
    fields: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in row.items()}
    return Weights(**{key: value for key, value in fields.items() if key not in ("model", "tag", "key")})


PUBLISHERS = {"pytorchcv": _pytorchcv, "akamaster": _akamaster}
"""Functions that turn a row of the table into a tag, by publisher."""


@cache
def _rows() -> list[dict[str, str]]:
    return _table("weights.csv")


@cache
def _trained_rows() -> list[dict[str, Any]]:
    path = _trained_file("tags.json")
    return json.loads(path.read_text(encoding="ascii")) if path.is_file() else []


def _trained_file(name: str) -> Any:
    return resources.files("zoo").joinpath("data", "trained", name)


def _table(name: str) -> list[dict[str, str]]:
    """Return the rows of one of the package's tables."""
    text = resources.files("zoo").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def tags(model: str, reference: str) -> dict[str, Weights]:
    """Return all tags of a model, the default first.

    Args:
        model: Name of the model.
        reference: The implementation that the model equals. Weights of timm and torchvision belong to it.
    """
    library, _, net = reference.partition(":")
    of_library = {"timm": lambda: timm_tags(model), "torchvision": lambda: torchvision_tags(net)}
    return of_library.get(library, dict)() | published_tags(model)


_CHANGE_THEIR_INPUT = ("googlenet",)
"""Nets of torchvision that take images with ImageNet's mean and deviation, and change both to 0.5 themselves."""


def torchvision_tags(net: str) -> dict[str, Weights]:
    """Return the tags of a torchvision net, ``tv_in1k`` first, as the installed torchvision describes them.

    Args:
        net: Name of the net in torchvision.
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
    """Return the tags of a timm net, its default first, as the installed timm describes them.

    Errors come from timm's own evaluation at the tag's test size.
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
    """Return top-1 and top-5 errors on ImageNet that timm publishes with its releases, by tag and input size."""
    return {
        (row["model"], int(row["input_size"])): (float(row["top1_error"]), float(row["top5_error"]))
        for row in _table("timm_errors.csv")
    }
