"""The sheet: nets side by side at one scale, each with its name, rows, parts and taps, over a legend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zoo.drawing.boxes import JOINS, KINDS, Box, Line
from zoo.drawing.layout import WIDTH, Layout, Route, Scale, lay_out, scale_for
from zoo.drawing.scene import Circle, Rectangle, Scene, Shape, Strokes, Text

# Okabe and Ito 2008: told apart with any common kind of colour blindness; greys for what has no weights.
COLOURS = {
    "convolution": "#56B4E9",
    "residual": "#0072B2",
    "gated": "#E69F00",
    "branches": "#009E73",
    "stacked": "#CC79A7",
    "node": "#D55E00",
    "pooling": "#DDDDDD",
    "norm": "#F0E442",
    "classifier": "#333333",
    "sum": "#FFFFFF",
    "concatenation": "#FFFFFF",
    "product": "#FFFFFF",
}
LINES = {"": "#888888", "stacked": "#00805C", "concatenation": "#00805C", "product": "#B87700"}
"""Colours of lines by the kind of the box that reads them; the first for all other kinds."""
INK, FAINT = "#222222", "#E8E8E8"
MARGIN, LABELS, HEADER, LEGEND_ROW = 16.0, 92.0, 88.0, 22.0
TITLE_SIZE, SIZE, SMALL = 17.0, 13.0, 11.0
ARCHES_FROM = 7.0
"""Distance of places from which on there is room for the arch of a shortcut around a box."""
TAP_RADIUS = 8.0
NOTE = "Left to right: order of computation. Top to bottom: resolution. Height of a box: root of its channels."


@dataclass(frozen=True)
class Net:
    """A net to be drawn: its title, a text below it, its boxes and its lines."""

    title: str
    facts: str
    boxes: list[Box]
    lines: list[Line]


def compose(nets: Sequence[Net]) -> Scene:
    """Draw nets on one sheet: at the same scale, side by side where they fit, and else below each other."""
    scale = scale_for([(net.boxes, net.lines) for net in nets])
    panels = [_panel(net, lay_out(net.boxes, net.lines, scale), scale) for net in nets]
    widest = max(WIDTH + LABELS, *(panel.width for panel in panels))
    shapes: list[Shape] = []
    x = y = below = 0.0
    width = 0.0
    for panel in panels:
        if x and x + panel.width > widest:
            x, y = 0.0, below
        shapes += [_moved(shape, MARGIN + x, MARGIN + y) for shape in panel.shapes]
        x += panel.width + 2 * MARGIN
        width = max(width, x)
        below = max(below, y + panel.height + MARGIN)
    legend = _legend(nets, scale, max(width, 640.0))
    shapes += [_moved(shape, MARGIN, MARGIN + below) for shape in legend.shapes]
    title = ", ".join(net.title for net in nets)
    return Scene(max(width, legend.width + MARGIN) + MARGIN, below + legend.height + 2 * MARGIN, tuple(shapes), title)


def _moved(shape: Shape, right: float, down: float) -> Shape:
    if isinstance(shape, Strokes):
        return replace(shape, ways=tuple(tuple((x + right, y + down) for x, y in way) for way in shape.ways))
    return replace(shape, x=shape.x + right, y=shape.y + down)


def _panel(net: Net, layout: Layout, scale: Scale) -> Scene:
    """Draw one net, without margins."""
    title = Text(0, TITLE_SIZE, net.title, TITLE_SIZE, bold=True)
    facts = Text(0, TITLE_SIZE + SIZE + 5, net.facts, SIZE, colour="#555555")
    width = max(LABELS + layout.width, title.box[2], facts.box[2])
    shapes: list[Shape] = []
    rows = tuple(((0.0, y), (layout.width, y)) for y in layout.rows.values())
    shapes.append(Strokes(rows, FAINT, 1.0))
    parts = list(_parts(net.boxes, layout))
    shapes += [shape for shape in parts if isinstance(shape, Strokes)]
    shapes += _strokes(layout.routes)
    shapes += [shape for box in net.boxes for shape in _box(box, layout, scale)]
    shapes += [shape for box in net.boxes for shape in _taps(box, layout)]
    shapes += [shape for shape in parts if isinstance(shape, Text)]
    inside = [_moved(shape, LABELS, HEADER) for shape in shapes]
    labels: list[Shape] = []
    for level, y in layout.rows.items():
        labels.append(Text(0, HEADER + y - 1, f"stride {level}", SMALL + 1))
        if sizes := [
            box.shape[2:] for box in net.boxes if box.level == level and len(box.shape) == 4 and min(box.shape[2:]) > 0
        ]:
            largest = max(sizes)
            labels.append(Text(0, HEADER + y + SMALL, f"{largest[0]}x{largest[1]}", SMALL, colour="#777777"))
    right = max((shape.box[2] for shape in inside if isinstance(shape, Text)), default=0.0)
    return Scene(max(width, right), HEADER + layout.height, (title, facts, *labels, *inside), net.title)


def _parts(boxes: Sequence[Box], layout: Layout) -> Iterator[Shape]:
    """Name the parts of the net above it, each where its first box stands, as far as there is room."""
    first: dict[str, Box] = {}
    for box in boxes:
        first.setdefault(box.part, box)
    ends = [float("-inf")] * 3
    for name, box in sorted(first.items(), key=lambda item: layout.places[item[1]].rank):
        place = layout.places[box]
        text = Text(place.x, 0.0, name, SMALL)
        row = next((row for row, end in enumerate(ends) if end < place.x), None)
        if name and row is not None:
            ends[row] = text.box[2] + 4
            y = -4.0 - row * (SMALL + 3)
            yield Strokes((((place.x, y + 2), (place.x, place.y)),), "#D4D4D4", 1.0)
            yield replace(text, y=y, colour="#555555")


def _strokes(routes: Sequence[Route]) -> Iterator[Strokes]:
    """Gather lines of one look, those that matter more on top."""
    looks: dict[tuple[bool, str, bool], list[Route]] = {}
    for route in routes:
        colour = LINES.get(route.line.target.kind, LINES[""])
        looks.setdefault((route.line.alive, colour, route.curved), []).append(route)
    for (alive, colour, curved), own in sorted(looks.items(), key=lambda item: item[0][0]):
        thin = 0.4 if len(routes) > 300 else 1.3
        yield Strokes(tuple(route.points for route in own), colour, thin, curved=curved, dotted=not alive)


def _box(box: Box, layout: Layout, scale: Scale) -> Iterator[Shape]:
    place = layout.places[box]
    kind = {**KINDS, **JOINS}[box.kind]
    units = f", {box.units} units" if box.units > 1 else ""
    title = f"{box.name}: {kind}{units}, {'x'.join(map(str, box.shape[1:]))}"
    if box.kind in JOINS:
        x, y, radius = place.middle, place.y + place.height / 2, place.width / 2
        yield Circle(x, y, radius, COLOURS[box.kind], INK, not box.alive, title)
        yield Strokes(_sign(box.kind, x, y, 0.6 * radius), INK, 1.2)
        return
    fill = COLOURS[box.kind] if box.alive else "#FFFFFF"
    thin = place.width < 4
    yield Rectangle(
        place.x, place.y, place.width, place.height, fill, fill if thin and box.alive else INK, not box.alive, title
    )
    many = Text(place.middle, place.left[1] + 4, f"x{box.units}", SMALL, "middle", _on(box), bold=True)
    if box.units > 1 and many.box[2] - many.box[0] < place.width:
        yield many
    if box.shortcut and scale.pitch >= ARCHES_FROM:
        out = 0.14 * scale.pitch
        left, right, y = place.x - out, place.x + place.width + out, place.left[1]
        top = y - (place.height / 2 + 5.0) / 0.75  # a curve rises to three quarters of its handles
        yield Strokes((((left, y), (left, top), (right, top), (right, y)),), INK, 1.2, curved=True)


def _on(box: Box) -> str:
    """Return the colour of text that can be read on a box."""
    dark = box.alive and box.kind in ("residual", "branches", "node", "classifier")
    return "#FFFFFF" if dark else INK


def _sign(kind: str, x: float, y: float, size: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return the strokes of a plus, a cross or two bars."""
    if kind == "sum":
        return ((x - size, y), (x + size, y)), ((x, y - size), (x, y + size))
    if kind == "product":
        size *= 0.75
        return ((x - size, y - size), (x + size, y + size)), ((x - size, y + size), (x + size, y - size))
    return tuple(((x + side, y - 0.8 * size), (x + side, y + 0.8 * size)) for side in (-0.4 * size, 0.4 * size))


