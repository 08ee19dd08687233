"""Trained weights: what is published, and how the names of other implementations become ours.

A *tag* (`Weights`) says where weights lie, how images are prepared for them and what error they reach. A *layout* is a
table of regular expressions that renames another implementation's state dict; a family file lists its layouts in
``LAYOUTS``, and `convert` finds the one that fits. Nothing here knows a family, touches a file or writes into a model
before every tensor has been looked at.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

OSMR = "https://github.com/osmr/imgclsmob/releases/download"
"""Where pytorchcv's weights lie (O. Semery, MIT licence); the only address that is typed here."""

CLASSES = {"in1k": 1000, "c10": 10, "c100": 100, "svhn": 10}
"""Classes of the data sets that tags end in: ImageNet-1k, CIFAR-10, CIFAR-100, SVHN."""

Table = Sequence[tuple[str, str]]


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


def pytorchcv(
    net: str, release: int, digest: str, top1_error: float, top5_error: float | None = None, *, dataset: str = "in1k"
) -> Weights:
    """A file of pytorchcv's model store.

    The evaluation of its authors is that of the rows here: for ImageNet a bilinear resize and a crop of 0.875, for the
    three small sets the mean and deviation of CIFAR-10.

    Args:
        net: The file's first word.
        release: Number of the release, v0.0.N.
        digest: SHA-1 of the checkpoint, all of it.
        top1_error: In percent.
        top5_error: In percent; the file's name quotes it where there is one.
        dataset: A key of `CLASSES`.
    """
    quoted = round(100 * (top1_error if top5_error is None else top5_error))
    return Weights(
        url=f"{OSMR}/v0.0.{release}/{net}-{quoted:04d}-{digest[:8]}.pth.zip",
        digest=f"sha1:{digest}",
        num_classes=CLASSES[dataset],
        top1_error=top1_error,
        top5_error=top5_error,
        error_source="pytorchcv",
        licence="mit",
    )


def pytorchcv_in1k(net: str, release: int, digest: str, top1_error: float, top5_error: float) -> dict[str, Weights]:
    """The tag of one ImageNet file of pytorchcv's."""
    return {"osmr_in1k": pytorchcv(net, release, digest, top1_error, top5_error)}


def pytorchcv_small(net: str, **files: tuple[int, float, str]) -> dict[str, Weights]:
    """Tags of pytorchcv's files for 32x32 images.

    Args:
        net: Name there, without the data set.
        **files: By data set (``c10``, ``c100``, ``svhn``): release, top-1 error in percent, SHA-1.
    """
    longer = {"c10": "cifar10", "c100": "cifar100", "svhn": "svhn"}
    return {
        f"osmr_{dataset}": pytorchcv(f"{net}_{longer[dataset]}", release, digest, error, dataset=dataset)
        for dataset, (release, error, digest) in files.items()
    }


def torchvision(net: str, **preprocessing: Any) -> dict[str, Weights]:
    """The tags of a net of torchvision's, ``tv_in1k`` first, as the installed torchvision describes them.

    Args:
        net: Its name there.
        **preprocessing: Fields of `Weights` that differ, where the net there changes its input by itself.
    """
    from torchvision.models import get_model_weights
    from torchvision.transforms import InterpolationMode

    tags = {}
    for number, row in enumerate(get_model_weights(net), 1):
        prepared = row.transforms()
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
            mean=tuple(prepared.mean),
            std=tuple(prepared.std),
            interpolation=InterpolationMode(prepared.interpolation).value,
            input_size=(3, crop, crop),
            crop_pct=round(crop / resize, 3),
        )
        tags["tv_in1k" if number == 1 else f"tv{number}_in1k"] = Weights(**fields | preprocessing)
    return tags


