"""What the README claims in its first lines is true: a test for every row of its table."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import nn

import zoo
from zoo.complexity import count

ROOT = Path(__file__).parents[1]
HEAD = (ROOT / "README.md").read_text(encoding="ascii").splitlines()[:40]


def rows() -> list[str]:
    return [line.split(" | ")[0].removeprefix("| ") for line in HEAD if line.startswith("| ")][1:]


def test_every_row_has_a_test() -> None:
    tests = [name for name in globals() if name.startswith("test_row_")]
    assert len(rows()) == len(tests) == 5


def test_row_topologies() -> None:
    assert rows()[0] == "FishNet, neural fabrics, FRRN, highway nets, BagNets"
    theirs = set(timm.list_models()) - set(timm.list_models(module="zoo"))
    for word in ("fish", "fabric", "gridnet", "frrn", "highway", "bagnet"):
        assert zoo.list_models(word)
        assert not [name for name in theirs if word in name]
        net: Any = timm.create_model(zoo.list_models(word)[0], features_only=True, device="meta")
        assert net.feature_info.channels()


def refused(name: str, **overrides: Any) -> bool:
    """Whether timm's own net refuses an argument."""
    try:
        timm.create_model(name, **overrides)
    except (TypeError, AssertionError):
        return True
    return False


def test_row_output_stride() -> None:
    assert rows()[1] == "`output_stride` of VGG and DenseNet"
    for name in ("vgg11_bn", "densenet121"):
        for stride in (8, 16, 32):
            net: Any = zoo.create_model(name, output_stride=stride, device="meta")
            assert net.feature_info[-1]["reduction"] == stride
        assert refused(name, output_stride=8)


def test_row_drop_path_and_checkpointing() -> None:
    assert rows()[2] == "drop path and gradient checkpointing of VGG"
    net: Any = zoo.create_model("vgg11_bn", drop_path_rate=0.1, device="meta")
    net.set_grad_checkpointing(True)
    assert refused("vgg11_bn", drop_path_rate=0.1)
    theirs: Any = timm.create_model("vgg11_bn", device="meta")
    with pytest.raises(AssertionError):
        theirs.set_grad_checkpointing(True)


def test_row_orderings() -> None:
    assert "five" in rows()[3]
    orders = ("post", "norm_after_add", "act_before_add", "act_only_pre", "pre")
    nets = [zoo.create_model("resnet_test", order=order, device="meta") for order in orders]
    words = {" ".join(type(layer).__name__ for layer in net.modules() if not list(layer.children())) for net in nets}
    assert len(words) == 5
    assert refused("resnet18", order="pre")


def test_row_drawings_and_counts() -> None:
    assert re.search(r"drawings.*counts", rows()[4])
    assert "<svg" in zoo.draw("lenet_test").svg
    assert count(zoo.create_model("resnet_test", device="meta")).uncounted
    assert not [name for name in ("draw", "count", "plot") if hasattr(timm, name)]


def test_the_first_lines_show_the_study_three_drawings_and_an_installation() -> None:
    shown = [match[1] for line in HEAD if (match := re.match(r"!\[.+\]\((docs/images/\S+)\)", line))]
    assert shown[0] == "docs/images/fashion.png", "the picture of the study"
    assert len(shown) == 4
    assert all(re.fullmatch(r"docs/images/drawn/\w+\.svg", path) for path in shown[1:])
    assert all((ROOT / path).is_file() for path in shown)
    assert any("pip install ." in line for line in HEAD)
    assert isinstance(zoo.create_model("lenet_test"), nn.Module)
