"""Old names of `zoo.weights.reader` and `zoo.weights.sources`. They are removed in the release after 0.1."""

import os
import warnings
from typing import Any

from torch import Tensor

from zoo.weights import reader, sources


def _fetch(url: str, **options: Any) -> dict[str, Tensor]:
    with sources.fetched(url, **options) as stored:
        return {name: tensor.read() for name, tensor in stored.items()}


def _find_in_folder(folder: str | os.PathLike[str]) -> Any:
    try:
        return reader.find_in_folder(folder)
    except reader.Refused as refused:
        raise ValueError(f"{folder}: {refused}") from None


_NEW = {
    "read": ("zoo.weights.reader.opened", reader.read),
    "fetch": ("zoo.weights.sources.fetched", _fetch),
    "cached_path": ("zoo.weights.sources.cached_path", sources.cached_path),
    "find_in_folder": ("zoo.weights.reader.find_in_folder", _find_in_folder),
    "find_in_hub": ("zoo.weights.sources.find_in_hub", sources.find_in_hub),
}


def __getattr__(name: str) -> Any:
    if name not in _NEW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, value = _NEW[name]
    warnings.warn(f"zoo.checkpoint.{name} is {place}", DeprecationWarning, stacklevel=2)
    return value
