"""Units and their two paths: what a net computes without a unit, in another order, or with a gradient cut."""

import contextlib
import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import scipy.stats
import torch
from structures import FABRIC
from test_analyses import Broken, facts
from torch import Tensor, nn

import zoo
from zoo.analysis.branches import Unit, gradient_path, hooked, reordered, units_of, without
from zoo.analysis.lesion import INTACT, ONE, ORDER, SEVERAL, error_of, kendall_tau, lesions
from zoo.layers import Residual

SIZE = (3, 32, 32)
PLAIN: dict[str, Any] = {"shortcut": "none", "depths": (2, 2), "widths": (8, 12), "mid_widths": ()}
VGG: dict[str, Any] = {"depths": (1, 2), "widths": (8, 12), "wide": (), "tap_full": True}
NETS: dict[str, tuple[str, dict[str, Any], int]] = {
    "residual": ("resnet_test", {}, 5),
    "pre-activation": ("preresnet_test", {"drop_path_rate": 0.2}, 5),
    "highway": ("highway_test", {}, 6),
    "plain": ("resnet_test", PLAIN, 2),
    "VGG": ("vgg_test", VGG, 1),
    "dense": ("densenet_test", {"depths": (2, 3)}, 5),
    "fish": ("fishnet_test", {}, 16),
    "edges": ("fabric_test", FABRIC | {"unit": "conv"}, 18),
    "edges with skips": ("fabric_test", FABRIC | {"unit": "post"}, 18),
}


def small(kind: str) -> Any:
    name, changes, _ = NETS[kind]
    torch.manual_seed(0)
    return zoo.create_model(name, **changes).eval()


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NETS)
def test_every_topology_has_units(kind: str) -> None:
    net = small(kind)
    units = units_of(net, SIZE)
    assert len(units) == NETS[kind][2]
    assert all((unit.branch is None) == (kind in ("plain", "VGG")) for unit in units)
    for unit in units:
        if unit.reshapes:
            assert unit.shapes[0] != unit.shapes[-1]


class Shortcut(nn.Module):
    """A residual unit that has lost its branch."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        start = self.unit.before(x) if self.unit.shared else x
        return self.unit.after(self.unit.shortcut(start))


class Skip(nn.Module):
    """An edge of a fabric that has lost its branch: the skip, or nothing."""

    def __init__(self, edge: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.edge, self.shape = edge, shape

    def forward(self, x: Tensor, raw: Tensor, size: tuple[int, int]) -> Tensor:
        if not hasattr(self.edge, "skips"):
            return x.new_zeros((len(x), *self.shape))
        return self.edge.act3(self.edge.gate(self.edge.project(self.edge.pool(raw), size)))


class Nothing(nn.Module):
    """A dense layer that gives zeros."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.chs = chs

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0].new_zeros((len(maps[0]), self.chs, *maps[0].shape[2:]))


REST: dict[str, Callable[[Unit], nn.Module]] = {
    **dict.fromkeys(("residual", "pre-activation", "fish"), lambda unit: Shortcut(unit.module)),
    **dict.fromkeys(("highway", "plain", "VGG"), lambda unit: nn.Identity()),
    "dense": lambda unit: Nothing(unit.shapes[-1][1]),
    **dict.fromkeys(("edges", "edges with skips"), lambda unit: Skip(unit.module, unit.shapes[-1][1:])),
}


@pytest.mark.parametrize("kind", NETS)
@torch.no_grad()
def test_a_deleted_unit_leaves_its_other_path(kind: str) -> None:
    """Each net without a unit computes what the net computes in which a module without the branch stands there."""
    net, x = small(kind), images()
    intact = net(x)
    changed = 0
    for unit in units_of(net, SIZE):
        other = copy.deepcopy(net)
        parent, _, child = unit.name.rpartition(".")
        copied = other.get_submodule(unit.name)
        setattr(other.get_submodule(parent), child, REST[kind](replace(unit, module=copied)))
        with without([unit]):
            lost = net(x)
        torch.testing.assert_close(lost, other(x), rtol=0, atol=0)
        changed += not torch.equal(lost, intact)
    assert changed
    assert torch.equal(net(x), intact)


@torch.no_grad()
def test_units_in_another_order() -> None:
    torch.manual_seed(0)
    net = zoo.create_model("resnet_test", depths=(3, 2), widths=(8, 12), mid_widths=(), shortcut="none").eval()
    x, units = images(), units_of(net, SIZE)
    intact, other = net(x), copy.deepcopy(net)
    first, last = units[0], units[1]
    assert first.group == last.group != units[2].group
    stage: Any = other.stage1
    stage[1], stage[2] = stage[2], stage[1]
    with reordered(net, {first: last, last: first}):
        assert torch.equal(net(x), other(x))
    assert torch.equal(net(x), intact)


