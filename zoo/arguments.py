"""Check arguments of nets for type, range and finiteness before anything is built.

Every function returns the value in the form that nets need. It raises ValueError with argument, value and rule.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from zoo.layer_types import ACTS, NORMS, LayerType, norm_name

POOLS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")
"""Global poolings by timm's names; ``""`` stands for none."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST = 2**31 - 1
"""Largest whole number that is accepted. Whether a net is too large is checked elsewhere (`zoo.bounds`)."""


def wrong(name: str, value: Any, rule: str) -> ValueError:
    """Return the error for a value that breaks a rule."""
    return ValueError(f"{name} ({value!r}) must {rule}")


def listed(given: Mapping[str, Any]) -> str:
    """Return arguments and their values as text for an error."""
    return ", ".join(f"{name} ({value!r})" for name, value in given.items())


def is_whole(value: Any) -> bool:
    """Return True if a value is a whole number; True and 10.0 are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """Return a whole number from ``least`` to ``most``."""
    if not is_whole(value):
        raise wrong(name, value, "be a whole number")
    if not least <= value <= most:
        raise wrong(name, value, f"be a whole number from {least} to {most}")
    return int(value)


def text(name: str, value: Any) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise wrong(name, value, "be a text")
    return value


def path(name: str, value: Any) -> Path:
    """Return a path."""
    if not isinstance(value, str | Path):
        raise wrong(name, value, "be a path")
    return Path(value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{name} must be a list of texts, got {value!r}")
    return tuple(value)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a mapping as a dict; an empty one for None."""
    if not isinstance(value, Mapping | None):
        raise wrong(name, value, "be a dict")
    return dict(value or {})


def image_size(name: str, value: Any) -> tuple[int, int, int]:
    """Return channels, height and width of an image."""
    size = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not isinstance(size, tuple) or len(size) != 3 or not all(is_whole(n) and n > 0 for n in size):
        raise ValueError(f"{name} {size!r} must be three positive integers (C, H, W)")
    return int(size[0]), int(size[1]), int(size[2])


def share(name: str, value: Any) -> float:
    """Return a number in [0, 1)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise wrong(name, value, "be a number")
    if not 0 <= value < 1:  # nan is in no range
        raise wrong(name, value, "lie in [0, 1)")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return a finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise wrong(name, value, "be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0."""
    if finite(name, value) <= 0:
        raise wrong(name, value, "be positive")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise wrong(name, value, "be True or False")
    return value


def one_of(name: str, value: Any, choices: Collection[str], also: str = "") -> str:
    """Return one of the words in ``choices``."""
    if not isinstance(value, str) or value not in choices:
        close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
        hint = f"; did you mean {close[0]}?" if close else ""
        raise wrong(name, value, f"be one of {', '.join(choices)}{also}{hint}")
    return value


def pooling(name: str, value: Any) -> str:
    """Return the name of a global pooling, or ``""``."""
    return value if value == "" else one_of(name, value, POOLS, ', or "" for none')


def norm(name: str, value: Any) -> LayerType:
    """Return a norm's name or constructor."""
    return _layer(name, norm_name(value) if isinstance(value, str) else value, tuple(NORMS), "(channels) -> module")


def act(name: str, value: Any) -> LayerType:
    """Return an activation's name or constructor."""
    return _layer(name, value.lower() if isinstance(value, str) else value, ACTS, "() -> module")


def _layer(name: str, value: Any, names: tuple[str, ...], signature: str) -> LayerType:
    callables = f", or a callable {signature}"
    if isinstance(value, torch.nn.Module):
        raise wrong(name, value, f"be a name{callables}, not a module that is made already")
    return value if callable(value) else one_of(name, value, names, callables)


def device(name: str, value: Any) -> torch.device | None:
    """Return a device that torch can use on this machine, or None."""
    if value is None:
        return None
    try:
        place = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise wrong(name, value, "be a device of torch such as cpu, cuda, cuda:1 or meta") from error
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise wrong(name, value, f"be a device that torch can use here: {reason[0]}") from error
    return place


def dtype(name: str, value: Any) -> torch.dtype | None:
    """Return a type that nets can be trained in, or None."""
    if value is None or value in DTYPES:
        return value
    raise wrong(name, value, f"be one of {', '.join(map(str, DTYPES))}")


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "str": text,
    "bool": flag,
    "Path": path,
    "Sequence[str]": texts,
    "Mapping[str, Any]": mapping,
    "Mapping[str, Sequence[Any]]": mapping,
}
"""Check of an attribute, by its type as it is written."""


def check_types(record: Any) -> None:
    """Check the attributes of a dataclass by the types that are written there, those in ``CHECKS``.

    Args:
        record: The dataclass, of a module with ``from __future__ import annotations``. None is what it is elsewhere.
    """
    for field in dataclasses.fields(record):
        kind, value = str(field.type), getattr(record, field.name)
        optional = kind.endswith(" | None")
        check = CHECKS.get(kind.removesuffix(" | None"))
        if check is not None and not (optional and value is None):
            check(field.name, value)


def tap_indices(name: str, value: Any, taps: int, remark: str = "") -> tuple[int, ...]:
    """Return numbers of feature taps, from 0.

    Args:
        name: Name of the argument.
        value: Numbers of taps, from 0 or backwards from -1. As in timm, a single number n above 0 means the last n
            taps, and any other single number means one tap.
        taps: Number of taps.
        remark: Text that the error adds.
    """
    single = is_whole(value)
    numbers_given: Iterable[Any] = (value,) if single else value
    if not single and (isinstance(value, str) or not isinstance(value, Iterable)):
        raise wrong(name, value, "be whole numbers of taps, or one number n for the last n taps")
    wanted = tuple(islice(numbers_given, taps + 1))  # more cannot be right, and some have no end
    if not all(map(is_whole, wanted)):
        raise wrong(name, value, "hold whole numbers only")
    if single and 0 < value <= taps:
        return tuple(range(taps - value, taps))
    if not wanted or any(not -taps <= i < taps for i in wanted):
        rule = f"name taps from 0 to {taps - 1} or from -{taps} to -1, or be a number n from 1 to {taps} for the last n"
        raise wrong(name, value, rule + remark)
    take = tuple(int(i) % taps for i in wanted)
    if len(set(take)) < len(take):
        raise wrong(name, value, "name each tap once")
    return take
