"""Counts of many nets by name; several processes work on a long list."""

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
"""Names that are counted sooner here than a second process has started."""
_held: list[torch.library.Library] = []  # what `_idle_convolutions` sets holds as long as its library lives


def count_names(
    names: Sequence[str], size: tuple[int, int, int] | None = None, workers: int = 1
) -> Iterator[Complexity]:
    """Count nets in the order of their names, each for one image.

    Args:
        names: Of the zoo, or of timm as ``timm:NAME``.
        size: (C, H, W) of the image; without it, each net's own.
        workers: At most so many processes; a short list is counted in this one. In the others large convolutions give
            zeros, which changes no count but that of a net that looks at values. Scripts that ask for more than one
            need the guard ``if __name__ == "__main__"``.

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
    """Let convolutions of oneDNN give zeros in this process, which does nothing but count.

    Half of the time of a catalogue goes into the few nets for large images, and only shapes are looked at. This is the
    last step of a convolution: what calls it has checked channels and sizes, and the trace has recorded it.
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
