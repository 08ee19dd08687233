"""Former import paths: for one release they import the moved modules, with a warning.

A row can be removed with the next release.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "zoo.bench.attempt": "zoo.bench.one_run",
    "zoo.bench.augment": "zoo.datasets.augment",
    "zoo.bench.data": "zoo.datasets.built_in",
    "zoo.bench.dense": "zoo.bench.dense_tasks",
    "zoo.bench.images": "zoo.datasets.external",
    "zoo.bench.machine": "zoo.environment",
    "zoo.bench.measure": "zoo.speed.timing",
    "zoo.bench.pictures": "zoo.bench.prediction_pictures",
    "zoo.bench.recipes": "zoo.recipes",
    "zoo.bench.results": "zoo.results.former",
    "zoo.bench.runner": "zoo.bench.sweep",
    "zoo.bench.saved": "zoo.bench.resume",
    "zoo.bench.scenes": "zoo.datasets.scenes",
    "zoo.bench.speed": "zoo.speed.cases",
    "zoo.bench.speed_report": "zoo.speed.table",
    "zoo.bench.team": "zoo.bench.distributed",
}
"""Former path -> module with its contents."""
SAID = {"zoo.results.former": "zoo.results"}
"""Modules that exist only for a former path -> module to use instead."""

RENAMED = {
    "Draws": "BatchDraws",
    "Here": "InProcess",
    "How": "Placement",
    "Moment": "Progress",
    "Where": "DataLocation",
}
"""Former name of a class -> its name; a former path has both."""


class _FormerPaths(MetaPathFinder, Loader):
    """Finder of the modules of `MOVED`, after all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} is now {SAID.get(new, new)}; the former path goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        contents = vars(import_module(new))
        names = {name: name for name in contents if not name.startswith("__")}
        names |= {former: name for former, name in RENAMED.items() if name in contents}
        vars(module).update({shown: contents[name] for shown, name in names.items()})


def install() -> None:
    """Make the former paths importable."""
    if not any(isinstance(finder, _FormerPaths) for finder in sys.meta_path):
        sys.meta_path.append(_FormerPaths())
