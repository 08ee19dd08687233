"""FishNet: a tail that shrinks, a body that grows, a head that shrinks again, and nothing forgotten on the way.

Paper:
    Sun, Pang, Shi, Yi, Ouyang 2018, FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction,
    NeurIPS 2018, arXiv:1901.03495. Structure and numbers follow the authors' released code (kevin-ssy/FishNet at
    commit b968f02), which the trained weights belong to.

Resolutions at 224 px; every arrow to the right is a run of pre-activation bottlenecks, every letter a map::

    stride  4   f0  64 ------------------------------------------. lateral       f7 320 -> pool
            8    `-> f1 128 ----------------------. lateral      v               |        v
           16         `-> f2 256 ------. lateral  v      f6 512 -' up            |  f8 832 (+ lateral of f6) -> pool
           32              `-> f3 512  v  f5 768 -' up                              f9 1600 (+ lateral of f5) -> pool
                 tail       bridge f4 512 -> up            body               head  f10 2112 (+ lateral of f4)

Each step of the body refines, up-samples and concatenates a lateral branch of the tail; each step of the head refines,
pools and concatenates a lateral branch of the body. Up blocks sum runs of adjacent channels on the shortcut, so that
from the body on no convolution stands alone between a map and the output: its gradient reaches every stage directly.

What differs, and why:
    * The released code only takes sizes whose stride-4 map is a multiple of 8; ours up-samples to the size of the map
      it meets, so that any size from 29 px works. Where the released code works the outputs are equal.
    * ``fishnet150`` has 24.96 M parameters as the released code; version 1 of the paper says 26.4 M.
    * ``output_stride`` caps the stride of every map: pools and convolutions dilate, and up-sampling between maps of one
      size is the identity. The state dict stays. Tail and head are then exact as in a chain, but nearest up-sampling
      copies a pixel to a 2x2 block, which has no dilated form: with the cap, each of the four keeps its own value, so
      features differ from those of the native net.
    * FishNeXt (grouped convolutions, "4d": groups of 4 channels that double in width with each halving) is described in
      one sentence of the paper and was never released. ``fishnext150_4d`` is our reading: the 3x3 has half instead of a
      quarter of the output's channels, as ResNeXt does to ResNet.
    * ``fishnet58_cifar`` and ``fishnet_test`` are ours: a quarter (an eighth) of the width, a stem of one 3x3.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, StemSpec, cifar_task
from zoo.layers import (
    ORDERS,
    ChannelSum,
    Conv,
    Kit,
    Residual,
    SqueezeGate,
    Stage,
    bottleneck,
    concatenate,
    max_pool_halving,
    sequence,
    upsample_like,
)
from zoo.layouts.fishnet import LAYOUTS
from zoo.strides import STEMS, halvings

Maps3 = tuple[Tensor, Tensor, Tensor]
Maps4 = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class FishSpec(StemSpec):
    """Specification of a fish with three halvings. Widths of the head follow from the concatenations.

    Attributes:
        stem_width: Channels of f0.
        tail_widths: Channels of f1 to f3.
        body_widths: Channels of the body's refined maps, before a lateral branch joins. Each divides its input
            channels.
        tail_blocks: Units of the tail's stages.
        bridge_blocks: Units of the bridge.
        body_blocks: Units of the body's stages.
        body_laterals: Units between the tail and the body's stages.
        head_blocks: Units of the head's stages.
        head_laterals: Units between the body and the head's stages.
        body_dilations: Dilations of the 3x3s in the body's stages.
        mid_divisor: Output channels of a unit divided by channels of its 3x3.
        group_width: Channels per group of the 3x3 at the finest resolution, doubled at each halving; 0 for no groups.
        stem: ``imagenet`` (three 3x3, the first of stride 2, and max-pooling) or ``cifar`` (one 3x3).
    """

    stem_width: int = 64
    tail_widths: tuple[int, ...] = (128, 256, 512)
    body_widths: tuple[int, ...] = (512, 384, 256)
    tail_blocks: tuple[int, ...]
    bridge_blocks: int
    body_blocks: tuple[int, ...]
    body_laterals: tuple[int, ...]
    head_blocks: tuple[int, ...]
    head_laterals: tuple[int, ...]
    body_dilations: tuple[int, ...] = (1, 2, 4)
    mid_divisor: int = 4
    group_width: int = 0

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a fish."""
        three = ("tail_widths", "body_widths", "body_dilations")
        blocks = ("tail_blocks", "body_blocks", "body_laterals", "head_blocks", "head_laterals")
        self.require_positive("stem_width", "bridge_blocks", "mid_divisor", *three, *blocks)
        self.require_choice("stem", STEMS)
        for name in (*three, *blocks):
            self.require(len(getattr(self, name)) == 3, name, "have three numbers, one a stage")
        self.require(self.tail_widths[-1] % 16 == 0, "tail_widths", "end in a multiple of 16, for the bridge's gate")
        for stage, width in enumerate(self.body_widths):
            chs = self.map_widths[4 + stage]
            self.require(chs % width == 0, "body_widths", f"divide the {chs} channels that stage {stage} meets")
        self.require(self.group_width >= 0, "group_width", "not be negative")
        for name in ("stem_width", "tail_widths", "body_widths"):
            value = getattr(self, name)
            least = min(value) if isinstance(value, tuple) else value
            self.require(least >= max(self.mid_divisor, 2), name, f"be at least {max(self.mid_divisor, 2)}")

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of f0 to f10."""
        tail = (self.stem_width, *self.tail_widths)
        maps = [*tail, tail[3]]
        for stage, width in enumerate(self.body_widths):
            maps.append(width + tail[2 - stage])
        for stage in range(3):
            maps.append(maps[-1] + maps[6 - stage])
        return tuple(maps)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of f0 to f3. They recur on the way back, and in the head, whose maps are the taps."""
        return halvings(self.finest, 4)

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest sizes. The tail halves downwards and must leave a pixel of f0; the stem, upwards."""
        fish = self.held(output_stride)[-1] - self.finest + 1
        return (1,) * (len(self.tap_strides) - 4) + (fish,) * 5

    def head_size(self, size: int) -> int:
        """Return the size of the head's map; see `smallest`."""
        return -(-size // self.finest) // 8


class _Levels:
    """The four resolutions, and makers of units and poolings for them."""

    def __init__(self, spec: FishSpec, kit: Kit, output_stride: int | None, drop_path_rate: float) -> None:
        self.spec, self.kit = spec, kit
        self.held = spec.hold(output_stride)
        stages = (spec.tail_blocks, (spec.bridge_blocks,), spec.body_laterals, spec.body_blocks)
        units = sum(map(sum, (*stages, spec.head_laterals, spec.head_blocks)))
        self.rates = iter(drop_path_rates(drop_path_rate, units))

    def units(self, in_chs: int, out_chs: int, depth: int, level: int, *, dilation: int = 1, up: bool = False) -> Stage:
        """Make a run of pre-activation bottlenecks. The first changes the width, in an up stage by summing channels."""
        kit, mid = self.kit, out_chs // self.spec.mid_divisor
        groups = mid // (self.spec.group_width * 2**level) if self.spec.group_width else 1
        if self.spec.group_width and (not groups or mid % groups or mid // groups != self.spec.group_width * 2**level):
            raise ValueError(f"group_width ({self.spec.group_width}) times {2**level} must divide {mid} channels")
        convs = bottleneck(mid, out_chs, dilation=dilation * self.held[level].dilation, groups=groups)
        units = []
        for i in range(depth):
            shortcut: nn.Module | None = None
            if i == 0 and up:
                shortcut = ChannelSum(in_chs, out_chs)
            elif i == 0 and in_chs != out_chs:
                shortcut = sequence(kit, in_chs, "nac", [Conv(out_chs=out_chs, kernel=1)])
            chs = in_chs if i == 0 else out_chs
            units.append(Residual(kit, chs, convs, ORDERS["pre"], shortcut=shortcut, drop_path=next(self.rates)))
        return Stage(*units)

    def pool(self, level: int) -> nn.Module:
        """Make the pooling from a level to the next."""
        below = self.held[level + 1]
        return max_pool_halving(stride=below.step, dilation=below.before)


class Tail(nn.Module):
    """Tail: three stages, each followed by pooling."""

    def __init__(self, levels: _Levels) -> None:
        super().__init__()
        spec, maps = levels.spec, levels.spec.map_widths
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem == "imagenet" else nn.Identity()
        self.stage1, self.stage2, self.stage3 = (
            levels.units(maps[i], maps[i + 1], spec.tail_blocks[i], level=i) for i in range(3)
        )
        self.pool1, self.pool2, self.pool3 = (levels.pool(i) for i in range(3))

    def forward(self, x: Tensor) -> Maps4:
        """Compute f0, f1, f2 and f3 from the stem's map."""
        f0 = self.pool(x)
        f1 = self.pool1(self.stage1(f0))
        f2 = self.pool2(self.stage2(f1))
        f3 = self.pool3(self.stage3(f2))
        return f0, f1, f2, f3


class Bridge(nn.Module):
    """Bridge: refine the coarsest map under a gate that is multiplied and added (the SE block of section 3.2)."""

    def __init__(self, levels: _Levels) -> None:
        super().__init__()
        kit, chs = levels.kit, levels.spec.tail_widths[-1]
        widen = [Conv(out_chs=chs // 2, kernel=1), Conv(out_chs=chs * 2, kernel=1, bias=True)]
        self.widen = sequence(kit, chs, "nac nac", widen)
        self.stage = levels.units(chs * 2, chs, levels.spec.bridge_blocks, level=3)
        self.gate_norm = sequence(kit, chs * 2, "na")
        self.gate = SqueezeGate(kit, chs * 2, chs // 16, chs)

    def forward(self, f3: Tensor) -> Tensor:
        """Compute f4 from f3."""
        wide = self.widen(f3)
        gate = self.gate(self.gate_norm(wide))
        return self.stage(wide) * gate + gate


class Join(nn.Module):
    """Concatenate the trunk and a lateral branch, in this order."""

    def forward(self, trunk: Tensor, lateral: Tensor) -> Tensor:
        """Concatenate (N, C, H, W) and (N, L, H, W) to (N, C + L, H, W)."""
        return concatenate([trunk, lateral])


class Body(nn.Module):
    """Body: refine, up-sample, concatenate a lateral branch of the tail, three times (UR blocks, section 3.3)."""

    def __init__(self, levels: _Levels) -> None:
        super().__init__()
        spec, maps = levels.spec, levels.spec.map_widths
        self.stage1, self.stage2, self.stage3 = (
            levels.units(
                maps[4 + i],
                spec.body_widths[i],
                spec.body_blocks[i],
                level=3 - i,
                dilation=spec.body_dilations[i],
                up=True,
            )
            for i in range(3)
        )
        self.lateral1, self.lateral2, self.lateral3 = (
            levels.units(maps[2 - i], maps[2 - i], spec.body_laterals[i], level=2 - i) for i in range(3)
        )
        self.join1, self.join2, self.join3 = (Join() for _ in range(3))

    def forward(self, f4: Tensor, f2: Tensor, f1: Tensor, f0: Tensor) -> Maps3:
        """Compute f5, f6 and f7 from f4, and f2 to f0 of the tail."""
        f5 = self.join1(upsample_like(self.stage1(f4), f2), self.lateral1(f2))
        f6 = self.join2(upsample_like(self.stage2(f5), f1), self.lateral2(f1))
        f7 = self.join3(upsample_like(self.stage3(f6), f0), self.lateral3(f0))
        return f5, f6, f7


class HeadStage(nn.Module):
    """Stage of the head: refine, pool, concatenate a lateral branch of the body (DR block, section 3.4)."""

    def __init__(self, levels: _Levels, stage: int) -> None:
        super().__init__()
        spec, maps = levels.spec, levels.spec.map_widths
        chs, lateral = maps[7 + stage], maps[6 - stage]
        self.stage = levels.units(chs, chs, spec.head_blocks[stage], level=stage)
        self.pool = levels.pool(stage)
        self.lateral = levels.units(lateral, lateral, spec.head_laterals[stage], level=stage + 1)
        self.join = Join()

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        """Compute the next map from the previous one and one of the body."""
        return self.join(self.pool(self.stage(x)), self.lateral(lateral))


class FishNet(Backbone):
    """FishNet: stem, tail, bridge, body, three stages of head, score."""

    layouts = LAYOUTS
    chain = False

    def build(
        self, spec: FishSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        levels = _Levels(spec, kit, output_stride, drop_path_rate)
        width, maps = spec.stem_width, spec.map_widths
        convs = [Conv(out_chs=width, kernel=3)]
        if spec.stem == "imagenet":
            half = width // 2
            convs = [Conv(out_chs=half, kernel=3, stride=2), Conv(out_chs=half, kernel=3), *convs]
        self.stem = sequence(kit, in_chans, "cna" * len(convs), convs)
        self.tail = Tail(levels)
        self.bridge = Bridge(levels)
        self.body = Body(levels)
        self.head1, self.head2, self.head3 = (HeadStage(levels, i) for i in range(3))
        taps = [("stem", width, 2)] if spec.stem == "imagenet" else []
        self.body_tap = len(taps)
        strides = [level.stride for level in levels.held]
        taps += zip(("body.join3", "head1", "head2", "head3"), maps[7:], strides, strict=True)
        score = maps[10] // 2
        return Trunk(
            taps=taps,
            final=sequence(kit, maps[10], "nac na", [Conv(out_chs=score, kernel=1)]),
            num_features=score,
        )

    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """See `Backbone.forward_trunk`."""
        taps: list[Tensor] = []
        x = self.stem(x)
        if self.body_tap == 1 and 0 in keep:
            taps.append(x)
        if self.body is None or stop < self.body_tap:
            return x, taps
        f0, f1, f2, f3 = self.tail(x)
        f4 = self.bridge(f3)
        f5, f6, f7 = self.body(f4, f2, f1, f0)
        if self.body_tap in keep:
            taps.append(f7)
        if self.head1 is None or stop == self.body_tap:
            return f7, taps
        f8 = self.head1(f7, f6)
        if self.body_tap + 1 in keep:
            taps.append(f8)
        if self.head2 is None or stop == self.body_tap + 1:
            return f8, taps
        f9 = self.head2(f8, f5)
        if self.body_tap + 2 in keep:
            taps.append(f9)
        if self.head3 is None or stop == self.body_tap + 2:
            return f9, taps
        f10 = self.head3(f9, f4)
        if self.body_tap + 3 in keep:
            taps.append(f10)
        return f10, taps

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return layer groups in order of depth. Fine groups are the units of every part."""
        groups = {}
        for name, child in self.named_children():
            stages = [key for key, part in child.named_modules() if isinstance(part, Stage)]
            if not coarse:
                groups |= {f"{name}.{key}": rf"^{name}\.{key}\.(\d+)\." for key in stages}
            if name != "classifier":
                groups[name] = rf"^{name}\."
        return groups


SUN = "Sun et al. 2018, arXiv:1901.03495"


def _fish(
    params: int, tail: tuple[int, ...], bridge: int, body: int, head: tuple[int, ...], last: int, **kwargs: Any
) -> Entry:
    """Return the row of a released net: ``body`` units per stage of the body and lateral branch except the last."""
    spec = {k: kwargs.pop(k) for k in tuple(kwargs) if k in FishSpec.field_names()}
    return Entry(
        FishNet,
        FishSpec(
            tail_blocks=tail,
            bridge_blocks=bridge,
            body_blocks=(body,) * 3,
            body_laterals=(body,) * 3,
            head_blocks=head,
            head_laterals=(body, body, last),
            **spec,
        ),
        paper=SUN,
        params=params,
        **kwargs,
    )


OURS = "A preset of our own, by the paper's rules; no published numbers."

MODELS = {
    "fishnet99": _fish(16_628_904, (2, 2, 6), 2, 1, (1, 2, 2), 4, reference="pytorchcv:fishnet99"),
    "fishnet150": _fish(24_959_400, (2, 4, 8), 4, 2, (2, 2, 4), 4, reference="pytorchcv:fishnet150"),
    "fishnet201": _fish(44_584_552, (3, 4, 12), 4, 2, (2, 3, 10), 9, reference="golden outputs of the released code"),
    "fishnext150_4d": _fish(
        25_738_024,
        (2, 4, 8),
        4,
        2,
        (2, 2, 4),
        4,
        group_width=4,
        mid_divisor=2,
        notes="No reference implementation: our reading of one sentence of the paper (see the family's text).",
    ),
    "fishnet58_cifar": _fish(
        602_306,
        (1, 1, 1),
        1,
        1,
        (1, 1, 1),
        1,
        stem_width=16,
        tail_widths=(32, 64, 128),
        body_widths=(128, 96, 64),
        stem="cifar",
        lineups=("default",),
        notes=OURS,
        **cifar_task(),
    ),
    "fishnet_test": _fish(
        154_106,
        (1, 1, 1),
        1,
        1,
        (1, 1, 1),
        1,
        stem_width=8,
        tail_widths=(16, 32, 64),
        body_widths=(64, 48, 32),
        notes=OURS,
        input_size=(3, 64, 64),
        num_classes=10,
    ),
}
