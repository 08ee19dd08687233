"""Former import paths that the docs have named: for one release they import the moved modules, with a warning.

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
    "zoo.bench.augment": "zoo.datasets.augment",
    "zoo.bench.measure": "zoo.speed.timing",
    "zoo.bench.recipes": "zoo.recipes",
    "zoo.bench.results": "zoo.results.former",
    "zoo.bench.scenes": "zoo.datasets.scenes",
    "zoo.bench.speed": "zoo.speed.cases",
}
"""Former path -> module with its contents."""
SAID = {"zoo.results.former": "zoo.results"}
"""Modules that exist only for a former path -> module to use instead."""


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
        vars(module).update({name: value for name, value in contents.items() if not name.startswith("__")})


def install() -> None:
    """Make the former paths importable."""
    if not any(isinstance(finder, _FormerPaths) for finder in sys.meta_path):
        sys.meta_path.append(_FormerPaths())
