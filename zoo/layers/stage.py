"""Chains of layers and of units. Gradient checkpointing works on the units of a chain."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.checkpointing import run_checkpointed


def concatenate(maps: list[Tensor]) -> Tensor:
    """Concatenate maps along their channels."""
    if torch.jit.is_scripting():
        # The same for maps. TorchScript would make one graph of ``cat`` and the norm behind it, and record it for a
        # backward pass in inference mode too, where that is an error: it asks the norm, but not the list of maps.
        return torch.hstack(maps)
    return torch.cat(maps, dim=1)


def write_behind(buffer: Tensor, new: Tensor, chs: int) -> Tensor:
    """Write a map (N, K, H, W) into a buffer (N, C, H, W) behind its first channels, and return the buffer.

    For copies in inference. Whoever calls it wraps it for torch.fx, which would lose a write whose result nobody reads.
    """
    buffer[:, chs : chs + new.shape[1]].copy_(new)  # ONNX export by TorchScript loses a write into narrow(...)
    return buffer


class Concat(nn.Module):
    """Concatenate maps along their channels.

    Attributes:
        passing: Return one map alone as it is, without a copy. For copies in inference where no reader overwrites it.
    """

    passing: bool

    def __init__(self) -> None:
        super().__init__()
        self.passing = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state; a net that was pickled before there was a shortcut has none."""
        super().__setstate__({"passing": False} | state)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Concatenate maps (N, C_i, H, W)."""
        if self.passing and len(maps) == 1:
            return maps[0]
        return concatenate(maps)


class Sum(nn.Module):
    """Add two maps of one shape.

    Attributes:
        inplace: Write the sum into the first map. For copies in inference where that map has no later reader.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inplace = False

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two maps of shape (N, C, H, W)."""
        if self.inplace:
            return x.add_(y)
        return x + y


class Chain(nn.Sequential):
    """Layers under names, run in order.

    TorchScript takes two modules for one type if their children have the same names and types, in any order, and then
    runs both in the order of the first: the constant tells them apart.

    Args:
        layers: The layers by name.
    """

    __constants__: ClassVar[list[str]] = ["order"]
    __jit_unused_properties__: ClassVar[list[str]] = ["order"]  # a constant there, not a function

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(OrderedDict(layers))

    @property
    def order(self) -> str:
        """Names of the layers in the order in which they run."""
        return " ".join(self._modules)


class Skippable(Chain):
    """Layers that keep a map's shape and are left out for a sample at random in training.

    This is drop path without a shortcut: x + drop_path(layers(x) - x), which is layers(x) in evaluation. The layers
    keep their names in the state dict.

    Args:
        layers: The layers, as named children of a module.
        drop_prob: Probability of leaving them out.
    """

    def __init__(self, layers: nn.Module, drop_prob: float) -> None:
        # The draw is a layer of torch's own, so that a traced graph still follows train() and eval().
        super().__init__({**dict(layers.named_children()), "draw": nn.Dropout(drop_prob)})
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers: (N, C, H, W) -> the same shape."""
        y, kept = x, x.new_ones((x.shape[0], 1, 1, 1))
        for name, layer in self.named_children():
            if name == "draw":
                kept = layer(kept)
            else:
                y = layer(y)
        return kept * y + (1 - kept) * x

    def plain(self) -> nn.Module:
        """Make the equal module for evaluation."""
        return Chain({name: layer for name, layer in self.named_children() if name != "draw"})


class Stage(nn.Sequential):
    """Units run in order; ``grad_checkpointing`` recomputes each in the backward pass instead of storing its maps."""

    grad_checkpointing: bool

    def __init__(self, *units: nn.Module) -> None:
        super().__init__(*units)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, inner: list[Tensor] | None = None) -> Tensor:
        """Run the units in order: (N, C, H, W) -> (N, C', H', W'); append the map of each to ``inner``, if given."""
        for unit in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = run_checkpointed(unit, x)
            else:
                x = unit(x)
            if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
                if isinstance(inner, list):  # in a traced stage it stands for None
                    inner.append(x)
        return x
