"""Image sets by timm's names: small images held in memory, others read batch by batch.

`open_set` takes the names of `timm.data.create_dataset`, such as ``torch/cifar10`` or ``hfds/NAME``, and ``folder`` for
one folder per class in one folder per split. Images of one size up to 96 px are held in memory, as a
`zoo.datasets.image_set.Dataset`; all other sets are a `Stream`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from zoo.datasets.augment import byte_changes, crops, draw, late_changes, mix, seeded
from zoo.datasets.check import check_halves, leave_out, tell_copies
from zoo.datasets.decode import PictureError
from zoo.datasets.fingerprint import digest
from zoo.datasets.folders import open_halves
from zoo.datasets.half import Half, Item, read_batches
from zoo.datasets.image_set import TEST_BATCH_SIZE, Dataset, ImageSet
from zoo.datasets.library import FOLDER, TORCH, NoSplitError, is_known, is_own, open_half, unknown
from zoo.datasets.split import hold_out
from zoo.escape import for_terminal
from zoo.results.recipe import Recipe

SMALL = 96
"""Largest side in pixels of images that are held in memory."""
MEMORY = 4 * 2**30
"""Largest size in bytes of a set in memory."""
PROBED = 32
"""Number of images that are checked for one common size; reading the others checks the rest."""
SIZE = 224
"""Side of the images of a `Stream` if the recipe gives none."""
CROP = 0.875
"""Share of the resized image that a test crop takes, as in most papers."""
INTERPOLATION = "bilinear"
"""Interpolation of test images."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's images, with which streams are normalised."""
CPU = torch.device("cpu")
TRAIN_SPLIT, TEST_SPLITS = "train", ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """Location of image sets and options for reading them. It is not part of a run's key.

    Attributes:
        folder: Folder of the set; None for built-in sets.
        download: True if a missing set may be downloaded.
        workers: Number of processes that read images; 0 for none.
        check: Read all pictures when the set is opened. An unreadable picture is then an error, and so is one that is
            in both halves of a folder. `zoo bench` always does this. Otherwise only the test half is read, and
            unreadable pictures are left out of it with a warning; in the training half they are an error when their
            turn comes.
        skip_broken: Leave unreadable pictures out of both halves instead, and count them.
        memory: File that stores which pictures were read.
    """

    folder: Path | None = None
    download: bool = False
    workers: int = 2
    check: bool = False
    skip_broken: bool = False
    memory: Path | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "memory"):
            if getattr(self, name) is not None:  # text is a path as well
                object.__setattr__(self, name, Path(getattr(self, name)))


BUILT_IN = DataLocation()
"""Location of sets that need none."""


def set_name(name: str, location: DataLocation) -> str:
    """Return the name under which results are stored: ``folder`` becomes ``folder/<its last part>``."""
    if name == FOLDER and location.folder is not None:
        return f"{FOLDER}/{for_terminal(location.folder.resolve().name)}"
    return name


def is_external(name: str) -> bool:
    """Return True if a name belongs to a set that is not built in: a folder, or of another library."""
    return name.startswith(f"{FOLDER}/") or is_known(name)


def open_set(name: str, location: DataLocation) -> ImageSet:
    """Open both halves of a set; the test half is called ``validation`` or ``test``.

    Raises:
        ValueError: If the set does not exist, no folder is given, the halves overlap or do not fit together, or a
            picture cannot be read.
    """
    if location.folder is None:
        if not is_external(name):
            raise unknown(name)
        fetch = "; zoo bench fetches it into there with --download" if name.lower().startswith(TORCH) else ""
        raise ValueError(f"dataset {for_terminal(name)!r} needs a folder: give --data-dir{fetch}")
    if location.download:
        location.folder.mkdir(parents=True, exist_ok=True)
    halves = _halves(name, location.folder, location.download)
    check = location.check or location.skip_broken
    found = check_halves(halves, title=name, workers=location.workers, memory=location.memory, looked_at=(check, True))
    if check:
        tell_copies(found, published=not is_own(name))
    train, test = leave_out(halves, found, skip=location.skip_broken or not check)
    stream = Stream(
        name=name,
        num_classes=len(train.classes),
        classes=train.classes,
        test_labels=torch.from_numpy(test.labels),
        content=digest([train.classes, train.digest(), test.digest(), test.labels]),
        train=train,
        test=test,
        workers=location.workers,
        left_out=(len(found.broken[0]), len(found.broken[1])),
    )
    return _in_memory(stream) or stream


