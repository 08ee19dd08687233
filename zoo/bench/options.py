"""What the verbs of the command line share: how texts become values, devices and errors."""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from zoo.results.escape import for_terminal

DESCRIPTION = argparse.RawDescriptionHelpFormatter
PACKAGE = Path(__file__).parents[1]
TRACEBACK = "ZOO_TRACEBACK"
"""Variable of the environment that asks for the traceback of an error."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions: one line, without the usage of the whole verb before it."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with what argparse found, and where the options are explained."""
        raise ValueError(f"{message}; {self.prog} --help explains")


def run_verb(parse: Callable[[], argparse.Namespace]) -> int:
    """Read a request, do it, and return the exit status, whatever happens on the way.

    Every error is one line on standard error; with ``ZOO_TRACEBACK=1`` in the environment it follows its traceback.

    Args:
        parse: Returns what was asked for; its ``run`` does it.

    Returns:
        0; 1 for a failed run; 2 for a wrong request; 130 after Ctrl-C; 141 where the reader of the output has left.
    """
    formatted = warnings.formatwarning
    warnings.formatwarning = _warning_line  # ty: ignore[invalid-assignment]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse()
        status: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        return 141
    except KeyboardInterrupt:
        print("zoo: interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        return _fail(error, str(error), 2)
    except OSError as error:
        if error.filename is None:  # perhaps of the output itself, as on a full disk
            _discard_output()
        return _fail(error, str(error), 1)
    except Exception as error:
        return _fail(error, f"{type(error).__name__}: {error} ({TRACEBACK}=1 shows where)", 1)
    finally:
        warnings.formatwarning = formatted
    return status


def one_line(text: str) -> str:
    """Return a text on one line, and without what a terminal would obey."""
    return for_terminal(" ".join(text.split()))


def _fail(error: Exception, message: str, status: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    print(f"zoo: error: {one_line(message)}", file=sys.stderr)
    return status


def _discard_output() -> None:
    """Send what is still to be printed nowhere, or Python would fail again at its end."""
    with suppress(OSError, ValueError, AttributeError):  # no file, as in a test, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    ours = Path(filename).is_relative_to(PACKAGE)
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
    """Return a text as a Python literal if it reads as one that can be stored, else as it is."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)  # what cannot be stored is no value
    except (ValueError, SyntaxError, TypeError):
        return text
    return value


def parse_size(text: str) -> tuple[int, int, int]:
    """Read `224` (three channels, square) or `CxHxW`.

    Raises:
        ValueError: If the text is neither.
    """
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"input size {text!r} must look like 224 or 3x224x224")
    channels, height, width = (3, int(parts[0]), int(parts[0])) if len(parts) == 1 else map(int, parts)
    return channels, height, width


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise ValueError, naming the option, where its value is too small; None is none."""
    if value is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> str:
    """The device of that name; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: If it is none of torch's, or not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is none of torch's: use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch sees no CUDA; use cpu")
    return name
