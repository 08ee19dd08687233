"""Folders and sets of pictures as outsiders have them: what is used, what is refused, and by which name."""

import io
import json
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from result_lines import stored
from test_images import write_mnist

import zoo
from zoo.bench.tasks import TASKS
from zoo.datasets import decode as decoding
from zoo.datasets import library
from zoo.datasets.check import check_halves
from zoo.datasets.decode import PictureError, decode, read_file
from zoo.datasets.external import DataLocation, Stream, open_set
from zoo.datasets.folders import find_split, natural, open_classes, open_halves, read_class_map
from zoo.datasets.image_set import ImageSet
from zoo.datasets.library import NAMES, SOURCES, open_half
from zoo.escape import for_terminal
from zoo.results.recipe import Recipe
from zoo_cli import main

RECIPE = Recipe(epochs=1, batch_size=4, lr=0.1, image_size=32)
BENCH = ["bench", "resnet_test", "--dataset", "folder", "--workers", "0"]
BENCH += ["--recipe", "epochs=1", "--recipe", "batch_size=4", "--recipe", "image_size=32"]


def noise(seed: Any, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A picture that no other seed has."""
    rng = np.random.default_rng(zlib.crc32(repr(seed).encode()))
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def put(path: Path, content: Image.Image | bytes | None = None) -> Path:
    """Write a picture, or bytes; without any, a picture that belongs to the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        (content or noise(str(path))).save(path)
    return path


def tree(root: Path, train: str = "train", test: str = "validation", classes: str = "abc", images: int = 6) -> Path:
    """A folder with two halves of so many pictures a class; of two sizes, so that they are read from disk."""
    for half in (train, test):
        for name in classes:
            for i in range(images):
                put(root / half / name / f"{i}.png", noise((half, name, i), (40, 30 + i % 2)))
    return root


def opened(root: Path, **where: Any) -> ImageSet:
    return open_set("folder", DataLocation(folder=root, workers=0, **where))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is what is tested
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def bench(root: Path, out: Path, *options: str) -> int:
    return main([*BENCH, "--data-dir", str(root), "--out", str(out), *options])


def png_of(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, and holds one row."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 + 3 * width))), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(seed: Any, size: tuple[int, int] = (200, 150), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise(seed, size).save(buffer, "JPEG", **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- which folders are halves


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("test", ["validation", "val", "valid", "dev", "eval", "test", "testing", "holdout", "Test"])
def test_halves_are_two_folders(tmp_path: Path, train: str, test: str) -> None:
    images = opened(tree(tmp_path, train, test, "ab", 2))
    assert (images.train_size, images.test_size) == (4, 4)
    names = [{part.name(i) for i in range(4)} for part in (images.train, images.test)]
    assert all(f"/{train}/" in name for name in names[0])
    assert all(f"/{test}/" in name for name in names[1])


@pytest.mark.parametrize("test", ["test", "holdout"])
def test_no_picture_trains_and_tests(tmp_path: Path, test: str, capsys: pytest.CaptureFixture[str]) -> None:
    """18 and 18, as there are; the training images were once part of the others."""
    root = tree(tmp_path / "set", "train", test)
    assert bench(root, tmp_path / "out") == 0
    assert "18 training and 18 test images" in capsys.readouterr().err
    [line] = stored(tmp_path / "out" / "results.jsonl")
    assert (line["dataset"]["train"], line["dataset"]["test"]) == (18, 18)


@pytest.mark.parametrize(
    ("folders", "listed"),
    [
        (["train"], "it holds 'train'"),
        (["validation"], "it holds 'validation'"),
        (["a", "b"], "it holds 'a', 'b'"),
        (["train", "unseen"], "it holds 'train', 'unseen'"),
        (["train", "training", "test"], "it holds 'test', 'train', 'training'"),
        (["train", "val", "validation"], "it holds 'train', 'val', 'validation'"),
        (["inside/train", "inside/test"], "it holds 'inside'"),
        ([], "it holds no folder"),
    ],
)
def test_other_folders_are_listed(tmp_path: Path, folders: list[str], listed: str) -> None:
    for folder in folders:
        for name in "ab":
            put(tmp_path / folder / name / "0.png")
    message = refusal(lambda: opened(tmp_path))
    assert "must hold two folders, one called train or training, and one called validation" in message
    assert message.endswith(listed)


def test_of_validation_and_test_the_first_is_used_and_it_is_said(tmp_path: Path) -> None:
    root = tree(tree(tmp_path, test="val", images=2), test="test", images=3)
    with pytest.warns(UserWarning, match=r"nets are tested on .*val; 'test' beside it is not used"):
        assert opened(root).test_size == 6


@pytest.mark.parametrize("link", ["validation", "validation/more"])
def test_one_folder_under_two_names_is_refused(tmp_path: Path, link: str) -> None:
    root = tree(tmp_path, classes="ab", images=2)
    if link == "validation":
        shutil.rmtree(root / "validation")
    (root / link).symlink_to(root / "train")
    message = refusal(lambda: opened(root))
    assert ("one folder, or one lies in the other" if link == "validation" else "different classes") in message
    (root / link).unlink()
    shutil.rmtree(root / "train")
    (root / "validation").mkdir(exist_ok=True)
    (root / "train").symlink_to(root)
    assert "one folder, or one lies in the other" in refusal(lambda: opened(root))


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_one_file_in_both_halves_is_named_twice(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path, classes="ab", images=2)
    other = root / "validation/b/again.png"
    (other.symlink_to if kind == "symlink" else other.hardlink_to)(root / "train/a/1.png")
    message = refusal(lambda: opened(root))
    assert "one picture is in both halves" in message
    assert message.endswith(f"{root}/train/a/1.png and {other}")


def test_a_copy_in_the_other_half_is_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "set", images=2)
    shutil.copy(root / "train/a/1.png", root / "validation/b/copy.png")
    assert bench(root, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{root}/train/a/1.png and {root}/validation/b/copy.png have the same content" in told
    assert not (tmp_path / "out/results.jsonl").exists()


@pytest.mark.parametrize("kind", ["copy", "symlink", "hard link"])
def test_a_picture_that_is_twice_in_one_half_is_told(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path / "set", classes="ab", images=2)
    picture, memory = root / "train/a/1.png", tmp_path / "pictures.json"
    again = root / "train/b/again.png"
    act: dict[str, Callable[[Path], Any]] = {"symlink": again.symlink_to, "hard link": again.hardlink_to}
    act.get(kind, lambda path: shutil.copy(path, again))(picture)
    shutil.copy(root / "validation/a/0.png", root / "validation/a/2.png")
    told = f"one picture is twice in one half: {picture} and {again} have the same content, and so are 1 more; each"
    for _ in range(2):  # the second time from memory
        with pytest.warns(UserWarning, match=re.escape(told)):
            assert opened(root, check=True, memory=memory).train_size == 5


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path, images=1)
    put(root / "train/only here/0.png")
    put(root / "validation/d/0.png")
    message = refusal(lambda: opened(root))
    assert message.endswith("with training images only: 'only here'; with test images only: 'd'")


def test_one_class_is_none(tmp_path: Path) -> None:
    assert "holds one class, 'a'" in refusal(lambda: opened(tree(tmp_path, classes="a")))


# ---------------------------------------------------------------- which files are pictures


def litter(root: Path) -> None:
    for name in (".DS_Store", "a/._1.png", "a/Thumbs.db", "a/desktop.ini", ".hidden/x.png", "a/.git/x.png"):
        put(root / "train" / name, b"rubbish")


def deeper(root: Path) -> None:
    for half in ("train", "validation"):
        (root / half / "a/x/y").mkdir(parents=True)
        for i in range(6):
            (root / half / f"a/{i}.png").rename(root / half / f"a/x/y/{i}.png")


def other_endings(root: Path) -> None:
    for i, ending in enumerate((".webp", ".JPG", ".jpeg", ".bmp", ".TIF", ".gif", ".ppm")):
        put(root / f"train/a/more{i}{ending}")


def odd_modes(root: Path) -> None:
    for mode, ending in (("L", "png"), ("LA", "png"), ("P", "gif"), ("1", "png"), ("RGBA", "png"), ("CMYK", "jpg")):
        put(root / f"train/b/mode{mode}.{ending}", noise(mode, mode=mode))
    transparent = noise("transparent", mode="P")
    transparent.save(root / "train/b/PT.png", transparency=bytes(range(256)))


def wrong_ending(root: Path) -> None:
    put(root / "train/a/photo.png", jpeg(1))


def odd_names(root: Path) -> None:
    for i, name in enumerate(("\xe4 \xf6.png", "\u202egnp.png", "a\nb.png", "\x1b[31m.png", "%s{}.png", "-rf.png")):
        put(root / f"train/c/{name}", noise(i))
    put(root / "train/c" / os.fsdecode(b"\xff\xfe.png"), noise("bytes"))


def odd_times(root: Path) -> None:
    os.utime(root / "train/a/0.png", ns=(-(10**18), -(10**18)))


def linked_class(root: Path) -> None:
    (root / "train/a").rename(root / "elsewhere")
    (root / "train/a").symlink_to(root / "elsewhere")


def several_pictures_in_one_file(root: Path) -> None:
    noise(1).save(root / "train/a/film.gif", save_all=True, append_images=[noise(2), noise(3)])
    noise(4).save(root / "train/a/pages.tif", save_all=True, append_images=[noise(5)])


def odd_metadata(root: Path) -> None:
    """EXIF data that are none; the pixels are whole."""
    put(root / "train/a/exif.jpg", jpeg(1, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 20))


@pytest.mark.parametrize(
    ("change", "train"),
    [
        (lambda root: None, 18),
        (litter, 18),
        (deeper, 18),
        (other_endings, 25),
        (odd_modes, 25),
        (wrong_ending, 19),
        (odd_names, 25),
        (linked_class, 18),
        (odd_times, 18),
        (several_pictures_in_one_file, 20),
        (odd_metadata, 19),
    ],
)
def test_pictures_that_are_used(tmp_path: Path, change: Callable[[Path], None], train: int) -> None:
    root = tree(tmp_path)
    change(root)
    images = opened(root, check=True)
    assert isinstance(images, Stream)
    assert (images.train_size, images.test_size) == (train, 18)
    assert images.classes == ("a", "b", "c")
    assert images.left_out == (0, 0)
    images = images.for_recipe(RECIPE.changed(batch_size=train))
    [(batch, labels)] = images.train_batches(RECIPE.changed(batch_size=train), torch.Generator().manual_seed(0))
    assert batch.isfinite().all()
    assert sorted(labels.tolist()) == sorted(images.train.labels.tolist())


def test_what_is_no_picture_by_its_ending_is_counted(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for name in ("a/notes.txt", "a/1.heic", "b/2.heic", "b/none"):
        put(root / "train" / name, b"x")
    with pytest.warns(UserWarning, match=r"4 files in .* left out: \.heic \(2\), \.txt \(1\), none \(1\)"):
        assert opened(root).train_size == 18


def test_empty_folders_are_no_classes(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "train/zz").mkdir()
    with pytest.warns(UserWarning, match=r"no picture is in these folders of .*train, which are no classes: 'zz'"):
        assert opened(root).num_classes == 3


def test_pictures_beside_the_classes_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root / "train/lost.png")
    assert "must hold one folder a class, and holds pictures beside them: 'lost.png'" in refusal(lambda: opened(root))


@pytest.mark.parametrize("target", ["train", "train/b", ".", "/"])
def test_folders_that_come_twice_are_refused(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path)
    (root / "train/a/loop").symlink_to(root / target)
    message = refusal(lambda: opened(root))
    assert re.search(r"train/\S+ is a link to .*: its pictures would count twice", message)


def test_folders_that_may_not_be_listed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = tree(tmp_path), os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "train/b cannot be listed: Permission denied" in refusal(lambda: opened(root))


# ---------------------------------------------------------------- pictures that cannot be read


def fifo(path: Path) -> None:
    os.mkfifo(path)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_bytes(b"not an image"), "is no picture of a kind that is read (BMP, GIF, "),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut JPEG": (lambda path: path.write_bytes(jpeg(1)[:9000]), "cannot be read: "),
    "cut PNG": (lambda path: path.write_bytes(_cut_png(path)), "cannot be read: "),
    "spoiled PNG": (lambda path: path.write_bytes(_spoiled(path)), "cannot be read: "),
    "PNG of other pixels": (lambda path: path.write_bytes(_other_pixels(path)), "is damaged: its pixels do not fit"),
    "bomb": (lambda path: path.write_bytes(png_of(60_000, 60_000)), "cannot be read: Image size (3600000000 pixels)"),
    "large": (lambda path: path.write_bytes(png_of(10_000, 10_000)), "has 10000 x 10000 pixels, more than 89,478,485"),
    "strip": (lambda path: noise(1, (2000, 1)).save(path), "has 2000 x 1 pixels: one side is over 100 times the other"),
    "pipe": (fifo, "is no regular file"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "no such file or directory"),
    "link to itself": (lambda path: path.symlink_to(path.name), "too many levels of symbolic links"),
    "SVG": (lambda path: path.write_bytes(b"<svg/>"), "is no picture of a kind"),
    "EPS": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is no picture of a"),
    "32 bits": (lambda path: Image.new("I", (40, 30), 70_000).save(path, "TIFF"), "has 32-bit pixels, of which nobody"),
    "floats": (lambda path: Image.new("F", (40, 30), 0.5).save(path, "TIFF"), "has floating-point pixels"),
    "BMP of a strange kind": (lambda path: path.write_bytes(_strange_bmp()), "cannot be read: "),
}


