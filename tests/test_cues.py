"""Shape or texture: the images have the cues that they say, and a net that knows one cue alone is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_analyses import kept
from torch import Tensor, nn

from zoo.analysis.cues import Bias, cue_bias
from zoo.analysis.nets import Options
from zoo.analysis.run import analyse
from zoo.datasets.built_in import load_cues, load_dataset
from zoo.datasets.cues import Conflicts, conflicting


def cues_and_conflicts() -> tuple[Tensor, Tensor, Conflicts]:
    cues, digits = load_dataset("cues"), load_dataset("digits")
    return cues.test_images, cues.test_labels, conflicting(cues, digits)


class ByTexture(nn.Module):
    """Names the grating whose direction is strongest in the spectrum."""

    def forward(self, x: Tensor) -> Tensor:
        axis = torch.arange(32.0)
        angles = torch.arange(10.0) * torch.pi / 10
        waves = axis[None, :, None] * angles.sin()[:, None, None] + axis[None, None, :] * angles.cos()[:, None, None]
        waves = torch.polar(torch.ones_like(waves), 2 * torch.pi * waves / 4)
        return torch.einsum("nhw,khw->nk", (x[:, 0] - x[:, 0].mean()).to(waves.dtype), waves).abs()


class ByShape(nn.Module):
    """Names the class of the conflict image whose white shape has the same silhouette."""

    def __init__(self, conflicts: Conflicts) -> None:
        super().__init__()
        self.known, self.classes = self.silhouettes(conflicts.shape), conflicts.shapes

    @staticmethod
    def silhouettes(x: Tensor) -> Tensor:
        return ((x[:, 0] - x[:, 0, :1, :1]).abs() > 1e-3).flatten(1).float()

    def forward(self, x: Tensor) -> Tensor:
        found = self.silhouettes(x)
        same = found @ self.known.T - 0.5 * (found.sum(1, keepdim=True) + self.known.sum(1))
        return nn.functional.one_hot(self.classes[same.argmax(1)], 10).float()


def test_a_net_that_knows_the_texture_alone_and_one_that_knows_the_shape_alone() -> None:
    images, labels, conflicts = cues_and_conflicts()
    assert not (conflicts.shapes == conflicts.textures).any()
    texture = cue_bias(ByTexture(), (images, labels), conflicts)
    assert min(texture.agreeing, texture.texture, texture.texture_alone) > 90
    assert texture.shape_bias < 5
    shape = cue_bias(ByShape(conflicts), (images, labels), conflicts)
    assert min(shape.agreeing, shape.shape, shape.shape_alone) > 95
    assert shape.shape_bias > 97
    assert shape.texture_alone < 30


def test_the_halves_are_normalised_and_made_the_same_each_time() -> None:
    cues = load_dataset("cues")
    assert cues.train_images.shape == (897, 3, 32, 32)
    assert cues.test_images.shape == (900, 3, 32, 32)
    torch.testing.assert_close(cues.train_images.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(cues.train_images.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    state = torch.get_rng_state()
    again = load_cues()
    assert again.fingerprint == cues.fingerprint
    assert torch.equal(state, torch.get_rng_state())


def test_the_analysis_asks_for_trained_nets() -> None:
    assert Bias(90, 30, 10, 0, 0).shape_bias == 75
    assert Bias(90, 0, 0, 0, 0).shape_bias is None
    with pytest.raises(
        ValueError, match=r"'lenet_test' must be trained on the two cues: zoo bench NAME --dataset cues"
    ):
        analyse("shape-or-texture", ["lenet_test"], Options(images=3))


def test_nets_of_other_sets_are_refused(tmp_path: Path) -> None:
    """Also one with as many classes: that it has seen no cue is no bias."""
    digits = kept(tmp_path / "digits", load_dataset("digits"), classes=10)
    with pytest.raises(ValueError, match=r"must be trained on the two cues"):
        analyse("shape-or-texture", [digits], Options(images=3))
    assert analyse("shape-or-texture", [kept(tmp_path / "cues", load_dataset("cues"), classes=10)], Options(images=3))
    other = replace(load_dataset("cues"), classes=tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"the images of cues are not those that"):
        analyse("shape-or-texture", [kept(tmp_path / "other", other, classes=10)], Options(images=3))


class Silent(nn.Module):
    """Names no class but one of its own, and counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return nn.functional.one_hot(torch.full((len(x),), 10), 11).float()


def test_no_bias_is_invented_and_all_kinds_of_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Silent()
    monkeypatch.setattr("zoo.analysis.cues.trained_on", lambda _: "cues")
    monkeypatch.setattr("zoo.analysis.cues.open_net", lambda *_: net)
    outcome = analyse("shape-or-texture", ["lenet5_cifar"], Options(images=7))
    assert outcome.rows[0]["shape_bias"] is None
    assert outcome.csv().endswith(",\n")
    assert outcome.picture("png")
    assert len(net.seen) == 4
    assert max(net.seen) <= 7


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.analysis.cues.trained_on", lambda _: "cues")
    outcome = analyse("shape-or-texture", ["lenet5_cifar"], Options(images=3))
    assert [path.suffix for path in outcome.write(tmp_path)] == [".csv", ".png", ".svg"]
    [row] = outcome.rows
    assert row["net"] == "lenet5_cifar"
    assert row["shape"] + row["texture"] <= 100
