"""A choice of nets that shows every structure of every family, for checks that are too dear for all rows.

A structure is a value of one field of a family's specification: each word and each flag; whether a number is 0, 1 or
more; whether a tuple is empty, constant or varied; further the number of taps, and the scale of the images. Rows that
differ in larger numbers only (depths, widths) run the same code.
"""

from collections.abc import Iterable
from typing import Any

import zoo

FORWARDS = ("resnet_test", "densenet_test", "fishnet_test", "fabric_test", "frrn_test", "googlenet_test")
"""One net of each kind of forward: a chain, concatenation, streams, a grid, two paths, branches."""


def structures(name: str) -> frozenset[tuple[str, Any]]:
    """Return the structures that a net shows."""
    entry = zoo.model_entry(name)
    shown: set[tuple[str, Any]] = {
        ("taps", len(entry.spec.tap_strides)),
        ("image", "small" if entry.input_size[-1] <= 64 else "large"),
    }
    for field, value in entry.spec.to_dict().items():
        if isinstance(value, str | bool):
            shown.add((field, value))
        elif isinstance(value, int | float):
            shown.add((field, min(value, 2) if value in (0, 1) or value > 1 else "between"))
        else:
            shown.add((field, ("empty", "constant", "varied")[min(len(set(map(str, value))), 2)]))
    return frozenset((f"{entry.family}.{field}", value) for field, value in shown)


def one_of_each(names: Iterable[str]) -> list[str]:
    """Return few of the nets that together show all that these show; of nets that show as much the smallest.

    The net that adds most is taken first, so the choice is short, not the shortest.
    """
    shown = {name: structures(name) for name in names}
    missing = set().union(*shown.values())
    chosen = []
    while missing:
        best = max(shown, key=lambda name: (len(shown[name] & missing), -zoo.model_entry(name).params, name))
        chosen.append(best)
        missing -= shown[best]
    return sorted(chosen)


def one_a_family(names: Iterable[str]) -> list[str]:
    """Return the smallest net of every family."""
    smallest = {}
    for name in sorted(names, key=lambda name: (-zoo.model_entry(name).params, name)):
        smallest[zoo.model_entry(name).family] = name
    return sorted(smallest.values())
