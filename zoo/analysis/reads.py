"""Positions that an operator reads to give a box of its result: interval arithmetic, one axis at a time.

A box is an interval (first, last) for each axis of a tensor, both ends included; None stands for all of an axis where
the operator reads it whatever the result's position is. Positions may lie outside of the map: padding.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import ceil, floor, prod
from typing import Any

from zoo.analysis.flow import Op, Value

Span = tuple[int, int] | None
Box = tuple[Span, ...]
Shapes = Sequence[tuple[int, ...]]

FORWARDED = ("_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "native_dropout")
"""Operators that give what they get."""


def reads(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    """Yield the values that an operator reads for a box of one of its outputs, each with the box that is read.

    An operator that nothing here describes reads all of its inputs.

    Args:
        op: The operator.
        output: Position of the output among the operator's.
        box: Box of that output, without None.
        shapes: Shapes of all values by number.
    """
    if op.pointwise or op.name in FORWARDED:
        yield from _broadcast(op, box, shapes)
    elif op.name in RULES:
        yield from RULES[op.name](op, output, box, shapes)
    else:
        for number in op.inputs:
            yield number, (None,) * len(shapes[number])


def _broadcast(op: Op, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    for number in op.inputs:
        shape = shapes[number]
        behind = box[len(box) - len(shape) :]
        yield number, tuple((0, 0) if size == 1 else span for span, size in zip(behind, shape, strict=True))


def _value(op: Op, name: str) -> int:
    return op.arguments[name].number


def _pair(numbers: Any, default: Any = None) -> tuple[Any, Any]:
    numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
    if not numbers:
        return _pair(default)
    return (numbers[0], numbers[-1])


def _window(span: Span, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Map an interval through a window: out x reads x * stride - padding to dilation * (kernel - 1) behind it."""
    assert span is not None
    return span[0] * stride - padding, span[1] * stride - padding + dilation * (kernel - 1)


