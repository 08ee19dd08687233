"""Folders of pictures: one folder per class, inside one folder per half."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.datasets.decode import ENDINGS, decode, read_file
from zoo.datasets.fingerprint import digest, file_digest
from zoo.datasets.half import Half
from zoo.escape import for_terminal

TRAIN = ("train", "training")
VALIDATION = ("validation", "valid", "val", "dev", "eval", "evaluation")
TEST = ("test", "testing", "holdout")
HALVES = TRAIN + VALIDATION + TEST
"""Names of folders that are halves, not classes; case does not matter."""
LITTER = frozenset(("thumbs.db", "desktop.ini"))
"""Names of files that systems leave in folders of pictures, in lower case. Hidden files are left out as well."""
SHOWN = 5
"""Number of names that a message lists before it only counts."""
SIZE, TIME, DEVICE, NUMBER = range(4)
"""Columns of a file's record: size in bytes, time of change in ns, and device and number, which identify the file."""
SIGNED = 2**63 - 1
"""Largest value of a column; some file systems number their files from the top."""
UNKNOWN = (0, 0, 0, 0)
"""Record of a link that leads nowhere."""


@dataclass(kw_only=True, eq=False)
class FolderHalf(Half):
    """The pictures of a folder with one folder per class.

    Attributes:
        root: The folder.
        names: Names of the files, relative to the root, with slashes.
        known: (N, 4) record of each file, see `SIZE`.
    """

    root: Path
    names: list[str]
    known: np.ndarray

    def picture(self, found: int) -> Image.Image:
        """See `Half.picture`."""
        return decode(read_file(self.root / self.names[found], self.name(found)), self.name(found))

    def look(self, found: int) -> bytes:
        """See `Half.look`. The digest is that of the file."""
        content = read_file(self.root / self.names[found], self.name(found))
        decode(content, self.name(found))
        return hashlib.sha256(content).digest()

    def name(self, found: int) -> str:
        """Return the path of the file."""
        return for_terminal(self.root / self.names[found])

    def digest(self) -> str:
        """See `Half.digest`. It covers names, sizes and labels, and bytes as `file_digest` reads them."""
        return file_digest(
            [
                (self.names[i], self.root / self.names[i], int(self.all_labels[i]), int(self.known[i, SIZE]))
                for i in self.positions
            ]
        )

    def state(self) -> str:
        """See `Half.state`."""
        return digest([str(self.root.resolve()), self.names, self.all_labels, self.known[:, [SIZE, TIME]]])


def open_halves(root: Path) -> tuple[FolderHalf, FolderHalf]:
    """Open the training folder and the test folder inside a folder.

    Raises:
        ValueError: If a half is missing or ambiguous, if one is the other or lies in it, if their classes differ or are
            fewer than two, if a picture is in both, or for the reasons in `open_classes`.
    """
    train, test = (open_classes(folder) for folder in find_halves(root))
    if train.classes != test.classes:
        only = [
            f"{half} images only: {_listed(sorted(set(one.classes) - set(other.classes), key=natural))}"
            for half, one, other in (("training", train, test), ("test", test, train))
            if set(one.classes) - set(other.classes)
        ]
        raise ValueError(f"training and test images have different classes; with {'; with '.join(only)}")
    if len(train.classes) < 2:
        raise ValueError(
            f"{for_terminal(train.root)} holds one class, {train.classes[0]!r}: a net needs two to tell apart"
        )
    files = {(device, number): i for i, (device, number) in enumerate(train.known[:, DEVICE:].tolist())}
    for i, (device, number) in enumerate(test.known[:, DEVICE:].tolist()):
        if number and (device, number) in files:
            raise ValueError(f"one picture is in both halves: {train.name(files[device, number])} and {test.name(i)}")
    return train, test


