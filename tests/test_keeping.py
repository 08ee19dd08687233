"""Trained nets are kept: what is in their folders, who opens them, and that nothing is lost or done twice."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from result_lines import changed, stored
from result_lines import run as line_of
from structures import one_a_family
from test_imagesets import noise, put, tree
from torch import nn

import zoo
from zoo import keeping
from zoo.bench import Request, one_run, prepare, sweep
from zoo.bench import run as bench
from zoo.bench.one_run import open_model, retest
from zoo.bench.tasks import task_row
from zoo.datasets.built_in import DATASETS, DatasetRow, load_dataset
from zoo.evaluation import preprocessing
from zoo.keeping import folder_name, keep, kept_line
from zoo.results.card import card
from zoo_cli import main

SMALL = {"depths": (1, 1, 1), "widths": (4, 4, 4), "stem_width": 4}
PREPARED = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "crop_pct": 0.9}


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """See `tiny_set`."""
    with tiny_set():
        yield


@contextmanager
def tiny_set() -> Iterator[None]:
    """A set of a few digits, eight pixels wide."""
    digits = load_dataset("digits")
    images = {name: getattr(digits, name)[:60, :, ::4, ::4] for name in ("train_images", "test_images")}
    labels = {name: getattr(digits, name)[:60] for name in ("train_labels", "test_labels")}
    few = replace(digits, name="tiny", **images, **labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "tiny", DatasetRow(load=lambda: few, recipe=DATASETS["digits"].recipe))
        yield


def request(out: Path, **changes: Any) -> Request:
    options: dict[str, Any] = dict(models=["preresnet20_cifar"], overrides=SMALL, dataset="tiny", device="cpu")
    return Request(**({"changes": {"epochs": 1}} | options | changes), out=out)


@pytest.fixture(scope="module")
def out(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run."""
    path = tmp_path_factory.mktemp("results")
    bench(request(path))
    return path


def only(out: Path) -> Path:
    """The only folder of weights."""
    [folder] = (out / "weights").iterdir()
    return folder


def line_for(net: str, head: str = "", **changes: Any) -> dict[str, Any]:
    """A line of a run of another net on pictures."""
    images = dict(name="folder/a", train=8, test=9, num_classes=7, input_size=[3, 64, 64], fingerprint="f", **PREPARED)
    classes = list("abcdefg")
    line = line_of(net, dataset={**images, "classes": classes}, head=head, key="0123456789abcdef", **changes)
    line["computed"] = {"layout": "contiguous"}
    return line


def test_the_folder_holds_what_its_readers_need(out: Path) -> None:
    folder = only(out)
    [line] = stored(out / "results.jsonl")
    assert folder.name == f"preresnet20_cifar-seed0-{line['key'][:8]}"
    assert line["weights"] == f"weights/{folder.name}"
    assert sorted(p.name for p in folder.iterdir()) == [
        *("README.md", "config.json", "curve.svg", "model.safetensors", "run.json")
    ]
    assert kept_line(folder) == {key: value for key, value in line.items() if key != "schema"}
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "preresnet20_cifar"
    assert config["label_names"] == list("0123456789")
    assert config["model_args"].items() >= {"depths": [1, 1, 1], "stem_width": 4}.items()
    told = config["pretrained_cfg"]
    assert (told["input_size"], told["mean"], told["crop_pct"]) == ([3, 8, 8], line["dataset"]["mean"], 1.0)
    text = (folder / "README.md").read_text()
    for part in (line["dataset"]["fingerprint"], f"{100 * line['test_accuracy']:.2f} %", "1 epoch of batches of 32"):
        assert part in text
    assert f"timm {timm.__version__}" in text
    assert "<polyline" in (folder / "curve.svg").read_text()


def test_timm_opens_it_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[nn.Module] = []
    monkeypatch.setattr(one_run, "keep", lambda model, *rest: trained.append(model) or keep(model, *rest))
    with pytest.warns(UserWarning, match="averages the weights of 1 steps"):
        bench(request(tmp_path, changes={"epochs": 1, "ema": 0.9}))
    net = timm.create_model(f"local-dir:{only(tmp_path)}", pretrained=True).eval()
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x), trained[0].to(memory_format=torch.contiguous_format)(x))
    assert preprocessing(net)["mean"] == stored(tmp_path / "results.jsonl")[0]["dataset"]["mean"]