def _halves(name: str, folder: Path, download: bool) -> tuple[Half, Half]:
    if name == FOLDER or name.startswith(f"{FOLDER}/"):
        if not folder.is_dir():
            raise ValueError(f"data-dir {for_terminal(folder)!r} is not a folder")
        return open_halves(folder)
    train = open_half(name, folder, TRAIN_SPLIT, download=download)
    try:
        test = open_half(name, folder, TEST_SPLITS[0], download=download)
    except NoSplitError:  # any other fault of the validation half is no reason to test on another
        test = open_half(name, folder, TEST_SPLITS[1], download=download)
    if train.classes != test.classes:
        raise ValueError(f"dataset {name!r}: training and test images have different classes")
    return train, test


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream(ImageSet):
    """A labelled image set that is read from disk batch by batch.

    Attributes:
        train: Position -> (image, class), unchanged.
        test: Position -> (image, class) of the test images.
        content: The fingerprint, computed when the set was opened.
        workers: Number of processes that read.
        side: Height and width of all images after resizing.
        device: Device of the batches.
    """

    train: Half
    test: Half
    content: str
    workers: int = 0
    side: int = SIZE
    device: torch.device = CPU

    @property
    def fingerprint(self) -> str:
        """Digest of class names and of the files of each half; for a set without files, of cheaply available facts."""
        return self.content

    @property
    def prepared(self) -> dict[str, Any]:
        """See `ImageSet.prepared`."""
        return {"mean": list(MEAN), "std": list(STD), "interpolation": INTERPOLATION, "crop_pct": CROP}

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return 3, self.side, self.side

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.test)

    @property
    def class_counts(self) -> Tensor:
        """See `ImageSet.class_counts`."""
        return torch.from_numpy(self.train.labels).bincount(minlength=self.num_classes)

    def for_recipe(self, recipe: Recipe) -> Self:
        """Return the set with images of the recipe's size.

        Raises:
            ValueError: If the recipe moves images, which is only for images of one size.
        """
        if recipe.max_shift:
            raise ValueError(
                f"recipe field max_shift must be 0 for {self.name}, whose images are cropped, got {recipe.max_shift}: "
                "take a recipe for ImageNet"
            )
        return replace(self, side=recipe.image_size or SIZE)

    def searching(self, share: float, seed: int) -> Self:
        """See `ImageSet.searching`."""
        train, held = (self.train.positions[chosen] for chosen in hold_out(self.train.labels, share, seed))
        test = self.train.without(train)
        return replace(self, train=self.train.without(held), test=test, test_labels=torch.from_numpy(test.labels))

    def on(self, device: torch.device) -> Self:
        """Return the set with its batches on a device."""
        return replace(self, device=device)

    def train_batches(
        self, recipe: Recipe, generator: torch.Generator, *, rank: int = 0, of: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `ImageSet.train_batches`. Every image is read and changed with the seed that is drawn for it."""
        draws = draw(self.train_size, replace(recipe, image_size=self.side), generator)
        assert draws.seeds is not None
        keys = list(zip(draws.order.tolist(), draws.seeds.tolist(), strict=True))
        own: list[tuple[int, int]] = []
        for start in range(0, self.train_size - recipe.batch_size + 1, recipe.batch_size):
            own += keys[start + rank : start + recipe.batch_size : of]
        share = recipe.batch_size // of
        batches = self._batches(_Changed(self.train, _Training(recipe, self.side)), own, share)
        for number, (images, labels) in enumerate(batches):
            if recipe.mixup or recipe.cutmix:
                images, labels = mix(images, labels, self.num_classes, recipe, own[number * share][1])
            yield images, labels

    def test_batches(self, *, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """See `ImageSet.test_batches`. Images are resized and cropped at the centre."""
        prepare = create_transform(
            (3, self.side, self.side), is_training=False, interpolation=INTERPOLATION, mean=MEAN, std=STD, crop_pct=CROP
        )
        own = [(position, 0) for position in range(rank, self.test_size, of)]
        yield from self._batches(_Changed(self.test, prepare), own, TEST_BATCH_SIZE)

    def _batches(self, images: Any, keys: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        pinned = self.device.type == "cuda"
        for batch, labels, broken in read_batches(images, size, keys, workers=self.workers, pin_memory=pinned):
            if broken:
                raise broken[0]
            assert batch is not None
            assert labels is not None
            yield batch.to(self.device, non_blocking=pinned), labels.to(self.device, non_blocking=pinned)


@dataclass(frozen=True)
class _Changed:
    """Changed images by (position, seed)."""

    images: Half
    change: Any

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        position, seed = key
        try:
            image, label = self.images[position]
        except PictureError as error:
            return error
        with seeded(seed):
            return self.change(image), label


class _Training:
    """Transform of a training image: a crop of an image of any size, changed and normalised."""

    def __init__(self, recipe: Recipe, side: int) -> None:
        steps: list[Any] = [v2.PILToTensor(), *crops(recipe, side)]
        steps += [v2.RandomHorizontalFlip()] * recipe.flip
        steps += byte_changes(recipe)
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self.change = v2.Compose([*steps, *late_changes(recipe, STD)])

    def __call__(self, image: Any) -> Tensor:
        return self.change(image)


def _in_memory(stream: Stream) -> Dataset | None:
    """Return the set in memory if its images are small and of one size; otherwise None."""
    total = stream.train_size + stream.test_size
    probed = (half[i][0].size for half in (stream.train, stream.test) for i in range(min(PROBED, len(half))))
    width, height = next(probed)
    if max(width, height) > SMALL or total * 3 * width * height > MEMORY or any(s != (width, height) for s in probed):
        return None
    halves: list[Tensor] = []
    bar = tqdm(total=total, desc=f"reading {stream.name}", unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar:
        for half in (stream.train, stream.test):
            images = torch.empty(len(half), 3, height, width, dtype=torch.uint8)
            labels = torch.empty(len(half), dtype=torch.int64)
            for i in range(len(half)):
                image, label = half[i]
                if image.size != (width, height):
                    return None
                images[i], labels[i] = functional.pil_to_tensor(image), label
                bar.update()
            halves += [images, labels]
    # From how often each of the 256 values occurs: exact, and no copy of the set as numbers of eight bytes.
    values = torch.arange(256, dtype=torch.float64) / 255
    often = torch.stack([halves[0][:, c].flatten().bincount(minlength=256) for c in range(3)]).double()
    often /= often.sum(1, keepdim=True)
    mean = (often * values).sum(1)
    std = ((often * values.square()).sum(1) - mean.square()).sqrt().clamp(min=1e-6)
    return Dataset(
        name=stream.name,
        train_images=halves[0],
        train_labels=halves[1],
        test_images=halves[2],
        test_labels=halves[3],
        num_classes=stream.num_classes,
        classes=stream.classes,
        fill=(-mean / std).float(),
        mean=mean.float(),
        std=std.float(),
        left_out=stream.left_out,
    )
