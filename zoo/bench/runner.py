"""A sweep: every net of a list with every seed, skipping what a results file already has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import registry
from zoo.bench.data import Dataset
from zoo.bench.machine import describe_device, git_revision, versions
from zoo.bench.recipe import Recipe
from zoo.bench.results import CLASSIFY, Run, append_result, finished_keys
from zoo.bench.tasks import load, task_row, trivial_score
from zoo.bench.train import EpochMetrics, Trained, train
from zoo.complexity import count

LINEUPS = ("default", "all")
GIVEN = ("num_classes", "in_chans", "device", "dtype", "pretrained")


class Listener:
    """Receives what happens in a sweep; the base class keeps silent."""

    def on_count(self, display: str, done: int, total: int) -> None:
        """A net is about to be counted."""

    def on_start(self, runs: int, skipped: int, epochs: int) -> None:
        """Training begins: runs and epochs ahead, runs that are already in the file."""

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """An epoch has ended."""

    def on_trained(self, run: Run, model: nn.Module, dataset: Dataset) -> None:
        """The model of a run has its final weights; it is in evaluation mode and gone after this."""

    def on_finish(self, run: Run, record: Mapping[str, Any]) -> None:
        """A run is on disk."""

    def on_failure(self, run: Run, message: str) -> None:
        """A run has failed; nothing was written for it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        finished: Runs that were trained and stored.
        skipped: Runs that the file had already.
        failures: One message a failed run.
    """

    finished: int
    skipped: int
    failures: tuple[str, ...]


def lineup(name: str) -> list[str]:
    """Return the models of a line-up in the order of the registry; `all` contains `default`.

    Raises:
        ValueError: If there is no such line-up.
    """
    if name not in LINEUPS:
        raise ValueError(f"unknown lineup {name!r}: choose from {', '.join(LINEUPS)}")
    wanted = set(LINEUPS[: LINEUPS.index(name) + 1])
    return [model for model in registry.list_models() if wanted & set(registry.model_entry(model).lineups)]


def expand_names(names: Iterable[str]) -> list[str]:
    """Replace patterns such as `resnet*_cifar` by the models of the zoo that match; other names pass.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    found: list[str] = []
    for name in names:
        matches = registry.list_models(name) if any(c in name for c in "*?[") else [name]
        if not matches:
            raise ValueError(f"pattern {name!r} matches no model: zoo list shows all")
        found += matches
    return list(dict.fromkeys(found))


def plan(
    names: Iterable[str],
    dataset: str,
    recipe: Recipe,
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
    *,
    task: str = CLASSIFY,
    head: str = "",
    frozen: bool = False,
    fixed: Collection[str] = (),
) -> list[Run]:
    """Return the runs of a sweep: all nets with the first seed, then all with the second, and so on.

    In this order a sweep that is stopped early has compared all nets once. A name or seed given twice counts once.
    A net whose row says that it needs another learning rate or more epochs gets them, except for fields of the recipe
    that are ``fixed``.

    Raises:
        ValueError: If an override is one that the benchmark sets itself, or the task has no such head.
    """
    overrides = dict(overrides or {})
    head = task_row(task).head(head)
    for key in GIVEN:
        if key in overrides:
            raise ValueError(f"override {key!r} is set by the benchmark: leave it out")
    return [
        Run(
            name=name,
            overrides=overrides,
            dataset=dataset,
            recipe=_own_recipe(name, recipe, fixed),
            seed=seed,
            task=task,
            head=head,
            frozen=frozen,
        )
        for seed in dict.fromkeys(seeds)
        for name in dict.fromkeys(map(_own_name, names))
    ]


