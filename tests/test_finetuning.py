"""A validation half, first weights, and parts that are frozen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from result_lines import stored
from test_imagesets import tree
from test_keeping import SMALL, only, request
from test_keeping import tiny as tiny  # an automatic fixture

import zoo
from zoo.bench import prepare, tasks
from zoo.bench import run as bench
from zoo.bench.one_run import open_model, retest
from zoo.bench.train import _optimizer
from zoo.datasets.built_in import load_dataset
from zoo.datasets.external import DataLocation, open_set
from zoo.datasets.image_set import Dataset
from zoo.datasets.split import hold_out
from zoo.freezing import check_freeze, freeze_parts
from zoo.recipes import RECIPES
from zoo.results import group
from zoo.results.recipe import Recipe
from zoo.results.run import Run
from zoo_cli import main

# ---------------------------------------------------------------- validation


@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.floats(0.2, 0.8), st.integers(0, 9))
def test_each_class_is_held_out_in_proportion(labels: list[int], share: float, seed: int) -> None:
    others, held = hold_out(np.array(labels), share, seed)
    assert sorted([*others, *held]) == list(range(len(labels)))
    for label in set(labels):
        wanted = labels.count(label) * len(held) / len(labels)
        assert abs(sum(labels[i] == label for i in held) - wanted) < 1
    again = hold_out(np.array(labels), share, seed)
    assert all(np.array_equal(a, b) for a, b in zip((others, held), again, strict=True))


def test_the_seed_chooses_who_is_held_out() -> None:
    labels = load_dataset("digits").train_labels.numpy()
    first, second = (hold_out(labels, 0.1, seed)[1] for seed in (0, 1))
    assert len(first) == len(second) == 90
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match=r"validation 0.0001 of 897 training images is 0 images"):
        hold_out(labels, 0.0001, 0)


def test_held_out_images_are_of_the_training_half(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    search = digits.searching(0.1, 3)
    others, held = hold_out(digits.train_labels.numpy(), 0.1, 3)
    assert torch.equal(search.train_images, digits.train_images[others])
    assert torch.equal(search.test_images, digits.train_images[held])
    assert torch.equal(search.test_labels, digits.train_labels[held])
    stream = open_set("folder", DataLocation(folder=tree(tmp_path), workers=0))
    assert not isinstance(stream, Dataset)
    search = stream.searching(1 / 3, 0)
    assert (search.train_size, search.test_size) == (12, 6)
    names = [{half.name(int(i)) for i in half.positions} for half in (search.train, search.test)]
    assert names[0] | names[1] == {stream.train.name(i) for i in range(18)}
    assert not names[0] & names[1]
    assert search.test_labels.bincount().tolist() == [2, 2, 2]
    assert all("/train/" in name for name in names[1])


def test_the_test_images_are_seen_once_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[int] = []
    batches = Dataset.test_batches

    def watch(self: Dataset, **share: int) -> Iterator[Any]:
        tested.append(self.test_size)
        return batches(self, **share)

    monkeypatch.setattr(Dataset, "test_batches", watch)
    bench(request(tmp_path, validation=0.2, changes={"epochs": 3}))
    assert tested == [12, 12, 12, 60]
    [line] = stored(tmp_path / "results.jsonl")
    assert (line["dataset"]["train"], line["dataset"]["validation"], line["dataset"]["test"]) == (48, 12, 60)
    assert [epoch["validation_accuracy"] for epoch in line["epochs"]][-1] == line["validation_accuracy"]
    assert not any("test_accuracy" in epoch for epoch in line["epochs"])
    assert line["validation"] == 0.2
    assert 12 * line["validation_accuracy"] == round(12 * line["validation_accuracy"])
    assert line["standard_error"] < line["validation_error"]
    assert retest(only(tmp_path)).score == line["test_accuracy"]
    assert "12 to validate" in (only(tmp_path) / "README.md").read_text()
    bench(request(tmp_path, changes={"epochs": 3}))
    [comparison] = group(stored(tmp_path / "results.jsonl"))
    names = [net.name for net in comparison.nets]
    assert names[0] == f"{names[1]} (validation 0.2)", "another run, and another net in tables"


# ---------------------------------------------------------------- first weights


def test_a_kept_net_goes_on(tmp_path: Path) -> None:
    bench(request(tmp_path / "one", changes={"epochs": 2}))
    folder = only(tmp_path / "one")
    wanted = dict(models=[], overrides={}, weights=folder, changes={"epochs": 1, "lr": 1e-12, "weight_decay": 0.0})
    prepared = prepare(request(tmp_path / "two", **wanted, freeze="body"))
    [run] = prepared.runs
    assert (run.name, run.overrides["depths"], run.overrides["stem_width"]) == ("preresnet20_cifar", [1, 1, 1], 4)
    assert "all nets start from" in prepared.describe()
    assert "frozen, with their norms: body" in prepared.describe()
    bench(prepared)
    [first], [line] = (stored(tmp_path / name / "results.jsonl") for name in ("one", "two"))
    assert line["test_accuracy"] == first["test_accuracy"], "nothing has moved"
    assert (line["first_weights"], line["freeze"]) == (folder.name, "body")
    assert line["display"].endswith(f"(from {folder.name}, frozen body)")
    assert line["key"] != first["key"]


def test_other_classes_get_a_new_classifier(tmp_path: Path) -> None:
    bench(request(tmp_path))
    folder = only(tmp_path)
    trained = open_model(folder)
    digits = load_dataset("tiny")
    for classes, kept in ((digits.classes, True), (tuple("abcdefghij"), False)):
        run = prepare(request(tmp_path / "x", models=[], overrides={}, weights=folder)).runs[0]
        net = tasks.task_row("classify").build(run, replace(digits, classes=classes))
        same = {key: torch.equal(value, trained.state_dict()[key]) for key, value in net.state_dict().items()}
        assert all(equal for key, equal in same.items() if not key.startswith("classifier"))
        assert same["classifier.fc.weight"] is kept


def test_weights_are_known_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    keys = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.save(zoo.create_model("preresnet20_cifar", **SMALL).state_dict(), path)
        [run] = prepare(request(tmp_path / "out", weights=path)).runs
        keys.append(run.key)
    assert keys[0] == keys[1] != keys[2]
    torch.save({}, path)
    with pytest.raises(ValueError, match="have changed since this run was planned"):
        tasks.task_row("classify").build(run, load_dataset("tiny"))


def test_a_tag_starts_from_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def create(name: str, pretrained: bool = False, **_: Any) -> None:
        asked.append((name, pretrained))

    monkeypatch.setattr(tasks.registry, "create_model", create)
    recipe = RECIPES["digits"].recipe
    for name in ("resnet18.a1_in1k", "timm:resnet18.a1_in1k", "resnet18", "timm:resnet18"):
        tasks.task_row("classify").build(Run(name=name, dataset="digits", recipe=recipe, seed=0), load_dataset("tiny"))
    assert [pretrained for _, pretrained in asked] == [True, True, False, False]


# ---------------------------------------------------------------- frozen parts


@pytest.mark.parametrize(
    ("part", "moved"),
    [
        ("body", ["classifier"]),
        ("until=stage2", ["stage3", "final", "classifier"]),
        ("until=stage3.0", ["final", "classifier"]),
    ],
)
def test_frozen_parts_and_their_norms_stay(part: str, moved: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    first = zoo.create_model("preresnet20_cifar", **SMALL).state_dict()
    torch.save(first, path)
    with pytest.warns(UserWarning, match="averages the weights of 1 steps"):
        bench(request(tmp_path, weights=path, freeze=part, changes={"epochs": 1, "ema": 0.5}))
    last = open_model(only(tmp_path)).state_dict()
    changed = {key.partition(".")[0] for key in first if not torch.equal(first[key], last[key])}
    assert changed == set(moved)


def test_parts_of_nets_of_timm(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=3)
    freeze_parts(net, "until=blocks.2")
    open_ = {name for name, p in net.named_parameters() if p.requires_grad}
    assert all(name.startswith(("blocks.3", "blocks.4", "blocks.5", "norm", "head", "fc_norm")) for name in open_)
    assert any(name.startswith("blocks.3") for name in open_)
    net = timm.create_model("test_vit", num_classes=3)
    freeze_parts(net, "body")
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_layer_decay_is_that_of_timm() -> None:
    net = zoo.create_model("resnet_test")
    recipe = Recipe(epochs=1, batch_size=2, lr=1.0, layer_decay=0.5)
    optimizer = _optimizer(net, recipe)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_part = {name.partition(".")[0]: scales[id(p)] for name, p in net.named_parameters()}
    assert by_part["classifier"] == 1
    assert by_part["stem"] < by_part["stage1"] < by_part["stage4"] < 1
    with pytest.raises(ValueError, match=r"layer_decay must be 1 with decay_all"):
        recipe.changed(decay_all=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze", "most"], "freeze 'most' must be body, none, or until=STAGE"),
        (["--freeze", "until="], "freeze 'until=' must be body, none, or until=STAGE"),
        (["--freeze", "until=stage9"], "freeze 'until=stage9': the net has no such part; it has stem, stage1"),
        (["--freeze", "until=classifier"], "freeze 'until=classifier' leaves nothing of the net to train"),
        (["--freeze", "body", "--frozen"], "frozen keeps the whole net already: leave freeze 'body' out"),
        (["--weights", "none.pth"], "weights 'none.pth': there is no such file or folder"),
        (["--validation", "1"], "validation must be a share of the training images in [0, 1), got 1.0"),
        (["--validation", "nan"], "validation must be a share of the training images in [0, 1), got nan"),
        (["--validation", "1e-9"], "is 0 images: one at least must be on each side"),
        (["--validation", "0.2", "--task", "segment"], "validation '0.2' is for task classify, not for segment"),
        (["--validation", "0.9", "--recipe", "batch_size=32"], "batch_size 32 exceeds the 6 training images"),
    ],
    ids=str,
)
def test_a_wrong_start_is_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [] if "segment" in words else ["--dataset", "tiny"]
    status = main(["bench", "preresnet20_cifar", *images, "--epochs", "1", *words])
    assert status == 2, "nothing was trained"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_tag_is_no_start_of_other_tasks_and_of_given_weights(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"x")
    for changes, reason in (
        ({"weights": tmp_path / "x.pth"}, "weights were given as well"),
        ({"task": "segment", "dataset": ""}, "task segment starts from random weights"),
    ):
        with pytest.raises(ValueError, match=f"name 'resnet18.a1_in1k' asks for weights by its tag, but {reason}"):
            prepare(request(tmp_path, models=["resnet18.a1_in1k"], overrides={}, **changes))


def test_the_words_for_no_part_are_none() -> None:
    assert check_freeze("none") == check_freeze("") == ""
