"""Image sets that timm opens: in memory or read batch by batch, changed by chance that repeats; and recipes."""

import gc
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from result_lines import stored
from torch import Tensor

from zoo.bench import Request, tasks
from zoo.bench.one_run import Job, Placement, attempt
from zoo.bench.request import prepare
from zoo.bench.sweep import plan
from zoo.bench.tasks import default_recipe, key_fingerprint, load
from zoo.datasets import fingerprint
from zoo.datasets.augment import PRINCIPAL, SPREADS, Lighting, ShortSide, draw, each, flip_images, mix, shift_images
from zoo.datasets.built_in import load_dataset
from zoo.datasets.external import DataLocation, Stream, open_set, set_name
from zoo.datasets.image_set import Dataset
from zoo.recipes import RECIPES, recipe_name, recipe_row
from zoo.results.recipe import Recipe
from zoo_cli import main
from zoo_cli.common import parse_value

PLAIN = Recipe(epochs=1, batch_size=4, lr=0.1)
SHORT = {"epochs": 1, "batch_size": 4, "ema": 0.0}


def picture(number: int, width: int, height: int) -> Image.Image:
    """An image that no other number has."""
    values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def write_folder(root: Path, sizes: list[tuple[int, int]], splits: tuple[str, str] = ("train", "validation")) -> Path:
    """Three classes; twelve training images and six test images."""
    for split, images in zip(splits, (12, 6), strict=True):
        for i in range(images):
            path = root / split / f"class{i % 3}" / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(i + 100 * (split != "train"), *sizes[i % len(sizes)]).save(path)
    return root


def write_mnist(root: Path) -> Path:
    """Files as torchvision's MNIST has them, of scikit-learn's digits."""
    digits = load_dataset("digits")
    for name, images, labels in (
        ("train", digits.train_images[:64], digits.train_labels[:64]),
        ("t10k", digits.test_images[:30], digits.test_labels[:30]),
    ):
        grey = images[:, 0, 2:30, 2:30]
        grey = (255 * (grey - grey.min()) / (grey.max() - grey.min())).byte().numpy()
        for kind, values in (("images-idx3", grey), ("labels-idx1", labels.byte().numpy())):
            path = root / "MNIST" / "raw" / f"{name}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
            path.write_bytes(header + values.tobytes())
    return root


def batches(images: Any, recipe: Recipe, seed: int = 0, **share: int) -> list[tuple[Tensor, Tensor]]:
    return list(images.train_batches(recipe, torch.Generator().manual_seed(seed), **share))


def all_tested(images: Any) -> tuple[Tensor, Tensor]:
    parts: Iterator[Any] = images.test_batches()
    found = list(parts)
    return torch.cat([image for image, _ in found]), torch.cat([label for _, label in found])


# ---------------------------------------------------------------- opening


def test_small_images_of_one_size_are_held_in_memory(tmp_path: Path) -> None:
    images = open_set("folder/set", DataLocation(folder=write_folder(tmp_path, [(20, 16)])))
    assert isinstance(images, Dataset)
    assert (images.train_size, images.test_size, images.num_classes) == (12, 6, 3)
    assert images.input_size == (3, 16, 20)
    assert images.train_labels.bincount().tolist() == [4, 4, 4]
    first = np.asarray(picture(0, 20, 16)).transpose(2, 0, 1)
    assert np.array_equal(images.train_images[0].numpy(), first)
    assert images.train_images.dtype == torch.uint8
    # The statistics are those of the training half.
    pixels = images.train_images.double() / 255
    assert images.mean.double() == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-6)
    assert images.std.double() == pytest.approx(pixels.std((0, 2, 3), correction=0), abs=1e-6)
    seen, labels = all_tested(images)
    expected = (images.test_images / 255 - images.mean.view(3, 1, 1)) / images.std.view(3, 1, 1)
    assert torch.allclose(seen, expected)
    assert torch.equal(labels, images.test_labels)