def test_the_second_test_gives_the_accuracy_of_the_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = stored(out / "results.jsonl")
    assert main(["validate", str(only(out)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == found["stored_accuracy"] == line["test_accuracy"]
    assert found["standard_error"] == line["standard_error"]
    assert main(["validate", str(only(out))]) == 0
    assert f"in the result line {100 * line['test_accuracy']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data-dir", "mine"], "data-dir was given, but tiny is built in"),
        (["--skip-broken"], "skip-broken was given, but tiny is built in"),
        (["--split", "train"], "split ('train') was given, but the folder of a trained net tells its own"),
        (["--class-map", "map.txt"], "class-map ('map.txt') was given"),
        (["--batch-size", "3"], "batch-size (3) was given"),
        (["--num-classes", "7"], "num-classes (7) was given"),
        (["--in-chans", "1", "--dataset", "fashion"], "in-chans (1) was given"),
    ],
)
def test_no_option_of_the_second_test_is_left_without_effect(
    out: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the accuracy on digits would be taken for that on the images that were named."""
    assert main(["validate", str(only(out)), *options]) == 2
    told = capsys.readouterr()
    assert named in told.err
    assert told.out == ""


@pytest.mark.parametrize("where", ["in memory", "from disk"])
def test_a_net_of_a_folder_is_tested_again(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tree(tmp_path / "flowers"), tmp_path / "out"
    if where == "in memory":
        for i, path in enumerate(root.rglob("*.png")):
            put(path, noise(i, (40, 40)))
    size = {"image_size": 32} if where == "from disk" else {}
    changes = {"epochs": 2, "batch_size": 4, "lr": 0.01, "max_shift": 0, **size}
    bench(request(out, dataset="folder", data_dir=root, workers=0, changes=changes))
    [line] = stored(out / "results.jsonl")
    command = ["validate", str(only(out)), "--data-dir", str(root), "--workers", "0", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == line["test_accuracy"]
    assert main([*command, "--dataset", "folder"]) == 0  # the general way, with the preprocessing of config.json
    assert 100 - json.loads(capsys.readouterr().out)["top1_error"] == pytest.approx(100 * line["test_accuracy"])
    other = tree(tmp_path / "other", classes="abd")
    assert main([*command[:3], str(other), *command[4:]]) == 2
    assert "are not those that the net was tested on" in capsys.readouterr().err
    assert main([*command[:3], str(other), *command[4:], "--dataset", "folder"]) == 2
    assert "the images have the classes 'a', 'b', 'd', and the net was trained on" in capsys.readouterr().err


def test_nothing_is_kept_that_nobody_wants(tmp_path: Path) -> None:
    bench(request(tmp_path, keep="none"))
    assert not (tmp_path / "weights").exists()
    assert "weights" not in stored(tmp_path / "results.jsonl")[0]
    with pytest.raises(ValueError, match=r"keep 'best' must be one of last, none"):
        request(tmp_path, keep="best")


class Killed(BaseException):
    """What ends a process between two of its steps."""


@pytest.mark.parametrize("moment", ["before the folder is whole", "before the line is written"])
def test_a_run_that_is_killed_at_its_end_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Killed

    place = (keeping, "card") if moment.endswith("whole") else (sweep, "append")
    with monkeypatch.context() as patch:
        patch.setattr(*place, stop)
        patch.setattr(shutil, "rmtree", stop if moment.endswith("whole") else shutil.rmtree)
        with pytest.raises(Killed):
            bench(request(tmp_path))
    assert stored(tmp_path / "results.jsonl") == []
    trained: list[int] = []
    monkeypatch.setattr("zoo.bench.train._Run.epoch", lambda self: trained.append(1))
    bench(request(tmp_path))
    assert trained == []
    [line] = stored(tmp_path / "results.jsonl")
    assert [p.name for p in (tmp_path / "weights").iterdir()] == [folder_name(line)]
    assert retest(only(tmp_path)).score == line["test_accuracy"]


def test_weights_that_cannot_be_written_fail_the_run_which_then_only_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(request(tmp_path))
    (tmp_path / "weights").write_text("in the way")  # since the request was checked
    assert bench(prepared).failures
    (tmp_path / "weights").unlink()
    monkeypatch.setattr("zoo.bench.train._Run.epoch", lambda self: pytest.fail("trained again"))
    assert bench(request(tmp_path)).finished == 1
    assert (only(tmp_path) / "config.json").is_file()


def test_a_forced_run_replaces_the_folder(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "again")
    (only(tmp_path / "again") / "README.md").write_text("old")
    bench(request(tmp_path / "again", force=True))
    assert (only(tmp_path / "again") / "README.md").read_text() != "old"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = zoo.create_model("lenet_test", num_classes=7).eval()
    folder, rename = keep(net, line_for("lenet_test"), tmp_path), Path.rename
    (folder / "README.md").write_text("old")

    def refuse(path: Path, target: Path) -> Path:
        if target == folder and not path.name.endswith(".former"):
            raise OSError("no room")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no room"):
        keep(net, line_for("lenet_test"), tmp_path)
    assert (folder / "README.md").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", one_a_family(zoo.list_models("*_test")))
def test_a_net_of_every_family_opens_in_timm_and_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    side = max(64, zoo.model_entry(name).spec.smallest()[-1])
    line = changed(line_for(name), dataset__input_size=[3, side, side])
    net: Any = zoo.create_model(name, num_classes=7).eval()
    folder = keep(net, line, tmp_path)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x), expected)
        opened = transformers.AutoModelForImageClassification.from_pretrained(str(folder)).eval()
        torch.testing.assert_close(opened(x).logits, expected)  # where the numbers lie in memory moves the last digit
    assert all(torch.equal(opened.timm_model.state_dict()[key], value) for key, value in net.state_dict().items())
    assert opened.config.id2label == dict(enumerate("abcdefg"))
    config = preprocessing(timm.create_model(f"local-dir:{folder}"))
    assert {key: config[key] for key in PREPARED} == {key: PREPARED[key] for key in PREPARED}


@pytest.mark.slow  # ONNX of nets that nobody has kept is in test_downstream
@pytest.mark.parametrize("name", one_a_family(zoo.list_models("*_test")))
def test_a_kept_net_of_every_family_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    import onnxruntime

    net: Any = zoo.create_model(name, num_classes=7).eval()
    folder = keep(net, line_for(name), tmp_path)
    x = torch.randn(2, 3, 64, 64)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.onnx.export(again, (x,), dynamo=True).save(str(tmp_path / "net.onnx"))  # ty: ignore[unresolved-attribute]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    [logits] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = net(x)
        scale = float(expected.abs().max())  # kernels of another library: the last digits of the largest number
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4 * max(scale, 1.0))


def test_a_net_of_timm_is_kept_and_says_nothing_of_weights_that_it_never_had(tmp_path: Path) -> None:
    net = zoo.create_model("timm:test_resnet", num_classes=7)
    folder = keep(net, line_for("timm:test_resnet"), tmp_path)
    assert folder.name == "timm_test_resnet-seed0-01234567"
    told = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert not {"tag", "license", "origin_url", "url", "hf_hub_id"} & told.keys()
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(("task", "head"), [("segment", "unet"), ("detect", "fcos")])
def test_a_model_of_a_dense_task_is_kept_whole(task: str, head: str, tmp_path: Path) -> None:
    metric = task_row(task).metric
    line = line_for("resnet_test", head, task=task, display=f"{head}(resnet_test)")
    line[f"test_{metric}"] = line.pop("test_accuracy")
    for epoch in line["epochs"]:
        epoch[f"test_{metric}"] = epoch.pop("test_accuracy")
    run = one_run.run_of(line)
    model = task_row(task).build(run, SimpleNamespace(num_classes=7, input_size=(3, 64, 64)))
    folder = keep(model, line, tmp_path)
    assert not (folder / "config.json").exists()
    assert f'open_model("{folder.name}")' in (folder / "README.md").read_text()
    again = open_model(folder).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    (folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        open_model(folder)


def test_a_path_that_is_no_folder_of_a_net_is_told(tmp_path: Path) -> None:
    assert kept_line(tmp_path) is None
    with pytest.raises(ValueError, match="is no folder of a trained net"):
        open_model(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json is no line of results"):
        kept_line(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"lr": 0.1}}, "the recipe of the line is none of this zoo: missing"),
        ({"recipe__more": 1}, "the recipe of the line is none of this zoo: got an unexpected keyword argument 'more'"),
        ({"recipe__lr": "x"}, "recipe field lr must be of type float, got 'x'"),
        ({"dataset__mean": None}, r"run\.json lacks dataset\.mean, without which no net is opened again"),
        ({"computed": None}, r"run\.json lacks computed\.layout"),
        ({"dataset__std": "x"}, r"dataset\.std \('x'\) must be a list of numbers"),
        ({"dataset__num_classes": 2.5}, r"dataset\.num_classes \(2\.5\) must be a whole number"),
        ({"dataset__num_classes": 10**12}, r"dataset\.num_classes must be at most 1,048,576"),
        ({"name": "nosuch"}, "is not a model of the zoo|unknown dataset 'tiny'"),
    ],
    ids=str,
)
def test_a_spoiled_line_of_a_kept_net_is_told(changes: dict[str, Any], message: str, out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(only(out), tmp_path / "net")
    line = json.loads((folder / "run.json").read_bytes()) | {"task": "segment", "test_miou": 0.5, "head": "unet"}
    line["overrides"] = {}
    (folder / "run.json").write_text(json.dumps(changed(line, **changes)))
    for use in (open_model, retest):
        with pytest.raises(ValueError, match=message):
            use(folder)


def test_a_description_of_another_net_is_told(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(only(out), tmp_path / "net")
    config = json.loads((folder / "config.json").read_bytes())
    config["num_classes"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the description says 7 classes, and the file is of another net"):
        open_model(folder)


def test_foreign_names_do_no_harm_in_a_card() -> None:
    line = line_for("a", display="<b>", **{"dataset__classes": ["[x](y)"]})
    text = card(line, "a-seed0-1")
    assert "\\<b\\>" in text
    assert "\\[x\\](y)" in text
