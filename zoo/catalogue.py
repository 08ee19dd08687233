"""Count many nets by name, using several processes for a long list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from zoo.complexity import Complexity, count
from zoo.interrupts import for_parent_alone
from zoo.registry import create_model, model_entry

SHORT = 12
"""Number of names that one process counts before a second one has started."""
_held: list[torch.library.Library] = []  # what `_idle_convolutions` sets holds as long as its library lives


def count_names(
    names: Sequence[str], size: tuple[int, int, int] | None = None, workers: int = 1
) -> Iterator[Complexity]:
    """Count nets for one image each, in the order of their names.

    Args:
        names: Names of the zoo, or ``timm:NAME`` for timm's nets.
        size: (C, H, W) of the image. Default: each net's own.
        workers: Largest number of processes. A short list is counted in the calling process. In worker processes large
            convolutions return zeros, which changes a count only if the net's computation depends on values. Scripts
            with more than one worker need the guard ``if __name__ == "__main__"``.

    Raises:
        ValueError: If a name is unknown, or a net does not take the size.
    """
    one = partial(_count, size)
    if workers == 1 or len(names) <= SHORT:
        yield from map(one, names)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _idle_convolutions) as pool:
        with for_parent_alone():
            results = pool.map(one, names)
        yield from results


def _idle_convolutions() -> None:
    """Make convolutions of oneDNN return zeros in this process, which only counts.

    Half of the time of a catalogue goes into the few nets for large images, and only shapes matter. This is the last
    step of a convolution: the calling code has checked channels and sizes, and the trace has recorded it.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl("mkldnn_convolution", _shaped_convolution, "CPU")
    _held.append(library)


def _shaped_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    sizes = zip(x.shape[2:], weight.shape[2:], padding, stride, dilation, strict=True)
    spatial = [(size + 2 * pad - spread * (kernel - 1) - 1) // step + 1 for size, kernel, pad, step, spread in sizes]
    return x.new_zeros((x.shape[0], weight.shape[0], *spatial))


def _count(size: tuple[int, int, int] | None, name: str) -> Complexity:
    try:
        entry = model_entry(name)
    except ValueError:  # timm's own, or unknown: then this raises with what is close
        return count(create_model(name), size)
    return count(create_model(name, device="meta"), size or entry.input_size)
