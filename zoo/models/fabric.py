r"""Neural fabrics: a grid of columns and scales in which every path from the image to the score is a network.

Papers:
    Saxena, Verbeek 2016, Convolutional Neural Fabrics, NeurIPS 2016, arXiv:1606.02492: the grid, the sparse and the
    dense 3x3 unit.
    Singh, Residual Neural Fabrics, part 2 (report and released PyTorch module, 2018; part 1 was not to be found): types
    a and d, bottleneck units, gated skips. Its tables are what the presets are held against.
    Fourure, Emonet, Fromont, Muselet, Tremeau, Wolf 2017, Residual Conv-Deconv Grid Network, arXiv:1707.07958.

Resolutions of type a with four columns and four scales (type d also runs upwards in every other column)::

    stem -> o---o---o---o     scale 0, finest      --  fwd: 3x3
            | \/  \/  \/ |                          \   down: stride 2
            | /\  /\  /\ |                          /   up: enlarged by interpolation, then the unit
            o---o---o---o     scale 1              |   zip: down or up inside a column
            | \/  \/  \/ |
            | /\  /\  /\ |
            o---o---o---o     scale 2
            | \/  \/  \/ |
            | /\  /\  /\ |
            o---o---o---o --> scale 3, coarsest: class scores; the taps are the last column

A node sums the results of all edges that end in it. Every edge owns its weights. With x, the source at the target's
size, and a factor of 1 unless a gate sets another::

    conv, sparse    node: act(norm(sum))   edge: 3x3(x); sparse: each channel sees three neighbouring ones
    post            node: act(norm(sum))   edge: act(norm 1x1 act norm 3x3 act norm 1x1 (x) + factor * skip(x))
    pre             node: sum              edge: 1x1 act norm 3x3 act norm 1x1 act norm (x) + factor * skip(x)
    preshared       node: act(norm(sum))   edge: 1x1 act norm 3x3 act norm 1x1 (x) + factor * skip(sum)

The skip is the source at the target's size (max-pooled 2x2 on the way down, enlarged on the way up); where the channels
change, or with ``gate="gated"``, a 1x1 and a norm follow.

What differs from the sources, and why:
    * Published counts are met to the last parameter, dead ones included: in type d nets that are read at the coarsest
      scale the finer nodes of the last column lead nowhere. They are computed only when they are asked for as taps.
    * Table 4 of the report gives 2 M parameters for the sparse net with 16 columns and 64 channels. A band of three
      channels makes 458,230 with biases, 442,166 without; the formula 27*L*S*C of [Saxena & Verbeek] makes 497,664, and
      no reading makes 2 M. The 21.2 M of the dense net there is such a formula (27*L*S*C*C); the net has 18,022,410.
    * The released code computes the first norm of a ``pre`` unit and then throws it away; in type d it writes what runs
      upwards into nodes that are done; a dropped skip stays dropped for ever. The report's text is what is built here;
      ``unit="pre_released"`` repeats the first of these, to tell what the published errors belong to.
    * Whole skips are dropped in training (``gate="dropout"``) with one draw an edge for the batch. Evaluation is not
      described: here a skip counts with its expectation, which equals ``scaled`` (Torch's ``TotalDropout`` does not
      scale). The factor is 1 / the number of skips that leave the source.
    * Type b and its decoder (``bd``) are our reading of one sentence about GridNet. The net of its authors' code is
      ``gridnet``, in a family of its own. ``gridnet_l6_s5_c16x2`` has its grid, and is a fabric in the rest:
      bottlenecks for its pairs of 3x3, interpolation for its transposed convolutions, one 3x3 before the grid and a 1x1
      behind it for its two and two, no total dropout.
    * Part 2 names a skip of part 1 that did not help, from the fourth layer before, for the 3x3: ``column_skip=4``.
    * Forward connections ("hypercolumn features") are named and described nowhere: ours concatenate a scale's nodes.
    * Sizes that do not halve evenly are rounded up; enlarged maps take the size of the map they meet.
    * ``output_stride`` caps the stride of every scale: strided convolutions and pooling dilate, and there is nothing to
      enlarge between scales of one size. The state dict stays, but features differ: enlarging has no dilated form.
    * A 1x1 without a bias commutes with enlarging a map, so a leading 1x1 runs on the small map: the same function.
    * The stem of the ImageNet nets (two 3x3 of stride 2) is ours: the papers know no larger image than 256 px.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo import topology
from zoo.backbone import Trunk, drop_path_rates
from zoo.entry import Entry, StemSpec, cifar_task
from zoo.grid import Grid, GridBackbone
from zoo.layers import (
    UPS,
    Conv,
    DropPath,
    KeepAll,
    Kit,
    Resize,
    Scale,
    Sum,
    max_pool_halving,
    named,
    sequence,
)
from zoo.strides import STEMS, Level, halvings

UNITS = ("conv", "sparse", "post", "pre", "preshared", "pre_released")
PLAIN = ("conv", "sparse")
"""Units without a skip."""
GATES = ("none", "scaled", "dropout", "gated")
SKIPS = ("all", "within", "across")
HEADS = ("classify", "dense", "hypercolumn")
MOST_NODES = 10_000
"""Largest number of columns times scales. The largest preset has 96; much larger graphs take minutes to build."""


@dataclass(frozen=True, kw_only=True)
class FabricSpec(StemSpec):
    """Specification of a fabric.

    Attributes:
        type: Pattern of the edges, a key of ``zoo.topology.TYPES``.
        columns: Number of columns, without the stem.
        scales: Number of scales.
        channels: Channels of each scale, finest first.
        unit: Layers of an edge.
        gate: Treatment of a skip: unchanged (``none``), times 1 / out-degree of its source (``scaled``), kept with that
            probability (``dropout``), or a 1x1 convolution and a norm (``gated``). Edges without a skip do not count.
        skips: Edges with a skip: ``all``, those ``within`` a scale, or those ``across`` scales.
        column_skip: Columns that a further skip spans, which adds a node's finished map to a sum, ungated; 0 for none.
        up: Way to enlarge maps.
        conv_bias: The stem and 3x3 units have a bias.
        stem: ``cifar`` (a bare 3x3) or ``imagenet`` (two 3x3 of stride 2).
        head: ``classify`` scores the pooled coarsest node, ``dense`` every position of the node at ``out_scale``,
            ``hypercolumn`` every position of the nodes of all columns at ``out_scale``.
        out_scale: Scale that ``dense`` and ``hypercolumn`` read.
    """

    type: str
    columns: int
    scales: int
    channels: tuple[int, ...]
    unit: str = "conv"
    gate: str = "none"
    skips: str = "all"
    column_skip: int = 0
    up: str = "bilinear"
    conv_bias: bool = False
    head: str = "classify"
    out_scale: int = 0

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a fabric."""
        words = ("type", "unit", "gate", "skips", "up", "stem", "head")
        for name, known in zip(words, (topology.TYPES, UNITS, GATES, SKIPS, UPS, STEMS, HEADS), strict=True):
            self.require_choice(name, known)
        self.require_positive("columns", "scales", "channels")
        self.require(self.columns > 1, "columns", "be at least 2: one column is a chain, not a grid")
        self.require(self.scales > 1, "scales", "be at least 2: one scale is a chain, not a grid")
        most = MOST_NODES // self.scales
        self.require(self.columns <= most, "columns", f"not exceed {most} with {self.scales} scales")
        self.require(
            len(self.channels) == self.scales, "channels", f"have {self.scales} numbers, one a scale, finest first"
        )
        self.require(min(self.channels) > 1, "channels", "be at least 2 at every scale: one channel cannot be a fabric")
        if self.unit in PLAIN:
            self.require(self.gate == "none", "gate", f"be none: unit {self.unit!r} has no skip")
            self.require(self.skips == "all", "skips", f"be all: unit {self.unit!r} has none")
        else:
            fits = all(c % 4 == 0 for c in self.channels)
            self.require(fits, "channels", f"be multiples of 4, for the 3x3 of unit {self.unit!r} has a quarter")
            self.require(not self.conv_bias, "conv_bias", f"be False: norms follow in unit {self.unit!r}")
        self.require(0 <= self.column_skip < self.columns, "column_skip", f"be below the {self.columns} columns, or 0")
        self.require(0 <= self.out_scale < self.scales, "out_scale", f"be one of the {self.scales} scales, from 0")
        if self.head == "classify":
            self.require(self.out_scale == 0, "out_scale", "be 0 with head 'classify', which reads the coarsest scale")

    @property
    def edges(self) -> tuple[topology.Edge, ...]:
        """Edges of the graph."""
        return topology.fabric_edges(self.type, self.columns, self.scales, self.column_skip)

    def has_skip(self, kind: str) -> bool:
        """Return True if edges of a kind have a skip beside their unit."""
        bottleneck = self.unit not in PLAIN and kind != topology.COLUMN_SKIP
        return bottleneck and (self.skips == "all" or (self.skips == "within") == (kind == "fwd"))

    @property
    def head_scale(self) -> int:
        """Scale that the head reads."""
        return self.scales - 1 if self.head == "classify" else self.out_scale

    @property
    def head_nodes(self) -> tuple[topology.Node, ...]:
        """Nodes that the head reads."""
        first = 0 if self.head == "hypercolumn" else self.columns - 1
        return tuple((column, self.head_scale) for column in range(first, self.columns))

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of each scale."""
        return halvings(self.finest, self.scales)

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest image sizes, as in `Spec.smallest`. Sizes round up, but scales must differ in size."""
        coarsest = self.held(output_stride)[-1]
        size = coarsest // 2 + 1 if coarsest > self.finest else 1
        return (1,) * (len(self.tap_strides) - self.scales) + (size,) * (self.scales + 1)

    @property
    def head_stride(self) -> int:
        """Total stride of the map that the head reads."""
        return self.level_strides[self.head_scale]

    @property
    def dense(self) -> bool:
        """True if there is a score for every position."""
        return self.head != "classify"

    def facts(self) -> dict[str, str]:
        """Describe the grid in words and numbers."""
        return {
            "strides": " ".join(map(str, self.level_strides)),
            "channels": " ".join(map(str, self.channels)),
            "read at": f"scale {self.head_scale} of "
            + ("every column" if len(self.head_nodes) > 1 else "the last column"),
            **topology.facts(self.type, self.columns, self.scales, self.head_nodes, self.column_skip),
        }


