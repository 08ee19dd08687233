"""A sweep: every net of a list with every seed, except runs that the results file already has."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from zoo import registry
from zoo.analysis.active import ActiveUnits
from zoo.bench.distributed import Team
from zoo.bench.engines import Engine, Event, InProcess
from zoo.bench.one_run import Job, Line, Placement, build
from zoo.bench.resume import Claim, States
from zoo.bench.tasks import key_fingerprint, load, task_row
from zoo.bench.train import EpochMetrics, Progress
from zoo.complexity import count, taps
from zoo.datasets.external import BUILT_IN, DataLocation
from zoo.datasets.image_set import ImageSet
from zoo.files import check_writable
from zoo.results.recipe import Recipe
from zoo.results.run import CLASSIFY, Run
from zoo.results.store import append, finished_keys, read_if_there

LINEUPS = ("default", "all")
SAVED = "running"
"""Folder beside the results with the checkpoints of runs in progress."""
GIVEN = ("num_classes", "in_chans", "device", "dtype", "pretrained")


class Listener:
    """Receives the events of a sweep. The base class ignores them, except warnings."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Handle the end of the sweep."""

    def on_warning(self, text: str) -> None:
        """Handle a warning, which does not stop the sweep. The base class gives it as a Python warning."""
        warnings.warn(text, stacklevel=3)

    def on_count(self, display: str, done: int, total: int) -> None:
        """Handle the start of counting a net."""

    def on_start(self, runs: int, skipped: int, epochs: int) -> None:
        """Handle the start of training, with the numbers of runs and epochs ahead, and of runs already in the file."""

    def on_progress(self, run: Run, progress: Progress) -> None:
        """Handle a moment within an epoch of a run."""

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Handle the end of an epoch."""

    def on_skip(self, run: Run) -> None:
        """Handle a planned run that another bench has finished."""

    def on_finish(self, run: Run, record: Mapping[str, Any]) -> None:
        """Handle a run that is on disk."""

    def on_picture(self, run: Run, path: Path) -> None:
        """Handle a written picture of a run's predictions."""

    def on_failure(self, run: Run, message: str) -> None:
        """Handle a failed run; its line holds the failure as well."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a sweep.

    Attributes:
        finished: Number of runs that were trained and stored.
        skipped: Number of runs that were finished already.
        failures: One message per failed run.
        elsewhere: Runs that another bench on the same results was still training at the end.
        path: The results file.
    """

    finished: int
    skipped: int
    failures: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)


def lineup(name: str) -> list[str]:
    """Return the models of a line-up in the order of the registry; `all` contains `default`.

    Raises:
        ValueError: If the line-up does not exist.
    """
    if name not in LINEUPS:
        raise ValueError(f"unknown lineup {name!r}: choose from {', '.join(LINEUPS)}")
    wanted = set(LINEUPS[: LINEUPS.index(name) + 1])
    return [model for model in registry.list_models() if wanted & set(registry.model_entry(model).lineups)]


