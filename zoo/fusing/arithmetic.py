"""Arithmetic of `zoo.fuse`: the effect of a norm in evaluation, and scaling of convolutions."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Layers that return their input in evaluation."""
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Norms that are known to scale and shift in evaluation. Other norms are tested for it."""
FAR = 1e15
"""Bound beyond which a channel's factor counts as zero."""


class Bound(nn.Module):
    """Keep each channel at or above its own number, or at or below one.

    Args:
        low: Smallest value of each channel, (1, C, 1, 1), or None.
        high: Largest value of each channel, or None.
    """

    def __init__(self, low: Tensor | None, high: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """Bound the map: (N, C, H, W) -> the same shape."""
        if self.inplace:
            return x.clamp_(self.low, self.high)  # ty: ignore[no-matching-overload]
        return torch.clamp(x, self.low, self.high)  # ty: ignore[no-matching-overload]


def is_norm(module: nn.Module) -> bool:
    """Tell whether a layer is a norm: one of torch's, or any that keeps statistics."""
    return isinstance(module, NORMS) or all(hasattr(module, name) for name in ("running_mean", "running_var"))


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def affine_of(norm: nn.Module) -> tuple[Tensor, Tensor, nn.Module] | str:
    """Compute factor and shift of each channel in evaluation, in double precision, and find the layers after them.

    Return the reason as text if the norm does more than scale and shift.
    """
    parts: Any = norm
    if getattr(parts, "running_mean", None) is None or getattr(parts, "running_var", None) is None:
        return "it takes its statistics from the images"
    if not all(hasattr(norm, name) for name in ("eps", "weight", "bias")):
        return f"what it ({type(norm).__name__}) computes is not known"
    scale = torch.rsqrt(_double(parts.running_var) + parts.eps)
    if parts.weight is not None:
        scale = scale * _double(parts.weight)
    shift = -_double(parts.running_mean) * scale
    if parts.bias is not None:
        shift = shift + _double(parts.bias)
    rest = [child for _, child in norm.named_children() if not isinstance(child, IDLE)]
    after = nn.Identity() if not rest else rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    if type(norm) not in PLAIN_NORMS:
        x = 3 * torch.randn(2, len(scale), 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        try:
            expected = copy.deepcopy(after).cpu().double()(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
            found = copy.deepcopy(norm).cpu().double()(x)
        except (RuntimeError, ValueError, TypeError):
            return "it is no norm of maps"
        if not torch.allclose(found, expected, rtol=1e-9, atol=1e-9):
            return f"it ({type(norm).__name__}) does more than to scale and to shift"
    return scale, shift, after


def is_linear(conv: Any) -> bool:
    """Tell whether a convolution is linear in its weight, which is a parameter."""
    if conv._parameters.get("weight") is None or conv.transposed:
        return False
    if type(conv) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return True
    one, other = copy.deepcopy(conv).cpu().double(), copy.deepcopy(conv).cpu().double()
    generator = torch.Generator().manual_seed(0)
    size = [(k - 1) * d + 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    x = torch.randn(1, conv.in_channels, *size, dtype=torch.float64, generator=generator)
    scale = 1 + torch.rand(conv.out_channels, dtype=torch.float64, generator=generator)
    scale_outputs(other, scale, scale)
    shape = (1, -1, *[1] * len(size))
    return torch.allclose(other(x), one(x) * scale.view(shape) + scale.view(shape), rtol=1e-9, atol=1e-9)


def is_bare(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution has no border."""
    padded = conv.padding != "valid" if isinstance(conv.padding, str) else any(conv.padding)
    return not padded and conv._parameters.get("weight") is not None


def scale_outputs(conv: Any, scale: Tensor, shift: Tensor | None) -> None:
    """Multiply factors and a shift into the outputs of a convolution."""
    weight = _double(conv.weight) * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    bias = None if conv.bias is None else _double(conv.bias) * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    _set(conv, weight, bias)


def scale_inputs(conv: Any, scale: Tensor, shift: Tensor) -> None:
    """Multiply factors and a shift of the inputs into a convolution without padding."""
    weight = _double(conv.weight)

    def spread(values: Tensor) -> Tensor:
        rows = values.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, dim=0)
        return rows[:, :, None, None]

    bias = (weight * spread(shift)).sum((1, 2, 3))
    _set(conv, weight * spread(scale), bias if conv.bias is None else bias + _double(conv.bias))


def _set(conv: Any, weight: Tensor, bias: Tensor | None) -> None:
    place = dict(device=conv.weight.device, dtype=conv.weight.dtype)
    conv.weight = nn.Parameter(weight.to(**place), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.to(**place), requires_grad=False)


def make_bound(scale: Tensor, shift: Tensor, like: Tensor) -> tuple[Bound, Tensor, Tensor]:
    """Make the bound that replaces a norm and a ReLU; compute the factor and shift left for the next layers."""
    edge = -shift / scale
    constant = ~(edge.abs() < FAR)
    edge = torch.where(constant, 0.0, edge)
    infinity = torch.full_like(edge, torch.inf)
    falls = (scale < 0) & ~constant

    def shaped(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1).to(device=like.device, dtype=like.dtype)

    low = None if falls.all() else shaped(torch.where(falls, -infinity, edge))
    high = shaped(torch.where(falls, edge, infinity)) if falls.any() else None
    bound = Bound(low, high)
    # A channel without a factor is a number, whatever stands in the map.
    scale = torch.where(constant, 0.0, scale)
    return bound, scale, torch.where(constant, shift.clamp(min=0), shift)
