"""Own pictures with masks or boxes: folders that are right and wrong, training, keeping, testing again, predicting."""

import csv
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from result_lines import stored

from zoo.bench import Request, dense_tasks
from zoo.bench import run as bench
from zoo.bench.distributed import Team
from zoo.bench.one_run import retest
from zoo.bench.tasks import TASKS
from zoo.datasets.annotated import open_boxes, open_masks
from zoo.datasets.external import DataLocation
from zoo.datasets.scenes import Scenes
from zoo.results.recipe import Recipe
from zoo_cli import main
from zoo_cli.predict import mask_paths

SIDE = 64
RECIPE = Recipe(epochs=1, batch_size=2, lr=1e-3, optimizer="adamw", image_size=SIDE)
NUMBERS = {"train": 4, "validation": 3}
# Few scenes do not show all ten digits.
FEW = pytest.mark.filterwarnings("ignore:.* masks have no pixel of digit")


def write(root: Path) -> Path:
    """Save scenes as a folder of both kinds: pictures twice as wide as high, masks, and boxes."""
    (root).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("ground\n" + "".join(f"digit {i}\n" for i in range(10)))
    for half, number in NUMBERS.items():
        for folder in ("images", "masks"):
            (root / half / folder).mkdir(parents=True)
        coco: dict[str, Any] = {"categories": [{"id": 10 * i, "name": f"digit {i}"} for i in range(10)]}
        coco |= {"images": [], "annotations": []}
        for i in range(number):
            image, target = Scenes("train" if half == "train" else "test", number)[i]
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            wide = Image.fromarray(pixels).resize((2 * SIDE, SIDE), Image.Resampling.NEAREST)
            wide.save(root / half / "images" / f"{i}.png")
            mask = Image.fromarray(target.semantic.numpy().astype(np.uint8))
            mask.resize((2 * SIDE, SIDE), Image.Resampling.NEAREST).save(root / half / "masks" / f"{i}.png")
            coco["images"].append({"id": i, "file_name": f"{i}.png", "width": 2 * SIDE, "height": SIDE})
            for (x0, y0, x1, y1), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
                box = [2 * x0, y0, 2 * (x1 - x0), y1 - y0]
                coco["annotations"].append({"image_id": i, "category_id": 10 * (label - 1), "bbox": box})
        (root / half / "annotations.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("written") / "scenes")


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "scenes")


@FEW
def test_masks_and_boxes_are_those_of_the_files(root: Path) -> None:
    where = DataLocation(folder=root)
    masks, boxes = open_masks("folder/scenes", where), open_boxes("folder/scenes", where)
    assert masks.classes == ("ground", *(f"digit {i}" for i in range(10)))
    assert boxes.classes == ("background", *(f"digit {i}" for i in range(10)))
    for images in (masks, boxes):
        whole = images.for_recipe(RECIPE)
        assert (whole.train_size, whole.test_size, whole.input_size) == (4, 3, (3, SIDE, SIDE))
        assert whole is images.for_recipe(RECIPE), "read once"
        assert whole.fingerprint == images.fingerprint
        image, target = Scenes("test", 3)[1]
        near = (whole.test_images[1].float() / 255 - image).abs().mean()
        assert near < 0.01  # twice as wide, and back
    target = Scenes("test", 3)[1][1]
    assert torch.equal(masks.for_recipe(RECIPE).test_labels[1].long(), target.semantic)
    found = boxes.for_recipe(RECIPE).test_labels[1]
    torch.testing.assert_close(found["boxes"], target.boxes)
    assert torch.equal(found["labels"], target.labels)
    assert masks.for_recipe(RECIPE).class_counts.sum() == 4 * SIDE * SIDE
    small = masks.for_recipe(RECIPE.changed(image_size=32))
    assert small.test_labels.shape == (3, 32, 32)
    with pytest.raises(ValueError, match="image_size must be 32"):
        small.for_recipe(RECIPE)
    (root / "train/masks/0.png").write_bytes((root / "train/masks/1.png").read_bytes())
    assert open_masks("folder/scenes", where).fingerprint != masks.fingerprint


def test_pixels_that_are_ignored_count_nowhere() -> None:
    masks = torch.tensor([[[0, 1], [255, 1]]], dtype=torch.uint8)
    assert dense_tasks.mean_iou(torch.tensor([[[0, 1], [0, 1]]]), masks) == 1
    logits = torch.randn(1, 3, 2, 2)
    other = logits.clone()
    other[..., 1, 0] = 9
    for weights in (None, torch.ones(3)):
        losses = [dense_tasks.weighted_loss(x, masks.long(), RECIPE, weights, 255) for x in (logits, other)]
        assert float(losses[0]) == pytest.approx(float(losses[1]))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0])], ids=["equal", "weighed"])
