"""FRRN: one stream that is pooled and enlarged again, and a second one that keeps full resolution throughout.

Paper:
    Pohlen, Hermans, Mathias, Leibe 2017, Full-Resolution Residual Networks for Semantic Segmentation in Street Scenes,
    CVPR 2017, arXiv:1611.08323. Structure and numbers follow the authors' code (TobyPDE/FRRN at af0d4db, builders
    FRRNABuilder and FRRNBBuilder, with 48 base channels and 32 lanes as in its training scripts).

Resolutions of FRRN A, with channels of the pooling stream y; B has one more halving::

    stride  1   stem 48, 3 RU --. z: 32 lanes, never pooled: every FRRU reads it and adds to it .-- 3 RU 48 -> scores
                       y `------+--------------------------------------------------------------+-'
            2           `-> 3 FRRU 96                                       .-> 2 FRRU 96 ------'
            4                `-> 4 FRRU 192                     .-> 2 FRRU 192
            8                     `-> 2 FRRU 384    .-> 2 FRRU 192
           16                          `-> 2 FRRU 384

A residual unit (RU) is two 3x3 with norms and an activation between them, added to its input. A full-resolution
residual unit (FRRU) pools z to the size of y, concatenates both, runs two 3x3 with norm and activation, which make the
next y, and adds a 1x1 of it, enlarged by repeating pixels, to z.

What is documented: everything above, in the released code. There are 17,746,803 (A) and 24,755,699 parameters (B); the
paper's text was not at hand, so these are held against the code alone. What differs, or is not documented:
    * Maps of y are enlarged as by the function of Theano that the code calls: the pixels stand at the even positions,
      the means of neighbours between them, and the last row and column are repeated.
    * The code only takes sizes that halve evenly; ours are rounded up, and enlarged maps are cut to the map they meet.
      Where the code works, the outputs are equal but for the softmax, which is left to the loss, and for the epsilon of
      the norms: 1e-4 in Lasagne, 1e-5 here.
    * The taps are the pooling stream on its way down; the head reads none of them, but the map behind the second three
      units. Drop path acts on what a unit adds to its stream.
    * ``output_stride`` caps the stride of every map: pools and convolutions dilate, the state dict stays. All is exact
      up to the first unit at the capped stride; from then on features differ, for repeating a pixel has no dilated form
      (as in FishNet): every position adds its own value to z.
    * The input sizes are those of the training scripts: Cityscapes at a quarter (A) and at half (B) of its resolution.
    * ``frrn_test`` is ours.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, Spec, cifar_task
from zoo.layers import (
    Conv,
    DropPath,
    Kit,
    Order,
    Residual,
    Stage,
    Sum,
    basic,
    concatenate,
    max_pool_halving,
    run_checkpointed,
    sequence,
)
from zoo.strides import Level, halvings

UNIT = Order(before="", last="n", after="")
"""The released residual unit: no layer follows the sum."""

Streams = tuple[Tensor, Tensor]
"""The pooling stream y, (N, C, H / stride, W / stride), and the residual stream z, (N, lanes, H, W)."""


HEADS = ("dense", "classify")


@dataclass(frozen=True, kw_only=True)
class FrrnSpec(Spec):
    """Specification of a net with two streams.

    Attributes:
        width: Channels of y at full resolution.
        lanes: Channels of z.
        end_units: Number of residual units before the streams part, and again after they have joined.
        down_widths: Channels of y at stride 2, 4, ...
        down_units: Number of full-resolution residual units at each of these strides.
        up_widths: Channels of y on the way back, coarsest first, down to stride 2.
        up_units: Number of full-resolution residual units at each stride on the way back.
        head: ``dense`` scores every position, ``classify`` the pooled map.
    """

    width: int = 48
    lanes: int = 32
    end_units: int = 3
    down_widths: tuple[int, ...]
    down_units: tuple[int, ...]
    up_widths: tuple[int, ...]
    up_units: tuple[int, ...]
    head: str = "dense"

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("width", "lanes", "end_units", "down_widths", "down_units", "up_widths", "up_units")
        self.require_choice("head", HEADS)
        halvings = len(self.down_widths)
        self.require(halvings > 1, "down_widths", "have at least two numbers, one a halving")
        self.require(len(self.down_units) == halvings, "down_units", f"have {halvings} numbers, as down_widths")
        for name in ("up_widths", "up_units"):
            rule = f"have {halvings - 1} numbers: one less than down_widths, for the coarsest map is not enlarged"
            self.require(len(getattr(self, name)) == halvings - 1, name, rule)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the first units and of y on its way down."""
        return halvings(1, len(self.down_widths) + 1)

    @property
    def head_stride(self) -> int:
        """Total stride of the map that the head reads, which has the size of the image."""
        return 1

    @property
    def dense(self) -> bool:
        """True if there is a score for every position."""
        return self.head == "dense"


