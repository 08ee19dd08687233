"""The training loop of the benchmark: plain torch, data in memory, the same batches for every net of a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo.bench.data import Dataset
from zoo.bench.machine import PeakMemory
from zoo.bench.recipe import Recipe
from zoo.bench.results import CLASSIFY
from zoo.bench.tasks import TASKS, Task, take, to_device

EVAL_BATCH_SIZE = 100


class DivergedError(RuntimeError):
    """The training loss of a net is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave; the learning rate is that of the last step.

    The scores are the task's metric in [0, 1]; on training images that is the accuracy while learning, or None for a
    task whose metric is no mean over images.
    """

    epoch: int
    lr: float
    train_loss: float
    train_score: float | None
    test_score: float
    seconds: float

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Return the fields as plain JSON types, the scores under the name of the metric."""
        fields = asdict(self)
        if fields["train_score"] is None:
            del fields["train_score"]
        return {key.replace("score", metric): value for key, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training run.

    Attributes:
        epochs: One record an epoch.
        test_score: The task's metric of the final net on the test images.
        standard_error: Of that score.
        seconds: Wall time of training and of the evaluation after each epoch.
        cpu_seconds: CPU time of the process over the same span, all threads together.
        images_per_second: Training images over the wall time of the training steps alone.
        peak_memory: Bytes (see `machine.PeakMemory`), None where the system does not tell.
    """

    epochs: tuple[EpochMetrics, ...]
    test_score: float
    standard_error: float
    seconds: float
    cpu_seconds: float
    images_per_second: float
    peak_memory: int | None

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Return the fields as plain JSON types, the scores under the name of the metric."""
        fields = {key.replace("score", metric): value for key, value in asdict(self).items() if key != "epochs"}
        return {**fields, "epochs": [epoch.to_dict(metric) for epoch in self.epochs]}


def shift_images(images: Tensor, shifts: Tensor, fill: float) -> Tensor:
    """Move each image by its own whole number of pixels: (N, C, H, W) -> (N, C, H, W).

    Args:
        images: (N, C, H, W).
        shifts: (N, 2) int64, pixels down and pixels to the right; negative is up and left.
        fill: Value of the pixels that come in at the border.
    """
    height, width = images.shape[-2:]
    border = int(shifts.abs().max()) if len(shifts) else 0
    padded = pad(images, (border, border, border, border), value=fill)
    rows = torch.arange(height, device=images.device) + (border - shifts[:, :1])  # (N, H)
    columns = torch.arange(width, device=images.device) + (border - shifts[:, 1:])  # (N, W)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    # The index puts channels last, (N, H, W, C); the permutation hands them back without a copy.
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(
    make_model: Callable[[], nn.Module],
    dataset: Dataset,
    recipe: Recipe,
    *,
    task: Task | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    label: str = "model",
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_trained: Callable[[nn.Module], None] | None = None,
) -> Trained:
    """Train a new net and test it after every epoch.

    The seed fixes initialisation, order, shifts and dropout; order and shifts come from a generator of their own, so
    that every net of a seed sees the same batches, however many random numbers it draws itself. On the CPU a run
    repeats bit for bit with the same number of threads; CUDA kernels may differ in the last digits. The caller's
    random state is left as it was.

    Args:
        make_model: Builds what the task trains, for classification the net: (N, C, H, W) -> (N, classes). Called once,
            under the seed. In training mode a net may return a tuple of such logits: the first count, the others are
            auxiliary and add to the loss alone.
        dataset: Images and labels.
        recipe: How to train.
        task: What to train for; classification unless told.
        seed: Seed of the run.
        device: Where to train.
        label: Name of the net in an error.
        on_epoch: Called after each epoch.
        on_trained: Called with the final model, in evaluation mode.

    Raises:
        DivergedError: If a loss is not finite; the message names net and epoch.
        ValueError: If the training set is smaller than one batch, or images are to be shifted whose targets cannot be.
    """
    task = task or TASKS[CLASSIFY]
    if recipe.max_shift and task.name != CLASSIFY:
        raise ValueError(
            f"recipe field max_shift must be 0 for task {task.name}, got {recipe.max_shift}: "
            "images would move and their targets not"
        )
    if len(dataset.train_images) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train_images)} training images")
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = make_model().to(device).to(memory_format=torch.channels_last)
        trained = _run(model, task, dataset, recipe, torch.Generator().manual_seed(seed), device, label, on_epoch)
        if on_trained is not None:
            on_trained(model.eval())
        return trained


def _run(
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device,
    label: str,
    on_epoch: Callable[[EpochMetrics], None] | None,
) -> Trained:
    optimizer = _optimizer(model, recipe)
    train_set = (dataset.train_images.to(device), to_device(dataset.train_labels, device))
    test_images = dataset.test_images.to(device)
    steps = len(dataset.train_images) // recipe.batch_size
    history: list[EpochMetrics] = []
    predictions, train_seconds = None, 0.0
    memory = PeakMemory(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    for epoch in range(recipe.epochs):
        epoch_start = time.perf_counter()
        # Sums stay on the device: reading them at every step would stall a GPU.
        loss_sum = torch.zeros((), device=device)
        correct: Tensor | None = None
        model.train()
        for step, (images, labels) in enumerate(_batches(*train_set, recipe, dataset.fill, generator)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch + (step + 0.5) / steps)
            optimizer.zero_grad(set_to_none=True)
            with _autocast(device, recipe):
                loss, hits = task.loss(model, images, labels, recipe)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            if hits is not None:
                correct = hits if correct is None else correct + hits
        mean_loss = float(loss_sum) / steps
        if not math.isfinite(mean_loss):
            raise DivergedError(f"{label}: the loss is {mean_loss} in epoch {epoch + 1} of {recipe.epochs}")
        train_seconds += time.perf_counter() - epoch_start
        predictions = _predict(model, task, test_images, device, recipe)
        metrics = EpochMetrics(
            epoch=epoch + 1,
            lr=optimizer.param_groups[0]["lr"],
            train_loss=mean_loss,
            train_score=None if correct is None else int(correct) / (steps * recipe.batch_size),
            test_score=task.score(predictions, dataset.test_labels),
            seconds=time.perf_counter() - epoch_start,
        )
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(metrics)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    score = history[-1].test_score
    return Trained(
        epochs=tuple(history),
        test_score=score,
        standard_error=task.error(score, predictions, dataset.test_labels),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        images_per_second=steps * recipe.batch_size * recipe.epochs / train_seconds,
        peak_memory=memory.read(),
    )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _batches(
    images: Tensor, labels: Any, recipe: Recipe, fill: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Any]]:
    order = torch.randperm(len(images), generator=generator)
    shifts = torch.randint(-recipe.max_shift, recipe.max_shift + 1, (len(images), 2), generator=generator)
    order, shifts = order.to(images.device), shifts.to(images.device)
    for start in range(0, len(images) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        batch = shift_images(images[chosen], shifts[chosen], fill) if recipe.max_shift else images[chosen]
        yield batch.contiguous(memory_format=torch.channels_last), take(labels, chosen)


@torch.no_grad()
def _predict(model: nn.Module, task: Task, images: Tensor, device: torch.device, recipe: Recipe) -> Any:
    """Predictions for all images, on the CPU: one tensor, or one list."""
    model.eval()
    parts = []
    for batch in images.split(EVAL_BATCH_SIZE):
        with _autocast(device, recipe):
            parts.append(task.predict(model, batch.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts) if isinstance(parts[0], Tensor) else list(chain.from_iterable(parts))


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, getattr(torch, recipe.amp)) if recipe.amp else nullcontext()