def test_the_loss_is_that_of_the_whole_batch_however_it_is_shared(weights: torch.Tensor | None) -> None:
    logits = torch.randn(4, 3, 2, 2)
    masks = torch.tensor([0, 1, 2, 255] + [1] * 4 + [255] * 7 + [2]).reshape(4, 2, 2)
    shares = [slice(0, 2), slice(2, 4)]

    class Two(Team):
        size = 2

        def total(self, value: torch.Tensor) -> torch.Tensor:
            counts = [int((masks[share] != 255).sum()) for share in shares]
            assert value in counts
            return torch.tensor(float(sum(counts)))

    def loss(chosen: slice, team: Team | None) -> float:
        return float(
            dense_tasks.segmentation_loss(lambda x: x, logits[chosen], masks[chosen], RECIPE, weights, team)[0]
        )

    whole = loss(slice(0, 4), None)
    valid = masks != 255
    each = torch.nn.functional.cross_entropy(logits, masks, weights, ignore_index=255, reduction="none")
    assert whole == pytest.approx(float(each[valid].mean()))
    assert sum(loss(share, Two()) for share in shares) / 2 == pytest.approx(whole)
    masks[2:] = 255
    assert loss(slice(2, 4), Two()) == 0, "a share without a class"
    assert sum(loss(share, Two()) for share in shares) / 2 == pytest.approx(loss(slice(0, 4), None))
    assert loss(slice(2, 4), None) == 0


def test_each_class_has_a_figure_or_none() -> None:
    masks = torch.tensor([[[0, 1], [255, 1]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1], [4, 3]]], dtype=torch.uint8)  # the 4 is ignored
    assert TASKS["segment"].by_class(found, masks, 6) == {"class_iou": [1, 0.5, None, 0, None, None]}
    assert dense_tasks.mean_iou(found, masks) == pytest.approx(0.5)


def test_blocks_without_truth_are_left_out_of_the_error() -> None:
    masks = torch.tensor([0, 1, 255, 255, 1, 0], dtype=torch.uint8).reshape(6, 1, 1).repeat(1, 1, 2)
    found = torch.zeros_like(masks)
    found[0, 0, 1] = 1
    parts = [0, 1, 4, 5]
    whole = TASKS["segment"].error(0.5, found, masks)
    assert whole == pytest.approx(TASKS["segment"].error(0.5, found[parts], masks[parts]))
    assert whole > 0
    assert TASKS["segment"].error(0.5, found[2:5], masks[2:5]) == 0, "one block does not spread"

    one = {"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([1])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    truth = [one, none, one]
    boxes = [one | {"scores": torch.ones(1)}, one | {"scores": torch.ones(1)}, none | {"scores": torch.ones(0)}]
    assert TASKS["detect"].error(0.5, boxes, truth) == pytest.approx(0.5)  # 1 and 0 of two blocks
    assert dense_tasks.mean_average_precision(boxes[1:2], truth[1:2]) == -1


def test_segmentation_keeps_a_byte_a_pixel() -> None:
    logits = torch.zeros(1, 255, 1, 2)
    logits[0, 254, 0, 1] = 1
    found = TASKS["segment"].predict(torch.nn.Identity(), logits)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[0, 254]]]


def edited(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put(path: Path, values: Any, **options: Any) -> None:
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "train/images/2.png") as image:
        image.save(root / "train/images/2.png", exif=exif)


FLAT = np.zeros((SIDE, 2 * SIDE))


