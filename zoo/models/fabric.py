r"""Neural fabrics: a grid of columns and scales in which every way from the image to the score is a network.

Papers:
    Saxena, Verbeek 2016, Convolutional Neural Fabrics, NeurIPS 2016, arXiv:1606.02492: the grid, the sparse and the
    dense 3x3 unit.
    Singh, Residual Neural Fabrics, part 2 (report and released PyTorch module, 2018; part 1 was not to be found): types
    a and d, bottleneck units, gated skips. Its tables are what the presets are held against.
    Fourure, Emonet, Fromont, Muselet, Tremeau, Wolf 2017, Residual Conv-Deconv Grid Network, arXiv:1707.07958: GridNet.

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

A node sums the results of all edges that end in it. Every edge owns its weights. Units of an edge: ``conv`` and
``sparse`` (a 3x3, or one that sees three neighbouring channels; the node adds norm and activation), ``post``, ``pre``
and ``preshared`` (bottlenecks with a skip, the norms after or before the convolutions, or before and shared by all
edges of a node). The skip is the source's map at the target's size; where the channels change it is projected.

What differs from the sources, and why:
    * Published counts are met to the last parameter, dead ones included: of the type d nets that are read at the
      coarsest scale the finer nodes of the last column lead nowhere. Their parameters exist and get no gradient; their
      maps are computed when they are asked for as taps, and else not.
    * Table 4 of the report gives 2 M parameters for the sparse net with 16 columns and 64 channels. A band of three
      channels makes 458,230 with biases, 442,166 without; the formula 27*L*S*C that [Saxena & Verbeek] give for its
      order of magnitude makes 497,664. No reading of the text makes 2 M (four times the formula would). The 21.2 M of
      the dense net in the same table is such a formula, too (27*L*S*C*C); the net has 18,022,410.
    * The released code computes the first norm of a ``pre`` unit and then throws it away; in type d it writes what runs
      upwards into nodes that are done; a dropped skip stays dropped for ever. The report's text is what is built here;
      ``unit="pre_released"`` repeats the first of these, to tell what the published errors belong to.
    * Whole skips are dropped in training (``gate="dropout"``) with one draw an edge for the batch. Evaluation is not
      described: here a skip counts with its expectation, which equals ``scaled``.
    * Type b and its decoder (``bd``) are our reading of one sentence about GridNet. ``skips="within"`` gives skips to
      edges within a scale alone, as GridNet has them.
    * GridNet is documented by its authors' code (Fourure/GridNet at 2def034): six columns, three zipped downwards and
      three upwards, five scales of 16 to 256 channels, a skip on the edges within a scale and on no other, 19 classes,
      crops of 400 px. ``gridnet_l6_s5_c16x2`` has these, and is a fabric in the rest, by the report's sentence:
      bottlenecks where the code has pairs of 3x3 (norm and activation before each, biases), interpolation where it has
      transposed convolutions, one 3x3 before the grid and a 1x1 behind it where it has a norm of the image and two 3x3
      before, two transposed 3x3 behind. Its total dropout (0.1, of the branch of an edge within a scale) is near to
      drop path, which is off here. By our count the code's net has 13,181,097 parameters. The report speaks of dilated
      convolutions, of which the code has none; neither has ours.
    * Forward connections ("hypercolumn features") are named in the report and described nowhere: ``head="hypercolumn"``
      concatenates one scale of all columns, which is our reading.
    * Sizes that do not halve evenly are rounded up; enlarged maps take the size of the map they meet.
    * ``output_stride`` caps the stride of every scale: strided convolutions and pooling dilate, and there is nothing to
      enlarge between scales of one size. The state dict stays. Enlarging has no dilated form, so features differ from
      those of the native net.
    * Where maps are large, batch norms are multiplied into the convolutions before them in evaluation mode (see
      ``ConvNorm``), and a training step keeps signs where signs are enough and makes the activated input of ``pre``
      units again when it goes back. On a CPU maps inside the columns have their channels last, but for 3x3 convolutions
      with more weights than their maps have pixels. All of it is exact to rounding. Tried, and not worth it: the centre
      tap alone on 1x1 maps (3x3 convolutions of such maps are fast already), one convolution on the concatenated inputs
      of a node (an eighth faster, but the concatenation is kept for the backward pass).
    * The stem of the ImageNet nets (two 3x3 of stride 2) is ours: the papers know no larger image than 256 px.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import checkpoint
from torch import Tensor, nn

from zoo import topology
from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, Spec, cifar_task
from zoo.layers import (
    UPS,
    Conv,
    ConvNorm,
    KeepAll,
    Kit,
    check_size,
    max_pool_halving,
    resize_like,
    sequence,
)

UNITS = ("conv", "sparse", "post", "pre", "preshared", "pre_released")
PLAIN = ("conv", "sparse")
"""Units without a skip."""
GATES = ("none", "scaled", "dropout", "gated")
SKIPS = ("all", "within")
HEADS = ("classify", "dense", "hypercolumn")
STEMS = {"imagenet": 4, "cifar": 1}
"""Total stride of scale 0."""
HEAVY = 2**17
"""Product of a 3x3's input and output channels from which it takes maps in torch's own layout, on a CPU.

