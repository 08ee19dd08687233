"""The plain nets: what the papers of VGG, AlexNet and LeNet-5 say, and dilation that keeps their logits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.layers import local_norm

TABLE_1 = {
    "vgg11": "c3-64 M c3-128 M c3-256 c3-256 M c3-512 c3-512 M c3-512 c3-512 M",
    "vgg11_lrn": "c3-64 L M c3-128 M c3-256 c3-256 M c3-512 c3-512 M c3-512 c3-512 M",
    "vgg13": "c3-64 c3-64 M c3-128 c3-128 M c3-256 c3-256 M c3-512 c3-512 M c3-512 c3-512 M",
    "vgg16_c": "c3-64 c3-64 M c3-128 c3-128 M c3-256 c3-256 c1-256 M c3-512 c3-512 c1-512 M c3-512 c3-512 c1-512 M",
    "vgg16": "c3-64 c3-64 M c3-128 c3-128 M c3-256 c3-256 c3-256 M c3-512 c3-512 c3-512 M c3-512 c3-512 c3-512 M",
    "vgg19": "c3-64 c3-64 M c3-128 c3-128 M c3-256 c3-256 c3-256 c3-256 M c3-512 c3-512 c3-512 c3-512 M"
    " c3-512 c3-512 c3-512 c3-512 M",
}
"""Simonyan & Zisserman 2015, Table 1, by column: convolutions by window and channels, M max-pooling, L local norm."""
TABLE_2 = {"vgg11": 133, "vgg11_lrn": 133, "vgg13": 133, "vgg16_c": 134, "vgg16": 138, "vgg19": 144}
"""Millions of parameters, ibid.; the paper has one number for A and A-LRN."""


def layers(net: nn.Module) -> str:
    word = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            word.append(f"c{module.kernel_size[0]}-{module.out_channels}")
        elif isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride) == (2, 2)
            word.append("M")
        elif isinstance(module, nn.LocalResponseNorm):
            assert module.k == 2.0
            word.append("L")
        elif isinstance(module, nn.BatchNorm2d):
            word.append("n")
    return " ".join(word)


@pytest.mark.parametrize("name", TABLE_1)
def test_vgg_is_that_of_the_tables(name: str) -> None:
    net = zoo.create_model(name, num_classes=0, device="meta")
    assert layers(net) == TABLE_1[name]
    wide = zoo.create_model(name, device="meta")
    assert layers(wide.wide) == "c7-4096 c1-4096"
    assert round(zoo.model_entry(name).params / 1e6) == TABLE_2[name]


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16_c", "vgg16", "vgg19"])
def test_batch_norm_follows_every_convolution(name: str) -> None:
    net = zoo.create_model(f"{name}_bn", num_classes=0, device="meta")
    assert layers(net) == " ".join(f"{op} n" if op[0] == "c" else op for op in TABLE_1[name].split())


def test_vgg_as_a_backbone() -> None:
    """What segmentation and detection ask for: a net held at stride 8, flat features of the announced width, maps."""
    taps = zoo.create_model("zoo_vgg16_bn", features_only=True, output_stride=8, device="meta")
    x = torch.empty(1, 3, 224, 224, device="meta")
    assert [tuple(t.shape[1:]) for t in taps.eval()(x)] == [
        (128, 112, 112),
        (256, 56, 56),
        (512, 28, 28),
        (512, 28, 28),
        (512, 28, 28),
    ]
    flat = zoo.create_model("vgg16_bn", num_classes=0, device="meta").eval()
    assert flat(x).shape == (1, flat.num_features) == (1, 512)
    maps = zoo.create_model("vgg16_bn", num_classes=0, global_pool="", device="meta").eval()
    assert maps(x).shape == (1, 512, 7, 7)


def test_small_vgg_has_one_linear_layer() -> None:
    net = zoo.create_model("vgg16_bn_cifar", device="meta")
    assert layers(net).replace(" n", "") == TABLE_1["vgg16"]
    assert net.wide is None
    assert net.classifier.fc.weight.shape == (10, 512)


def test_local_norm_is_that_of_the_paper() -> None:
    """Krizhevsky et al. 2012, section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75, the sum cut at both ends."""
    x = 50 * torch.randn(2, 7, 3, 4, dtype=torch.float64)
    want = torch.empty_like(x)
    for i in range(7):
        window = x[:, max(0, i - 2) : min(6, i + 2) + 1]
        want[:, i] = x[:, i] / (2 + 1e-4 * window.square().sum(1)) ** 0.75
    torch.testing.assert_close(local_norm(2.0)(x), want)
    torch.testing.assert_close(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(x), want)


SMALL: dict[str, dict[str, Any]] = {
    name: dict(stem=8, stage2=(12,), stage3=(12, 12, 8), wide=(6,), window=3, num_classes=5)
    for name in ("alexnet_2012", "vgg_f", "vgg_m", "vgg_s")
}
"""Arguments that leave nets of eight layers with few channels."""


def held(name: str, output_stride: int, **spec: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    spec = SMALL.get(name, {}) | spec
    native = zoo.create_model(name, **spec).double().eval()
    fine = zoo.create_model(name, output_stride=output_stride, **spec).double().eval()
    fine.load_state_dict(native.state_dict())
    return native, fine


# The sizes give wide layers more than one place to stand.
@pytest.mark.parametrize(
    ("name", "output_stride", "side"),
    [
        *(("vgg_test", stride, 160) for stride in (2, 4, 8, 16)),
        ("vgg_lrn_test", 8, 160),
        *(("alexnet_test", stride, side) for stride in (4, 8, 16) for side in (160, 171)),
        *(("vgg_m", stride, 160) for stride in (2, 4, 8, 16)),
        *(("vgg_s", stride, 171) for stride in (2, 6, 12)),
        *(("lenet5_cifar", stride, side) for stride in (1, 2) for side in (48, 45)),
        ("lenet_test", 2, 64),
    ],
)
def test_dilation_keeps_every_map_and_the_scores(name: str, output_stride: int, side: int) -> None:
    """Also at the border, and in nets that do not pad: there the held map may be larger than a multiple."""
    native, fine = held(name, output_stride)
    x = torch.randn(1, 3, side, side, dtype=torch.float64)

    def maps(net: nn.Module) -> list[Tensor]:
        taps = net.forward_intermediates(x, intermediates_only=True)
        return [*taps, net.wide(taps[-1])]

    with torch.no_grad():
        coarse, finer = maps(native), maps(fine)
    assert coarse[-1].shape[-1] > 1
    strides, held_strides = ([info["reduction"] for info in net.feature_info] for net in (native, fine))
    for i, (want, have) in enumerate(zip(coarse, finer, strict=True)):
        tap = min(i, len(strides) - 1)
        every = strides[tap] // held_strides[tap]
        size = want.shape[-1]
        torch.testing.assert_close(have[..., ::every, ::every][..., :size, :size], want)
    assert every > 1


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("alexnet_test", 4), ("alexnet_test", 8), ("alexnet_test", 16), ("lenet5_cifar", 1), ("lenet5_cifar", 2)],
)
def test_logits_without_padding_do_not_change(name: str, output_stride: int) -> None:
    """There the dilated window stands in one place at the published size, as the native one does."""
    native, fine = held(name, output_stride)
    x = torch.randn(2, *zoo.model_entry(name).input_size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine(x), native(x))


def test_alexnet_sizes() -> None:
    net = zoo.create_model("alexnet", features_only=True, device="meta").eval()
    assert [t.shape[-1] for t in net(torch.empty(1, 3, 224, 224, device="meta"))] == [55, 27, 13, 6]
    assert net.feature_info.channels() == [64, 192, 256, 256]


MEGABYTES = {"alexnet_2012": 233, "vgg_f": 232, "vgg_m": 393, "vgg_s": 393}
"""Of parameters in single precision, albanie/convnet-burden."""
SIDES = {
    "alexnet_2012": [55, 27, 13, 6],
    "vgg_f": [54, 27, 13, 6],
    "vgg_m": [109, 54, 26, 13, 6],
    "vgg_s": [109, 33, 17, 6],
}


@pytest.mark.parametrize("name", MEGABYTES)
def test_nets_of_eight_layers_are_as_large_as_published(name: str) -> None:
    entry = zoo.model_entry(name)
    assert round(entry.params * 4 / 2**20) == MEGABYTES[name]
    for wide, megabytes in ((2048, 353), (1024, 333), (128, 315)) if name == "vgg_m" else ():
        net = zoo.create_model(name, wide=(4096, wide), device="meta")
        assert round(sum(p.numel() for p in net.parameters()) * 4 / 2**20) == megabytes
    taps = zoo.create_model(name, device="meta").forward_intermediates(
        torch.empty(1, *entry.input_size, device="meta"), intermediates_only=True
    )
    assert [t.shape[-1] for t in taps] == SIDES[name]


def test_alexnet_of_2012_has_the_neurons_of_the_paper() -> None:
    """Krizhevsky et al. 2012, section 3.5: 253,440 in the first layer, which is 55 x 48 x 96, is all that differs."""
    net = zoo.create_model("alexnet_2012", device="meta").eval()
    seen = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    net(torch.empty(1, 3, 227, 227, device="meta"))
    assert seen == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert [m.groups for m in net.modules() if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("name", SMALL)
def test_nets_of_eight_layers_are_what_torch_makes_of_them(name: str) -> None:
    """The order is activation, local norm, pooling; groups, strides, paddings and rounding are the table's."""
    torch.manual_seed(0)
    net = zoo.create_model(name, **SMALL[name]).double().eval()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    stem, stride, padding = {"alexnet_2012": (4, 1, 2), "vgg_f": (4, 1, 2), "vgg_m": (2, 2, 1), "vgg_s": (2, 1, 0)}[
        name
    ]
    pools = [(3, 3), (2, 2), (3, 3)] if name == "vgg_s" else [(3, 2)] * 3
    ceil, groups = name != "alexnet_2012", 2 if name == "alexnet_2012" else 1

    def conv(x: Tensor, i: int, **kind: Any) -> Tensor:
        return F.relu(F.conv2d(x, convs[i].weight, convs[i].bias, **kind))

    def norm(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)

    x = 100 * torch.randn(1, *zoo.model_entry(name).input_size, dtype=torch.float64)
    with torch.no_grad():
        y = F.max_pool2d(norm(conv(x, 0, stride=stem)), *pools[0], ceil_mode=ceil)
        y = conv(y, 1, stride=stride, padding=padding, groups=groups)
        y = F.max_pool2d(y if name == "vgg_s" else norm(y), *pools[1], ceil_mode=ceil)
        y = conv(y, 2, padding=1)
        y = conv(conv(y, 3, padding=1, groups=groups), 4, padding=1, groups=groups)
        torch.testing.assert_close(net.forward_features(x), F.max_pool2d(y, *pools[2], ceil_mode=ceil))


