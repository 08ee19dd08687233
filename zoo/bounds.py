"""Check the size of a net without memory, before anything is built."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zoo.arguments import listed
from zoo.entry import Spec

MOST_ELEMENTS = 2**32
"""Largest number of elements in all parameters and buffers, 16 GiB in float32: eighteen times the largest preset."""
MOST_TENSORS = 100_000
"""Largest number of parameters and buffers, four times that of the deepest preset; more take minutes to make."""
LARGEST_STRIDE = 2**16
"""Largest total stride of the deepest map. No image has as many pixels per side."""


class _TooLarge(Exception):
    pass


class _Budget(TorchFunctionMode):
    """Count the tensors that are made inside this context, and stop when there are too many."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors = self.elements = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.empty, torch.zeros, torch.ones):
            self.tensors += 1
            shape = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
            elements = 1
            for n in shape:
                elements *= int(n)
            self.elements += elements
            if self.elements > MOST_ELEMENTS:
                raise _TooLarge(f"more than {MOST_ELEMENTS:,} numbers in its parameters")
            if self.tensors > MOST_TENSORS:
                raise _TooLarge(f"more than {MOST_TENSORS:,} parameters and buffers")
        return func(*args, **(kwargs or {}))


def check_bounds(build: Callable[..., nn.Module], spec: Spec, given: Mapping[str, Any]) -> None:
    """Raise ValueError with the given arguments if a net is too large to be built.

    Args:
        build: Makes a net from a specification.
        spec: The specification.
        given: Arguments that may make the net large, by name; ``in_chans`` and ``num_classes`` are passed on.
    """
    if spec.tap_strides[-1] > LARGEST_STRIDE:
        raise ValueError(f"{listed(given)} must make a net of total stride {LARGEST_STRIDE} at most: give fewer stages")
    task = {name: given[name] for name in ("in_chans", "num_classes") if name in given}
    try:
        with _Budget():
            build(spec, device="meta", **task)
    except _TooLarge as error:
        raise ValueError(f"{listed(given)} must make a smaller net: this one has {error}") from None
