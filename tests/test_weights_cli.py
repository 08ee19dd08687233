"""The verbs `zoo weights`, `zoo convert`, `zoo verify` and `zoo validate`."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from test_weights import as_released, as_saved
from torch import nn

import zoo
from zoo.evaluation import evaluate, open_dataset, preprocessing
from zoo.weights import sources
from zoo.weights.formats import Stored
from zoo_cli import main


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_weights_lists_tags(capsys: pytest.CaptureFixture[str]) -> None:
    [row] = run_json(capsys, "weights", "fishnet150")
    assert (row["weights"], row["top1_error"], row["top5_error"]) == ("fishnet150.osmr_in1k", 19.26, 4.75)
    assert (row["licence"], row["classes"], row["cached"], row["size"]) == ("mit", 1000, False, "~99.8 MB")
    assert row["url"].endswith("/v0.0.502/fishnet150-0475-93e26daa.pth.zip")
    cached = sources.cached_path(row["url"])
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(1_500_000))
    assert main(["weights", "fishnet150"]) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = ["weights", "classes", "top1_error", "top5_error", "of", "at", "size", "licence", "source"]
    assert lines[0].split() == columns
    assert lines[2].split() == [
        *("fishnet150.osmr_in1k", "1000", "19.26", "4.75", "pytorchcv", "224", "px", "1.5", "MB", "mit"),
        "fishnet150-0475-93e26daa.pth.zip",
    ]
    at = {row["weights"]: row["at"] for row in run_json(capsys, "weights", "resnext50_32x4d")}
    assert at["resnext50_32x4d.a1h_in1k"] == "288 px"
    everything = run_json(capsys, "weights")
    assert len(everything) == sum(len(zoo.model_entry(name).weights) for name in zoo.list_models())
    assert {row["weights"] for row in run_json(capsys, "weights", "zoo_resnet50.a1_in1k")} >= {"resnet50.a1_in1k"}
    assert main(["weights", "fishnet99"]) == 0
    assert capsys.readouterr().out == "no weights are published for fishnet99\n"


def test_convert_writes_our_names_and_verify_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net: Any = zoo.create_model("fishnet_test")
    theirs = as_released(net, lambda _, shape: torch.randn(shape) if shape else torch.zeros((), dtype=torch.int64))
    source, out = tmp_path / "fish.tar", tmp_path / "fish.safetensors"
    torch.save(as_saved(theirs), source)
    assert main(["verify", "fishnet_test", str(source)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{source}: loads into fishnet_test: {len(as_saved(theirs)['state_dict'])} tensors, layout")
    assert " layout released, from state_dict.module.*; " in said
    assert said.endswith(" (float32), 10 classes\n")
    out.write_text("something that is in the way")
    assert main(["convert", str(source), str(out), "--model", "fishnet_test"]) == 0
    assert "layout released" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        note = file.metadata()
        assert list(file.keys()) == sorted(net.state_dict())
    assert (note["model"], note["layout"], note["source"]) == ("fishnet_test", "released", "fish.tar")
    assert zoo.load_weights(net, out).layout == "native"
    assert main(["convert", str(out), str(out), "--model", "fishnet_test"]) == 2
    assert f"out ({str(out)!r}) is the file to read, and would be lost" in capsys.readouterr().err
    found = run_json(capsys, "verify", "fishnet_test", str(out))
    assert (found["layout"], found["classes"], found["channels"]) == ("native", 10, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fish.safetensors", "fish.tar"], "no parts are left"


def test_classes_and_channels_are_those_of_the_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    torch.save(zoo.create_model("preresnet20_cifar", num_classes=100, in_chans=1).state_dict(), path)
    assert main(["verify", "preresnet20_cifar.osmr_c100", str(path)]) == 2
    assert "stem.conv1.weight is 16x1x3x3 and not 16x3x3x3" in capsys.readouterr().err
    found = run_json(capsys, "verify", "preresnet20_cifar.osmr_c100", str(path), "--in-chans", "1")
    assert found == run_json(capsys, "verify", "preresnet20_cifar", str(path), "--in-chans=1", "--num-classes=100") | {
        "model": "preresnet20_cifar.osmr_c100"
    }
    assert (found["classes"], found["channels"]) == (100, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights", "fishnet98"], "did you mean fishnet"),
        (["weights", "fishnet150.nothing"], "name ('fishnet150.nothing'): fishnet150 has osmr_in1k"),
        (["convert", "a.pth", "b.pth", "--model", "fishnet_test"], "out ('b.pth') must end in .safetensors"),
        (["convert", "a.pth", "b.safetensors", "--model", "fishnet_test"], "a.pth: there is no such file"),
        (["verify", "fishnet98", "a.pth"], "did you mean fishnet"),
        (["verify", "timm:test_resnet", "a.pth"], "is a model of timm, not of the zoo"),
        (["verify", "fishnet150.nothing", "a.pth"], "fishnet150 has only osmr_in1k"),
        (["validate", "fishnet_test", "--data-dir", "nowhere"], "data-dir 'nowhere' is not a folder"),
        (["validate", "fishnet_test", "--data-dir", "empty"], "Found 0 images"),
        (["validate", "fishnet_test", "--data-dir", ".", "--dataset", "torch/cifar10"], "Dataset not found"),
        (["validate", "fishnet_test", "--data-dir", ".", "--dataset", "torch/svhn"], "Dataset not found"),
        (
            ["validate", "fishnet_test", "--data-dir", ".", "--dataset", "torch/nothing"],
            "unknown dataset 'torch/nothing'",
        ),
        (
            ["validate", "fishnet_test", "--data-dir", "pictures"],
            "fishnet_test has no registered weights to measure",
        ),
        (["validate", "fishnet_test", "--data-dir", ".", "--batch-size", "0"], "batch-size must be at least 1, got 0"),
        (["validate", "fishnet_test", "--data-dir", ".", "--workers", "99999"], "workers must be at most 1024"),
        (["validate", "fishnet_test", "--data-dir", ".", "--device", "gpuu"], "device 'gpuu' is none of torch's"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "pictures" / "validation" / "a" / "1.png"
    picture.parent.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(picture)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("zoo: error: ")
    assert message in line
    assert captured.out == ""


# Validation on a set of images that is made here: a class is a colour.

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200), (90, 90, 90)]


def paint(folder: Path, images: int = 3) -> Path:
    generator = np.random.default_rng(0)
    for label, colour in enumerate(COLOURS):
        place = folder / "val" / f"class{label}"
        place.mkdir(parents=True)
        for i in range(images):
            noise = generator.integers(-20, 20, (80, 70, 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return folder


class Painter(nn.Module):
    """Knows the colours; calls the last class by the name of the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = dict(
            input_size=(3, 64, 64), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), crop_pct=0.9, interpolation="bilinear"
        )
        self.register_buffer("colours", (torch.tensor(COLOURS) / 255 - 0.5) / 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 64, 64)
        scores = -torch.cdist(x.mean(dim=(2, 3)), self.colours)
        return scores.index_select(1, torch.tensor([0, 1, 2, 3, 4, 6, 5]))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_are_counted(workers: int, tmp_path: Path) -> None:
    dataset = open_dataset("folder", paint(tmp_path))
    errors = evaluate(Painter(), dataset, batch_size=4, workers=workers)
    assert errors.images == 21
    assert errors.top1_error == pytest.approx(100 * 6 / 21), "two classes of seven have each other's name"
    transform = timm.data.create_transform(**preprocessing(Painter()))
    scores = [(Painter()(transform(image)[None])[0], label) for image, label in open_dataset("folder", tmp_path)]
    beaten = sum(int((score > score[label]).sum() >= 5) for score, label in scores)
    assert errors.top5_error == pytest.approx(100 * beaten / 21)
    assert beaten < 6
    assert errors.standard_error == pytest.approx(100 * (6 / 21 * 15 / 21 / 21) ** 0.5)


