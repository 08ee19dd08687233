"""The schema of a result line, and its only checker: required fields and permitted values.

A line is one JSON object, of one of three kinds:

- a *training*: a finished run of `zoo bench`, with a score such as ``test_accuracy``;
- a *timing*: a case of `zoo speed`, with ``speed`` as its ``kind``;
- a *failure*: a run that ended with an ``error``. If requested again, it is tried again.

New lines hold the number of the schema. Older lines without it stay readable. A reader may rely on every field of its
kind in `REQUIRED`, and on every field in `OPTIONAL` that is present and not null. Other fields may hold any JSON value
within the limits on length, depth and size below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.results.metrics import METRICS
from zoo.results.run import CLASSIFY

SCHEMA = 1
SPEED = "speed"
"""Value of the field ``kind`` in a timing."""
Line = dict[str, Any]
LineKind = Literal["training", "timing", "failure"]

# Limits on every value, known or not. They are far from what any run gives, and keep a reader fast.
LONGEST_LINE = 1 << 24  # bytes
LONGEST_TEXT = 100_000  # characters
LONGEST_NAME = 1000
DEEPEST = 32
LARGEST = 1e39  # a loss in float32 reaches 3.4e38
LARGEST_COUNT = 10**15


@dataclass(frozen=True)
class Values:
    """Permitted values of a field.

    Attributes:
        words: Description of the values, as used in errors.
        accept: Function that returns True for a permitted value.
    """

    words: str
    accept: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(longest: int, least: int = 0) -> Values:
    words = f"a text of {least} to {longest:,} characters"
    return Values(words, lambda value: isinstance(value, str) and least <= len(value) <= longest)


def _whole(least: int) -> Values:
    words = f"a whole number from {least} to 10^15"
    return Values(words, lambda value: _is_whole(value) and least <= value <= LARGEST_COUNT)


KNOWN = Values(
    f"at most {SCHEMA}: a later zoo wrote the line, update this one",
    lambda value: _is_whole(value) and 0 < value <= SCHEMA,
)
TASK = Values(f"one of {', '.join(METRICS)}", lambda value: isinstance(value, str) and value in METRICS)
NAME = _text(LONGEST_NAME, 1)
WORDS = _text(LONGEST_NAME)
TEXT = _text(LONGEST_TEXT)
COUNT = _whole(0)
POSITIVE = _whole(1)
NUMBER = Values("a number from 0 to 10^15", lambda value: _is_number(value) and 0 <= value <= LARGEST_COUNT)
SHARE = Values("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
SEED = Values("a whole number of at most 64 bits", lambda value: _is_whole(value) and abs(value) < 2**64)
FLAG = Values("true or false", lambda value: isinstance(value, bool))
OBJECT = Values("an object", lambda value: isinstance(value, dict))
OBJECTS = Values("a list of objects", lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value))
CALLS = Values(
    "an object of whole numbers", lambda value: isinstance(value, dict) and all(map(COUNT.accept, value.values()))
)
TEXTS = Values(
    "a list of texts", lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value)
)
NUMBERS = Values("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value)))
SHARES = Values(
    "a list of numbers in [0, 1] and null",
    lambda value: isinstance(value, list) and all(share is None or SHARE.accept(share) for share in value),
)
MATRIX = Values(
    "a square matrix of whole numbers",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(row, list) and len(row) == len(value) and all(map(COUNT.accept, row)) for row in value)
    ),
)
IMAGE = Values(
    "a list of channels, height and width",
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(POSITIVE.accept, value)),
)

EVERY: Mapping[str, Values] = {"key": NAME, "name": NAME}
REQUIRED: Mapping[LineKind, Mapping[str, Values]] = {
    "training": {
        "family": NAME,
        "counts.params": POSITIVE,
        "counts.macs": POSITIVE,
        "counts.activations": COUNT,
        "counts.uncounted": CALLS,
        "dataset.name": NAME,
        "dataset.test": POSITIVE,
        "recipe": OBJECT,
        "seed": SEED,
        "seconds": NUMBER,
    },
    "timing": {
        "case.mode": NAME,
        "case.batch_size": POSITIVE,
        "case.input_size": IMAGE,
        "images_per_second": NUMBER,
    },
    "failure": {"error": TEXT},
}
OPTIONAL: Mapping[str, Values] = {
    "schema": KNOWN,
    "task": TASK,
    "overrides": OBJECT,
    "display": TEXT,
    "head": WORDS,
    "frozen": FLAG,
    "recipe_name": WORDS,
    "spec": OBJECT,
    "stages": OBJECTS,
    "taps": OBJECTS,
    "epochs": OBJECTS,
    "dataset.input_size": IMAGE,
    "dataset.fingerprint": WORDS,
    "dataset.num_classes": POSITIVE,
    "dataset.classes": TEXTS,
    "dataset.mean": NUMBERS,
    "dataset.std": NUMBERS,
    "computed.layout": WORDS,
    "standard_error": SHARE,
    "macro_f1": SHARE,
    "class_accuracy": SHARES,
    "class_iou": SHARES,
    "confusion": MATRIX,
    "images_per_second": NUMBER,
    "peak_memory": COUNT,
    "seed": SEED,
    "case.layout": WORDS,
    "case.dtype": WORDS,
    "case.compile": FLAG,
    "case.fuse": FLAG,
    "case.lean": FLAG,
    "versions": OBJECT,
    "device": OBJECT,
    "device.name": WORDS,
    "device.threads": COUNT,
    "git_revision": WORDS,
    "weights": WORDS,
    "first_weights": WORDS,
    "digest": WORDS,
    "freeze": WORDS,
    "validation": SHARE,
    "finished_at": WORDS,
    "traceback": TEXT,
}


class NoJSONError(ValueError):
    """Error for text that is no JSON, perhaps because the line was cut off."""


def score_key(line: Mapping[str, Any]) -> str:
    """Return the name of the field that holds a training's score, such as ``test_accuracy``."""
    return f"test_{METRICS[task_of(line)].key}"


