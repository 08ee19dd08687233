"""The smallest image of every family, found by trial and compared with what the error says; odd sizes."""

from typing import Any

import pytest
import torch
from structures import FORWARDS
from torch import nn

import zoo

SMALL = [
    *zoo.list_models("*_test"),
    "bagnet17_cifar",
    "densenet40_k12_cifar",
    "fishnet58_cifar",
    "googlenet16_bn_cifar",
    "lenet5_cifar",
    "resnet20_cifar",
    "vgg11_c32_bn_cifar",
]
HELD = [
    # The usual tier holds one net of each kind of forward at none and at the finest, the others at none.
    pytest.param(name, stride, marks=pytest.mark.slow if i > (name in FORWARDS) else [])
    for name in SMALL
    for i, stride in enumerate((None, *zoo.model_entry(name).spec.output_strides))
]
WIDE = 240
"""Wide enough for the largest of the smallest sizes, so that one side alone is too small."""


def runs(net: nn.Module, height: int, width: int) -> bool:
    """Whether torch takes an image of that size; ``net`` has no check of its own."""
    try:
        with torch.no_grad():
            out = net(torch.zeros(1, 3, height, width))
    except RuntimeError:
        return False
    maps = out if isinstance(out, list) else [out]
    return all(n > 0 for m in maps for n in m.shape)


def assert_smallest(net: Any, size: int, *, trial: bool) -> None:
    """The net says that ``size`` is the smallest image, and it is."""
    with torch.no_grad():
        for shape in ((size, WIDE), (WIDE, size)):
            net(torch.zeros(1, 3, *shape))
        for shape in ((size - 1, WIDE), (WIDE, size - 1)):
            text = rf"input size \({shape[0]}x{shape[1]}\) must be at least {size}x{size} "
            with pytest.raises(ValueError, match=text):
                net(torch.zeros(1, 3, *shape))
    if trial:
        net.smallest = [0] * len(net.smallest) if isinstance(net.smallest, list) else 0
        assert runs(net, size, WIDE)
        assert size == 1 or not runs(net, size - 1, WIDE)
        assert size == 1 or not runs(net, WIDE, size - 1)


def empty(name: str, **kwargs: Any) -> nn.Module:
    """A net in evaluation mode whose weights are what lay in the memory, for only sizes are looked at."""
    return zoo.create_model(name, device="meta", **kwargs).to_empty(device="cpu").eval()


@pytest.mark.parametrize(("name", "output_stride"), HELD)
def test_the_smallest_image_is_the_one_that_the_error_names(name: str, output_stride: int | None) -> None:
    """Of the net, and of each of its taps alone, at every output stride."""
    spec = zoo.model_entry(name).spec
    held = {} if output_stride is None else {"output_stride": output_stride}
    *taps, end = spec.smallest(output_stride)
    # Fabrics work with images of any size; their scales differ in size from some size on.
    trial = zoo.model_entry(name).family != "fabric"
    assert_smallest(empty(name, **held), end, trial=trial)
    for tap, size in enumerate(taps):
        assert_smallest(empty(name, features_only=True, out_indices=(tap,), **held), size, trial=trial)


@pytest.mark.parametrize("wrapper", ["list", "dict", "hook", "fx", "getter"])
def test_every_wrapper_names_the_size_that_its_taps_need(wrapper: str) -> None:
    net = zoo.create_model("vgg_test", features_only=True, out_indices=(0, 2), feature_cls=wrapper).eval()
    net(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"input size \(8x7\) must be at least 8x8"):
        net(torch.zeros(1, 3, 8, 7))


def test_an_early_stop_needs_less() -> None:
    net = zoo.create_model("vgg_test").eval()
    x = torch.zeros(1, 3, 4, 4)
    assert len(net.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match=r"input size \(4x4\) must be at least 32x32"):
        net.forward_intermediates(x, indices=[0, 1])
    net.prune_intermediate_layers([1])
    assert net.forward_features(x).shape[-1] == 1
    with pytest.raises(ValueError, match=r"input size \(4x3\) must be at least 4x4"):
        net.forward_features(x[..., :3])


@pytest.mark.parametrize("output_stride", [None, 4, 8, 16])
@pytest.mark.parametrize("name", ["fabric_test", "fabric_a_l3_s3_c32x2_post_cifar"])
def test_scales_of_a_fabric_differ_from_its_smallest_size_on(name: str, output_stride: int | None) -> None:
    if output_stride is not None and output_stride not in zoo.model_entry(name).spec.output_strides:
        return
    net = zoo.create_model(name, output_stride=output_stride).eval()
    scales, size = net.spec.scales, net.smallest[-1]
    strides = {tap["reduction"] for tap in net.feature_info[-scales:]}

    def sides() -> list[int]:
        maps = net.forward_intermediates(torch.zeros(1, 3, WIDE, size), scales, intermediates_only=True)
        return [m.shape[-1] for m in maps]

    with torch.no_grad():
        assert len(set(sides())) == len(strides)
        if size > 1:
            size, net.smallest = size - 1, [1] * len(net.smallest)
            assert len(set(sides())) < len(strides)


FLOORS = {"alexnet", "bagnet", "densenet", "fishnet", "googlenet", "lenet", "vgg"}
"""Families of which a map may be smaller than size / stride rounded up; docs/contract.md lists them."""


@pytest.mark.parametrize("name", zoo.list_models("*_test"))
def test_odd_sizes_are_rounded_as_documented(name: str) -> None:
    net = zoo.create_model(name, features_only=True).eval()
    family, rounded_down = zoo.model_entry(name).family, False
    with torch.no_grad():
        for side in range(97, 129, 5):
            for tap, stride in zip(net(torch.zeros(1, 3, side, side)), net.feature_info.reduction(), strict=True):
                have, up = tap.shape[-1], -(-side // stride)
                assert have == up or family in FLOORS
                assert have == side // stride or family != "vgg"
                rounded_down |= have < up
    assert rounded_down == (family in FLOORS)


def test_tracing_a_net_is_silent() -> None:
    """The sizes that a trace must not pin are not looked at, so that torch has nothing to warn of."""
    for name in ("fishnet_test", "vgg_test"):
        torch.jit.trace(zoo.create_model(name).eval().stem, torch.zeros(1, 3, 64, 64), check_trace=False)
        net = zoo.create_model(name, num_classes=0, global_pool="").eval()
        torch.jit.trace(net, torch.zeros(1, 3, 64, 64), check_trace=False)