class FullResolutionUnit(nn.Module):
    """Full-resolution residual unit (FRRU): computes the next y, and adds a residual to z.

    Args:
        kit: The shared layer types.
        in_chs: Channels of y.
        out_chs: Channels of the next y.
        lanes: Channels of z.
        level: Resolution of y.
        drop_path: Probability of adding nothing to the z of a sample in training.
    """

    def __init__(self, kit: Kit, in_chs: int, out_chs: int, lanes: int, level: Level, *, drop_path: float) -> None:
        super().__init__()
        self.window, self.stride = level.native, level.stride
        conv = Conv(out_chs=out_chs, kernel=3, dilation=level.dilation)
        self.branch = sequence(kit, in_chs + lanes, "cna cna", [conv, conv])
        self.give: nn.Conv2d | None = kit.conv(out_chs, Conv(out_chs=lanes, kernel=1, bias=True))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.sum = Sum()

    def forward(self, streams: Streams) -> Streams:
        """Compute the next streams; y keeps its size and has ``out_chs`` channels."""
        y, z = streams
        y = self.branch(concatenate([y, self.pool(z)]))
        if self.give is not None:
            z = self.sum(self.drop_path(self.unpool(self.give(y), z)), z)
        return y, z

    def pool(self, z: Tensor) -> Tensor:
        """Pool z to the size of y: the largest value of each window."""
        if self.window > self.stride:
            extra = self.window - self.stride
            z = F.pad(z, (0, extra, 0, extra), value=float("-inf"))
        return F.max_pool2d(z, self.window, stride=self.stride, ceil_mode=True)

    def unpool(self, y: Tensor, z: Tensor) -> Tensor:
        """Repeat each pixel of y to a block, at the size of z."""
        y = F.interpolate(y, scale_factor=float(self.stride), mode="nearest")
        return y[:, :, : z.shape[2], : z.shape[3]]

    @torch.jit.ignore
    def zero_init_last(self) -> None:
        """Start without adding anything to z."""
        if self.give is not None:
            for parameter in self.give.parameters():
                nn.init.zeros_(parameter)


