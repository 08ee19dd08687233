"""The benchmark: one recipe for every net on images that need no download, resumable, with tables and plots.

From what is asked to the stored line: `recipes`, `data`, `train`, `attempt` (one run), `runner` (a sweep). The lines,
and what is shown of them, are `zoo.results`. `measure` and `speed` time nets side by side. Nothing here knows a family
of models; nets come from `zoo.registry` by name.

>>> from zoo.bench import Request, run
>>> run(Request(models=["resnet20_cifar"], seeds=[0, 1, 2])).path
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.bench.request import Prepared, Request, prepare, run

__all__ = ["Prepared", "Request", "prepare", "run"]


def __getattr__(name: str) -> Any:
    # On demand: `zoo.bench.measure` alone needs nothing that trains.
    if name in __all__:
        from zoo.bench import request

        return getattr(request, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
