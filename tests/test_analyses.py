"""All analyses: none changes a net, whether it ends well or with an error; and what the published runs show."""

import csv
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import correlation, median
from typing import Any

import numpy as np
import pytest
import torch
from result_lines import run as line_of
from structures import FABRIC
from test_imagesets import noise, put, tree
from torch import nn

import zoo
from zoo.analysis.lesion import lesions
from zoo.analysis.nets import Options, expand, open_images
from zoo.analysis.run import ANALYSES, analyse
from zoo.datasets.built_in import load_dataset
from zoo.datasets.external import DataLocation, open_set
from zoo.keeping import keep
from zoo.results.recipe import Recipe

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LEARNT: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.1, "image_size": 24}
"""A recipe for pictures that are read from disk."""
OPTIONS = Options(input_size=(3, 32, 32), images=10, draws=1, units=1)

PARTS = {False: ("stage1", "stage2"), True: ("columns.0", "columns.1.0")}
"""Parts of the residual net, and of the fabric that the analysis of gates asks for."""


def facts(net: nn.Module) -> list[Any]:
    """All that an analysis could change: tensors, their gradients, modes, hooks, modules and random numbers."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, id(t), t._version, t.requires_grad, t.grad) for name, t in net.state_dict(keep_vars=True).items()],
        [(name, id(m), m.training, *(len(getattr(m, hook)) for hook in hooks)) for name, m in net.named_modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),  # noqa: NPY002 - the state that an analysis could move
    ]


class Broken(Exception):
    pass


@pytest.fixture
def net(what: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A net that every analysis opens, whatever it asks for: partly in training, with a hook of its own."""
    load_dataset("digits")  # importing scikit-learn draws a number of Python's own
    monkeypatch.setattr("zoo.analysis.cues.trained_on", lambda _: "cues")
    torch.manual_seed(0)
    if what == "gates":
        net = zoo.create_model("fabric_test", **FABRIC, unit="post", stem="cifar")
    else:
        net = zoo.create_model("resnet_test", depths=(2, 1), widths=(8, 8), mid_widths=())
    net.get_submodule(PARTS[what == "gates"][0]).eval()
    for name, module in list(sys.modules.items()):
        if name.startswith("zoo.analysis.") and hasattr(module, "open_net"):
            monkeypatch.setattr(module, "open_net", lambda *_, **__: net)
    return net


@pytest.mark.parametrize("what", ANALYSES)
def test_no_analysis_changes_a_net(what: str, net: nn.Module) -> None:
    before = facts(net)
    assert analyse(what, ["resnet_test"], OPTIONS).rows
    assert facts(net) == before


@pytest.mark.parametrize("what", ANALYSES)
def test_no_analysis_changes_a_net_that_fails(what: str, net: nn.Module) -> None:
    """The net fails in its first pass, or in a later one, so that an analysis is caught at several of its steps."""
    passes = iter(range(10**6))
    failing = 0

    def fail(*_: Any) -> None:
        if next(passes) == failing:
            raise Broken

    net.get_submodule(PARTS[what == "gates"][1]).register_forward_hook(fail)
    before = facts(net)
    for failing in (0, 1, 3, 7):
        passes = iter(range(10**6))
        try:
            analyse(what, ["resnet_test"], OPTIONS)
        except Broken:
            assert facts(net) == before
        else:
            assert failing, "every analysis runs the net"


def published(name: str) -> list[dict[str, str]]:
    with (IMAGES / f"analysis_{name}.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def errors(net: str, lesion: str, name: str = "lesion") -> list[float]:
    return [float(row["error"]) for row in published(name) if (row["net"], row["lesion"]) == (net, lesion)]


def test_a_plain_net_needs_each_layer_and_a_deep_residual_net_few_units() -> None:
    for net in ("plain20", "vgg11"):
        assert min(errors(net, "one deleted")) > 70
    [intact] = errors("preresnet110", "intact")
    single = errors("preresnet110", "one deleted")
    assert len(single) == 54
    assert sum(error < intact + 3 for error in single) >= 50
    assert median(errors("resnet20", "one deleted")) < min(errors("plain20", "one deleted"))


def test_errors_rise_with_the_number_of_deleted_units() -> None:
    rows = [r for r in published("lesion") if (r["net"], r["lesion"]) == ("preresnet110", "several deleted")]
    numbers = sorted({int(row["number"]) for row in rows})
    medians = [median(float(row["error"]) for row in rows if int(row["number"]) == number) for number in numbers]
    assert medians[0] < 5 < medians[-1]
    moved = [r for r in published("lesion") if (r["net"], r["lesion"]) == ("preresnet110", "reordered")]
    taus, wrong = ([float(row[key]) for row in moved] for key in ("kendall_tau", "error"))
    assert correlation(taus, wrong) < -0.8


def test_gradients_of_paths_fall_with_length() -> None:
    rows = [row for row in published("path_gradients") if row["net"] == "preresnet110"]
    lengths = [int(row["length"]) for row in rows]
    logarithms = [math.log(max(float(row["gradient"]), 1e-44)) for row in rows]
    assert correlation(lengths, logarithms) < -0.98
    short = sum(float(row["contribution"]) for row in rows if 4 <= int(row["length"]) <= 17)
    assert short > 0.95
    assert sum(float(row["share_of_paths"]) for row in rows if int(row["length"]) <= 17) < 0.005


def kept(folder: Path, images: Any, *, recipe: dict[str, Any] | None = None, classes: int = 3, **changes: Any) -> str:
    """The folder of a net as if it were trained on some images."""
    net = zoo.create_model("resnet_test", depths=(1, 1), widths=(4, 4), mid_widths=(), num_classes=classes)
    told = {"crop_mode": "center", **images.describe()}
    recipe = {"epochs": 1, "batch_size": 4, "lr": 0.1, **(recipe or {})}
    return str(keep(net, line_of("resnet_test", dataset=told, recipe=recipe, **changes), folder))


def test_a_trained_net_sees_its_own_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "flowers", images=2)
    images = open_set("folder", DataLocation(folder=root, workers=0)).for_recipe(Recipe(**LEARNT))
    net = kept(tmp_path / "nets", images, recipe=LEARNT)
    seen = open_images(net, Options(data_dir=root))
    assert seen.input_size == (3, 24, 24), "of the size that the recipe names"
    assert open_images(net, Options(data_dir=root, dataset="folder")).input_size == (3, 24, 24)
    assert open_images("resnet_test", Options(data_dir=root, dataset="folder")).input_size == (3, 224, 224)
    put(root / "validation" / "a" / "0.png", noise("another"))
    with pytest.raises(ValueError, match=r"are not those that 'resnet_test-.*' was trained on: fingerprint"):
        open_images(net, Options(data_dir=root))
    assert open_images(net, Options(data_dir=root, dataset="folder")).test_size == 6