def test_a_label_without_a_class_is_named(tmp_path: Path) -> None:
    net = zoo.create_model("resnet_test", num_classes=3)
    with pytest.raises(ValueError, match=r"label \d has no class: the net has 3"):
        evaluate(net, open_dataset("folder", paint(tmp_path)), workers=0)


def test_preprocessing_is_that_of_the_tag() -> None:
    prepared = preprocessing(zoo.create_model("resnet50.a1_in1k", device="meta"))
    assert (prepared["input_size"], prepared["crop_pct"], prepared["interpolation"]) == ((3, 288, 288), 1.0, "bicubic")
    prepared = preprocessing(zoo.create_model("resnet50.osmr_in1k", device="meta"))
    assert (prepared["input_size"], prepared["crop_pct"]) == ((3, 224, 224), 0.875)
    prepared = preprocessing(zoo.create_model("resnet56_projection_cifar.osmr_svhn", device="meta"))
    assert (prepared["input_size"], prepared["mean"]) == ((3, 32, 32), (0.4914, 0.4822, 0.4465))


def test_validate_compares_with_the_published_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, name = paint(tmp_path / "data"), "resnet20_projection_cifar"
    net = zoo.create_model(name)
    monkeypatch.setattr(
        "zoo.weights.loading.fetched",
        lambda *_, **__: nullcontext({key: Stored.of(value) for key, value in net.state_dict().items()}),
    )
    request = ["validate", name, "--data-dir", str(data), "--workers", "0", "--batch-size", "8"]
    found = run_json(capsys, *request)
    want = evaluate(net, open_dataset("folder", data), workers=0, prepared=preprocessing(net))
    assert found["weights"] == "osmr_c10"
    assert (found["published_top1_error"], found["published_top5_error"]) == (5.97, None)
    assert (found["images"], found["top1_error"]) == (21, want.top1_error)
    assert main(request) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name} on 21 images (3x32x32, crop 1.0, bilinear)"
    assert lines[1].split()[:3] == ["top1", "error", f"{want.top1_error:.2f}"]
    assert lines[1].endswith("published 5.97 %")

    path = tmp_path / "mine.pth"
    torch.save(zoo.create_model("resnet_test", num_classes=7).state_dict(), path)
    request = ["validate", "resnet_test", "--checkpoint", str(path), "--num-classes", "7", "--data-dir", str(data)]
    found = run_json(capsys, *request, "--workers", "0", "--batch-size", "8")
    assert (found["weights"], found["published_top1_error"]) == (str(path), None)


def test_images_are_prepared_by_timm(tmp_path: Path) -> None:
    """A net of ours, each image through timm's own transform by hand."""
    net = zoo.create_model("resnet_test").eval()
    dataset = open_dataset("folder", paint(tmp_path, images=1))
    transform = timm.data.create_transform(**preprocessing(net))
    want = [int(net(transform(image)[None]).argmax()) == label for image, label in dataset]
    errors = evaluate(net, dataset, workers=0)
    assert errors.top1_error == pytest.approx(100 * (1 - sum(want) / len(want)))
