"""Image sets by name, from torchvision and from Hugging Face's hub, with their names and splits; Fashion-MNIST, too."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from zoo.datasets import fashion
from zoo.datasets.decode import PictureError, decode
from zoo.datasets.fingerprint import SAMPLED, SMALL, digest, evenly
from zoo.datasets.folders import TEST, TRAIN, VALIDATION, find_split, natural, open_classes, read_class_map
from zoo.datasets.half import Half
from zoo.escape import for_terminal

FOLDER = "folder"
TORCH, HUB = "torch/", "hfds/"
NO_SPLIT = re.compile(r"(Unknown|Bad) split\b")
"""Beginning of what Hugging Face's library says of a split that a set does not have."""
MOST_CLASSES = 2**20
FASHION = "fashion"
"""Name of a set that may need no folder, see `zoo.datasets.fashion`."""


class NoSplitError(ValueError):
    """Error for a set that has no such split."""


@dataclass(frozen=True)
class Source:
    """A set of torchvision.

    Attributes:
        open: Takes the folder, the split in the library's terms and whether to download; returns the set.
        splits: Name of a split -> the library's term for it. The first is for training, the second for testing.
    """

    open: Callable[[str, Any, bool], Any]
    splits: Mapping[str, Any]


def _halved(kind: Any) -> Source:
    """Return a set that has a training half and a test half, selected by a flag."""
    return Source(partial(_open_halved, kind), {"train": True, "test": False})


def _open_halved(kind: Any, root: str, split: bool, download: bool) -> Any:
    return kind(root, train=split, download=download)


def _open_svhn(root: str, split: str, download: bool) -> Any:
    return datasets.SVHN(root, split=split, download=download)


def _open_imagenet(root: str, split: str, download: bool) -> Any:
    return datasets.ImageNet(root, split=split)  # its licence lets nobody fetch it by program


def _open_places(root: str, split: str, download: bool) -> Any:
    return datasets.Places365(root, split=split, download=download)


def _open_inaturalist(root: str, split: str, download: bool) -> Any:
    return datasets.INaturalist(root, version=split, target_type="full", download=download)


SOURCES = {
    "cifar10": _halved(datasets.CIFAR10),
    "cifar100": _halved(datasets.CIFAR100),
    "fashion_mnist": _halved(datasets.FashionMNIST),
    "imagenet": Source(_open_imagenet, {"train": "train", "val": "val"}),
    "inaturalist": Source(_open_inaturalist, {name: name for name in ("2021_train", "2021_valid", "2021_train_mini")}),
    "kmnist": _halved(datasets.KMNIST),
    "mnist": _halved(datasets.MNIST),
    "places365": Source(_open_places, {name: name for name in ("train-standard", "val", "train-challenge")}),
    "qmnist": _halved(datasets.QMNIST),
    "svhn": Source(_open_svhn, {name: name for name in ("train", "test", "extra")}),
}
NAMES = (FOLDER, *(TORCH + name for name in SOURCES), HUB + "NAME")
"""Names of all sets, besides the built-in sets of a task."""


@dataclass(kw_only=True, eq=False)
class LibraryHalf(Half):
    """The pictures of a set that another library reads.

    Attributes:
        title: Name of the set and its split in errors.
        source: Position -> (picture or open file, label).
        own: True for a set in a folder of the user's, whose files may change.
    """

    title: str
    source: Any
    own: bool = False

    def picture(self, found: int) -> Image.Image:
        """See `Half.picture`."""
        image = self._item(found)
        if isinstance(image, Image.Image):
            return decode(image, self.name(found))
        with image as file:
            return decode(file, self.name(found))

    def look(self, found: int) -> bytes:
        """See `Half.look`. The digest is that of the pixels."""
        image = self.picture(found)
        return digest([image.size, image.tobytes()]).encode()

    def name(self, found: int) -> str:
        """Return set, split and position, or the path if the library gives it."""
        for attribute in ("samples", "imgs"):
            if paths := getattr(self.source, attribute, None):
                return for_terminal(str(paths[found][0]))
        return f"picture {found} of {self.title}"

    def digest(self) -> str:
        """See `Half.digest`. It covers number, labels, and a few pictures at even distances.

        Of an own set of up to `SMALL` bytes in all it covers all files.
        """
        content = self._files() if self.own else None
        if content is None:
            content = [self._sample(int(self.positions[i])) for i in evenly(len(self), SAMPLED)]
        return digest([self.labels, *content])

    def state(self) -> str:
        """See `Half.state`."""
        return digest([self.title, str(getattr(self.source, "root", "")), self.all_labels, self.digest()])

    def _item(self, found: int) -> Any:
        try:
            image, *_ = self.source[found]
        except Exception as error:  # whatever the library raises for a damaged file
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise PictureError(f"{self.name(found)}: cannot be read: {for_terminal(reason)}") from error
        return image

    def _files(self) -> list[bytes] | None:
        """Return the digest of each file; None if the library gives no files, or their size exceeds `SMALL` bytes."""
        digests, left = [], SMALL
        for found in self.positions.tolist():
            try:
                file = self._item(found)
            except PictureError:
                digests.append(b"")
                continue
            if isinstance(file, Image.Image):
                return None
            with file:
                content = file.read(left + 1)
            left -= len(content)
            if left < 0:
                return None
            digests.append(hashlib.sha256(content).digest())
        return digests

    def _sample(self, found: int) -> bytes:
        try:
            return self.look(found)
        except PictureError:
            return b""


