"""Nets that come with the package: found without network, whole, and never taken for the preset's own weights."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from result_lines import stored

import zoo
from zoo.analysis.nets import trained_on
from zoo.complexity import count
from zoo.datasets import fashion
from zoo.evaluation import Errors, evaluate, open_dataset
from zoo.keeping import folder_name
from zoo.registry import weights_of
from zoo.weights import sources
from zoo_cli import main

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fashion_weights  # noqa: E402 - a script, which is no part of the package

RESULTS = ROOT / "benchmarks" / "results" / "fashion"
FOLDER = Path(zoo.__file__).parent / "data" / "trained"
ROWS = json.loads((FOLDER / "tags.json").read_text("ascii"))
NAMES = [f"{row['model']}.{row['tag']}" for row in ROWS]
SMALL = "lenet5_cifar.fashion"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr(sources, "download", refuse)


@pytest.mark.only(name=(SMALL, "vgg11_c32_bn_cifar.fashion", "fishnet58_cifar.fashion"))
@pytest.mark.parametrize("name", NAMES)
def test_every_net_is_whole_and_has_a_card(name: str) -> None:
    row = ROWS[NAMES.index(name)]
    net = zoo.create_model(name, pretrained=True).eval()
    assert sum(p.numel() for p in net.parameters()) == row["params"]
    assert abs(row["params"] / 300_000 - 1) <= 0.05
    assert count(net, row["input_size"]).macs == row["macs"]
    assert net(torch.zeros(1, *row["input_size"])).shape == (1, 10)
    card = (FOLDER / f"{name}.md").read_text("utf-8")
    assert f"accuracy **{100 - row['top1_error']:.2f} %**" in card
    assert row["key"] in card
    weights = weights_of(name)
    assert weights is not None
    assert (weights.card, weights.top1_error) == (str(FOLDER / f"{name}.md"), row["top1_error"])
    assert Path(weights.path).stat().st_size < 700_000


def test_no_file_is_left_over() -> None:
    files = {name for row in ROWS for name in (row["file"], row["file"].replace(".safetensors", ".md"))}
    assert {path.name for path in FOLDER.iterdir()} == files | {"tags.json"}


def test_the_preset_stays_the_default() -> None:
    for row in ROWS:
        entry = zoo.model_entry(row["model"])
        net = zoo.create_model(row["model"], device="meta")
        assert net.pretrained_cfg["input_size"] == entry.input_size
        assert net.pretrained_cfg.get("file") is None
        assert sum(p.numel() for p in net.parameters()) == entry.params
        assert timm.get_pretrained_cfg(entry.timm_name).input_size == entry.input_size
        assert entry.default_tag != row["tag"]
    with pytest.raises(
        ValueError, match=rf"lenet5_cifar has no registered weights, only {SMALL}; use pretrained=False"
    ):
        zoo.create_model("lenet5_cifar", pretrained=True)


def test_a_tag_is_the_net_of_its_weights_in_every_way(tmp_path: Path) -> None:
    ours, theirs = (library.create_model(SMALL, pretrained=True).eval() for library in (zoo, timm))
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        for net in (ours, theirs):
            zoo.save_for_hf(net, tmp_path / "again")
            again = zoo.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
            assert torch.equal(again(x), ours(x))
    assert zoo.create_model(SMALL, device="meta").spec == ours.spec  # also without weights
    assert ours.pretrained_cfg["label_names"][9] == "Ankle boot"
    maps = zoo.create_model(SMALL, pretrained=True, features_only=True, out_indices=(0, 1))
    assert [m.shape[1] for m in maps(x)] == list(ours.spec.widths)
    assert zoo.create_model(SMALL, pretrained=True, num_classes=3, in_chans=1)(x[:, :1]).shape == (2, 3)
    with pytest.raises(ValueError, match=r"does not fit|is .* and not"):
        zoo.create_model(SMALL, pretrained=True, wide=(20, 20))
    assert trained_on(SMALL) == "fashion"


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = [row for row in ROWS if row["model"] == "lenet5_cifar"]
    content = bytearray((FOLDER / row["file"]).read_bytes())
    content[-1] ^= 1
    copy = tmp_path / row["file"]
    copy.write_bytes(content)
    with pytest.raises(ValueError, match="it is not the published file"):
        zoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": str(copy)})
    other = tmp_path / "other.safetensors"
    other.write_bytes(content)  # of another name: a file of one's own
    assert zoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": str(other)})
    with pytest.raises((OSError, AssertionError), match=r"nothing is downloaded|cannot be"):  # and an address is asked
        zoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"url": "file:///nowhere.pth"})


def test_tags_are_listed_with_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "lenet5_cifar", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["weights"], found["source"], found["of"]) == (SMALL, "in the package", "zoo")
    assert found["cached"]
    assert Path(found["card"]).is_file()
    assert main(["weights", "lenet5_cifar"]) == 0
    assert "0.6 MB" in capsys.readouterr().out


def test_a_kept_net_becomes_a_tag_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[NAMES.index(SMALL)]
    [line] = [line for line in stored(RESULTS / "image.jsonl") if line["key"] == row["key"]]
    place = tmp_path / "weights" / folder_name(line)  # as a training keeps it
    place.mkdir(parents=True)
    shutil.copy(FOLDER / row["file"], place / "model.safetensors")
    errors = Errors(images=10_000, top1_error=row["top1_error"], top5_error=row["top5_error"])
    monkeypatch.setattr(fashion_weights, "evaluate", lambda *_, **__: errors)
    monkeypatch.setattr(fashion_weights, "open_dataset", lambda *_, **__: None)
    assert fashion_weights.register(tmp_path, [line], tmp_path / "package") == [SMALL]
    assert fashion_weights.read_tags(tmp_path / "package") == [row]  # with the digest of the file
    assert (tmp_path / "package" / f"{SMALL}.md").read_bytes() == (FOLDER / f"{SMALL}.md").read_bytes()
    assert fashion_weights.register(tmp_path, [line], tmp_path / "package") == []


needs_files = pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")


@needs_files
def test_garments_are_pictures() -> None:
    test, train = open_dataset("fashion"), open_dataset("fashion", split="train")
    assert (len(test), len(train), test.classes[9]) == (10_000, 60_000, "Ankle boot")
    image, label = test[0]
    assert (image.size, image.mode, label) == ((28, 28), "RGB", 9)
    assert test.name(3) == "picture 3 of fashion, test"
    with pytest.raises(ValueError, match="unknown split 'extra': choose from train, test"):
        open_dataset("fashion", split="extra")
    with pytest.raises(ValueError, match="class-map is for folders"):
        open_dataset("fashion", class_map="names.txt")


@needs_files
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_validation_gives_the_figure_of_the_card(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", name, "--dataset", "fashion", "--device", "cpu", "--workers", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 10_000
    # Another processor adds in another order: single images may fall on the other side.
    assert found["top1_error"] == pytest.approx(found["published_top1_error"], abs=0.021)


@needs_files
def test_the_first_pictures_are_answered_as_in_the_study() -> None:
    answers = fashion_weights.read_answers(RESULTS)
    key = ROWS[NAMES.index(SMALL)]["key"]
    right = sum(a == b for a, b in zip(answers[key][:500], answers["truth"], strict=False))
    half = open_dataset("fashion").without(range(500, 10_000))
    errors = evaluate(zoo.create_model(SMALL, pretrained=True), half, workers=0)
    assert errors.images == 500
    assert abs(500 * (1 - errors.top1_error / 100) - right) < 1.5
