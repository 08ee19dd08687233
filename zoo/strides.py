"""Total strides, their trade for dilation, and the sizes that windows need.

The trade: a net held at an output stride does not halve any further from there on. The operator that would have halved
gets stride 1, and every window after it reads neighbours twice as far apart. The operator's own window reads the map
before it, and therefore has the dilation of that map. Without padding or enlargement, each value of the native net is
then one of the values of the held net.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STEMS = {"imagenet": (2, 4), "cifar": (1, 1)}
"""Total strides after the stem's first convolution and at the start of the trunk, by the field ``stem``."""


@dataclass(frozen=True)
class Level:
    """One resolution of a net at some output stride.

    Attributes:
        native: Total stride before any is traded for dilation.
        stride: Total stride at the current output stride.
        step: Stride of the operator that leads here from the level before; 1 if it was traded for dilation.
        before: Dilation of that operator's window; 1 if the operator has a stride.
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
        """The same level for an operator that begins and ends on it."""
        return Level(self.native, self.stride, 1, self.dilation)


def hold(strides: Sequence[int], output_stride: int | None = None) -> tuple[Level, ...]:
    """Hold a chain of operators at an output stride: trade each stride beyond it for dilation.

    Args:
        strides: Total stride after each operator at the native output stride; each is a multiple of the one before.
        output_stride: Largest total stride, one of ``strides``; None for the native one.

    Returns:
        One level per operator.
    """
    levels = []
    last = Level(1, 1, 1, 1)
    for native in strides:
        stride = min(native, output_stride or native)
        last = Level(native, stride, stride // last.stride, last.dilation)
        levels.append(last)
    return tuple(levels)


def halvings(first: int, count: int) -> tuple[int, ...]:
    """Return the total strides of ``count`` levels, each twice the one before."""
    return tuple(first * 2**i for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Window:
    """Window of a convolution or pooling that is not fully padded.

    Attributes:
        kernel: Number of positions along one side.
        stride: Distance from one window to the next.
        dilation: Distance between neighbouring positions.
        padding: Padding on each side of the map.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0


def smallest_before(windows: Sequence[Window]) -> int:
    """Return the height and width of the smallest map that leaves one position after a chain of windows."""
    size = 1
    for window in reversed(windows):
        size = max(1, (size - 1) * window.stride + window.dilation * (window.kernel - 1) + 1 - 2 * window.padding)
    return size
