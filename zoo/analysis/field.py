"""Receptive fields: the pixels of the image that a position of a map depends on.

The field comes from the operators that ran (`zoo.analysis.flow`), by interval arithmetic from one position of the map
back to the image, one axis at a time. The result is the smallest rectangle around all pixels that are read. It holds
for up-sampling, dilation, pooling with and without ``ceil_mode``, slices, concatenations and any graph of them,
after Araujo et al. 2019 (Computing receptive fields of convolutional neural networks, Distill), whose recursion has
whole strides only. Two things widen the rectangle: a map that is flattened to a row of positions is read by whole rows,
and an operator without a rule (`zoo.analysis.reads.RULES`) by the whole map, which the result says.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from math import prod
from typing import Any

from torch import nn

from zoo import registry
from zoo.analysis.flow import Flow, Op, record
from zoo.analysis.nets import Options, expand, open_net, own_size
from zoo.analysis.outcome import Outcome, finish, plain, styles
from zoo.analysis.reads import Box, reads

GATES = ("constant", "whole")
"""Treatments of gates, factors that are one number a channel: constants, or maps that read the whole image."""
FEATURES = "features"
"""Name of the map in front of pooling and classifier, which no module of its own need give."""


@dataclass(frozen=True)
class Field:
    """Receptive field of the centre of a map.

    Attributes:
        module: Module that gives the map.
        shape: Channels, height and width of the map.
        size: Height and width of the field as if the image had no end, in pixels; of the image if it is read whole.
        rows: First and last row of this image in the field.
        columns: First and last column.
        whole: Modules through which the whole image is read, such as the pooling of a gate.
    """

    module: str
    shape: tuple[int, ...]
    size: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    whole: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Return the field as a row of a table."""
        return {
            "module": self.module,
            "channels": self.shape[0],
            "map": f"{self.shape[1]}x{self.shape[2]}",
            "field": f"{self.size[0]}x{self.size[1]}",
            "rows": f"{self.rows[0]}-{self.rows[1]}",
            "columns": f"{self.columns[0]}-{self.columns[1]}",
            "whole image through": " ".join(self.whole),
        }


def receptive_fields(
    net: nn.Module,
    modules: Sequence[str] | None = None,
    *,
    input_size: Sequence[int] = (3, 224, 224),
    gates: str = "constant",
) -> list[Field]:
    """Return the receptive fields of the centres of maps.

    Args:
        net: Any net that takes an image, of this package or not.
        modules: Modules whose maps are asked for. Default: the taps that the net names (``feature_info``), and the map
            in front of pooling and classifier, called ``features``.
        input_size: Channels, height and width of the image.
        gates: ``constant`` leaves gates out, as the literature does for squeeze and excite; ``whole`` follows them.

    Raises:
        ValueError: If a word or a module is unknown, a map is no map, or the net does not take images of this size.
    """
    if gates not in GATES:
        raise ValueError(f"gates ({gates!r}) must be one of {', '.join(GATES)}")
    flow = record(net, input_size, features=True)
    return [field_of(flow, value, name, gates) for name, value in _maps(net, flow, modules).items()]


def _maps(net: Any, flow: Flow, modules: Sequence[str] | None) -> dict[str, int]:
    if modules is not None:
        return {name: flow.result if name == FEATURES else flow.output_of(name) for name in modules}
    ran = {call.module for call in flow.calls}
    taps = [tap["module"] for tap in getattr(net, "feature_info", None) or []]
    found = {name: flow.output_of(name) for name in taps if name in ran}
    shape = flow.shapes[flow.result]
    if len(shape) == 4 and prod(shape[2:]) > 1 and flow.result not in found.values():
        found[FEATURES] = flow.result
    if not found:
        raise ValueError("modules must name maps: this net names no taps and does not end in a map")
    return found


