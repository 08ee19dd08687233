"""Progress of a sweep: in a terminal, as plain lines in a log, or in the programs that people watch runs in.

These are TensorBoard, Weights & Biases and MLflow, by trackers of accelerate.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from zoo.bench.sweep import Listener
from zoo.bench.tasks import task_row
from zoo.bench.train import EpochMetrics, Progress
from zoo.extras import require
from zoo.results.run import Run

EVERY = 30.0
"""Seconds between two lines on the epochs of a run in a log."""
PROJECT = "zoo"
"""Project of Weights & Biases, experiment of MLflow."""
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Packages of which a tracker needs one, by the name of the tracker."""
ALONE = ("wandb", "mlflow")
"""Trackers that take one run at a time in a process."""
LONGEST_NAME = 120
FINAL = ("macro_f1", "standard_error", "seconds", "images_per_second")
"""Fields of a finished run's line that are logged beside its score."""


class ProgressBar(Listener):
    """A bar over the epochs of the whole sweep, with the current net and its score, and a line for each run.

    If the stream is no terminal, there is no bar. Lines are then written alone, each as soon as it is known; those of
    runs under way tell of an epoch now and then.

    Args:
        heading: Text above everything, shown when every net is known to work and training begins.
        stream: Output stream. Default: standard error.
        every: Seconds between two such lines of a run.
    """

    def __init__(self, heading: str = "", stream: TextIO | None = None, every: float = EVERY) -> None:
        self._every = every
        self._told: dict[str, float] = {}  # when the last line of each run was written
        self._heading = heading
        self._stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._done: dict[str, float] = {}  # epochs of each run; several may be under way

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_warning(self, text: str) -> None:
        """Write a warning in the form of the command line."""
        self._line(f"zoo: warning: {text}")

    def on_count(self, display: str, done: int, total: int) -> None:
        """Show the net that is counted."""
        if self._bar is None:
            self._bar = self._new_bar(total, "net")
        self._bar.n = done
        self._bar.set_description(f"counting {display}")

    def on_start(self, runs: int, skipped: int, epochs: int) -> None:
        """Replace the bar by one over epochs."""
        self.close()
        if self._heading and runs:
            self._line(self._heading)
        if skipped:
            self._line(f"{skipped} finished run{'s' * (skipped > 1)} found, {runs} to do")
        if epochs:
            self._bar = self._new_bar(epochs, "epoch")

    def on_progress(self, run: Run, progress: Progress) -> None:
        """Advance the bar by part of an epoch."""
        self._advance(run, progress.done)

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Advance the bar and show the score."""
        if self._bar is not None:
            score = f"{100 * metrics.test_score:.1f} %"
            self._bar.set_description(f"{run.display}, seed {run.seed}: {score}", refresh=False)
        if not self._stream.isatty():
            self._tell_epoch(run, metrics)
        self._advance(run, metrics.epoch)

    def _tell_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        now = time.monotonic()
        if now - self._told.setdefault(run.key, now) < self._every:
            return
        self._told[run.key] = now
        tested = "validation" if run.validation else "test"
        self._line(
            f"{run.display}, seed {run.seed}: epoch {metrics.epoch} of {run.recipe.epochs}, training loss "
            f"{metrics.train_loss:.4g}, {tested} {task_row(run.task).title} {100 * metrics.test_score:.2f} %"
        )

    def on_skip(self, run: Run) -> None:
        """Skip the epochs of a run that another bench has finished."""
        self._advance(run, run.recipe.epochs)

    def on_finish(self, run: Run, record: Mapping[str, Any]) -> None:
        """Write the line of a finished run."""
        self._advance(run, run.recipe.epochs)
        task = task_row(run.task)
        score, error = 100 * record[f"test_{task.metric}"], 100 * record["standard_error"]
        self._line(
            f"{run.display}, seed {run.seed}: {score:.2f} +- {error:.2f} % test {task.title} "
            f"after {run.recipe.epochs} epochs in {record['seconds']:.1f} s"
        )

    def on_picture(self, run: Run, path: Path) -> None:
        """Write the path of a picture."""
        self._line(f"{path}")

    def on_failure(self, run: Run, message: str) -> None:
        """Write the line of a failed run and skip its remaining epochs."""
        self._advance(run, run.recipe.epochs)
        self._line(f"failed: {message}")

    def _advance(self, run: Run, epochs: float) -> None:
        # A run that is tried again begins with what was done before.
        step = max(0.0, epochs - self._done.get(run.key, 0.0))
        self._done[run.key] = max(epochs, self._done.get(run.key, 0.0))
        if self._bar is not None:
            self._bar.update(step)

    def _new_bar(self, total: int, unit: str) -> tqdm:
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} {unit}s [{elapsed}<{remaining}]"
        return tqdm(
            total=total,
            unit=unit,
            file=self._stream,
            disable=not self._stream.isatty(),
            dynamic_ncols=True,
            bar_format=form,
        )

    def _line(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()


def check_log(name: str) -> None:
    """Raise ValueError if a package that a tracker needs is not installed; the message names it."""
    if not name:
        return
    require("bench", "accelerate")
    if not any(map(importlib.util.find_spec, PACKAGES[name])):
        package = PACKAGES[name][0]
        raise ValueError(f"log {name!r} needs the package {package}, which is not installed: pip install {package}")


class Tracked(Listener):
    """Passes the events of a sweep on to another listener, and logs epochs and results of each run to a tracker.

    A tracker that fails, for example because its server cannot be reached, gives a warning and stops no run.

    Args:
        inner: The other listener.
        name: Key of `PACKAGES`.
        folder: Folder for the logs of trackers that write files.
    """

    def __init__(self, inner: Listener, name: str, folder: Path) -> None:
        self._inner, self._name, self._folder = inner, name, folder
        self._open: dict[str, Any] = {}
        self._failed: set[str] = set()

    def close(self) -> None:
        """End the logs of all runs that are under way."""
        for key in list(self._open):
            self._guard(key, self._open.pop(key).finish)

    def on_warning(self, text: str) -> None:
        """Pass it on."""
        self._inner.on_warning(text)

    def on_count(self, display: str, done: int, total: int) -> None:
        """Pass it on."""
        self._inner.on_count(display, done, total)

    def on_start(self, runs: int, skipped: int, epochs: int) -> None:
        """Pass it on."""
        self._inner.on_start(runs, skipped, epochs)

    def on_progress(self, run: Run, progress: Progress) -> None:
        """Pass it on."""
        self._inner.on_progress(run, progress)

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Log the metrics of the epoch."""
        values = metrics.to_dict(task_row(run.task).metric, "validation" if run.validation else "test")
        self._log(run, {key: value for key, value in values.items() if key != "epoch"}, metrics.epoch)
        self._inner.on_epoch(run, metrics)

    def on_skip(self, run: Run) -> None:
        """Pass it on."""
        self._inner.on_skip(run)

    def on_finish(self, run: Run, record: Mapping[str, Any]) -> None:
        """Log the result, and end the log of the run."""
        names = [f"test_{task_row(run.task).metric}", *FINAL]
        self._log(run, {f"final/{name}": record[name] for name in names if name in record}, run.recipe.epochs)
        self._end(run)
        self._inner.on_finish(run, record)

    def on_picture(self, run: Run, path: Path) -> None:
        """Pass it on."""
        self._inner.on_picture(run, path)

    def on_failure(self, run: Run, message: str) -> None:
        """End the log of the run."""
        self._end(run)
        self._inner.on_failure(run, message)

    def _log(self, run: Run, values: Mapping[str, Any], step: int) -> None:
        def log() -> None:
            if run.key not in self._open:
                self._open[run.key] = start(self._name, run, self._folder)
            self._open[run.key].log(dict(values), step=step)

        if run.key not in self._failed:
            self._guard(run.key, log)

    def _end(self, run: Run) -> None:
        if run.key in self._open:
            self._guard(run.key, self._open.pop(run.key).finish)

    def _guard(self, key: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # whatever a foreign client raises; the run is worth more than its log
            self._failed.add(key)
            self.on_warning(f"log {self._name!r} has failed for a run and is left: {type(error).__name__}: {error}")


def start(name: str, run: Run, folder: Path) -> Any:
    """Return the started tracker of a run, with its configuration.

    Args:
        name: Key of `PACKAGES`.
        run: The run.
        folder: Folder for the logs of trackers that write files.
    """
    from accelerate import PartialState, tracking

    PartialState(cpu=True)  # of one process; that of several is there already, and stays
    title = re.sub(r"[^A-Za-z0-9._-]+", "_", run.display)[:LONGEST_NAME].strip("._")
    title = f"{title}-seed{run.seed}-{run.key[:8]}"
    if name == "tensorboard":
        tracker: Any = tracking.TensorBoardTracker(title, str(folder))
    elif name == "wandb":
        tracker = tracking.WandBTracker(PROJECT, name=title, dir=str(folder.parent))
    else:
        tracker = tracking.MLflowTracker(PROJECT, run_name=title)
    tracker.start()
    tracker.store_init_configuration(configuration(run))
    return tracker


def configuration(run: Run) -> dict[str, Any]:
    """Return the fields of a run as texts and numbers."""
    fields = {"net": run.display, "dataset": run.dataset, "task": run.task, "seed": run.seed, **run.recipe.to_dict()}
    return {key: value if isinstance(value, str | int | float) else str(value) for key, value in fields.items()}
