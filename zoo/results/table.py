"""Tables of compared nets: for the terminal, and as Markdown, CSV and JSON files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zoo import files
from zoo.escape import cut, for_csv, for_markdown, for_terminal
from zoo.results.group import Comparison, NetResult
from zoo.results.metrics import METRICS, Metric
from zoo.results.run import CLASSIFY, Run

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
LONGEST_NAME = 200
LONGEST_NOTE = 2000


def choose(comparisons: Sequence[Comparison], run: Run | None = None) -> tuple[Comparison | None, list[str]]:
    """Choose the comparison for a table; return it and one text for each other comparison.

    Args:
        comparisons: At least one.
        run: The comparison of this run is shown, or None if there is none. Default: the only comparison.

    Raises:
        ValueError: If there are several comparisons and no run chooses among them.
    """
    if run is None:
        if len(comparisons) > 1:
            titles = "; ".join(for_terminal(comparison.title) for comparison in comparisons)
            raise ValueError(f"results hold {titles}: keep one file for each image set and task, or see zoo report")
        return comparisons[0], []
    place = run.task, run.dataset, run.fingerprint
    shown = next((c for c in comparisons if (c.task, c.dataset, c.fingerprint) == place), None)
    others = [c for c in comparisons if c is not shown]
    return shown, [f"the table leaves out {c.title}, nets: {len(c.nets)}; zoo report shows them" for c in others]


def metric_of(nets: Sequence[NetResult]) -> Metric:
    """Return the metric of compared nets; that of classification if there are none."""
    return METRICS[nets[0].task if nets else CLASSIFY]


def columns(metric: Metric) -> dict[str, str]:
    """Return the columns of a table with their headings, in order."""
    return {
        (metric.key if key == "score" else key): (f"{metric.title} [%]" if key == "score" else heading)
        for key, heading in HEADERS.items()
    }


def sort_nets(nets: Sequence[NetResult], column: str = "", metric: Metric | None = None) -> list[NetResult]:
    """Sort by a column: scores in falling order, other columns in rising order; ties by parameters, then name.

    Args:
        nets: Nets of one comparison.
        column: One of `columns`. Default: the score.
        metric: Metric that defines the columns. Default: that of the nets.

    Raises:
        ValueError: If the column does not exist.
    """
    metric = metric or metric_of(nets)
    column = column or metric.key
    if column not in columns(metric):
        raise ValueError(f"unknown column {column!r}: choose from {', '.join(columns(metric))}")
    field = "score" if column == metric.key else column
    sign = -1 if field == "score" else 1

    def order(net: NetResult) -> tuple[Any, ...]:
        value = getattr(net, field)
        main = value if isinstance(value, str) else sign * (0.0 if value is None else value)
        return main, net.params, net.name

    return sorted(nets, key=order)


def format_table(nets: Sequence[NetResult], style: str = "simple") -> str:
    """Return nets of one comparison as a table; score, error and spread are in percent.

    Args:
        nets: Nets in the order of the rows.
        style: ``simple`` for a terminal, ``github`` for Markdown.
    """
    escape = for_markdown if style == "github" else for_terminal
    headers = list(columns(metric_of(nets)).values())
    published = any(net.published_error is not None for net in nets)
    if published:
        headers.insert(5, "vs. published")
    cells = []
    for net in nets:
        versus = "-" if net.versus_published is None else f"{net.versus_published:+.2f}"
        cells.append(
            [
                escape(cut(net.name, LONGEST_NAME)),
                f"{net.params:,}",
                f"{net.macs / 1e6:,.1f} M",
                f"{net.activations:,}",
                f"{100 * net.score:.2f}",
                *[versus] * published,
                _percent(net.standard_error),
                _percent(net.spread),
                net.seeds,
                f"{net.seconds:.1f}",
            ]
        )
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(cells, headers=headers, tablefmt=style, colalign=align, disable_numparse=True)


def footnote(nets: Sequence[NetResult], escape: Callable[[str], str] = for_terminal) -> str:
    """Return the notes below a table: uncounted operators, and the meaning of the scores.

    Args:
        nets: Nets of the table.
        escape: Function for the place of display, see `zoo.escape`.
    """
    metric = metric_of(nets)
    operators = cut(", ".join(sorted({name for net in nets for name in net.uncounted})) or "nothing", LONGEST_NOTE)
    images = " or ".join(str(number) for number in sorted({net.test_images for net in nets}))
    errors = [net.standard_error for net in nets if net.standard_error is not None]
    points = f" ({200 * max(errors):.1f} points here)" if errors else ""
    trivial = metric.trivial_title[:1].upper() + metric.trivial_title[1:]
    sentences = [
        f"MACs: multiply-adds of convolutions, linear layers and matrix products. Not counted: {escape(operators)}.",
        f"The {metric.title} comes from {images} test images: differences below about two standard errors{points} "
        "mean nothing.",
        *(
            f"{trivial} scores {100 * score:.2f} % on them."
            for score in sorted({net.trivial for net in nets if net.trivial is not None})
        ),
    ]
    if any(net.published_error is not None for net in nets):
        sentences.append(
            "vs. published: points above or below the figure of the paper or its authors that `zoo published NAME` "
            "marks with *; recipes differ."
        )
    return "\n".join(sentences)


def write_table(nets: Sequence[NetResult], path: Path) -> Path:
    """Write nets as Markdown, CSV or JSON, by the suffix of the path. CSV and JSON hold unrounded numbers.

    Raises:
        ValueError: If the suffix is none of the three.
    """
    kind = path.suffix.removeprefix(".")
    if kind == "md":
        text = f"{format_table(nets, 'github')}\n\n{footnote(nets, for_markdown)}\n"
    elif kind == "json":
        text = json.dumps([to_dict(net) for net in nets], indent=2) + "\n"
    elif kind == "csv":
        rows = [{**to_dict(net), "uncounted": json.dumps(dict(net.uncounted))} for net in nets]
        header = list(dict.fromkeys(key for row in rows for key in row))
        text = to_csv(header, [[row.get(key) for key in header] for row in rows])
    else:
        raise ValueError(f"table file {path.name!r} must end in one of {', '.join(FORMATS)}")
    files.write_in_folder(path, text.encode())
    return path


def to_dict(net: NetResult) -> dict[str, Any]:
    """Return a net in plain types, with its score under the key of the metric. Fields of other tasks are left out."""
    metric = METRICS[net.task]
    fields = {
        "name": net.name,
        "family": net.family,
        "params": net.params,
        "macs": net.macs,
        "activations": net.activations,
        metric.key: net.score,
        "standard_error": net.standard_error,
        "spread": net.spread,
        "seeds": net.seeds,
        "seconds": net.seconds,
        "test_images": net.test_images,
        "uncounted": dict(net.uncounted),
    }
    if net.task != CLASSIFY:
        fields["task"] = net.task
    if net.trivial is not None:
        fields[f"trivial_{metric.key}"] = net.trivial
    return fields | {"published_error": net.published_error}


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV with a heading. Texts are made safe for spreadsheets; numbers are unchanged."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for cells in (header, *rows):
        writer.writerow([for_csv(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
