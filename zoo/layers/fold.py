"""Convolution and norm as one unit that runs as one operator where it can."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit
from zoo.layers.sampling import resize_like


class ConvNorm(nn.Module):
    """Convolution, up-sampling where asked for, norm.

    In evaluation mode a batch norm is an affine map of each channel. It is then multiplied into the weights, which
    saves a pass over the map and commutes with an interpolation (not with zeros that are put in between). TorchScript,
    ``torch.jit.trace`` and layers that somebody hooks into keep both operators.

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
            if self.folds(x):
                return self._fold(x, like)
        x = self.conv(x)
        if self.up:
            x = resize_like(x, like, self.up)
        return self.norm(x)

    @torch.jit.ignore
    def folds(self, x: Tensor) -> bool:
        """Whether the norm is a fixed affine map now, or might be one when a traced graph runs; and nobody watches."""
        conv, norm = self.conv, self.norm
        return (
            isinstance(norm, nn.BatchNorm2d)
            and (not norm.training or isinstance(x, torch.fx.Proxy))
            and norm.running_mean is not None
            and not torch.jit.is_tracing()
            and not (conv._forward_hooks or conv._forward_pre_hooks)
            and not (norm._forward_hooks or norm._forward_pre_hooks)
        )

    @torch.jit.ignore
    def _fold(self, x: Tensor, like: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        stats = (norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum, norm.eps)
        return _conv_norm(x, like, self.up, conv.weight, shape, norm.weight, norm.bias, stats, norm.training)


@torch.fx.wrap
def _conv_norm(
    x: Tensor,
    like: Tensor,
    up: str,
    weight: Tensor,
    shape: tuple,
    gain: Tensor,
    bias: Tensor,
    stats: tuple,
    training: bool,
) -> Tensor:
    # One node of a traced graph in either mode, so that tools which trace both find the same names.
    mean, var, seen, momentum, eps = stats
    if training or up == "zero":
        x = F.conv2d(x, weight, None, *shape)
        x = resize_like(x, like, up) if up else x
        if training:
            seen.add_(1)
            momentum = 1 / float(seen) if momentum is None else momentum
        return F.batch_norm(x, mean, var, gain, bias, training, momentum or 0.0, eps)
    scale = gain * torch.rsqrt(var + eps)
    x = F.conv2d(x, weight * scale.view(-1, 1, 1, 1), bias - mean * scale, *shape)
    return resize_like(x, like, up) if up else x
