"""One run, from the request to the stored line, in this process, another one, or on another machine."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from zoo import registry
from zoo.bench.distributed import Team
from zoo.bench.resume import Saved
from zoo.bench.tasks import forget, load, task_row, trivial_score
from zoo.bench.train import DivergedError, EpochMetrics, Progress, Trained, predictions, training
from zoo.datasets.external import BUILT_IN, DataLocation
from zoo.datasets.image_set import ImageSet
from zoo.environment import describe_device, git_revision, versions
from zoo.escape import for_terminal
from zoo.freezing import freeze_parts
from zoo.keeping import LINE, TENSORS, folder_name, keep, kept_line
from zoo.recipes import recipe_name
from zoo.results.line import score_key, task_of
from zoo.results.recipe import Recipe
from zoo.results.run import CLASSIFY, Run

Line = dict[str, Any]
"""Stored line of a run that has ended."""
LONGEST_ERROR = 10_000
"""Largest number of characters of an error, and of its traceback, in a line."""
REBUILT = (
    *("dataset.num_classes", "dataset.input_size", "dataset.fingerprint", "dataset.mean", "dataset.std"),
    "computed.layout",
)
"""Fields of a line that opening a kept model needs, besides those of every line."""
MOST_CLASSES = 2**20
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
        weights: Folder for the trained nets, a folder for each finished run, see `zoo.keeping`. None keeps none.
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
    """Build the net of a run for the classes of its dataset, with the additions of its task, and frozen as it asks.

    Raises:
        ValueError: If the net has no such part, or its first weights do not fit.
    """
    model = task_row(run.task).build(run, dataset)
    if run.freeze:
        freeze_parts(model, run.freeze)
    return model


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

    final: list[nn.Module] = []  # of the process that writes
    try:
        dataset = load(run.task, run.dataset, placement.location).for_recipe(run.recipe)
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
            on_trained=final.append,
            recorded=placement.recorded,
            validation=run.validation,
            freeze=run.freeze,
        )
        line = make_record(job, trained, dataset, team)
        for model in final:
            if placement.weights is not None:
                keep(model, line, placement.weights)
            if on_trained is not None:
                on_trained(model, dataset)
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


def make_record(job: Job, trained: Trained, dataset: ImageSet, team: Team) -> Line:
    """Return the stored line of a finished run, with its fields in reading order."""
    run, task = job.run, task_row(job.run.task)
    metrics = trained.to_dict(task.metric)
    score = f"test_{task.metric}"
    line = {
        **asked(run),
        **job.facts,
        "dataset": _images(run, dataset),
        "recipe": run.recipe.to_dict(),
        "recipe_name": recipe_name(run.recipe),
        "seed": run.seed,
        score: metrics.pop(score),
        "standard_error": metrics.pop("standard_error"),
        f"trivial_{task.metric}": trivial_score(run.task, run.dataset, job.placement.location, run.recipe),
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
    if job.placement.weights is not None:
        line["weights"] = f"{job.placement.weights.name}/{folder_name(line)}"
    return line


def _images(run: Run, dataset: ImageSet) -> dict[str, Any]:
    """Return the facts about the images of a run."""
    facts = dataset.for_recipe(run.recipe).describe()
    if not run.validation:
        return facts
    searching = dataset.for_recipe(run.recipe).searching(run.validation, run.seed)
    return facts | {"train": searching.train_size, "validation": searching.test_size}


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


def open_model(folder: str | Path) -> nn.Module:
    """Return the trained model of a folder that a run has kept, in evaluation mode.

    For classification it is the net, as ``create_model("local-dir:FOLDER", pretrained=True)`` gives it. For other tasks
    it is the net with its decoder or detector, built again from the line and filled with the tensors.

    Raises:
        ValueError: If it is no such folder, or its tensors do not fit.
    """
    line = kept(folder)
    run = run_of(line)
    if run.task == CLASSIFY:
        return registry.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = SimpleNamespace(num_classes=line["dataset"]["num_classes"], input_size=line["dataset"]["input_size"])
    model = task_row(run.task).build(run, images)  # ty: ignore[invalid-argument-type]
    try:
        model.load_state_dict(load_file(Path(folder) / TENSORS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{for_terminal(Path(folder) / TENSORS)} does not fit {run.display}: {error}") from error
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Retest:
    """Outcome of a second test of a trained model on the test images of its run.

    Attributes:
        line: The result line of the run.
        score: The score now.
        standard_error: Standard error of the score.
        right: For each test image, True if the answer is right, as `zoo.results.chance.mcnemar` takes it; None for
            tasks other than classification.
    """

    line: Line
    score: float
    standard_error: float
    right: tuple[bool, ...] | None = field(default=None, repr=False)

    @property
    def stored(self) -> float:
        """Score in the line."""
        return self.line[score_key(self.line)]


def retest(folder: str | Path, location: DataLocation = BUILT_IN, device: str = "cpu") -> Retest:
    """Test a kept model as its run did: the same images, batches, memory format and type of numbers.

    On the device of the run the score equals that of the line.

    Args:
        folder: The folder that the run has kept.
        location: Location of the image set; not needed for a built-in one.
        device: Device of the test.

    Raises:
        ValueError: If it is no such folder, or the images are not those of the run.
    """
    line = kept(folder)
    run, task, team = run_of(line), task_row(task_of(line)), Team(device)
    forget()
    images = load(run.task, run.dataset, location).for_recipe(run.recipe)
    if images.fingerprint != line["dataset"]["fingerprint"]:
        raise ValueError(
            f"the images of {run.dataset} are not those that the net was tested on: fingerprint {images.fingerprint} "
            f"instead of {line['dataset']['fingerprint']}; name a data set by --dataset to measure on others"
        )
    last = line["computed"]["layout"] == "channels_last"
    layout = torch.channels_last if last else torch.contiguous_format
    model = open_model(folder).to(team.device).to(memory_format=layout)
    found = predictions(model, task, images.on(team.device), run.recipe, team, layout)
    score = task.score(found, images.test_labels)
    right = tuple((found == images.test_labels).tolist()) if task.name == CLASSIFY else None
    return Retest(line=line, score=score, standard_error=task.error(score, found, images.test_labels), right=right)


def kept(folder: str | Path) -> Line:
    """Return the result line in the folder of a kept model.

    Raises:
        ValueError: If the path is no such folder.
    """
    line = kept_line(folder)
    if line is None:
        raise ValueError(f"{for_terminal(folder)} is no folder of a trained net: zoo bench writes them to OUT/weights")
    for name in REBUILT:
        group, _, part = name.partition(".")
        if not isinstance(line.get(group), dict) or line[group].get(part) is None:
            raise ValueError(f"{for_terminal(Path(folder) / LINE)} lacks {name}, without which no net is opened again")
    if line["dataset"]["num_classes"] > MOST_CLASSES:
        raise ValueError(f"{for_terminal(Path(folder) / LINE)}: dataset.num_classes must be at most {MOST_CLASSES:,}")
    return line


def run_of(line: Line) -> Run:
    """Return the request behind a line."""
    return Run(
        name=line["name"],
        overrides=line.get("overrides") or {},
        dataset=line["dataset"]["name"],
        recipe=Recipe.of_line(line["recipe"]),
        seed=line["seed"],
        task=task_of(line),
        head=line.get("head") or "",
        frozen=bool(line.get("frozen")),
        freeze=line.get("freeze") or "",
        validation=line.get("validation") or 0.0,
    )


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
        **run.start,
    }


def _when() -> dict[str, Any]:
    return {"git_revision": git_revision(), "finished_at": datetime.now(UTC).isoformat(timespec="seconds")}
