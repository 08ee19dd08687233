"""BN-Inception with gates against what its sources print, and what only this family claims."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.complexity import count
from zoo.models.bn_inception import DilatedAverage, HalvingPool
from zoo.testing import settle_norms

MAPS = {"stem": (64, 112), "reduce": (192, 56), "stage3": (320, 28), "stage4": (608, 14), "stage5": (1024, 7)}
GATES = (16, 20, 36, 36, 36, 38, 38, 66, 64, 64)
"""Channels between the two 1x1 of each gate: num_output of inception_*_1x1_down in SE-BN-Inception.prototxt."""


def test_the_count_is_that_of_openvino() -> None:
    """11.922 M with norms folded into one number a channel; 4.091 GFLOPs at two a multiply-add, and what is no product.

    The released file has 46 MB.
    """
    net = zoo.create_model("se_bn_inception", device="meta")
    norms = sum(norm.num_features for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))
    params = sum(p.numel() for p in net.parameters())
    assert round((params - norms) / 1e6, 3) == 11.922
    assert round(params * 4 / 2**20) == 46
    assert 0.99 < 2 * count(net, (3, 224, 224)).macs / 4.091e9 < 1


def test_maps_and_gates_are_those_of_the_sources() -> None:
    net = zoo.create_model("se_bn_inception", device="meta").eval()
    taps = net.forward_intermediates(torch.empty(1, 3, 224, 224, device="meta"), intermediates_only=True)
    assert {tap["module"]: (t.shape[1], t.shape[2]) for tap, t in zip(net.feature_info, taps, strict=True)} == MAPS
    modules = [module for stage in (net.stage3, net.stage4, net.stage5) for module in stage]
    assert tuple(module.gate.squeeze.out_channels for module in modules) == GATES
    assert [module.halves for module in modules] == [i in (2, 7) for i in range(10)]
    pools = [type(module.pool).__name__ for module in modules]
    assert pools == [*["AvgPool2d"] * 2, "HalvingPool", *["AvgPool2d"] * 4, "HalvingPool", "AvgPool2d", "MaxPool2d"]


def test_gates_are_all_that_squeeze_and_excite_adds() -> None:
    plain = zoo.create_model("bn_inception", bias=False, device="meta").state_dict()
    gated = zoo.create_model("se_bn_inception", device="meta").state_dict()
    assert {name: value.shape for name, value in gated.items() if ".gate." not in name} == {
        name: value.shape for name, value in plain.items()
    }
    added = sum(value.numel() for name, value in gated.items() if ".gate." in name)
    assert added == sum(2 * c * (c // 16) + c + c // 16 for c in (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024))


def test_a_gate_scales_the_concatenation() -> None:
    torch.manual_seed(0)
    module = settle_norms(zoo.create_model("se_bn_inception_test")).double().eval().stage4[1]
    x = torch.randn(2, module.three.conv1.in_channels, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        maps = torch.cat([module.one(x), module.three(x), module.pair(x), module.project(F.avg_pool2d(x, 3, 1, 1))], 1)
        middle = F.relu(F.linear(maps.mean((2, 3)), *layer(module.gate.squeeze)))
        factor = torch.sigmoid(F.linear(middle, *layer(module.gate.excite)))
        torch.testing.assert_close(module(x), maps * factor[:, :, None, None])


def layer(conv: Any) -> tuple[Tensor, Tensor]:
    return conv.weight.flatten(1), conv.bias


@pytest.mark.parametrize("size", [8, 14, 28])
def test_poolings_of_even_sizes_are_caffes(size: int) -> None:
    x = torch.randn(1, 2, size, size)
    assert torch.equal(HalvingPool()(x), F.max_pool2d(x, 3, 2, ceil_mode=True))
    assert HalvingPool()(x[:, :, 1:, 1:]).shape[-1] == size // 2, "odd sizes are rounded up"


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_averages_can_be_dilated(dilation: int) -> None:
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    ones = torch.full((3, 1, 3, 3), 1 / 9, dtype=torch.float64)
    want = F.conv2d(x, ones, padding=dilation, dilation=dilation, groups=3)
    torch.testing.assert_close(DilatedAverage(dilation)(x), want)
    torch.testing.assert_close(DilatedAverage(1)(x), F.avg_pool2d(x, 3, 1, 1))


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_held_maps_hold_the_native_ones(stride: int) -> None:
    torch.manual_seed(0)
    native = settle_norms(zoo.create_model("se_bn_inception_test", squeeze=0)).double().eval()
    held = zoo.create_model("se_bn_inception_test", squeeze=0, output_stride=stride).double().eval()
    held.load_state_dict(native.state_dict())
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = (net.forward_intermediates(x, intermediates_only=True) for net in (native, held))
    for want, have, full in zip(coarse, fine, native.spec.tap_strides, strict=True):
        every = max(full // stride, 1)
        torch.testing.assert_close(have[..., ::every, ::every], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2, 2)}, r"depths \(\(2, 2\)\) must have three numbers"),
        ({"ones": (4, 4, 4, 4, 0, 4, 4)}, r"ones \(.*\) must be 0 for the first module"),
        ({"projections": (4, 4, 0, 0, 0, 4, 4)}, r"projections \(.*\) must be 0 for the first module"),
        ({"squeeze": -1}, r"squeeze \(-1\) must not be negative"),
        ({"threes": (4,)}, r"threes \(\(4,\)\) must have one number a module, 7"),
    ],
)
def test_wrong_numbers_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.model_entry("se_bn_inception_test").spec.replace(**change)
