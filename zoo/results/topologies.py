"""Topology of a net, with the colour and the mark that stand for it in every picture and on the page.

A topology is finer than a family: the residual family holds plain, residual, pre-activation, wide, aggregated and gated
nets. It is read from the specification that a result line holds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Okabe and Ito 2008: told apart by readers with any common kind of colour blindness; the marks tell the same in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933")
HOURGLASS = ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (-1.0, -1.0))
BOWTIE = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, -1.0))
MARKS: dict[str, Any] = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "triangle-down": "v",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "star": "*",
    "triangle-left": "<",
    "triangle-right": ">",
    "hourglass": HOURGLASS,
    "bowtie": BOWTIE,
    "diamond-tall": "d",
    "diamond-wide": ((-1.0, 0.0), (0.0, 0.55), (1.0, 0.0), (0.0, -0.55), (-1.0, 0.0)),
    "star-diamond": (4, 1, 0),
    "pentagon": "p",
    "triangle-ne": ((-1.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)),
}
"""Marks by their name in plotly, with matplotlib's."""


@dataclass(frozen=True)
class Look:
    """Colour and mark (a key of `MARKS`)."""

    colour: str
    mark: str


TOPOLOGIES = (
    *("plain", "ResNet", "pre-activation", "wide", "ResNeXt", "squeeze-excite", "DenseNet", "VGG", "GoogLeNet"),
    *("highway", "BagNet", "wider ResNet", "FRRN", "LeNet", "FishNet", "fabric", "AlexNet"),
)
"""All topologies, in the order of their marks."""
FAMILIES = {name.lower().replace(" ", "_"): name for name in TOPOLOGIES} | {
    "bn_inception": "GoogLeNet",
    "gridnet": "fabric",
}
"""Topologies of the families that hold one alone, by family."""


def topology_of(family: str, spec: Mapping[str, Any] | None, name: str = "") -> str:
    """Return the topology of a net; its family if that is no family of ours.

    Args:
        family: Family of the net.
        spec: Its specification as a result line holds it; None if there is none.
        name: Its row of the registry, for a wide net differs from others in its widths alone.
    """
    if family != "resnet" or not spec:
        return FAMILIES.get(family, family)
    if spec.get("shortcut") == "none":
        return "plain"
    if spec.get("squeeze"):
        return "squeeze-excite"
    groups = spec.get("groups")
    if isinstance(groups, int) and groups > 1:
        return "ResNeXt"
    if name.startswith("wide_"):
        return "wide"
    return "pre-activation" if spec.get("order") == "pre" else "ResNet"


def looks(topologies: Iterable[str]) -> dict[str, Look]:
    """Return the look of each topology. Others than ours share what is left, in their order."""
    known = {name: number for number, name in enumerate(TOPOLOGIES)}
    marks, found = list(MARKS), {}
    for name in topologies:
        number = known.setdefault(name, len(known))
        found[name] = Look(COLOURS[number % len(COLOURS)], marks[number % len(marks)])
    return found