def is_own(name: str) -> bool:
    """Return True for a set whose halves the user has made: a folder, or an image folder of Hugging Face's library."""
    return name == FOLDER or name.startswith(f"{FOLDER}/") or (name.startswith(HUB) and Path(name[len(HUB) :]).is_dir())


def unknown(name: str, built_in: tuple[str, ...] = (), external: bool = True) -> ValueError:
    """Return the error for an unknown set. It lists the known sets.

    Args:
        name: The requested name.
        built_in: Names of the built-in sets of the task.
        external: True if sets of folders and libraries are possible as well.
    """
    known = (*sorted(built_in), *(NAMES if external else ()))
    plain = {choice.rpartition("/")[2].replace("_", ""): choice for choice in known}
    close = difflib.get_close_matches(name.rpartition("/")[2].lower().replace("_", ""), plain, 1, 0.75)
    hint = f"; did you mean {plain[close[0]]}?" if close else ""
    return ValueError(f"unknown dataset {for_terminal(name)!r}: choose from {', '.join(known)}{hint}")


def is_known(name: str) -> bool:
    """Return True if a name is that of a set in a folder: one of `NAMES`, or of the hub."""
    lower = name.lower()
    of_torch = lower.startswith(TORCH) and lower.removeprefix(TORCH) in SOURCES
    return name == FOLDER or of_torch or (lower.startswith(HUB) and len(name) > len(HUB))


def open_half(
    name: str, folder: Path | None, split: str, *, class_map: Path | None = None, download: bool = False
) -> Half:
    """Open a split of a set.

    Args:
        name: ``folder`` for one folder per class in one folder per split, one of `NAMES`, or ``fashion``.
        folder: Folder of the set; None for the one that holds Debian's files of ``fashion``.
        split: Part of the set. ``train`` and ``training`` are interchangeable, and so are ``validation``, ``val``,
            ``test`` and similar names if a set has one such half.
        class_map: File with one class name per line, in the order of the net's classes; for folders.
        download: True if a set of torchvision may be downloaded into the folder.

    Raises:
        ValueError: If the set or split does not exist, with a list of those that do, or it cannot be read.
    """
    for what, value in (("dataset", name), ("split", split)):
        if not isinstance(value, str):
            raise ValueError(f"{what} ({value!r}) must be a text")
    if class_map is not None and name != FOLDER:
        raise ValueError(f"class-map is for folders, and {for_terminal(name)} has classes of its own: leave it out")
    if name == FASHION:
        return _open_fashion(folder, split, download)
    if not is_known(name):
        raise unknown(name, (FASHION,))
    if folder is None:
        raise ValueError("data-dir is missing: name the folder of the images")
    if not folder.is_dir():
        raise ValueError(f"data-dir {for_terminal(folder)!r} is not a folder")
    if name == FOLDER:
        names = read_class_map(class_map) if class_map is not None else ()
        return open_classes(find_split(folder, split), names)
    if name.lower().startswith(TORCH):
        source = SOURCES[name.lower().removeprefix(TORCH)]
        return _half(name, split, partial(source.open, str(folder), _split(source.splits, split), download), folder)
    half = _half(name, split, partial(_open_hub, name, folder, split, download), folder)
    return replace(half, own=is_own(name))


