"""Units: the ascent against the optimum of a linear net, and patches against the pixels that a position depends on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.analysis.nets import Options
from zoo.analysis.run import analyse
from zoo.analysis.units import Patch, maximise, top_patches


@pytest.mark.parametrize("smooth", [True, False])
def test_the_optimum_of_a_linear_unit_is_its_filter(smooth: bool) -> None:
    """S(I) = w I has its optimum under lambda |I|^2 at w / (2 lambda)."""
    net = nn.Conv2d(3, 2, 6)
    best, values = maximise(net, "logits", [1, 0], input_size=(3, 6, 6), penalty=0.5, steps=400, smooth=smooth, shift=0)
    weight = net.weight.detach()[[1, 0]]
    torch.testing.assert_close(best, weight / (2 * 0.5), atol=2e-3, rtol=0)
    bias = net.bias.detach()[[1, 0]]  # ty: ignore[not-subscriptable]
    torch.testing.assert_close(values[-1], weight.square().sum((1, 2, 3)) + bias, atol=5e-3, rtol=0)


def test_the_mean_of_a_map_has_the_filter_everywhere() -> None:
    """A filter of 1x1, averaged over P positions: w / (2 lambda P) at each."""
    net = nn.Conv2d(3, 1, 1, bias=False)
    best, _ = maximise(net, "logits", [0], input_size=(3, 4, 4), penalty=0.05, steps=400, smooth=False)
    torch.testing.assert_close(best, (net.weight.detach() / (2 * 0.05 * 16)).expand_as(best), atol=2e-3, rtol=0)
    still = dict(penalty=0.5, steps=400, smooth=False, shift=0, centre=True)
    centred, _ = maximise(net, "logits", [0], input_size=(3, 4, 4), **still)  # ty: ignore[invalid-argument-type]
    assert centred[0, :, 2, 2].abs().max() > 0.01
    centred[0, :, 2, 2] = 0
    assert centred.abs().max() < 2e-3, "other positions see nothing of it"


def test_patches_are_what_the_unit_sees() -> None:
    """A bright dot in each image excites the position that sees it; its patch is all that the position depends on."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False), nn.Conv2d(1, 2, 3, padding=1, bias=False))
    nn.init.ones_(net[0].weight)
    net[1].weight.data[0] = 1
    net[1].weight.data[1] = -1
    images = torch.zeros(4, 1, 16, 16)
    for i, (row, column) in enumerate([(8, 8), (0, 0), (14, 4), (6, 12)]):
        images[i, 0, row, column] = 1 + i
    found = top_patches(net, images, "1", [0], count=3)[0]
    assert [patch.image for patch in found] == [3, 2, 1]
    for patch in found:
        assert patch.value > patch.image
        assert patch.rows[1] - patch.rows[0] + 1 == 7
        cut = patch.cut(images)
        assert cut.shape == (1, 7, 7)
        assert cut.sum() == images[patch.image].sum(), "the dot is in it"
        # What is outside of the patch does not matter, and the border does.
        (top, bottom), (left, right) = patch.rows, patch.columns
        x = images[patch.image : patch.image + 1].clone().requires_grad_(True)
        row, column = patch.position
        [gradient] = torch.autograd.grad(net(x)[0, 0, row, column], x)
        lit = torch.nonzero(gradient[0, 0])
        assert lit.min(0).values.tolist() == [max(top, 0), max(left, 0)]
        assert lit.max(0).values.tolist() == [min(bottom, 15), min(right, 15)]
    assert torch.equal(Patch(1, 0.0, (0, 0), (-2, 1), (0, 0)).cut(images)[0, :, 0], torch.tensor([0.0, 0.0, 2.0, 0.0]))


def test_classes_see_the_whole_image_and_the_net_stays_as_it_is() -> None:
    net: Any = zoo.create_model("resnet_test").train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(3, 3, 32, 32)
    state = torch.get_rng_state()
    [patch, *_] = top_patches(net, images, "logits", [3])[3]
    assert (patch.rows, patch.columns) == ((0, 31), (0, 31))
    first, values = maximise(net, "stage2", [1, 4], input_size=(3, 32, 32), steps=8)
    again, _ = maximise(net, "stage2", [1, 4], input_size=(3, 32, 32), steps=8)
    assert torch.equal(first, again)
    assert values.shape == (9, 2)
    assert (values[-1] > values[0]).all()
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    dead, _ = maximise(net, "stage2", [0], input_size=(3, 32, 32), steps=1)
    assert dead.abs().max() > 1, "a unit without a slope near the mean image starts at louder noise"
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("module", ["classifier.fc", "classifier.global_pool", "features", "stage2"])
def test_modules_of_the_head_have_patches(module: str) -> None:
    """A vector of the head sees the whole image, as the classes do; a map in front of it keeps its fields."""
    net, images = zoo.create_model("resnet_test"), torch.randn(3, 3, 32, 32)
    patches = top_patches(net, images, module, [3])[3]
    assert len(patches) == 3
    if module.startswith("classifier"):
        assert {(patch.rows, patch.columns) for patch in patches} == {((0, 31), (0, 31))}
    outcome = analyse("units", ["resnet_test"], Options(images=3, units=1, module=module))
    assert {row["module"] for row in outcome.rows} == {module}
    assert "mean of the unit over the positions" in outcome.notes[0]
    assert outcome.notes[1] == "Random weights, which tell little here: resnet_test."


def test_patches_are_cut_before_the_long_ascent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no patches")

    monkeypatch.setattr("zoo.analysis.units.top_patches", fail)
    monkeypatch.setattr("zoo.analysis.units.maximise", lambda *_, **__: pytest.fail("the ascent ran first"))
    with pytest.raises(ValueError, match="no patches"):
        analyse("units", ["lenet_test"], Options(images=2, units=1))


def test_the_analysis(tmp_path: Path) -> None:
    outcome = analyse("units", ["lenet_test"], Options(images=12, units=1))
    assert [path.suffix for path in outcome.write(tmp_path)] == [".csv", ".png", ".svg"]
    modules = [tap["module"] for tap in zoo.create_model("lenet_test").feature_info]
    assert [row["module"] for row in outcome.shown] == [*modules, "logits"]
    with pytest.raises(ValueError, match=r"channels \(99\) must be from 0 to 9, the channels of module 'logits'"):
        top_patches(zoo.create_model("lenet_test"), torch.zeros(2, 3, 32, 32), "logits", [99])
    with pytest.raises(ValueError, match=r"units \(0\) must be a whole number from 1"):
        analyse("units", ["lenet_test"], Options(units=0))