@pytest.mark.parametrize("sizes", [[(20, 16), (16, 20)], [(120, 100)]], ids=["several sizes", "large"])
def test_other_images_are_read_batch_by_batch(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    images = open_set("folder/set", DataLocation(folder=write_folder(tmp_path, sizes), workers=0))
    assert isinstance(images, Stream)
    assert (images.train_size, images.test_size, images.num_classes) == (12, 6, 3)
    assert images.for_recipe(PLAIN).input_size == (3, 224, 224)
    images = images.for_recipe(PLAIN.changed(image_size=24))
    assert images.input_size == (3, 24, 24)
    assert images.describe()["input_size"] == [3, 24, 24]
    seen, labels = all_tested(images)
    assert seen.shape == (6, 3, 24, 24)
    assert torch.equal(labels, images.test_labels)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]  # by folders
    assert torch.equal(all_tested(images)[0], seen)  # nothing is drawn
    found = batches(images, PLAIN)
    assert [batch.shape for batch, _ in found] == [(4, 3, 24, 24)] * 3
    assert sorted(torch.cat([labels for _, labels in found]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_drawn_for_a_streamed_image_does_not_depend_on_who_reads_it(tmp_path: Path) -> None:
    where = write_folder(tmp_path, [(40, 30), (30, 40)])
    recipe = PLAIN.changed(image_size=24, flip=True, augment="rand", colour=0.4, lighting=0.1, erase=0.5)
    alone, crowd = (open_set("folder/set", DataLocation(folder=where, workers=n)).for_recipe(recipe) for n in (0, 2))
    state = torch.get_rng_state()
    first = batches(alone, recipe)
    assert torch.equal(torch.get_rng_state(), state)  # the net's random numbers are untouched
    for (images, labels), (same, own) in zip(first, batches(crowd, recipe), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, own)
    for rank in range(2):
        for (images, labels), (share, own) in zip(first, batches(alone, recipe, rank=rank, of=2), strict=True):
            assert torch.equal(share, images[rank::2])
            assert torch.equal(own, labels[rank::2])
    assert not torch.equal(first[0][0], batches(alone, recipe, seed=1)[0][0])


def test_torchvision_sets_by_their_names(tmp_path: Path) -> None:
    images = open_set("torch/mnist", DataLocation(folder=write_mnist(tmp_path)))
    assert isinstance(images, Dataset)
    assert (images.train_size, images.test_size, images.num_classes) == (64, 30, 10)
    assert images.input_size == (3, 28, 28)  # grey becomes three channels
    assert torch.equal(images.train_images[:, 0], images.train_images[:, 2])


def test_hugging_face_sets_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = write_folder(tmp_path / "set", [(20, 16)])
    images = open_set(f"hfds/{folder}", DataLocation(folder=tmp_path / "cache", download=True))
    assert isinstance(images, Dataset)
    assert (images.train_size, images.test_size, images.num_classes) == (12, 6, 3)
    assert images.train_labels.bincount().tolist() == [4, 4, 4]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # metadata.csv, by the library
def test_labels_in_a_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures in a heap with metadata.csv, which Hugging Face's image folder reads."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    labels = {"train": ["dog", "cat", "dog", "cat 10", "cat 9"], "validation": ["cat", "dog", "cat 9", "cat 10"]}
    for half, own in labels.items():
        (tmp_path / "set" / half).mkdir(parents=True)
        rows = [f"{i}.png,{label}\n" for i, label in enumerate(own)]
        (tmp_path / "set" / half / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
        for i in range(len(own)):
            Image.new("RGB", (20, 16), (i, 0, 0)).save(tmp_path / "set" / half / f"{i}.png")
    images = open_set(f"hfds/{tmp_path / 'set'}", DataLocation(folder=tmp_path / "cache", download=True))
    assert images.classes == ("cat", "cat 9", "cat 10", "dog")
    assert [images.classes[i] for i in images.test_labels] == labels["validation"]
    assert isinstance(images, Dataset)
    red = ((images.train_images[:, 0, 0, 0]) if images.train_images.dtype == torch.uint8 else torch.empty(0)).tolist()
    assert dict(zip(red, [images.classes[i] for i in images.train_labels], strict=True)) == dict(
        enumerate(labels["train"])
    )
    (tmp_path / "set/train/metadata.csv").write_text(
        "file_name,label\n0.png,dog\n1.png,\n2.png,cat\n3.png,a\n4.png,b\n"
    )
    with pytest.raises(ValueError, match="picture 1 has no label, and others have"):
        open_set(f"hfds/{tmp_path / 'set'}", DataLocation(folder=tmp_path / "cache", download=True))
    gc.collect()  # here, and not in a test that comes later


def test_wrong_sets_are_explained(tmp_path: Path) -> None:
    def message(name: str, folder: Path | None) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is what is tested
            open_set(name, DataLocation(folder=folder))
        return str(error.value)

    flat = tmp_path / "flat"
    write_folder(flat, [(20, 16)])
    (flat / "train").rename(flat / "a")
    (flat / "validation").rename(flat / "b")
    other = write_folder(tmp_path / "other", [(20, 16)])
    (other / "validation" / "class2").rename(other / "validation" / "class9")
    (tmp_path / "empty").mkdir()
    assert "needs a folder: give --data-dir" in message("torch/cifar10", None)
    assert message("folder", None).endswith("needs a folder: give --data-dir")
    assert "unknown dataset 'torch/nonsense'" in message("torch/nonsense", None)
    assert "unknown dataset '/nowhere'" in message("/nowhere", None)
    assert "is not a folder" in message("torch/cifar10", tmp_path / "nowhere")
    assert "'torch/cifar10' cannot be read" in message("torch/cifar10", tmp_path / "empty")
    assert "unknown dataset 'torch/nonsense': choose from fashion, " in message("torch/nonsense", tmp_path / "empty")
    assert message("folder/empty", tmp_path / "empty").endswith("it holds no folder")
    assert message("folder/flat", flat).endswith("it holds 'a', 'b'")  # or all would be both halves
    assert "with training images only: 'class2'; with test images only: 'class9'" in message("folder/other", other)


def test_the_name_of_a_folder_tells_sets_apart(tmp_path: Path) -> None:
    assert set_name("folder", DataLocation(folder=tmp_path / "flowers")) == "folder/flowers"
    assert DataLocation(folder=str(tmp_path)) == DataLocation(folder=tmp_path)  # ty: ignore[invalid-argument-type]
    assert set_name("torch/cifar10", DataLocation(folder=tmp_path)) == "torch/cifar10"
    assert set_name("digits", DataLocation()) == "digits"


def test_two_folders_of_one_name_share_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of a set is the same set; one other picture makes another, with a key of its own."""
    command = ["bench", "resnet_test", "--dataset", "folder", "--workers", "0", "--out", str(tmp_path / "out")]
    command += ["--recipe", "batch_size=4", "--recipe", "image_size=32", "--recipe", "epochs=1"]

    def bench(folder: Path) -> str:
        assert main([*command, "--data-dir", str(folder)]) == 0
        return capsys.readouterr().err

    first = write_folder(tmp_path / "one" / "photos", [(70, 60), (60, 70)])
    bench(first)
    copy = Path(shutil.copytree(first, tmp_path / "copy" / "photos"))
    assert "0 to do" in bench(copy)
    other = Path(shutil.copytree(first, tmp_path / "two" / "photos"))
    picture(50, 70, 60).save(other / "train" / "class0" / "00.png")
    bench(other)
    lines = stored(tmp_path / "out" / "results.jsonl")
    assert len(lines) == 2
    assert {line["dataset"]["name"] for line in lines} == {"folder/photos"}
    assert len({line["key"] for line in lines}) == len({line["dataset"]["fingerprint"] for line in lines}) == 2


@pytest.mark.parametrize("sizes", [[(20, 16)], [(20, 16), (9, 9)]], ids=["memory", "disk"])
def test_a_fingerprint_follows_all_that_is_in_a_set(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    def fingerprint_of(change: Callable[[Path], Any] | None = None) -> str:
        root = write_folder(tmp_path / f"set{len(found)}", sizes)
        if change is not None:
            change(root)
        found.append(open_set("folder/set", DataLocation(folder=root)).fingerprint)
        return found[-1]

    def rename_class(root: Path) -> None:
        for split in ("train", "validation"):
            (root / split / "class2").rename(root / split / "class3")

    found: list[str] = []
    first = fingerprint_of()
    assert fingerprint_of() == first
    changes = (
        lambda root: (root / "train/class0/00.png").unlink(),
        lambda root: (root / "train/class0/00.png").rename(root / "train/class1/00.png"),
        lambda root: shutil.copy(root / "validation/class0/00.png", root / "validation/class0/03.png"),
        rename_class,
    )
    for change in changes:
        fingerprint_of(change)
    assert len(set(found)) == 1 + len(changes)


def test_files_of_a_large_set_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of all files count, bytes of the sampled ones."""
    monkeypatch.setattr(fingerprint, "SMALL", 10)
    monkeypatch.setattr(fingerprint, "SAMPLED", 2)

    def digest_of(*texts: bytes) -> str:
        files = [(str(i), tmp_path / str(i), 0, len(text)) for i, text in enumerate(texts)]
        for (_, path, _, _), text in zip(files, texts, strict=True):
            path.write_bytes(text)
        return fingerprint.file_digest(files)

    same = digest_of(b"aaaaa", b"bbbbb", b"ccccc")
    assert digest_of(b"aaaaa", b"xxxxx", b"ccccc") == same
    assert digest_of(b"aaaaa", b"bbbbbb", b"ccccc") != same
    assert digest_of(b"aaaaa", b"bbbbb", b"xxxxx") != same


def test_digits_are_what_results_of_before_were_made_of() -> None:
    """Their keys hold the name alone. A new value here means that the name no longer tells the images."""
    assert load_dataset("digits").fingerprint == "0edafa540c74455a"
    assert key_fingerprint("classify", "digits") == key_fingerprint("segment", "scenes") == ""


def test_a_run_is_not_trained_on_other_images_than_were_asked_for(tmp_path: Path) -> None:
    where = DataLocation(folder=write_folder(tmp_path / "set", [(20, 16)]))
    [run] = plan(["resnet_test"], "folder/set", PLAIN, [0], location=where)
    assert run.fingerprint == load("classify", "folder/set", where).fingerprint
    [line] = attempt(Job(run=replace(run, fingerprint="other"), placement=Placement(location=where)))
    assert "the images of folder/set have changed since this run was planned" in line["error"]


def test_a_folder_is_opened_anew_for_every_request(tmp_path: Path) -> None:
    """In one process, such as a notebook, in which pictures were added meanwhile."""
    folder = write_folder(tmp_path / "set", [(20, 16)])
    request = Request(
        models=["lenet_test"], dataset="folder", data_dir=folder, out=tmp_path / "out", workers=0, changes=SHORT
    )
    first = prepare(request)
    picture(999, 20, 16).save(folder / "train/class0/more.png")
    second = prepare(request)
    assert (first.images.train_size, second.images.train_size) == (12, 13)
    assert first.runs[0].key != second.runs[0].key
    assert prepare(request, anew=False).images is second.images


def test_sets_refuse_recipes_for_others(tmp_path: Path) -> None:
    memory = open_set("folder/m", DataLocation(folder=write_folder(tmp_path / "m", [(20, 16)])))
    stream = open_set("folder/s", DataLocation(folder=write_folder(tmp_path / "s", [(20, 16), (9, 9)])))
    with pytest.raises(ValueError, match=r"image_size must be 0 for folder/m, .* got 224"):
        memory.for_recipe(RECIPES["modern_imagenet"].recipe)
    with pytest.raises(ValueError, match=r"max_shift must be 0 for folder/s, .* got 4: take a recipe for ImageNet"):
        stream.for_recipe(RECIPES["modern_cifar"].recipe)


def test_sets_of_timm_have_a_recipe_for_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = DataLocation(folder=write_folder(tmp_path / "m", [(20, 16)]))
    large = DataLocation(folder=write_folder(tmp_path / "s", [(20, 16), (9, 9)]))
    assert default_recipe("classify", "folder/m", small) == RECIPES["few_small"].recipe
    assert default_recipe("classify", "folder/s", large) == RECIPES["few_pictures"].recipe
    monkeypatch.setattr(tasks, "MANY", 12)  # as many as there are
    assert default_recipe("classify", "folder/m", small) == RECIPES["modern_cifar"].recipe
    assert default_recipe("classify", "folder/s", large) == RECIPES["modern_imagenet"].recipe
    assert default_recipe("classify", "digits") == RECIPES["digits"].recipe
    assert default_recipe("segment", "folder/m", small) == RECIPES["scenes"].recipe
    with pytest.raises(ValueError, match=r"classes\.txt is missing: it names the classes"):
        load("segment", "folder/m", small)


def test_a_folder_is_benchmarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "flowers", [(70, 60), (60, 70)])
    options = ["epochs=1", "batch_size=4", "image_size=64"]
    command = ["bench", "resnet_test", "--dataset", "folder", "--data-dir", str(folder), "--workers", "0"]
    command += ["--bf16", "--layout", "contiguous", "--out", str(tmp_path / "out")]
    assert main([*command, *[word for option in options for word in ("--recipe", option)]]) == 0
    told = capsys.readouterr().err
    assert "on folder/flowers: 12 training and 6 test images of 3x64x64, 3 classes" in told
    assert "recipe few_pictures with epochs=1, batch_size=4, amp=bfloat16, image_size=64 (ours" in told
    [line] = stored(tmp_path / "out" / "results.jsonl")
    images = open_set("folder/flowers", DataLocation(folder=folder))
    assert line["dataset"] == {
        "name": "folder/flowers",
        "fingerprint": images.fingerprint,
        "train": 12,
        "test": 6,
        "num_classes": 3,
        "input_size": [3, 64, 64],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "classes": ["class0", "class1", "class2"],
    }
    assert line["computed"] == {"processes": 1, "layout": "contiguous", "compile": False}
    assert line["recipe"]["amp"] == "bfloat16"
    assert line["recipe_name"] == ""


# ---------------------------------------------------------------- changes of images


def test_what_comes_in_at_the_border() -> None:
    images = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(1, 2, 3, 3)
    right = torch.tensor([[0, 1]])
    filled = shift_images(images, right, torch.tensor([-1.0, -2.0]))
    assert filled[0, 0].tolist() == [[-1, 0, 1], [-1, 3, 4], [-1, 6, 7]]
    assert filled[0, 1, 0].tolist() == [-2, 9, 10]
    reflected = shift_images(images, right, 0.0, "reflect")
    assert reflected[0, 0].tolist() == [[1, 0, 1], [4, 3, 4], [7, 6, 7]]


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_flips_mirror_the_chosen_images(flips: list[bool]) -> None:
    images = torch.arange(len(flips) * 6.0).reshape(len(flips), 1, 2, 3)
    flipped = flip_images(images, torch.tensor(flips))
    for image, other, flip in zip(images, flipped, flips, strict=True):
        assert torch.equal(other, image.flip(-1) if flip else image)


def test_draws_for_new_fields_leave_the_old_ones_alone() -> None:
    """A recipe with flips sees the images in the order of the one without."""
    plain, more = PLAIN.changed(max_shift=2), PLAIN.changed(max_shift=2, flip=True, erase=0.5)
    first, second = (draw(50, recipe, torch.Generator().manual_seed(1)) for recipe in (plain, more))
    assert torch.equal(first.order, second.order)
    assert torch.equal(first.shifts, second.shifts)
    assert (first.flips, first.seeds) == (None, None)
    assert second.flips is not None
    assert second.seeds is not None
    assert len(second.seeds.unique()) == 50


@pytest.mark.parametrize("field", ["mixup", "cutmix"])
def test_mixed_images_have_the_shares_of_both_classes(field: str) -> None:
    images = torch.stack([torch.full((3, 8, 8), float(i)) for i in range(4)])
    labels = torch.arange(4)
    mixed, shares = mix(images, labels, 4, PLAIN.changed(**{field: 1.0}), seed=5)
    assert shares.sum(1) == pytest.approx(torch.ones(4))
    # Constant images, so the mean of a mixed one is the mean of the two values by their shares.
    assert mixed.mean((1, 2, 3)) == pytest.approx(shares @ torch.arange(4.0), abs=1e-5)
    assert ((shares > 0).sum(1) == 2).all()
    again, _ = mix(images, labels, 4, PLAIN.changed(**{field: 1.0}), seed=5)
    assert torch.equal(mixed, again)
    assert mix(images, labels, 4, PLAIN, seed=5) == (images, labels)


def test_changes_of_digits_keep_what_they_are() -> None:
    """Bytes are made of normalised images and back; an erased rectangle is the mean of all images."""
    digits = load_dataset("digits")
    few = digits.on(torch.device("cpu"))
    same = batches(few, PLAIN.changed(batch_size=64, colour=1e-9))[0][0]  # goes through bytes, changes nothing
    plain = batches(few, PLAIN.changed(batch_size=64))[0][0]
    assert float((same - plain).abs().max()) < 1.5 / 255 / float(digits.std)
    erased = batches(few, PLAIN.changed(batch_size=64, erase=1.0))[0][0]
    changed = (erased != plain).flatten(1)
    assert changed.any(1).float().mean() > 0.9
    assert (erased.flatten(1)[changed] == 0).all()


def test_lighting_moves_an_image_along_the_principal_components() -> None:
    std = torch.tensor([0.2, 0.25, 0.5])
    changed = each(torch.zeros(1500, 3, 2, 2), range(1500), Lighting(0.1, std))
    assert torch.equal(changed, changed[:, :, :1, :1].expand_as(changed)), "the same change of all pixels"
    along = (changed[:, :, 0, 0] * std) @ torch.tensor(PRINCIPAL)
    assert along.std(0) / torch.tensor(SPREADS) == pytest.approx(torch.full((3,), 0.1), rel=0.06)
    assert along.mean(0) == pytest.approx(torch.zeros(3), abs=0.002)
    digits = load_dataset("digits")
    lit, plain = (batches(digits, PLAIN.changed(batch_size=64, lighting=strength))[0][0] for strength in (0.1, 0.0))
    moved = lit - plain
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved), rtol=0, atol=1e-5)
    assert len(moved[:, 0, 0, 0].unique()) == 64
    grey = replace(digits, train_images=digits.train_images[:, :1])
    assert grey.for_recipe(PLAIN) is grey
    with pytest.raises(ValueError, match=r"lighting must be 0 for digits, whose images have no red, green and blue"):
        grey.for_recipe(PLAIN.changed(lighting=0.1))


