"""BN-Inception: Inception modules with batch norm, whose 5x5 are two 3x3; and with squeeze and excite.

Papers:
    Ioffe, Szegedy 2015, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
    arXiv:1502.03167, figure 5.
    Hu, Shen, Sun 2018, Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507, figure 2.

Resolutions (the number in brackets is the total stride of a tap)::

    image 224 --stem 7x7/2--> 112 [2] --pool2: max-pool/2--> 56 --reduce 1x1, 3x3--> 56 [4] --pool3: max-pool/2-->
    stage3 28 [8] (3a, 3b) -> stage4 14 [16] (3c, 4a to 4d) -> stage5 7 [32] (4e, 5a, 5b)

    module:  one      1x1                     three    1x1 -> 3x3
             pair   1x1 -> 3x3 -> 3x3       project  3x3 pooling of stride 1 -> 1x1
             all four are concatenated in this order; with squeeze and excite, each channel is then scaled by a gate

The first modules of stage4 and stage5 (3c and 4e) halve: the last 3x3 of their branches has stride 2, there is no 1x1
of its own, and the map itself is max-pooled. Poolings within a module are averages, in 5b a maximum.

Sources: the modules are those of the released SE-BN-Inception (hujie-frank/SENet, SE-BN-Inception.prototxt at 2c51ece)
and of pytorchcv, which agree with each other. Gates have a sixteenth of the channels between their two 1x1.

What differs, and why:
    * The first paper's table was not at hand; the widths are those of both sources. ``bn_inception`` is pytorchcv's
      net, whose convolutions have biases that the norms behind them cancel: its weights fit. ``se_bn_inception`` has
      none there, like the released one.
    * SE-Inception of the second paper is this net: 11.922 M parameters and 4.091 GFLOPs in OpenVINO's model zoo, which
      counts one number a channel for a norm that it has folded, two a multiply-add, and poolings and activations too.
    * Sizes that do not halve evenly are rounded up, in poolings too; Caffe's pooling of an odd map is smaller than a
      strided convolution, so that the modules which halve could not join them.
    * ``output_stride`` dilates every window behind the stride that is traded, averages too.
    * ``se_bn_inception_test`` is ours.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk
from zoo.entry import Entry, Spec
from zoo.layers import Conv, DilatedMaxPool, Kit, SqueezeGate, Stage, concatenate, sequence
from zoo.layouts.bn_inception import LAYOUTS
from zoo.strides import Level, halvings

COLUMNS = ("ones", "three_reduces", "threes", "pair_reduces", "pairs", "projections")


@dataclass(frozen=True, kw_only=True)
class BNInceptionSpec(Spec):
    """A stem and three stages of modules.

    Attributes:
        depths: Modules in each of the three stages. The first of the second and of the third halves.
        ones: Channels of each module's 1x1, in the order in which the modules run; 0 for modules that halve.
        three_reduces: Channels before each 3x3.
        threes: Channels of each 3x3.
        pair_reduces: Channels before each pair of 3x3.
        pairs: Channels of each 3x3 of a pair.
        projections: Channels after each module's pooling; 0 for modules that halve.
        stem_widths: Channels of the stem's three convolutions.
        bias: Convolutions have biases.
        squeeze: Quotient of the channels of a module and those between the 1x1 of its gate; 0 for no gates.
    """

    depths: tuple[int, ...] = (2, 5, 3)
    ones: tuple[int, ...]
    three_reduces: tuple[int, ...]
    threes: tuple[int, ...]
    pair_reduces: tuple[int, ...]
    pairs: tuple[int, ...]
    projections: tuple[int, ...]
    stem_widths: tuple[int, ...] = (64, 64, 192)
    bias: bool = False
    squeeze: int = 0

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "three_reduces", "threes", "pair_reduces", "pairs", "stem_widths")
        self.require(len(self.depths) == 3, "depths", "have three numbers, one a stage")
        self.require(len(self.stem_widths) == 3, "stem_widths", "have three numbers")
        modules = sum(self.depths)
        for name in COLUMNS:
            self.require(len(getattr(self, name)) == modules, name, f"have one number a module, {modules}")
        halving = (self.depths[0], self.depths[0] + self.depths[1])
        for name in ("ones", "projections"):
            fits = all((width == 0) == (i in halving) and width >= 0 for i, width in enumerate(getattr(self, name)))
            self.require(fits, name, "be 0 for the first module of the second and third stage alone, which halve")
        self.require(self.squeeze >= 0, "squeeze", "not be negative")

    @property
    def modules(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each module in the order of ``COLUMNS``."""
        return tuple(zip(*(getattr(self, name) for name in COLUMNS), strict=True))

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Total stride of the first convolution."""
        return (2,)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the second part of the stem and of each stage."""
        return halvings(4, 4)

    @property
    def lacks(self) -> dict[str, str]:
        """Unsupported arguments: there is no residual sum."""
        return {
            "drop_path_rate": "it has no residual branch to drop",
            "zero_init_last": "it has no residual unit that could start as the identity",
        }


class HalvingPool(nn.Module):
    """3x3 max-pooling of stride 2 whose windows begin at every second pixel. Sizes are rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        return self.pool(F.pad(x, (0, 2, 0, 2), value=float("-inf")))


class DilatedAverage(nn.Module):
    """3x3 average of stride 1 over a map with zeros around it, with taps ``dilation`` pixels apart."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Average the map: (N, C, H, W) -> the same shape."""
        d = self.dilation  # rows, then columns, for no pooling of torch's averages with a dilation
        x = F.pad(x, (d, d, d, d))
        x = (x[:, :, : -2 * d] + x[:, :, d:-d] + x[:, :, 2 * d :]) / 3
        return (x[:, :, :, : -2 * d] + x[:, :, :, d:-d] + x[:, :, :, 2 * d :]) / 3