def task_of(line: Mapping[str, Any]) -> str:
    """Return the task of a line. Lines without a task, from before there were other tasks, are of classification."""
    return line.get("task") or CLASSIFY


def kind_of(line: Mapping[str, Any]) -> LineKind:
    """Return the kind of a line.

    Raises:
        ValueError: If the line is of none of the three kinds.
    """
    kind = line.get("kind")
    if kind == SPEED:
        return "timing"
    if kind is not None:
        raise ValueError(f"kind ({kind!r:.40}) must be {SPEED!r} or absent")
    if line.get("error") is not None:
        return "failure"
    if line.get(score_key(line)) is None:
        raise ValueError(f"the line has neither a score ({score_key(line)!r}) nor an 'error'")
    return "training"


def parse(content: bytes) -> Line:
    """Return the line that a text holds.

    Raises:
        NoJSONError: If the text is no JSON.
        ValueError: If it is no result line; the message names the field.
    """
    if len(content) > LONGEST_LINE:
        raise ValueError(f"the line has {len(content):,} bytes, more than the {LONGEST_LINE:,} of any result")
    try:
        line = json.loads(content.decode(), object_pairs_hook=_object)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NoJSONError(f"the line is no JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"the line is nested more than {DEEPEST} levels deep") from error
    if not isinstance(line, dict):
        raise ValueError(f"the line ({line!r:.40}) must be an object")
    check(line)
    return line


def check(line: Line) -> None:
    """Raise ValueError, naming the field, unless a line follows the schema."""
    _check_limits(line)
    for name, values in EVERY.items():
        _check(line, name, values)
    for name, values in OPTIONAL.items():
        if _look_up(line, name) is not None:
            _check(line, name, values)
    kind = kind_of(line)
    for name, values in REQUIRED[kind].items():
        _check(line, name, values)
    if kind == "training":
        _check(line, score_key(line), SHARE)
        trivial = score_key(line).replace("test_", "trivial_")
        if line.get(trivial) is not None:
            _check(line, trivial, SHARE)


def _object(pairs: list[tuple[str, Any]]) -> Line:
    found: Line = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.40} stands twice in one object")
        found[name] = value
    return found


def _check(line: Line, name: str, values: Values) -> None:
    value = _look_up(line, name)
    if not values.accept(value):
        raise ValueError(f"{name} ({value!r:.40}) must be {values.words}")


def _look_up(line: Any, name: str) -> Any:
    for part in name.split("."):
        line = line.get(part) if isinstance(line, dict) else None
    return line


def _check_limits(line: Line) -> None:
    """Raise ValueError if any value, known or not, is too long, too deep or too large."""
    for field, whole in line.items():
        pending: list[tuple[Any, int]] = [(field, 1), (whole, 1)]
        while pending:
            value, depth = pending.pop()
            if isinstance(value, dict | list):
                if depth == DEEPEST:
                    raise ValueError(f"{field!r:.40} is nested more than {DEEPEST} levels deep")
                parts = [*value, *value.values()] if isinstance(value, dict) else value
                pending += [(part, depth + 1) for part in parts]
            elif isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise ValueError(f"{field!r:.40} holds a text of more than {LONGEST_TEXT:,} characters")
            elif _is_number(value) and not -LARGEST <= value <= LARGEST:
                raise ValueError(f"{field!r:.40} ({value!r:.40}) must hold finite numbers up to 1e39")