def find_halves(root: Path) -> tuple[Path, Path]:
    """Return the folders of the training images and of the test images.

    The first has a name of `TRAIN`. The second has a name of `VALIDATION` or, if there is none, of `TEST`.

    Raises:
        ValueError: See `open_halves`; the message lists the folders that exist.
    """
    there = subfolders(root)
    train, validation, test = (_called(there, names) for names in (TRAIN, VALIDATION, TEST))
    tested = validation or test
    if len(train) != 1 or len(tested) != 1:
        raise ValueError(
            f"data-dir {for_terminal(root)!r} must hold two folders, one called {_either(TRAIN)}, and one called "
            f"{_either(VALIDATION)} or, without such, {_either(TEST)}: it holds {_listed(there) or 'no folder'}"
        )
    if validation and test:
        warnings.warn(
            f"nets are tested on {for_terminal(validation[0])}; {_listed(path.name for path in test)} beside it is not "
            "used",
            stacklevel=3,
        )
    real = [path.resolve() for path in (train[0], tested[0])]
    if real[0] in (real[1], *real[1].parents) or real[1] in real[0].parents:
        raise ValueError(
            f"{for_terminal(train[0])} and {for_terminal(tested[0])} are one folder, or one lies in the other"
        )
    return train[0], tested[0]


def find_split(root: Path, split: str) -> Path:
    """Return the folder of a split; the root itself for a test split if no folder in it is a half.

    Names of one kind are interchangeable: validation, val and so on, or train and training.

    Raises:
        ValueError: If there is no such folder, or several; the message lists the folders that exist.
    """
    there = subfolders(root)
    if split in there:
        return there[split]
    kinds = [names for names in (TRAIN, VALIDATION, TEST) if split.lower() in names]
    found = [path for names in kinds for path in _called(there, names)]
    if len(found) == 1:
        return found[0]
    halves = _called(there, HALVES)
    if not halves and kinds and kinds[0] is not TRAIN:
        return root
    listed = (
        f"choose from {_listed(path.name for path in halves)}" if halves else f"it holds {_listed(there) or 'none'}"
    )
    raise ValueError(f"split {for_terminal(split)!r}: {for_terminal(root)!r} has no such folder, or several; {listed}")


def open_classes(root: Path, class_map: Sequence[str] = ()) -> FolderHalf:
    """Find the pictures of a folder with one folder per class, at any depth below it.

    A class is a folder directly below the root. Classes and files are sorted by name, with numbers in the names sorted
    by size. Hidden files and folders are left out. Files with other endings than pictures are left out with a warning
    that counts them. Classes without pictures are left out with a warning.

    Args:
        root: The folder.
        class_map: Names of the classes in the order of their labels. Default: sorted names.

    Raises:
        ValueError: If there is no picture, one lies beside the classes, a folder occurs twice through links or leads
            back, or a class is not in the map.
    """
    walk = _Walk(root)
    own = subfolders(root)
    found = {name: walk.below(path) for name, path in sorted(own.items(), key=lambda item: natural(item[0]))}
    beside = [entry.name for entry in walk.entries(root) if walk.is_picture(entry)]
    if beside:
        raise ValueError(
            f"{for_terminal(root)} must hold one folder a class, and holds pictures beside them: {_listed(beside)}"
        )
    if walk.others:
        endings = ", ".join(f"{for_terminal(ending)} ({n})" for ending, n in walk.others.most_common(SHOWN))
        warnings.warn(
            f"{walk.others.total()} files in {for_terminal(root)} have endings of no picture that is read and are left "
            f"out: {endings}",
            stacklevel=3,
        )
    if empty := [name for name, files in found.items() if not files]:
        warnings.warn(
            f"no picture is in these folders of {for_terminal(root)}, which are no classes: {_listed(empty)}",
            stacklevel=3,
        )
    classes = tuple(class_map) or tuple(name for name, files in found.items() if files)
    number = {name: label for label, name in enumerate(classes)}
    if missing := [name for name, files in found.items() if files and name not in number]:
        raise ValueError(f"class-map has no line for these folders of {for_terminal(root)}: {_listed(missing)}")
    rows = [(f"{name}/{file}", number[name], known) for name, files in found.items() for file, known in files]
    if not rows:
        raise ValueError(
            f"Found 0 images in folders of {for_terminal(root)}; names must end in {' '.join(sorted(ENDINGS))}"
        )
    return FolderHalf(
        classes=classes,
        all_labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        root=root,
        names=[name for name, _, _ in rows],
        known=np.array([known for _, _, known in rows], dtype=np.int64),
    )


