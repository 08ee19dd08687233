"""Counts of many nets by name; several processes work on a long list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from zoo.complexity import Complexity, count
from zoo.registry import create_model, model_entry

SHORT = 12
"""Names that are counted sooner here than a second process has started."""


def count_names(
    names: Sequence[str], size: tuple[int, int, int] | None = None, workers: int = 1
) -> Iterator[Complexity]:
    """Count nets in the order of their names, each for one image.

    Args:
        names: Of the zoo, or of timm as ``timm:NAME``.
        size: (C, H, W) of the image; without it, each net's own.
        workers: At most so many processes; a short list is counted in this one. Scripts that ask for more than one need
            the guard ``if __name__ == "__main__"``.

    Raises:
        ValueError: If a name is unknown, or a net does not take the size.
    """
    one = partial(_count, size)
    if workers == 1 or len(names) <= SHORT:
        yield from map(one, names)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(one, names)


def _count(size: tuple[int, int, int] | None, name: str) -> Complexity:
    try:
        entry = model_entry(name)
    except ValueError:  # timm's own, or unknown: then this raises with what is close
        return count(create_model(name), size)
    return count(create_model(name, device="meta"), size or entry.input_size)
