"""Responses of layers, and gradients by layer, by unit and by path, against what plain autograd and arithmetic give."""

import copy
from contextlib import ExitStack
from math import comb
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import zoo
from zoo.analysis.branches import gradient_path, hooked, units_of, without
from zoo.analysis.gradients import chain_of, gains, layer_gradients
from zoo.analysis.nets import Options, settled
from zoo.analysis.path_gradients import effective_range, path_gradients
from zoo.analysis.responses import CONVOLUTION, NORM, Response, responses
from zoo.analysis.run import analyse
from zoo.layers import Scale

SIZE = (3, 16, 16)
LABELS = torch.tensor([1, 2, 3, 0])


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(1))


def small(name: str = "preresnet_test", **changes: Any) -> Any:
    torch.manual_seed(0)
    return zoo.create_model(name, **{"depths": (2, 2), "widths": (8, 12), "mid_widths": ()} | changes).eval()


def test_paths_of_all_lengths_are_measured() -> None:
    net, x = small(), images()
    found = path_gradients(net, x, LABELS, draws=3)
    assert [(row.length, row.paths) for row in found] == [(k, comb(4, k)) for k in range(5)]
    assert sum(row.contribution for row in found) == pytest.approx(1)
    assert all(row.quartiles[0] <= row.quartiles[1] for row in found)
    # The shortcut alone: the values of the whole net, and no gradient through any branch.
    cut = {unit.branch: lambda _, output: output.detach() for unit in units_of(net, SIZE) if unit.branch is not None}
    x.requires_grad_()
    with hooked(cut):
        [gradient] = torch.autograd.grad(F.cross_entropy(net(x), LABELS, reduction="sum"), x)
    assert found[0].norm == pytest.approx(float(gradient.flatten(1).norm(dim=1).mean()), rel=1e-5)


def test_scores_of_positions_are_averaged() -> None:
    """A net that scores every position of a map, equally, has the gradients of one that scores the image."""
    net, x = small(), images()
    layers, paths = layer_gradients(net, x, LABELS), path_gradients(net, x, LABELS, draws=1)
    with hooked({net: lambda _, output: output[:, :, None, None].expand(-1, -1, 2, 2)}):
        assert [row.weight for row in layer_gradients(net, x, LABELS)] == pytest.approx([row.weight for row in layers])
        assert [row.norm for row in path_gradients(net, x, LABELS, draws=1)] == pytest.approx([p.norm for p in paths])


def test_branches_that_begin_at_zero_hand_on_no_gradient() -> None:
    net = small()
    net.init_weights(zero_init_last=True)
    found = path_gradients(net, images(), LABELS, draws=1)
    assert found[0].norm > 0
    assert not any(row.norm for row in found[1:])
    assert effective_range(found) == (0, 0)


@torch.no_grad()
def test_gradients_of_long_paths_do_not_vanish_in_float32() -> None:
    net = small()
    for unit in units_of(net, SIZE):
        unit.module.get_submodule("branch.conv2").weight.mul_(1e-12)  # ty: ignore[unresolved-attribute]
    found = path_gradients(net, images(), LABELS, draws=2)
    assert 0 < found[4].norm < 1e-45
    assert found[4].norm / found[3].norm == pytest.approx(1e-12, rel=20)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("preresnet_test", {"shortcut": "none"}),
        ("fishnet_test", {"depths": None, "widths": None, "mid_widths": None}),
        ("densenet_test", {"depths": (2, 2), "widths": None, "mid_widths": None}),
    ],
)
def test_other_nets_are_no_choice_of_branch_or_shortcut(name: str, changes: dict[str, Any]) -> None:
    kept = {"depths": (2, 2), "widths": (8, 12), "mid_widths": ()} | changes
    net = zoo.create_model(name, **{key: value for key, value in kept.items() if value is not None})
    with pytest.raises(ValueError, match=r"no chain of residual units|is not residual"):
        path_gradients(net, torch.zeros(1, 3, 32, 32), LABELS[:1])


def test_fresh_norms_get_statistics() -> None:
    net, x = small(shortcut="none"), images(32)
    state = copy.deepcopy(net.state_dict())
    ready = settled(net, x)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    seen: dict[str, Tensor] = {}
    norms = {name: m for name, m in ready.named_modules() if isinstance(m, nn.BatchNorm2d)}
    with ExitStack() as stack:
        for name, norm in norms.items():
            stack.enter_context(hooked({norm: lambda _, out, name=name: seen.update({name: out.detach()})}))
        ready(x)
    for out in seen.values():
        assert float(out.mean()) == pytest.approx(0, abs=1e-2)
        assert float(out.std()) == pytest.approx(1, abs=5e-2)
    assert len(seen) == len(norms) > 3


