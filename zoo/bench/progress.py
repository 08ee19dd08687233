"""Progress of a sweep, in a terminal or as plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from zoo.bench.sweep import Listener
from zoo.bench.tasks import task_row
from zoo.bench.train import EpochMetrics, Progress
from zoo.results.run import Run


class ProgressBar(Listener):
    """A bar over the epochs of the whole sweep, with the current net and its score, and a line for each run.

    If the stream is no terminal, there is no bar. Lines are then written alone, each as soon as it is known.

    Args:
        heading: Text above everything, shown when every net is known to work and training begins.
        stream: Output stream. Default: standard error.
    """

    def __init__(self, heading: str = "", stream: TextIO | None = None) -> None:
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
        self._advance(run, metrics.epoch)

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
