"""A run of units, the grain at which memory is traded for recomputation."""

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn


class Stage(nn.Sequential):
    """Units run in order; with ``grad_checkpointing`` each is recomputed in the backward pass instead of stored."""

    grad_checkpointing: bool

    def __init__(self, *units: nn.Module) -> None:
        super().__init__(*units)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W') as the units say."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self, x)
        for unit in self:
            x = unit(x)
        return x