def sweep(
    runs: Sequence[Run],
    path: Path,
    *,
    device: str | torch.device = "cpu",
    force: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Train what is missing and append each finished run to the results file.

    All nets are built and counted before the first is trained, so that a wrong name or override stops the sweep at
    once. A run that fails later (a loss that is not finite, not enough memory) does not stop the others.

    Args:
        runs: What is asked, see `plan`.
        path: The results file; runs whose key it has are skipped.
        device: Where to train.
        force: Train also what the file has; the newest line of a key is the one that reports show.
        listener: Told about progress.

    Raises:
        ValueError: If a net cannot be built or does not take the images.
    """
    listener = listener or Listener()
    device = torch.device(device)
    done = set() if force else finished_keys(path)
    missing = [run for run in runs if run.key not in done]
    facts = _facts(missing, listener)
    listener.on_start(len(missing), len(runs) - len(missing), sum(run.recipe.epochs for run in missing))
    finished, failures = 0, []
    for run in missing:
        if not force and run.key in finished_keys(path):  # another bench on the same file was quicker
            continue
        try:
            trained = _train(run, device, listener)
        except (RuntimeError, ValueError) as error:
            failures.append(f"{run.display}, seed {run.seed}: {error}")
            listener.on_failure(run, failures[-1])
            continue
        record = make_record(run, facts[run.display, run.dataset], trained, device)
        append_result(path, record)
        finished += 1
        listener.on_finish(run, record)
    return Outcome(finished=finished, skipped=len(runs) - finished - len(failures), failures=tuple(failures))


def build(run: Run, dataset: Dataset) -> nn.Module:
    """Build the net of a run for the classes of its dataset, with what its task puts around it."""
    return task_row(run.task).build(run, dataset)


def make_record(run: Run, facts: Mapping[str, Any], trained: Trained, device: torch.device) -> dict[str, Any]:
    """Return all that is stored of a finished run, in the order in which a reader wants it."""
    task, dataset = task_row(run.task), load(run.task, run.dataset)
    metrics = trained.to_dict(task.metric)
    score = f"test_{task.metric}"
    return {
        "key": run.key,
        "name": run.name,
        "overrides": dict(run.overrides),
        "display": run.display,
        "task": run.task,
        "head": run.head,
        "frozen": run.frozen,
        **facts,
        "dataset": dataset.describe(),
        "recipe": run.recipe.to_dict(),
        "seed": run.seed,
        score: metrics.pop(score),
        "standard_error": metrics.pop("standard_error"),
        f"trivial_{task.metric}": trivial_score(run.task, run.dataset),
        **metrics,
        "versions": versions(*task.modules),
        "device": describe_device(device),
        "git_revision": git_revision(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _own_name(name: str) -> str:
    """The registry's name for a model of ours (`zoo_vgg16` is `vgg16`), the given name for any other."""
    try:
        return registry.model_entry(name).name
    except ValueError:  # one of timm's, or none at all: building it tells
        return name


def _own_recipe(name: str, recipe: Recipe, fixed: Collection[str]) -> Recipe:
    try:
        entry = registry.model_entry(name)
    except ValueError:
        return recipe
    changes = {"lr": recipe.lr * entry.lr_factor, "epochs": round(recipe.epochs * entry.epochs_factor)}
    return recipe.changed(**{key: value for key, value in changes.items() if key not in fixed})


def _train(run: Run, device: torch.device, listener: Listener) -> Trained:
    dataset = load(run.task, run.dataset)
    return train(
        lambda: build(run, dataset),
        dataset,
        run.recipe,
        task=task_row(run.task),
        seed=run.seed,
        device=device,
        label=run.display,
        on_epoch=lambda metrics: listener.on_epoch(run, metrics),
        on_trained=lambda model: listener.on_trained(run, model, dataset),
    )


def _facts(runs: Sequence[Run], listener: Listener) -> dict[tuple[str, str], dict[str, Any]]:
    """Family, specification and counts of each net on each dataset."""
    nets = {(run.display, run.dataset): run for run in runs}
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for number, (net, run) in enumerate(nets.items()):
        listener.on_count(run.display, number, len(nets))
        dataset = load(run.task, run.dataset)
        try:
            spec = _spec(run)
            model = build(run, dataset)
        except (TypeError, AssertionError) as error:  # an override or a stride that the net does not know
            raise ValueError(f"{run.display}: {error}") from error
        counts = count(task_row(run.task).countable(model), dataset.input_size).to_dict()
        facts[net] = {
            "family": registry.model_entry(run.name).family if spec else "timm",
            "spec": spec,
            "counts": {key: counts[key] for key in ("params", "macs", "fvcore_flops", "activations", "uncounted")},
            "stages": counts["stages"],
            "taps": taps(model),
        }
    return facts


def taps(model: nn.Module) -> list[dict[str, Any]]:
    """Module, channels and stride of each feature tap; none for a model that states none."""
    info: Any = getattr(model, "feature_info", ())
    return [{"module": t["module"], "channels": t["num_chs"], "stride": t["reduction"]} for t in info]


def _spec(run: Run) -> dict[str, Any] | None:
    """The specification of the net alone; timm's own nets have none."""
    with torch.device("meta"):
        spec = getattr(registry.create_model(run.name, **run.overrides), "spec", None)
    return spec.to_dict() if spec else None
