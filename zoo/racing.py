"""A race: which of several nets learns a set of pictures best, found by successive halving on the sweep runner.

All nets train for a few epochs, the better third goes on to three times as many, and so on; the last one trains to the
end (Jamieson and Talwalkar 2015, arXiv:1502.07943; the factor 3 is that of Li et al. 2016, arXiv:1603.06560). Each
round trains anew under the whole schedule of its length, so the learning rate has fallen to zero whenever nets are
compared. Decisions read the validation half alone.

Every run is a run of `zoo bench`: what is in the results is not trained again, and a race that was killed goes on. Its
plan is in ``race.json``, because the time that nets take is measured once.
"""

from __future__ import annotations

import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from zoo import arguments, registry
from zoo.bench.one_run import build
from zoo.bench.request import Prepared, Request, prepare
from zoo.bench.request import run as run_bench
from zoo.bench.sweep import Listener, facts_of
from zoo.bench.tasks import task_row
from zoo.complexity import count
from zoo.environment import cores
from zoo.escape import for_picture
from zoo.files import write_in_folder
from zoo.results.line import Line
from zoo.results.plot import STYLE
from zoo.results.run import Run
from zoo.results.store import read_if_there
from zoo.results.topologies import TOPOLOGIES, topology_of
from zoo.speed.timing import stopwatch

KEPT = 3
"""One net in so many goes on to the next round, which has as many times the epochs."""
MARGIN = 0.8
"""Share of a budget that the estimate may fill."""
STEPS = 3
"""Number of steps that are timed, after one that is not."""
SMALL = 96
"""Largest side of images that nets for small images are made for."""
MOST_PARAMS = 1e6, 30e6
"""Default limits on parameters, for small images and for others."""
PASSES = 2, 9
"""Number of forward passes before a latency is measured, and of those whose median it is."""
PLAN = "race.json"


class AllFailedError(RuntimeError):
    """Error for a round in which no run ended well. The request may be right."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the nets of a race; None is no limit.

    Attributes:
        params: Largest number of parameters. None for `MOST_PARAMS` where the race chooses the nets itself.
        macs: Largest number of multiply-adds for one image.
        latency: Longest time for one image in milliseconds, on the device of the race.

    Raises:
        ValueError: If a limit is not positive.
    """

    params: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                arguments.positive(f"limit {name}", value)

    def exceeded(
        self, name: str, overrides: Mapping[str, Any], size: Sequence[int], latency: Callable[[str], float]
    ) -> str:
        """Return the figure of a net that is above its limit, in words; an empty text if it keeps all limits.

        Args:
            name: Name of the net.
            overrides: Changed fields of its specification.
            size: Channels, height and width of an image.
            latency: Measures the milliseconds of a net; called last, and only if there is such a limit.
        """
        net = registry.create_model(name, device="meta", **overrides)
        params = sum(parameter.numel() for parameter in net.parameters())
        if self.params is not None and params > self.params:
            return f"{params:,} parameters"
        macs = 0 if self.macs is None else count(net, (size[0], size[1], size[2])).macs
        if self.macs is not None and macs > self.macs:
            return f"{macs:,} multiply-adds"
        taken = 0.0 if self.latency is None else latency(name)
        return f"{taken:.3g} ms" if self.latency is not None and taken > self.latency else ""