@dataclass(frozen=True)
class Layout:
    r"""How another implementation names the tensors of a family.

    A rule is a regular expression for the start of a foreign name and what replaces it: text with ``\1`` for the
    first group, or ``{1-1}`` for the number in it less one. The first rule that matches decides; all names of a state
    dict are replaced at once, so that old and new names may overlap.

    Attributes:
        rules: Patterns and replacements.
        constants: By our name, the value that fills a tensor which this layout has not.
        dropped: Patterns of foreign names that have no place with us, such as those of auxiliary classifiers.
    """

    rules: Table
    constants: Mapping[str, float] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def rename(self, key: str) -> str | None:
        """Our name of a foreign one; None if no rule matches."""
        for pattern, replacement in self.rules:
            match = _compiled(pattern).match(key)
            if match:
                return _fill(match, replacement) + key[match.end() :]
        return None


# re's own cache holds fewer patterns than the tables.
_compiled = cache(re.compile)


def _fill(match: re.Match[str], replacement: str) -> str:
    counted = re.sub(
        r"\{(\d)([+-]\d+)?\}",
        lambda m: match.group(int(m[1])) if m[2] is None else str(int(match.group(int(m[1]))) + int(m[2])),
        replacement,
    )
    return match.expand(counted)


NATIVE = "native"
"""What `convert` calls the layout of our own state dicts."""

FOLLOWED = "num_batches_tracked"
"""Last part of the name of a counter that checkpoints from before PyTorch 0.4.1 lack."""


@torch.no_grad()
def convert(
    state_dict: Mapping[str, Tensor],
    net: nn.Module,
    layouts: Mapping[str, Layout],
    *,
    source: str = "state dict",
    optional: Sequence[str] = (),
    free: Sequence[str] = (),
) -> tuple[dict[str, Tensor], str]:
    """A checkpoint under our names, each tensor of the right shape and kind; the net is only looked at.

    Fully connected layers may be written as convolutions and the other way round; counters of batches may be missing.

    Args:
        state_dict: Names and tensors, ours or in one of the layouts.
        net: A net of the family.
        layouts: By name.
        source: What errors call the checkpoint.
        optional: Starts of names that may be missing, and that are left out where the net has no place for them.
        free: Names whose shape is not checked, because they will be adapted.

    Returns:
        A new state dict, and the name of its layout: `NATIVE` or a key of ``layouts``.

    Raises:
        ValueError: If a tensor is missing, unknown, of a wrong shape or kind, or not finite; the message names the
            first few and says how many there are.
    """
    own = net.state_dict()
    found = min(
        (_renamed(name, layout, state_dict, own, optional) for name, layout in ((NATIVE, None), *layouts.items())),
        key=lambda renamed: len(renamed.missing(own, optional)) + len(renamed.unknown),
    )
    problems = [
        *_problem("missing", found.missing(own, optional)),
        *_problem("unknown", found.unknown),
        *_problem("twice there under two names", found.doubled),
    ]
    wrong, broken, tensors = [], [], dict(found.tensors)
    for key, value in tensors.items():
        want = own[key]
        if not _plain(value) or value.is_floating_point() != want.is_floating_point():
            wrong.append(f"{key} is {_kind(value)}")
            continue
        if key not in free:
            if not _same_layer(value.shape, want.shape):
                wrong.append(f"{key} is {_size(value)} and not {_size(want)}")
                continue
            tensors[key] = value = value.reshape(want.shape)
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            wrong.append(f"{key} is {_size(value)} without the numbers for it")
            continue
        if not problems and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            broken.append(key)
    problems += _problem("of a wrong shape or kind", wrong)
    problems += _problem("not finite", broken)
    if problems:
        known = "" if found.layout == NATIVE else f" (read as layout {found.layout})"
        raise ValueError(f"{source}: does not fit {type(net).__name__}{known}: {'; '.join(problems)}")
    for key, value in own.items():
        if key not in tensors and key.endswith(FOLLOWED):
            tensors[key] = torch.zeros(value.shape, dtype=value.dtype)
    return {key: tensors[key] for key in own if key in tensors}, found.layout


FIRST_CONV, CLASSIFIER, WIDE = "stem.conv1", "classifier.fc", "wide"
"""Where a net of ours takes its channels and gives its classes; wide layers come and go with the classifier."""


