"""The nets that are compared on scenes of garments: eight topologies with taps of strides 2 to 32, of one size.

A model is net and head together, so each task has widths of its own: parameters of whole models are within 5 % of those
of the fish. Fish and fabric take part in a smaller size, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import zoo

HEADS = {"segment": "unet", "detect": "fcos"}
"""Task, and the decoder or detector around every net."""
CLOSE = 0.05
TARGETS = {"segment": {"large": 431_567, "small": 314_863}, "detect": {"large": 509_732, "small": 465_156}}
"""Parameters of the whole model, by task and size: those of the fish."""


@dataclass(frozen=True)
class DenseNetwork:
    """A net of the comparison.

    Attributes:
        label: Of the topology.
        task: Key of `HEADS`.
        size: ``large`` or ``small``.
        preset: Its row in the registry.
        overrides: Changed fields of the specification.
    """

    label: str
    task: str
    size: str
    preset: str
    overrides: Mapping[str, Any] = field(hash=False)


def _chain(*widths: int) -> dict[str, Any]:
    return {"widths": widths, "stem_width": widths[0]}


def _fish(unit: int) -> dict[str, Any]:
    return {
        "stem_width": 2 * unit,
        "tail_widths": (4 * unit, 8 * unit, 16 * unit),
        "body_widths": (16 * unit, 12 * unit, 8 * unit),
    }


def _inception(scale: float) -> dict[str, Any]:
    spec = zoo.model_entry("googlenet_bn").spec
    names = ("ones", "three_reduces", "threes", "five_reduces", "fives", "projections", "stem_widths")
    return {name: tuple(max(1, round(width * scale)) for width in getattr(spec, name)) for name in names}


def _dense(growth: int, stem: int, last: int) -> dict[str, Any]:
    return {"depths": (3, 6, 12, last), "growth_rate": growth, "stem_width": stem}


_ROWS: Mapping[str, Mapping[tuple[str, str], tuple[str, Mapping[str, Any]]]] = {
    "segment": {
        ("plain", "large"): ("plain18", _chain(9, 18, 37, 74)),
        ("ResNet", "large"): ("resnet18", _chain(9, 18, 37, 74)),
        ("pre-activation", "large"): ("preresnet18", _chain(9, 18, 37, 74)),
        ("DenseNet", "large"): ("densenet121", _dense(7, 20, 10)),
        ("VGG", "large"): ("vgg11_bn", {"widths": (9, 18, 36, 72, 72)}),
        ("GoogLeNet", "large"): ("googlenet_bn", _inception(9.25 / 64)),
        ("FishNet", "large"): ("fishnet_test", _fish(3)),
        ("fabric", "large"): ("fabric_test", {"channels": (32, 52, 68, 84)}),
        ("FishNet", "small"): ("fishnet_test", _fish(2)),
        ("fabric", "small"): ("fabric_test", {"channels": (24, 36, 48, 60)}),
    },
    "detect": {
        ("plain", "large"): ("plain18", _chain(6, 12, 23, 46)),
        ("ResNet", "large"): ("resnet18", _chain(6, 11, 22, 44)),
        ("pre-activation", "large"): ("preresnet18", _chain(6, 11, 22, 44)),
        ("DenseNet", "large"): ("densenet121", _dense(6, 12, 8)),
        ("VGG", "large"): ("vgg11_bn", {"widths": (6, 12, 24, 48, 48)}),
        ("GoogLeNet", "large"): ("googlenet_bn", _inception(7.25 / 64)),
        ("FishNet", "large"): ("fishnet_test", _fish(3)),
        ("fabric", "large"): ("fabric_test", {"channels": (24, 36, 48, 60)}),
        ("FishNet", "small"): ("fishnet_test", _fish(2)),
        ("fabric", "small"): ("fabric_test", {"channels": (16, 24, 32, 36)}),
    },
}

NETWORKS = tuple(
    DenseNetwork(label, task, size, preset, overrides)
    for task, rows in _ROWS.items()
    for (label, size), (preset, overrides) in rows.items()
)
FLOOR = "ResNet"
"""Topology that is also trained with its random weights frozen: what the head alone reaches."""
