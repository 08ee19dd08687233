"""Own pictures with a mask or boxes each: folders that are checked when they are opened, and read at one size.

Segmentation: ``DIR/classes.txt`` with a name a line, and in each half ``images/NAME.*`` with ``masks/NAME.png``, whose
pixels are class numbers; `IGNORED` pixels count nowhere. Detection: in each half ``images/`` and ``annotations.json``
in the format of COCO. The halves are called as those of `zoo.datasets.folders`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.datasets.decode import decode, is_turned, read_file
from zoo.datasets.external import INTERPOLATION, MEAN, MEMORY, SIZE, STD, DataLocation
from zoo.datasets.fingerprint import digest, file_digest
from zoo.datasets.folders import find_halves, pictures_below, read_class_map, subfolders
from zoo.datasets.image_set import Dataset, ImageSet
from zoo.escape import for_terminal
from zoo.results.recipe import Recipe

IGNORED = 255
"""Value of mask pixels without a class."""
IMAGES, MASKS, CLASSES, BOXES = "images", "masks", "classes.txt", "annotations.json"
MASK_FORMATS = ("PNG", "BMP", "PPM", "TIFF")
"""Formats of masks; those that lose detail would change class numbers."""
BORDER = 1.0
"""Pixels by which a box may reach out of its picture; it is cut."""
BACKGROUND = "background"


@dataclass(frozen=True)
class Pair:
    """A picture and what is known of it.

    Attributes:
        picture: Path of the picture.
        known: Path of its mask, or (boxes as x0 y0 x1 y1, classes, width and height if they are stated).
    """

    picture: Path
    known: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Resized(Dataset):
    """An annotated set in memory, at one size.

    Attributes:
        content: Fingerprint of the files.
    """

    content: str

    @property
    def fingerprint(self) -> str:
        """Digest of the files of both halves."""
        return self.content

    @property
    def prepared(self) -> dict[str, Any]:
        """See `ImageSet.prepared`. The whole picture is resized to a square."""
        return super().prepared | {"interpolation": INTERPOLATION}

    def for_recipe(self, recipe: Recipe) -> Self:
        """See `ImageSet.for_recipe`."""
        if (recipe.image_size or SIZE) != self.input_size[1]:
            raise ValueError(f"recipe field image_size must be {self.input_size[1]}, as the set was read")
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotated(ImageSet):
    """An annotated set before it is read at the size of a recipe.

    Attributes:
        halves: Pictures to train and to test.
        content: Fingerprint of the files.
        target: Reads what is known of a picture: the pair, the picture, the side in pixels -> the target at that side.
        gather: Targets of a half -> targets in the form of the task.
        check: Raises ValueError, or warns, for the set that was read.
        sized: Sets that were read, by side.
    """

    halves: tuple[Sequence[Pair], Sequence[Pair]]
    content: str
    target: Callable[[Pair, Image.Image, int], Any]
    gather: Callable[[list[Any]], Any]
    check: Callable[[Resized], None] = field(default=lambda _: None)
    sized: dict[int, Resized] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of the files of both halves."""
        return self.content

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.halves[0])

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.halves[1])

    def for_recipe(self, recipe: Recipe) -> Resized:
        """Return the set in memory, each picture resized to a square of the recipe's `image_size` (0 for 224 px).

        Raises:
            ValueError: If a picture, mask or box is wrong, or the set needs too much memory at this size.
        """
        side = recipe.image_size or SIZE
        if side not in self.sized:
            needed = 4 * side * side * (self.train_size + self.test_size)
            if needed > MEMORY:
                raise ValueError(
                    f"{self.name} needs {needed / 2**30:.1f} GiB in memory at {side} px, more than "
                    f"{MEMORY / 2**30:.0f}: take a smaller image_size"
                )
            self.sized[side] = self._read(side)
        return self.sized[side]

    def _read(self, side: int) -> Resized:
        halves: list[Any] = []
        trained: dict[bytes, Path] = {}
        for number, pairs in enumerate(self.halves):
            images, targets = torch.empty(len(pairs), 3, side, side, dtype=torch.uint8), []
            for i, pair in enumerate(pairs):
                content = read_file(pair.picture, str(pair.picture))
                own = hashlib.sha256(content).digest()
                if number == 0:
                    trained[own] = pair.picture
                elif own in trained:
                    raise ValueError(
                        f"one picture is in both halves: {for_terminal(trained[own])} and {for_terminal(pair.picture)} "
                        "have the same content; remove one of each pair"
                    )
                if is_turned(content):
                    raise ValueError(
                        f"{for_terminal(pair.picture)}: is turned by its EXIF orientation, and nobody tells whether "
                        "its annotation is: save it upright"
                    )
                image = decode(content, str(pair.picture))
                targets.append(self.target(pair, image, side))
                images[i] = resized(image, (side, side))
            halves += [images, self.gather(targets)]
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        whole = Resized(
            name=self.name,
            num_classes=self.num_classes,
            classes=self.classes,
            train_images=halves[0],
            train_labels=halves[1],
            test_images=halves[2],
            test_labels=halves[3],
            fill=-mean / std,
            mean=mean,
            std=std,
            content=self.content,
        )
        self.check(whole)
        return whole


