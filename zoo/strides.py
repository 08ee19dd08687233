"""How a net halves: total strides, their trade for dilation, and the sizes that windows need.

The trade: a net that is held at an output stride does not halve any further from there on. The operator that would
have halved gets stride 1, and every window behind it reads its neighbours twice as far apart. Its own window reads the
map before it, and so has the dilation of that one. Where nothing is padded or enlarged, each value of the native net is
then one of the values of the held net.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STEMS = {"imagenet": (2, 4), "cifar": (1, 1)}
"""Total stride after the stem's first convolution, and where the trunk begins, by the field ``stem``."""


@dataclass(frozen=True)
class Level:
    """One resolution of a net, as it is at some output stride.

    Attributes:
        native: Total stride at the native output stride.
        stride: Total stride here.
        step: Stride of the operator that leads here from the level before; 1 where it was traded for dilation.
        before: Dilation of that operator's window; 1 where it has a stride.
    """

    native: int
    stride: int
    step: int
    before: int

    @property
    def dilation(self) -> int:
        """Dilation of windows that read a map of this level."""
        return self.native // self.stride

    @property
    def within(self) -> "Level":
        """The same for an operator that begins and ends on this level."""
        return Level(self.native, self.stride, 1, self.dilation)


def hold(strides: Sequence[int], output_stride: int | None = None) -> tuple[Level, ...]:
    """Hold a chain of operators at an output stride: trade each stride beyond it for dilation.

    Args:
        strides: Total stride after each operator, natively; each is a multiple of the one before.
        output_stride: Largest total stride, one of ``strides``; None for the native form.

    Returns:
        A level for each operator.
    """
    levels = []
    last = Level(1, 1, 1, 1)
    for native in strides:
        stride = min(native, output_stride or native)
        last = Level(native, stride, stride // last.stride, last.dilation)
        levels.append(last)
    return tuple(levels)


def halvings(first: int, count: int) -> tuple[int, ...]:
    """Total strides of ``count`` levels, each twice the one before."""
    return tuple(first * 2**i for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a convolution or pooling without full padding reads for one position.

    Attributes:
        kernel: Positions in a row.
        stride: From one window to the next.
        dilation: Distance of neighbouring positions.
        padding: On each side of the map.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0


def smallest_before(windows: Sequence[Window]) -> int:
    """Height and width of the smallest map that leaves a position behind windows that follow each other."""
    size = 1
    for window in reversed(windows):
        size = max(1, (size - 1) * window.stride + window.dilation * (window.kernel - 1) + 1 - 2 * window.padding)
    return size
