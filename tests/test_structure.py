"""What the papers claim about structure: orderings, direct paths, exact dilation."""

import copy
import operator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.fx
from torch import Tensor, nn

import zoo
from zoo.analysis.paths import reached_directly
from zoo.bench.train import train
from zoo.datasets.built_in import dataset_row, load_dataset
from zoo.layers import ORDERS, Kit, OffsetConv, Residual, basic, bottleneck
from zoo.testing import settle_norms

# He et al. 2016, figure 4 (a) to (e): convolution, norm, activation, + the sum.
FIGURE_4 = {
    "post": "cnacn+a",
    "norm_after_add": "cnac+na",
    "act_before_add": "cnacna+",
    "act_only_pre": "acnacn+",
    "pre": "nacnac+",
}
LETTERS = {nn.Conv2d: "c", nn.BatchNorm2d: "n", nn.ReLU: "a"}


def operators(net: nn.Module) -> str:
    """The operators of the main path in the order in which they run."""
    names = dict(net.named_modules())
    word = ""
    for node in torch.fx.symbolic_trace(net).graph.nodes:
        if node.op == "call_module" and "shortcut" not in node.target:
            word += LETTERS.get(type(names[node.target]), "")
        elif node.target is operator.add:
            word += "+"
    return word


@pytest.mark.parametrize("order", FIGURE_4)
def test_orderings_are_those_of_the_figure(order: str) -> None:
    assert set(FIGURE_4) == set(ORDERS)
    unit = Residual(Kit(), 8, basic(8), ORDERS[order])
    assert operators(unit) == FIGURE_4[order]
    longer = FIGURE_4[order].replace("nac", "nacnac", 1) if order != "pre" else "nacnacnac+"
    assert operators(Residual(Kit(), 8, bottleneck(4, 8), ORDERS[order])) == longer


@pytest.mark.parametrize("order", FIGURE_4)
@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet_test"])
def test_every_convolution_meets_one_norm_and_one_activation(name: str, order: str) -> None:
    """Stem and closing layers complete each ordering, so that nets differ in the order alone."""
    word = operators(zoo.create_model(name, order=order, num_classes=0)).replace("+", "")
    convs = sum(zoo.model_entry(name).spec.depths) * (3 if name == "resnet_test" else 2) + 1
    # The ImageNet stem is complete before its pooling, so pre-activation repeats what it begins with.
    repeated = {"pre": "na", "act_only_pre": "a"}.get(order, "") if name == "resnet_test" else ""
    assert word == "cna" + repeated + "cna" * (convs - 1)


def test_fish_has_a_direct_path_from_every_stage() -> None:
    net = zoo.create_model("fishnet_test")
    stages = [f"{part}.stage{i}" for part in ("body",) for i in (1, 2, 3)] + [f"head{i}.stage" for i in (1, 2, 3)]
    for stage in (*stages, "bridge", "body", "head1", "head2", "head3"):
        assert "head3" in reached_directly(net, stage), stage


@pytest.mark.parametrize("gate", ["none", "scaled", "dropout"])
def test_skips_of_a_fabric_are_direct_paths(gate: str) -> None:
    """A factor and a skip that is dropped as a whole interrupt nothing, a gate with weights does."""
    reads = {"unit": "pre", "channels": (8, 8, 8), "scales": 3}
    net = zoo.create_model("fabric_a_l3_s3_c32x2_post_cifar", gate=gate, **reads)
    nodes = [f"columns.{column}.{scale}.finish" for column in range(3) for scale in range(3)]
    for node in nodes:
        assert "columns.2.2.finish" in reached_directly(net, node), node
    gated = zoo.create_model("fabric_a_l3_s3_c32x2_post_cifar", gate="gated", **reads)
    assert reached_directly(gated, nodes[0]).isdisjoint(nodes[1:])


@pytest.mark.parametrize("name", ["resnet_test", "preresnet_test", "resnet20_cifar"])
def test_resnet_has_none(name: str) -> None:
    net = zoo.create_model(name)
    *stages, last = (module for module, _ in net.named_children() if module.startswith("stage"))
    for stage in stages:
        assert last not in reached_directly(net, stage), stage


