"""Arguments of nets, checked for type, range and finiteness before anything is built.

Every function returns the value as the net wants it. It raises ValueError with the argument, the value and the rule.
"""

import difflib
import numbers
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from zoo.layer_types import ACTS, NORMS, LayerType, norm_name

POOLS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")
"""Global poolings by timm's names; ``""`` is none."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST = 2**31 - 1
"""Bound of a whole number; how large a net may be is another question."""


def wrong(name: str, value: Any, rule: str) -> ValueError:
    """The error for a value that breaks a rule."""
    return ValueError(f"{name} ({value!r}) must {rule}")


def listed(given: Mapping[str, Any]) -> str:
    """Arguments and their values for an error."""
    return ", ".join(f"{name} ({value!r})" for name, value in given.items())


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number: True and 10.0 are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """A whole number from ``least`` to ``most``."""
    if not is_whole(value):
        raise wrong(name, value, "be a whole number")
    if not least <= value <= most:
        raise wrong(name, value, f"be a whole number from {least} to {most}")
    return int(value)


def text(name: str, value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise wrong(name, value, "be a text")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A mapping; an empty one for None."""
    if not isinstance(value, Mapping | None):
        raise wrong(name, value, "be a dict")
    return dict(value or {})


def share(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise wrong(name, value, "be a number")
    if not 0 <= value < 1:  # nan is in no range
        raise wrong(name, value, "lie in [0, 1)")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise wrong(name, value, "be True or False")
    return value


def one_of(name: str, value: Any, choices: Collection[str], also: str = "") -> str:
    """One of the words."""
    if not isinstance(value, str) or value not in choices:
        close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
        hint = f"; did you mean {close[0]}?" if close else ""
        raise wrong(name, value, f"be one of {', '.join(choices)}{also}{hint}")
    return value


def pooling(name: str, value: Any) -> str:
    """A global pooling, or ``""``."""
    return value if value == "" else one_of(name, value, POOLS, ', or "" for none')


def norm(name: str, value: Any) -> LayerType:
    """A norm's name or constructor."""
    return _layer(name, norm_name(value) if isinstance(value, str) else value, tuple(NORMS), "(channels) -> module")


def act(name: str, value: Any) -> LayerType:
    """An activation's name or constructor."""
    return _layer(name, value.lower() if isinstance(value, str) else value, ACTS, "() -> module")


def _layer(name: str, value: Any, names: tuple[str, ...], signature: str) -> LayerType:
    callables = f", or a callable {signature}"
    if isinstance(value, torch.nn.Module):
        raise wrong(name, value, f"be a name{callables}, not a module that is made already")
    return value if callable(value) else one_of(name, value, names, callables)


def device(name: str, value: Any) -> torch.device | None:
    """A device that this machine can use, or None."""
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
    """A type that nets can be trained in, or None."""
    if value is None or value in DTYPES:
        return value
    raise wrong(name, value, f"be one of {', '.join(map(str, DTYPES))}")


def tap_indices(name: str, value: Any, taps: int, remark: str = "") -> tuple[int, ...]:
    """Numbers of feature taps, from 0.

    Args:
        name: Of the argument.
        value: Numbers of taps, from 0 or backwards from -1; or one number, of which n above 0 means the last n, as in
            timm, and any other one tap.
        taps: How many there are.
        remark: What the error adds.
    """
    single = is_whole(value)
    numbers_given: Iterable[Any] = (value,) if single else value
    if not single and (isinstance(value, str) or not isinstance(value, Iterable)):
        raise wrong(name, value, "be whole numbers of taps, or one number n for the last n taps")
    wanted = tuple(numbers_given)
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