def resized(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return a picture as bytes (3, height, width), the whole of it resized to that size."""
    wanted = size[1], size[0]
    small = image if image.size == wanted else image.resize(wanted, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def open_masks(name: str, location: DataLocation) -> Annotated:
    """Open a folder of pictures with masks.

    Raises:
        ValueError: If the folder is not as the head of this file says; the message names the file.
    """
    root = _folder(name, location)
    listed = root / CLASSES
    if not listed.is_file():
        raise ValueError(
            f"{for_terminal(listed)} is missing: it names the classes, one a line, the first for pixels of 0"
        )
    classes = read_class_map(listed)
    if not 2 <= len(classes) <= IGNORED:
        raise ValueError(f"{for_terminal(listed)} must name 2 to {IGNORED} classes, and names {len(classes)}")
    halves = tuple(_masked(half) for half in find_halves(root))
    return Annotated(
        name=name,
        num_classes=len(classes),
        classes=classes,
        test_labels=(),
        halves=(halves[0], halves[1]),
        content=digest([classes, *(_digest(root, half, masks=[pair.known for pair in half]) for half in halves)]),
        target=lambda pair, image, side: read_mask(pair, image, side, len(classes)),
        gather=torch.stack,
        check=_check_classes,
    )


def _masked(half: Path) -> list[Pair]:
    there = subfolders(half)
    if missing := [folder for folder in (IMAGES, MASKS) if folder not in there]:
        raise ValueError(f"{for_terminal(half)} must hold the folders {IMAGES} and {MASKS}: {missing[0]} is missing")
    pictures, masks = (_by_stem(there[folder]) for folder in (IMAGES, MASKS))
    for own, others, what in ((pictures, masks, "mask"), (masks, pictures, "picture")):
        if alone := [path for stem, path in own.items() if stem not in others]:
            more = f", and {len(alone) - 1} more have none" if len(alone) > 1 else ""
            raise ValueError(f"{for_terminal(alone[0])} has no {what} of its name{more}")
    if not pictures:
        raise ValueError(f"{for_terminal(there[IMAGES])} holds no picture that is read")
    return [Pair(path, masks[stem]) for stem, path in pictures.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures_below(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise ValueError(
                f"{for_terminal(found[stem])} and {for_terminal(path)} have one name: which belongs to it?"
            )
        found[stem] = path
    return found


def _check_classes(images: Resized) -> None:
    """Raise ValueError unless two classes at least can be learned; warn of those that a half does not have."""
    halves = {"training": images.train_labels, "test": images.test_labels}
    counts = {half: masks.flatten().bincount(minlength=IGNORED + 1) for half, masks in halves.items()}
    there = counts["training"][: images.num_classes].nonzero().flatten().tolist()
    if len(there) < 2:
        only = f"{for_terminal(images.name)}: all pixels of the training masks are of class {there[0]}"
        if counts["training"][IGNORED]:
            raise ValueError(f"{only} or {IGNORED}. {IGNORED} counts nowhere: write object pixels as 1")
        raise ValueError(f"{only}: nothing is to be told apart; write object pixels as 1")
    absent = {
        half: [name for name, n in zip(images.classes, counts[half].tolist(), strict=False) if not n] for half in counts
    }
    told = [
        f"{half} masks have no pixel of {for_terminal(', '.join(names))}" for half, names in absent.items() if names
    ]
    if told:
        side = images.input_size[1]
        warnings.warn(f"{for_terminal(images.name)} at {side} px: {'; '.join(told)}", stacklevel=2)


def read_mask(pair: Pair, image: Image.Image, side: int, classes: int) -> Tensor:
    """Return the mask of a picture, (side, side) uint8.

    Raises:
        ValueError: If it is no mask of so many classes, or has another size than the picture.
    """
    shown = for_terminal(pair.known)
    content = read_file(pair.known, str(pair.known))
    decode(content, str(pair.known))  # whole, of a size that is read
    with Image.open(io.BytesIO(content)) as mask:
        if mask.format not in MASK_FORMATS:
            raise ValueError(f"{shown}: is {mask.format}, which changes class numbers: save the mask as PNG")
        if mask.mode not in ("1", "L", "P"):
            raise ValueError(
                f"{shown}: has pixels of kind {mask.mode}, and a mask has one number a pixel: save it as a grey or "
                "palette PNG of 8 bits"
            )
        if not _is_stored(mask):
            raise ValueError(
                f"{shown}: its pixels are stored as {_raw(mask)}, and reading them changes class numbers: save it as a "
                "grey or palette PNG of 8 bits"
            )
        if mask.size != image.size:
            raise ValueError(
                f"{shown}: has {mask.width} x {mask.height} pixels, and its picture {for_terminal(pair.picture)} has "
                f"{image.width} x {image.height}"
            )
        values = np.array(mask).astype(np.uint8)
    found = set(np.unique(values).tolist()) - {IGNORED}
    if found and max(found) >= classes:
        raise ValueError(
            f"{shown}: holds class {max(found)}, and {CLASSES} names {classes}, from 0 to {classes - 1} ({IGNORED} is "
            "left out)"
        )
    if not found:
        raise ValueError(f"{shown}: has no pixel with a class")
    small = Image.fromarray(values)
    if small.size != (side, side):
        small = small.resize((side, side), Image.Resampling.NEAREST)
    left = torch.from_numpy(np.array(small))
    if bool((left == IGNORED).all()):
        raise ValueError(f"{shown}: has no pixel with a class at {side} px: take a larger image_size")
    return left


def _raw(mask: Image.Image) -> str:
    """Return Pillow's name of the pixels in a file that is not read yet, such as ``L;4`` for grey of 4 bits."""
    args: Any = mask.tile[0].args  # ty: ignore
    kind, white = (args, 255) if isinstance(args, str) else (args[0], args[-1])
    return f"{kind} up to {white}" if mask.format == "PPM" and white != 255 else str(kind)


def _is_stored(mask: Image.Image) -> bool:
    """Return True if the values that are read are those in the file, neither scaled nor inverted."""
    kind, _, form = _raw(mask).partition(";")
    return kind == "P" or (kind in ("1", "L") and form in ("", "R"))  # R: the bits of a byte in the other order


def open_boxes(name: str, location: DataLocation) -> Annotated:
    """Open a folder of pictures with boxes in the format of COCO.

    Crowds are left out, and so are pictures that no list names; a warning says how many.

    Raises:
        ValueError: If the folder is not as the head of this file says; the message names the file.
    """
    root = _folder(name, location)
    halves = [_boxed(half) for half in find_halves(root)]
    (train, names), (test, others) = halves
    if names != others:
        raise ValueError(f"{for_terminal(root)}: the two files {BOXES} have different categories")
    for pairs, half in ((train, "training"), (test, "test")):
        if not any(len(pair.known[0]) for pair in pairs):
            raise ValueError(f"{for_terminal(root)}: no {half} picture has a box")
    return Annotated(
        name=name,
        num_classes=1 + len(names),
        classes=(BACKGROUND, *names.values()),
        test_labels=(),
        halves=(train, test),
        content=digest([list(names.items()), *(_digest(root, half, boxes=True) for half, _ in halves)]),
        target=scaled_boxes,
        gather=list,
    )


def _boxed(half: Path) -> tuple[list[Pair], dict[int, str]]:
    path, folder = half / BOXES, half / IMAGES
    if not path.is_file() or not folder.is_dir():
        raise ValueError(f"{for_terminal(half)} must hold the file {BOXES} and the folder {IMAGES}")
    try:
        content = json.loads(read_file(path, str(path)))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{for_terminal(path)}: is no JSON: {error}") from error
    return _Coco(path, content).pairs(folder)


class _Coco:
    """The content of a file in the format of COCO, read with suspicion."""

    def __init__(self, path: Path, content: Any) -> None:
        self._path = path
        self._check(isinstance(content, dict), "must hold an object")
        self._lists = {}
        for name in ("images", "annotations", "categories"):
            self._lists[name] = content.get(name)
            fine = isinstance(content.get(name), list) and all(isinstance(entry, dict) for entry in content[name])
            self._check(fine, f"must hold a list of objects called {name!r}")

    def pairs(self, folder: Path) -> tuple[list[Pair], dict[int, str]]:
        """Return the pictures, and the names of the categories by their number."""
        names = self._categories()
        label = {number: i for i, number in enumerate(names, 1)}
        boxes: dict[Any, tuple[list[list[float]], list[int]]] = {}
        entries = {self._id("images", entry): entry for entry in self._lists["images"]}
        self._check(len(entries) == len(self._lists["images"]), "names an image id twice")
        self._check(bool(entries), "names no picture")
        crowds = 0
        for i, entry in enumerate(self._lists["annotations"]):
            image, category = entry.get("image_id"), entry.get("category_id")
            self._check(_is_id(image) and image in entries, f"annotation {i} belongs to no image of the file")
            self._check(_is_id(category) and category in label, f"annotation {i} belongs to no category of the file")
            if entry.get("iscrowd"):
                crowds += 1
                continue
            own = boxes.setdefault(image, ([], []))
            own[0].append(self._box(entry, i))
            own[1].append(label[category])
        found = [self._pair(folder, entry, boxes.get(number, ([], []))) for number, entry in entries.items()]
        paths = {pair.picture for pair in found}
        self._check(len(paths) == len(found), "names a file twice")
        unlisted = len(set(pictures_below(folder)) - paths)
        left = [f"{crowds} crowds"] * bool(crowds) + [f"{unlisted} pictures that it does not name"] * bool(unlisted)
        if left:
            warnings.warn(f"{for_terminal(self._path)}: left out are {' and '.join(left)}", stacklevel=2)
        return found, names

    def _categories(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for entry in self._lists["categories"]:
            number, name = self._id("categories", entry), entry.get("name")
            self._check(isinstance(name, str) and bool(name), f"category {number} has no name")
            self._check(number not in names and name not in names.values(), f"names category {number} twice")
            names[number] = name
        self._check(bool(names), "names no category")
        return dict(sorted(names.items(), key=lambda pair: (str(type(pair[0])), pair[0])))

    def _box(self, entry: Mapping[str, Any], number: int) -> list[float]:
        box = entry.get("bbox")
        fine = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
        self._check(fine and box[2] > 0 and box[3] > 0, f"annotation {number} has no box of x, y, width and height")
        x, y, width, height = map(float, box)  # ty: ignore[invalid-argument-type]
        return [x, y, x + width, y + height]

    def _pair(self, folder: Path, entry: Mapping[str, Any], boxes: Any) -> Pair:
        name = entry.get("file_name")
        self._check(isinstance(name, str) and bool(name), "has an image without file_name")
        assert isinstance(name, str)
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and "\0" not in name
        self._check(inside, f"names a file outside of {IMAGES}: {for_terminal(name)!r}")
        path = folder / name
        self._check(path.is_file(), f"names {for_terminal(name)!r}, which is not in {for_terminal(folder)}")
        size = entry.get("width"), entry.get("height")
        return Pair(path, (*boxes, size if None not in size else None))

    def _id(self, kind: str, entry: Mapping[str, Any]) -> Any:
        self._check(_is_id(entry.get("id")), f"has an entry of {kind!r} without a number as its id")
        return entry["id"]

    def _check(self, fine: bool, what: str) -> None:
        if not fine:
            raise ValueError(f"{for_terminal(self._path)}: {what}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and not math.isnan(value)


def scaled_boxes(pair: Pair, image: Image.Image, side: int) -> dict[str, Tensor]:
    """Return boxes (n, 4) and labels (n,) of a picture that is resized to a square.

    Raises:
        ValueError: If the picture has another size than its entry says, or a box reaches out of it.
    """
    boxes, labels, stated = pair.known
    width, height = image.size
    shown = for_terminal(pair.picture)
    if stated is not None and tuple(stated) != image.size:
        raise ValueError(f"{shown}: has {width} x {height} pixels, and {BOXES} says {stated[0]} x {stated[1]}")
    found = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    most = torch.tensor([width, height, width, height], dtype=torch.float64)
    out = ((found < -BORDER) | (found > most + BORDER)).any(1)
    found = found.clamp(min=0).minimum(most)
    if bad := (out | (found[:, 2:] <= found[:, :2]).any(1)).nonzero().flatten().tolist():
        x0, y0, x1, y1 = boxes[bad[0]]
        raise ValueError(f"{shown}: the box {x0:g} {y0:g} {x1:g} {y1:g} reaches out of its {width} x {height} pixels")
    return {"boxes": (found * side / most).float(), "labels": torch.tensor(labels, dtype=torch.int64)}


def _folder(name: str, location: DataLocation) -> Path:
    if location.folder is None:
        raise ValueError(f"dataset {name!r} needs a folder: give --data-dir")
    if not location.folder.is_dir():
        raise ValueError(f"data-dir {for_terminal(location.folder)!r} is not a folder")
    if location.skip_broken:
        raise ValueError("skip-broken is for classification: mend pictures that cannot be read, or remove them")
    return location.folder


def _digest(root: Path, pairs: Sequence[Pair], *, masks: Sequence[Path] = (), boxes: bool = False) -> str:
    """Return the digest of a half: its pictures, of a large half a sample of them, and all that is known of each."""
    known = sorted((_name(root, pair.picture), json.dumps(pair.known)) for pair in pairs) if boxes else []
    pictures = [pair.picture for pair in pairs]
    return digest([file_digest(_files(root, pictures)), file_digest(_files(root, masks), whole=True), known])


def _files(root: Path, paths: Sequence[Path]) -> list[tuple[str, Path, int, int]]:
    return [(_name(root, path), path, 0, path.stat().st_size) for path in paths]


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