def test_responses_are_standard_deviations_behind_norms() -> None:
    net, x = settled(small("resnet_test", stem="cifar"), images(32)), images(32)
    factors = iter(range(1, 100))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, next(factors))
            nn.init.constant_(module.bias, 7)
    net = settled(net, x)
    found = responses(net, x, batch_size=8)
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert {layer.name for layer in found} == set(names)
    assert {layer.behind for layer in found} == {NORM}
    # With fresh statistics a response is the factor of the norm; the factors stand in the order of the modules.
    order = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    for layer in found:
        assert layer.std == pytest.approx(1 + order.index(layer.name), rel=1e-3)


def test_responses_without_a_norm_are_those_of_convolutions() -> None:
    net, x = small(stem="cifar"), images()
    found = {layer.name: layer for layer in responses(net, x, batch_size=3)}
    last = found["stage2.1.branch.conv2"]
    assert last.behind == CONVOLUTION
    assert found["stage2.1.branch.conv1"].behind == NORM
    seen: list[Tensor] = []
    with hooked({net.get_submodule(last.name): lambda _, out: seen.append(out.detach())}):
        net(x)
    assert last.std == pytest.approx(float(seen[0].double().std(correction=0)), rel=1e-6)
    with pytest.raises(ValueError, match="has no 3x3 convolution"):
        responses(nn.Conv2d(3, 4, 1), images())


class Normed(nn.Sequential):
    """Two 3x3 convolutions with norms, each with its activation in the norm, or behind it."""

    def __init__(self, *norms: nn.Module) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), norms[0], nn.Conv2d(8, 8, 3), norms[1])

    def forward_features(self, x: Tensor) -> Tensor:
        return self(x)


@pytest.mark.parametrize("inplace", [False, True])
def test_responses_stand_in_front_of_the_activation_of_a_norm(inplace: bool) -> None:
    """timm's norms have an activation within: behind it the deviation is another one."""
    norms = [BatchNormAct2d(8, inplace=inplace) for _ in range(2)]
    net = settled(Normed(*norms), images())
    assert [(layer.behind, round(layer.std, 2)) for layer in responses(net, images())] == [(NORM, 1.0)] * 2


def test_an_activation_that_cannot_be_parted_from_its_norm_is_not_called_a_norm() -> None:
    class Both(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    net = Normed(Both(8), Both(8)).eval()
    found = responses(net, images())
    assert {layer.behind for layer in found} == {CONVOLUTION}
    assert found[0].std == pytest.approx(float(net[0](images()).detach().double().std(correction=0)), rel=1e-6)


def test_norms_of_other_kinds_are_norms() -> None:
    net = Normed(nn.GroupNorm(2, 8), nn.GroupNorm(8, 8)).eval()
    assert [(layer.behind, round(layer.std, 2)) for layer in responses(net, images())] == [(NORM, 1.0)] * 2


def test_the_median_of_an_even_number_is_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Response(name=str(std), behind=NORM, std=std) for std in (1.0, 2.0, 3.0, 8.0)]
    monkeypatch.setattr("zoo.analysis.responses.responses", lambda *_: told)
    assert analyse("responses", ["lenet_test"], Options(images=2)).shown[0]["median"] == "2.500"


def test_gradients_of_layers_are_those_of_autograd() -> None:
    net, x = small("resnet_test"), images()
    found = layer_gradients(net, x, LABELS)
    assert all(p.grad is None for p in net.parameters())
    other = copy.deepcopy(net)
    F.cross_entropy(other(x), LABELS).backward()
    layers = {n: m for n, m in other.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in found} == set(layers)
    for layer in found:
        weight: Any = layers[layer.name].weight
        assert layer.weight == pytest.approx(float(weight.grad.norm()), rel=1e-5)
        assert layer.relative == pytest.approx(float(weight.grad.norm() / weight.detach().norm()), rel=1e-5)
    logits = other(x).detach().requires_grad_()
    [gradient] = torch.autograd.grad(F.cross_entropy(logits, LABELS), logits)
    assert found[-1].map == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-5)
    assert [layer.dims for layer in found] == [4] * (len(found) - 1) + [2]


