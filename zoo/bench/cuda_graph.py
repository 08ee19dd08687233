"""Record a training step as a CUDA graph and replay it: small nets on a GPU wait for Python, not for the GPU.

A net for images of 32 px launches some hundred kernels per step, each of a few microseconds. Python takes longer to
launch them than the GPU to run them. A graph launches all of them at once. The kernels and their arithmetic are the
same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.results.recipe import Recipe

WARM_UP = 11
"""Number of steps before the recorded one: cuDNN chooses its kernels, and the optimizer makes its state."""

Step = Callable[[Tensor, Any], tuple[Tensor, Tensor | None]]


def can_record(device: torch.device, recipe: Recipe, processes: int) -> bool:
    """Return True if the steps of a run can be recorded: one process, one GPU, sgd, no average, all units active."""
    single = device.type == "cuda" and processes == 1
    return single and recipe.optimizer == "sgd" and not recipe.ema and not recipe.paths


def make_recordable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move the optimizer's learning rate to the GPU, where a recorded step reads it. Call it before the first step."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["fused"], group["foreach"] = True, False


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, times the scale of their group if it has one."""
    for group in optimizer.param_groups:
        own = rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


class Recorder:
    """Take steps: the first ones normally, then one that is recorded, then replays of it.

    If a step cannot be recorded, a warning is given and all steps are taken normally.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(
        self, step: Step, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Take one step: images (N, C, H, W), labels (N,) -> the loss, and the number of correct answers.

        Both results are overwritten by the next step.
        """
        self.taken += 1
        if self.taken <= WARM_UP:
            return self._on_stream(step, images, labels)
        if self.taken == WARM_UP + 1:
            self._record(step, optimizer, images, labels)
        if self.graph is None:
            return step(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.results

    def _on_stream(self, step: Step, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        # Autograd remembers the stream of a parameter's first gradient; recording must not meet the default stream.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = step(images, labels)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _record(self, step: Step, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        optimizer.zero_grad(set_to_none=True)  # the graph makes gradients of its own
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                loss, hits = step(self.images, self.labels)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            warnings.warn(f"training steps cannot be recorded and are taken one by one: {reason}", stacklevel=3)
            torch.cuda.synchronize()
            return
        self.graph, self.results = graph, (loss.detach(), hits)