With channels last it would bring its weights into another order every time, and there are more of them than pixels.
"""
REMAKE_FROM = 2**20
"""Elements of an input from which ``pre`` units activate it again in the backward pass instead of keeping the result.

Below (4 MiB in float32) there is little memory to save, and the Python of a checkpoint costs more than all else gains.
"""
SIGN_FROM = 2**17
"""Elements of a sum from which ``post`` units keep its signs alone for the backward pass, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class FabricSpec(Spec):
    """A fabric.

    Attributes:
        type: Pattern of the edges, a key of ``zoo.topology.TYPES``.
        columns: Number of columns; the stem is none.
        scales: Number of scales.
        channels: Channels of each scale, finest first.
        unit: What an edge computes.
        gate: What happens to a skip: nothing, times 1 / out-degree of its source (``scaled``), kept with that
            probability (``dropout``), or a 1x1 convolution and a norm (``gated``).
        skips: Which edges have one: ``all``, or those ``within`` a scale.
        up: How maps are enlarged.
        conv_bias: The stem and 3x3 units have a bias.
        stem: ``cifar`` (a bare 3x3) or ``imagenet`` (two 3x3 of stride 2).
        head: ``classify`` scores the pooled coarsest node, ``dense`` every position of the node at ``out_scale``,
            ``hypercolumn`` every position of the nodes of all columns at ``out_scale``.
        out_scale: What the last two read.
    """

    type: str
    columns: int
    scales: int
    channels: tuple[int, ...]
    unit: str = "conv"
    gate: str = "none"
    skips: str = "all"
    up: str = "bilinear"
    conv_bias: bool = False
    stem: str = "imagenet"
    head: str = "classify"
    out_scale: int = 0

    def check(self) -> None:
        """Raise ValueError, naming field and value, where the numbers do not make a fabric."""
        self.require_choice("type", tuple(topology.TYPES))
        self.require_choice("unit", UNITS)
        self.require_choice("gate", GATES)
        self.require_choice("skips", SKIPS)
        self.require_choice("up", UPS)
        self.require_choice("stem", STEMS)
        self.require_choice("head", HEADS)
        self.require_positive("columns", "scales", "channels")
        self.require(self.columns > 1, "columns", "be at least 2: one column is a chain, not a grid")
        self.require(self.scales > 1, "scales", "be at least 2: one scale is a chain, not a grid")
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
        self.require(0 <= self.out_scale < self.scales, "out_scale", f"be one of the {self.scales} scales, from 0")
        if self.head == "classify":
            self.require(self.out_scale == 0, "out_scale", "be 0 with head 'classify', which reads the coarsest scale")

    @property
    def edges(self) -> tuple[topology.Edge, ...]:
        """The graph."""
        return topology.fabric_edges(self.type, self.columns, self.scales)

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
    def scale_strides(self) -> tuple[int, ...]:
        """Total stride of each scale."""
        return tuple(STEMS[self.stem] * 2**s for s in range(self.scales))

    @property
    def tap_strides(self) -> tuple[int, ...]:
        """Of the stem's first convolution (ImageNet scale) and of the last column, finest first."""
        return (2, *self.scale_strides) if self.stem == "imagenet" else self.scale_strides

    @property
    def output_strides(self) -> tuple[int, ...]:
        """From the finest scale's to the native one."""
        return self.scale_strides

    @property
    def head_stride(self) -> int:
        """Total stride of the map that the head reads."""
        return self.scale_strides[self.head_scale]

    @property
    def dense(self) -> bool:
        """Whether there is a score for every position."""
        return self.head != "classify"

    def facts(self) -> dict[str, str]:
        """The grid in words and numbers."""
        edges, outputs = self.edges, self.head_nodes
        live = topology.live_edges(edges, outputs)
        nodes = self.columns * self.scales
        kinds = {kind: sum(edge.kind == kind for edge in edges) for kind in topology.KINDS}
        read = f"scale {self.head_scale} of " + ("every column" if len(outputs) > 1 else "the last column")
        return {
            "grid": f"{self.columns} columns x {self.scales} scales, type {self.type}: "
            + topology.TYPES[self.type].meaning,
            "strides": " ".join(map(str, self.scale_strides)),
            "channels": " ".join(map(str, self.channels)),
            "edges": f"{len(edges)}: " + ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n),
            "read at": read,
            "live nodes": f"{len(topology.live_nodes(edges, outputs))} of {nodes}",
            "live edges": f"{len(live)} of {len(edges)}, {len(edges) - len(live)} dead",
            "paths": f"{sum(topology.count_paths(edges, node) for node in outputs):,} from the stem to the head",
        }


