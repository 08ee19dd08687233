"""From result lines to rows, tables and the Pareto front."""

from __future__ import annotations

import csv
import io
import json
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zoo import files
from zoo.bench.against import published_error
from zoo.bench.recipe import DEFAULTS, words
from zoo.bench.results import CLASSIFY
from zoo.bench.tasks import Task, standard_error, task_row

HEADERS = {
    "name": "net",
    "params": "params",
    "macs": "MACs",
    "activations": "activations",
    "score": "",  # the metric of the task, see `columns`
    "standard_error": "std. error",
    "spread": "spread",
    "seeds": "seeds",
    "seconds": "seconds",
}
FORMATS = ("md", "csv", "json")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One net of a comparison, over all of its seeds.

    Attributes:
        name: As shown: the preset with its overrides, and with what is special in its recipe where recipes differ.
        family: Of the registry.
        params: Parameters.
        macs: Multiply-adds for one image of the dataset.
        activations: Elements that convolutions and linear layers write, for one image.
        score: Mean of the task's metric over the seeds; for classification the share of the test images that are
            named correctly.
        standard_error: Of the score on the test images; for classification binomial. More seeds do not shrink it: they
            all meet the same images.
        spread: Standard deviation over the seeds; None for a single one.
        seeds: Number of runs.
        seconds: Mean wall time of a run.
        test_images: Images behind the score.
        uncounted: Operators that no figure counts, with the number of calls.
        task: Name of the task.
        trivial: What the task's trivial answer scores on the same images, where it has one.
        published_error: Top-1 error in percent that was published of this net on these images, or None.
    """

    name: str
    family: str
    params: int
    macs: int
    activations: int
    score: float
    standard_error: float
    spread: float | None
    seeds: int
    seconds: float
    test_images: int
    uncounted: Mapping[str, int]
    task: str = CLASSIFY
    trivial: float | None = None
    published_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the scores under the name of the metric; what only other tasks have is left out."""
        metric = task_row(self.task).metric
        row = asdict(self)
        if self.trivial is None:
            del row["trivial"]
        if self.task == CLASSIFY:
            del row["task"]
        return {{"score": metric, "trivial": f"trivial_{metric}"}.get(key, key): value for key, value in row.items()}


def columns(task: Task) -> dict[str, str]:
    """Return the columns of a task's table with their headings, in order."""
    return {
        (task.metric if key == "score" else key): (f"{task.title} [%]" if key == "score" else heading)
        for key, heading in HEADERS.items()
    }


def task_of(rows: Sequence[Row]) -> Task:
    """Return the task that all rows belong to; classification where there are none."""
    return task_row(rows[0].task if rows else CLASSIFY)