FREE = Limits()


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round that is over.

    Attributes:
        epochs: Epochs of each run.
        scores: Score on the validation half by net, the best first; None for a net whose run failed.
        errors: Standard errors of the scores.
        kept: Nets that went on.
    """

    epochs: int
    scores: Mapping[str, float | None]
    errors: Mapping[str, float]
    kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A race that is over.

    Attributes:
        rounds: The rounds.
        winner: The net that went to the end.
        line: Result line of its last run, with its test accuracy and the folder of its weights.
        path: The results file.
        latencies: Milliseconds for one image by net, measured before the race; empty without a limit on them.
    """

    rounds: tuple[Round, ...]
    winner: str
    line: Line
    path: Path
    latencies: Mapping[str, float] = field(default_factory=dict)

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each net, the winner first: rounds, last score, and points behind the last that stayed."""
        rows = []
        for number, own in reversed(list(enumerate(self.rounds, 1))):
            last = [own.scores[name] for name in own.kept]
            for name, score in own.scores.items():
                if any(row["net"] == name for row in rows):
                    continue
                stays = name == self.winner
                behind = None if stays or score is None or last[-1] is None else 100 * (last[-1] - score)
                rows.append(
                    {
                        "net": name,
                        "dropped": "-" if stays else f"round {number} of {len(self.rounds)}",
                        "epochs": own.epochs,
                        "validation": None if score is None else 100 * score,
                        "behind": behind,
                        **({"latency": self.latencies[name]} if self.latencies else {}),
                    }
                )
        return rows

    def confidence(self) -> str:
        """Describe how sure the choice is: the lead over the next net where both were trained alike, and its error."""
        for own in reversed(self.rounds):
            others = [name for name, score in own.scores.items() if name != self.winner and score is not None]
            first = own.scores.get(self.winner)
            if others and first is not None:
                lead = 100 * (first - own.scores[others[0]])  # ty: ignore[unsupported-operator]
                error = 100 * math.hypot(own.errors[self.winner], own.errors[others[0]])
                sure = "more than two standard errors" if lead > 2 * error else "within two standard errors"
                more = "" if lead > 2 * error else ": other images could turn it round"
                ahead = f"{self.winner} leads {others[0]} by {lead:.2f} points after {_number(own.epochs, 'epoch')}"
                return f"{ahead}, {sure} of the difference ({error:.2f}){more}"
        return f"{self.winner} ran alone"


def candidates(size: Sequence[int], limits: Limits = FREE, latency: Callable[[str], float] | None = None) -> list[str]:
    """Return one net of each topology: the largest that keeps the limits and takes the images.

    Args:
        size: Channels, height and width of the images. Up to `SMALL` pixels nets for small images are taken.
        limits: Limits; without one on parameters it is a million, or 30 million for larger images.
        latency: Measures the milliseconds of a net for one image. Default: `measure_latency` on the CPU.

    Raises:
        ValueError: If no net fits.
    """
    latency = latency or (lambda name: measure_latency(name, {}, size, "cpu", cores()))
    small = max(size[1:]) <= SMALL
    most = limits.params or MOST_PARAMS[not small]
    entries = [registry.model_entry(name) for name in registry.list_models()]
    found: dict[str, str] = {}
    for entry in sorted(entries, key=lambda e: (-e.params, e.name)):
        topology = topology_of(entry.family, entry.spec.to_dict(), entry.name)
        if topology in found or (entry.input_size[-1] <= SMALL) is not small or entry.name.endswith("_test"):
            continue
        # The row's own figure first, for a net of a thousand layers takes a second to build.
        if entry.params > most or min(size[1:]) < entry.spec.smallest()[-1]:
            continue
        if not limits.exceeded(entry.name, {}, size, latency):
            found[topology] = entry.name
    if not found:
        raise ValueError(f"no net of the zoo has at most {most:,.0f} parameters and fits the other limits: name nets")
    return [found[topology] for topology in sorted(found, key=TOPOLOGIES.index)]


def measure_latency(name: str, overrides: Mapping[str, Any], size: Sequence[int], device: str, threads: int) -> float:
    """Return the median time of a net for one image, in milliseconds, in evaluation mode without fusing or compiling.

    Args:
        name: Name of the net.
        overrides: Changed fields of its specification.
        size: Channels, height and width of the image.
        device: Device of the measurement.
        threads: CPU threads.
    """
    place = torch.device(device)
    net = registry.create_model(name, **overrides).to(place).eval()
    image, watch, before = torch.zeros(1, *size, device=place), stopwatch(place), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(PASSES[0]):
                net(image)
            return 1000 * statistics.median(watch(lambda: net(image)) for _ in range(PASSES[1]))
    finally:
        torch.set_num_threads(before)


def rounds_of(nets: int, epochs: int) -> list[tuple[int, int]]:
    """Return the number of nets and of epochs of each round; the last one has one net and all epochs."""
    sizes = [nets]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // KEPT))
    last = len(sizes) - 1
    return [(size, max(1, round(epochs / KEPT ** (last - i)))) for i, size in enumerate(sizes)]


def seconds(costs: Sequence[float], epochs: int, jobs: int = 1) -> float:
    """Return the time of a race at most: the dearest nets stay longest.

    Args:
        costs: Seconds of an epoch of each net.
        epochs: Epochs of the last round.
        jobs: Runs at a time.
    """
    dearest = sorted(costs, reverse=True)
    rounds = rounds_of(len(costs), epochs)
    total = 0.0
    for nets, length in rounds:
        side = min(jobs, nets)
        # The last run may begin when all others are nearly done (Graham 1966, doi:10.1002/j.1538-7305.1966.tb01709.x).
        total += length * (sum(dearest[:nets]) / side + dearest[0] * (side - 1) / side)
    return total


def fit_budget(costs: Mapping[str, float], epochs: int, budget: float | None, jobs: int = 1) -> int:
    """Return the most epochs of the last round that a budget holds, at most those of the recipe.

    Raises:
        ValueError: If it does not even hold rounds of one epoch; the message says how long they take.
    """
    if budget is None:
        return epochs
    fitting = [n for n in range(1, epochs + 1) if seconds(list(costs.values()), n, jobs) <= MARGIN * budget]
    if not fitting:
        least = seconds(list(costs.values()), 1, jobs) / MARGIN
        raise ValueError(
            f"budget {budget:,.0f} s does not hold a race of {len(costs)} nets: rounds of one epoch take about "
            f"{least:,.0f} s here; give more time, fewer nets, or smaller ones by max-params"
        )
    return fitting[-1]


def epoch_seconds(prepared: Prepared, run: Run) -> float:
    """Return the estimated seconds of one epoch of a run, from its first training steps and one test batch."""
    recipe, device = run.recipe, torch.device(prepared.placement.device)
    images = prepared.images.searching(run.validation, run.seed).on(device)
    task, model = task_row(run.task), build(run, prepared.images).to(device)
    layout = torch.channels_last if prepared.placement.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = images.train_batches(recipe, torch.Generator().manual_seed(0))
    start, taken = time.perf_counter(), 0
    for number, (batch, labels) in zip(range(STEPS + 1), batches, strict=False):
        if number == 1:  # the first chooses kernels
            start, taken = time.perf_counter(), 0
        loss, _ = task.loss(model, batch.contiguous(memory_format=layout), labels, recipe, None, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
        taken += 1
    step = (time.perf_counter() - start) / taken
    model.eval()
    batch, _ = next(iter(images.test_batches()))
    with torch.no_grad():
        start = time.perf_counter()
        task.predict(model, batch.contiguous(memory_format=layout))
    tested = (time.perf_counter() - start) * images.test_size / len(batch)
    return step * (images.train_size // recipe.batch_size) + tested


def race(
    request: Request,
    *,
    budget: float | None = None,
    limits: Limits = FREE,
    listener: Listener | None = None,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Race nets on pictures, and train the winner to the end.

    Args:
        request: Nets (`candidates` if it names none), images, recipe and place; a validation half of 0.1 if it asks for
            none. Its first seed counts.
        budget: Seconds that the race may take by its estimate; None for all epochs of the recipe.
        limits: Limits on the nets. A named net that exceeds one is left out, and told.
        listener: Receives the events of the sweeps.
        tell: Receives lines before the first run, and one after each round.

    Raises:
        ValueError: If the request is wrong, no net keeps the limits, or the budget holds no race.
        AllFailedError: If all runs of a round fail.
    """
    if budget is not None:
        arguments.positive("budget", budget)
    if request.vary:
        raise ValueError("vary is not for a race, whose nets are told by name: leave it out")
    asked = replace(request, validation=request.validation or 0.1, seeds=request.seeds[:1])
    first = prepare(asked if asked.models else replace(asked, models=["lenet_test"], overrides={}))
    latencies, size = _Latencies(first), first.images.input_size
    if asked.models:
        facts_of(first.runs, first.placement, Listener())  # a net that does not take the images is an error now
        names = list(dict.fromkeys(run.name for run in first.runs))
        asked_of = names if limits != FREE else []
        above = {name: limits.exceeded(name, asked.overrides, size, latencies) for name in asked_of}
        names = [name for name in names if not above.get(name)]
        told = ", ".join(f"{name} ({figure})" for name, figure in above.items() if figure)
        if not names:
            raise ValueError(f"no named net keeps the limits: {told}")
        if told:
            tell(f"left out by the limits: {told}")
    else:
        names = candidates(size, limits, latencies)
    asked = replace(asked, models=names, lineup="")
    latencies.store()
    prepared = prepare(asked, anew=False)
    epochs, costs = _plan(prepared, budget)
    names = list(costs)
    total = seconds(list(costs.values()), epochs, asked.jobs or 1)
    shape = rounds_of(len(names), epochs)
    plan = "; ".join(f"{_number(nets, 'net')} for {_number(length, 'epoch')}" for nets, length in shape)
    cut = "" if epochs == prepared.recipe.epochs else f", where the recipe has {prepared.recipe.epochs}"
    tell(f"{plan}{cut}; about {total / 60:.1f} minutes at most on {prepared.placement.device}")
    rounds: list[Round] = []
    for nets, length in shape:
        last, changes = nets == 1, {**asked.changes, "epochs": length}
        own = replace(asked, models=names, changes=changes, keep=asked.keep if last else "none")
        part = prepare(own, anew=False)
        run_bench(part, listener)
        ended = _round(part, length, -(-nets // KEPT))
        rounds.append(ended)
        if not last:
            tell(f"after {_number(length, 'epoch')} of {_number(nets, 'net')} stay: {', '.join(ended.kept)}")
        names = list(ended.kept)
    [run] = part.runs
    [line] = [line for line in read_if_there(part.path).trainings if line["key"] == run.key]
    taken = {} if limits.latency is None else latencies.of(costs)
    return Outcome(rounds=tuple(rounds), winner=run.name, line=line, path=part.path, latencies=taken)


def draw(outcome: Outcome, path: Path) -> Path:
    """Draw the score of each net in each round, the winner strong, and return the path of the picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        epochs = [own.epochs for own in outcome.rounds]
        for name in outcome.rounds[0].scores:
            scores = [own.scores.get(name) for own in outcome.rounds]
            there = [(x, 100 * score) for x, score in zip(epochs, scores, strict=True) if score is not None]
            if there:
                won = name == outcome.winner
                axes.plot(*zip(*there, strict=True), marker="o", linewidth=2.5 if won else 1, alpha=1 if won else 0.6)
                axes.annotate(for_picture(name), there[-1], xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_xscale("log", base=KEPT)
        axes.set_xticks(sorted(set(epochs)), list(map(str, sorted(set(epochs)))))
        axes.margins(x=0.3)
        axes.set_xlabel("epochs of the round")
        axes.set_ylabel("score on the validation half [%]")
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_in_folder(path, content.getvalue())
    return path


def _plan(prepared: Prepared, budget: float | None) -> tuple[int, dict[str, float]]:
    """Return epochs of the last round, and seconds of an epoch by net; those of an earlier call that asked the same."""
    path = prepared.path.parent / PLAN
    asked = {"runs": [run.key for run in prepared.runs], "budget": budget, "device": prepared.placement.device}
    stored = _stored(path)
    try:
        costs = {str(name): arguments.positive("seconds", cost) for name, cost in stored["seconds"].items()}
        epochs = arguments.whole("epochs", stored["epochs"], 1, prepared.recipe.epochs)
        if stored["asked"] == asked and costs.keys() == {run.name for run in prepared.runs}:
            return epochs, costs
    except (ValueError, KeyError, TypeError, AttributeError):  # none, or not ours: it is made anew
        pass
    request, before = prepared.request, torch.get_num_threads()
    torch.set_num_threads(request.threads or max(1, cores() // (request.jobs or 1)))
    try:
        costs = {run.name: epoch_seconds(prepared, run) for run in prepared.runs}
    finally:
        torch.set_num_threads(before)
    epochs = fit_budget(costs, prepared.recipe.epochs, budget, request.jobs or 1)
    _store(path, asked=asked, epochs=epochs, seconds=costs)
    return epochs, costs


class _Latencies:
    """Milliseconds of nets for one image. Each is measured once; the file of the plan holds them."""

    def __init__(self, prepared: Prepared) -> None:
        self._path = prepared.path.parent / PLAN
        self._overrides = prepared.request.overrides
        self._size, self._device = prepared.images.input_size, prepared.placement.device
        self._threads = prepared.request.threads or cores()
        self._asked = {
            "size": list(self._size),
            "overrides": json.loads(json.dumps(dict(self._overrides))),  # as the file gives it
            "device": self._device,
            "threads": self._threads,
        }
        self._taken: dict[str, float] = {}
        stored: Any = _stored(self._path).get("latency")
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # none, or not ours
            if stored["asked"] == self._asked:
                self._taken = {str(name): float(value) for name, value in stored["ms"].items()}

    def __call__(self, name: str) -> float:
        """Return the milliseconds of a net."""
        if name not in self._taken:
            self._taken[name] = measure_latency(name, self._overrides, self._size, self._device, self._threads)
        return self._taken[name]

    def of(self, names: Iterable[str]) -> dict[str, float]:
        """Return the milliseconds of nets."""
        return {name: self(name) for name in names}

    def store(self) -> None:
        """Write what was measured beside the plan."""
        if self._taken:
            _store(self._path, latency={"asked": self._asked, "ms": self._taken})


def _stored(path: Path) -> dict[str, Any]:
    """Return the content of the file of a plan; nothing if there is none, or it is not ours."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _store(path: Path, **fields: Any) -> None:
    write_in_folder(path, (json.dumps(_stored(path) | fields, indent=1) + "\n").encode())


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _round(prepared: Prepared, epochs: int, keep: int) -> Round:
    """Rank the nets of a round by the stored lines: score, then fewer multiply-adds, then name.

    Raises:
        AllFailedError: If all runs failed.
    """
    lines = {line["key"]: line for line in read_if_there(prepared.path).trainings}
    runs = {run.name: lines.get(run.key) for run in prepared.runs}
    key = f"validation_{task_row(prepared.request.task).metric}"
    done = {name: line for name, line in runs.items() if line is not None}
    if not done:
        raise AllFailedError(f"all runs of {_number(epochs, 'epoch')} have failed: {prepared.path} holds the errors")
    ranked = sorted(done, key=lambda name: (-done[name][key], done[name]["counts"]["macs"], name))
    failed = [name for name in runs if name not in done]
    return Round(
        epochs=epochs,
        scores={**{name: done[name][key] for name in ranked}, **dict.fromkeys(failed)},
        errors={name: done[name]["validation_error"] for name in ranked},
        kept=tuple(ranked[:keep]),
    )
