"""Progress of analyses, whose passes through a net take minutes."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

PATIENCE = 2.0
"""Seconds before a bar appears."""
Step = TypeVar("Step")


def told(steps: Iterable[Step], what: str) -> Iterator[Step]:
    """Yield steps, and show on a terminal how many are done, once they have taken two seconds.

    Args:
        steps: The steps.
        what: Words beside the bar.
    """
    yield from tqdm(steps, what, delay=PATIENCE, leave=False, disable=None, dynamic_ncols=True, unit="step")