@pytest.mark.parametrize("what", ["lesion", "gradients", "path-gradients"])
def test_answers_of_other_classes_mean_nothing(what: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "flowers", images=2)
    images = open_set("folder", DataLocation(folder=root, workers=0)).for_recipe(Recipe(**LEARNT))
    net = kept(tmp_path / "nets", images, recipe=LEARNT)
    with pytest.raises(
        ValueError, match=r"trained on 3 classes \(a, b, c\), .* digits have 10 classes \(0, 1, 2, \.\.\.\)"
    ):
        analyse(what, [net], Options(dataset="digits", images=3))
    cues = kept(tmp_path / "nets", replace(load_dataset("digits"), classes=tuple("abcdefghij")), classes=10)
    with pytest.raises(ValueError, match=r"10 classes \(a, b, c, \.\.\.\), and the images of digits have 10 classes"):
        analyse(what, [cues], Options(dataset="digits", images=3))


@pytest.mark.parametrize("what", ["effective-field", "receptive-field"])
def test_a_net_for_images_of_another_size_is_told(what: str) -> None:
    with pytest.raises(ValueError, match=r"input_size \(3, 8, 8\) does not run through"):
        analyse(what, ["timm:test_vit"], Options(input_size=(3, 8, 8), images=4))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("images", 0), ("images", 2.5), ("units", True), ("draws", -1), ("seed", 2**64), ("seed", "x")),
        *(("module", 3), ("threshold", float("nan")), ("threshold", "x")),
        *(("input_size", 32), ("input_size", (3, 0, 32))),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_opened(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} "):
        Options(**{option: value})


def test_nets_of_one_title_are_told_apart(tmp_path: Path) -> None:
    first, second = (kept(tmp_path / place, load_dataset("digits"), classes=10) for place in "ab")
    titles = {first: "resnet_test, seed 0", "resnet_test": "resnet_test"}
    assert expand([first, f"{first}/", "resnet_test", "resnet_test"]) == titles
    with pytest.raises(ValueError, match=r"would both be shown as .resnet_test, seed 0, resnet_t.: rename one of the"):
        expand([first, second])


def test_titles_are_as_short_as_tells_nets_apart(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    first, other, second, changed = (
        kept(tmp_path, digits, classes=10, **line)
        for line in ({}, {"key": "b" * 16}, {"seed": 1}, {"overrides": {"order": "pre"}, "key": "c" * 16})
    )
    assert expand([first]) == {first: "resnet_test"}
    assert list(expand([first, second, changed]).values()) == [
        "resnet_test, seed 0",
        "resnet_test, seed 1",
        "resnet_test + order=pre",
    ]
    assert expand([first, other, second]) == {
        first: "resnet_test, seed 0, resnet_t",
        other: "resnet_test, seed 0, bbbbbbbb",
        second: "resnet_test, seed 1",
    }
    own = str(Path(first).rename(tmp_path / "resnet_test"))
    assert expand([own, other]) == {own: "resnet_test", other: "resnet_test, seed 0"}
    with pytest.raises(ValueError, match=r"would both be shown as .resnet_test.: rename one of the folders"):
        expand([own, "resnet_test"])


def test_a_long_analysis_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoo.analysis.progress.PATIENCE", 0.0)
    net = zoo.create_model("resnet_test", num_classes=10).eval()
    images, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    lesions(net, images, labels, draws=1)
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lesions(net, images, labels, draws=1)
    assert "without one unit" in capsys.readouterr().err
