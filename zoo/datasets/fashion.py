"""Find, check and read the four files of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747).

The set holds 70,000 grey photographs of clothes, 28x28 pixels: 60,000 to train and 10,000 to test, ten classes of equal
size. Debian's package ``dataset-fashion-mnist`` installs the files; torchvision downloads them.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIDE = 28
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which Debian's package ``dataset-fashion-mnist`` installs the files."""
TORCHVISION = Path("FashionMNIST", "raw")
"""Folder of torchvision's files, below its root."""
PARTS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
"""Start of the file names, and number of images, by half."""
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of each unpacked file in Debian's package 0.0~git20200523; packed files differ between packers."""
HEADERS = {"images": 16, "labels": 8}
LIMIT = 48 << 20
"""Largest size of an unpacked file in bytes; the largest true one has 47,040,016."""


class Half(NamedTuple):
    """One half of the set.

    Attributes:
        images: (N, 28, 28) uint8, 0 for the background.
        labels: (N,) int64, positions in `CLASSES`.
    """

    images: Tensor
    labels: Tensor


def find(folder: Path | None = None, *, download: bool = False) -> Path:
    """Return the folder that holds the four files.

    Args:
        folder: Folder to search, for the files themselves or in torchvision's layout. None searches Debian's folder.
        download: True if torchvision may download missing files into `folder`.

    Raises:
        ValueError: If a file is missing; the message says what to do.
    """
    places = [DEBIAN] if folder is None else [folder, folder / TORCHVISION]
    for place in places:
        if all(_file(place, name) for name in DIGESTS):
            return place
    if folder is None:
        raise ValueError(
            f"dataset 'fashion' is not in {DEBIAN}: install Debian's package dataset-fashion-mnist, "
            "or give --data-dir (and --download to fetch it into there)"
        )
    if not download:
        raise ValueError(
            f"data-dir {str(folder)!r} does not hold the four files of Fashion-MNIST ({next(iter(DIGESTS))}.gz, ...), "
            f"nor does {TORCHVISION} in it: add --download to fetch them"
        )
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"Fashion-MNIST cannot be downloaded into {str(folder)!r}: {reason}") from error
    return folder / TORCHVISION


def read(place: Path, half: str) -> Half:
    """Return one half of the set, after checking its files.

    Args:
        place: Folder from `find`.
        half: ``train`` or ``test``.

    Raises:
        ValueError: If a file cannot be read or is not the published one.
    """
    start, count = PARTS[half]
    images = _content(place, f"{start}-images-idx3-ubyte", HEADERS["images"])
    labels = _content(place, f"{start}-labels-idx1-ubyte", HEADERS["labels"])
    return Half(images.reshape(count, SIDE, SIDE), labels.long())


def _content(place: Path, name: str, header: int) -> Tensor:
    path = _file(place, name)
    if path is None:
        raise ValueError(f"{place / name}: there is no such file, nor {name}.gz")
    content = bytearray()
    try:
        for chunk in _chunks(path):
            content += chunk
            if len(content) > LIMIT:
                raise ValueError(f"{path}: unpacks to more than {LIMIT:,} bytes, so it is not Fashion-MNIST's")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[name]:
        raise ValueError(
            f"{path}: is not the published file: its sha256 is {digest[:12]}..., not {DIGESTS[name][:12]}..."
        )
    return torch.frombuffer(content, dtype=torch.uint8)[header:].clone()


def _chunks(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _file(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)
