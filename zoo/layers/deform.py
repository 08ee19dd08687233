"""Convolutions that look where their input tells them to."""

from typing import Any

import torch.fx
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

torch.fx.wrap("deform_conv2d")


class OffsetConv(nn.Conv2d):
    """The convolution that says where to look; it starts at zero, and so nowhere else than a plain one does."""

    def reset_parameters(self) -> None:
        """Zero weights and biases."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class DeformConv2d(nn.Conv2d):
    """A convolution whose taps move by offsets that another one computes (Dai et al. 2017, arXiv:1703.06211).

    Its weight has the name and shape that it has in a plain convolution, whose state dict therefore fits except for the
    offsets; with these at zero, as they start, the outputs are those of the plain one.
    """

    def __init__(self, in_chs: int, out_chs: int, kernel: int, **kwargs: Any) -> None:
        super().__init__(in_chs, out_chs, kernel, **kwargs)
        shape = {key: kwargs[key] for key in ("stride", "padding", "dilation", "device", "dtype") if key in kwargs}
        self.offset = OffsetConv(in_chs, 2 * kernel * kernel, kernel, **shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chs, H, W) -> (N, out_chs, H', W'), as the plain convolution."""
        return deform_conv2d(
            x,
            self.offset(x),
            self.weight,
            self.bias,
            stride=(self.stride[0], self.stride[1]),
            padding=(int(self.padding[0]), int(self.padding[1])),
            dilation=(self.dilation[0], self.dilation[1]),
        )
