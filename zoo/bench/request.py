"""A request to `zoo bench`, made and checked in one place, and the function that runs it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from zoo import arguments
from zoo.bench.distributed import Team, join
from zoo.bench.engines import Engine, InProcess, Processes, Ray
from zoo.bench.one_run import Placement
from zoo.bench.prediction_pictures import save_predictions
from zoo.bench.progress import ALONE, PACKAGES, Tracked, check_log
from zoo.bench.sweep import SAVED, Listener, Outcome, lineup, plan, sweep
from zoo.bench.tasks import Task, default_recipe, forget, load, task_row
from zoo.datasets.external import DataLocation, set_name
from zoo.datasets.image_set import ImageSet
from zoo.datasets.library import FOLDER
from zoo.environment import MOST_THREADS, check_between, choose_device, cores
from zoo.escape import for_terminal
from zoo.extras import require
from zoo.files import check_writable
from zoo.freezing import check_freeze
from zoo.keeping import KEEP, WEIGHTS, digest_of, kept_line
from zoo.recipes import RECIPES, recipe_name, recipe_row
from zoo.registry import expand_names, has_tag
from zoo.results.recipe import Recipe, words
from zoo.results.run import CLASSIFY, Run
from zoo.results.store import RESULTS

CHECKED = "pictures.json"
"""File beside the results that stores which pictures were found to be readable."""
LOG = "log"
"""Folder beside the results for the files of TensorBoard."""
LAYOUTS = ("channels_last", "contiguous")
ENGINES = ("local", "ray")
LARGEST_SEED = 2**63 - 1
FEWEST_STEPS = 200
"""Number of steps below which an average of the weights is not worth testing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sweep: nets, images and recipe, how it executes, and where its results go.

    Attributes:
        models: Names, or patterns such as ``resnet*_cifar``. None takes the line-up.
        lineup: ``default`` or ``all``, instead of models. Default: the task's own nets, or ``default``.
        task: ``classify``, ``segment`` or ``detect``.
        head: Decoder or detector of the task. Default: its first.
        frozen: Keep the random weights of nets, and train only the layers on top of them.
        weights: File or folder of the nets' first weights; a classifier of other classes stays new. A folder that a
            bench has kept also names the net, if no model is named. None takes those of a tag in a name, or random
            ones.
        freeze: Part of the nets that keeps its first weights and statistics: ``body`` for all but the classifier,
            ``until=STAGE`` for all up to the end of a stage, ``none``.
        validation: Share of the training images that is held out and tested after each epoch; the test images are then
            seen once, at the end. 0 tests on them after each epoch.
        overrides: Changed fields of the specifications, the same for all nets.
        vary: Fields with several values each; every combination is a net.
        seeds: Seeds, one run each.
        dataset: Name of the image set. Default: the first of the task.
        data_dir: Folder of a set that is not built in.
        download: Download a missing set of torchvision or Hugging Face.
        skip_broken: Leave out unreadable pictures, and count them.
        workers: Number of processes that read images.
        recipe: Name of a recipe. Default: that of the image set.
        changes: Changed fields of the recipe.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for the GPU if there is one.
        threads: CPU threads of a run. Default: all cores, shared by `jobs`.
        layout: ``channels_last`` or ``contiguous``, the memory format of weights and images.
        compile: Train nets compiled by `torch.compile`.
        jobs: Runs at a time on this machine, each in a process of its own. None is one run, in this process.
        engine: ``local``, or ``ray`` for a cluster.
        ray_address: Address of the cluster; ``auto`` for the one of this machine. None starts one.
        gpus_per_run: GPUs of a run with engine ``ray``; with a fraction, runs share one.
        retries: How many times a run is tried again if its process dies.
        out: Folder of the results. Default: ``results/DATASET``, or ``results/TASK``.
        force: Train runs again that are in the results.
        keep: ``last`` keeps the weights of each finished run in a folder of ``OUT/weights``, ``none`` keeps none.
        pictures: Draw predictions of each trained model into ``OUT/pictures``; not for ``classify``.
        log: Program to watch the runs in: ``tensorboard`` (files in ``OUT/log``), ``wandb`` or ``mlflow``. Each is
            installed by itself. Default: none.

    Raises:
        ValueError: If a value is wrong, or two contradict each other; the message begins with the attribute.
    """

    models: Sequence[str] = ()
    lineup: str = ""
    task: str = CLASSIFY
    head: str = ""
    frozen: bool = False
    weights: Path | None = None
    freeze: str = "none"
    validation: float = 0.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    dataset: str = ""
    data_dir: Path | None = None
    download: bool = False
    skip_broken: bool = False
    workers: int = 2
    recipe: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    threads: int | None = None
    layout: str = "channels_last"
    compile: bool = False
    jobs: int | None = None
    engine: str = "local"
    ray_address: str | None = None
    gpus_per_run: float = 0.0
    retries: int = 1
    out: Path | None = None
    force: bool = False
    keep: str = "last"
    pictures: bool = False
    log: str = ""

    def __post_init__(self) -> None:
        arguments.check_types(self)
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Sequence):
            raise ValueError(f"seeds must be a list, got {self.seeds!r}")
        for name in ("data_dir", "out", "weights"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        task = task_row(self.task)
        task.head(self.head)
        if self.models and self.lineup:
            raise ValueError(f"lineup {self.lineup!r} was given together with names: choose one of them")
        if not self.seeds:
            raise ValueError("seeds must have one number at least")
        for seed in self.seeds:
            check_between("seeds", seed, 0, LARGEST_SEED)
        for name, choices in (("layout", LAYOUTS), ("engine", ENGINES), ("keep", KEEP), ("log", ("", *PACKAGES))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} must be one of {', '.join(filter(None, choices))}")
        for name, least in (("threads", 1), ("jobs", 1), ("workers", 0), ("retries", 0)):
            if getattr(self, name) is not None:
                check_between(name, getattr(self, name), least, MOST_THREADS)
        if not isinstance(self.gpus_per_run, int | float) or not 0 <= self.gpus_per_run <= MOST_THREADS:
            raise ValueError(f"gpus_per_run must be at least 0 and at most {MOST_THREADS}, got {self.gpus_per_run}")
        for name in ("ray_address", "gpus_per_run"):
            if getattr(self, name) and self.engine != "ray":
                raise ValueError(f"{name} {getattr(self, name)!r} belongs to --engine ray")
        self._check_start(task)
        if self.pictures and not task.heads:
            raise ValueError(
                f"pictures are for the tasks segment and detect, not for {task.name}: leave --pictures out"
            )
        if self.pictures and self.in_processes:
            raise ValueError("pictures are drawn in this process: leave out --jobs and --engine ray")
        if self.log in ALONE and self.in_processes:
            raise ValueError(f"log {self.log!r} takes one run at a time: leave out --jobs and --engine ray")
        self._check_place(task)

    @property
    def in_processes(self) -> bool:
        """True if runs are computed in other processes than this."""
        return self.engine == "ray" or (self.jobs or 1) > 1

    def _check_start(self, task: Task) -> None:
        """Raise ValueError if first weights, frozen part or validation half are wrong, or not for the task."""
        check_freeze(self.freeze)
        if not isinstance(self.validation, int | float) or not 0 <= self.validation < 1:
            raise ValueError(f"validation must be a share of the training images in [0, 1), got {self.validation!r}")
        given = {"weights": self.weights, "freeze": check_freeze(self.freeze), "validation": self.validation}
        for name, value in given.items():
            if value and task.heads:
                raise ValueError(f"{name} {str(value)!r} is for task {CLASSIFY}, not for {task.name}: leave it out")
        if self.frozen and check_freeze(self.freeze):
            raise ValueError(f"frozen keeps the whole net already: leave freeze {self.freeze!r} out")

    def _check_place(self, task: Task) -> None:
        """Raise ValueError if options for sets in a folder were given for a set that needs no folder."""
        if self.dataset.startswith(f"{FOLDER}/"):
            raise ValueError(f"dataset {for_terminal(self.dataset)!r} must be {FOLDER}: data-dir names the place")
        if self.dataset and task.opens(self.dataset):
            if self.download and self.dataset == FOLDER:
                raise ValueError("download is for sets of torchvision and Hugging Face, not for a folder: leave it out")
            return
        row = task.row(self.dataset) if self.dataset else None
        given = {
            f"data-dir {for_terminal(self.data_dir or '')!r}": self.data_dir is not None,
            "download": self.download,
            "skip-broken": self.skip_broken,
        }
        if row is not None and row.located:
            given = {"skip-broken": self.skip_broken}
        wrong = next((option for option, value in given.items() if value), None)
        if wrong is None:
            return
        if not self.dataset:
            raise ValueError(f"{wrong} was given without a data set: add --dataset folder, or the name of another")
        raise ValueError(f"{wrong} was given, but {self.dataset} is built in: leave it out, or add --dataset folder")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked request with opened images, recipe and runs.

    Attributes:
        request: The request.
        base: The recipe before the request's changes.
        recipe: The recipe. Nets whose rows say so have another one.
        runs: All runs, including finished ones.
        images: The image set.
        path: The results file.
        placement: Device, memory format and folders of the runs.
        team: Processes that compute each run together.
    """

    request: Request
    base: Recipe
    recipe: Recipe
    runs: Sequence[Run]
    images: ImageSet
    path: Path
    placement: Placement
    team: Team

    def describe(self) -> str:
        """Describe the work ahead: nets, images, recipe with its source and changes, machine, files."""
        images = self.images
        nets, seeds = len({run.display for run in self.runs}), len({run.seed for run in self.runs})
        name, changed = recipe_name(self.base), _differences(self.base, self.recipe)
        heading = f"recipe {name}" if name else "a recipe without a name"
        heading += f" with {changed}" * bool(changed) + (f" ({RECIPES[name].source})" if name else "")
        own = {run.display: run.recipe for run in self.runs if run.recipe != self.recipe}
        return "\n".join(
            [
                f"{nets} net{'s' * (nets > 1)}, {seeds} seed{'s' * (seeds > 1)} each, on {images.name}: "
                f"{images.train_size:,} training and {images.test_size:,} test images of "
                f"{'x'.join(map(str, images.input_size))}, {images.num_classes} classes{_left_out(images)}",
                *self._start(),
                f"{heading}:",
                *(f"  {sentence}" for sentence in self.recipe.describe()),
                *(f"  {net}, as its row says: {_differences(self.recipe, other)}" for net, other in own.items()),
                f"on {self._computed()}; results go to {self.path}",
            ]
        )

    def _start(self) -> list[str]:
        """Return lines on validation half, first weights and frozen part, where there are such."""
        request, part = self.request, check_freeze(self.request.freeze)
        share = f"{request.validation:g} of the training images, chosen by the seed, are tested after each epoch"
        return [
            *[f"{share}; the test images once, at the end"] * bool(request.validation),
            *[f"all nets start from {for_terminal(request.weights or '')}"] * bool(request.weights),
            *[f"frozen, with their norms: {part.replace('=', ' ')}"] * bool(part),
        ]

    def _computed(self) -> str:
        request = self.request
        parts = [self.placement.device, request.layout, *["compiled"] * request.compile]
        if self.team.size > 1:
            parts.append(f"{self.team.size} processes a run")
        if request.engine == "ray":
            parts.append(f"Ray{f' at {request.ray_address}' if request.ray_address else ''}")
        if request.jobs:
            parts.append(f"{request.jobs} runs at a time")
        return ", ".join(parts)