def test_direct_paths_of_a_small_net() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            pooled = self.pool(a + self.b(a))
            return self.c(pooled)

    net = Net()
    assert reached_directly(net, "a") == {"a", "pool"}
    assert reached_directly(net, "b") == {"b", "pool"}
    with pytest.raises(ValueError, match=r"source \('d'\)"):
        reached_directly(net, "d")


def pair(name: str, output_stride: int, **spec: Any) -> tuple[nn.Module, nn.Module]:
    native = settle_norms(zoo.create_model(name, **spec).double()).eval()
    held = zoo.create_model(name, output_stride=output_stride, **spec).double().eval()
    held.load_state_dict(native.state_dict())
    return native, held


@pytest.mark.parametrize(
    ("name", "output_stride", "spec"),
    [
        ("resnet_test", 8, {}),
        ("resnet_test", 16, {}),
        ("resnet_test", 4, {}),
        ("resnet_test", 8, {"stride_first": True}),
        ("resnet_test", 8, {"shortcut": "project_all", "groups": 4}),
        ("preresnet_test", 8, {}),
        ("preresnet_test", 8, {"order": "norm_after_add"}),
        ("resnet20_cifar", 1, {}),
        ("wide_resnet16_2_cifar", 1, {}),
        ("resnext20_4x8d_cifar", 2, {}),
        ("densenet_test", 8, {}),
        ("densenet_test", 16, {}),
        ("densenet_test", 4, {"bottleneck": 0, "compression": 1.0}),
        ("densenet40_k12_bc_cifar", 1, {"depths": (2, 2, 2)}),
        ("googlenet_test", 8, {}),
        ("googlenet_test", 4, {"pools": (2, 3, 2, 3)}),
        ("googlenet_bn_test", 16, {}),
        ("googlenet_bn_test", 8, {"five_kernel": 7}),
        ("googlenet16_bn_cifar", 1, {}),
        ("vgg_test", 8, {}),
        ("vgg_test", 16, {}),
        ("resnet_test", 8, {"shortcut": "none"}),
        ("highway_test", 1, {}),
        ("highway_test", 2, {"kernels": (3,)}),
        ("wider_resnet_test", 8, {}),
        ("wider_resnet_test", 8, {"pools": 0}),
        ("wider_resnet_test", 8, {"pools": 5}),
        ("wider_resnet_test", 16, {"pools": 4}),
        ("wider_resnet_test", 2, {}),
    ],
)
def test_dilation_is_exact(name: str, output_stride: int, spec: dict[str, Any]) -> None:
    """Every map of the native net reappears at every n-th position of the net held at a finer stride."""
    native, held = pair(name, output_stride, **spec)
    side = 6 * native.feature_info[-1]["reduction"]
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        coarse = native.forward_intermediates(x, intermediates_only=True)
        fine = held.forward_intermediates(x, intermediates_only=True)
    for want, have, info, info_held in zip(coarse, fine, native.feature_info, held.feature_info, strict=True):
        every = info["reduction"] // info_held["reduction"]
        assert have.shape[-1] == every * want.shape[-1]
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(have[..., ::every, ::every][inside], want[inside])
    assert every > 1


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_held_fish(output_stride: int) -> None:
    """The tail is a chain and exact; the taps' strides are capped; native sizes are left alone."""
    native, held = pair("fishnet_test", output_stride)
    x = torch.randn(1, 3, 192, 192, dtype=torch.float64)
    every = 32 // output_stride
    with torch.no_grad():
        want, have = native.tail(native.stem(x)), held.tail(held.stem(x))
        torch.testing.assert_close(have[-1][..., ::every, ::every], want[-1])
        taps = held.forward_intermediates(x, intermediates_only=True)
        free = native.forward_intermediates(x, intermediates_only=True)
    assert [192 // t.shape[-1] for t in taps] == [min(s, output_stride) for s in (2, 4, 8, 16, 32)]
    assert [t.shape[1] for t in taps] == [t.shape[1] for t in free]
    assert torch.equal(taps[0], free[0])


@pytest.mark.parametrize("side", [29, 31, 33, 47, 63, 65])
def test_fish_takes_any_size(side: int) -> None:
    net = settle_norms(zoo.create_model("fishnet_test")).eval()
    assert net(torch.randn(1, 3, side, 64)).isfinite().all()


def test_activation_of_the_first_unit() -> None:
    """``activate_first`` moves the start of the first shortcut, and nothing else."""
    net = settle_norms(zoo.create_model("preresnet20_cifar")).eval()
    other = settle_norms(zoo.create_model("preresnet20_cifar", activate_first=True)).eval()
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 16, 8, 8)
    first, changed = net.stage1[0], other.stage1[0]
    with torch.no_grad():
        torch.testing.assert_close(changed(x) - first(x), first.before(x) - x)
        assert torch.equal(other.stage1[1](x), net.stage1[1](x))


