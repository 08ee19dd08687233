"""Changing the size or the width of a map without a parameter."""

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

UPS = ("bilinear", "nearest", "zero")
"""Ways to enlarge a map: interpolate with aligned corners, repeat, or put zeros between the pixels."""


class ChannelSum(nn.Module):
    """Sum each run of adjacent channels: (N, in_chs, H, W) -> (N, out_chs, H, W).

    The channel reduction r of FishNet's up blocks (Sun et al. 2018, section 3.3). Written as a sum of strided slices,
    which equals the reshaped sum and keeps a channels_last layout.

    Raises:
        ValueError: If out_chs does not divide in_chs.
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        if in_chs % out_chs:
            raise ValueError(f"out_chs ({out_chs}) must divide in_chs ({in_chs}) for runs of channels to be summed")
        self.run = in_chs // out_chs

    def forward(self, x: Tensor) -> Tensor:
        """Sum channels k*n to k*n + k - 1 into channel n."""
        total = x[:, 0 :: self.run]
        for i in range(1, self.run):
            total = total + x[:, i :: self.run]
        return total


class PadShortcut(nn.Module):
    """Shortcut A of He et al. 2015, section 4.1: every stride-th pixel, new channels filled with zeros at the end."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        if out_chs < in_chs:
            raise ValueError(f"out_chs ({out_chs}) must be at least in_chs ({in_chs}): padding cannot drop channels")
        self.stride = stride
        self.extra = out_chs - in_chs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class DilatedMaxPool(nn.Module):
    """Max-pooling of stride 1 whose taps lie ``dilation`` pixels apart; the size stays.

    At every (2 * dilation)-th pixel it equals the strided pooling of the undilated net.
    """

    def __init__(self, dilation: int, kernel: int = 2) -> None:
        super().__init__()
        self.dilation = dilation
        self.before = dilation * ((kernel - 1) // 2)
        self.after = dilation * (kernel // 2)
        self.pool = nn.MaxPool2d(kernel, stride=1, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.pool(F.pad(x, (self.before, self.after, self.before, self.after), value=float("-inf")))


def max_pool_halving(*, halve: bool, dilation: int, ceil: bool = False, kernel: int = 2) -> nn.Module:
    """Max-pooling of stride 2, or its dilated form where the stride is traded for dilation.

    Args:
        halve: Whether the size is halved.
        dilation: Of the dilated form.
        ceil: With a 2x2, an odd size is halved upwards, as a strided 3x3 convolution does, instead of downwards.
        kernel: 2, or 3 with a pixel of padding, which always halves upwards.
    """
    if halve:
        return nn.MaxPool2d(kernel, stride=2, padding=(kernel - 1) // 2, ceil_mode=ceil)
    return DilatedMaxPool(dilation, kernel)


def upsample_like(x: Tensor, like: Tensor) -> Tensor:
    """Nearest up-sampling to the size of another map; where sizes double, each pixel becomes a 2x2 block."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def resize_like(x: Tensor, like: Tensor, up: str) -> Tensor:
    """Enlarge a map to the size of another by a way of ``UPS``."""
    if up == "bilinear":
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
    if up == "zero":
        return spread_like(x, like)
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def spread_like(x: Tensor, like: Tensor) -> Tensor:
    """Put each pixel at the top left of a 2x2 block of zeros; the last row and column are cut to the other's size."""
    # One channel a group and a single weight of one: the transposed convolution only places pixels.
    one = torch.ones((x.shape[1], 1, 1, 1), dtype=x.dtype, device=x.device)
    x = F.conv_transpose2d(x, one, stride=2, output_padding=1, groups=x.shape[1])
    return x[:, :, : like.shape[2], : like.shape[3]]
