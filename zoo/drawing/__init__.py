"""Drawings of nets, made from the nets themselves by one rule for all families.

`graph` traces a net, `boxes` gathers its steps, `layout` places them, `sheet` puts shapes on a sheet, `write` makes the
file. None of them knows a family.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.arguments import image_size
from zoo.drawing.boxes import LEVELS, boxes_of
from zoo.drawing.graph import steps_of
from zoo.drawing.scene import Scene
from zoo.drawing.sheet import Net, compose
from zoo.drawing.write import to_picture, to_svg
from zoo.extras import require
from zoo.files import write_in_folder
from zoo.registry import create_model

__all__ = ["Drawing", "draw"]

KINDS = (".svg", ".png", ".pdf")
MOST_BOXES = 20_000
FIXED = {"device", "dtype", "pretrained", "checkpoint_path"}


class Drawing:
    """A drawing of nets. Notebooks show it.

    Attributes:
        scene: Its shapes.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @property
    def svg(self) -> str:
        """Text of an SVG file."""
        return to_svg(self.scene).decode()

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write the drawing, as SVG, PNG or PDF after the end of the name. PNG and PDF need matplotlib.

        Raises:
            ValueError: If the name ends otherwise, or matplotlib is missing.
            OSError: If the file cannot be written.
        """
        path = check_path(path)
        kind = path.suffix.lower()
        write_in_folder(path, to_svg(self.scene) if kind == ".svg" else to_picture(self.scene, kind.removeprefix(".")))


def check_path(path: str | Path) -> Path:
    """Return the path of a drawing.

    Raises:
        ValueError: If it does not end in one of `KINDS`, or asks for matplotlib, which is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"out ({path}) must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if path.suffix.lower() != ".svg":
        require("bench", "matplotlib")
    return path


def draw(
    *nets: str | nn.Module | tuple[str, Mapping[str, Any]],
    level: str = "units",
    input_size: tuple[int, int, int] | None = None,
    **overrides: Any,
) -> Drawing:
    """Draw nets: boxes from left to right in order of computation, from top to bottom by resolution.

    Everything is read from the nets: they are traced by ``torch.fx`` and run without data and without memory for
    weights. Shortcuts, concatenations and gates are lines, feature taps are marked, and what only taps need is dotted.
    Several nets share one scale.

    Args:
        *nets: Names, pairs of a name and its own overrides, or nets.
        level: ``stages``, ``units`` or ``layers``: how much a box holds.
        input_size: (C, H, W) of the image. Default: the net's own size.
        **overrides: Changes of all nets that are given by name, as in `zoo.create_model`.

    Returns:
        The drawing, to be saved, or shown in a notebook.

    Raises:
        ValueError: If there is no net, a name or an override is wrong, or a net cannot be traced.
        TypeError: If an override belongs to no argument.
    """
    if not nets:
        raise ValueError("nets must name at least one net to draw")
    if level not in LEVELS:
        raise ValueError(f"level ({level!r}) must be one of {', '.join(LEVELS)}")
    return Drawing(compose([_net(net, level, input_size, overrides) for net in nets]))


def _net(
    given: str | nn.Module | tuple[str, Mapping[str, Any]],
    level: str,
    input_size: tuple[int, int, int] | None,
    overrides: Mapping[str, Any],
) -> Net:
    if isinstance(given, nn.Module):
        if overrides:
            raise ValueError(f"overrides ({', '.join(overrides)}) belong to nets given by name, not to a finished net")
        net: Any = copy.deepcopy(given)
        name, own = type(given).__name__, {}
    else:
        pair = (given, {}) if isinstance(given, str) else given
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], Mapping):
            raise ValueError(f"net ({given!r}) must be a name, a pair of a name and a dict of overrides, or a net")
        name, own = pair
        own = {**overrides, **own}
        for key in FIXED & own.keys():
            raise ValueError(f"{key} ({own[key]!r}) cannot be changed: a drawing needs no weights")
        net = create_model(name, **own, **({} if ":" in name else {"device": "meta"}))
    size = image_size("input_size", _own_size(net) if input_size is None else input_size)
    params = sum(p.numel() for p in net.parameters())
    steps = steps_of(net, size)
    boxes, lines = boxes_of(net, steps, level)
    if not boxes:
        raise ValueError(f"net ({name}) has nothing to draw: no layer of it computes a map")
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"net ({name}) has {len(boxes):,} {level}, too many to draw: choose a coarser level")
    changed = "".join(f" + {key}={value}" for key, value in own.items())
    facts = f"{_short(params)} parameters, image {'x'.join(map(str, size))}, {level}"
    return Net(name + changed, facts, boxes, lines)


def _own_size(net: Any) -> tuple[int, int, int]:
    config = getattr(net, "pretrained_cfg", None) or {}
    if "input_size" not in config:
        raise ValueError(f"input_size must be given, for {type(net).__name__} states none: (C, H, W)")
    channels, height, width = config["input_size"]
    return getattr(net, "in_chans", channels), height, width


def _short(number: int) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)
