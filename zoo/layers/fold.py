"""Convolution and norm as one unit that runs as one operator where it can."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit
from zoo.layers.sampling import resize_like

FOLD_FROM = 2**15
"""Elements of an input from which the norm is multiplied into the weights; below, that costs more than it saves."""


class ConvNorm(nn.Module):
    """Convolution, up-sampling where asked for, norm.

    In evaluation mode a batch norm is an affine map of each channel. For all but small maps it is then multiplied into
    the weights, which saves a pass over the map and commutes with an interpolation (not with zeros that are put in
    between). TorchScript, ``torch.jit.trace`` and layers that somebody replaces or hooks into keep both operators.

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
        if not torch.jit.is_scripting():
            done = self.at_once(x, like)
            if done is not None:
                return done
        x = self.conv(x)
        if self.up:
            x = resize_like(x, like, self.up)
        return self.norm(x)

    @torch.jit.ignore
    def at_once(self, x: Tensor, like: Tensor) -> Tensor | None:
        """The result without calls of the two layers; None where somebody counts on these calls.

        They are as expensive as the operators are on a small map.
        """
        layers = self._modules
        conv, norm = layers["conv"], layers["norm"]
        if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or _hooked(conv) or _hooked(norm):
            return None
        # Read from where torch keeps them: its general way to an attribute takes longer than some of the operators.
        weight, affine, buffers = conv._parameters.get("weight"), norm._parameters, norm._buffers
        gain, mean = affine.get("weight"), buffers.get("running_mean")
        if weight is None or gain is None or mean is None or torch.jit.is_tracing():
            return None
        shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        stats = (mean, buffers["running_var"], buffers["num_batches_tracked"], norm.momentum, norm.eps)
        return _conv_norm(x, like, self.up, weight, shape, gain, affine["bias"], stats, norm.training)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


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
    # A compiled or exported net serves maps of other sizes, too.
    small = not torch.compiler.is_compiling() and x.numel() < FOLD_FROM
    if training or up == "zero" or small:
        x = F.conv2d(x, weight, None, *shape)
        x = resize_like(x, like, up) if up else x
        if training:
            seen.add_(1)
            momentum = 1 / float(seen) if momentum is None else momentum
        return F.batch_norm(x, mean, var, gain, bias, training, momentum or 0.0, eps)
    scale = gain * torch.rsqrt(var + eps)
    x = F.conv2d(x, weight * scale.view(-1, 1, 1, 1), bias - mean * scale, *shape)
    return resize_like(x, like, up) if up else x
