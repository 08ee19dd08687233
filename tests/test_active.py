"""Training in which a fixed number of units is active in each step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.analysis.active import ActiveUnits
from zoo.analysis.branches import hooked, units_of, without
from zoo.bench import Request
from zoo.bench.request import prepare
from zoo.bench.train import train
from zoo.datasets.image_set import Dataset
from zoo.results.recipe import Recipe

SIZE = (3, 16, 16)


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    return zoo.create_model("resnet_test", **{"depths": (4, 3), "widths": (8, 12), "mid_widths": ()} | changes).eval()


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(1))


def test_exactly_so_many_units_are_active() -> None:
    net, x = small(), images(2)
    units = units_of(net, SIZE)
    chosen = ActiveUnits(net, SIZE, 4)
    assert [unit.name for unit in chosen.free] == [unit.name for unit in units if not unit.reshapes]
    seen = []
    for step in range(6):
        given: list[bool] = []

        def note(maps: Any, _: Any, given: list[bool] = given) -> None:
            given.append(bool(maps[0].any()))

        with chosen.step(f"0/0/{step}"), hooked({unit.module.get_submodule("sum"): note for unit in units}):
            out = net(x)
        assert sum(given) == 4
        with without([unit for unit in units if not given[units.index(unit)]]):
            torch.testing.assert_close(net(x), out)
        assert all(given[i] for i, unit in enumerate(units) if unit.reshapes)
        seen.append(tuple(given))
    assert len(set(seen)) > 1
    assert chosen.draw("0/0/1") == chosen.draw("0/0/1")
    with ActiveUnits(net, SIZE, len(units)).step("0/0/0"):
        out = net(x)
    assert torch.equal(out, net(x)), "with all units it is the net"
    with ActiveUnits(small(shortcut="none"), SIZE, 0).step("0/0/0"):
        pass


def test_scaled_branches_have_the_size_of_all() -> None:
    net, x = small(), images(2)
    chosen = ActiveUnits(net, SIZE, 4, scaled=True)
    assert chosen.factor == len(chosen.free) / chosen.drawn > 1
    [first, *_] = chosen.draw("7")
    maps: list[Tensor] = []
    assert first.branch is not None
    with chosen.step("7"), hooked({first.module.get_submodule("sum"): lambda given, _: maps.append(given[0])}):
        net(x)
    plain: list[Tensor] = []
    with hooked({first.branch: lambda _, output: plain.append(output)}), chosen.step("7"):
        net(x)
    torch.testing.assert_close(maps[0], plain[0] * chosen.factor)


def test_what_cannot_be_drawn_is_an_error() -> None:
    for number in (2, 8):
        with pytest.raises(ValueError, match=rf"paths must lie between 3 and 7 for this net, got {number}"):
            ActiveUnits(small(), SIZE, number)
    with pytest.raises(ValueError, match="paths must be 0 for a plain net"):
        ActiveUnits(small(shortcut="none"), SIZE, 3)
    with pytest.raises(ValueError, match="paths_scaled must be False without paths"):
        Recipe(epochs=1, batch_size=2, lr=0.1, paths_scaled=True)
    with pytest.raises(ValueError, match="paths must not be negative"):
        Recipe(epochs=1, batch_size=2, lr=0.1, paths=-1)
    with pytest.raises(ValueError, match="paths must be 0 for task segment"):
        prepare(Request(task="segment", changes={"paths": 4}))
    with pytest.raises(ValueError, match="paths must be 0 with compile"):
        prepare(Request(models=["resnet20_cifar"], changes={"paths": 4}, compile=True))


def test_a_run_with_few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(8) % 4
    images_ = images(8)
    dataset = Dataset(
        name="noise",
        train_images=images_,
        train_labels=labels,
        test_images=images_,
        test_labels=labels,
        num_classes=4,
        fill=0.0,
        mean=torch.zeros(()),
        std=torch.ones(()),
    )
    recipe = Recipe(epochs=2, batch_size=4, lr=0.05)
    drawn: list[str] = []
    draw = ActiveUnits.draw
    monkeypatch.setattr(ActiveUnits, "draw", lambda self, seed: drawn.append(seed) or draw(self, seed))
    nets: list[nn.Module] = []

    def losses(recipe: Recipe) -> list[float]:
        def make() -> nn.Module:
            nets.append(small(num_classes=4))
            return nets[-1]

        return [epoch.train_loss for epoch in train(make, dataset, recipe, seed=3).epochs]

    few = losses(recipe.changed(paths=4))
    assert drawn == ["3/0/0", "3/0/1", "3/1/0", "3/1/1"]
    assert few == losses(recipe.changed(paths=4))
    whole = losses(recipe)
    assert whole != few
    assert losses(recipe.changed(paths=7)) == whole, "all units are no choice"
    assert not any(module._forward_hooks for net in nets for module in net.modules())
    assert "paths" not in recipe.to_dict()