@dataclass(frozen=True, kw_only=True)
class _Place:
    """An edge of the graph with the sizes that its operators need; ``degree`` counts the skips of its source."""

    kind: str
    in_chs: int
    out_chs: int
    halve: bool
    dilation: int
    degree: int
    drop_path: float

    @property
    def falls(self) -> bool:
        return self.kind in ("down", "zip_down")

    @property
    def rises(self) -> bool:
        """Return True if the source is enlarged; False if ``output_stride`` holds both scales at one size."""
        return self.kind in ("up", "zip_up") and self.halve

    def conv3x3(self, out_chs: int, bias: bool = False) -> Conv:
        stride = 2 if self.falls and self.halve else 1
        return Conv(out_chs=out_chs, kernel=3, stride=stride, dilation=self.dilation, bias=bias)


class ConvNorm(nn.Module):
    """A 1x1 convolution without bias, enlargement if requested, and a norm."""

    def __init__(self, kit: Kit, in_chs: int, out_chs: int, up: str = "") -> None:
        super().__init__()
        self.conv = kit.conv(in_chs, Conv(out_chs=out_chs, kernel=1))
        self.resize = Resize(up)
        self.norm = kit.norm(out_chs)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute (N, in_chs, H, W) -> (N, out_chs, H, W), or (N, out_chs, *size) with enlargement."""
        return self.norm(self.resize(self.conv(x), size))


class PlainEdge(nn.Module):
    """An edge without a skip: a 3x3 (figure 9a of the report), dense or sparse."""

    def __init__(self, spec: FabricSpec, kit: Kit, place: _Place) -> None:
        super().__init__()
        conv = place.conv3x3(place.out_chs, bias=spec.conv_bias)
        self.resize = Resize(spec.up if place.rises else "")
        self.conv = (kit.band if spec.unit == "sparse" else kit.conv)(place.in_chs, conv)
        self.drop_path = DropPath(place.drop_path) if place.drop_path else nn.Identity()

    def forward(self, x: Tensor, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the edge's share of its target, (N, out_chs, *size), from the source."""
        return self.drop_path(self.conv(self.resize(x, size)))


