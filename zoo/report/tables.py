"""The rows of the page as Markdown and CSV, and the measured ones as pictures, for where no browser is."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from zoo.bench.results import CLASSIFY
from zoo.report.lines import Lines, Record, metric_of

COLUMNS = (
    "group",
    "metric",
    "kind",
    "series",
    "name",
    "family",
    "score",
    "spread",
    "error",
    "seeds",
    "gap",
    "params",
    "macs",
    "activations",
    "source",
    "note",
)
"""Columns of the CSV; scores, deviations, errors and gaps are in percent."""

MARKDOWN = {
    "name": "net",
    "family": "family",
    "series": "series",
    "params": "params",
    "macs": "MACs",
    "activations": "activations",
    "score": "score [%]",
    "spread": "seed dev.",
    "error": "test err.",
    "seeds": "seeds",
    "gap": "vs. published",
}


def to_csv(contents: Mapping[str, Any]) -> str:
    """All rows, unrounded but for scores (4 decimals); then throughput and memory under each condition."""
    machine = [(c["id"], i, f"{what}: {c['title']}") for c in contents["conditions"] for i, what in enumerate(MACHINE)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *(title for _, _, title in machine)])
    for row in _rows(contents):
        own = row["machine"]
        cells = [row.get(column) for column in COLUMNS] + [own.get(key, (None, None))[i] for key, i, _ in machine]
        writer.writerow([_inert(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue()


MACHINE = ("images a second", "peak memory [bytes]")


def to_markdown(contents: Mapping[str, Any]) -> str:
    """One section a data set with measured rows; published figures only of those data sets."""
    parts = []
    for group in contents["groups"]:
        rows = [row for row in _rows(contents) if row["group"] == group["id"]]
        rows.sort(key=lambda row: (row["kind"], -row["score"], row["name"]))
        if any(row["kind"] == "measured" for row in rows):
            text = _markdown(rows, [c for c in MARKDOWN if any(row.get(c) not in (None, "") for row in rows)])
            parts.append(f"## {_escaped(group['id'])}, {_escaped(group['metric'])}\n\n{text}\n")
    if not parts:
        parts.append("No measured run.\n")
    return "\n".join(parts)


def pictures(lines: Lines, kind: str) -> Iterator[tuple[str, bytes]]:
    """Accuracy against parameters and multiply-adds of each measured data set: (ending of the file's name, picture).

    Args:
        lines: Of result files.
        kind: ``png`` or ``svg``.
    """
    import matplotlib as mpl

    from zoo.bench.plot import COSTS, draw
    from zoo.bench.report import aggregate

    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in lines.runs:
        key = (record["dataset"]["name"], record.get("task") or CLASSIFY, metric_of(record))
        groups.setdefault(key, []).append(record)
    for (dataset, task, metric), records in groups.items():
        slug = re.sub(r"[^a-z0-9]+", "-", f"{dataset}-{task}".lower().removesuffix(f"-{CLASSIFY}")).strip("-")
        for cost in COSTS:
            with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "zoo", "text.parse_math": False}):
                warnings.simplefilter("ignore", UserWarning)  # of counts: the page says it too
                rows = aggregate(records)
                figure, _ = draw(rows, cost, dataset)
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
            yield f"{slug}_{metric}_vs_{cost}.{kind}", buffer.getvalue()


def _rows(contents: Mapping[str, Any]) -> list[Record]:
    metrics = {group["id"]: group["metric"] for group in contents["groups"]}
    titles = [series["title"] for series in contents["series"]]
    return [{**row, "metric": metrics[row["group"]], "series": titles[row["series"]]} for row in contents["rows"]]


def _markdown(rows: Sequence[Record], columns: Sequence[str]) -> str:
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    text = ("name", "family", "series")
    align = ["left" if column in text else "right" for column in columns]
    return tabulate(
        cells, headers=[MARKDOWN[c] for c in columns], tablefmt="pipe", colalign=align, disable_numparse=True
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else _escaped(value)


def _escaped(text: str) -> str:
    """Text that Markdown takes for text."""
    return re.sub(r"([\\`*_\[\]<>|&])", r"\\\1", " ".join(text.split())) if re.search(r"[<>|`\[\]&]", text) else text


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" and text else text
