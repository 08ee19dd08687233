"""Convolution and norm as one unit that runs as one operator where it can."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit
from zoo.layers.sampling import resize_like


class ConvNorm(nn.Module):
    """Convolution, up-sampling where asked for, norm.

    In evaluation mode a batch norm is an affine map of each channel. It is then multiplied into the weights, which
    saves a pass over the map and commutes with an interpolation (not with zeros that are put in between). A graph that
    ``torch.fx`` traces holds the mode it was traced in. TorchScript and ``torch.jit.trace`` keep both operators.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the input.
        conv: The convolution; without a bias, since a norm follows.
        up: How the convolution's result grows to the size of another map, a key of ``UPS``; ``""`` for not at all.
    """

    def __init__(self, kit: Kit, in_chs: int, conv: Conv, *, up: str = "") -> None:
        super().__init__()
        self.conv = kit.conv(in_chs, conv)
        self.norm = kit.norm(conv.out_chs)
        self.up = up

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """(N, in_chs, H, W) -> (N, out_chs, H / stride, W / stride), or the height and width of ``like``."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
            if self.folds():
                return self._folded(x, like)
        x = self.conv(x)
        if self.up:
            x = resize_like(x, like, self.up)
        return self.norm(x)

    @torch.jit.ignore
    def folds(self) -> bool:
        """Whether the norm is a fixed affine map now, and nobody watches the two layers."""
        norm = self.norm
        return (
            isinstance(norm, nn.BatchNorm2d)
            and not norm.training
            and norm.running_mean is not None
            and self.up != "zero"
            and not torch.jit.is_tracing()
            and not (self.conv._forward_hooks or self.conv._forward_pre_hooks)
            and not (norm._forward_hooks or norm._forward_pre_hooks)
        )

    @torch.jit.ignore
    def _folded(self, x: Tensor, like: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        scale, shift = affine(norm)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        x = F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
        return resize_like(x, like, self.up) if self.up else x


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and summand, a channel each, that a batch norm amounts to in evaluation mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