def test_maps_are_compared_with_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient at the logits is no gradient at a map, and on another scale."""
    monkeypatch.setattr("zoo.analysis.gradients.open_net", lambda *_, **__: small("resnet_test"))
    outcome = analyse("gradients", ["resnet_test"], Options(images=3, draws=1))
    maps = [row["map"] for row in outcome.rows if row["what"] == "layer" and ".fc" not in row["name"]]
    assert float(outcome.shown[0]["first / last map"]) == pytest.approx(maps[0] / maps[-1], rel=1e-2)
    figure = Figure()
    outcome.draw(figure)
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(maps, rel=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_scaled_shortcuts_make_a_power_of_their_factor(scale: float) -> None:
    """He et al. 2016, equations 5 to 8: with branches off the gradient is multiplied by the factor in each unit."""
    net, x = small(depths=(4,), widths=(8,), stem_width=8, stem="cifar"), images()
    units = units_of(net, SIZE)
    shortcuts = {unit.module.get_submodule("shortcut"): lambda _, output: output * scale for unit in units}
    with without(units), hooked(shortcuts):
        found = gains(net, x, draws=2)
    assert [gain.own for gain in found] == pytest.approx([scale**2] * 4)
    for values in ([gain.whole for gain in found], [gain.product for gain in found]):
        assert values == pytest.approx([scale ** (2 * (4 - i)) for i in range(4)])


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.0, 2.0])
def test_the_product_of_scaled_shortcuts_is_exact(scale: float) -> None:
    """The factor on the gradient over L - l units is lambda^(L - l), however the branches are."""
    net = small(depths=(4,), widths=(8,), stem_width=8, stem="cifar", shortcut_scale=scale).double()
    x = images().double()
    found = gains(net, x, draws=2)
    assert [gain.shortcuts for gain in found] == pytest.approx([scale ** (2 * (4 - i)) for i in range(4)], rel=1e-12)
    assert all(gain.whole != pytest.approx(gain.shortcuts, rel=1e-3) for gain in found), "branches add to it"
    h, v = (torch.randn(2, 8, 6, 6, dtype=torch.float64) for _ in range(2))
    h.requires_grad_()
    with gradient_path(units_of(net, SIZE), ()):
        [gradient] = torch.autograd.grad(net.stage1(h), h, v)
    torch.testing.assert_close(gradient, v * scale**4, rtol=0 if scale != 0.9 else 1e-15, atol=0)


def test_only_residual_chains_have_shortcuts() -> None:
    x = torch.randn(2, 3, 64, 64)
    assert {gain.shortcuts for gain in gains(zoo.create_model("vgg_lrn_test"), x, draws=1)} == {None}
    scaled, whole = (zoo.create_model("wider_resnet_test", pools=0, shortcut_scale=s) for s in (0.5, 1.0))
    found = gains(scaled, x, draws=1)
    assert all(gain.shortcuts for gain in found)
    assert sum(isinstance(module, Scale) for module in scaled.modules()) == len(found) == 7
    assert not any(isinstance(module, Scale) for module in whole.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shortcut_scale": 0}, r"shortcut_scale \(0.0\) must be above 0"),
        ({"branch_scale": -1.0}, r"branch_scale \(-1.0\) must be above 0"),
        ({"shortcut": "none", "shortcut_scale": 0.5}, r"shortcut_scale \(0.5\) must be 1 in a plain net"),
        ({"shortcut": "none", "branch_scale": 0.5}, r"branch_scale \(0.5\) must be 1 in a plain net"),
    ],
)
def test_scales_that_make_no_net(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_gains_belong_to_chains() -> None:
    assert chain_of(small("resnet_test"), SIZE) == ["stage1.0", "stage1.1", "stage2.0", "stage2.1"]
    vgg = zoo.create_model("vgg_lrn_test")
    assert chain_of(vgg, (3, 64, 64))[:3] == ["stage1.0", "stage2.0", "stage2.1"]
    for name in ("densenet_test", "fishnet_test"):
        assert gains(zoo.create_model(name), torch.zeros(1, 3, 32, 32)) == []
    with pytest.raises(ValueError, match=r"draws \(0\) must be at least 1"):
        gains(vgg, torch.zeros(1, 3, 64, 64), draws=0)


@pytest.mark.parametrize("what", ["path-gradients", "responses", "gradients"])
def test_tables_and_pictures(what: str) -> None:
    outcome = analyse(what, ["resnet20_cifar"], Options(images=2, draws=1))
    assert outcome.csv().count("\n") == len(outcome.rows) + 1
    assert outcome.shown[0]["net"] == "resnet20_cifar"
    assert outcome.picture("png")
