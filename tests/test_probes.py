"""Probes against closed answers: classes that can be read from a map, and classes that cannot."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.analysis.nets import Options
from zoo.analysis.probes import averaged, linear_probe, maps, nearest_probe, probes
from zoo.analysis.run import analyse


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of two classes: the class is the sign of the red channel's mean."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = 0.3 * torch.randn(count, 3, 12, 12, generator=generator)
    noise[:, 0] += (2.0 * labels - 1)[:, None, None]
    return noise, labels


class Erasing(nn.Module):
    """A net whose second map has lost the class."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps = nn.Conv2d(3, 4, 1)
        self.loses = nn.InstanceNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.loses(self.keeps(x)).mean((2, 3))


def test_what_a_map_has_lost_no_probe_reads() -> None:
    found = {p.tap: p for p in probes(Erasing(), (images(40, 0), images(30, 1)), ["keeps", "loses"])}
    for tap in ("image", "keeps"):
        assert found[tap].linear == found[tap].nearest == 100
    assert found["loses"].linear < 75
    assert found["loses"].nearest < 75


@pytest.mark.parametrize(
    ("channels", "side", "averaged_side"), [(96, 55, 10), (256, 27, 6), (384, 13, 5), (256, 13, 6), (64, 8, 8)]
)
def test_maps_are_averaged_to_the_sides_of_the_paper(channels: int, side: int, averaged_side: int) -> None:
    assert averaged(torch.zeros(2, channels, side, side)).shape == (2, channels, averaged_side, averaged_side)


def test_the_linear_probe_is_linear_and_the_neighbours_are_not() -> None:
    corners = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert float((linear_probe(corners, labels, corners) == labels).float().mean()) < 1, "exclusive or"
    assert nearest_probe(corners, labels, 1.1 * corners, neighbours=1).tolist() == labels.tolist()
    # One near neighbour outweighs two far ones.
    angles = torch.tensor([0.1, 1.2, 1.3])
    train = torch.stack([angles.cos(), angles.sin()], 1)
    assert nearest_probe(train, torch.tensor([1, 0, 0]), torch.tensor([[1.0, 0.0]])).tolist() == [1]


@pytest.mark.parametrize("name", ["resnet_test", "fishnet_test", "lenet_test"])
def test_maps_are_those_of_the_taps_and_the_net_stays_as_it_is(name: str) -> None:
    net: Any = zoo.create_model(name).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(3, *zoo.model_entry(name).input_size)
    state = torch.get_rng_state()
    found = maps(net, x)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert list(found) == ["image", *(tap["module"] for tap in net.feature_info), "pooled"]
    net.eval()
    with torch.no_grad():
        features, taps = net.forward_intermediates(x)
        assert torch.equal(found["pooled"].flatten(1), net.forward_head(features, pre_logits=True))
    for tap, own in zip(taps, list(found.values())[1:-1], strict=True):
        assert torch.equal(own, averaged(tap))


def test_the_analysis(tmp_path: Path) -> None:
    outcome = analyse("probes", ["lenet_test"], Options(images=40))
    rows = list(csv.DictReader(outcome.write(tmp_path)[0].read_text().splitlines()))
    taps = [tap["module"] for tap in zoo.create_model("lenet_test").feature_info]
    assert [row["tap"] for row in rows] == ["image", *taps, "pooled"]
    assert {row["weights"] for row in rows} == {"fresh"}
    assert all(0 <= float(row[score]) <= 100 for row in rows for score in ("linear", "nearest"))
    with pytest.raises(ValueError, match=r"images \(0\) must be a whole number from 1"):
        analyse("probes", ["lenet_test"], Options(images=0))
    with pytest.raises(ValueError, match=r"modules \('stage9'\) is not a module"):
        maps(zoo.create_model("lenet_test"), torch.zeros(1, 3, 32, 32), ["stage9"])
