"""Gradient checkpointing: a unit's maps are computed again in the backward pass instead of being stored."""

from contextlib import nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class SecondRun:
    """Context in which a unit repeats its first run in the same modes, without moving running statistics.

    It can be entered more than once, because a retained graph may be run backwards more than once.

    Args:
        unit: The unit, in the modes of its first run.
    """

    def __init__(self, unit: nn.Module) -> None:
        self.modes = [(module, module.training) for module in unit.modules()]
        self.before: list[tuple[list[bool], list[dict[str, Tensor | None]]]] = []

    def __enter__(self) -> None:
        modules = [module for module, _ in self.modes]
        self.before.append(([module.training for module in modules], [dict(module._buffers) for module in modules]))
        for module, training in self.modes:
            module.training = training
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.clone()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for (module, _), training, buffers in zip(self.modes, *self.before.pop(), strict=True):
            module.training = training
            module._buffers.update(buffers)


def run_checkpointed(unit: nn.Module, *args: Any) -> Any:
    """Run a unit and store only its inputs; the backward pass runs the unit again.

    Outputs and gradients equal those of a plain call. Running statistics of norms move once.
    """
    if torch.compiler.is_compiling():  # A compiler takes no contexts; it moves each statistic once by itself.
        return checkpoint(unit, *args, use_reentrant=False)
    contexts = (nullcontext(), SecondRun(unit))
    return checkpoint(unit, *args, use_reentrant=False, context_fn=lambda: contexts)
