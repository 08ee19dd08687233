"""The benchmark: one recipe for every net on images that need no download, resumable, with tables and plots.

From request to stored line: `request`, `sweep` (all runs), `engines` (places of computation), `one_run`, `train` (the
loop). `tasks` defines the goals of training, `zoo.recipes` the numbers. Images are in `zoo.datasets`, stored lines and
their display in `zoo.results`, times in `zoo.speed`. Nothing here knows a family of models; nets come from
`zoo.registry` by name.

>>> from zoo.bench import Request, run
>>> run(Request(models=["resnet20_cifar"], seeds=[0, 1, 2])).path
"""

from typing import TYPE_CHECKING, Any

from zoo import former_paths

if TYPE_CHECKING:
    from zoo.bench.request import Prepared, Request, prepare, run

__all__ = ["Prepared", "Request", "prepare", "run"]

former_paths.install()


def __getattr__(name: str) -> Any:
    # On demand: whoever asks for the table of recipes needs nothing that trains.
    if name in __all__:
        from zoo.bench import request

        return getattr(request, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
