"""Write the rows of the page as Markdown and CSV, and the measured ones as pictures, for use without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from zoo.escape import cut, for_markdown
from zoo.results import table
from zoo.results.group import group as compare
from zoo.results.store import Results

Record = dict[str, Any]

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
"""Columns of the CSV. Scores, deviations, errors and gaps are in percent."""

MARKDOWN = {
    "name": "net",
    "family": "family",
    "series": "series",
    "params": "params",
    "macs": "MACs",
    "activations": "activations",
    "score": "score [%]",
    "spread": "seed dev.",
    "error": "std. error",
    "seeds": "seeds",
    "gap": "vs. published",
}


def to_csv(contents: Mapping[str, Any]) -> str:
    """Return all rows as CSV, unrounded except scores (4 decimals); then throughput and memory per condition."""
    machine = [(c["id"], i, f"{what}: {c['title']}") for c in contents["conditions"] for i, what in enumerate(MACHINE)]
    rows = []
    for row in _rows(contents):
        own = row["machine"]
        cells = [row.get(column) for column in COLUMNS]
        rows.append([*cells, *(own.get(key, (None, None))[i] for key, i, _ in machine)])
    return table.to_csv([*COLUMNS, *(title for _, _, title in machine)], rows)


LONGEST_SLUG = 60
MACHINE = ("images a second", "peak memory [bytes]")


def to_markdown(contents: Mapping[str, Any]) -> str:
    """Return one section per data set with measured rows, including its published figures, as Markdown."""
    parts = []
    for group in contents["groups"]:
        rows = [row for row in _rows(contents) if row["group"] == group["id"]]
        rows.sort(key=lambda row: (row["kind"], -row["score"], row["name"]))
        if any(row["kind"] == "measured" for row in rows):
            text = _markdown(rows, [c for c in MARKDOWN if any(row.get(c) not in (None, "") for row in rows)])
            parts.append(f"## {for_markdown(group['id'])}, {for_markdown(group['metric'])}\n\n{text}\n")
    if not parts:
        parts.append("No measured run.\n")
    return "\n".join(parts)


def pictures(results: Results, kind: str) -> Iterator[tuple[str, bytes]]:
    """Yield plots of the score against parameters and multiply-adds of each data set: (end of file name, picture).

    Args:
        results: Contents of the result files.
        kind: ``png`` or ``svg``.
    """
    from zoo.results.plot import COSTS, picture

    for comparison in compare(results.trainings):
        slug = re.sub(r"[^a-z0-9]+", "-", comparison.title.lower()).strip("-")[:LONGEST_SLUG]
        for cost in COSTS:
            name = f"{slug}_{comparison.metric.key}_vs_{cost}.{kind}"
            yield name, picture(comparison.nets, cost, comparison.dataset, kind)


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
    return f"{value:,}" if isinstance(value, int) else for_markdown(cut(value, table.LONGEST_NAME))