def _taps(box: Box, layout: Layout) -> Iterator[Shape]:
    place = layout.places[box]
    if box.taps:
        x, y = place.middle, layout.floors[box.level] + TAP_RADIUS + 3
        yield Strokes((((x, place.y + place.height), (x, y - TAP_RADIUS)),), INK, 1.0)
        yield Circle(x, y, TAP_RADIUS, "#FFFFFF", INK)
        yield Text(x, y + 4, ",".join(map(str, box.taps)), SMALL, "middle", bold=True)
        label = Text(x - TAP_RADIUS - 3, y + 4, str(box.channels), SMALL, "end", colour="#555555")
        left, top, right, bottom = label.box
        yield Rectangle(left, top, right - left, bottom - top, "#FFFFFF", "#FFFFFF")
        yield label


def _legend(nets: Sequence[Net], scale: Scale, width: float) -> Scene:
    """Explain what is in the drawing, and nothing else."""
    boxes = [box for net in nets for box in net.boxes]
    lines = [line for net in nets for line in net.lines]
    kinds = {box.kind for box in boxes}
    entries: list[tuple[list[Shape], str]] = []
    for kind, name in KINDS.items():
        if kind in kinds:
            entries.append(([Rectangle(0, 2, 12, 12, COLOURS[kind], INK)], name))
    for kind, name in JOINS.items():
        if kind in kinds:
            entries.append(([Circle(6, 8, 6, COLOURS[kind], INK), Strokes(_sign(kind, 6, 8, 3.6), INK, 1.2)], name))
    if any(box.shortcut for box in boxes) and scale.pitch >= ARCHES_FROM:
        arch = ((0.0, 14.0), (0.0, -1.0), (14.0, -1.0), (14.0, 14.0))
        entries.append(([Strokes((arch,), INK, 1.2, curved=True)], "shortcut"))
    for kind, name in (
        ("stacked", "read by a concatenation"),
        ("concatenation", "read by a concatenation"),
        ("product", "read by a gate"),
    ):
        if kind in kinds and not any(name == other for _, other in entries):
            entries.append(([Strokes((((0.0, 8.0), (16.0, 8.0)),), LINES[kind], 1.6)], name))
    if not all(line.alive for line in lines) or not all(box.alive for box in boxes):
        entries.append(
            ([Strokes((((0.0, 8.0), (16.0, 8.0)),), LINES[""], 1.6, dotted=True)], "only for taps, not for the output")
        )
    if any(box.taps for box in boxes):
        entries.append(
            (
                [Circle(8, 8, 7, "#FFFFFF", INK), Text(8, 12, "n", SMALL, "middle", bold=True)],
                "feature tap n, with its channels",
            )
        )
    shapes: list[Shape] = []
    x = y = 0.0
    for swatch, name in entries:
        text = Text(22, 13, name, SIZE)
        if x and x + text.box[2] > width:
            x, y = 0.0, y + LEGEND_ROW
        shapes += [_moved(shape, x, y) for shape in (*swatch, text)]
        x += text.box[2] + 14
    shapes.append(Text(0, y + LEGEND_ROW + 13, NOTE, SIZE, colour="#555555"))
    right = max(shape.box[2] for shape in shapes if isinstance(shape, Text))
    return Scene(right, y + 2 * LEGEND_ROW, tuple(shapes), "")
