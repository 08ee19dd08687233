"""GoogLeNet: the paper's table, its figures as plain functions, and the auxiliary classifiers."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import GroupNorm1
from torch import Tensor, nn

import zoo
from zoo.models.googlenet import COLUMNS

# Table 1: K of parameters and M of operations as printed.
PRINTED = {
    "stem": (2.7, 34),
    "reduce": (112, 360),
    "3a": (159, 128),
    "3b": (380, 304),
    "4a": (364, 73),
    "4b": (437, 88),
    "4c": (463, 100),
    "4d": (580, 119),
    "4e": (840, 170),
    "5a": (1072, 54),
    "5b": (1388, 71),
    "linear": (1000, 1),
}
# What the printed sizes give: parameters without and with biases.
COUNTED = {
    "stem": (9_408, 9_472),
    "reduce": (114_688, 114_944),
    "3a": (163_328, 163_696),
    "3b": (388_096, 388_736),
    "4a": (375_552, 376_176),
    "4b": (448_512, 449_160),
    "4c": (509_440, 510_104),
    "4d": (604_672, 605_376),
    "4e": (867_328, 868_352),
    "5a": (1_042_432, 1_043_456),
    "5b": (1_442_816, 1_444_080),
    "linear": (1_024_000, 1_025_000),
}
MAPS = {"stem": 112, "reduce": 56, "3": 28, "4": 14, "5": 7, "linear": 1}
MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


def rows(net: nn.Module) -> dict[str, nn.Module]:
    """The layers of Table 1 that have parameters."""
    modules = {name: getattr(net, f"stage{name[0]}")[ord(name[1]) - 96] for name in MODULES}
    return {"stem": net.stem, "reduce": net.reduce, **modules, "linear": net.classifier}


def test_counts_of_table_1() -> None:
    net = zoo.create_model("googlenet", device="meta")
    counted = {}
    for name, layer in rows(net).items():
        weights = [p.numel() for key, p in layer.named_parameters() if key.endswith("weight")]
        counted[name] = (sum(weights), sum(p.numel() for p in layer.parameters()))
    assert counted == COUNTED
    assert sum(total for _, total in counted.values()) == zoo.model_entry("googlenet").params


def test_printed_parameters_of_table_1() -> None:
    """In units of 1024 and without biases five rows are the printed ones; the others are not what the sizes give."""
    off = {name: COUNTED[name][0] / 1024 - printed for name, (printed, _) in PRINTED.items()}
    assert [name for name, by in off.items() if abs(by) <= 1] == ["reduce", "3a", "3b", "4b", "linear"]
    assert {name: by for name, by in off.items() if abs(by) > 1 and name != "stem"} == {
        "4a": 2.75,
        "4c": 34.5,
        "4d": 10.5,
        "4e": 7.0,
        "5a": -54.0,
        "5b": 21.0,
    }
    # Thousands, or biases, explain fewer of them.
    for unit, biases, explained in ((1024, 1, 4), (1000, 0, 0), (1000, 1, 0)):
        assert sum(abs(COUNTED[name][biases] / unit - PRINTED[name][0]) <= 1 for name in off) == explained


def test_printed_operations_of_table_1() -> None:
    """They follow from the sizes in all rows but two; so the sizes are right where the parameters are not."""
    off = {}
    for name, (_, printed) in PRINTED.items():
        side = MAPS[name if name in MAPS else name[0]]
        off[name] = COUNTED[name][0] * side**2 / 1e6 - printed
    assert [name for name, by in off.items() if abs(by) > 0.65] == ["stem", "5a"]
    separable = 3 * 8 * 49 + 24 * 64
    assert round(separable / 1000, 1) == PRINTED["stem"][0]
    assert round(separable * 112**2 / 1e6) == PRINTED["stem"][1]


def test_auxiliary_classifiers_are_those_of_the_paper() -> None:
    net = zoo.create_model("googlenet", auxiliary=True, device="meta")
    for layer, chs in ((net.aux_a, 512), (net.aux_b, 528)):
        shapes = [tuple(p.shape) for p in layer.parameters()]
        assert shapes == [(128, chs, 1, 1), (128,), (1024, 2048), (1024,), (1000, 1024), (1000,)]
        assert layer.drop.p == 0.7
    assert sum(p.numel() for p in net.parameters()) == 13_378_280
    assert sum(p.numel() for p in zoo.create_model("googlenet_bn", auxiliary=True, device="meta").parameters()) == (
        13_004_888
    )


def published(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's figure 3 as plain functions over the weights of a net."""
    weights = net.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.relu(F.conv2d(x, weight, weights[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2))

    def local_norm(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=2, ceil_mode=True)

    def inception(x: Tensor, at: str) -> Tensor:
        three = conv(conv(x, f"{at}.three.conv1"), f"{at}.three.conv2")
        five = conv(conv(x, f"{at}.five.conv1"), f"{at}.five.conv2")
        assert weights[f"{at}.five.conv2.weight"].shape[-1] == 5
        project = conv(F.max_pool2d(x, 3, stride=1, padding=1), f"{at}.project.conv1")
        return torch.cat([conv(x, f"{at}.one.conv1"), three, five, project], 1)

    def auxiliary(x: Tensor, at: str) -> Tensor:
        x = conv(F.avg_pool2d(x, 5, stride=3), f"{at}.reduce.conv1").flatten(1)
        x = F.relu(F.linear(x, weights[f"{at}.hidden.weight"], weights[f"{at}.hidden.bias"]))
        return F.linear(x, weights[f"{at}.fc.weight"], weights[f"{at}.fc.bias"])

    x = local_norm(pool(conv(x, "stem.conv1", stride=2)))
    x = local_norm(conv(conv(x, "reduce.conv1"), "reduce.conv2"))
    inner = {}
    for stage, depth in zip((3, 4, 5), net.spec.depths, strict=True):
        x = pool(x)
        for i in range(depth):
            x = inner[stage, i] = inception(x, f"stage{stage}.{i + 1}")
    logits = F.linear(x.mean((2, 3)), weights["classifier.fc.weight"], weights["classifier.fc.bias"])
    last_but_one = net.spec.depths[1] - 2
    return logits, auxiliary(inner[4, 0], "aux_a"), auxiliary(inner[4, last_but_one], "aux_b")


def test_the_published_net_is_figure_3() -> None:
    """All nine modules, narrow, at 224 px, where the inner maps have 14 pixels a side."""
    torch.manual_seed(0)
    widths: dict[str, Any] = {
        name: tuple(n // 16 for n in getattr(zoo.model_entry("googlenet").spec, name)) for name in COLUMNS
    }
    net = zoo.create_model(
        "googlenet_test", depths=(2, 5, 2), **widths, auxiliary=True, dtype=torch.float64, num_classes=10
    )
    for layer in (net.aux_a, net.aux_b):
        layer.drop.p = 0.0
    # Large values, so that a wrong number in the local normalisation shows.
    x = 50 * torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        want = published(net, x)
        have = net(x)
        torch.testing.assert_close(tuple(have), want, rtol=1e-9, atol=0)
        torch.testing.assert_close(net.eval()(x), want[0], rtol=1e-9, atol=0)
        net.norm1.alpha = 5e-4
        assert not torch.allclose(net(x), want[0], rtol=1e-4)


def test_batch_norms_alone_get_the_eps() -> None:
    def values(**kwargs: Any) -> set[tuple[str, float]]:
        net = zoo.create_model("googlenet_bn_test", auxiliary=True, device="meta", **kwargs)
        return {(type(m).__name__, m.eps) for m in net.modules() if hasattr(m, "eps")}

    assert values() == {("BatchNorm2d", 1e-3)}
    assert values(norm_eps=1e-5) == {("BatchNorm2d", 1e-5)}
    assert values(norm_layer="groupnorm1") == {("GroupNorm1", 1e-5)}
    assert values(norm_layer=partial(GroupNorm1, eps=1e-4)) == {("GroupNorm1", 1e-4)}


AUXILIARY = ["googlenet_test", "googlenet_bn_test", "googlenet16_bn_cifar"]


def with_auxiliary(name: str, **kwargs: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = zoo.create_model(name, auxiliary=True, **kwargs)
    return net, torch.randn(2, *zoo.model_entry(name).input_size)


@pytest.mark.parametrize("name", AUXILIARY)
def test_three_logits_in_training_and_one_in_evaluation(name: str) -> None:
    net, x = with_auxiliary(name)
    seen: list[int] = []
    for tap in net.feature_info:
        net.get_submodule(tap["module"]).register_forward_hook(lambda *args: seen.append(args[-1].shape[1]))
    outputs = net(x)
    assert isinstance(outputs, tuple)
    assert [tuple(logits.shape) for logits in outputs] == [(2, 10)] * 3
    assert seen == [tap["num_chs"] for tap in net.feature_info], "taps are called in training, too"
    sum(logits.square().sum() for logits in outputs).backward()
    assert all(p.grad is not None for p in net.parameters())
    outputs = net.eval()(x)
    assert outputs.shape == (2, 10)
    plain = zoo.create_model(name).eval()
    plain.load_state_dict({key: t for key, t in net.state_dict().items() if not key.startswith("aux_")})
    assert torch.equal(plain(x), outputs)
    assert isinstance(plain.train()(x), Tensor)


@pytest.mark.parametrize("name", AUXILIARY[:2])
@pytest.mark.parametrize("size", [(32, 64), (61, 83), (160, 96)])
def test_auxiliary_classifiers_take_any_size(name: str, size: tuple[int, int]) -> None:
    net, _ = with_auxiliary(name)
    assert [tuple(logits.shape) for logits in net(torch.randn(2, 3, *size))] == [(2, 10)] * 3


@pytest.mark.parametrize("name", AUXILIARY)
def test_auxiliary_classifiers_and_checkpointing(name: str) -> None:
    net, x = with_auxiliary(name)
    for layer in (net.aux_a, net.aux_b):
        layer.drop.p = 0.0
    saved = copy.deepcopy(net)
    saved.set_grad_checkpointing()
    for module in (net, saved):
        sum(logits.square().mean() for logits in module(x)).backward()
    for (key, p), q in zip(net.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4, msg=key)


def test_auxiliary_classifiers_follow_the_classes() -> None:
    net, x = with_auxiliary("googlenet_bn_test", dtype=torch.float64)
    x = x.double()
    net.reset_classifier(3)
    assert [tuple(logits.shape) for logits in net(x)] == [(2, 3)] * 3
    early = copy.deepcopy(net)
    net.reset_classifier(0)
    assert net(x).shape == (2, net.num_features)
    assert not [key for key, _ in net.named_parameters() if key.startswith("aux")]
    net.reset_classifier(4)
    assert net(x).shape == (2, 4)
    early.prune_intermediate_layers([2])
    early.reset_classifier(4, "avg")
    early(x).sum().backward()
    assert all(p.grad is not None for p in early.parameters())
    bare, x = with_auxiliary("googlenet_bn_test", num_classes=0)
    assert bare(x).shape == (2, bare.num_features)


@pytest.mark.parametrize("wrapper", ["list", "getter"])
def test_features_have_no_auxiliary_classifiers(wrapper: str) -> None:
    net, x = with_auxiliary("googlenet_test", features_only=True, feature_cls=wrapper)
    assert len(net(x)) == 5
    assert not [key for key, _ in net.named_parameters() if "aux" in key]


@pytest.mark.only(name=("googlenet_test",))
@pytest.mark.parametrize("name", AUXILIARY)
def test_compilers_and_auxiliary_classifiers(name: str) -> None:
    """TorchScript knows the logits alone; torch.compile and fx know all in training."""
    net, x = with_auxiliary(name)
    scripted = torch.jit.script(net)
    assert isinstance(scripted(x), Tensor)
    net.eval()
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))
    for layer in (net.aux_a, net.aux_b):
        layer.drop.p = 0.0
    net.train()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(tuple(compiled(x)), tuple(net(x)))
    torch.testing.assert_close(tuple(torch.fx.symbolic_trace(net)(x)), tuple(net(x)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (2, 3)}, r"depths \(\(2, 3\)\) must have three numbers"),
        ({"ones": (8, 8)}, r"ones .* must have one number a module, 7"),
        ({"stem": "cifar"}, r"stem_widths .* must have 1 numbers for stem 'cifar'"),
        ({"pools": (3, 3)}, r"pools .* must have 4 numbers for stem 'imagenet'"),
        ({"pools": (3, 3, 1, 3)}, r"pools .* must be at least 2"),
        ({"five_kernel": 4}, r"five_kernel \(4\) must be odd"),
        ({"norm": "batch"}, r"norm \('batch'\) must be one of local, layer"),
        ({"norm_eps": 0.0}, r"norm_eps \(0.0\) must be positive"),
        ({"auxiliary_widths": (8,)}, r"auxiliary_widths .* must have two numbers"),
        ({"depths": (2, 2, 3), "auxiliary": True}, r"auxiliary \(True\) must be False with under 3 modules"),
    ],
)
def test_nonsense_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("googlenet_test", device="meta", **overrides)


@pytest.mark.parametrize(
    ("name", "smallest"), [("googlenet_test", 31), ("googlenet_bn_test", 15), ("googlenet16_bn_cifar", 4)]
)
def test_the_smallest_size(name: str, smallest: int) -> None:
    """15 is what torchvision states for its own."""
    net = zoo.create_model(name).eval()
    assert net(torch.randn(1, 3, smallest, smallest + 9)).isfinite().all()
    with pytest.raises(ValueError, match=rf"input size .* must be at least {smallest}x{smallest} "):
        net(torch.randn(1, 3, smallest - 1, smallest + 9))


@pytest.mark.parametrize("size", [32, 33, 61, 64, 100, 223, 224, 225])
@pytest.mark.parametrize("name", ["googlenet_test", "googlenet_bn_test", "googlenet16_bn_cifar"])
def test_head_size(name: str, size: int) -> None:
    net = zoo.create_model(name, device="meta").eval()
    features = net.forward_features(torch.empty(1, 3, size, size, device="meta"))
    assert features.shape[-1] == net.spec.head_size(size)
