"""Classes of pictures: prepared as in the test of the net, one line each, whatever the pictures are."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_imagesets import noise, put, tree
from test_keeping import line_for

import zoo
from zoo.datasets.decode import decode
from zoo.datasets.external import DataLocation, open_set
from zoo.evaluation import transform
from zoo.keeping import keep
from zoo.predicting import class_names, open_classifier, predict
from zoo.results.recipe import Recipe
from zoo_cli import main

NAME = "resnet_test"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a net of seven classes."""
    torch.manual_seed(0)
    return keep(zoo.create_model(NAME, num_classes=7), line_for(NAME), tmp_path_factory.mktemp("weights"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with pictures of several sizes and kinds, one of them in a folder below, and with a text."""
    for i, (size, mode) in enumerate([((64, 64), "RGB"), ((90, 40), "L"), ((33, 99), "RGB")]):
        put(tmp_path / f"pictures/{i}.png", noise(i, size, mode))
    put(tmp_path / "pictures/below/10.jpg", noise(9, (70, 70)))
    put(tmp_path / "pictures/notes.txt", b"text")
    return tmp_path / "pictures"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("size", [(40, 40), (120, 100)], ids=["in memory", "from disk"])
def test_a_picture_is_prepared_as_in_the_test_of_its_run(tmp_path: Path, size: tuple[int, int]) -> None:
    root = tree(tmp_path / "set", images=2)
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        put(path, noise(i, size))
    on_disk = {"image_size": 32} if size == (120, 100) else {}
    images = open_set("folder", DataLocation(folder=root, workers=0)).for_recipe(
        Recipe(epochs=1, batch_size=2, lr=0.1, **on_disk)
    )
    net = zoo.create_model(NAME, num_classes=3).eval()
    folder = keep(net, line_for(NAME) | {"dataset": images.describe()}, tmp_path)
    change = transform(open_classifier(folder).prepared)
    half = sorted((root / "validation").rglob("*.png"))
    [(tested, _)] = list(images.test_batches())
    assert torch.equal(torch.stack([change(decode(path.read_bytes(), "")) for path in half]), tested)
    found = list(predict(folder, [root / "validation"], top=3))
    assert [p.picture for p in found] == list(map(str, half))
    with torch.no_grad():
        shares = net(tested).softmax(1)
    assert [p.classes[0] for p in found] == ["abc"[i] for i in shares.argmax(1)]
    torch.testing.assert_close(
        torch.tensor([p.probabilities for p in found]), shares.sort(descending=True).values, rtol=1e-4, atol=1e-6
    )


def test_folders_files_and_names_on_standard_input(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures / '1.png'}\n\n{pictures / 'below'}\r\n"))
    command = ["predict", str(pictures), "-", str(pictures / "2.png"), "--weights", str(weights)]
    assert main([*command, "--top", "2", "--batch-size", "2", "--workers", "1"]) == 0
    found = rows(capsys.readouterr().out)
    names = [str(Path(row["picture"]).relative_to(pictures)) for row in found]
    assert names == ["0.png", "1.png", "2.png", "below/10.jpg", "1.png", "below/10.jpg", "2.png"]
    assert list(found[0]) == ["picture", "class1", "probability1", "class2", "probability2", "error"]
    assert found[1] == found[4] | {"picture": found[1]["picture"]}
    for row in found:
        assert {row["class1"], row["class2"]} <= set("abcdefg")
        assert 1 >= float(row["probability1"]) >= float(row["probability2"]) > 0


def test_names_on_standard_input_may_be_any_bytes_or_missing(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.BytesIO(b"a\xff.png\n" + str(pictures / "1.png").encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given, encoding="utf-8"))
    assert main(["predict", "-", "--weights", str(weights), "--format", "jsonl"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["picture"], first["error"]) == ("a\udcff.png", "no such file or directory")
    assert "error" not in second
    monkeypatch.setattr("sys.stdin", None)
    assert main(["predict", "-", "--weights", str(weights)]) == 2
    assert "picture '-' stands for names on standard input, and there is none" in capsys.readouterr().err


def test_a_pipe_or_a_device_is_never_replaced(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path(os.devnull)):
        assert main(["predict", str(pictures), "--weights", str(weights), "--out", str(place)]) == 2
        assert f"out {place} is no regular file" in capsys.readouterr().err


def test_a_bad_picture_is_a_line_and_not_the_end(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(pictures / "1.png", b"rubbish")
    put(pictures / "5.png", b"")
    command = ["predict", str(pictures), str(pictures / "=none.png"), "--weights", str(weights), "--top", "1"]
    for form, parse in (("csv", rows), ("jsonl", lambda text: list(map(json.loads, text.splitlines())))):
        assert main([*command, "--format", form]) == 1
        captured = capsys.readouterr()
        errors = [row.get("error", "") for row in parse(captured.out)]  # ty: ignore[call-non-callable]
        assert errors == [
            "",
            "is no picture of a kind that is read (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)",
            "",
            "is empty",
            "",
            "no such file or directory",
        ]
        assert "3 pictures could not be read" in captured.err


def test_lines_go_to_a_file_and_hold_the_same(weights: Path, pictures: Path, tmp_path: Path) -> None:
    command = ["predict", str(pictures), "--weights", str(weights), "--format", "jsonl", "--out"]
    assert main([*command, str(tmp_path / "new/a.jsonl")]) == 0
    for _ in range(2):  # its own lines are replaced
        assert main([*command, str(tmp_path / "b.jsonl"), "--fuse"]) == 0
    lines, fused = (
        [json.loads(t) for t in (tmp_path / n).read_text().splitlines()] for n in ("new/a.jsonl", "b.jsonl")
    )
    assert [line["picture"] for line in lines] == [line["picture"] for line in fused]
    assert len(lines[0]["classes"]) == 5
    for one, other in zip(lines, fused, strict=True):
        assert "error" not in one
        shares = [{c["class"]: c["probability"] for c in line["classes"]} for line in (one, other)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-4)


def test_names_of_classes_without_a_list() -> None:
    assert class_names(timm.create_model("test_resnet"))[207] == "golden retriever"
    assert class_names(zoo.create_model(NAME, num_classes=3)) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nosuch"}, "name ('nosuch') is not a model of the zoo"),
        ({"--weights": "resnet_test"}, "resnet_test has no registered weights"),
        ({"--weights": "."}, "is a folder without config.json"),
        ({"--top": "0"}, "top must be at least 1, got 0"),
        ({"--batch-size": "-1"}, "batch-size must be at least 1, got -1"),
        ({"--device": "gpuu"}, "device 'gpuu' is none of torch's"),
        ({"--out": "."}, "out . is a folder: name a file in it"),
        ({"--out": "a.png"}, "out 'a.png' holds other things than predictions, and would be lost"),
        ({"--out": "results.jsonl"}, "out 'results.jsonl' holds other things than predictions"),
        ({"picture": "empty"}, "empty holds no picture that is read"),
    ],
    ids=str,
)
def test_a_wrong_request_is_told(
    change: dict[str, str],
    message: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    there = {"a.png": b"\x89PNG", "results.jsonl": b'{"key":"0092bdc2aacc"}\n'}
    for name, content in there.items():
        (tmp_path / name).write_bytes(content)
    options: dict[str, Any] = {"--weights": str(weights), "--out": "new/lines.jsonl"} | change
    picture = options.pop("picture", "a.png")
    assert main(["predict", picture, *(word for pair in options.items() for word in pair)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert {name: (tmp_path / name).read_bytes() for name in there} == there
    assert {path.name for path in tmp_path.iterdir()} == {"empty", *there}


def test_models_of_other_tasks_name_no_pictures(tmp_path: Path) -> None:
    line = line_for(NAME, "unet", task="segment")
    line["test_miou"] = line.pop("test_accuracy")
    for epoch in line["epochs"]:
        epoch["test_miou"] = epoch.pop("test_accuracy")
    folder = keep(zoo.create_model(NAME), line, tmp_path)
    with pytest.raises(ValueError, match="are of task segment: pictures are named by classify"):
        open_classifier(folder)
    bare = zoo.save_for_hf(zoo.create_model(NAME, num_classes=0), tmp_path / "bare")
    with pytest.raises(ValueError, match="have no classifier"):
        open_classifier(bare)
