"""The training loop of the benchmark: plain torch, data in memory, the same batches for every net of a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from zoo.bench.data import Dataset
from zoo.bench.machine import PeakMemory
from zoo.bench.recipe import Recipe

EVAL_BATCH_SIZE = 100
AUXILIARY_WEIGHT = 0.3
"""Of the loss of each auxiliary classifier (Szegedy et al. 2014, arXiv:1409.4842, section 5)."""


class DivergedError(RuntimeError):
    """The training loss of a net is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave; accuracies are shares in [0, 1], the learning rate is that of the last step."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training run.

    Attributes:
        epochs: One record an epoch.
        test_correct: Test images that the final net names correctly.
        seconds: Wall time of training and of the evaluation after each epoch.
        cpu_seconds: CPU time of the process over the same span, all threads together.
        images_per_second: Training images over the wall time of the training steps alone.
        peak_memory: Bytes (see `machine.PeakMemory`), None where the system does not tell.
    """

    epochs: tuple[EpochMetrics, ...]
    test_correct: int
    seconds: float
    cpu_seconds: float
    images_per_second: float
    peak_memory: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return {**asdict(self), "epochs": [asdict(epoch) for epoch in self.epochs]}


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
    seed: int = 0,
    device: str | torch.device = "cpu",
    label: str = "model",
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> Trained:
    """Train a new net and test it after every epoch.

    The seed fixes initialisation, order, shifts and dropout; order and shifts come from a generator of their own, so
    that every net of a seed sees the same batches, however many random numbers it draws itself. On the CPU a run
    repeats bit for bit with the same number of threads; CUDA kernels may differ in the last digits. The caller's
    random state is left as it was.

    Args:
        make_model: Builds the net: (N, C, H, W) -> (N, classes). Called once, under the seed. In training mode it may
            return a tuple of such logits: the first count, the others are auxiliary and add to the loss alone.
        dataset: Images and labels.
        recipe: How to train.
        seed: Seed of the run.
        device: Where to train.
        label: Name of the net in an error.
        on_epoch: Called after each epoch.

    Raises:
        DivergedError: If a loss is not finite; the message names net and epoch.
        ValueError: If the training set is smaller than one batch.
    """
    if len(dataset.train_images) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train_images)} training images")
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = make_model().to(device).to(memory_format=torch.channels_last)
        return _run(model, dataset, recipe, torch.Generator().manual_seed(seed), device, label, on_epoch)


def _run(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device,
    label: str,
    on_epoch: Callable[[EpochMetrics], None] | None,
) -> Trained:
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    train_set = (dataset.train_images.to(device), dataset.train_labels.to(device))
    test_set = (dataset.test_images.to(device), dataset.test_labels.to(device))
    steps = len(dataset.train_images) // recipe.batch_size
    history: list[EpochMetrics] = []
    correct_test, train_seconds = 0, 0.0
    memory = PeakMemory(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    for epoch in range(recipe.epochs):
        epoch_start = time.perf_counter()
        # Sums stay on the device: reading them at every step would stall a GPU.
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device, dtype=torch.int64)
        model.train()
        for step, (images, labels) in enumerate(_batches(*train_set, recipe, dataset.fill, generator)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch + (step + 0.5) / steps)
            optimizer.zero_grad(set_to_none=True)
            with _autocast(device, recipe):
                outputs = model(images)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            for other in auxiliary:
                smoothing = recipe.label_smoothing
                loss = loss + AUXILIARY_WEIGHT * cross_entropy(other.float(), labels, label_smoothing=smoothing)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.argmax(1) == labels).sum()
        mean_loss = float(loss_sum) / steps
        if not math.isfinite(mean_loss):
            raise DivergedError(f"{label}: the loss is {mean_loss} in epoch {epoch + 1} of {recipe.epochs}")
        train_seconds += time.perf_counter() - epoch_start
        correct_test = _count_correct(model, *test_set, device, recipe)
        metrics = EpochMetrics(
            epoch=epoch + 1,
            lr=optimizer.param_groups[0]["lr"],
            train_loss=mean_loss,
            train_accuracy=int(correct) / (steps * recipe.batch_size),
            test_accuracy=correct_test / len(test_set[0]),
            seconds=time.perf_counter() - epoch_start,
        )
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(metrics)
    return Trained(
        epochs=tuple(history),
        test_correct=correct_test,
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
        images_per_second=steps * recipe.batch_size * recipe.epochs / train_seconds,
        peak_memory=memory.read(),
    )


def _batches(
    images: Tensor, labels: Tensor, recipe: Recipe, fill: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(images), generator=generator)
    shifts = torch.randint(-recipe.max_shift, recipe.max_shift + 1, (len(images), 2), generator=generator)
    order, shifts = order.to(images.device), shifts.to(images.device)
    for start in range(0, len(images) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        batch = shift_images(images[chosen], shifts[chosen], fill) if recipe.max_shift else images[chosen]
        yield batch.contiguous(memory_format=torch.channels_last), labels[chosen]


@torch.no_grad()
def _count_correct(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, recipe: Recipe) -> int:
    model.eval()
    correct = torch.zeros((), device=device, dtype=torch.int64)
    for batch, target in zip(images.split(EVAL_BATCH_SIZE), labels.split(EVAL_BATCH_SIZE), strict=True):
        with _autocast(device, recipe):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        correct += (logits.argmax(1) == target).sum()
    return int(correct)


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, getattr(torch, recipe.amp)) if recipe.amp else nullcontext()