def field_of(flow: Flow, value: int, name: str, gates: str = "constant") -> Field:
    """Return the field of the centre of one recorded map.

    Args:
        flow: Record of the forward pass.
        value: Number of the map.
        name: Name for the result.
        gates: One of ``GATES``.

    Raises:
        ValueError: If the value is not of shape (N, C, H, W).
    """
    shape = flow.shapes[value]
    if len(shape) != 4:
        raise ValueError(f"module ({name!r}) gives shape {shape}; a field belongs to a map (N, C, H, W)")
    centre: Box = ((0, 0), (0, shape[1] - 1), *((side // 2, side // 2) for side in shape[2:]))
    free, whole = _back(flow, value, centre, gates, clip=False)
    clipped, _ = _back(flow, value, centre, gates, clip=True)
    height, width = flow.shapes[0][2:]
    spans = [(0, size - 1) if span is None else span for span, size in zip(clipped[2:], (height, width), strict=True)]
    size = tuple(
        side if span is None or whole else span[1] - span[0] + 1
        for span, side in zip(free[2:], (height, width), strict=True)
    )
    return Field(name, shape[1:], (size[0], size[1]), spans[0], spans[1], whole)


def region_of(flow: Flow, value: int, position: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return first and last row, and first and last column, that a position of a map depends on, gates left out.

    They may lie outside of the image; if the whole image is read they are its own.

    Args:
        flow: Record of the forward pass.
        value: Number of the map.
        position: Row and column in the map.
    """
    box: Box = ((0, 0), (0, flow.shapes[value][1] - 1), *((place, place) for place in position))
    free, whole = _back(flow, value, box, "constant", clip=False)
    rows, columns = (
        (0, side - 1) if span is None or whole else span
        for span, side in zip(free[2:], flow.shapes[0][2:], strict=True)
    )
    return rows, columns


def _back(flow: Flow, value: int, box: Box, gates: str, *, clip: bool) -> tuple[Box, tuple[str, ...]]:
    """Carry a box back to the image; return it and the modules that read whole maps.

    Args:
        flow: Record of the forward pass.
        value: Number of the map that the box is of.
        box: The box.
        gates: One of ``GATES``.
        clip: Leave out positions outside of the maps, which no map has. Without, the image has no end.
    """
    boxes: dict[int, Box] = {value: box}
    through: dict[str, None] = {}
    for op in reversed(flow.ops):
        for output, number in enumerate(op.outputs):
            if number not in boxes:
                continue
            for source, read in reads(op, output, boxes[number], flow.shapes):
                shape = flow.shapes[source]
                if gates == "constant" and op.pointwise and is_gate(shape, flow.shapes[number]):
                    continue
                if None in read[2:] and len(shape) == 4 and prod(shape[2:]) > 1:
                    through[op.module or op.name] = None
                full = [(0, side - 1) if span is None else span for span, side in zip(read, shape, strict=True)]
                if clip:
                    full = [(max(a, 0), min(b, side - 1)) for (a, b), side in zip(full, shape, strict=True)]
                    if any(a > b for a, b in full):
                        continue
                boxes[source] = _hull(boxes[source], full) if source in boxes else tuple(full)
    if 0 not in boxes:
        raise ValueError("the map does not depend on the image")
    return boxes[0], tuple(through)


def is_gate(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Return True if a factor of one number a channel meets a map."""
    return len(shape) == len(result) == 4 and prod(shape[2:]) == 1 < prod(result[2:])


def _hull(one: Box, other: Sequence[Any]) -> Box:
    return tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))  # ty: ignore


def tap_fields(name: str) -> tuple[str, ...]:
    """Return the fields of a model's taps as texts: the side, ``HxW`` where sides differ, ``image`` for the whole."""
    net: Any = registry.create_model(name, features_only=True, device="meta")
    flow = record(net, registry.model_entry(name).input_size)
    found = (field_of(flow, flow.output_of(module), module) for module in net.feature_info.module_name())
    return tuple("image" if f.whole else "x".join(map(str, dict.fromkeys(f.size))) for f in found)


@cache
def known_fields() -> Mapping[str, tuple[str, ...]]:
    """Return the fields of the taps of all models, as `tap_fields` has measured them once (``docs/fields.py``)."""
    text = resources.files("zoo").joinpath("data", "fields.csv").read_text(encoding="ascii")
    return {row["name"]: tuple(row["fields"].split()) for row in csv.DictReader(text.splitlines())}


@dataclass(frozen=True)
class LayerCost:
    """A convolution with the memory that its output needs and the field so far.

    Attributes:
        module: Name of the convolution.
        shape: Channels, height and width of its output.
        field: Height and width of the field of its output.
        mebibytes: Memory of its output for one image in float32.
    """

    module: str
    shape: tuple[int, ...]
    field: tuple[int, int]
    mebibytes: float


def stacked_maps(net: nn.Module, *, input_size: Sequence[int] = (3, 224, 224)) -> list[LayerCost]:
    """Return, convolution by convolution, the memory of the output and the field so far.

    Training keeps these maps for the backward pass: their sum, times the batch size, is what a field costs.

    Args:
        net: Any net that takes an image.
        input_size: Channels, height and width of the image.
    """
    flow = record(net, input_size, features=True)
    found = []
    for op in _convolutions(flow):
        shape = flow.shapes[op.outputs[0]]
        if prod(shape[2:]) > 1:
            field = field_of(flow, op.outputs[0], op.module)
            found.append(LayerCost(op.module, shape[1:], field.size, 4 * prod(shape) / 2**20))
    return found


def _convolutions(flow: Flow) -> Iterator[Op]:
    return (
        op for op in flow.ops if op.name in ("convolution", "deform_conv2d") and len(flow.shapes[op.outputs[0]]) == 4
    )


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Return the fields of the taps of nets, and what a field costs in memory, convolution by convolution.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``input_size`` and ``gates``.
    """
    rows: list[dict[str, Any]] = []
    layers: dict[str, list[LayerCost]] = {}
    sides = []
    for name, title in expand(names).items():
        net = open_net(name, meta=True)
        size = options.input_size or own_size(net)
        sides.append(size[-1])
        layers[title] = stacked_maps(net, input_size=size)
        fields = receptive_fields(net, input_size=size, gates=options.gates)
        rows += [{"net": title, "image": f"{size[1]}x{size[2]}", **field.row()} for field in fields]
    kept = {name: sum(layer.mebibytes for layer in found) for name, found in layers.items()}
    return Outcome(
        what="receptive-field",
        rows=_layer_rows(layers),
        shown=rows,
        draw=lambda figure: _draw(figure, layers, max(sides)),
        notes=(
            "The field is that of the map's centre, as if the image had no end. Rows and columns are of this image.",
            *(
                f"{name}: the maps of its convolutions take {mebibytes:,.1f} MiB an image"
                for name, mebibytes in kept.items()
            ),
        ),
    )


def _layer_rows(layers: dict[str, list[LayerCost]]) -> list[dict[str, Any]]:
    rows = []
    for name, found in layers.items():
        for i, layer in enumerate(found, 1):
            chs, height, width = layer.shape
            sizes = {"channels": chs, "height": height, "width": width}
            fields = {"field_height": layer.field[0], "field_width": layer.field[1]}
            memory = {"MiB": round(layer.mebibytes, 6), "MiB_so_far": round(sum(x.mebibytes for x in found[:i]), 6)}
            rows.append({"net": name, "convolution": i, "module": layer.module, **sizes, **fields, **memory})
    return rows


def _draw(figure: Any, layers: dict[str, list[LayerCost]], side: int) -> None:
    by_depth, by_memory = figure.subplots(1, 2, sharey=True)
    for name, looks in styles(list(layers)):
        found = layers[name]
        widest = list(accumulate((layer.field[1] for layer in found), max))
        by_depth.plot(range(1, len(found) + 1), widest, **looks)
        by_memory.plot(list(accumulate(layer.mebibytes for layer in found)), widest, **looks)
    for axes in (by_depth, by_memory):
        axes.set_yscale("log", base=2)
        axes.axhline(side, color="0.4", linestyle=(0, (4, 2)), linewidth=0.8)
    by_memory.set_xscale("log")
    for axis in (by_depth.yaxis, by_memory.xaxis):
        plain(axis)
    by_depth.annotate("side of the image", (1, side), (2, 3), textcoords="offset points", fontsize=7, color="0.4")
    finish(by_depth, "convolution, in the order of the pass", "largest receptive field so far [pixels]")
    finish(by_memory, "maps of all convolutions so far [MiB an image]", "", legend=False)