def prepare(request: Request, *, anew: bool = True) -> Prepared:
    """Check the needs of a request, open its images, and plan its runs. Nothing is trained or written.

    Args:
        request: The request.
        anew: Open sets in folders anew, because files may have changed since this process has opened them.

    Raises:
        ValueError: If a package, image set, recipe or line-up is missing or does not fit, or the results cannot be
            written.
    """
    require("bench", "sklearn", "matplotlib")  # now, not when the training is over
    check_log(request.log)
    task = task_row(request.task)
    task.require()
    if anew:
        forget()
    location = DataLocation(folder=request.data_dir, download=request.download, workers=request.workers)
    dataset = set_name(request.dataset or next(iter(task.datasets)), location)
    out = request.out or Path("results") / (task.name if task.heads else dataset.replace("/", "_"))
    check_writable("out", out, folder=True)
    for name, folder, used in (
        ("pictures", "pictures", request.pictures),
        ("keep", WEIGHTS, request.keep == "last"),
        ("log", LOG, request.log == "tensorboard"),
        ("out", SAVED, True),
    ):
        if used:
            check_writable(name, out / folder, folder=True)
    location = replace(location, check=True, skip_broken=request.skip_broken, memory=out.absolute() / CHECKED)
    changes = dict(request.changes)
    # What accelerate was configured with is the user's word, too.
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16":
        changes.setdefault("amp", "bfloat16")
    named = recipe_row(request.recipe).recipe if request.recipe else None
    base = named or default_recipe(task.name, dataset, location)
    recipe = base.changed(**changes)
    task.check_recipe(recipe)
    if recipe.paths and task.name != CLASSIFY:
        raise ValueError(f"recipe field paths must be 0 for task {task.name}, got {recipe.paths}: it is for bare nets")
    if recipe.paths and request.compile:
        raise ValueError(f"recipe field paths must be 0 with compile, which fixes the layers that run: {recipe.paths}")
    names, overrides = _nets(request, task)
    if tagged := [name for name in names if has_tag(name) and (task.heads or request.weights)]:
        reason = "weights were given as well" if request.weights else f"task {task.name} starts from random weights"
        raise ValueError(f"name {tagged[0]!r} asks for weights by its tag, but {reason}: leave the tag out")
    runs = plan(
        names,
        dataset,
        recipe,
        request.seeds,
        overrides,
        vary=request.vary,
        task=task.name,
        head=request.head,
        frozen=request.frozen,
        fixed=changes,
        location=location,
        weights=str(request.weights.absolute()) if request.weights else "",
        digest=digest_of(request.weights) if request.weights else "",
        freeze=check_freeze(request.freeze),
        validation=float(request.validation),
    )
    on_ray = request.engine == "ray"
    device = ("cuda" if request.gpus_per_run else "cpu") if on_ray else choose_device(request.device)
    team = join(device)
    if request.in_processes and team.size > 1:
        raise ValueError(f"jobs and engine belong to one process, and a launcher started {team.size}: leave them out")
    images = load(task.name, dataset, location).for_recipe(recipe)
    searching = images.searching(request.validation, 0) if request.validation else images
    if recipe.batch_size > searching.train_size:
        raise ValueError(
            f"batch_size {recipe.batch_size} exceeds the {searching.train_size:,} training images of {images.name}: "
            "take a smaller one, such as --recipe batch_size=32"
        )
    steps = recipe.epochs * (searching.train_size // recipe.batch_size)
    if recipe.ema and steps < FEWEST_STEPS:
        warnings.warn(
            f"recipe field ema={recipe.ema:g} averages the weights of {steps} steps, fewer than {FEWEST_STEPS}: the "
            "average holds much of the first weights; leave it out by --recipe ema=0, or train longer",
            stacklevel=2,
        )
    placement = Placement(
        device=device,
        channels_last=request.layout == "channels_last",
        compiled=request.compile,
        location=location,
        saved=out.absolute() / SAVED,
        weights=out.absolute() / WEIGHTS if request.keep == "last" else None,
    )
    return Prepared(
        request=request,
        base=base,
        recipe=recipe,
        runs=runs,
        images=images,
        path=out / RESULTS,
        placement=placement,
        team=team,
    )


def _nets(request: Request, task: Task) -> tuple[Sequence[str], Mapping[str, Any]]:
    """Return the names and the overrides of the requested nets."""
    if request.models:
        return expand_names(request.models), request.overrides
    line = kept_line(request.weights) if request.weights and not request.lineup else None
    if line is not None:
        return [line["name"].partition(".")[0]], {**(line.get("overrides") or {}), **request.overrides}
    names = task.nets if task.nets and not request.lineup else lineup(request.lineup or "default")
    return names, request.overrides


def run(request: Request | Prepared, listener: Listener | None = None) -> Outcome:
    """Train the requested runs that the results do not have yet.

    Args:
        request: The request.
        listener: Receives events; see `zoo.bench.progress.ProgressBar` for a terminal.

    Returns:
        Number of trained runs, failures, and the path of the results. `zoo.results.read` reads the results.

    Raises:
        ValueError: If the request is wrong, or a net cannot be built or does not take the images.
    """
    prepared = prepare(request) if isinstance(request, Request) else request
    listener, log = listener or Listener(), prepared.request.log
    watch = Tracked(listener, log, prepared.path.parent / LOG) if log and prepared.team.leads else listener
    try:
        return sweep(
            prepared.runs,
            prepared.path,
            placement=prepared.placement,
            engine=_engine(prepared, watch),
            team=prepared.team,
            force=prepared.request.force,
            listener=watch,
        )
    finally:
        if watch is not listener:
            watch.close()


def _engine(prepared: Prepared, listener: Listener) -> Engine | None:
    """Return the engine for the runs; None for this process."""
    request = prepared.request
    if request.engine == "ray":
        return Ray(
            address=request.ray_address,
            cpus=request.threads or 1,
            gpus=request.gpus_per_run,
            retries=request.retries,
            workers=request.jobs,
        )
    if request.in_processes:
        assert request.jobs is not None
        return Processes(request.jobs, request.threads or max(1, cores() // request.jobs), request.retries)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    if not request.pictures:
        return None
    folder = prepared.path.parent / "pictures"
    return InProcess(
        prepared.team,
        lambda job, model, images: listener.on_picture(job.run, save_predictions(folder, job.run, model, images)),
    )


def _left_out(images: ImageSet) -> str:
    train, test = images.left_out
    return f"; left out, because they cannot be read: {train} training and {test} test images" * bool(train or test)


def _differences(before: Recipe, after: Recipe) -> str:
    old = before.to_dict()
    return words({key: value for key, value in after.to_dict().items() if old.get(key) != value})