class Fall(nn.Module):
    """Halve y, down to a level."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.pool = max_pool_halving(stride=level.step, dilation=level.before, ceil=True)

    def forward(self, streams: Streams) -> Streams:
        """Halve y: (N, C, H, W) and z -> (N, C, ceil(H / 2), ceil(W / 2)) and z."""
        return self.pool(streams[0]), streams[1]


class Rise(nn.Module):
    """Double y, up to a total stride."""

    def __init__(self, stride: int, *, grows: bool) -> None:
        super().__init__()
        self.stride, self.grows = stride, grows

    def forward(self, streams: Streams) -> Streams:
        """Double y: (N, C, H, W) and z -> (N, C, 2 H, 2 W), cut to ceil(size of z / stride), and z."""
        y, z = streams
        if self.grows:
            height = (z.shape[2] + self.stride - 1) // self.stride
            width = (z.shape[3] + self.stride - 1) // self.stride
            y = F.interpolate(y, size=(2 * y.shape[2] - 1, 2 * y.shape[3] - 1), mode="bilinear", align_corners=True)
            y = F.pad(y, (0, 1, 0, 1), mode="replicate")[:, :, :height, :width]
        return y, z


class StreamStage(Stage):
    """A change of size and the following units, at one resolution of y."""

    def __init__(self, *units: nn.Module) -> None:
        super().__init__(*units)
        self.two_streams = True  # what TorchScript can tell a level by

    def forward(self, streams: Streams) -> Streams:
        """Compute the next streams; y has the size and the channels of this level."""
        for unit in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                streams = run_checkpointed(unit, streams)
            else:
                streams = unit(streams)
        return streams


class Split(nn.Module):
    """Start z from y by a 1x1 and a norm."""

    def __init__(self, kit: Kit, in_chs: int, lanes: int) -> None:
        super().__init__()
        self.lanes = sequence(kit, in_chs, "cn", [Conv(out_chs=lanes, kernel=1)])

    def forward(self, x: Tensor) -> Streams:
        """Compute the streams from (N, C, H, W): the same map as y, and z (N, lanes, H, W)."""
        return x, self.lanes(x)


class Join(nn.Module):
    """Concatenate both streams at full resolution, where z ends."""

    def __init__(self, *, grows: bool) -> None:
        super().__init__()
        self.rise = Rise(1, grows=grows)

    def forward(self, streams: Streams) -> Tensor:
        """Concatenate the streams to (N, C + lanes, H, W)."""
        y, z = self.rise(streams)
        return concatenate([y, z])


class FRRN(Backbone):
    """FRRN: stem and units, levels down, levels up, units. Levels map streams to streams; y is the tap."""

    chain = False

    def build(
        self, spec: FrrnSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        width, lanes, levels = spec.width, spec.lanes, spec.hold(output_stride)
        rates = iter(drop_path_rates(drop_path_rate, 2 * spec.end_units + sum(spec.down_units) + sum(spec.up_units)))

        def ends(in_chs: int) -> Stage:
            units = []
            for _ in range(spec.end_units):
                project = None if in_chs == width else sequence(kit, in_chs, "c", [Conv(out_chs=width, kernel=1)])
                units.append(Residual(kit, in_chs, basic(width), UNIT, shortcut=project, drop_path=next(rates)))
                in_chs = width
            return Stage(*units)

        def run(first: nn.Module, in_chs: int, out_chs: int, depth: int, level: Level) -> StreamStage:
            units = [first]
            for i in range(depth):
                chs = out_chs if i else in_chs
                units.append(FullResolutionUnit(kit, chs, out_chs, lanes, level, drop_path=next(rates)))
            return StreamStage(*units)

        self.stem = sequence(kit, in_chans, "cna", [Conv(out_chs=width, kernel=5)])
        self.enter = ends(width)
        self.split = Split(kit, width, lanes)
        taps, chs = [("enter", width, 1)], width
        downwards = zip(spec.down_widths, spec.down_units, levels[1:], strict=True)
        for i, (out_chs, depth, level) in enumerate(downwards, 1):
            self.add_module(f"down{i}", run(Fall(level), chs, out_chs, depth, level))
            taps.append((f"down{i}.{depth}.branch", out_chs, level.stride))
            chs = out_chs
        coarsest = len(levels) - 1
        for i, out_chs, depth in zip(range(coarsest - 1, 0, -1), spec.up_widths, spec.up_units, strict=True):
            rise = Rise(levels[i].stride, grows=levels[i + 1].step > 1)
            self.add_module(f"up{i}", run(rise, chs, out_chs, depth, levels[i]))
            chs = out_chs
        self.join = Join(grows=levels[1].step > 1)
        self.leave = ends(chs + lanes)
        return Trunk(taps=taps, final=nn.Identity(), num_features=width, head_tap=-1)

    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """See `Backbone.forward_trunk`."""
        taps: list[Tensor] = []
        x = self.enter(self.stem(x))
        if 0 in keep:
            taps.append(x)
        if self.split is None:
            return x, taps
        if stop == 0:
            return x, taps
        streams = self.split(x)
        tap = 0
        for name, child in self.named_children():
            if hasattr(child, "two_streams"):  # noqa: SIM102 - TorchScript compiles only children of whom it holds
                if tap < stop or stop == self.last_tap:
                    streams = child(streams)
                    if name in self.tap_names:
                        tap += 1
                        if tap in keep:
                            taps.append(streams[0])
        if self.join is None or self.leave is None:
            return streams[0], taps
        if stop < self.last_tap:
            return streams[0], taps
        return self.leave(self.join(streams)), taps

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = False) -> None:
        """See `Backbone.init_weights`. The 1x1 to z has no norm after it and starts as released: fan-in, no bias."""
        super().init_weights(zero_init_last)
        for unit in self.modules():
            if isinstance(unit, FullResolutionUnit) and unit.give is not None and not zero_init_last:
                nn.init.kaiming_uniform_(unit.give.weight, nonlinearity="linear")
                nn.init.zeros_(cast(Tensor, unit.give.bias))

    @torch.jit.ignore
    def prune_trunk(self, take: list[int]) -> None:
        """Remove the last unit's 1x1 towards z if the trunk ends in y, which makes it useless."""
        if self.join is None and self.split is not None:
            self.get_submodule(self.tap_names[-1])[-1].give = None


POHLEN = "Pohlen et al. 2017, arXiv:1611.08323"
ORACLE = "No installable implementation (the released code needs Theano): tests hold it against its equations."


def _frrn(
    params: int, down_widths: tuple[int, ...], down_units: tuple[int, ...], up_widths: tuple[int, ...], height: int
) -> Entry:
    """Return the row of a net for Cityscapes, with two units per level on the way up."""
    return Entry(
        FRRN,
        FrrnSpec(down_widths=down_widths, down_units=down_units, up_widths=up_widths, up_units=(2,) * len(up_widths)),
        paper=POHLEN,
        params=params,
        input_size=(3, height, 2 * height),
        num_classes=19,
        crop_pct=1.0,
        notes=ORACLE,
    )


OURS = f"A net of our own, by the paper's rules; no published numbers. {ORACLE}"
SMALL = FrrnSpec(
    width=8,
    lanes=4,
    end_units=2,
    down_widths=(12, 16, 20),
    down_units=(2, 1, 1),
    up_widths=(16, 12),
    up_units=(1, 2),
)

MODELS = {
    "frrn_a": _frrn(17_746_803, (96, 192, 384, 384), (3, 4, 2, 2), (192, 192, 96), 256),
    "frrn_b": _frrn(24_755_699, (96, 192, 384, 384, 384), (3, 4, 2, 2, 2), (192, 192, 192, 96), 512),
    "frrn_small_cifar": Entry(
        FRRN, SMALL.replace(head="classify"), paper=POHLEN, params=36_678, notes=OURS, lineups=("all",), **cifar_task()
    ),
    "frrn_test": Entry(FRRN, SMALL, paper=POHLEN, params=36_678, input_size=(3, 64, 64), num_classes=10, notes=OURS),
}
