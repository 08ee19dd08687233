"""`zoo.testing.check_backbone`: a family from outside that keeps the contract, and one that breaks each promise."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Spec
from zoo.layers import ORDERS, Conv, Kit, Residual, Stage, basic, sequence
from zoo.strides import halvings
from zoo.testing import PROMISES, BrokenPromise, check_backbone


@dataclass(frozen=True, kw_only=True)
class ToySpec(Spec):
    widths: tuple[int, ...] = (8, 12, 16)

    @property
    def level_strides(self) -> tuple[int, ...]:
        return halvings(1, 3)


class Toy(Backbone):
    """A stem and two stages of residual units."""

    def build(
        self, spec: ToySpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        stem, *stages = spec.widths
        self.stem = sequence(kit, in_chans, "cna", [Conv(out_chs=stem, kernel=3)])
        taps, chs = [("stem", stem, 1)], stem
        rates = iter(drop_path_rates(drop_path_rate, 2 * len(stages)))
        for number, (width, level) in enumerate(zip(stages, spec.hold(output_stride)[1:], strict=True), 2):
            units = []
            for at in (level, level.within):
                convs = basic(width, stride=at.step, dilation=(at.before, at.dilation))
                project = [Conv(out_chs=width, kernel=1, stride=at.step)]
                shortcut = sequence(kit, chs, "cn", project) if chs != width else None
                unit = Residual(kit, chs, convs, ORDERS["post"], shortcut=shortcut, drop_path=next(rates))
                units.append(unit)
                chs = width
            self.add_module(f"stage{number}", Stage(*units))
            taps.append((f"stage{number}", width, level.stride))
        return Trunk(taps=taps, final=nn.Identity(), num_features=chs)


class SaysOtherStrides(Toy):
    def build(self, *args: Any, **kwargs: Any) -> Trunk:
        trunk = super().build(*args, **kwargs)
        return Trunk(taps=[(n, c, 2 * s) for n, c, s in trunk.taps], final=trunk.final, num_features=trunk.num_features)


class ScalesItsLogits(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class CopiesItsTaps(Toy):
    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        x, taps = super().forward_trunk(x, keep, stop)
        return x, [tap.clone() for tap in taps]


class WritesIntoTaps(Toy):
    def build(self, *args: Any, **kwargs: Any) -> Trunk:
        trunk = super().build(*args, **kwargs)
        return Trunk(taps=trunk.taps, final=nn.Hardtanh(-1e-3, 1e-3, inplace=True), num_features=trunk.num_features)


class CutsNothing(Toy):
    def prune_intermediate_layers(self, indices: Any = 1, *args: Any, **kwargs: Any) -> list[int]:
        return [i % 3 for i in indices]


class TakesPhotographsAlone(Toy):
    def __init__(self, spec: ToySpec, **kwargs: Any) -> None:
        super().__init__(spec, **kwargs | {"in_chans": 3})


class TakesEvenSizesAlone(Toy):
    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        return super().forward_trunk(x.unflatten(2, (x.shape[2] // 2, 2)).flatten(2, 3), keep, stop)


class KeepsItsClassifier(Toy):
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        pass


class HoldsNothing(Toy):
    def build(self, *args: Any, output_stride: int | None, **kwargs: Any) -> Trunk:
        return super().build(*args, output_stride=None, **kwargs)


class HasALayerTooMany(Toy):
    def build(self, *args: Any, **kwargs: Any) -> Trunk:
        trunk = super().build(*args, **kwargs)
        self.stem.register_parameter("unused", nn.Parameter(torch.zeros(3)))
        return trunk


class LooksAtTheBatch(Toy):
    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        return super().forward_trunk(x - x.mean(), keep, stop)


class StoresEverything(Toy):
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        pass


class DropsNothing(Toy):
    def build(self, *args: Any, drop_path_rate: float, **kwargs: Any) -> Trunk:
        return super().build(*args, drop_path_rate=0.0, **kwargs)


class LacksSpeed(ToySpec):
    @property
    def lacks(self) -> dict[str, str]:
        return {"speed": "it is a toy"}


class HasItsOwnActivation(Toy):
    def build(self, *args: Any, **kwargs: Any) -> Trunk:
        trunk = super().build(*args, **kwargs)
        return Trunk(taps=trunk.taps, final=nn.ReLU(), num_features=trunk.num_features)


class DrawsNothing(Toy):
    def init_weights(self, zero_init_last: bool = False) -> None:
        pass


class CountsFromTheEnd(Toy):
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"classifier": r"^classifier\.", "stage3": r"^stage3\.", "stage2": r"^stage2\.", "stem": r"^stem\."}


class ChangesTheLayout(Toy):
    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        x, taps = super().forward_trunk(x, keep, stop)
        return x, [tap.contiguous() for tap in taps]


class HidesANumber(Toy):
    def __init__(self, spec: ToySpec, **kwargs: Any) -> None:
        super().__init__(spec, **kwargs)
        self.hidden = float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.hidden


class IsPythonAlone(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(max([x, x], key=lambda image: len(image)))


BROKEN = {
    "description": (SaysOtherStrides, r"feature_info has \[2, 4, 8\]"),
    "logits": (ScalesItsLogits, "forward is not forward_head of forward_features"),
    "taps": (CopiesItsTaps, "the output of stem is not the map that is returned"),
    "choice_of_taps": (WritesIntoTaps, "a layer behind a tap writes into it"),
    "pruning": (CutsNothing, "cut to tap 0, the features are not the tap"),
    "input_channels": (TakesPhotographsAlone, "in_chans=1 makes a net with in_chans 3"),
    "image_sizes": (TakesEvenSizesAlone, "RuntimeError: .*65"),
    "classifier": (KeepsItsClassifier, r"with pooling 'avg' forward has shape \(2, 7\), not \(2, 5\)"),
    "output_stride": (HoldsNothing, r"output_stride=1 has taps at \[1, 2, 4\], not \[1, 1, 1\]"),
    "gradients": (HasALayerTooMany, "stem.unused gets no gradient"),
    "independent_images": (LooksAtTheBatch, "an image alone has another output"),
    "checkpointing": (StoresEverything, "100% of the numbers are stored all the same"),
    "drop_rates": (DropsNothing, "drop_path_rate does not act in training"),
    "what_it_lacks": (Toy, r"lacks \('speed'\) must be one of"),
    "layer_types": (HasItsOwnActivation, "ReLU is left"),
    "meta_device": (DrawsNothing, "init_weights does not set stem.conv1.weight"),
    "layer_groups": (CountsFromTheEnd, "stem.conv1.weight is not in the first group"),
    "layouts_and_types": (ChangesTheLayout, "tap 0 is not channels last any more"),
    "copies": (HidesANumber, "a net with the state dict"),
    "torchscript": (IsPythonAlone, "[A-Za-z]+: "),
}


def toy(kind: type[Toy] = Toy, spec: type[ToySpec] = ToySpec) -> Toy:
    return kind(spec(), num_classes=5)


def test_a_family_from_outside_keeps_the_contract() -> None:
    check_backbone(toy())


@pytest.mark.parametrize("promise", PROMISES)
def test_a_broken_promise_is_named(promise: str) -> None:
    kind, found = BROKEN[promise]
    net = toy(kind, LacksSpeed if promise == "what_it_lacks" else ToySpec)
    with pytest.raises(BrokenPromise, match=f"^{kind.__name__} breaks {promise}: .*{found}"):
        check_backbone(net, promises=[promise])


def test_what_is_no_backbone_is_refused() -> None:
    with pytest.raises(TypeError, match=r"net \(Linear\) must be a name, or derived from zoo.backbone.Backbone"):
        check_backbone(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="resnet_test"):
        check_backbone("resnet_tset")
    with pytest.raises(ValueError, match=r"promises \('speed'\) must be some of description, logits"):
        check_backbone("resnet_test", promises=["speed"])


def test_the_callers_random_state_is_left() -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    check_backbone("resnet_test", promises=["drop_rates", "description"])
    assert torch.equal(torch.rand(3), want)


def test_every_promise_says_what_it_is() -> None:
    assert all(promise.__doc__ for promise in PROMISES.values())
    assert zoo.create_model("resnet_test").layouts, "the nets of the zoo are Backbones, too"
