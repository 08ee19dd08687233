"""Shared parts of the verbs: parser, errors, conversion of texts to values, tables."""

from __future__ import annotations

import argparse
import ast
import difflib
import errno
import io
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

SOURCES = Path(__file__).parents[1]
TRACEBACK = "ZOO_TRACEBACK"
"""Environment variable that turns on the traceback of an error."""
LOGS = ("tensorboard", "wandb", "mlflow")
"""Programs that runs can be watched in, see `zoo.bench.progress`."""
LARGEST = 32_768
"""Largest side in pixels; far beyond it, torch cannot hold the sizes of maps."""


class Parser(argparse.ArgumentParser):
    """A parser with our layout of help, no abbreviated options, and errors as exceptions of one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with argparse's message, and the place where the arguments are explained."""
        kind, _, rest = message.partition(": ")
        if kind == "unrecognized arguments":
            message = self._unknown(rest)
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _unknown(self, arguments: str) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        wrong = next((word for word in arguments.split() if word.startswith("-")), None)
        if wrong is None:
            return f"too many arguments: {arguments}"
        close = difflib.get_close_matches(wrong.partition("=")[0], options, n=2)
        return f"unknown option {wrong}" + f": did you mean {' or '.join(close)}?" * bool(close)


def guarded(run: Callable[[], int]) -> int:
    """Run a command and return its exit status, also if it fails.

    Every error is one line on standard error. With ``ZOO_TRACEBACK=1`` in the environment it follows its traceback.

    Args:
        run: Runs the command, and returns 0, 1 or 130.

    Returns:
        0; 1 for a failed run; 2 for a wrong request; 130 after Ctrl-C; 141 if the reader of the output has left.
    """
    formatted = warnings.formatwarning
    warnings.formatwarning = _warning_line  # ty: ignore[invalid-assignment]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        return 141
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except ValueError as error:
        return _fail(error, str(error), 2)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # whoever looked for it first
            return _fail(error, f"{str(error.filename)[:40]!r}... is too long for the name of a file", 2)
        if error.filename is None:  # perhaps of the output itself, as on a full disk
            _discard_output()
        return _fail(error, str(error), 1)
    except Exception as error:
        return _fail(error, f"{type(error).__name__}: {error} ({TRACEBACK}=1 shows where)", 1)
    finally:
        warnings.formatwarning = formatted
    return status


def version() -> str:
    """Return the version that is installed, or that of the checkout, without importing it."""
    text = (SOURCES / "zoo" / "__init__.py").read_text(encoding="ascii")
    return re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE)[0]


def printable(text: str) -> str:
    """Return text as `zoo.escape.for_terminal` does, for errors before `zoo` can be imported."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return text on one line, without characters that a terminal would obey."""
    return printable(" ".join(text.split()))


def tell(message: str) -> None:
    """Write a line for the user to standard error."""
    print(f"zoo: {one_line(message)}", file=sys.stderr)


def _fail(error: Exception, message: str, status: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    tell(f"error: {message}")
    return status


def _discard_output() -> None:
    """Discard output that is still to be printed; otherwise Python would fail again at its end."""
    with suppress(OSError, ValueError, AttributeError):  # no file, as in a test, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    ours = Path(filename).is_relative_to(SOURCES)
    return (
        f"zoo: warning: {one_line(str(message))}" + f" ({category.__name__}, {filename}:{lineno})" * (not ours) + "\n"
    )


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as a dict; see `parse_value`.

    Raises:
        ValueError: If a text has no `=`.
    """
    parsed = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} must have the form KEY=VALUE, such as order=pre")
        parsed[key] = parse_value(text)
    return parsed


def parse_value(text: str) -> Any:
    """Return a text as a Python literal if it reads as one that can be stored; otherwise unchanged."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)  # what cannot be stored is no value
    except (ValueError, SyntaxError, TypeError):
        return text
    return value


def parse_size(text: str) -> tuple[int, int, int]:
    """Read `224` (three channels, square) or `CxHxW`.

    Raises:
        ValueError: If the text is neither, or a number is 0 or beyond `LARGEST`.
    """
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", part) for part in parts):
        raise ValueError(f"input size {text!r} must look like 224 or 3x224x224")
    channels, height, width = (3, int(parts[0]), int(parts[0])) if len(parts) == 1 else map(int, parts)
    if not all(1 <= number <= LARGEST for number in (channels, height, width)):
        raise ValueError(f"input size {text!r} must have numbers from 1 to {LARGEST:,}")
    return channels, height, width


def text_of(value: Any, column: str = "") -> str:
    """Return a value as a cell of a table.

    Args:
        value: A number, text, sequence or mapping.
        column: Heading of its column. Headings that begin with "input" hold sizes.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key.removeprefix('aten::')} {n}" for key, n in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ("x" if column.startswith("input") else " ").join(map(str, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value in ("", None) else str(value)


def print_table(rows: Sequence[Mapping[str, Any]], numbers: Collection[str] = ()) -> None:
    """Print rows as a table.

    Args:
        rows: Column -> cell, for each row.
        numbers: Columns that are aligned to the right.
    """
    from tabulate import tabulate

    align = ["right" if column in numbers else "left" for column in rows[0]]
    print(tabulate([list(row.values()) for row in rows], headers=list(rows[0]), colalign=align, disable_numparse=True))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))
