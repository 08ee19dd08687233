"""Processes that train one net together, as `accelerate launch` or `torchrun` start them; by default one process.

A batch is shared among them, so a run means the same for any number of processes. Norms see the whole batch, gradients
are those of the whole batch, and all sums are over it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.extras import require


class Team:
    """A single process.

    Attributes:
        rank: Rank of this process, from 0.
        size: World size: number of processes.
        device: Device of this process.
    """

    rank = 0
    size = 1

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def leads(self) -> bool:
        """True if this process writes and prints for all (rank 0)."""
        return self.rank == 0

    def shared(self, model: nn.Module) -> nn.Module:
        """Return a net on its device whose gradients are those of the whole batch."""
        return model.to(self.device)

    def whole_batch(self) -> AbstractContextManager[Any]:
        """Return the context of a training step, in which norms see the whole batch."""
        return nullcontext()

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, on the CPU."""
        return [value]

    def agree(self, value: Any) -> Any:
        """Return the value of rank 0."""
        return value


class LaunchedTeam(Team):
    """Several processes, through Hugging Face accelerate.

    Args:
        device: ``cpu``, or ``cuda`` for the GPU that accelerate gives this process.

    Raises:
        ValueError: If accelerate is not installed.
    """

    def __init__(self, device: str | torch.device) -> None:
        require("bench", "accelerate")
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # Some nets have parameters that lead nowhere (fabrics of type d). Of the others torch says once that the search
        # was in vain.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        # The recipe knows the type of the forward pass; a setting of the launcher is not part of what a run is.
        on_cpu = torch.device(device).type == "cpu"
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[unused])
        super().__init__(self._accelerator.device)
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes

    def shared(self, model: nn.Module) -> nn.Module:
        """Return the net wrapped for data-parallel training; its own parameters are those of the wrapped one."""
        model = model.to(self.device)
        if self.device.type == "cuda":
            model = convert_sync_batchnorm(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        return self._accelerator.prepare_model(model)

    def whole_batch(self) -> AbstractContextManager[Any]:
        """Return the context of a training step, in which norms see the whole batch."""
        # torch's norm of a whole batch is for GPUs alone.
        return _WholeBatchNorms() if self.device.type == "cpu" else nullcontext()

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return self._accelerator.reduce(value, reduction="sum")

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, value: Any) -> Any:
        """Return the value of rank 0."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def join(device: str | torch.device) -> Team:
    """Return the team that this process belongs to."""
    return LaunchedTeam(device) if team_size() > 1 else Team(device)


def team_size() -> int:
    """Return the world size that a launcher has set; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def interleave(parts: Sequence[Any]) -> Any:
    """Merge the results of several processes for every n-th image: tensors over images, or lists."""
    if isinstance(parts[0], Tensor):
        whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    else:
        whole = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


class _WholeBatchNorms(TorchFunctionMode):
    """Batch norms of a training step use mean and variance over the shares of all processes.

    The sums go through an all-reduce that passes gradients back. The gradients are therefore those of the whole batch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm:
            return _whole_batch_norm(func, *args, **kwargs)
        return func(*args, **kwargs)


class _Sum(torch.autograd.Function):
    """Sum over all processes; the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def _whole_batch_norm(
    func: Any,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return func(x, running_mean, running_var, weight, bias, training, momentum, eps)
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    wide = x.double()  # the square of a mean is taken from the mean of squares
    count = torch.full((1,), x.numel() / x.shape[1], dtype=torch.float64)
    sums = torch.cat([wide.sum(dims), wide.square().sum(dims), count])
    sums = _Sum.apply(sums)
    total = sums[-1]
    mean, square = (sums[:-1] / total).chunk(2)
    var = square - mean.square()
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    out = (wide - mean.view(shape)) * torch.rsqrt(var + eps).view(shape)
    if weight is not None and bias is not None:
        out = out * weight.view(shape) + bias.view(shape)
    return out.to(x.dtype)