def _pool(level: Level) -> nn.Module:
    """Make the pooling that leads to a level, or its dilated form."""
    return HalvingPool() if level.step > 1 else DilatedMaxPool(level.before, 3)


def _pool_within(dilation: int, *, average: bool) -> nn.Module:
    """Make the pooling of a module that does not halve."""
    if not average:
        return DilatedMaxPool(dilation, 3, centred=True) if dilation > 1 else nn.MaxPool2d(3, stride=1, padding=1)
    return DilatedAverage(dilation) if dilation > 1 else nn.AvgPool2d(3, stride=1, padding=1)


class Inception(nn.Module):
    """Module: parallel branches over one map, and a gate on what they give together.

    Args:
        spec: Specification that gives biases and gates.
        kit: The shared layer types.
        in_chs: Channels of the input.
        widths: Widths in the order of ``COLUMNS``.
        level: Resolution, and the operator that leads to it.
        average: Average within the module, or take the maximum.

    Attributes:
        out_chs: Channels of the output.
    """

    def __init__(
        self, spec: BNInceptionSpec, kit: Kit, in_chs: int, widths: tuple[int, ...], level: Level, *, average: bool
    ) -> None:
        super().__init__()
        one, three_reduce, three, pair_reduce, pair, project = widths
        self.halves = not one

        def convs(*widths: int) -> nn.Module:
            """A 1x1, and a 3x3 for each further width, the last of which leads to the level."""
            chain = [
                Conv(
                    out_chs=width,
                    kernel=3 if i else 1,
                    stride=level.step if i and i == len(widths) - 1 else 1,
                    dilation=level.before if i else 1,
                    bias=spec.bias,
                )
                for i, width in enumerate(widths)
            ]
            return sequence(kit, in_chs, "cna" * len(chain), chain)

        self.one = nn.Identity() if self.halves else convs(one)
        self.three = convs(three_reduce, three)
        self.pair = convs(pair_reduce, pair, pair)
        self.pool = _pool(level) if self.halves else _pool_within(level.before, average=average)
        self.project = nn.Identity() if self.halves else convs(project)
        self.out_chs = one + three + pair + (in_chs if self.halves else project)
        gated = spec.squeeze > 0
        self.gate = (
            SqueezeGate(kit, self.out_chs, max(self.out_chs // spec.squeeze, 1), self.out_chs) if gated else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches: (N, in_chs, H, W) -> (N, out_chs, H', W')."""
        maps = [self.three(x), self.pair(x), self.project(self.pool(x))]
        if not self.halves:
            maps = [self.one(x)] + maps  # noqa: RUF005 - TorchScript has no star
        out = concatenate(maps)
        if self.gate is not None:
            out = out * self.gate(out)
        return out


class BNInception(Backbone):
    """BN-Inception: a stem with two poolings, and three stages of modules."""

    layouts = LAYOUTS

    def build(
        self, spec: BNInceptionSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        first, middle, chs = spec.stem_widths
        finest, *levels = spec.hold(output_stride)
        self.stem = sequence(kit, in_chans, "cna", [Conv(out_chs=first, kernel=7, stride=2, bias=spec.bias)])
        self.pool2 = HalvingPool()
        convs = [Conv(out_chs=middle, kernel=1, bias=spec.bias), Conv(out_chs=chs, kernel=3, bias=spec.bias)]
        self.reduce = sequence(kit, first, "cna cna", convs)
        self.pool3 = _pool(levels[0])
        taps = [("stem", first, 2), ("reduce", chs, finest.stride)]
        rows = list(spec.modules)
        for index, (depth, level) in enumerate(zip(spec.depths, levels, strict=True)):
            at, units = level if index else level.within, []
            for _ in range(depth):
                widths = rows.pop(0)
                units.append(Inception(spec, kit, chs, widths, at, average=bool(rows)))
                chs, at = units[-1].out_chs, level.within
            name = f"stage{index + 3}"
            self.add_module(name, Stage(*units))
            taps.append((name, chs, level.stride))
        return Trunk(taps=taps, final=nn.Identity(), num_features=chs)


IOFFE = "Ioffe & Szegedy 2015, arXiv:1502.03167"
HU = "Hu et al. 2018, arXiv:1709.01507"

MODULES = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}
"""Widths of each module in the order of `COLUMNS`."""


def _spec(*, without: tuple[str, ...] = (), divisor: int = 1, **more: Any) -> BNInceptionSpec:
    """Return the specification with the table's modules, without some of them, and with their channels divided."""
    rows = [row for name, row in MODULES.items() if name not in without]
    columns: dict[str, Any] = {
        name: tuple(n // divisor for n in column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    return BNInceptionSpec(**columns, **more)


MODELS = {
    "bn_inception": Entry(
        BNInception, _spec(bias=True), paper=IOFFE, params=11_295_240, reference="pytorchcv:bninception"
    ),
    "se_bn_inception": Entry(
        BNInception,
        _spec(squeeze=16),
        paper=HU,
        params=11_931_622,
        notes="No installable implementation: its count is held against OpenVINO's, its modules are those of "
        "bn_inception.",
    ),
    "se_bn_inception_test": Entry(
        BNInception,
        _spec(without=("4b", "4c", "4d"), divisor=16, depths=(2, 2, 3), stem_widths=(8, 8, 12), squeeze=4),
        paper=HU,
        params=40_549,
        input_size=(3, 64, 64),
        num_classes=10,
        notes="A net of our own, by the papers' rules; no published numbers.",
    ),
}