def plan(
    names: Iterable[str],
    dataset: str,
    recipe: Recipe,
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    task: str = CLASSIFY,
    head: str = "",
    frozen: bool = False,
    fixed: Collection[str] = (),
    location: DataLocation = BUILT_IN,
    **start: Any,
) -> list[Run]:
    """Return the runs of a sweep: all nets with the first seed, then all with the second, and so on.

    In this order a sweep that is stopped early has compared all nets once. A name or seed given twice counts once.
    A net whose row says that it needs another learning rate, more epochs or precise norms gets them, except for fields
    of the recipe that are ``fixed``.

    Args:
        names: Names of models.
        dataset: Name of the image set.
        recipe: Recipe of the training.
        seeds: Seeds, one run each.
        overrides: Changed fields of the specifications, the same for all nets.
        vary: Fields with several values each; every combination is a net.
        task: Name of the task.
        head: Decoder or detector of the task.
        frozen: Keep the first weights of the nets.
        fixed: Fields of the recipe that no row changes.
        location: Location of the image set.
        **start: Further fields of each run: first weights with their digest, frozen part, share of validation images.

    Raises:
        ValueError: If the benchmark itself sets an override, or the task has no such head or set.
    """
    overrides, vary = dict(overrides or {}), dict(vary or {})
    head = task_row(task).head(head)
    for key in GIVEN:
        if key in overrides or key in vary:
            raise ValueError(f"override {key!r} is set by the benchmark: leave it out")
    fingerprint = key_fingerprint(task, dataset, location)
    variants = [overrides | dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    return [
        Run(
            name=name,
            overrides=variant,
            dataset=dataset,
            fingerprint=fingerprint,
            recipe=_own_recipe(name, recipe, fixed),
            seed=seed,
            task=task,
            head=head,
            frozen=frozen,
            **start,
        )
        for seed in dict.fromkeys(seeds)
        for name in dict.fromkeys(map(_own_name, names))
        for variant in variants
    ]


def sweep(
    runs: Sequence[Run],
    path: Path,
    *,
    placement: Placement | None = None,
    engine: Engine | None = None,
    team: Team | None = None,
    force: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Train missing runs and append the line of each run that ends to the results file.

    All nets are built and counted before the first is trained, so that a wrong name or override stops the sweep at
    once. A run that fails later (a loss that is not finite, not enough memory) has a line with its error and does not
    stop the others; the next sweep tries it again. A line that cannot be written is tried again after each further run
    and at the end. If that fails as well, the checkpoint of its run stays on disk, and the next sweep makes the line
    from it. Several sweeps may share a file: a run that another one trains is left to it. Remains of killed processes
    are removed first.

    Args:
        runs: Runs from `plan`.
        path: The results file. Runs that it has finished are skipped.
        placement: Device, memory format and folders. Default: CPU, checkpoints next to the results file.
        engine: Computes the runs. Default: one after the other in this process.
        team: Processes that run this sweep together; one of them writes. Default: this process.
        force: Train runs again that the file has finished. Reports show the newest line of a key.
        listener: Receives events.

    Raises:
        ValueError: If a net cannot be built or does not take the images, or the file holds anything but results or
            cannot be written.
    """
    check_writable("path", path)
    listener, team = listener or Listener(), team or Team()
    placement = placement or Placement(saved=path.parent.absolute() / SAVED)
    engine = engine or InProcess(team if team.size > 1 else None)
    stored = read_if_there(path)  # a file that cannot be read is an error now, not when the training is over
    states = States(placement.saved)
    if team.leads:
        states.clean(stored.finished)
        for text in stored.warnings:
            listener.on_warning(text)
    done = team.agree(set() if force else stored.finished)
    missing = [run for run in runs if run.key not in done]
    facts = facts_of(missing, placement, listener)
    listener.on_start(len(missing), len(runs) - len(missing), sum(run.recipe.epochs for run in missing))

    claims: dict[str, Claim] = {}
    elsewhere: list[Run] = []

    def begin(run: Run) -> str:
        claim = states.claim(run.key)
        if claim is None:
            return "elsewhere"
        if not force and run.key in finished_keys(path):
            claim.release()
            return "finished"
        claims[run.key] = claim
        return "ours"

    def jobs(runs: Sequence[Run]) -> Iterator[Job]:
        for run in runs:
            now = team.agree(begin(run) if team.leads else None)
            if now == "ours":
                yield Job(run=run, facts=facts[run.display, run.dataset], placement=placement)
            elif now == "finished":
                listener.on_skip(run)
            else:
                elsewhere.append(run)

    def lines() -> Iterator[tuple[Job, Line]]:
        before, waiting = None, missing
        while waiting and len(waiting) != before:  # a run of another bench that has ended may be finished, or not
            before = len(waiting)
            elsewhere.clear()
            yield from engine(jobs(waiting), tell)
            waiting = list(elsewhere)

    ended, failures = 0, []
    unwritten: list[tuple[Job, Line]] = []

    def tell(job: Job, event: Event) -> None:
        if isinstance(event, Progress):
            listener.on_progress(job.run, event)
        else:
            listener.on_epoch(job.run, event)

    try:
        for job, line in lines():
            ended += 1
            if team.leads:
                unwritten = _write([*unwritten, (job, line)], path)
                claims.pop(job.run.key).release()
            if "error" in line:
                failures.append(f"{_title(job.run)}: {line['error']}")
                listener.on_failure(job.run, failures[-1])
            else:
                listener.on_finish(job.run, line)
    finally:
        for claim in claims.values():
            claim.release()
    for job, line in _write(unwritten, path):
        if "error" not in line:
            kept = job.saved is not None and job.saved.path.is_file()
            state = f": its state is in {job.placement.saved}, from which the same command makes it" * kept
            failures.append(f"{_title(job.run)}: the line could not be written to {path}{state}")
    return Outcome(
        finished=ended - len(failures),
        skipped=len(runs) - ended - len(elsewhere),
        failures=tuple(failures),
        elsewhere=tuple(map(_title, elsewhere)),
        path=path,
    )


def _title(run: Run) -> str:
    return f"{run.display}, seed {run.seed}"


def _write(lines: Sequence[tuple[Job, Line]], path: Path) -> list[tuple[Job, Line]]:
    """Append lines and remove the checkpoints of their runs; return the lines for which there was no room."""
    left = []
    for job, line in lines:
        try:
            append(path, line)
        except OSError as error:
            warnings.warn(f"{error}; the line is kept and tried again", stacklevel=2)
            left.append((job, line))
        else:
            if job.saved is not None and "error" not in line:
                job.saved.remove()
    return left


def _own_name(name: str) -> str:
    """Return the registry's name for a model of the zoo (`zoo_vgg16` is `vgg16`); tags and other names stay."""
    base, dot, tag = name.partition(".")
    try:
        return registry.model_entry(base).name + dot + tag
    except ValueError:  # one of timm's, or none at all: building it tells
        return name


def _own_recipe(name: str, recipe: Recipe, fixed: Collection[str]) -> Recipe:
    try:
        entry = registry.model_entry(name.partition(".")[0])
    except ValueError:
        return recipe
    changes = {
        "lr": recipe.lr * entry.lr_factor,
        "epochs": round(recipe.epochs * entry.epochs_factor),
        "precise_norms": recipe.precise_norms or entry.precise_norms,
    }
    return recipe.changed(**{key: value for key, value in changes.items() if key not in fixed})


def facts_of(runs: Sequence[Run], placement: Placement, listener: Listener) -> dict[tuple[str, str], dict[str, Any]]:
    """Return family, specification and counts of each net on each dataset.

    Raises:
        ValueError: If a net cannot be built, or does not take the images.
    """
    nets = {(run.display, run.dataset): run for run in runs}
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for number, (net, run) in enumerate(nets.items()):
        listener.on_count(run.display, number, len(nets))
        dataset: ImageSet = load(run.task, run.dataset, placement.location).for_recipe(run.recipe)
        try:
            spec = _spec(run)
            model = build(run, dataset)
        except (TypeError, AssertionError) as error:  # an override or a stride that the net does not know
            raise ValueError(f"{run.display}: {error}") from error
        if run.recipe.paths:
            try:
                ActiveUnits(model, dataset.input_size, run.recipe.paths)
            except ValueError as error:
                raise ValueError(f"{run.display}: {error}") from error
        counts = count(task_row(run.task).countable(model), dataset.input_size).to_dict()
        facts[net] = {
            "family": registry.model_entry(run.name.partition(".")[0]).family if spec else "timm",
            "spec": spec,
            "counts": {key: counts[key] for key in ("params", "macs", "fvcore_flops", "activations", "uncounted")},
            "stages": counts["stages"],
            "taps": taps(model),
        }
    return facts


def _spec(run: Run) -> dict[str, Any] | None:
    """Return the specification of the net alone; None for timm's own nets."""
    with torch.device("meta"):
        spec = getattr(registry.create_model(run.name, **run.overrides), "spec", None)
    return spec.to_dict() if spec else None