class Maps(NamedTuple):
    """What a column knows, by scale.

    Attributes:
        act: What branches read.
        raw: What skips read: the sum before a shared norm, else the same dictionary as ``act``.
        pooled: ``raw`` at half the size, once somebody has asked for it.
        raised: ``raw`` at the size of the next finer scale, likewise.
    """

    act: dict[int, Tensor]
    raw: dict[int, Tensor]
    pooled: dict[int, Tensor]
    raised: dict[int, Tensor]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """An edge of the graph, resolved to what its operators need."""

    kind: str
    source: int
    in_chs: int
    out_chs: int
    halve: bool
    dilation: int
    degree: int
    drop_path: float

    @property
    def rises(self) -> bool:
        """Whether the source is enlarged; not where ``output_stride`` holds both scales at one size."""
        return self.kind in ("up", "zip_up") and self.halve

    @property
    def falls(self) -> bool:
        return self.kind in ("down", "zip_down")

    def conv3x3(self, out_chs: int, bias: bool = False) -> Conv:
        stride = 2 if self.falls and self.halve else 1
        return Conv(out_chs=out_chs, kernel=3, stride=stride, dilation=self.dilation, bias=bias)


class Move(nn.Module):
    """A source's ``raw`` map at the size of the target, made once for all edges that ask."""

    def __init__(self, place: _Place, up: str) -> None:
        super().__init__()
        self.source, self.up = place.source, up
        self.rises, self.falls = place.rises, place.falls
        self.pool = max_pool_halving(halve=place.halve, dilation=place.dilation, ceil=True)

    def forward(self, maps: Maps, like: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        if self.falls:
            if self.source not in maps.pooled:
                maps.pooled[self.source] = self.pool(maps.raw[self.source])
            return maps.pooled[self.source]
        if self.rises:
            if self.source not in maps.raised:
                maps.raised[self.source] = resize_like(maps.raw[self.source], like, self.up)
            return maps.raised[self.source]
        return maps.raw[self.source]


class SparseConv(nn.Module):
    """A 3x3 in which an output channel sees the input channels c - 1, c and c + 1 (Saxena & Verbeek 2016, section 3.1).

    Only the band has parameters. From C to 2C channels output c sees the inputs (c - 1) // 2 and the next, from 2C to C
    the four inputs from 2c - 1, as in the authors' generator. With at most three channels, or where the channels do not
    double or halve, it is dense.
    """

    def __init__(self, kit: Kit, in_chs: int, conv: Conv) -> None:
        super().__init__()
        self.in_chs, self.conv = in_chs, conv
        self.stride, self.dilation = conv.stride, conv.dilation
        self.shape = (conv.out_chs, in_chs, 3, 3)
        new: dict[str, Any] = dict(device=kit.device, dtype=kit.dtype)
        band = self.band()
        self.weight = nn.Parameter(torch.empty(len(band), 3, 3, **new))
        self.bias = nn.Parameter(torch.empty(conv.out_chs, **new)) if conv.bias else None
        # Where the band lies in the dense weight; not part of a checkpoint, since it follows from the shape.
        self.register_buffer("index", torch.tensor(band, device=kit.device), persistent=False)
        self.reset_parameters()

    @torch.jit.ignore
    def band(self) -> list[int]:
        """Positions in the dense weight, output channel by output channel."""
        ins, outs = self.in_chs, self.conv.out_chs
        if min(ins, outs) <= 3 or (outs not in (ins, 2 * ins) and ins != 2 * outs):
            return list(range(ins * outs))
        pairs = []
        for c in range(outs):
            first, last = c - 1, c + 1
            if outs == 2 * ins:
                first = (c - 1) // 2
                last = first + 1 if c else 0
            elif ins == 2 * outs:
                first, last = 2 * c - 1, 2 * c + 2
            pairs += [c * ins + i for i in range(max(first, 0), min(last, ins - 1) + 1)]
        return pairs

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """He normal with the fan-out of the band, bias zero."""
        self.index.copy_(torch.tensor(self.band(), device=self.index.device))
        fan_out = 9 * len(self.weight) / self.in_chs
        nn.init.normal_(self.weight, std=(2 / fan_out) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chs, H, W) -> (N, out_chs, H / stride, W / stride)."""
        outs, ins, height, width = self.shape
        weight = self.weight.new_zeros((outs * ins, height, width)).index_copy(0, self.index, self.weight)
        weight = weight.view(outs, ins, height, width)
        return F.conv2d(x, weight, self.bias, self.stride, self.dilation, self.dilation)


class PlainPath(nn.Module):
    """An edge without a skip: a 3x3 (figure 9a of the report), dense or sparse."""

    def __init__(self, spec: FabricSpec, kit: Kit, place: _Place) -> None:
        super().__init__()
        self.source, self.rises = place.source, place.rises
        conv = place.conv3x3(place.out_chs, bias=spec.conv_bias)
        self.move = Move(place, spec.up)
        self.conv = kit.conv(place.in_chs, conv) if spec.unit == "conv" else SparseConv(kit, place.in_chs, conv)
        self.heavy = place.in_chs * place.out_chs >= HEAVY
        self.drop_path = DropPath(place.drop_path) if place.drop_path else nn.Identity()

    def forward(self, maps: Maps, like: Tensor) -> Tensor:
        """The edge's share of its target."""
        x = maps.act[self.source]
        if self.rises:
            x = self.move(maps, like)
        if self.heavy:
            x = _channels_first(x)
        return self.drop_path(self.conv(x))


class BottleneckPath(nn.Module):
    """An edge with a bottleneck and a skip (figure 9b to d of the report).

    A 1x1 without bias commutes with enlarging a map. Where nothing but a 1x1 stands before the enlarged map is needed,
    it runs on the small map: the first 1x1 of the units that do not begin with a norm, and the 1x1 of a skip.
    """

    __constants__ = ("post",)  # TorchScript compiles the branch that is taken

    def __init__(self, spec: FabricSpec, kit: Kit, place: _Place) -> None:
        super().__init__()
        self.source, self.rises = place.source, place.rises
        mid = place.out_chs // 4
        up = spec.up if place.rises else ""
        self.norm = None
        if spec.unit in ("pre", "pre_released"):
            self.norm = kit.norm(place.in_chs)
        self.first = spec.unit == "pre"
        self.reduce = ConvNorm(kit, place.in_chs, Conv(out_chs=mid, kernel=1), up="" if self.first else up)
        self.mix = ConvNorm(kit, mid, place.conv3x3(mid))
        last = Conv(out_chs=place.out_chs, kernel=1)
        self.post = spec.unit == "post"
        self.expand: nn.Module = ConvNorm(kit, mid, last) if self.post else kit.conv(mid, last)
        self.act = kit.act()
        self.drop_path = DropPath(place.drop_path) if place.drop_path else nn.Identity()
        self.move = Move(place, spec.up)
        self.skips = spec.skips == "all" or place.kind == "fwd"
        self.project: nn.Module | None = None
        if self.skips and (place.in_chs != place.out_chs or spec.gate == "gated"):
            self.project = ConvNorm(kit, place.in_chs, Conv(out_chs=place.out_chs, kernel=1), up=up)
        self.factor = 1 / place.degree if spec.gate == "scaled" else 1.0
        drops = spec.gate == "dropout" and place.degree > 1
        self.gate = KeepAll(1 / place.degree) if drops else nn.Identity()

    def forward(self, maps: Maps, like: Tensor) -> Tensor:
        """The edge's share of its target."""
        x = maps.act[self.source]
        if self.first and self.rises:
            x = self.move(maps, like)
        x = self.act(self.begin(x, like))
        x = self.act(self.mix(x, like))
        if self.post:
            x = self.expand(x, like)
        else:
            x = self.expand(x)
        x = self.drop_path(x)
        if self.skips:
            x = torch.add(x, self.gate(self.skip(maps, like)), alpha=self.factor)
        if self.post:
            if torch.jit.is_scripting():
                x = self.act(x)
            else:
                x = self.close(x)
        return x

    @torch.jit.ignore
    def close(self, x: Tensor) -> Tensor:
        """The activation of the sum; nothing but its sign is needed in the backward pass, where it is a rectifier."""
        lean = isinstance(self.act, nn.ReLU) and self.eager_training(x) and x.numel() >= SIGN_FROM
        return _SignedReLU.apply(x) if lean else self.act(x)

    def begin(self, x: Tensor, like: Tensor) -> Tensor:
        """The first 1x1 and its norm; in unit ``pre`` after the norm and the activation of the source."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
            if self.remakes(x):
                return self.reduce.norm(self._recomputed(x))
        if self.first and self.norm is not None:
            x = self.act(self.norm(x))
        return self.reduce(x, like)

    @torch.jit.ignore
    def eager_training(self, x: Tensor) -> bool:
        """Whether this is a training step in plain Python; a compiler decides by itself what it keeps."""
        return (
            self.training
            and not isinstance(x, torch.fx.Proxy)
            and not torch.jit.is_tracing()
            and not torch.compiler.is_compiling()
            and x.requires_grad
        )

    @torch.jit.ignore
    def remakes(self, x: Tensor) -> bool:
        """Whether the activated input is made again in the backward pass: where it is, and where it is worth it."""
        return self.first and type(self.norm) is nn.BatchNorm2d and self.eager_training(x) and x.numel() >= REMAKE_FROM

    @torch.jit.ignore
    def _recomputed(self, x: Tensor) -> Tensor:
        # Every edge that leaves a node activates the node's map for itself: of all that a step keeps for the backward
        # pass the largest part, and the cheapest to make again.
        again = False

        def run(x: Tensor) -> Tensor:
            nonlocal again
            norm = self.norm
            if again:  # the running statistics have seen the batch
                stats = (norm.running_mean, norm.running_var)
                stats = tuple(t if t is None else t.clone() for t in stats)
                x = F.batch_norm(x, *stats, norm.weight, norm.bias, norm.training or stats[0] is None, 0.1, norm.eps)
            else:
                x = norm(x)
            again = True
            return self.reduce.conv(self.act(x))

        return checkpoint(run, x, preserve_rng_state=False)

    def skip(self, maps: Maps, like: Tensor) -> Tensor:
        """The source at the size and with the channels of the target."""
        if self.project is None:
            return self.move(maps, like)
        if self.rises:
            return self.project(maps.raw[self.source], like)
        return self.project(self.move(maps, like), like)

    @torch.jit.ignore
    def zero_init_last(self) -> None:
        """Start as the skip alone."""
        nn.init.zeros_(self.expand.norm.weight if self.post else self.expand.weight)


class _SignedReLU(torch.autograd.Function):
    """A rectifier that keeps where it is positive, a byte an element, instead of its result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.relu_()
        ctx.save_for_backward(x > 0)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        # The backward of the rectifier itself: several times as fast as a product or a fill with a mask.
        return torch.ops.aten.threshold_backward(grad, positive.to(grad.dtype), 0)


class Cell(nn.Module):
    """A node: the sum of the edges that end in it, and what follows the sum.

    Its children are called as the edges are: ``fwd``, ``down``, ``up``, ``zip``; a node has at most one of each.

    Attributes:
        reach: Outputs that the node is needed for: scales of the last column, and ``scales`` for a hypercolumn.
    """

    def __init__(self, spec: FabricSpec, kit: Kit, node: topology.Node, places: Collection[_Place]) -> None:
        super().__init__()
        column, self.scale = node
        self.source = node == (0, 0)
        self.like = self.scale if column else 0
        self.first = column == 0
        self.reach: list[int] = []
        build = PlainPath if spec.unit in PLAIN else BottleneckPath
        self.fwd = self.down = self.up = self.zip = None
        for place in places:
            setattr(self, place.kind.removesuffix("_down").removesuffix("_up"), build(spec, kit, place))
        word = "" if spec.unit in ("pre", "pre_released") else "na"
        self.finish = sequence(kit, spec.channels[self.scale], word)
        self.upwards = topology.TYPES[spec.type].zipper(column, spec.columns) == "zip_up"

    def forward(self, before: Maps, here: Maps) -> None:
        """Add the node to ``here``, from the last column and from what is done of this one."""
        like = before.act[self.like]
        parts: list[Tensor] = []
        if self.source:
            parts.append(like)
        if self.fwd is not None:
            parts.append(self.fwd(before, like))
        if self.down is not None:
            parts.append(self.down(before, like))
        if self.up is not None:
            parts.append(self.up(before, like))
        if self.zip is not None:
            parts.append(self.zip(here, like))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        here.raw[self.scale] = total
        here.act[self.scale] = self.finish(total)

    def release(self, before: Maps) -> None:
        """Forget the maps of the column before that this node was the last to read."""
        if not self.first:
            finer, coarser = self.scale - 1, self.scale + 1
            done = coarser if self.upwards else finer
            for maps, scale in (
                (before.act, done),
                (before.raw, done),
                (before.pooled, finer),
                (before.raised, coarser),
            ):
                if scale in maps:
                    del maps[scale]

    def serves(self, wanted: list[int]) -> bool:
        """Whether one of the outputs needs this node."""
        for output in wanted:  # noqa: SIM110 - TorchScript has no generators
            if output in self.reach:
                return True
        return False


class Column(nn.Sequential):
    """The nodes of a column, in the order of evaluation, named after their scales."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, before: Maps, wanted: list[int]) -> Maps:
        """The column before -> this one, without nodes that no output needs; frees what nobody reads again."""
        act: dict[int, Tensor] = {}
        raw = act
        if self.shared:
            raw = torch.jit.annotate(dict[int, Tensor], {})
        pooled: dict[int, Tensor] = {}
        raised: dict[int, Tensor] = {}
        here = Maps(act, raw, pooled, raised)
        for cell in self:
            if cell.serves(wanted):
                cell(before, here)
                cell.release(before)
        return here


class Columns(nn.Sequential):
    """All columns: from the stem's map to the nodes of the last one.

    Args:
        spec: The architecture.
        kit: The shared layer types.
        strides: Total stride of each scale.
        drop_path_rate: Of the edges into the last column; it rises with the columns.
    """

    grad_checkpointing: bool

    def __init__(self, spec: FabricSpec, kit: Kit, strides: Collection[int], drop_path_rate: float) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.scales, self.out_scale = spec.scales, spec.out_scale
        self.everything = list(range(spec.scales))
        self.smallest = 2 ** (spec.scales - 2) + 1
        image = (self.smallest - 1) * STEMS[spec.stem] + 1
        self.too_small = (
            f"scale 0 ({{size}}) must be at least {self.smallest}x{self.smallest} for {spec.scales} scales of "
            f"different sizes: give images of at least {image}x{image} pixels, or fewer scales"
        )
        edges, degrees = spec.edges, topology.out_degrees(spec.edges)
        rates = drop_path_rates(drop_path_rate, spec.columns)
        strides = tuple(strides)
        dilations = [full // stride for full, stride in zip(spec.scale_strides, strides, strict=True)]
        into: dict[topology.Node, list[_Place]] = {}
        for edge in edges:
            (_, source), (column, target) = edge.source, edge.target
            place = _Place(
                kind=edge.kind,
                source=source,
                in_chs=spec.channels[source],
                out_chs=spec.channels[target],
                halve=strides[source] != strides[target],
                # What was a stride dilates as its source does; only behind it the dilation grows.
                dilation=dilations[min(source, target)],
                degree=degrees[edge.source],
                drop_path=rates[column],
            )
            into.setdefault(edge.target, []).append(place)
        for _ in range(spec.columns):
            self.append(Column(shared=spec.unit == "preshared"))
        for column, scale in topology.node_order(spec.type, spec.columns, spec.scales):
            places = into.get((column, scale), [])
            self[column].add_module(str(scale), Cell(spec, kit, (column, scale), places))
        outputs: dict[int, tuple[topology.Node, ...]] = {
            scale: ((spec.columns - 1, scale),) for scale in range(spec.scales)
        }
        if spec.head == "hypercolumn":
            outputs[spec.scales] = spec.head_nodes
        for output, nodes in outputs.items():
            for column, scale in topology.live_nodes(edges, nodes):
                self[column].get_submodule(str(scale)).reach.append(output)

    def forward(self, x: Tensor, wanted: list[int] | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """The stem's map -> outputs by number, and before them the finest one, for whoever takes the first of a tuple.

        Args:
            x: (N, channels[0], H, W).
            wanted: Scales of the last column to compute, and ``scales`` for the hypercolumn; None for all scales.

        Raises:
            ValueError: If height or width is too small for the number of scales.
        """
        check_size(x, self.smallest, self.too_small)
        if wanted is None:
            wanted = self.everything
        stacked: list[Tensor] = []
        given = x
        x = _channels_last(x)
        act: dict[int, Tensor] = {0: x}
        pooled: dict[int, Tensor] = {}
        raised: dict[int, Tensor] = {}
        maps = Maps(act, act, pooled, raised)
        for column in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                maps = checkpoint(_run_copy, column, maps, wanted)
            else:
                maps = column(maps, wanted)
            if self.scales in wanted:
                stacked.append(maps.act[self.out_scale])
        if self.scales in wanted:
            maps.act[self.scales] = torch.cat(stacked, dim=1)
        nodes: dict[int, Tensor] = {}
        finest = self.scales
        for output in maps.act:
            if output in wanted:
                nodes[output] = _as_given(maps.act[output], given)
                finest = min(finest, output)
        return _tap(nodes[finest]), nodes

    @torch.jit.ignore
    def keep(self, outputs: Collection[int]) -> None:
        """Remove the nodes that none of the outputs needs."""
        for column in self:
            for name, cell in list(column.named_children()):
                cell.reach = [output for output in cell.reach if output in outputs]
                if not cell.reach:
                    del column._modules[name]
        self.everything = [output for output in self.everything if output in outputs]


def _run_copy(column: Column, maps: Maps, wanted: list[int]) -> Maps:
    """Run a column that will be run again: what it frees must be there the next time."""
    act = dict(maps.act)
    raw = act if maps.raw is maps.act else dict(maps.raw)
    return column(Maps(act, raw, dict(maps.pooled), dict(maps.raised)), wanted)


@torch.fx.wrap
def _channels_last(x: Tensor) -> Tensor:
    """On a CPU pooling and interpolation are several times as fast with channels last, and 1x1s are plain products."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


@torch.fx.wrap
def _channels_first(x: Tensor) -> Tensor:
    return x.contiguous() if x.device.type == "cpu" else x


@torch.fx.wrap
def _as_given(x: Tensor, given: Tensor) -> Tensor:
    """A result in the layout that the caller uses."""
    return x if given.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


@torch.fx.wrap
def _tap(x: Tensor) -> Tensor:
    """The same map; in a traced graph a node of its own, for tools name what a child returns after its last node."""
    return x


class Turn(nn.Module):
    """Puts the node at another scale first, as the tap: the fabric's children from the second scale on."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, maps: tuple[Tensor, dict[int, Tensor]]) -> tuple[Tensor, dict[int, Tensor]]:
        """(a map, nodes) -> (this scale's node, nodes)."""
        return _tap(maps[1][self.scale]), maps[1]


class Fabric(Backbone):
    """Stem, columns, and a child without parameters for each further scale of the last column: taps need names."""

    def build(
        self, spec: FabricSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        width, head_chs = spec.channels[0], spec.channels[spec.head_scale] * len(spec.head_nodes)
        strides = [min(stride, output_stride or stride) for stride in spec.scale_strides]
        conv = Conv(out_chs=width, kernel=3, stride=2 if spec.stem == "imagenet" else 1, bias=spec.conv_bias)
        if spec.stem == "imagenet":
            half = Conv(out_chs=max(width // 2, 1), kernel=3, stride=2)
            self.stem = sequence(kit, in_chans, "cna", [half])
            self.enter = sequence(kit, half.out_chs, "c", [conv])
        else:
            self.stem = sequence(kit, in_chans, "c", [conv])
            self.enter = nn.Identity()
        self.columns = Columns(spec, kit, strides, drop_path_rate)
        names = ["columns", *(f"scale{s}" for s in range(1, spec.scales))]
        for scale, name in enumerate(names[1:], start=1):
            self.add_module(name, Turn(scale))
        taps = [("stem", half.out_chs, 2)] if spec.stem == "imagenet" else []
        self.column_tap = len(taps)
        taps += zip(names, spec.channels, strides, strict=True)
        hyper = spec.head == "hypercolumn"
        self.head_output = spec.scales if hyper else spec.head_scale
        pre = spec.unit in ("pre", "pre_released")
        return Trunk(
            taps=taps,
            final=sequence(kit, head_chs, "na" if pre else ""),
            num_features=head_chs,
            head_tap=-1 if hyper else self.column_tap + spec.head_scale,
        )

    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """See `Backbone.forward_trunk`."""
        taps: list[Tensor] = []
        x = self.stem(x)
        if self.column_tap == 1 and 0 in keep:
            taps.append(x)
        if self.columns is None or stop < self.column_tap:
            return x, taps
        output = stop - self.column_tap
        if stop == self.last_tap:
            output = self.head_output
        wanted = [output]
        for tap in keep:
            if tap >= self.column_tap:
                wanted.append(tap - self.column_tap)
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
            if self.watched(x):
                wanted = [*wanted, *self.columns.everything]
        maps = self.columns(self.enter(x), wanted)
        nodes = maps[1]
        if torch.jit.is_scripting():
            for tap in keep:
                if tap >= self.column_tap:
                    taps.append(nodes[tap - self.column_tap])
        else:
            taps += self._pass_taps(maps, keep)
        return nodes[output], taps

    @torch.jit.ignore
    def watched(self, x: Tensor) -> bool:
        """Whether somebody may want taps that were not asked for: who traces the net, or has put hooks on them."""
        taps = self.tap_names[self.column_tap :]
        return isinstance(x, torch.fx.Proxy) or any(self.get_submodule(name)._forward_hooks for name in taps)

    @torch.jit.ignore
    def _pass_taps(self, maps: tuple[Tensor, dict[int, Tensor]], keep: list[int]) -> list[Tensor]:
        """Run the children behind the columns, for hooks and traces see taps there; the taps in ``keep``."""
        taps = []
        for tap in range(self.column_tap, self.last_tap + 1):
            scale = tap - self.column_tap
            if scale in maps[1]:
                if scale:
                    maps = self.get_submodule(self.tap_names[tap])(maps)
                if tap in keep:
                    taps.append(maps[1][scale])
            elif tap in keep:
                raise ValueError(f"tap {tap} was removed by prune_intermediate_layers; ask for another")
        return taps

    @torch.jit.ignore
    def prune_trunk(self, take: list[int]) -> None:
        """Remove the nodes that neither a tap of ``take`` nor the end of the trunk needs."""
        if self.columns is None:
            return
        if self.head_tap >= 0:
            self.head_output = self.head_tap - self.column_tap
        self.columns.keep({self.head_output, *(tap - self.column_tap for tap in take)})

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layer groups in order of depth; fine groups are the columns."""
        columns = r"^columns\." if coarse else r"^columns\.(\d+)\."
        return {"stem": r"^(?:stem|enter)\.", "columns": columns, "final": r"^final\."}


SINGH = "Singh 2018, Residual Neural Fabrics part 2, after Saxena & Verbeek 2016, arXiv:1606.02492"
SAXENA = "Saxena & Verbeek 2016, arXiv:1606.02492"
FOURURE = "Fourure et al. 2017, arXiv:1707.07958"
ORACLE = "No installable implementation: tests hold the net against its equations written out plainly."
OURS = f"A preset of our own, by the papers' rules; no published numbers. {ORACLE}"
DOUBLING = (32, 64, 128, 256, 512, 1024)


def _fabric(
    params: int, type: str, columns: int, channels: tuple[int, ...], unit: str = "conv", **kwargs: Any
) -> Entry:
    """A fabric; keywords that are no fields of the specification belong to the row."""
    fields = {k: kwargs.pop(k) for k in tuple(kwargs) if k in FabricSpec.field_names()}
    spec = FabricSpec(type=type, columns=columns, scales=len(channels), channels=channels, unit=unit, **fields)
    row: dict[str, Any] = {"paper": SINGH, "params": params, "notes": OURS} | kwargs
    return Entry(Fabric, spec, **row)


def _cifar(params: int, type: str, columns: int, unit: str = "conv", *, row: str = "", **kwargs: Any) -> Entry:
    """Six scales at 32 px, of 128 channels where nothing else is said: a row of the report's tables, or its like."""
    notes = f"{row} {ORACLE}" if row else OURS
    return _fabric(
        params,
        type,
        columns,
        (kwargs.pop("width", 128),) * 6,
        unit,
        stem="cifar",
        notes=notes,
        **kwargs,
        **cifar_task(),
    )


def _voc(params: int, unit: str = "conv", *, notes: str, **kwargs: Any) -> Entry:
    """Type d, eight columns, channels doubled from scale to scale, a score for each pixel (Pascal VOC)."""
    return _fabric(
        params,
        "d",
        8,
        DOUBLING,
        unit,
        stem="cifar",
        head="dense",
        input_size=(3, 256, 256),
        num_classes=21,
        notes=f"{notes} {ORACLE}",
        **kwargs,
    )


T45 = "Tables 4 and 5 of the report."
SHIFT = (
    f"{T45} Skips that are kept by chance have another variance in training than in evaluation, where they are scaled "
    "(variance shift, Li et al. 2018, arXiv:1801.05134): tests need the precise statistics of the norms."
)
DEAD = (
    "Read at the coarsest scale: nodes (7, 0) to (7, 4), 19 edges and 2,802,944 parameters lead nowhere and get no "
    "gradient; the published count includes them."
)

MODELS = {
    # The report's tables, 32 px
    "fabric_a_l8_s6_c128_cifar": _cifar(
        18_022_410, "a", 8, conv_bias=True, row="Table 3; the count of the Caffe net, with biases."
    ),
    "fabric_d_l8_s6_c128_cifar": _cifar(
        22_449_930, "d", 8, conv_bias=True, row=f"Table 3; the count of the Caffe net, with biases. {DEAD}"
    ),
    "fabric_a_l9_s6_c128_cifar": _cifar(20_367_498, "a", 9, row="Table 4."),
    "fabric_a_l3_s6_c128_post_cifar": _cifar(756_618, "a", 3, "post", row=T45),
    "fabric_a_l3_s6_c128_post_scaled_cifar": _cifar(756_618, "a", 3, "post", gate="scaled", row=T45),
    "fabric_a_l3_s6_c128_post_dropout_cifar": _cifar(
        756_618, "a", 3, "post", gate="dropout", row=SHIFT, precise_norms=True
    ),
    "fabric_a_l3_s6_c128_post_gated_cifar": _cifar(1_455_498, "a", 3, "post", gate="gated", row=T45),
    "fabric_a_l3_s6_c128_pre_cifar": _cifar(752_266, "a", 3, "pre", row=T45),
    "fabric_a_l3_s6_c128_pre_scaled_cifar": _cifar(752_266, "a", 3, "pre", gate="scaled", row=T45),
    "fabric_a_l3_s6_c128_pre_dropout_cifar": _cifar(
        752_266, "a", 3, "pre", gate="dropout", row=SHIFT, precise_norms=True
    ),
    "fabric_a_l3_s6_c128_pre_gated_cifar": _cifar(1_451_146, "a", 3, "pre", gate="gated", row=T45),
    "fabric_a_l9_s6_c128_post_cifar": _cifar(
        2_473_866, "a", 9, "post", row=f"{T45} Without gates it learns slowly: twice the epochs.", epochs_factor=2
    ),
    "fabric_a_l9_s6_c128_pre_cifar": _cifar(2_460_298, "a", 9, "pre", row=T45),
    # Described there, and in no table
    "fabric_a_l3_s6_c128_preshared_cifar": _cifar(745_866, "a", 3, "preshared", row="Figure 9d, in no table."),
    "fabric_b_l8_s6_c128_cifar": _cifar(12_108_426, "b", 8, row="Type b as we read it, in no table."),
    # The original paper; its dense net is fabric_a_l8_s6_c128_cifar
    "fabric_a_l16_s6_c64_sparse_cifar": _cifar(
        458_230,
        "a",
        16,
        "sparse",
        width=64,
        conv_bias=True,
        paper=SAXENA,
        row="Published as 2 M, which no reading of the text gives (see the family's text).",
    ),
    # Dense prediction
    "fabric_d_l8_s6_c32x2_voc": _voc(
        226_416_437, conv_bias=True, notes="Table 3; the count of the Caffe net, with biases."
    ),
    "gridnet_l6_s5_c16x2": _fabric(
        808_947,
        "bd",
        6,
        (16, 32, 64, 128, 256),
        "pre",
        skips="within",
        stem="cifar",
        head="dense",
        input_size=(3, 400, 400),
        num_classes=19,
        paper=FOURURE,
        notes="The grid of the paper (six columns, five scales, three columns down and three up) with the fabric's "
        f"bottlenecks where the paper has pairs of 3x3, so the count is not the paper's. {ORACLE}",
    ),
    # ImageNet scale
    "fabric_a_l8_s4_c64x2_post": _fabric(9_659_144, "a", 8, (64, 128, 256, 512), "post"),
    "fabric_a_l10_s4_c96x2_post": _fabric(26_485_528, "a", 10, (96, 192, 384, 768), "post"),
    # Small ones
    "fabric_a_l3_s3_c32x2_post_cifar": _fabric(
        207_018, "a", 3, (32, 64, 128), "post", stem="cifar", lineups=("default",), **cifar_task()
    ),
    "fabric_test": _fabric(
        12_356, "a", 3, (8, 12, 16, 20), "post", gate="scaled", input_size=(3, 64, 64), num_classes=10
    ),
}
