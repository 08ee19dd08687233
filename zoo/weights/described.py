"""Check descriptions of weights: timm's ``pretrained_cfg`` from a user, a folder's ``config.json`` or the hub.

They are read by timm and by us long after the net is built: sizes and means when pictures are prepared, names of
classes when pictures are named. A wrong one is an error here, before anything is built.
"""

import json
import math
import numbers
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.escape import for_terminal
from zoo.weights.words import first_line, short

CONFIG = "config.json"
LARGEST_SIDE = 2**16
"""Largest number of channels, and of pixels a side. No image has more."""


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    return whole and len(value) == 3 and all(0 < n <= LARGEST_SIDE for n in value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 2


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_channels(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_number, value))


def _are_divisors(value: Any) -> bool:
    return _are_channels(value) and all(n > 0 for n in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_size, "be three whole numbers: channels, height and width"),
    "test_input_size": (_is_size, "be three whole numbers: channels, height and width"),
    "mean": (_are_channels, "be finite numbers, one for each channel"),
    "std": (_are_divisors, "be finite numbers above 0, one for each channel"),
    "crop_pct": (_is_share, "be a number above 0, at most 2"),
    "test_crop_pct": (_is_share, "be a number above 0, at most 2"),
    "crop_mode": (_is_text, "be a text"),
    "interpolation": (_is_text, "be a text"),
    "num_classes": (_is_count, "be a whole number from 0"),
    "label_names": (_are_names, "be a list of texts"),
    "url": (_is_text, "be a text"),
    "file": (lambda value: isinstance(value, str | Path), "be a path"),
    "hf_hub_id": (_is_text, "be a text"),
    "hf_hub_filename": (_is_text, "be a text"),
}
"""For each field that is read: a function that returns True for a permitted value, and the rule in words."""


def check_description(values: Mapping[str, Any], source: str = "pretrained_cfg") -> None:
    """Raise ValueError, naming source and field, unless the fields of a description that are read are right.

    Args:
        values: Fields by name; None is none.
        source: Place that the description is from.
    """
    for name, (accept, rule) in RULES.items():
        value = values.get(name)
        if value is not None and not accept(value):
            raise ValueError(f"{source}: {name} ({short(repr(value))}) must {rule}")
    channels = (values.get("input_size") or (3,))[0]
    for name in ("mean", "std"):
        value = values.get(name)
        if value is not None and len(value) not in (1, 3, channels):
            raise ValueError(f"{source}: {name} has {len(value)} numbers for an image of {channels} channels")


def check_folder(name: str, folder: str, known: Callable[[str], bool]) -> None:
    """Raise ValueError unless a folder describes a net as timm's ``local-dir:`` reads it.

    Args:
        name: Name that the user gave, for the error.
        folder: The folder.
        known: Returns True for the name of a net that can be made.
    """
    path = Path(folder) / CONFIG
    given = f"name ({for_terminal(name)!r}): {for_terminal(path)}"
    if not path.is_file():
        raise ValueError(f"{given} is not there: the folder must be one that zoo bench or save_for_hf has written")
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{given} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{given} must hold an object, not {short(repr(found))}")
    for field in ("pretrained_cfg", "model_args"):
        if not isinstance(found.get(field, {}), dict):
            raise ValueError(f"{given}: {field} ({short(repr(found[field]))}) must be an object")
    architecture = found.get("architecture")
    if not isinstance(architecture, str) or not known(architecture.partition(".")[0]):
        raise ValueError(f"{given}: architecture ({short(repr(architecture))}) must be the name of a net")
