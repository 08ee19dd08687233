"""The training loop of the benchmark: plain torch, equal batches for every net of a seed, resumable by epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from zoo.analysis.active import ActiveUnits
from zoo.bench.cuda_graph import Recorder, can_record, make_recordable, set_rate
from zoo.bench.distributed import Team, interleave
from zoo.bench.resume import Saved
from zoo.bench.tasks import TASKS, Task
from zoo.datasets.image_set import ImageSet
from zoo.environment import PeakMemory, overflows_channels_last, versions
from zoo.freezing import freeze_parts
from zoo.results.recipe import Recipe
from zoo.results.run import CLASSIFY

PRECISE_BATCHES = 200
"""Largest number of batches from which the statistics of norms are estimated, if a recipe asks for it."""
PULSE = 1.0
"""Seconds between two reports of a run's progress within an epoch."""


class DivergedError(RuntimeError):
    """Error for a net whose training loss is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """Metrics of one epoch; the learning rate is that of the last step.

    The scores are the task's metric in [0, 1]. On training images it is the accuracy while learning, or None for a task
    whose metric is no mean over images. The test score is that of the validation half, if there is one.
    """

    epoch: int
    lr: float
    train_loss: float
    train_score: float | None
    test_score: float
    seconds: float

    def to_dict(self, metric: str, tested: str = "test") -> dict[str, Any]:
        """Return the fields as plain JSON types, with the scores under the names of metric and tested half."""
        fields = asdict(self)
        if fields["train_score"] is None:
            del fields["train_score"]
        names = {"train_score": f"train_{metric}", "test_score": f"{tested}_{metric}"}
        return {names.get(key, key): value for key, value in fields.items()}


@dataclass(frozen=True)
class Progress:
    """Progress of a run within an epoch, reported every `PULSE` seconds.

    Attributes:
        done: Elapsed epochs, with fractions.
    """

    done: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training run.

    Attributes:
        epochs: Metrics of each epoch.
        test_score: The task's metric of the final net on the test images.
        standard_error: Standard error of that score.
        seconds: Wall time of training and of the evaluation after each epoch.
        cpu_seconds: CPU time of the process over the same span, over all threads.
        images_per_second: Training images divided by the wall time of the training steps alone.
        peak_memory: Bytes (see `environment.PeakMemory`); None if the system does not report it.
        channels_last: Memory format of weights and images, which may differ from the requested one.
        resumed: Points at which a stopped run went on: epochs done by then, and versions that did them.
        validation: Score on the validation half after the last epoch, and its standard error; None without such a half.
        by_class: Figures of the classes on the test images, see `zoo.bench.tasks.Task`.
    """

    epochs: tuple[EpochMetrics, ...]
    test_score: float
    standard_error: float
    seconds: float
    cpu_seconds: float
    images_per_second: float
    peak_memory: int | None
    channels_last: bool = True
    resumed: tuple[dict[str, Any], ...] = ()
    validation: tuple[float, float] | None = None
    by_class: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Return the fields as plain JSON types, with the scores under the name of the metric."""
        left_out = ("epochs", "channels_last", "resumed", "validation", "by_class")
        fields = {key.replace("score", metric): value for key, value in asdict(self).items() if key not in left_out}
        if self.validation is not None:
            fields |= dict(zip((f"validation_{metric}", "validation_error"), self.validation, strict=True))
        tested = "test" if self.validation is None else "validation"
        epochs = [epoch.to_dict(metric, tested) for epoch in self.epochs]
        return {
            **fields,
            **self.by_class,
            **({"resumed": list(self.resumed)} if self.resumed else {}),
            "epochs": epochs,
        }


def train(
    make_model: Callable[[], nn.Module],
    dataset: ImageSet,
    recipe: Recipe,
    *,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    **options: Any,
) -> Trained:
    """Run `training` to its end.

    Args:
        make_model: See `training`, also for all options that are not named here.
        dataset: See `training`.
        recipe: See `training`.
        device: Device of the training, in this process alone.
        on_epoch: Called after each epoch.
        **options: See `training`.

    Raises:
        DivergedError: See `training`.
        ValueError: See `training`.
    """
    epochs = training(make_model, dataset, recipe, team=Team(device), **options)
    while True:
        try:
            event = next(epochs)
        except StopIteration as end:
            return end.value
        if on_epoch is not None and isinstance(event, EpochMetrics):
            on_epoch(event)


def training(
    make_model: Callable[[], nn.Module],
    dataset: ImageSet,
    recipe: Recipe,
    *,
    task: Task | None = None,
    seed: int = 0,
    team: Team | None = None,
    channels_last: bool = True,
    compiled: bool = False,
    saved: Saved | None = None,
    label: str = "model",
    on_trained: Callable[[nn.Module], None] | None = None,
    recorded: bool = False,
    validation: float = 0.0,
    freeze: str = "",
) -> Generator[EpochMetrics | Progress, None, Trained]:
    """Train a new net and test it after every epoch. Yields metrics and progress; returns the finished run.

    The seed fixes initialisation, order, changes of the images and dropout. Order and changes come from a generator of
    their own, so that every net of a seed sees the same batches, however many random numbers it draws itself. On the
    CPU a run repeats bit for bit with the same number of threads, also when it was stopped and goes on from a
    checkpoint. CUDA kernels may differ in the last digits. The caller's random state is left unchanged.

    Args:
        make_model: Builds the model of the task, for classification the net: (N, C, H, W) -> (N, classes). Called once,
            under the seed. In training mode a net may return a tuple of such logits: the first count, the others are
            auxiliary and add only to the loss.
        dataset: Images and labels.
        recipe: Recipe of the training.
        task: Task of the training. Default: classification.
        seed: Seed of the run.
        team: Processes that share each batch, and their device. Default: this process, on the CPU.
        channels_last: Memory format of weights and images, where it works.
        compiled: Compile the net with `torch.compile` first.
        saved: Checkpoint that is written after every epoch, and read at the start. Default: none.
        label: Name of the net in an error.
        on_trained: Called with the final model, in evaluation mode.
        recorded: Record training steps as a CUDA graph and replay it, see `zoo.bench.cuda_graph`.
        validation: Share of the training images that is tested after each epoch instead of the test images. The seed
            chooses them, each class in proportion. The test images are then seen once, by the final model.
        freeze: Part of the net that is kept, see `zoo.freezing.freeze_parts`. It stays in evaluation mode.

    Raises:
        DivergedError: If a loss is not finite; the message names net and epoch.
        ValueError: If the training set is smaller than one batch, the processes cannot share a batch evenly, or the
            recipe changes images whose targets cannot be changed.
    """
    task, team = task or TASKS[CLASSIFY], team or Team()
    whole = dataset.for_recipe(recipe)
    images = whole.searching(validation, seed) if validation else whole
    _check(images, recipe, task, team)
    device = team.device
    images = images.on(device)

    def begin() -> _Run:
        torch.manual_seed(seed)
        model = make_model().to(device)
        still = freeze_parts(model, freeze) if freeze else ()
        last = channels_last and not (device.type == "cpu" and overflows_channels_last(model))
        layout = torch.channels_last if last else torch.contiguous_format
        model = model.to(memory_format=layout)
        return _Run(model, task, images, recipe, seed, team, layout, compiled, label, recorded, still)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = begin()
        if saved is not None and (state := team.agree(saved.read() if team.leads else None)):
            try:
                run.restore(state)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:  # of another version, or not ours at all
                warnings.warn(f"{saved.path} does not fit {label}, which begins anew: {error}", stacklevel=2)
                run = begin()
        while len(run.history) < recipe.epochs:
            metrics = yield from run.epoch()
            if saved is not None and team.leads:
                saved.write(run.state())
            yield metrics
        trained = run.trained(whole.on(device) if validation else None)
        if on_trained is not None and team.leads:
            on_trained(run.tested.eval())
        return trained


def _check(dataset: ImageSet, recipe: Recipe, task: Task, team: Team) -> None:
    task.check_recipe(recipe)
    if dataset.train_size < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {dataset.train_size} training images")
    if recipe.batch_size % team.size:
        raise ValueError(f"batch_size {recipe.batch_size} must be a multiple of the {team.size} processes")


class _Run:
    """State of a training run between two epochs."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        dataset: ImageSet,
        recipe: Recipe,
        seed: int,
        team: Team,
        layout: torch.memory_format,
        compiled: bool,
        label: str,
        recorded: bool = False,
        still: Sequence[str] = (),
    ) -> None:
        self.still = still
        self.task, self.dataset, self.recipe, self.seed, self.team, self.label = (
            task,
            dataset,
            recipe,
            seed,
            team,
            label,
        )
        self.layout = layout
        self.net: Any = team.shared(model)
        self.model = getattr(self.net, "module", self.net) if team.size > 1 else model
        self.average = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        if compiled:
            self.net = torch.compile(self.net)
        self.active = ActiveUnits(self.model, dataset.input_size, recipe.paths, scaled=recipe.paths_scaled)
        self.recorder = Recorder() if recorded and can_record(team.device, recipe, team.size) else None
        self.optimizer = _optimizer(self.model, recipe)
        if self.recorder is not None:
            make_recordable(self.optimizer, team.device)
        self.weights = balanced(dataset.class_counts).to(team.device) if recipe.class_weights else None
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[EpochMetrics] = []
        self.predictions: Any = None
        self.memory = PeakMemory(team.device)
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0, "train_seconds": 0.0, "peak_memory": 0.0}
        self.resumed: list[dict[str, Any]] = []

    @property
    def tested(self) -> nn.Module:
        """Model that is tested: the net, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    def epoch(self) -> Generator[Progress, None, EpochMetrics]:
        """Train for one epoch and test; yield the progress."""
        recipe, team, device = self.recipe, self.team, self.team.device
        epoch, steps = len(self.history), self.dataset.train_size // self.recipe.batch_size
        start, cpu_start = time.perf_counter(), time.process_time()
        told = start
        if team.size > 1:  # what nets draw, such as dropout, differs between shares and repeats when a run goes on
            torch.manual_seed(self.seed + team.size * epoch + team.rank)
        # Sums stay on the device: reading them at every step would stall a GPU.
        loss_sum = torch.zeros((), device=device)
        correct: Tensor | None = None
        self.net.train()
        for name in self.still:
            self.model.get_submodule(name).eval()
        batches = self.dataset.train_batches(recipe, self.generator, rank=team.rank, of=team.size)
        rate = 0.0
        for step, (images, labels) in enumerate(batches):
            rate = recipe.lr_at(epoch + (step + 0.5) / steps)
            set_rate(self.optimizer, rate)
            images = images.contiguous(memory_format=self.layout)
            with self.active.step(f"{self.seed}/{epoch}/{step}"):
                if self.recorder is None:
                    loss, hits = self.step(images, labels)
                else:
                    loss, hits = self.recorder(self.step, self.optimizer, images, labels)
            if self.average is not None:
                self.average.update(self.model, step=epoch * steps + step)
            loss_sum += loss.detach()
            if hits is not None:
                correct = hits if correct is None else correct + hits
            if (now := time.perf_counter()) > told + PULSE:
                told = now
                yield Progress(epoch + (step + 1) / steps)
        mean_loss = float(team.total(loss_sum)) / (steps * team.size)
        if not math.isfinite(mean_loss):
            raise DivergedError(f"{self.label}: the loss is {mean_loss} in epoch {epoch + 1} of {recipe.epochs}")
        if recipe.precise_norms:
            self.settle_norms(steps)
        trained = time.perf_counter()
        self.predictions = self.predict()
        metrics = EpochMetrics(
            epoch=epoch + 1,
            lr=rate,
            train_loss=mean_loss,
            train_score=None if correct is None else int(team.total(correct)) / (steps * recipe.batch_size),
            test_score=self.task.score(self.predictions, self.dataset.test_labels),
            seconds=time.perf_counter() - start,
        )
        self.history.append(metrics)
        self.spent["train_seconds"] += trained - start
        self.spent["seconds"] += time.perf_counter() - start
        self.spent["cpu_seconds"] += time.process_time() - cpu_start
        self.spent["peak_memory"] = max(self.spent["peak_memory"], self.memory.read() or 0)
        return metrics

    def step(self, images: Tensor, labels: Any) -> tuple[Tensor, Tensor | None]:
        """Take one training step; return its loss and the number of correct answers."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.team.whole_batch():
            with _autocast(self.team.device, self.recipe):
                loss, hits = self.task.loss(self.net, images, labels, self.recipe, self.weights, self.team)
            loss.backward()
        self.optimizer.step()
        return loss, hits

    def settle_norms(self, steps: int) -> None:
        """Estimate the norms' statistics of the tested model from training images, with the net in evaluation mode."""
        import zoo.complexity  # noqa: F401 - knows how to import fvcore without its warning

        from fvcore.nn.precise_bn import BN_MODULE_TYPES, update_bn_stats  # isort: skip

        net, recipe, team = self.tested, self.recipe, self.team
        net.eval()
        for name, norm in net.named_modules():
            if isinstance(norm, BN_MODULE_TYPES) and name not in self.still:
                norm.train()
        # Numbers of their own: the next epoch is the one that it would be without this.
        generator = torch.Generator().manual_seed(self.seed)
        batches = self.dataset.train_batches(recipe, generator, rank=team.rank, of=team.size)
        images = (images.contiguous(memory_format=self.layout) for images, _ in batches)
        with team.whole_batch(), _autocast(team.device, recipe):
            update_bn_stats(net, images, min(steps, PRECISE_BATCHES))

    def predict(self, dataset: ImageSet | None = None) -> Any:
        """Return predictions for all test images, or those of another set, on the CPU: one tensor, or one list."""
        net = self.net if self.average is None else self.average.module
        return predictions(net, self.task, dataset or self.dataset, self.recipe, self.team, self.layout)

    def trained(self, whole: ImageSet | None = None) -> Trained:
        """Return the finished run, after the last epoch.

        Args:
            whole: The set with its test images, if those tested so far were a validation half.
        """
        if self.predictions is None:  # stopped between the last epoch and its result
            self.predictions = self.predict()
        score, epochs = self.history[-1].test_score, len(self.history)
        error = self.task.error(score, self.predictions, self.dataset.test_labels)
        validation, found, tested = None, self.predictions, self.dataset
        if whole is not None:
            validation, found, tested = (score, error), self.predict(whole), whole
            score = self.task.score(found, whole.test_labels)
            error = self.task.error(score, found, whole.test_labels)
        steps = self.dataset.train_size // self.recipe.batch_size
        return Trained(
            epochs=tuple(self.history),
            test_score=score,
            standard_error=error,
            seconds=self.spent["seconds"],
            cpu_seconds=self.spent["cpu_seconds"],
            images_per_second=steps * self.recipe.batch_size * epochs / self.spent["train_seconds"],
            peak_memory=int(self.spent["peak_memory"]) or None,
            channels_last=self.layout == torch.channels_last,
            resumed=tuple(self.resumed),
            validation=validation,
            by_class=self.task.by_class(found, tested.test_labels, tested.num_classes),
        )

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, as tensors and plain values."""
        on_gpu = self.team.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.team.device) if on_gpu else None,
            "history": [asdict(metrics) for metrics in self.history],
            "spent": dict(self.spent),
            "versions": versions(),
            "resumed": list(self.resumed),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the result of `state` in another process."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.recorder is not None:
            make_recordable(self.optimizer, self.team.device)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if self.team.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.team.device)
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]
        self.spent = dict(state["spent"])
        self.resumed = [*state["resumed"], {"epochs": len(self.history), "versions": state["versions"]}]


@torch.no_grad()
def predictions(
    model: nn.Module, task: Task, dataset: ImageSet, recipe: Recipe, team: Team, layout: torch.memory_format
) -> Any:
    """Return a model's predictions for all test images, on the CPU: one tensor, or one list.

    Args:
        model: The model, on the team's device. It is set to evaluation mode.
        task: Its task.
        dataset: Images, on the team's device.
        recipe: Recipe that the model was trained with; its type of numbers is used.
        team: Processes that share the images.
        layout: Memory format of the images.
    """
    model.eval()
    parts = []
    for images, _ in dataset.test_batches(rank=team.rank, of=team.size):
        with _autocast(team.device, recipe):
            parts.append(task.predict(model, images.contiguous(memory_format=layout)))
    own = torch.cat(parts) if isinstance(parts[0], Tensor) else list(chain.from_iterable(parts))
    return interleave(team.gather(own))


def balanced(counts: Tensor) -> Tensor:
    """Return the weight of each class in the loss: the inverse of its number, of mean 1 over all that were counted.

    Args:
        counts: (classes,) int64. A class that does not occur has no weight.
    """
    return torch.where(counts > 0, counts.sum() / (counts.clamp(min=1) * (counts > 0).sum()), 0.0)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.layer_decay < 1:
        groups: Any = param_groups_layer_decay(model, recipe.weight_decay, layer_decay=recipe.layer_decay)
    elif recipe.decay_all:
        groups = [{"params": list(model.parameters()), "weight_decay": recipe.weight_decay}]
    else:
        groups = param_groups_weight_decay(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, getattr(torch, recipe.amp)) if recipe.amp else nullcontext()
