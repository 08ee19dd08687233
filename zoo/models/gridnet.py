"""GridNet: residual rows of maps at five resolutions, joined by three columns downwards and three upwards.

Paper:
    Fourure, Emonet, Fromont, Muselet, Tremeau, Wolf 2017, Residual Conv-Deconv Grid Network for Semantic Segmentation,
    BMVC 2017, arXiv:1707.07958. Structure and numbers follow the authors' code (Fourure/GridNet at 2def034, the call in
    its comment: three columns each way, rows of 16, 32, 64, 128 and 256 channels, total dropout 0.1, 19 classes).

Resolutions, with the channels of a row (the number in brackets is the total stride of a tap)::

    image -> norm, 3x3, 3x3 -> o---o---o---o---o---o [1]  16 -> 3x3, 3x3 -> scores
                               |   |   |   ^   ^   ^
                               o---o---o---o---o---o [2]  32     --  x + dropped(norm act 3x3 norm act 3x3 (x))
                               |   |   |   ^   ^   ^             |   down: the same with stride 2, without x
                               o---o---o---o---o---o [4]  64     ^   up: its first 3x3 transposed with stride 2
                               |   |   |   ^   ^   ^
                               o---o---o---o---o---o [8]  128
                               |   |   |   ^   ^   ^
                               o---o---o---o---o---o [16] 256

A node is the sum of what ends in it. The taps are the last column. A norm follows each of the two 3x3 of the head, the
scores included. All convolutions have biases. There are 13,181,097 parameters by our count; the code prints none.

What differs from the code, and why:
    * In the last two columns and in the head the code has transposed 3x3 of stride 1. Such a layer is a 3x3 whose
      kernel is turned by half a circle, so ours are convolutions. The layers that enlarge are transposed.
    * Total dropout (Torch's ``TotalDropout``) leaves out the branch of a row for a whole batch with probability 0.1. A
      branch that is kept is not scaled up, and evaluation takes it as it is, also not scaled: so here.
    * The code takes sizes that halve evenly. Ours are rounded up, and what an enlarging edge gives is cut to the map it
      meets.
    * ``output_stride`` caps the stride of every row: strided and transposed convolutions dilate. The state dict stays,
      but features differ, for enlarging has no dilated form.
    * Drop path, which the code does not have, acts behind total dropout and on every edge; it rises with the columns.
    * Weights are drawn as in the other families. With a pooling the head is one linear layer; the code has no such net.
    * ``gridnet_test`` is ours. ``gridnet_l6_s5_c16x2`` is a fabric on the same grid, with bottlenecks.

The authors' README trains on crops of 400 px of images that are enlarged by 1 to 2.5 and flipped, in batches of 4, an
epoch of 750; rates are 0.01 with a decay of 5e-7 by default. For how long is not said there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo import topology
from zoo.backbone import Trunk, drop_path_rates
from zoo.entry import Entry, Spec
from zoo.grid import Grid, GridBackbone
from zoo.layers import Conv, DropPath, Kit, Scores, Sum, sequence
from zoo.strides import Level, halvings

TYPE = "bd"
"""Pattern of the edges: rows, and columns that are zipped downwards in the first half and upwards in the second."""
MOST_NODES = 10_000
"""Largest number of columns times rows; much larger graphs take minutes to build."""


@dataclass(frozen=True, kw_only=True)
class GridNetSpec(Spec):
    """Specification of a GridNet.

    Attributes:
        columns: Number of columns; half of them lead downwards, half upwards.
        channels: Channels of each row, finest first.
        dropout: Probability that a row's branch is left out for a whole batch in training.
    """

    columns: int = 6
    channels: tuple[int, ...]
    dropout: float = 0.1

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("columns", "channels")
        self.require(self.columns % 2 == 0, "columns", "be even: as many lead upwards as downwards")
        self.require(len(self.channels) > 1, "channels", "have at least two numbers, one a row")
        most = MOST_NODES // self.scales
        self.require(self.columns <= most, "columns", f"not exceed {most} with {self.scales} rows")
        self.require(0 <= self.dropout < 1, "dropout", "lie in [0, 1)")

    @property
    def scales(self) -> int:
        """Number of rows, by the fabrics' word."""
        return len(self.channels)

    @property
    def edges(self) -> tuple[topology.Edge, ...]:
        """Edges of the graph."""
        return topology.fabric_edges(TYPE, self.columns, self.scales)

    @property
    def head_nodes(self) -> tuple[topology.Node, ...]:
        """Node that the head reads, in a tuple as fabrics have it."""
        return ((self.columns - 1, 0),)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of each row."""
        return halvings(1, self.scales)

    @property
    def head_stride(self) -> int:
        """Total stride of the map that the head reads."""
        return 1

    @property
    def dense(self) -> bool:
        """True: there is a score for every position."""
        return True

    def facts(self) -> dict[str, str]:
        """Describe the grid in words and numbers."""
        return topology.facts(TYPE, self.columns, self.scales, self.head_nodes)


class TotalDropout(nn.Module):
    """Leave out the map of a whole batch at random in training; keep it as it is otherwise, and in evaluation.

    Args:
        drop_prob: Probability of leaving it out.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        # A layer of torch's own, so that a traced graph still follows train() and eval().
        self.draw = nn.Dropout(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Keep or zero the map: (N, C, H, W) -> the same shape."""
        return x * self.draw(x.new_ones((1, 1, 1, 1))).clamp(max=1)  # the layer scales up what it keeps

    def plain(self) -> nn.Module:
        """Make the equal module for evaluation."""
        return nn.Identity()

    def extra_repr(self) -> str:
        """Return the probability of leaving the map out, as text."""
        return f"{self.drop_prob:g}"


class PairEdge(nn.Module):
    """An edge: twice norm, activation and 3x3. Along a row its input is added.

    Args:
        kit: The shared layer types.
        kind: Kind of the edge, a key of ``zoo.topology.KINDS``.
        source: Channels and level of the source.
        target: Channels and level of the target.
        dropout: Rate of total dropout.
        drop_path: Rate of drop path.
    """

    def __init__(
        self,
        kit: Kit,
        kind: str,
        source: tuple[int, Level],
        target: tuple[int, Level],
        *,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        (ins, before), (outs, level) = source, target
        halves = before.stride != level.stride
        self.adds, self.rises = kind == "fwd", kind == "zip_up" and halves
        # What was a stride dilates as its finer map does; only behind it the dilation grows.
        dilation = min(before.dilation, level.dilation)
        first = Conv(out_chs=outs, kernel=3, stride=1 + (halves and not self.rises), dilation=dilation, bias=True)
        second = Conv(out_chs=outs, kernel=3, dilation=level.dilation, bias=True)
        self.branch = sequence(kit, ins, "nac nac", [first, second])
        if kind == "zip_up":
            self.branch.add_module("conv1", _transposed(kit, ins, outs, 1 + halves, dilation))  # takes its place
        self.dropout = TotalDropout(dropout) if dropout and self.adds else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.sum = Sum()

    def forward(self, x: Tensor, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the edge's share of its target, (N, out_chs, *size), from the source."""
        y = self.branch(x)
        if self.rises:
            y = y[:, :, : size[0], : size[1]]
        y = self.drop_path(self.dropout(y))
        if self.adds:
            y = self.sum(y, x)
        return y

    @torch.jit.ignore
    def zero_init_last(self) -> None:
        """Start a row as the identity: zero the last convolution of its branch."""
        if self.adds:
            for parameter in self.branch.get_submodule("conv2").parameters():
                nn.init.zeros_(parameter)


def _transposed(kit: Kit, in_chs: int, out_chs: int, stride: int, dilation: int) -> nn.Module:
    """Make a transposed 3x3 that doubles a map, or keeps its size at stride 1."""
    size: dict[str, Any] = dict(stride=stride, padding=dilation, dilation=dilation, output_padding=stride - 1)
    return nn.ConvTranspose2d(in_chs, out_chs, 3, **size, device=kit.device, dtype=kit.dtype)


class GridNet(GridBackbone):
    """GridNet: stem, columns, head."""

    def build(
        self, spec: GridNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        width, levels = spec.channels[0], spec.hold(output_stride)
        conv = Conv(out_chs=width, kernel=3, bias=True)
        self.stem = sequence(kit, in_chans, "n cna cna", [conv, conv])
        self.enter = nn.Identity()
        self.columns = self._grid(spec, kit, levels, drop_path_rate)
        self.column_tap = self.head_output = 0
        self.columns.train_for([0])
        self.always = []
        last = f"columns.{spec.columns - 1}"
        taps = [(f"{last}.{i}.finish", spec.channels[i], level.stride) for i, level in enumerate(levels)]
        scores = Scores(hidden=0, norm=True)
        return Trunk(taps=taps, final=nn.Identity(), num_features=width, head_tap=0, scores=scores)

    @torch.jit.ignore
    def _grid(self, spec: GridNetSpec, kit: Kit, levels: Sequence[Level], drop_path_rate: float) -> Grid:
        rates = drop_path_rates(drop_path_rate, spec.columns)
        rows = list(zip(spec.channels, levels, strict=True))

        def make_edge(edge: topology.Edge) -> nn.Module:
            (_, source), (column, target) = edge.source, edge.target
            drops = dict(dropout=spec.dropout, drop_path=rates[column])
            return PairEdge(kit, edge.kind, rows[source], rows[target], **drops)

        return Grid((TYPE, spec.columns, spec.scales), make_edge, lambda node: nn.Identity())

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = False) -> None:
        """See `Backbone.init_weights`. Transposed convolutions are drawn by the same rule."""
        super().init_weights(zero_init_last)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")  # fan-out: it is transposed


FOURURE = "Fourure et al. 2017, arXiv:1707.07958"
ORACLE = "No installable implementation (the released code needs Torch 7): tests hold it against its equations."

MODELS = {
    "gridnet": Entry(
        GridNet,
        GridNetSpec(channels=(16, 32, 64, 128, 256)),
        paper=FOURURE,
        params=13_181_097,
        input_size=(3, 400, 400),
        num_classes=19,
        notes=ORACLE,
    ),
    "gridnet_test": Entry(
        GridNet,
        GridNetSpec(columns=4, channels=(4, 8, 12), dropout=0.0),
        paper=FOURURE,
        params=24_306,
        input_size=(3, 64, 64),
        num_classes=10,
        notes=f"A net of our own, by the paper's rules; no published numbers. {ORACLE}",
    ),
}
