"""Change the size or the channels of a map without parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UPS = ("bilinear", "nearest", "zero")
"""Ways to enlarge a map: interpolate with aligned corners, repeat pixels, or put each at the top left of 2x2 zeros."""


class ChannelSum(nn.Module):
    """Sum each run of adjacent channels: (N, in_chs, H, W) -> (N, out_chs, H, W).

    The channel reduction r of FishNet's up blocks (Sun et al. 2018, section 3.3). It is a sum of strided slices, which
    equals the reshaped sum and keeps a channels_last layout.

    Raises:
        ValueError: If out_chs does not divide in_chs.
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        if in_chs % out_chs:
            raise ValueError(f"out_chs ({out_chs}) must divide in_chs ({in_chs}) for runs of channels to be summed")
        self.run = in_chs // out_chs

    def forward(self, x: Tensor) -> Tensor:
        """Sum channels k*n to k*n + k - 1 into channel n: (N, in_chs, H, W) -> (N, out_chs, H, W)."""
        if self.run == 1:
            return x
        total = x[:, 0 :: self.run]
        for i in range(1, self.run):
            total = total + x[:, i :: self.run]
        return total


class PadShortcut(nn.Module):
    """Shortcut A of He et al. 2015, section 4.1: take every stride-th pixel and append channels of zeros."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        if out_chs < in_chs:
            raise ValueError(f"out_chs ({out_chs}) must be at least in_chs ({in_chs}): padding cannot drop channels")
        self.stride = stride
        self.extra = out_chs - in_chs

    def forward(self, x: Tensor) -> Tensor:
        """Sub-sample and pad: (N, C, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class DilatedMaxPool(nn.Module):
    """Max pooling of stride 1 whose taps lie ``dilation`` pixels apart; the size stays the same.

    At every (2 * dilation)-th pixel the result equals the undilated net's pooling of stride 2 without padding. With
    ``centred`` it equals the padded pooling of stride 2, whose window lies around the pixel, and at every dilation-th
    pixel the padded pooling of stride 1.
    """

    def __init__(self, dilation: int, kernel: int = 2, *, centred: bool = False) -> None:
        super().__init__()
        reach = dilation * (kernel - 1)
        self.before = reach // 2 if centred else 0
        self.behind = reach - self.before
        self.pool = nn.MaxPool2d(kernel, stride=1, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map: (N, C, H, W) -> (N, C, H, W)."""
        # Not the pooling's own padding, which may reach no further than half of an undilated window.
        before, behind = self.before, self.behind
        return self.pool(F.pad(x, (before, behind, before, behind), value=float("-inf")))


class DilatedAvgPool(nn.Module):
    """2x2 average pooling of stride 1 whose taps lie ``dilation`` pixels apart; the size stays the same.

    At every (2 * dilation)-th pixel the result equals the strided pooling of the undilated net. Pixels outside the map
    do not enter the average.
    """

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map: (N, C, H, W) -> (N, C, H, W)."""
        # Row by row and column by column; slices, because no pooling of torch's averages with a dilation.
        x = (x + torch.cat([x[:, :, self.dilation :], x[:, :, -self.dilation :]], dim=2)) / 2
        return (x + torch.cat([x[:, :, :, self.dilation :], x[:, :, :, -self.dilation :]], dim=3)) / 2


def max_pool_halving(
    *, stride: int, dilation: int, kernel: int = 2, ceil: bool = False, centred: bool = False
) -> nn.Module:
    """Make max pooling of stride 2, or its dilated form where the stride is traded for dilation.

    Args:
        stride: 2, or 1 for the dilated form.
        dilation: Dilation of the dilated form.
        kernel: Size of the window.
        ceil: Let the last window reach over the border. A 2x2 window then halves odd sizes upwards, as a strided 3x3
            convolution does, instead of downwards. A 3x3 window then loses nothing of even sizes.
        centred: Pad so that a window lies around its pixel.
    """
    if stride > 1:
        return nn.MaxPool2d(kernel, stride=stride, padding=(kernel - 1) // 2 if centred else 0, ceil_mode=ceil)
    return DilatedMaxPool(dilation, kernel, centred=centred)


def avg_pool_halving(*, stride: int, dilation: int) -> nn.Module:
    """Make 2x2 average pooling of stride 2, or its dilated form where the stride is traded for dilation."""
    return nn.AvgPool2d(2, stride=stride) if stride > 1 else DilatedAvgPool(dilation)


def upsample_like(x: Tensor, like: Tensor) -> Tensor:
    """Up-sample to the size of another map by nearest neighbour. Where sizes double, a pixel becomes a 2x2 block."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Resize(nn.Module):
    """Enlarge a map to a given height and width by one of ``UPS``; the identity if ``up`` is empty."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge the map: (N, C, H, W) -> (N, C, *size)."""
        height, width = size
        if self.up == "bilinear":
            return F.interpolate(x, size=[height, width], mode="bilinear", align_corners=True)
        if self.up == "nearest":
            return F.interpolate(x, size=[height, width], mode="nearest")
        if self.up == "zero":
            x = F.pad(x[..., None], [0, 1]).flatten(3)  # a zero behind each pixel
            return F.pad(x[:, :, :, None], [0, 0, 0, 1]).flatten(2, 3)[:, :, :height, :width]  # and a row of them below
        return x
