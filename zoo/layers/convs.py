"""Convolutions that torch has no layer for: deformable ones, and ones over a band of channels."""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

torch.fx.wrap("deform_conv2d")


class OffsetConv(nn.Conv2d):
    """Convolution that computes the offsets of `DeformConv2d`. It starts at zero, which is a plain convolution."""

    def reset_parameters(self) -> None:
        """Set weights and biases to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class DeformConv2d(nn.Conv2d):
    """Convolution whose taps move by offsets that a second convolution computes (Dai et al. 2017, arXiv:1703.06211).

    The weight has the name and shape of a plain convolution's. The state dict of a plain convolution therefore fits,
    except for the offsets. Offsets start at zero; the outputs then equal those of the plain convolution.
    """

    def __init__(self, in_chs: int, out_chs: int, kernel: int, **kwargs: Any) -> None:
        super().__init__(in_chs, out_chs, kernel, **kwargs)
        shape = {key: kwargs[key] for key in ("stride", "padding", "dilation", "device", "dtype") if key in kwargs}
        self.offset = OffsetConv(in_chs, 2 * kernel * kernel, kernel, **shape)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, in_chs, H, W) -> (N, out_chs, H', W'); H' and W' are those of the plain convolution."""
        return deform_conv2d(
            x,
            self.offset(x),
            self.weight,
            self.bias,
            stride=(self.stride[0], self.stride[1]),
            padding=(int(self.padding[0]), int(self.padding[1])),
            dilation=(self.dilation[0], self.dilation[1]),
        )


class BandConv2d(nn.Module):
    """3x3 convolution over a band: output channel c reads channels c - 1 to c + 1 (Saxena & Verbeek 2016, section 3.1).

    Only the band has parameters. From C to 2C channels, output c reads inputs (c - 1) // 2 and the next one. From 2C to
    C channels, it reads the four inputs from 2c - 1. Both follow the authors' generator. The convolution is dense with
    at most three channels, and where the channels do not double, halve or stay.
    """

    def __init__(
        self, in_chs: int, out_chs: int, *, stride: int = 1, dilation: int = 1, bias: bool = False, **place: Any
    ) -> None:
        super().__init__()
        self.in_chs, self.out_chs, self.stride, self.dilation = in_chs, out_chs, stride, dilation
        pairs = int(self.band(torch.empty(0, device="cpu")).sum())
        self.weight = nn.Parameter(torch.empty(pairs, 3, 3, **place))
        self.bias = nn.Parameter(torch.empty(out_chs, **place)) if bias else None
        self.reset_parameters()

    def band(self, like: Tensor) -> Tensor:
        """Return the band as a mask, (out_chs, in_chs), on the device of ``like``: True where an output reads."""
        ins, outs = self.in_chs, self.out_chs
        i = like.new_ones(ins, dtype=torch.int64).cumsum(0) - 1
        c = like.new_ones(outs, 1, dtype=torch.int64).cumsum(0) - 1
        first, last = c - 1, c + 1
        if outs == 2 * ins:
            first = torch.div(c - 1, 2, rounding_mode="floor")
            last = first + 1
        elif ins == 2 * outs:
            first, last = 2 * c - 1, 2 * c + 2
        if min(ins, outs) <= 3 or (outs not in (ins, 2 * ins) and ins != 2 * outs):
            first, last = c - outs, c + ins
        return (i >= first) & (i <= last)

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Draw weights from He normal with the fan-out of the band; set the bias to zero."""
        nn.init.normal_(self.weight, std=(2 * self.in_chs / (9 * len(self.weight))) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, in_chs, H, W) -> (N, out_chs, H / stride, W / stride)."""
        return F.conv2d(x, self.dense(), self.bias, self.stride, self.dilation, self.dilation)

    def dense(self) -> Tensor:
        """Return the weight with its zeros, (out_chs, in_chs, 3, 3)."""
        # The band is made where it is used: a buffer outside of the checkpoint is lost on the way over a meta device.
        sees = self.band(self.weight).flatten()
        dense = self.weight.index_select(0, (sees.cumsum(0) - 1).clamp(min=0)) * sees[:, None, None]
        return dense.view(self.out_chs, self.in_chs, 3, 3)

    @torch.jit.unused
    def plain(self) -> nn.Module:
        """Make a convolution of torch's that computes the same, with the zeros among its weights."""
        kind: dict[str, Any] = dict(stride=self.stride, padding=self.dilation, dilation=self.dilation)
        conv = nn.Conv2d(self.in_chs, self.out_chs, 3, **kind, bias=self.bias is not None, device="meta")
        conv.weight = nn.Parameter(self.dense().detach(), requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return conv
