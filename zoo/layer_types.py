"""Norms and activations by name or by constructor."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import timm.layers
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

LayerType = str | Callable[..., Any]

NORMS: dict[str, Callable[..., nn.Module]] = {
    "batchnorm2d": nn.BatchNorm2d,
    "batchnorm": nn.BatchNorm2d,
    "syncbatchnorm": nn.SyncBatchNorm,
    "frozenbatchnorm2d": FrozenBatchNorm2d,
    "groupnorm": timm.layers.GroupNorm,
    "groupnorm1": timm.layers.GroupNorm1,
    "layernorm2d": timm.layers.LayerNorm2d,
    "layernorm2dfp32": timm.layers.LayerNorm2dFp32,
    "rmsnorm2d": timm.layers.RmsNorm2d,
    "rmsnorm2dfp32": timm.layers.RmsNorm2dFp32,
    "simplenorm2d": timm.layers.SimpleNorm2d,
    "simplenorm2dfp32": timm.layers.SimpleNorm2dFp32,
}
"""Norms of (N, C, H, W) maps: timm's names where the norm takes such maps, and torch's synchronised batch norm."""

ACTS = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "celu",
    "selu",
    "silu",
    "swish",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "mish",
    "sigmoid",
    "tanh",
    "hard_sigmoid",
    "hardsigmoid",
    "hard_swish",
    "hardswish",
    "hard_mish",
    "identity",
)
"""Activations by timm's names."""


class Elementwise(nn.Module):
    """Layer that applies a function to a map."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function: (N, C, H, W) -> the same shape."""
        return self.function(x)


def norm_name(name: str) -> str:
    """Return a norm's name as a key of ``NORMS``; like timm, it ignores case and underscores."""
    return name.replace("_", "").lower()


def make_norm(norm_layer: LayerType, chs: int) -> nn.Module:
    """Make a norm of ``chs`` channels.

    timm's group norm gets gcd(channels, 32) groups.

    Args:
        norm_layer: A name of ``NORMS``, or a callable ``(channels) -> module``.
        chs: Number of channels.

    Raises:
        ValueError: If the callable fails for these channels or returns no module.
    """
    make = NORMS[norm_name(norm_layer)] if isinstance(norm_layer, str) else norm_layer
    groups = (math.gcd(chs, 32),) if make is timm.layers.GroupNorm else ()
    return _make("norm_layer", norm_layer, make, chs, *groups)


def make_act(act_layer: LayerType) -> nn.Module:
    """Make an activation that does not work in place.

    Args:
        act_layer: A name of ``ACTS``, a callable ``() -> module``, or a function of a map such as ``F.relu``.

    Raises:
        ValueError: If the callable fails or returns no module.
    """
    make = timm.layers.get_act_layer(act_layer) if isinstance(act_layer, str) else act_layer
    return Elementwise(make) if _takes_a_map(make) else _make("act_layer", act_layer, make)


def _make(argument: str, value: LayerType, make: Callable[..., Any], *args: int) -> nn.Module:
    try:
        layer = make(*args)
    except (TypeError, ValueError, AssertionError) as error:
        given = f"{args[0]} channels" if args else "no arguments"
        raise ValueError(f"{argument} ({value!r}) cannot be made with {given}: {error}") from error
    if not isinstance(layer, nn.Module):
        raise ValueError(f"{argument} ({value!r}) must make a module, not an object of type {type(layer).__name__}")
    return layer


def _takes_a_map(function: Callable[..., Any]) -> bool:
    """Return True if a callable needs an argument, as ``F.relu`` does; it is then no constructor."""
    if isinstance(function, type):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a function that is not written in Python, such as torch.tanh
        return True
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