def pictures_below(root: Path) -> list[Path]:
    """Return the pictures in a folder and below it, by the rules of `open_classes`; other files are left out.

    Raises:
        ValueError: If a folder cannot be listed, occurs twice through links or leads back.
    """
    return [root / name for name, _ in _Walk(root).below(root)]


def read_class_map(path: Path) -> tuple[str, ...]:
    """Return the class names in a text file with one name per line.

    Raises:
        ValueError: If the file cannot be read, is empty, or names a class twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"class-map {for_terminal(path)!r} must be a text file with one class a line: {error}"
        ) from error
    names = names[: len(names) - next((i for i, name in enumerate(reversed(names)) if name), len(names))]
    twice = [name for name, times in Counter(names).items() if times > 1 or not name]
    if twice or not names:
        raise ValueError(
            f"class-map {for_terminal(path)!r} must name each class once: {_listed(twice) or 'it is empty'}"
        )
    return names


def subfolders(root: Path) -> dict[str, Path]:
    """Return the visible folders directly below a folder by name, including links to folders.

    Raises:
        ValueError: If the folder cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            return {e.name: Path(e.path) for e in entries if not e.name.startswith(".") and _is_folder(e)}
    except OSError as error:
        raise ValueError(f"data-dir {for_terminal(root)!r} cannot be listed: {error.strerror}") from error


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sorting key: numbers by size, letters by alphabet, ties by the name itself."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


class _Walk:
    """A walk through the folders of one half.

    Attributes:
        others: Number of files of each ending that is no picture's.
    """

    def __init__(self, root: Path) -> None:
        self.others: Counter[str] = Counter()
        self._root = root
        self._seen: dict[tuple[int, int], Path] = {}
        self._enter(root)

    def below(self, folder: Path) -> list[tuple[str, tuple[int, int, int, int]]]:
        """Return relative name and record of each picture in a folder and below it, in order."""
        found, folders = [], [folder]
        while folders:
            place = folders.pop()
            self._enter(place)
            for entry in self.entries(place):
                if _is_folder(entry):
                    folders.append(Path(entry.path))
                elif self.is_picture(entry):
                    found.append((Path(entry.path).relative_to(folder).as_posix(), self._known(entry)))
                elif entry.name.lower() not in LITTER:
                    self.others[os.path.splitext(entry.name)[1].lower() or "none"] += 1
        return sorted(found, key=lambda file: natural(file[0]))

    @staticmethod
    def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yield the visible entries of a folder."""
        try:
            with os.scandir(folder) as entries:
                yield from (entry for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise ValueError(f"{for_terminal(folder)} cannot be listed: {error.strerror}") from error

    @staticmethod
    def is_picture(entry: os.DirEntry[str]) -> bool:
        """Return True if the name has a picture's ending and is not that of a folder."""
        return os.path.splitext(entry.name)[1].lower() in ENDINGS and not _is_folder(entry)

    def _enter(self, folder: Path) -> None:
        try:
            status = folder.stat()
        except OSError as error:
            raise ValueError(f"{for_terminal(folder)} cannot be listed: {error.strerror}") from error
        earlier = self._seen.setdefault((status.st_dev, status.st_ino), folder)
        # At once, for a link to the root of a disk leads through all of it before it comes back.
        back = folder.is_symlink() and folder.resolve() in self._root.resolve().parents
        if earlier != folder or back:
            target = earlier if earlier != folder else folder.resolve()
            raise ValueError(
                f"{for_terminal(folder)} is a link to {for_terminal(target)}: its pictures would count twice"
            )

    @staticmethod
    def _known(entry: os.DirEntry[str]) -> tuple[int, int, int, int]:
        try:
            status = entry.stat()
        except OSError:  # reading it tells
            return UNKNOWN
        return status.st_size, status.st_mtime_ns, status.st_dev & SIGNED, status.st_ino & SIGNED


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _called(there: dict[str, Path], names: Sequence[str]) -> list[Path]:
    return [path for name, path in there.items() if name.lower() in names]


def _either(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def _listed(names: Iterable[str]) -> str:
    """Return a few of the names and the number of the others, for a message."""
    shown = sorted(names, key=natural)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(repr(for_terminal(name)) for name in shown[:SHOWN]) + more
