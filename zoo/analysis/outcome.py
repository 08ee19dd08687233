"""Results of an analysis: rows for a table and a CSV, and a figure."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import files
from zoo.escape import for_csv, for_picture
from zoo.results.plot import STYLE
from zoo.results.topologies import COLOURS, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Results of an analysis.

    Attributes:
        what: Name of the analysis, which names the files too.
        rows: Column -> value, the same columns in every row: the CSV.
        draw: Draws into an empty figure.
        shown: Rows for the terminal. Default: ``rows``.
        notes: Sentences that a reader of the numbers has to know.
        size: Width and height of the figure in inches.
    """

    what: str
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[["Figure"], None]
    shown: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()
    size: tuple[float, float] = (8.0, 3.6)

    def csv(self) -> str:
        """Return the rows as CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.rows[0])
        for row in self.rows:
            writer.writerow([for_csv(cell) if isinstance(cell, str) else cell for cell in row.values()])
        return out.getvalue()

    def picture(self, kind: str) -> bytes:
        """Return the figure as ``png`` or ``svg``. Equal results give equal bytes."""
        import matplotlib as mpl  # optional dependency: the `bench` extra
        from matplotlib.figure import Figure

        with mpl.rc_context(STYLE | {"svg.hashsalt": "zoo"}):
            figure = Figure(figsize=self.size, dpi=200, layout="constrained")
            self.draw(figure)
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
        return buffer.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write CSV, PNG and SVG, named after the analysis, and return their paths."""
        contents = {"csv": self.csv().encode(), "png": self.picture("png"), "svg": self.picture("svg")}
        paths = {folder / f"{self.what}.{suffix}": content for suffix, content in contents.items()}
        for path, content in paths.items():
            files.write_in_folder(path, content)
        return list(paths)


def rounded(value: float) -> float:
    """Return a number with six significant digits, as it is written to a CSV."""
    return float(f"{value:.6g}")


def styles(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each name with arguments for a line of its own: label, colour, marker."""
    for i, name in enumerate(names):
        marks = list(MARKS.values())
        looks = {"color": COLOURS[i % len(COLOURS)], "marker": marks[i % len(marks)], "markersize": 3.5}
        yield name, {"label": for_picture(name), "linewidth": 1.2, **looks}


def tiles(figure: "Figure", count: int, columns: int) -> list["Axes"]:
    """Return places for pictures in rows, without axes."""
    across = min(count, columns)
    grid = figure.subplots(-(-count // across), across, squeeze=False).flatten().tolist()
    for axes in grid:
        axes.set_axis_off()
    return grid[:count]


def finish(axes: "Axes", x: str, y: str, *, legend: bool = True) -> None:
    """Label the axes, draw a grid and, if there are several lines, a legend."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


def plain(axis: "Axis") -> None:
    """Write the numbers of a logarithmic axis without mathematics, which names in a figure must not begin."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
