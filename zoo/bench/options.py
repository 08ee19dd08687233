"""What the verbs of the command line share: how texts become values, devices and errors."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

DESCRIPTION = argparse.RawDescriptionHelpFormatter


def run_verb(args: argparse.Namespace) -> int:
    """Run what a parser chose and return the exit status: 0, 1 for a failed run, 2 for a wrong request."""
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ValueError as error:
        print(f"zoo: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"zoo: error: {error}", file=sys.stderr)
        return 1
    return status


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


def require(*modules: str) -> None:
    """Raise ValueError, naming the extra, unless all modules are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"module {module!r} is not installed: pip install 'backbone-zoo[bench]'")


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