def aggregate(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Merge the runs that differ in nothing but the seed.

    Args:
        records: One record a key, as `results.newest_results` returns them.

    Returns:
        One row a net, in the order of the first run of each.

    Raises:
        ValueError: If the records belong to several tasks or datasets, whose scores do not compare.
    """
    tasks = sorted({record.get("task", CLASSIFY) for record in records})
    if len(tasks) > 1:
        raise ValueError(f"results hold the tasks {', '.join(tasks)}: keep one file for each")
    datasets = sorted({record["dataset"]["name"] for record in records})
    if len(datasets) > 1:
        raise ValueError(f"results hold the datasets {', '.join(datasets)}: keep one file for each")
    # A field that is not stored has its default.
    recipes = [{**DEFAULTS, **record["recipe"]} for record in records]
    recipes = [{key: tuple(v) if isinstance(v, list) else v for key, v in recipe.items()} for recipe in recipes]
    varied = [key for key in (recipes[0] if recipes else {}) if len({str(recipe.get(key)) for recipe in recipes}) > 1]
    # What more than half of the runs have in common is not worth a word.
    usual = {
        key: value
        for key in varied
        for value, times in Counter(recipe.get(key) for recipe in recipes).items()
        if 2 * times > len(recipes)
    }
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record, recipe in zip(records, recipes, strict=True):
        differs = [key for key in varied if key not in usual or recipe.get(key) != usual[key]]
        special = words({key: recipe.get(key) for key in differs})
        groups.setdefault(record["display"] + (f" [{special}]" if special else ""), []).append(record)
    return [_row(name, group) for name, group in groups.items()]


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> Row:
    counts = records[-1]["counts"]
    if any(record["counts"] != counts for record in records):
        warnings.warn(f"{name}: its runs were counted differently; run them again with --force", stacklevel=3)
    task = task_row(records[-1].get("task", CLASSIFY))
    scores = [record[f"test_{task.metric}"] for record in records]
    mean, images = statistics.fmean(scores), records[-1]["dataset"]["test"]
    if task.name == CLASSIFY:
        error = standard_error(mean, images)
    else:  # each run has measured its own; one set of images, so they do not average out
        error = statistics.fmean(record["standard_error"] for record in records)
    return Row(
        name=name,
        family=records[-1]["family"],
        params=counts["params"],
        macs=counts["macs"],
        activations=counts["activations"],
        score=mean,
        standard_error=error,
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        seeds=len(records),
        seconds=statistics.fmean(record["seconds"] for record in records),
        test_images=images,
        uncounted=counts["uncounted"],
        task=task.name,
        trivial=records[-1].get(f"trivial_{task.metric}"),
        published_error=published_error(records[-1]),
    )


def sort_rows(rows: Sequence[Row], column: str = "", task: Task | None = None) -> list[Row]:
    """Sort by a column: the score from the best down, every other from the least up; ties by parameters, then name.

    Args:
        rows: The nets.
        column: One of `columns`; the metric for an empty name.
        task: Whose columns to choose from; that of the rows unless told.

    Raises:
        ValueError: If there is no such column.
    """
    task = task or task_of(rows)
    column = column or task.metric
    if column not in columns(task):
        raise ValueError(f"unknown column {column!r}: choose from {', '.join(columns(task))}")
    field = "score" if column == task.metric else column
    sign = -1 if field == "score" else 1

    def order(row: Row) -> tuple[Any, ...]:
        value = getattr(row, field)
        main = value if isinstance(value, str) else sign * (0.0 if value is None else value)
        return main, row.params, row.name

    return sorted(rows, key=order)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other point beats, by rising cost.

    One (cost, value) point beats another if it costs no more and is worth no less, and is better in one of the two.
    Equal points do not beat each other.
    """
    front: list[int] = []
    best = -float("inf")
    previous = None
    for position in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        cost, value = points[position]
        if value > best or (cost, value) == previous:
            front.append(position)
            best, previous = value, (cost, value)
    return front


def format_table(rows: Sequence[Row], style: str = "simple") -> str:
    """Return the rows as a table in one of tabulate's styles; score, error and spread are in percent."""
    cells = [
        [
            row.name,
            f"{row.params:,}",
            f"{row.macs / 1e6:,.1f} M",
            f"{row.activations:,}",
            f"{100 * row.score:.2f}",
            f"{100 * row.standard_error:.2f}",
            "-" if row.spread is None else f"{100 * row.spread:.2f}",
            row.seeds,
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    headers = list(columns(task_of(rows)).values())
    if any(row.published_error is not None for row in rows):
        headers.insert(5, "vs. published")
        for line, row in zip(cells, rows, strict=True):
            error = row.published_error
            line.insert(5, "-" if error is None else f"{100 * row.score - (100 - error):+.2f}")
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(cells, headers=headers, tablefmt=style, colalign=align, disable_numparse=True)


def footnote(rows: Sequence[Row]) -> str:
    """Return what must stand below the table: what was not counted, and what the scores can tell."""
    task = task_of(rows)
    operators = sorted({name for row in rows for name in row.uncounted})
    images = " or ".join(str(number) for number in sorted({row.test_images for row in rows}))
    worst = max((row.standard_error for row in rows), default=0.0)
    return (
        "MACs: multiply-adds of convolutions, linear layers and matrix products. "
        f"Not counted: {', '.join(operators) or 'nothing'}.\n"
        f"The {task.title} comes from {images} test images: differences below about two standard errors "
        f"({200 * worst:.1f} points here) mean nothing."
        + "".join(
            f"\n{task.trivial_title[0].upper() + task.trivial_title[1:]} scores {100 * trivial:.2f} % on them."
            for trivial in sorted({row.trivial for row in rows if row.trivial is not None})
        )
        + (
            "\nvs. published: points above or below the figure of the paper or its authors that `zoo published NAME` "
            "marks with *; recipes differ."
            if any(row.published_error is not None for row in rows)
            else ""
        )
    )


def write_table(rows: Sequence[Row], path: Path) -> Path:
    """Write the rows as Markdown, CSV or JSON, by the ending of the path; the latter two hold unrounded numbers.

    Raises:
        ValueError: If the ending is none of the three.
    """
    kind = path.suffix.removeprefix(".")
    if kind == "md":
        text = f"{format_table(rows, 'github')}\n\n{footnote(rows)}\n"
    elif kind == "json":
        text = json.dumps([row.to_dict() for row in rows], indent=2) + "\n"
    elif kind == "csv":
        buffer = io.StringIO()
        lines = [{**row.to_dict(), "uncounted": json.dumps(dict(row.uncounted))} for row in rows]
        writer = csv.DictWriter(buffer, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        text = buffer.getvalue()
    else:
        raise ValueError(f"table file {path.name!r} must end in one of {', '.join(FORMATS)}")
    write_atomically(path, text.encode())
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, and make its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content)