def load(
    net: nn.Module,
    state_dict: Mapping[str, Tensor],
    layouts: Mapping[str, Layout],
    *,
    source: str = "state dict",
    num_classes: int,
    in_chans: int = 3,
) -> str:
    """Write a checkpoint into a net, after all of it has been checked.

    A net with another number of classes keeps its own classifier; one with another number of channels gets the sum
    (one channel) or the rescaled repetition of the kernels, as in timm.

    Args:
        net: The net; it is as before if anything is raised.
        state_dict: Names and tensors, ours or in one of the layouts.
        layouts: By name.
        source: What errors call the checkpoint.
        num_classes: Classes of the checkpoint.
        in_chans: Channels that the checkpoint takes.

    Returns:
        The name of the layout.

    Raises:
        ValueError: As `convert`.
    """
    own: Any = net
    optional, free = [], []
    if own.num_classes != num_classes:
        optional, free = [f"{CLASSIFIER}."], [f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"]
    if not own.num_classes:
        optional.append(f"{WIDE}.")
    kernels = f"{FIRST_CONV}.weight"
    if own.in_chans != in_chans:
        free.append(kernels)
    tensors, layout = convert(state_dict, net, layouts, source=source, optional=optional, free=free)
    if own.num_classes != num_classes:
        for key in free[:2]:
            tensors.pop(key, None)
    if own.in_chans != in_chans:
        want = net.get_parameter(kernels).shape
        have = tensors[kernels].shape
        if have != (want[0], in_chans, *want[2:]):
            raise ValueError(f"{source}: {kernels} is {_size(tensors[kernels])} and does not take {in_chans} channels")
        tensors[kernels] = adapt_input_conv(own.in_chans, tensors[kernels], base_chans=in_chans)
    net.load_state_dict(tensors, strict=len(tensors) == len(net.state_dict()))
    return layout


@dataclass(frozen=True)
class _Renamed:
    """A state dict under our names, as one layout reads it."""

    layout: str
    tensors: dict[str, Tensor]
    unknown: list[str]
    doubled: list[str]

    def missing(self, own: Mapping[str, Tensor], optional: Sequence[str]) -> list[str]:
        absent = (key for key in own if key not in self.tensors and not key.endswith(FOLLOWED))
        return [key for key in absent if not key.startswith(tuple(optional))]


def _renamed(
    name: str,
    layout: Layout | None,
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    optional: Sequence[str],
) -> _Renamed:
    tensors: dict[str, Tensor] = {}
    unknown, doubled = [], []
    for key, value in state_dict.items():
        if layout and any(_compiled(pattern).match(key) for pattern in layout.dropped):
            continue
        new = key if layout is None else layout.rename(key)
        if new is None or new not in own:
            if new is None or not new.startswith(tuple(optional)):
                unknown.append(key)
        elif new in tensors:
            doubled.append(new)
        else:
            tensors[new] = value
    for key, number in layout.constants.items() if layout else ():
        if key in own and key not in tensors:
            tensors[key] = torch.full(own[key].shape, number)
    return _Renamed(name, tensors, unknown, doubled)


def _same_layer(shape: torch.Size, want: torch.Size) -> bool:
    """Whether two shapes differ at most as a fully connected layer differs from a convolution over the whole map."""
    flat = len(shape) == 2 or len(want) == 2
    return shape == want or (flat and shape[:1] == want[:1] and shape.numel() == want.numel())


def _plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_complex() and not value.is_quantized


def _kind(value: Tensor) -> str:
    return f"{value.dtype}".removeprefix("torch.") + ("" if _plain(value) else f" on {value.device}, {value.layout}")


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _problem(what: str, names: Sequence[str], shown: int = 3) -> Iterator[str]:
    if names:
        first = ", ".join(_short(name) for name in names[:shown]) + (", ..." if len(names) > shown else "")
        yield f"{len(names)} tensor{'s' * (len(names) > 1)} {what} ({first})"


def _short(text: str, length: int = 100) -> str:
    """One line of printable ASCII, whatever a file calls its tensors."""
    safe = text.encode("ascii", "backslashreplace").decode()
    safe = "".join(c if c.isprintable() else "?" for c in safe)
    return safe if len(safe) <= length else safe[:length] + "..."