def test_overrides_make_another_net_and_leave_the_preset_alone() -> None:
    before = copy.deepcopy(zoo.model_entry("fishnet99"))
    net = zoo.create_model("fishnet99", body_blocks=(2, 2, 2), device="meta")
    assert sum(p.numel() for p in net.parameters()) > before.params
    assert net.spec.body_blocks == (2, 2, 2)
    assert zoo.model_entry("fishnet99") == before


@pytest.mark.slow  # gradients of every ordering are asked for by its small nets
@pytest.mark.parametrize("order", FIGURE_4)
def test_every_ordering_trains_on_digits(order: str) -> None:
    """Eight layers and three epochs are enough to tell a net that learns from one that does not."""
    trained = train(
        lambda: zoo.create_model("resnet20_cifar", depths=(1, 1, 1), order=order),
        load_dataset("digits"),
        replace(dataset_row("digits").recipe, epochs=3),
    )
    assert trained.epochs[-1].test_score > 0.8


@pytest.mark.parametrize("name", ["resnet_test", "preresnet_test"])
def test_deformable_stages_start_as_the_plain_net(name: str) -> None:
    """Equal with the same weights while the offsets are zero; not with others; any other state fits."""
    plain = settle_norms(zoo.create_model(name)).eval().double()
    net = zoo.create_model(name, deform_stages=(3, 4)).double().eval()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {"stage3", "stage4"}
    assert all(".offset." in key for key in missing)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), plain(x))
        assert torch.equal(torch.fx.symbolic_trace(net)(x), net(x))
        for convolution in net.modules():
            if isinstance(convolution, OffsetConv):
                nn.init.constant_(convolution.bias, 0.5)
        assert not torch.allclose(net(x), plain(x))
    net.init_weights()
    assert not any(p.any() for key, p in net.named_parameters() if ".offset." in key)


def test_a_plain_net_is_the_residual_one_without_shortcuts() -> None:
    """The same layers in the same order, fewer sums."""
    plain, residual = (
        operators(zoo.create_model("resnet20_cifar", shortcut=shortcut, num_classes=0)) for shortcut in ("none", "pad")
    )
    assert "+" not in plain
    assert plain == residual.replace("+", "")


def test_the_squeezed_branch_is_scaled_before_the_sum() -> None:
    net = settle_norms(zoo.create_model("seresnet20_projection_cifar")).eval().double()
    unit = net.stage1[0]
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        branch = unit.branch(x)
        torch.testing.assert_close(unit(x), torch.relu(unit.gate(branch) * branch + x))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"deform_stages": (5,)}, "deform_stages .* must name stages 1 to 4"),
        ({"squeeze": 64}, "squeeze .* must leave a channel of the 32"),
        ({"shortcut": "none", "squeeze": 4}, "squeeze .* must be off in a plain net"),
        ({"close": False}, "close .* must be True for order 'post'"),
    ],
)
def test_options_that_make_no_net(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("resnet_test", **overrides)