def _convolution(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    given = op.arguments
    axes = len(box) - 2
    kernel = (shapes[given["weight"].number] if isinstance(given["weight"], Value) else given["weight"].shape)[2:]
    spans: list[Span] = []
    for axis in range(axes):
        stride, padding, dilation = (
            given[name][axis if len(given[name]) > 1 else 0] for name in ("stride", "padding", "dilation")
        )
        span = box[2 + axis]
        assert span is not None
        if given["transposed"]:
            reach = dilation * (kernel[axis] - 1)
            spans.append((ceil((span[0] + padding - reach) / stride), floor((span[1] + padding) / stride)))
        else:
            spans.append(_window(span, kernel[axis], stride, padding, dilation))
    for number in op.inputs:
        if number == getattr(given["input"], "number", None):
            yield number, (box[0], None, *spans)
        else:
            yield number, (None,) * len(shapes[number])


def _deformed(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    """Read as a plain convolution does: with offsets of zero. Offsets and mask are read at the output's positions."""
    given = op.arguments
    kernel = given["weight"].shape[2:]
    spans = [
        _window(box[2 + i], kernel[i], given[f"stride_{a}"], given[f"pad_{a}"], given[f"dilation_{a}"])
        for i, a in enumerate("hw")
    ]
    yield _value(op, "input"), (box[0], None, *spans)
    for name in ("offset", "mask"):
        if isinstance(given[name], Value):
            yield _value(op, name), (box[0], None, *box[2:])


def _pooling(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    given = op.arguments
    kernel = _pair(given["kernel_size"])
    stride, padding, dilation = (
        _pair(given["stride"], kernel),
        _pair(given["padding"]),
        _pair(given.get("dilation", 1)),
    )
    spans = [_window(box[-2 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]
    yield op.inputs[0], (*box[:-2], *spans)


def _adaptive(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    [number, *_] = op.inputs
    sides = zip(box[-2:], shapes[number][-2:], shapes[op.outputs[output]][-2:], strict=True)
    spans = [None if outs == 1 else (s[0] * ins // outs, -(-(s[1] + 1) * ins // outs) - 1) for s, ins, outs in sides]  # ty: ignore
    yield number, (*box[:-2], *spans)


def _resized(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    [number, *_] = op.inputs
    spans = []
    for span, ins, outs in zip(box[-2:], shapes[number][-2:], shapes[op.outputs[output]][-2:], strict=True):
        assert span is not None
        if "nearest" in op.name:
            spans.append((span[0] * ins // outs, span[1] * ins // outs))
        elif op.arguments["align_corners"]:
            step, last = (ins - 1, outs - 1) if outs > 1 else (0, 1)
            spans.append((span[0] * step // last, -(-span[1] * step // last)))  # exact: a corner reads one pixel
        else:
            spans.append((floor((span[0] + 0.5) * ins / outs - 0.5), ceil((span[1] + 0.5) * ins / outs - 0.5)))
    yield number, (*box[:-2], *spans)


def _padded(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    spans = list(box)
    pads = op.arguments["pad" if "pad" in op.arguments else "padding"]
    for i in range(len(pads) // 2):
        span = spans[-1 - i]
        assert span is not None
        spans[-1 - i] = (span[0] - pads[2 * i], span[1] - pads[2 * i])
    yield op.inputs[0], tuple(spans)


def _sliced(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    [number] = op.inputs
    axis, step = op.arguments["dim"] % len(box), op.arguments["step"]
    size, start = shapes[number][axis], op.arguments["start"] or 0
    start = max(start + size, 0) if start < 0 else start
    span = box[axis]
    assert span is not None
    yield number, (*box[:axis], (start + span[0] * step, start + span[1] * step), *box[axis + 1 :])


def _selected(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    [number] = op.inputs
    axis, index = (
        op.arguments["dim"] % len(shapes[number]),
        op.arguments["index"] % max(shapes[number][op.arguments["dim"]], 1),
    )
    yield number, (*box[:axis], (index, index), *box[axis:])


def _concatenated(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    parts = op.arguments["tensors"]
    axis = op.arguments["dim"] % len(box)
    sizes = [shapes[p.number][axis] if isinstance(p, Value) else p.shape[axis] for p in parts]
    span = box[axis]
    assert span is not None
    for i, (part, end) in enumerate(zip(parts, accumulate(sizes), strict=True)):
        start = end - sizes[i]
        # What lies outside of the whole belongs to the parts at its ends.
        low = span[0] - start if i == 0 else max(span[0] - start, 0)
        high = span[1] - start if i == len(parts) - 1 else min(span[1] - start, sizes[i] - 1)
        if isinstance(part, Value) and low <= high:
            yield part.number, (*box[:axis], (low, high), *box[axis + 1 :])


def _divided(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    axis = op.arguments["dim"] % len(box)
    start = sum(shapes[number][axis] for number in op.outputs[:output])
    span = box[axis]
    assert span is not None
    yield op.inputs[0], (*box[:axis], (span[0] + start, span[1] + start), *box[axis + 1 :])


def _reduced(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    [number] = op.inputs
    axes = len(shapes[number])
    dims = op.arguments.get("dim")
    dims = range(axes) if dims in (None, []) else dims if isinstance(dims, list | tuple) else [dims]
    gone = {dim % axes for dim in dims}
    if op.arguments.get("keepdim"):
        yield number, tuple(None if axis in gone else span for axis, span in enumerate(box))
    else:
        kept = iter(box)
        yield number, tuple(None if axis in gone else next(kept) for axis in range(axes))


def _permuted(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    order = list(range(len(box)))
    if op.name == "permute":
        order = [dim % len(box) for dim in op.arguments["dims"]]
    elif op.name == "t":
        order.reverse()
    else:
        i, j = op.arguments["dim0"] % len(box), op.arguments["dim1"] % len(box)
        order[i], order[j] = order[j], order[i]
    yield op.inputs[0], tuple(box[order.index(axis)] for axis in range(len(box)))


def _viewed(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    """Read through a change of shape: groups of axes with equal products keep their numbers of elements."""
    [number] = op.inputs
    before, after = shapes[number], shapes[op.outputs[output]]
    spans: list[Span] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, start = i, j
        ins = before[i] if i < len(before) else 1
        outs = after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while ins != outs:
            if ins < outs:
                ins, i = ins * before[i], i + 1
            else:
                outs, j = outs * after[j], j + 1
        spans += _regrouped(before[first:i], after[start:j], box[start:j])
    yield number, tuple(spans)


def _regrouped(before: Sequence[int], after: Sequence[int], box: Box) -> list[Span]:
    if len(before) == len(after) == 1:
        return [box[0]]
    steps = [prod(after[k + 1 :]) for k in range(len(after))]
    low, high = 0, 0
    for k, (span, size, step) in enumerate(zip(box, after, steps, strict=True)):
        assert span is not None
        # Only the first axis of a group may lie outside: the others have no outside in a row of elements.
        first, last = span if k == 0 else (min(max(span[0], 0), size - 1), min(max(span[1], 0), size - 1))
        low, high = low + first * step, high + last * step
    spans: list[Span] = []
    for k, size in enumerate(before):
        step = prod(before[k + 1 :])
        first, last = low // step, high // step
        if k and first // size != last // size:
            spans.append((0, size - 1))
        else:
            spans.append((first % size, last % size) if k else (first, last))
    return spans


def _expanded(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    yield from _broadcast(op, box, shapes)


def _normed(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    """Read through a norm: with running statistics element by element, else all that its statistics are of."""
    number = _value(op, "input")
    if op.name == "native_layer_norm":
        behind = len(op.arguments["normalized_shape"])
        yield number, (*box[: len(box) - behind], *[None] * behind)
    elif op.name == "native_group_norm" or op.arguments.get("training", False):
        yield number, (box[0], *[None] * (len(box) - 1))
    else:
        yield number, box


def _product(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    """Read through a product of matrices: rows of the first, columns of the second."""
    left = op.arguments["mat1" if "mat1" in op.arguments else "self"]
    for number in op.inputs:
        if isinstance(left, Value) and number == left.number:
            yield number, (*box[:-1], None)
        else:
            yield number, (*box[:-2], None, box[-1])[-len(shapes[number]) :]


def _soft(op: Op, output: int, box: Box, shapes: Shapes) -> Iterator[tuple[int, Box]]:
    axis = op.arguments["dim"] % len(box)
    yield op.inputs[0], (*box[:axis], None, *box[axis + 1 :])


RULES: dict[str, Callable[[Op, int, Box, Shapes], Iterator[tuple[int, Box]]]] = {
    "convolution": _convolution,
    "deform_conv2d": _deformed,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), _pooling),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d"), _resized),
    **dict.fromkeys(("constant_pad_nd", "replication_pad2d"), _padded),
    "slice": _sliced,
    "select": _selected,
    "cat": _concatenated,
    **dict.fromkeys(("split", "split_with_sizes"), _divided),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("permute", "transpose", "t"), _permuted),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"), _viewed),
    "expand": _expanded,
    **dict.fromkeys(("native_batch_norm", "native_layer_norm", "native_group_norm"), _normed),
    **dict.fromkeys(("addmm", "mm", "bmm"), _product),
    **dict.fromkeys(("_softmax", "_log_softmax"), _soft),
}
"""Rules of the operators whose results read more, or elsewhere, than one element."""
