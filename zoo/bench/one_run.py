"""One run, from the request to the stored line, in this process, another one, or on another machine."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from zoo.bench.distributed import Team
from zoo.bench.resume import Saved
from zoo.bench.tasks import load, task_row, trivial_score
from zoo.bench.train import DivergedError, EpochMetrics, Progress, Trained, training
from zoo.datasets.external import BUILT_IN, DataLocation
from zoo.datasets.image_set import ImageSet
from zoo.environment import describe_device, git_revision, versions
from zoo.files import write_atomically
from zoo.recipes import recipe_name
from zoo.results.run import Run

Line = dict[str, Any]
"""Stored line of a run that has ended."""
LONGEST_ERROR = 10_000
"""Largest number of characters of an error, and of its traceback, in a line."""
TRACE_LINES = 30
"""Number of lines of a failed run's traceback in its line."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, memory format and folders of a run. They are not part of its key, so results do not depend on them.

    Attributes:
        device: A torch device.
        channels_last: Memory format of weights and images, where it works (see `training`).
        compiled: Compile nets with `torch.compile` first.
        location: Location of the image sets.
        saved: Folder of the checkpoints of runs in progress. None keeps nothing of a run that is stopped.
        weights: Folder for the weights of every finished run, as KEY.safetensors. None keeps none.
        recorded: Record training steps as a CUDA graph, see `zoo.bench.cuda_graph`.
        deterministic: Use CUDA kernels that repeat to the last bit, where they exist; slower.
    """

    device: str = "cpu"
    channels_last: bool = True
    compiled: bool = False
    location: DataLocation = BUILT_IN
    saved: Path | None = None
    weights: Path | None = None
    recorded: bool = False
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, with facts about its net.

    Attributes:
        run: The request.
        facts: Family, specification, counts, stages and taps, as they are stored.
        placement: Device, memory format and folders.
    """

    run: Run
    facts: Mapping[str, Any] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)

    @property
    def saved(self) -> Saved | None:
        """Checkpoint of this run on disk."""
        return Saved(self.placement.saved / f"{self.run.key}.pt") if self.placement.saved else None


def build(run: Run, dataset: ImageSet) -> nn.Module:
    """Build the net of a run for the classes of its dataset, with the additions of its task."""
    return task_row(run.task).build(run, dataset)


def attempt(
    job: Job, team: Team | None = None, on_trained: Callable[[nn.Module, ImageSet], None] | None = None
) -> Iterator[EpochMetrics | Progress | Line]:
    """Train a job: yield the metrics of each epoch and last the line, with an ``error`` if the run failed.

    If one of several processes that train together fails alone, it raises, because the others wait for it.

    Args:
        job: The job.
        team: Processes that train together. Default: this process, on the job's device.
        on_trained: Called with the final model in evaluation mode, and its images.
    """
    run, placement = job.run, job.placement
    team = team or Team(placement.device)
    if placement.deterministic:
        make_deterministic()

    def trained_to_the_end(model: nn.Module) -> None:
        if placement.weights is not None:
            keep_weights(model, placement.weights / f"{run.key}.safetensors")
        if on_trained is not None:
            on_trained(model, dataset)

    try:
        dataset = load(run.task, run.dataset, placement.location)
        if run.fingerprint not in ("", dataset.fingerprint):
            raise ValueError(f"the images of {run.dataset} have changed since this run was planned: start again")
        trained = yield from training(
            lambda: build(run, dataset),
            dataset,
            run.recipe,
            task=task_row(run.task),
            seed=run.seed,
            team=team,
            channels_last=placement.channels_last,
            compiled=placement.compiled,
            saved=job.saved,
            label=run.display,
            on_trained=trained_to_the_end,
            recorded=placement.recorded,
        )
        line = make_record(job, trained, dataset, team)
    except Exception as error:
        if team.size > 1 and not isinstance(error, DivergedError | ValueError):
            raise
        trace = "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]
        line = failure(job, f"{type(error).__name__}: {error}", "\n".join(trace))
    yield line


def make_deterministic() -> None:
    """Let this process use CUDA kernels that repeat to the last bit; torch warns of operators without such kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


def keep_weights(model: nn.Module, path: Path) -> None:
    """Write a net's state dict as safetensors, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors))


def make_record(job: Job, trained: Trained, dataset: ImageSet, team: Team) -> Line:
    """Return the stored line of a finished run, with its fields in reading order."""
    run, task = job.run, task_row(job.run.task)
    metrics = trained.to_dict(task.metric)
    score = f"test_{task.metric}"
    return {
        **asked(run),
        **job.facts,
        "dataset": dataset.for_recipe(run.recipe).describe(),
        "recipe": run.recipe.to_dict(),
        "recipe_name": recipe_name(run.recipe),
        "seed": run.seed,
        score: metrics.pop(score),
        "standard_error": metrics.pop("standard_error"),
        f"trivial_{task.metric}": trivial_score(run.task, run.dataset),
        **metrics,
        "versions": versions(*task.modules),
        "device": describe_device(team.device),
        "computed": {
            "processes": team.size,
            "layout": "channels_last" if trained.channels_last else "contiguous",
            "compile": job.placement.compiled,
            **{name: True for name in ("recorded", "deterministic") if getattr(job.placement, name)},
        },
        **_when(),
    }


def failure(job: Job, error: str, trace: str = "") -> Line:
    """Return the stored line of a failed run."""
    return {
        **asked(job.run),
        "dataset": {"name": job.run.dataset},
        "recipe": job.run.recipe.to_dict(),
        "seed": job.run.seed,
        "error": error[:LONGEST_ERROR],
        "traceback": trace[-LONGEST_ERROR:],
        "versions": versions(),
        "device": describe_device(torch.device(job.placement.device)),
        **_when(),
    }


def asked(run: Run) -> dict[str, Any]:
    """Return the first fields of every line."""
    return {
        "key": run.key,
        "name": run.name,
        "overrides": dict(run.overrides),
        "display": run.display,
        "task": run.task,
        "head": run.head,
        "frozen": run.frozen,
    }


def _when() -> dict[str, Any]:
    return {"git_revision": git_revision(), "finished_at": datetime.now(UTC).isoformat(timespec="seconds")}
