"""How a trained net does on each class, from its result line: for the model card and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONFUSIONS = 5
"""Number of the most frequent confusions that are told."""


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """Figures of a net's classes on the test images.

    Attributes:
        macro_f1: Mean of the F1 scores of the classes, in [0, 1]; None if the line has none.
        names: Names of the classes; numbers if the line has no names.
        accuracies: Share of each class's test images that was named rightly; None for a class without such images.
        confusion: Test images of a class (row) that were given a class (column); empty if the line has no such matrix.
    """

    macro_f1: float | None
    names: tuple[str, ...]
    accuracies: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    def confusions(self) -> list[tuple[str, str, int]]:
        """Return the most frequent confusions, the first one first: true class, named class, number of images."""
        pairs = [
            (self.names[true], self.names[named], number)
            for true, row in enumerate(self.confusion)
            for named, number in enumerate(row)
            if number and true != named
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:CONFUSIONS]


def by_class(line: Mapping[str, Any]) -> ByClass | None:
    """Return the figures of the classes in a checked line; None if it has none, or they do not fit together."""
    accuracies, confusion = line.get("class_accuracy") or [], line.get("confusion") or []
    if not accuracies or (confusion and len(confusion) != len(accuracies)):
        return None
    names = line["dataset"].get("classes")
    named = isinstance(names, list) and len(names) == len(accuracies) and all(isinstance(n, str) for n in names)
    return ByClass(
        macro_f1=line.get("macro_f1"),
        names=tuple(names if named else map(str, range(len(accuracies)))),
        accuracies=tuple(accuracies),
        confusion=tuple(map(tuple, confusion)),
    )