def test_squares_are_cut_from_resized_images(tmp_path: Path) -> None:
    sizes = {tuple(each(torch.zeros(1, 3, 50, 60), [seed], ShortSide(30, 33)).shape[2:]) for seed in range(40)}
    assert sizes == {(30, 36), (31, 37), (32, 38), (33, 39)}
    recipe = PLAIN.changed(image_size=24, short_sides=[24, 30])
    images = open_set("folder/set", DataLocation(folder=write_folder(tmp_path, [(120, 100)]), workers=0))
    found = batches(images.for_recipe(recipe), recipe)
    assert [batch.shape for batch, _ in found] == [(4, 3, 24, 24)] * 3
    with pytest.raises(ValueError, match="image_size must be 0 for digits"):
        load_dataset("digits").for_recipe(recipe)


# ---------------------------------------------------------------- recipes


def test_recipes_say_what_the_papers_say() -> None:
    """Learning rates at the moments that the sources name."""
    rates = {
        "resnet_cifar": {0: 0.1, 81.9: 0.1, 82.1: 0.01, 123.1: 0.001},  # 32,000 and 48,000 of 64,000 steps
        "resnet110_cifar": {0: 0.01, 1: 0.1},
        "preresnet_cifar": {80.9: 0.1, 81.1: 0.01, 122.1: 0.001},
        "wide_resnet_cifar": {59.9: 0.1, 60.1: 0.02, 120.1: 0.004, 160.1: 0.0008},
        "densenet_cifar": {149.9: 0.1, 150.1: 0.01, 225.1: 0.001},
        "resnext_cifar": {149.9: 0.1, 150.1: 0.01, 225.1: 0.001},
        "fabric_cifar": {59.9: 0.1, 60.1: 0.01, 80.1: 0.001},
        "resnet_imagenet": {29.9: 0.1, 30.1: 0.01, 60.1: 0.001},
        "fishnet_imagenet": {29.9: 0.1, 30.1: 0.01, 90.1: 0.0001},
        "vgg_imagenet": {18.4: 0.01, 18.6: 0.001, 37.1: 1e-4, 55.6: 1e-5},
        "googlenet_imagenet": {7.9: 0.01, 8.1: 0.0096, 16.1: 0.009216, 249: 0.01 * 0.96**31},
    }
    for name, moments in rates.items():
        recipe = recipe_row(name).recipe
        for epoch, rate in moments.items():
            assert recipe.lr_at(epoch) == pytest.approx(rate), (name, epoch)
    decays = {name: row.recipe.weight_decay for name, row in RECIPES.items()}
    assert decays["wide_resnet_cifar"] == decays["resnext_cifar"] == decays["fabric_cifar"] == 5e-4
    assert decays["resnet_cifar"] == decays["densenet_cifar"] == decays["fishnet_imagenet"] == 1e-4
    assert RECIPES["wide_resnet_cifar"].recipe.border == "reflect"
    assert not RECIPES["resnet_cifar"].recipe.nesterov
    assert {name for name, row in RECIPES.items() if row.recipe.lighting == 0.1} == {
        f"{net}_imagenet" for net in ("resnet", "densenet", "resnext", "fishnet", "vgg")
    }
    sides = [sentence for sentence in RECIPES["vgg_imagenet"].recipe.describe() if "shorter side" in sentence]
    assert sides == [
        "training images: squares of 224 px cut from images with a shorter side of 256 px, mirrored by chance, noise "
        "of 0.1 along the principal components of colour"
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    row = RECIPES[name]
    stored = row.recipe.to_dict()
    assert Recipe(**stored) == row.recipe
    assert recipe_name(row.recipe) == name or RECIPES[recipe_name(row.recipe)].recipe == row.recipe
    assert row.source
    assert not any(sentence.endswith(".") for sentence in row.recipe.describe())


def test_a_changed_recipe_has_no_name() -> None:
    assert recipe_name(RECIPES["digits"].recipe.changed(lr=0.05)) == ""
    with pytest.raises(ValueError, match=r"unknown recipe 'wrn': choose from digits, "):
        recipe_row("wrn")


def test_steps_move_with_the_epochs() -> None:
    short = RECIPES["wide_resnet_cifar"].recipe.changed(epochs=10)
    assert [short.lr_at(epoch) for epoch in (2.9, 3.1, 6.1, 8.1)] == pytest.approx([0.1, 0.02, 0.004, 0.0008])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "steps"}, r"step_at must have shares with schedule 'steps'"),
        ({"step_at": (0.5,)}, r"step_at must have shares with schedule 'steps', and none with another"),
        ({"schedule": "steps", "step_at": (0.7, 0.5)}, r"step_at must be rising shares"),
        ({"schedule": "steps", "step_at": (0.5, 1.0)}, r"step_at must be rising shares"),
        ({"schedule": "linear"}, r"schedule must be one of \('cosine', 'steps'\), got 'linear'"),
        ({"border": "black"}, r"border must be one of"),
        ({"augment": "auto"}, r"augment must be one of"),
        ({"flip": 1}, r"flip must be of type bool, got 1"),
        ({"erase": 2.0}, r"erase must lie in \[0, 1\], got 2.0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"crop_scale": 0.0}, r"crop_scale must lie in \(0, 1\], got 0.0"),
        ({"lr": float("inf")}, r"lr must have a size of at most 1,000,000,000, got inf"),
        ({"weight_decay": 10**400}, r"weight_decay must have a size of at most"),
        ({"epochs": 10**30}, r"epochs must have a size of at most 2,147,483,647"),
        ({"mixup": -1.0}, r"mixup must not be negative, got -1.0"),
        ({"epochs": True}, r"epochs must be of type int, got True"),
        ({"lighting": -0.1}, r"lighting must not be negative, got -0.1"),
        (
            {"short_sides": (32, 40)},
            r"short_sides must be two rising whole numbers of at least image_size, which has to",
        ),
        ({"short_sides": (20, 40), "image_size": 24}, r"short_sides must be two rising .*, got \(20, 40\)"),
        ({"short_sides": (40, 32), "image_size": 24}, r"short_sides must be two rising"),
        ({"short_sides": (32.0, 40), "image_size": 24}, r"short_sides must be two rising whole numbers"),
        ({"short_sides": (32,), "image_size": 24}, r"short_sides must be two rising"),
        ({"short_sides": 32, "image_size": 24}, r"short_sides must be of type tuple"),
        (
            {"short_sides": (32, 40), "image_size": 24, "crop_scale": 0.5},
            r"crop_scale must be left out with short_sides",
        ),
    ],
)
def test_wrong_fields_of_a_recipe_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PLAIN.changed(**changes)


def test_recipes_are_listed_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["recipes", "wide_resnet_cifar"]) == 0
    told = capsys.readouterr().out
    assert "times 0.2 at epochs 60, 120, 160" in told
    assert "source: Zagoruyko and Komodakis 2016, arXiv:1605.07146" in told
    assert main(["recipes", "wrn"]) == 2
    assert "unknown recipe 'wrn': choose from" in capsys.readouterr().err


def test_values_of_the_command_line() -> None:
    assert [parse_value(text) for text in ("3", "0.5", "(1, 2)", "True", "pre", "1e999")] == [
        3,
        0.5,
        (1, 2),
        True,
        "pre",
        "1e999",
    ]
