"""Output of `zoo speed`: a progress bar while it measures, and a table of the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from tabulate import tabulate
from tqdm import tqdm

from zoo.speed.cases import Listener

MIB = 2**20


def format_table(records: Sequence[Mapping[str, Any]], style: str = "simple") -> str:
    """Return records as a table in one of tabulate's styles. Values that are equal in all rows have no column."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "net": lambda r: r["name"],
        "mode": lambda r: r["case"]["mode"],
        "batch": lambda r: str(r["case"]["batch_size"]),
        "input": lambda r: "x".join(map(str, r["case"]["input_size"])),
        "layout": lambda r: r["case"]["layout"],
        "fused": lambda r: "yes" if r["case"].get("fuse") else "no",
        "lean": lambda r: "yes" if r["case"].get("lean") else "no",
        "compiled": lambda r: "yes" if r["case"]["compile"] else "no",
        "ms": lambda r: _number(r["step_ms"]["median"]),
        "quartiles": lambda r: _range(r["step_ms"], _number),
        "images/s": lambda r: _number(r["images_per_second"]),
        "bound ms": lambda r: _number(r["bound_ms"]["median"]) if r["bound_ms"] else "-",
        "bound %": lambda r: f"{100 * r['bound_share']['median']:.0f}" if r["bound_share"] else "-",
        "MiB": lambda r: "-" if r["peak_memory"] is None else f"{r['peak_memory'] / MIB:.0f}",
        "speed x": lambda r: f"{r['speed_ratio']['median']:.2f}" if r["speed_ratio"] else "-",
        "its quartiles": lambda r: _range(r["speed_ratio"], "{:.2f}".format) if r["speed_ratio"] else "-",
    }
    cells = {name: [text(record) for record in records] for name, text in columns.items()}
    optional = ("input", "layout", "fused", "lean", "compiled")
    shown = {k: v for k, v in cells.items() if k not in optional or len(set(v)) > 1}
    align = ["left" if name in ("net", "mode", *optional) else "right" for name in shown]
    return tabulate(shown, headers="keys", tablefmt=style, colalign=align, disable_numparse=True)


def heading(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the facts that all rows of a table share."""
    record, device = records[0], records[0]["device"]
    threads = f"{device['threads']} thread{'s' * (device['threads'] != 1)}"
    shared = [f"{device['name']}, {threads}, torch {record['versions']['torch']}"]
    for key in ("dtype", "input_size", "layout"):
        value = record["case"][key]
        if all(r["case"][key] == value for r in records):
            shared.append("x".join(map(str, value)) if isinstance(value, list) else value)
    least, most = min(r["rounds"] for r in records), max(r["rounds"] for r in records)
    return ", ".join([*shared, f"{most} rounds" if least == most else f"{least} to {most} rounds"])


def _number(value: float) -> str:
    """Return a number with three significant digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _range(value: Mapping[str, float], text: Callable[[float], str]) -> str:
    return f"{text(value['low'])} .. {text(value['high'])}"


class SpeedProgress(Listener):
    """A bar for each phase if the stream (default: standard error) is a terminal; otherwise a line per finished row."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None

    def __enter__(self) -> SpeedProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close()

    def on_phase(self, what: str, steps: int) -> None:
        """Begin a bar."""
        self._close()
        terminal = self._stream.isatty()
        self._bar = tqdm(total=steps, desc=what, file=self._stream, disable=not terminal, leave=False, unit="step")

    def on_step(self, display: str) -> None:
        """Show the case that is measured now."""
        self._bar.set_postfix_str(display, refresh=False)
        self._bar.update()

    def on_skip(self, steps: int) -> None:
        """Make the bar shorter."""
        self._bar.total -= steps
        self._bar.refresh()

    def on_finish(self, record: Mapping[str, Any]) -> None:
        """Write a line to a log. On a terminal the table follows soon enough."""
        if not self._stream.isatty():
            case, step = record["case"], record["step_ms"]
            how = ", fused" * case.get("fuse", False) + ", lean" * case.get("lean", False)
            how += ", compiled" * case["compile"]
            what = f"{record['name']}, {case['mode']}, batch {case['batch_size']}, {case['layout']}{how}"
            self._line(f"{what}: {step['median']:.2f} ms ({step['low']:.2f} .. {step['high']:.2f})")

    def on_failure(self, message: str) -> None:
        """Write the failure at once."""
        self._line(f"failed: {message}")

    def _line(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