def _cut_png(path: Path) -> bytes:
    noise(1).save(path)
    return path.read_bytes()[:2000]


def _other_pixels(path: Path) -> bytes:
    """A file whose pixels can be unpacked and are not those of its checksum. Pillow does not look at it."""
    noise(1).save(path)
    content = bytearray(path.read_bytes())
    content[-16] ^= 255  # before the last chunk, of 12 bytes
    return bytes(content)


def _spoiled(path: Path) -> bytes:
    noise(1).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    return bytes(content)


def _strange_bmp() -> bytes:
    buffer = io.BytesIO()
    noise(1).save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    content[30:34] = struct.pack("<I", 101)  # the compression
    return bytes(content)


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("half", ["train", "validation"])
def test_a_broken_picture_is_named_before_training(tmp_path: Path, kind: str, half: str) -> None:
    root = tree(tmp_path)
    make, reason = BROKEN[kind]
    path = root / half / "b/x.png"
    make(path)
    message = refusal(lambda: opened(root, check=True))
    count = "1 of 19 training pictures" if half == "train" else "1 of 19 test pictures"
    assert f"{count} cannot be read: {path}: {reason}" in message
    assert message.endswith("leave them out by --skip-broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_check_a_broken_training_picture_is_named_in_its_turn(tmp_path: Path, workers: int) -> None:
    root = tree(tmp_path)
    put(root / "train/c/9.jpg", jpeg(1)[:9000])
    recipe = RECIPE.changed(batch_size=19)
    images = open_set("folder", DataLocation(folder=root, workers=workers)).for_recipe(recipe)
    batches = images.train_batches(recipe, torch.Generator().manual_seed(0))
    assert f"{root}/train/c/9.jpg: cannot be read" in refusal(lambda: list(batches))


@pytest.mark.parametrize("half", ["train", "validation"])
def test_a_picture_that_goes_while_a_net_is_trained_is_named(tmp_path: Path, half: str) -> None:
    root = tree(tmp_path)
    recipe = RECIPE.changed(batch_size=18)
    images = opened(root, check=True).for_recipe(recipe)
    (root / half / "b/2.png").unlink()

    def use() -> Any:
        return list(images.train_batches(recipe, torch.Generator()) if half == "train" else images.test_batches())

    assert refusal(use) == f"{root}/{half}/b/2.png: no such file or directory"


@pytest.mark.parametrize("sizes", ["memory", "disk"])
def test_broken_pictures_are_left_out_with_their_labels(
    tmp_path: Path, sizes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each picture is of the colour of its class, and keeps its label."""
    root = tmp_path / "set"
    for half in ("train", "test"):
        for label, name in enumerate("abc"):
            for i in range(6):
                colour = tuple(200 + i if channel == label else 10 * (half == "test") for channel in range(3))
                put(root / half / name / f"{i}.png", Image.new("RGB", (40, 30 + (i % 2) * (sizes == "disk")), colour))
    for path in ("train/a/2.png", "test/a/0.png", "test/a/5.png", "test/c/3.png"):
        put(root / path, b"rubbish")
    with pytest.warns(UserWarning, match=r"1 of 18 training pictures and 3 of 18 test pictures .* left out: .*/2\.png"):
        images = opened(root, skip_broken=True)
    assert isinstance(images, Stream) == (sizes == "disk")
    assert (images.train_size, images.test_size, images.left_out) == (17, 15, (1, 3))
    if sizes == "disk":
        images = images.for_recipe(RECIPE)
    seen, labels = (torch.cat(parts) for parts in zip(*images.test_batches(), strict=True))
    assert seen.mean((2, 3)).argmax(1).tolist() == labels.tolist() == images.test_labels.tolist()
    assert labels.bincount().tolist() == [4, 6, 5]
    options = ["--skip-broken"] if sizes == "disk" else ["--skip-broken", "--recipe", "image_size=0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert bench(root, tmp_path / "out", *options) == 0
    assert "left out, because they cannot be read: 1 training and 3 test images" in capsys.readouterr().err
    [line] = stored(tmp_path / "out/results.jsonl")
    described = line["dataset"]
    assert (described["train"], described["test"], described["left_out"]) == (17, 15, {"train": 1, "test": 3})
    assert line["key"] != ""
    # Without the option nothing is trained.
    assert bench(root, tmp_path / "other", *options[1:]) == 2


def test_without_a_check_the_test_half_is_left_without_broken_pictures(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root / "validation/a/5.png", b"rubbish")
    with pytest.warns(UserWarning, match=r"1 of 18 test pictures cannot be read and are left out: .*a/5\.png: is no"):
        images = opened(root).for_recipe(RECIPE)
    labels = torch.cat([labels for _, labels in images.test_batches()])
    assert labels.tolist() == images.test_labels.tolist() == [0] * 5 + [1] * 6 + [2] * 6
    assert images.describe()["left_out"] == {"train": 0, "test": 1}


def test_a_class_without_whole_pictures_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, images=1)
    put(root / "train/b/0.png", b"rubbish")
    message = refusal(lambda: opened(root, skip_broken=True))
    assert "no picture of these classes can be read: 'b'" in message


def test_what_was_checked_is_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, memory = tree(tmp_path / "set"), tmp_path / "out/pictures.json"
    put(root / "train/c/9.png", b"rubbish")
    reads: list[str] = []

    def counted(path: Path, name: str) -> bytes:
        reads.append(name)
        return read_file(path, name)

    monkeypatch.setattr("zoo.datasets.folders.read_file", counted)

    def check() -> int:
        reads.clear()
        found = check_halves(open_halves(root), title="set", memory=memory)
        assert [list(broken) for broken in found.broken] == [[18], []]
        assert "c/9.png: is no picture" in found.broken[0][18]
        return len(reads)

    assert (check(), check()) == (37, 0)
    os.utime(root / "train/a/0.png", ns=(1, 1))
    assert (check(), check()) == (37, 0)
    shutil.copy(root / "train/a/0.png", root / "validation/c/more.png")
    assert check() == 38
    (root / "validation/c/more.png").unlink()
    assert check() == 0  # as it was
    for rubbish in (b"", b"{}", b'{"sets": 3}', b'{"sets": {"x": {"broken": 3}}}', b"\xff", b"[" * 100_000):
        memory.write_bytes(rubbish)
        assert check() == 37


def test_names_are_escaped_where_they_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "a\x1b[2Jset")
    put(root / "train/a/\x1b]0;title\x07\u202e.png", b"rubbish")
    assert bench(root, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert r"train/a/\x1b]0;title\x07\u202e.png: is no picture" in told
    assert for_terminal(os.fsdecode(b"\xff\n")) == r"\udcff\n"
    assert for_terminal("Bl\xfcmchen \u82b1") == "Bl\xfcmchen \u82b1"


# ---------------------------------------------------------------- one picture


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    ramp = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
    want = np.round(ramp / 65535 * 255)
    for name in ("grey.png", "grey.tif", "grey.pgm"):
        path = put(tmp_path / name, Image.fromarray(ramp))
        image = np.asarray(decode(path.read_bytes(), name))
        assert image.shape == (32, 32, 3)
        assert np.abs(image[..., 0] - want).max() <= 1, name
        assert len(np.unique(image)) > 250
    big = io.BytesIO()
    Image.fromarray(ramp.astype(">u2")).save(big, "TIFF")
    assert np.abs(np.asarray(decode(big.getvalue(), "big"))[..., 0] - want).max() <= 1


def tiff_of(values: np.ndarray, black_or_white: int, sample_format: int) -> bytes:
    """A grey TIFF of one strip."""
    (height, width), data = values.shape, values.tobytes()
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: black_or_white, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<4sI", b"II*\0", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_zero_is_white_where_a_picture_says_so() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wide = ramp.astype("<u2") * 257
    for white, want in ((1, ramp), (0, 255 - ramp)):
        for values in (ramp, wide):
            shown = np.asarray(decode(tiff_of(values, white, 1), "grey.tif"))
            assert (shown == want[..., None]).all(), (white, values.dtype)
    for signed, kind in ((ramp.astype(np.int8), "signed"), (wide.astype("<i2"), "32-bit")):
        with pytest.raises(PictureError, match=rf"^grey\.tif: has {kind} pixels, of which nobody tells what white is"):
            decode(tiff_of(signed, 1, 2), "grey.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int) -> None:
    image = Image.new("RGB", (40, 30))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    found = decode(buffer.getvalue(), "name")
    assert found.size == ((40, 30) if orientation < 5 else (30, 40))
    white = np.asarray(found)[..., 0] > 128
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    rows, columns = white.nonzero()
    assert (int(rows.mean() > white.shape[0] / 2), int(columns.mean() > white.shape[1] / 2)) == corner


def test_modes_become_colours() -> None:
    def colour(image: Image.Image, kind: str = "PNG", **options: Any) -> list[int]:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return np.asarray(decode(buffer.getvalue(), "name"))[0, 0].tolist()

    assert colour(Image.new("L", (4, 4), 100)) == [100, 100, 100]
    assert colour(Image.new("LA", (4, 4), (100, 0))) == [100, 100, 100]  # what lies beneath
    assert colour(Image.new("RGBA", (4, 4), (9, 8, 7, 0))) == [9, 8, 7]
    assert colour(Image.new("1", (4, 4), 1)) == [255, 255, 255]
    assert colour(Image.new("RGB", (4, 4), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE)) == [9, 8, 7]
    assert colour(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF") == [255, 255, 255]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 10)
    path = put(tmp_path / "x.png", bytes(11))
    assert refusal(lambda: read_file(path, "x.png")) == "x.png: has 11 bytes, more than 10"


def test_no_damage_gets_past_the_name() -> None:
    """Bytes of pictures changed by chance: a picture, or the one error."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        buffer = io.BytesIO()
        noise(kind, (24, 20)).save(buffer, kind)
        for _ in range(40):
            content = bytearray(buffer.getvalue()[: rng.integers(1, len(buffer.getvalue()) + 1)])
            for place in rng.integers(0, min(len(content), rng.choice([60, 4000])), rng.integers(0, 6)):
                content[place] = rng.integers(256)
            said = None
            try:
                assert decode(bytes(content), "the name").mode == "RGB"
            except PictureError as error:
                said = str(error)
            assert said is None or (said.startswith("the name: ") and said.isprintable())


def test_numbers_in_names_are_ordered_by_size() -> None:
    names = ["b10", "b9", "a", "A", "b9x", "\xb2", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "A", "a", "b9", "b9x", "b10", "\xb2"]


# ---------------------------------------------------------------- names, splits, options


@pytest.mark.parametrize(
    "name", ["nosuch", "torch/nosuch", "FashionMNIST", "cifar10", "tfds/mnist", "hfds/", "torch/folder"]
)
def test_unknown_sets_are_answered_with_all_there_are(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["bench"], ["validate", "resnet_test"]):
        assert main([*command, "--dataset", name, "--data-dir", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert f"unknown dataset {name!r}: choose from " in told
        assert all(known in told for known in NAMES)
        assert ("did you mean torch/fashion_mnist?" in told) == (name == "FashionMNIST")
        assert ("did you mean torch/cifar10?" in told) == (name == "cifar10")
        assert ("digits" in told) == (command == ["bench"])
    assert main(["bench", "--task", "segment", "--dataset", name]) == 2
    told = capsys.readouterr().err
    assert f"unknown dataset {name!r}: choose from {', '.join(sorted([*TASKS['segment'].datasets, 'folder']))}" in told


@pytest.mark.parametrize("task", ["classify", "segment", "detect"])
def test_a_place_without_a_set_is_an_error(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str) -> str:
        assert main(["bench", "--task", task, "--out", str(tmp_path / "out"), *options]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    for options in (["--data-dir", "mine"], ["--download"], ["--skip-broken"]):
        expected = "add --dataset folder"
        assert f"{options[0][2:]}" in told(*options)
        assert expected in told(*options)
        assert "leave it out" in told(*options, "--dataset", "digits" if task == "classify" else "scenes")
    if task == "classify":
        assert "download is for sets of torchvision" in told("--dataset", "folder", "--data-dir", "x", "--download")
        assert not Path("x").exists()


@pytest.mark.parametrize(
    ("split", "folder"),
    [
        ("validation", "val"),
        ("val", "val"),
        ("dev", "val"),
        ("train", "train"),
        ("training", "train"),
        ("test", "Test"),
    ],
)
def test_splits_of_folders(tmp_path: Path, split: str, folder: str) -> None:
    root = tree(tree(tmp_path, test="val"), test="Test")
    assert find_split(root, split) == root / folder


def test_unknown_splits_are_answered_with_those_there_are(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", test="val")
    (root / "unseen").mkdir()
    assert find_split(root, "unseen") == root / "unseen"
    for split in ("nosuch", "..", "test", ".", "train/a", ""):
        message = refusal(lambda split=split: find_split(root, split))
        assert message.startswith(f"split {split!r}: ")
        assert message.endswith("choose from 'train', 'val'")
    plain = root / "val"  # classes alone are the validation half
    assert find_split(plain, "validation") == find_split(plain, "test") == plain
    for split in ("train", "nosuch"):
        assert refusal(lambda split=split: find_split(plain, split)).endswith("it holds 'a', 'b', 'c'")
    for name in SOURCES:
        message = refusal(lambda name=name: open_half(f"torch/{name}", tmp_path, "nosuch"))
        assert message.startswith("unknown split 'nosuch': choose from ")


def test_class_maps_give_the_labels(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", images=1) / "train"
    path = tmp_path / "map.txt"
    path.write_text("\ufeffx\nc\na\nb\n\n", encoding="utf-8")
    half = open_classes(root, read_class_map(path))
    assert half.classes == ("x", "c", "a", "b")
    assert half.labels.tolist() == [2, 3, 1]
    assert "class-map has no line for these folders" in refusal(lambda: open_classes(root, ("c", "a")))
    for text, message in (("a\na\n", "must name each class once: 'a'"), ("", "it is empty"), ("a\n\nb", "once: ''")):
        path.write_text(text)
        assert message in refusal(lambda: read_class_map(path))
    path.write_bytes(b"\x80\x04\x95")
    assert "must be a text file with one class a line" in refusal(lambda: read_class_map(path))


def test_labels_that_are_texts_are_found_without_comparing_all() -> None:
    compared: list[str] = []

    class Label(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(self)
            return str(self) == str(other)

    labels = [Label(f"class {i}") for i in reversed(range(300))]
    assert library._labels(SimpleNamespace(iter_targets=lambda: iter(labels))) == list(reversed(range(300)))
    assert len(compared) < len(labels)


# ---------------------------------------------------------------- measuring


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    path = tmp_path / "net.pth"
    torch.save(zoo.create_model("resnet_test", num_classes=3).state_dict(), path)
    return ["validate", "resnet_test", "--checkpoint", str(path), "--num-classes", "3", "--workers", "0"]


@pytest.mark.parametrize("kind", ["text", "cut JPEG", "pipe", "bomb"])
def test_validate_names_a_broken_picture_or_leaves_it_out(
    tmp_path: Path, weights: list[str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "set", images=2)
    make, reason = BROKEN[kind]
    make(root / "validation/b/x.png")
    command = [*weights, "--data-dir", str(root)]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{root}/validation/b/x.png: {reason}" in captured.err
    with pytest.warns(UserWarning, match=r"1 pictures cannot be read and are left out: .*x\.png"):
        assert main([*command, "--skip-broken", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["left_out"]) == (6, 1)


def test_no_error_rate_is_made_of_scores_that_are_none(
    tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A negative variance is a number that loads, and gives a net without answers."""
    root, path = tree(tmp_path / "set", images=1), tmp_path / "net.pth"
    state = torch.load(path)
    state["stem.norm1.running_var"] -= 5
    torch.save(state, path)
    assert main([*weights, "--data-dir", str(root)]) == 2
    told = capsys.readouterr()
    assert "the net's scores are not finite" in told.err
    assert told.out == ""


def test_validate_takes_no_other_split_for_the_one_that_is_asked_for(
    tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "set", images=2)
    assert main([*weights, "--data-dir", str(root), "--split", "nosuch"]) == 2
    assert "choose from 'train', 'validation'" in capsys.readouterr().err
    assert main([*weights, "--data-dir", str(root), "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6


def test_grey_sets_are_measured_as_they_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mnist(tmp_path)
    for channels in (3, 1):
        path = tmp_path / f"{channels}.pth"
        torch.save(zoo.create_model("resnet_test", num_classes=10, in_chans=channels).state_dict(), path)
        command = ["validate", "resnet_test", "--checkpoint", str(path), "--num-classes", "10", "--json"]
        command += ["--in-chans", str(channels), "--dataset", "torch/mnist", "--data-dir", str(root), "--workers", "0"]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 30
    half = open_half("torch/mnist", root, "test")
    grey = np.asarray(half[3][0])
    assert (grey[..., :1] == grey).all()
    assert [half[i][1] for i in range(30)] == half.labels.tolist()


def test_broken_pictures_of_a_library_are_told_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = tree(tmp_path / "set", images=2)
    put(root / "train/b/1.png", b"rubbish")
    where = DataLocation(folder=tmp_path / "cache", download=True, workers=0, check=True)
    message = refusal(lambda: open_set(f"hfds/{root}", where))
    assert re.search(r"1 of 6 training pictures cannot be read: picture \d of hfds/.*, train: is no picture", message)
    with pytest.warns(UserWarning, match="are left out"):
        images = open_set(f"hfds/{root}", replace(where, skip_broken=True))
    assert (images.train_size, images.test_size, images.classes) == (5, 6, ("a", "b", "c"))
    assert sorted(images.train.labels.tolist()) == [0, 0, 1, 2, 2]


class Shelf:
    """A half of a hub's set, as timm's reader gives it."""

    def __init__(self, *seeds: int) -> None:
        self.pictures = [(noise(seed), i % 2) for i, seed in enumerate(seeds)]

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return self.pictures[position]

    def iter_targets(self) -> list[int]:
        return [label for _, label in self.pictures]


def test_halves_of_others_are_taken_as_published_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture in both halves is an error in an own set of the library, and a warning in a published one."""
    halves = {"train": Shelf(1, 2, 3, 4), "validation": Shelf(5, 6, 3)}
    monkeypatch.setattr(library, "_open_hub", lambda name, folder, split, download: halves[split])
    where = DataLocation(folder=tmp_path, workers=0, check=True)
    told = "one picture is in both halves: picture 2 of hfds/{0}, train and picture 2 of hfds/{0}, validation have the"
    assert refusal(lambda: open_set(f"hfds/{tmp_path}", where)).startswith(told.format(tmp_path))
    with pytest.warns(UserWarning, match=told.format("owner/name") + " same content; they are used as they were"):
        images = open_set("hfds/owner/name", where)
    assert (images.train_size, images.test_size) == (4, 3)


def test_every_file_of_an_own_set_is_part_of_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than the 64 that a published set is known by, and of two sizes, so that it is read from disk."""
    monkeypatch.setattr(library, "_open_hub", lambda name, folder, split, download: halves[split])
    halves = {"train": Shelf(*range(70)), "validation": Shelf(70, 71)}
    for half in halves.values():
        half.pictures[0] = (noise("wide", (44, 30)), 0)

        def as_file(position: int, half: Shelf = half) -> tuple[io.BytesIO, int]:
            buffer = io.BytesIO()
            half.pictures[position][0].save(buffer, "PNG")
            return io.BytesIO(buffer.getvalue()), half.pictures[position][1]

        monkeypatch.setattr(half, "item", as_file, raising=False)
    monkeypatch.setattr(Shelf, "__getitem__", lambda shelf, position: shelf.item(position))
    where = DataLocation(folder=tmp_path, workers=0)
    found = set()
    for place in range(3):
        halves["train"].pictures[31 + place] = (noise(("other", place)), (31 + place) % 2)
        found.add(open_set(f"hfds/{tmp_path}", where).fingerprint)
    assert len(found) == 3


def test_a_faulty_validation_half_is_not_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        library, "_open_hub", lambda name, folder, split, download: SimpleNamespace(iter_targets=lambda: labels[split])
    )
    labels: dict[str, list[Any]] = {"train": ["a", "b"], "validation": ["a", None], "test": ["a", "b"]}
    assert "picture 1 has no label" in refusal(lambda: open_set("hfds/x", DataLocation(folder=tmp_path)))
    for wrong in (-1, 0.5, None, float("nan"), float("inf"), 10**12):
        labels["validation"] = [0, 1, wrong]
        message = refusal(lambda: open_set("hfds/x", DataLocation(folder=tmp_path)))
        assert f"picture 2 has the label {wrong}, and a class is a text or a whole number from 0" in message


def test_validate_says_that_classes_do_not_fit(
    tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "set", classes="ab", images=2)
    assert main([*weights, "--data-dir", str(root)]) == 0
    assert "the images have 2 classes and the net 3" in capsys.readouterr().err