def test_lenet_is_what_torch_makes_of_it() -> None:
    net = zoo.create_model("lenet5_cifar").eval()
    x = torch.randn(2, 3, 32, 32)
    conv1, conv2 = net.stem.conv1, net.stage2[1].conv1
    fc1, fc2, fc3 = net.wide.layers.conv1, net.wide.layers.conv2, net.classifier.fc
    with torch.no_grad():
        y = F.max_pool2d(F.relu(F.conv2d(x, conv1.weight, conv1.bias)), 2)
        y = F.max_pool2d(F.relu(F.conv2d(y, conv2.weight, conv2.bias)), 2)
        assert y.shape == (2, 16, 5, 5)
        y = F.relu(F.linear(y.flatten(1), fc1.weight.flatten(1), fc1.bias))
        y = F.relu(F.linear(y, fc2.weight.flatten(1), fc2.bias))
        torch.testing.assert_close(net(x), F.linear(y, fc3.weight, fc3.bias))
    assert [m.weight.shape[0] for m in (conv1, conv2, fc1, fc2, fc3)] == [6, 16, 120, 84, 10]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vgg11", {"widths": (64, 128)}, r"widths \(\(64, 128\)\) must have one number a stage"),
        ("vgg11", {"third_kernel": 5}, r"third_kernel \(5\) must be 1 or 3"),
        ("vgg11", {"wide": (0,)}, r"wide \(\(0,\)\)"),
        ("alexnet", {"stage3": ()}, r"stage3 \(\(\)\)"),
        ("alexnet", {"towers": 5}, r"towers \(5\) must divide the channels"),
        ("alexnet", {"stem_padding": 6}, r"stem_padding \(6\) must be one of 0 to 5"),
        ("alexnet", {"pools": (3, 3)}, r"pools \(\(3, 3\)\) must have three numbers"),
        ("alexnet", {"pool_strides": (2, 2, 4)}, r"pool_strides \(\(2, 2, 4\)\) must not exceed the windows"),
        ("vgg_s", {"local_norms": 3}, r"local_norms \(3\) must be one of 0 to 2"),
        ("lenet5_cifar", {"kernel": 0}, r"kernel \(0\)"),
    ],
)
def test_errors_name_field_and_value(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, device="meta", **change)