def repainted(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the pixels of all masks."""
    for path in root.glob("*/masks/*.png"):
        put(path, change(np.array(Image.open(path))))


def grey_png(path: Path, bits: int) -> None:
    """Save a grey PNG of zeros with so few bits a pixel, as Pillow cannot."""
    head = struct.pack(">IIBBBBB", 2 * SIDE, SIDE, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 2 * SIDE * bits // 8) * SIDE)
    chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    told = [struct.pack(">I", len(b)) + name + b + struct.pack(">I", zlib.crc32(name + b)) for name, b in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))


WRONG_MASKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing mask": (lambda root: (root / "train/masks/1.png").unlink(), r"images/1\.png has no mask of its name"),
    "missing picture": (lambda root: (root / "train/images/1.png").unlink(), r"masks/1\.png has no picture"),
    "size": (lambda root: put(root / "train/masks/1.png", FLAT[:5]), r"masks/1\.png: has 128 x 5 pixels, and its pic"),
    "class": (
        lambda root: put(root / "validation/masks/1.png", FLAT + 11),
        r"masks/1\.png: holds class 11, and .* 11,",
    ),
    "empty": (lambda root: put(root / "train/masks/1.png", FLAT + 255), r"masks/1\.png: has no pixel with a class"),
    "colour": (lambda root: put(root / "train/masks/1.png", np.zeros((SIDE, 128, 3))), r"has pixels of kind RGB"),
    "lossy": (lambda root: put(root / "train/masks/1.png", FLAT, format="JPEG"), r"is JPEG, which changes class num"),
    "torn mask": (lambda root: (root / "train/masks/1.png").write_bytes(b"x"), r"masks/1\.png: is no picture"),
    "torn picture": (lambda root: (root / "train/images/1.png").write_bytes(b"x"), r"images/1\.png: is no picture"),
    "2 bits": (
        lambda root: grey_png(root / "train/masks/1.png", 2),
        r"masks/1\.png: its pixels are stored as L;2, and",
    ),
    "4 bits": (
        lambda root: grey_png(root / "train/masks/1.png", 4),
        r"stored as L;4, .*: save it as a grey or palette",
    ),
    "0 to 3": (
        lambda root: (root / "train/masks/1.png").write_bytes(b"P5 128 64 3\n" + bytes(128 * 64)),
        r"masks/1\.png: its pixels are stored as L up to 3",
    ),
    "white": (
        lambda root: repainted(root, lambda mask: (mask > 0) * 255),
        r"folder/scenes: all pixels of the training masks are of class 0 or 255\. 255 counts nowhere: write object pix",
    ),
    "one class": (lambda root: repainted(root, lambda mask: mask * 0 + 7), "masks are of class 7: nothing is to be"),
    "small": (
        lambda root: put(root / "train/masks/1.png", np.pad([[0]], ((0, SIDE - 1), (0, 127)), constant_values=255)),
        r"masks/1\.png: has no pixel with a class at 64 px: take a larger image_size",
    ),
    "names": (lambda root: (root / "classes.txt").unlink(), r"classes\.txt is missing: it names the classes"),
    "one name": (lambda root: (root / "classes.txt").write_text("a\n"), r"must name 2 to 255 classes, and names 1"),
    "two pictures": (lambda root: put(root / "train/images/1.jpg", FLAT), r"have one name: which belongs to it"),
    "turned": (turned, r"images/2\.png: is turned by its EXIF orientation"),
    "twins": (
        lambda root: (root / "train/images/1.png").write_bytes((root / "validation/images/0.png").read_bytes()),
        r"one picture is in both halves: .*train/images/1\.png and .*validation/images/0\.png",
    ),
    "no folders": (lambda root: (root / "train/masks").rename(root / "train/m"), r"must hold the folders images and m"),
}


@pytest.mark.parametrize("case", WRONG_MASKS)
def test_a_wrong_folder_of_masks_is_told(root: Path, case: str) -> None:
    spoil, message = WRONG_MASKS[case]
    spoil(root)
    with pytest.raises(ValueError, match=message):
        open_masks("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE)


def test_classes_that_never_occur_are_told(root: Path) -> None:
    repainted(root, lambda mask: np.where(mask > 0, 1, 0))
    put(root / "validation/masks/0.png", FLAT + 2)
    (root / "classes.txt").write_text("ground\ndigit\nother\nlast\n")
    message = r"^folder/scenes at 64 px: training masks have no pixel of other, last; test masks have no pixel of last$"
    with pytest.warns(UserWarning, match=message):
        open_masks("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE)


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 2}, {"bits": 4}, {}])
def test_palette_masks_hold_their_numbers(root: Path, options: dict[str, int]) -> None:
    repainted(root, lambda mask: np.where(mask > 0, 1, 0))
    (root / "classes.txt").write_text("ground\ndigit\n")
    before = open_masks("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE).train_labels
    for path in root.glob("*/masks/*.png"):
        with Image.open(path) as image:
            palette = Image.fromarray(np.array(image))
        palette.putpalette([0, 0, 0, 255, 0, 0])
        palette.save(path, **options)
    assert torch.equal(open_masks("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE).train_labels, before)


def test_a_fingerprint_ties_boxes_to_their_picture(root: Path) -> None:
    where = DataLocation(folder=root)
    boxes = open_boxes("folder/scenes", where).fingerprint

    def swap(content: Any) -> None:
        a, b = content["images"][:2]
        a["file_name"], b["file_name"] = b["file_name"], a["file_name"]

    edited(root / "train/annotations.json", swap)
    assert open_boxes("folder/scenes", where).fingerprint != boxes
    edited(root / "train/annotations.json", swap)
    edited(root / "train/annotations.json", lambda content: content["images"].reverse())
    assert open_boxes("folder/scenes", where).fingerprint == boxes, "the order of the file tells nothing"


def test_a_fingerprint_reads_every_mask(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = DataLocation(folder=root)
    monkeypatch.setattr("zoo.datasets.fingerprint.SMALL", 0)
    monkeypatch.setattr("zoo.datasets.fingerprint.SAMPLED", 2)
    sampled = open_masks("folder/scenes", where).fingerprint
    path = root / "train/masks/1.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the same size, in the middle of the half
    path.write_bytes(content)
    assert open_masks("folder/scenes", where).fingerprint != sampled


def annotation(**changes: Any) -> Callable[[Any], object]:
    return lambda content: content["annotations"][1].update(changes)


WRONG_BOXES: dict[str, tuple[Callable[[Any], object] | str, str]] = {
    "no JSON": ("{", r"train/annotations\.json: is no JSON"),
    "deep": ("[" * 100_000, r"train/annotations\.json: is no JSON"),
    "bytes": ("\udcff", r"train/annotations\.json: is no JSON"),
    "list": ("[]", "must hold an object"),
    "no list": (lambda content: content.pop("images"), "must hold a list of objects called 'images'"),
    "no objects": (lambda content: content["images"].append(3), "must hold a list of objects called 'images'"),
    "no id": (lambda content: content["images"][0].pop("id"), "has an entry of 'images' without a number"),
    "twice": (lambda content: content["images"][0].update(id=1), "names an image id twice"),
    "file twice": (lambda content: content["images"][0].update(file_name="1.png"), "names a file twice"),
    "missing": (lambda content: content["images"][0].update(file_name="9.png"), r"names '9\.png', which is not in"),
    "outside": (lambda content: content["images"][0].update(file_name="../../x.png"), "names a file outside of images"),
    "absolute": (lambda content: content["images"][0].update(file_name="/x.png"), "names a file outside of images"),
    "size": (lambda content: content["images"][0].update(width=9), r"images/0\.png: has 128 x 64 .* says 9 x 64"),
    "no image": (annotation(image_id=77), "annotation 1 belongs to no image of the file"),
    "odd image": (annotation(image_id=[1]), "annotation 1 belongs to no image of the file"),
    "no category": (annotation(category_id=7), "annotation 1 belongs to no category of the file"),
    "no box": (annotation(bbox=[1, 2, 3]), "annotation 1 has no box"),
    "NaN": (annotation(bbox=[1, 2, float("nan"), 3]), "annotation 1 has no box"),
    "flat": (annotation(bbox=[1, 2, 0, 3]), "annotation 1 has no box"),
    "large": (annotation(bbox=[100, 2, 50, 3]), r"the box 100 2 150 5 reaches out of its 128 x 64 pixels"),
    "categories": (lambda content: content["categories"][3].update(name="dog"), "have different categories"),
    "name": (lambda content: content["categories"][3].update(name=""), "category 30 has no name"),
    "empty": (lambda content: content["annotations"].clear(), "no training picture has a box"),
}


@pytest.mark.parametrize("case", WRONG_BOXES)
def test_a_wrong_file_of_boxes_is_told(root: Path, case: str) -> None:
    change, message = WRONG_BOXES[case]
    path = root / "train/annotations.json"
    if isinstance(change, str):
        path.write_bytes(change.encode("utf-8", "surrogateescape"))
    else:
        edited(path, change)
    with pytest.raises(ValueError, match=message):
        open_boxes("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE)


def test_crowds_and_pictures_that_nobody_names_are_left_out(root: Path) -> None:
    edited(root / "train/annotations.json", annotation(iscrowd=1))
    put(root / "train/images/new.png", FLAT)
    with pytest.warns(UserWarning, match="left out are 1 crowds and 1 pictures that it does not name"):
        images = open_boxes("folder/scenes", DataLocation(folder=root)).for_recipe(RECIPE)
    assert images.train_size == 4
    assert len(images.train_labels[0]["boxes"]) == len(Scenes("train", 4)[0][1].boxes) - 1


@FEW
@pytest.mark.only(task=("segment",))
@pytest.mark.parametrize(("task", "metric"), [("segment", "miou"), ("detect", "map")])
def test_own_pictures_are_learned_kept_tested_and_found(
    root: Path, tmp_path: Path, task: str, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"epochs": 1, "batch_size": 2, "image_size": SIDE}
    asked = Request(
        models=["resnet_test"],
        task=task,
        dataset="folder",
        data_dir=root,
        changes=changes,
        device="cpu",
        out=tmp_path / "out",
        pictures=True,
    )
    assert bench(asked).failures == ()
    [line] = stored(tmp_path / "out/results.jsonl")
    assert line["dataset"]["name"] == "folder/scenes"
    assert line["dataset"]["classes"][1] == ("digit 0")
    assert 0 <= line[f"trivial_{metric}"] < 1
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1
    [folder] = (tmp_path / "out/weights").iterdir()
    assert retest(folder, DataLocation(folder=root)).score == line[f"test_{metric}"]

    pictures = [str(root / "validation/images/1.png"), str(root / "classes.txt"), str(root / "validation/images/0.png")]
    words = ["predict", *pictures, "--weights", str(folder), "--device", "cpu"]
    if task == "segment":
        before = Path(pictures[0]).read_bytes()
        assert main([*words, "--masks", str(root / "validation/images")]) == 2
        assert "images/1.png: name another folder" in capsys.readouterr().err
        assert Path(pictures[0]).read_bytes() == before
    words += ["--masks", str(tmp_path / "masks")] if task == "segment" else ["--min-score", "0"]
    assert main([*words, "--format", "jsonl"]) == 1
    first, broken, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert broken["error"].startswith("is no picture")
    assert main(words) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    if task == "segment":
        with Image.open(first["mask"]) as image:
            mask = np.array(image)
        assert mask.shape == (SIDE, 2 * SIDE)
        shares = {name["class"]: name["share"] for name in first["classes"]}
        for name, share in shares.items():
            expected = (mask == line["dataset"]["classes"].index(name)).mean()
            assert share == pytest.approx(expected, abs=1e-6)
        assert [row["error"] != "" for row in rows] == [False, True, False]
        assert rows[0]["mask"] == first["mask"]
    else:
        boxes = [found["box"] for found in first["boxes"]]
        assert all(0 <= x0 <= x1 <= 2 * SIDE and 0 <= y0 <= y1 <= SIDE for x0, y0, x1, y1 in boxes)
        assert len(rows) == max(1, len(boxes)) + 1 + max(1, len(last["boxes"]))


def test_masks_have_names_of_their_own_and_overwrite_no_picture(tmp_path: Path) -> None:
    pictures = [Path(name) for name in ("x/a.jpg", "y/a.jpg", "a-2.jpg", "a.jpg", "a-2.jpg")]
    names = [path.name for path in mask_paths(pictures, tmp_path)]
    assert names == ["a.png", "a-2.png", "a-2-2.png", "a-3.png", "a-2-3.png"]
    assert mask_paths([tmp_path / "b.jpg"], tmp_path) == [tmp_path / "b.png"]
    (tmp_path / "link").symlink_to(tmp_path)
    for pictures in ([tmp_path / "b.png"], [Path("x/b.jpg"), tmp_path / "b.png"]):
        for folder in (tmp_path, tmp_path / "link"):
            with pytest.raises(ValueError, match=r"a mask would overwrite the picture .*b\.png: name another folder"):
                mask_paths(pictures, folder)


def test_options_of_another_task_are_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "x.png", "--weights", "lenet_test", "--min-score", "0.5"]) == 2
    assert "min-score is for detect, and these weights are of classify" in capsys.readouterr().err
    words = ["bench", "--task", "segment", "--dataset", "folder", "--data-dir", str(root), "--out", str(root / "out")]
    assert main([*words, "--skip-broken"]) == 2
    assert "skip-broken is for classification" in capsys.readouterr().err
    assert main([*words[:4], "torch/cifar10", *words[5:]]) == 2
    assert "unknown dataset 'torch/cifar10': choose from fashion_scenes, folder, scenes" in capsys.readouterr().err