def test_gradients_of_all_paths_add_up_to_the_gradient() -> None:
    """Values stay; at these values the gradient is the sum over all choices of branch or shortcut."""
    for name, changes in (("resnet_test", {"squeeze": 4}), ("preresnet_test", {"activate_first": True})):
        torch.manual_seed(0)
        net = zoo.create_model(name, depths=(2, 2), widths=(8, 8), mid_widths=(), **changes).eval().double()
        x = images(size=16).double().requires_grad_()
        units = units_of(net, (3, 16, 16))

        def gradient(net: nn.Module = net, x: Tensor = x) -> tuple[Tensor, Tensor]:
            out = net(x)
            return out, torch.autograd.grad(out.square().sum(), x)[0]

        out, whole = gradient()
        total = torch.zeros_like(x)
        for number in range(len(units) + 1):
            for through in itertools.combinations(units, number):
                with gradient_path(units, through):
                    same, part = gradient()
                assert torch.equal(same, out)
                total += part
        torch.testing.assert_close(total, whole, rtol=1e-9, atol=1e-12)


def test_paths_of_other_units_are_no_modules() -> None:
    units = units_of(small("highway"), SIZE)
    with pytest.raises(ValueError, match=r"unit stage1.0 is not residual"), gradient_path(units, units):
        pass
    with pytest.raises(ValueError, match="the net has no units"):
        units_of(zoo.create_model("lenet_test"), SIZE)


def test_a_lesion_study() -> None:
    net, x = small("plain"), images(40)
    labels = net(x).argmax(1)
    found = lesions(net, x, labels, draws=2, seed=3)
    assert [(lesion.kind, lesion.error) for lesion in found[:1]] == [(INTACT, 0)]
    single = [lesion for lesion in found if lesion.kind == ONE]
    units = units_of(net, SIZE)
    assert [lesion.units for lesion in single] == [(unit.name,) for unit in units]
    with without([units[0]]):
        assert single[0].error == 100 * float((net(x).argmax(1) != labels).float().mean())
    assert [lesion.error for lesion in found] == [x.error for x in lesions(net, x, labels, draws=2, seed=3)]
    assert {len(lesion.units) for lesion in found if lesion.kind == SEVERAL} == set(range(2, len(units) + 1))
    assert all(-1 <= lesion.tau <= 1 for lesion in found if lesion.kind == ORDER)


class Everywhere(nn.Module):
    """A net that scores every position, behind which a map of scores is averaged."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, :, None, None].expand(-1, -1, 1, 2)


def test_scores_of_positions_are_averaged() -> None:
    net, x = small("plain"), images(20)
    labels = net(x).argmax(1)
    assert error_of(Everywhere(net), x, labels) == 0
    labels[:5] += 1
    assert error_of(Everywhere(net), x, labels % 10) == error_of(net, x, labels % 10) == 25


def test_what_changes_nothing_or_comes_again_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two units there is one choice of both and one other order; half of the draws of two exchanges undo both."""
    passes = []
    monkeypatch.setattr("zoo.analysis.lesion.error_of", lambda *_: passes.append(1) or 0.0)
    net = zoo.create_model("resnet_test", **PLAIN | {"depths": (3,), "widths": (8,), "stem": "cifar"})
    found = lesions(net, images(1), torch.zeros(1, dtype=torch.long), draws=8)
    number = len(units_of(net, SIZE))
    several = [frozenset(lesion.units) for lesion in found if lesion.kind == SEVERAL]
    assert len(several) == len(set(several))
    assert sum(len(units) == number for units in several) == 1
    moved = [lesion for lesion in found if lesion.kind == ORDER]
    assert moved
    assert all(lesion.units and lesion.tau < 1 for lesion in moved)
    assert len(passes) == len(found)


def test_shape_changing_units_are_not_among_several() -> None:
    net, x = small("residual"), images(4)
    found = lesions(net, x, torch.zeros(4, dtype=torch.long), draws=1)
    assert {lesion.position for lesion in found if lesion.reshapes} == {1, 3, 4, 5}
    assert not [lesion for lesion in found if lesion.kind in (SEVERAL, ORDER)], "one unit alone keeps its shape"
    with pytest.raises(ValueError, match=r"draws \(-1\) must not be negative"):
        lesions(net, x, torch.zeros(4, dtype=torch.long), draws=-1)


def test_kendalls_tau() -> None:
    chance = random.Random(0)
    for number in (2, 5, 9):
        for _ in range(5):
            order = chance.sample(range(number), number)
            assert kendall_tau(order) == pytest.approx(scipy.stats.kendalltau(range(number), order).statistic)


@pytest.mark.parametrize("kind", ["residual", "plain", "edges"])
def test_a_net_is_untouched_after_an_error(kind: str) -> None:
    net = small(kind).train()
    units = units_of(net, SIZE)
    before = facts(net)
    for context in (
        without(units),
        reordered(net, dict(zip(units, reversed(units), strict=True))),
        hooked({unit.module: lambda _, output: output for unit in units}),
        *([gradient_path(units, units[:1])] if isinstance(units[0].module, Residual) else []),
    ):
        with contextlib.suppress(Broken), context:
            raise Broken
        assert facts(net) == before