@dataclass(frozen=True)
class _Garments:
    """Pictures of one half of Fashion-MNIST, as a library would give them."""

    images: np.ndarray
    targets: list[int]
    classes: tuple[str, ...] = fashion.CLASSES

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[position]), self.targets[position]


def _open_fashion(folder: Path | None, split: str, download: bool) -> LibraryHalf:
    part = _split({"train": "train", "test": "test"}, split)
    half = fashion.read(fashion.find(folder, download=download), part)
    source = _Garments(half.images.numpy(), half.labels.tolist())
    return LibraryHalf(
        classes=source.classes,
        all_labels=np.array(source.targets, dtype=np.int64),
        title=f"{FASHION}, {part}",
        source=source,
    )


def _split(splits: Mapping[str, Any], split: str) -> Any:
    """Return the library's term for a split."""
    trains, tests = list(splits)[:2]
    kinds = dict.fromkeys(TRAIN, trains) | dict.fromkeys(VALIDATION + TEST, tests)
    wanted = split if split in splits else kinds.get(split.lower())
    if wanted is None:
        raise ValueError(f"unknown split {for_terminal(split)!r}: choose from {', '.join(splits)}")
    return splits[wanted]


def _open_hub(name: str, folder: Path, split: str, download: bool) -> Any:
    from timm.data import create_dataset

    # timm's reader alone: its set gives the next picture for one that it cannot read.
    try:
        return create_dataset(name, str(folder), split=split, download=download).reader
    except ValueError as error:
        if NO_SPLIT.match(str(error)):
            raise NoSplitError(*error.args) from error
        raise


def _half(name: str, split: str, opened: Callable[[], Any], folder: Path) -> LibraryHalf:
    title = for_terminal(f"{name}, {split}")
    try:
        source = opened()
        labels = _labels(source)
        classes = _classes(source, labels)
    except (AssertionError, RuntimeError, OSError, ValueError, ImportError, TypeError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        kind = NoSplitError if isinstance(error, NoSplitError) else ValueError
        raise kind(f"dataset {for_terminal(name)!r} cannot be read from {for_terminal(folder)!r}: {reason}") from error
    return LibraryHalf(classes=classes, all_labels=np.array(labels, dtype=np.int64), title=title, source=source)


def _labels(source: Any) -> list[int]:
    """Return the class of each picture, without reading pictures if the set has a list of labels."""
    if hasattr(source, "iter_targets"):
        labels = list(source.iter_targets())
        number = {name: i for i, name in enumerate(_named(labels))}
        return [number[label] for label in labels] if number else _numbers(labels)
    for attribute in ("targets", "labels"):
        if getattr(source, attribute, None) is not None:
            return [int(label) for label in getattr(source, attribute)]
    if getattr(source, "index", None) and hasattr(source, "all_categories"):  # iNaturalist
        return [int(label) for label, _ in source.index]
    return [int(label) for _, label in (source[i] for i in range(len(source)))]


def _numbers(labels: list[Any]) -> list[int]:
    """Return labels that are numbers of classes.

    Raises:
        ValueError: If one is missing, no whole number, negative, or too large to count the classes by.
    """
    for i, label in enumerate(labels):
        if label is None or not float(label).is_integer() or not 0 <= label < MOST_CLASSES:
            raise ValueError(
                f"picture {i} has the label {label}, and a class is a text or a whole number from 0 to {MOST_CLASSES:,}"
            )
    return [int(label) for label in labels]


def _named(labels: list[Any]) -> tuple[str, ...]:
    """Return the classes of labels that are texts, as a CSV file has them, sorted; nothing for numbers.

    Raises:
        ValueError: If some pictures have a text and others none.
    """
    texts = {label for label in labels if isinstance(label, str)}
    if texts and (other := next((i for i, label in enumerate(labels) if not isinstance(label, str)), None)) is not None:
        raise ValueError(f"picture {other} has no label, and others have")
    return tuple(sorted(texts, key=natural))


def _classes(source: Any, labels: list[int]) -> tuple[str, ...]:
    """Return the names of the classes, in their order; numbers if the set has no names."""
    if hasattr(source, "iter_targets"):
        if known := getattr(source, "class_to_idx", None):
            return tuple(sorted(known, key=known.__getitem__))
        if names := _named(list(source.iter_targets())):
            return names
    names = getattr(source, "classes", None) or getattr(source, "all_categories", None)
    if names:
        return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)
    return tuple(map(str, range(max(labels, default=-1) + 1)))
