"""The residual unit. The order of convolution, norm and activation is data."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.layers.gates import DropPath, Scale
from zoo.layers.kit import Conv, Kit, named, sequence
from zoo.layers.stage import Sum


@dataclass(frozen=True)
class Order:
    """Positions of norm (n) and activation (a) around the convolutions of a residual unit.

    Between two convolutions the order is always norm, then activation.
    """

    before: str
    """Layers before the first convolution."""
    last: str
    """Layers after the last convolution, before the sum."""
    after: str
    """Layers after the sum."""

    def branch(self, convs: int) -> str:
        """Return the word of a branch of ``convs`` convolutions, from the first convolution to the sum."""
        return "c" + "nac" * (convs - 1) + self.last

    @property
    def projection(self) -> str:
        """Word of a projection shortcut: a convolution, with a norm if the branch ends with one."""
        return "cn" if "n" in self.last else "c"


ORDERS = {
    "post": Order(before="", last="n", after="a"),
    "norm_after_add": Order(before="", last="", after="na"),
    "act_before_add": Order(before="", last="na", after=""),
    "act_only_pre": Order(before="a", last="n", after=""),
    "pre": Order(before="na", last="", after=""),
}
"""The five orderings of He et al. 2016 (arXiv:1603.05027), figure 4 (a) to (e)."""


class Residual(nn.Module):
    """Residual unit: after(drop_path(gate(branch(before(x)))) + shortcut(x or before(x))).

    Args:
        kit: The shared layer types.
        in_chs: Channels of the input.
        convs: The convolutions of the branch.
        order: Positions of norms and activations.
        shortcut: Path around the branch; None for the identity.
        gate: Computes a factor on the branch from the branch's map, applied before the sum.
        shared: The shortcut starts after ``before`` (He et al. 2016, for units with a projection), instead of at the
            input.
        drop_path: Probability of dropping the branch of a sample in training.
        scales: Factors on the shortcut and on the branch.
    """

    def __init__(
        self,
        kit: Kit,
        in_chs: int,
        convs: Sequence[Conv],
        order: Order,
        *,
        shortcut: nn.Module | None = None,
        gate: nn.Module | None = None,
        shared: bool = False,
        drop_path: float = 0.0,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.shared = shared
        self.before = sequence(kit, in_chs, order.before)
        self.branch = sequence(kit, in_chs, order.branch(len(convs)), convs)
        self.gate = gate
        self.shortcut = _scaled(nn.Identity() if shortcut is None else shortcut, scales[0])
        self.drop_path = _scaled(DropPath(drop_path) if drop_path else nn.Identity(), scales[1])
        self.sum = Sum()
        self.after = sequence(kit, convs[-1].out_chs, order.after)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit: (N, C, H, W) -> (N, C', H / stride, W / stride)."""
        activated = self.before(x)
        if self.shared:
            x = activated
        branch = self.branch(activated)
        if self.gate is not None:
            branch = branch * self.gate(branch)
        return self.after(self.sum(self.drop_path(branch), self.shortcut(x)))

    def zero_init_last(self) -> None:
        """Start as the identity: zero the last norm of the branch if it ends with one, else its last convolution."""
        weights = [p for name, p in self.branch.named_parameters() if name.endswith(".weight")]
        nn.init.zeros_(weights[-1])


def _scaled(path: nn.Module, factor: float) -> nn.Module:
    """Multiply what a path gives; its layers keep their names."""
    layers = dict(path.named_children()) if isinstance(path, nn.Sequential) else {"path": path}
    return path if factor == 1 else named(**layers, scale=Scale(factor))


def basic(out_chs: int, *, stride: int = 1, dilation: tuple[int, int] = (1, 1), groups: int = 1) -> tuple[Conv, Conv]:
    """Return two 3x3 convolutions, the first one strided (He et al. 2015, figure 5 left).

    Args:
        out_chs: Channels of both.
        stride: Stride of the first.
        dilation: Dilations of the first and the second. They differ where a stride was traded for dilation.
        groups: Groups of both.
    """
    first, second = dilation
    return (
        Conv(out_chs=out_chs, kernel=3, stride=stride, dilation=first, groups=groups),
        Conv(out_chs=out_chs, kernel=3, dilation=second, groups=groups),
    )


def bottleneck(
    mid_chs: int, out_chs: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, stride_first: bool = False
) -> tuple[Conv, Conv, Conv]:
    """Return 1x1, 3x3 and 1x1 convolutions (He et al. 2015, figure 5 right).

    Args:
        mid_chs: Output channels of the first 1x1 and of the 3x3.
        out_chs: Output channels of the last 1x1.
        stride: Stride of the 3x3, or of the first 1x1 with ``stride_first``.
        dilation: Dilation of the 3x3.
        groups: Groups of the 3x3 (cardinality, Xie et al. 2017).
        stride_first: Put the stride on the first 1x1, as in the 2015 paper.
    """
    return (
        Conv(out_chs=mid_chs, kernel=1, stride=stride if stride_first else 1),
        Conv(out_chs=mid_chs, kernel=3, stride=1 if stride_first else stride, dilation=dilation, groups=groups),
        Conv(out_chs=out_chs, kernel=1),
    )