class BottleneckEdge(nn.Module):
    """An edge with a bottleneck and a skip (figure 9b to d of the report)."""

    def __init__(self, spec: FabricSpec, kit: Kit, place: _Place) -> None:
        super().__init__()
        ins, mid, outs = place.in_chs, place.out_chs // 4, place.out_chs
        up = spec.up if place.rises else ""
        post, self.pre = spec.unit == "post", spec.unit == "pre"
        self.resize = Resize(up)
        self.norm = kit.norm(ins) if spec.unit in ("pre", "pre_released") else nn.Identity()
        self.act0 = kit.act() if self.pre else nn.Identity()
        self.reduce = ConvNorm(kit, ins, mid, "" if self.pre else up)
        self.act1 = kit.act()
        self.mix = named(conv=kit.conv(mid, place.conv3x3(mid)), norm=kit.norm(mid))
        self.act2 = kit.act()
        last = kit.conv(mid, Conv(out_chs=outs, kernel=1))
        self.expand = named(conv=last, norm=kit.norm(outs)) if post else last
        self.drop_path = DropPath(place.drop_path) if place.drop_path else nn.Identity()
        self.act3 = kit.act() if post else nn.Identity()
        self.skips = spec.has_skip(place.kind)
        self.pool = nn.Identity()
        if place.falls:
            self.pool = max_pool_halving(stride=2 if place.halve else 1, dilation=place.dilation, ceil=True)
        projects = self.skips and (ins != outs or spec.gate == "gated")
        self.project = ConvNorm(kit, ins, outs, up) if projects else Resize(up)
        self.sum = Sum()
        self.gate = nn.Identity()
        if spec.gate in ("scaled", "dropout") and place.degree > 1:
            self.gate = (Scale if spec.gate == "scaled" else KeepAll)(1 / place.degree)

    def forward(self, x: Tensor, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the edge's share of its target, (N, out_chs, *size), from the source as branch and skip read it."""
        if self.pre:
            x = self.act0(self.norm(self.resize(x, size)))
        x = self.act1(self.reduce(x, size))
        x = self.act2(self.mix(x))
        x = self.drop_path(self.expand(x))
        if self.skips:
            x = self.sum(x, self.gate(self.project(self.pool(raw), size)))
        return self.act3(x)

    @torch.jit.ignore
    def zero_init_last(self) -> None:
        """Start with only the skip: zero the last weight of the branch. Without a skip nothing would be left."""
        if self.skips:
            last = self.expand if isinstance(self.expand, nn.Conv2d) else self.expand.get_submodule("norm")
            nn.init.zeros_(cast(nn.Parameter, last.weight))


class Fabric(GridBackbone):
    """Fabric: stem, columns, head. The taps are the stem (ImageNet scale) and the nodes of the last column."""

    def build(
        self, spec: FabricSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        width, head_chs = spec.channels[0], spec.channels[spec.head_scale] * len(spec.head_nodes)
        levels = spec.hold(output_stride)
        conv = Conv(out_chs=width, kernel=3, stride=2 if spec.stem == "imagenet" else 1, bias=spec.conv_bias)
        taps = []
        if spec.stem == "imagenet":
            half = Conv(out_chs=max(width // 2, 1), kernel=3, stride=2)
            self.stem = sequence(kit, in_chans, "cna", [half])
            self.enter = sequence(kit, half.out_chs, "c", [conv])
            taps.append(("stem", half.out_chs, 2))
        else:
            self.stem = sequence(kit, in_chans, "c", [conv])
            self.enter = nn.Identity()
        self.columns = self._grid(spec, kit, levels, drop_path_rate)
        self.column_tap = len(taps)
        for scale, level in enumerate(levels):
            taps.append((f"columns.{spec.columns - 1}.{scale}.finish", spec.channels[scale], level.stride))
        hyper = spec.head == "hypercolumn"
        self.head_output = spec.scales if hyper else spec.head_scale
        self.columns.train_for([self.head_output])
        self.always = []
        return Trunk(
            taps=taps,
            final=sequence(kit, head_chs, "na" if spec.unit in ("pre", "pre_released") else ""),
            num_features=head_chs,
            head_tap=-1 if hyper else self.column_tap + spec.head_scale,
        )

    @torch.jit.ignore
    def _grid(self, spec: FabricSpec, kit: Kit, levels: Sequence[Level], drop_path_rate: float) -> Grid:
        edges, rates = spec.edges, drop_path_rates(drop_path_rate, spec.columns)
        degrees = topology.out_degrees(edge for edge in edges if spec.has_skip(edge.kind))
        build = PlainEdge if spec.unit in PLAIN else BottleneckEdge

        def make_edge(edge: topology.Edge) -> nn.Module:
            if edge.kind == topology.COLUMN_SKIP:
                return nn.Identity()
            (_, source), (column, target) = edge.source, edge.target
            place = _Place(
                kind=edge.kind,
                in_chs=spec.channels[source],
                out_chs=spec.channels[target],
                halve=levels[source].stride != levels[target].stride,
                # What was a stride dilates as its source does; only behind it the dilation grows.
                dilation=levels[min(source, target)].dilation,
                degree=degrees[edge.source],
                drop_path=rates[column],
            )
            return build(spec, kit, place)

        after = "" if spec.unit in ("pre", "pre_released") else "na"
        return Grid(
            (spec.type, spec.columns, spec.scales),
            make_edge,
            lambda node: sequence(kit, spec.channels[node[1]], after),
            shared=spec.unit == "preshared",
            across=spec.out_scale if spec.head == "hypercolumn" else -1,
            column_skip=spec.column_skip,
        )


SINGH = "Singh 2018, Residual Neural Fabrics part 2, after Saxena & Verbeek 2016, arXiv:1606.02492"
SAXENA = "Saxena & Verbeek 2016, arXiv:1606.02492"
FOURURE = "Fourure et al. 2017, arXiv:1707.07958"
ORACLE = "No installable implementation: tests hold the net against its equations written out plainly."
OURS = f"A preset of our own, by the papers' rules; no published numbers. {ORACLE}"

CIFAR: dict[str, Any] = dict(stem="cifar") | cifar_task()
SMALL: dict[str, Any] = dict(input_size=(3, 64, 64), num_classes=10)
VOC: dict[str, Any] = dict(stem="cifar", head="dense", input_size=(3, 256, 256), num_classes=21)
CITY: dict[str, Any] = dict(stem="cifar", head="dense", input_size=(3, 400, 400), num_classes=19)


def _row(
    params: int, type: str, columns: int, channels: tuple[int, ...], unit: str = "conv", *, says: str = "", **more: Any
) -> Entry:
    """Return the row of a fabric. Keywords that are no specification fields go to the row; ``says`` to its notes."""
    fields = {key: more.pop(key) for key in tuple(more) if key in FabricSpec.field_names()}
    spec = FabricSpec(type=type, columns=columns, scales=len(channels), channels=channels, unit=unit, **fields)
    notes = f"{says} {ORACLE}" if says else OURS
    return Entry(Fabric, spec, **dict[str, Any](paper=SINGH, params=params, notes=notes) | more)


T3 = "Table 3; the count of the Caffe net, with biases."
T45 = "Tables 4 and 5 of the report."
SHIFT = (
    f"{T45} Skips that are kept by chance have another variance in training than in evaluation, where they are scaled "
    "(variance shift, Li et al. 2018, arXiv:1801.05134): tests need the precise statistics of the norms."
)
DEAD = (
    "Read at the coarsest scale: nodes (7, 0) to (7, 4), 19 edges and 2,805,376 parameters lead nowhere and get no "
    "gradient (and ask for none); the published count includes them."
)
F9D = "Figure 9d, in no table."
SLOW = f"{T45} Without gates it learns slowly: twice the epochs."
SPARSE = "Published as 2 M, which no reading of the text gives (see the family's text)."
GRID = (
    "The grid of the paper (six columns, five scales, three columns down and three up) with the fabric's bottlenecks "
    "where the paper has pairs of 3x3, so the count is not the paper's; gridnet is the net of its authors' code."
)
DROPS: dict[str, Any] = dict(gate="dropout", says=SHIFT, precise_norms=True)
W, X2 = (128,) * 6, (32, 64, 128, 256, 512, 1024)

MODELS = {
    # The report's tables, 32 px
    "fabric_a_l8_s6_c128_cifar": _row(18_022_410, "a", 8, W, conv_bias=True, says=T3, **CIFAR),
    "fabric_d_l8_s6_c128_cifar": _row(22_449_930, "d", 8, W, conv_bias=True, says=f"{T3} {DEAD}", **CIFAR),
    "fabric_a_l9_s6_c128_cifar": _row(20_367_498, "a", 9, W, says="Table 4.", **CIFAR),
    "fabric_a_l3_s6_c128_post_cifar": _row(756_618, "a", 3, W, "post", says=T45, **CIFAR),
    "fabric_a_l3_s6_c128_post_scaled_cifar": _row(756_618, "a", 3, W, "post", gate="scaled", says=T45, **CIFAR),
    "fabric_a_l3_s6_c128_post_dropout_cifar": _row(756_618, "a", 3, W, "post", **DROPS, **CIFAR),
    "fabric_a_l3_s6_c128_post_gated_cifar": _row(1_455_498, "a", 3, W, "post", gate="gated", says=T45, **CIFAR),
    "fabric_a_l3_s6_c128_pre_cifar": _row(752_266, "a", 3, W, "pre", says=T45, **CIFAR),
    "fabric_a_l3_s6_c128_pre_scaled_cifar": _row(752_266, "a", 3, W, "pre", gate="scaled", says=T45, **CIFAR),
    "fabric_a_l3_s6_c128_pre_dropout_cifar": _row(752_266, "a", 3, W, "pre", **DROPS, **CIFAR),
    "fabric_a_l3_s6_c128_pre_gated_cifar": _row(1_451_146, "a", 3, W, "pre", gate="gated", says=T45, **CIFAR),
    "fabric_a_l9_s6_c128_post_cifar": _row(2_473_866, "a", 9, W, "post", says=SLOW, epochs_factor=2, **CIFAR),
    "fabric_a_l9_s6_c128_pre_cifar": _row(2_460_298, "a", 9, W, "pre", says=T45, **CIFAR),
    # Described there, and in no table
    "fabric_a_l3_s6_c128_preshared_cifar": _row(745_866, "a", 3, W, "preshared", says=F9D, **CIFAR),
    "fabric_b_l8_s6_c128_cifar": _row(12_108_426, "b", 8, W, says="Type b as we read it, in no table.", **CIFAR),
    # The original paper; its dense net is fabric_a_l8_s6_c128_cifar
    "fabric_a_l16_s6_c64_sparse_cifar": _row(
        458_230, "a", 16, (64,) * 6, "sparse", conv_bias=True, paper=SAXENA, says=SPARSE, **CIFAR
    ),
    # Dense prediction
    "fabric_d_l8_s6_c32x2_voc": _row(226_416_437, "d", 8, X2, conv_bias=True, says=T3, **VOC),
    "gridnet_l6_s5_c16x2": _row(
        808_947, "bd", 6, (16, 32, 64, 128, 256), "pre", skips="within", paper=FOURURE, says=GRID, **CITY
    ),
    # ImageNet scale
    "fabric_a_l8_s4_c64x2_post": _row(9_659_144, "a", 8, (64, 128, 256, 512), "post"),
    "fabric_a_l10_s4_c96x2_post": _row(26_485_528, "a", 10, (96, 192, 384, 768), "post"),
    # Small ones
    "fabric_a_l3_s3_c32x2_post_cifar": _row(207_018, "a", 3, (32, 64, 128), "post", lineups=("default",), **CIFAR),
    "fabric_test": _row(12_356, "a", 3, (8, 12, 16, 20), "post", gate="scaled", **SMALL),
}
