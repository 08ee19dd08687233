"""Places of boxes and routes of lines: pure arithmetic on boxes and lines, in pixels.

A box stands to the right of all boxes whose maps it reads, in the row of its resolution; the finest row is on top. A
box that has time moves right to a free place in its row; one that has none stands on a second line of the row. A line
follows the row of the map that it carries, and leaves it just before its end.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.drawing.boxes import JOINS, Box, Line

WIDTH = 1160.0
"""Width that drawings are fitted to."""
TALLEST, LOWEST = 56.0, 7.0
"""Heights of the box with most channels, and of the lowest box."""
PITCH = (2.0, 64.0)
"""Least and largest distance of two places in a row."""
TAP_ROOM, LEAST_ROOM, MOST_ARC = 22.0, 12.0, 40.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Sizes that all nets of a drawing share: distance of places, height of a box with one channel."""

    pitch: float
    unit: float

    def width(self, box: Box) -> float:
        """Width of a box."""
        return min(0.62 * self.pitch, 34.0) if box.kind not in JOINS else min(0.5 * self.pitch, 13.0)

    def height(self, box: Box) -> float:
        """Height of a box: the square root of its channels."""
        return max(self.unit * box.channels**0.5, LOWEST) if box.kind not in JOINS else self.width(box)


@dataclass(frozen=True)
class Place:
    """Position of a box: number from the left, line within the row, rectangle."""

    rank: int
    lane: int
    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        """Middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        """Middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def middle(self) -> float:
        """Horizontal middle."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Route:
    """Way of a line: corners of straight pieces, or the four points of a curve."""

    line: Line
    points: tuple[Point, ...]
    curved: bool = False


@dataclass(frozen=True)
class Layout:
    """A net with all positions.

    Attributes:
        places: Position of each box.
        routes: Way of each line.
        rows: Vertical middle of the first line of each row, by level.
        floors: Lower end of each row, by level; the marks of taps stand below.
        width: Width of everything.
        height: Height of everything.
    """

    places: dict[Box, Place]
    routes: tuple[Route, ...]
    rows: dict[int, float]
    floors: dict[int, float]
    width: float
    height: float


Ranks = dict[Box, int]


def scale_for(nets: Iterable[tuple[list[Box], list[Line]]]) -> Scale:
    """Return the scale that fits all nets: the longest to the width, the widest map to the tallest box."""
    nets = list(nets)
    ranks = max(max(_earliest(boxes, lines).values(), default=0) for boxes, lines in nets) + 1
    channels = max(box.channels for boxes, _ in nets for box in boxes)
    return Scale(min(max(WIDTH / ranks, PITCH[0]), PITCH[1]), TALLEST / channels**0.5)


def lay_out(boxes: list[Box], lines: list[Line], scale: Scale) -> Layout:
    """Place the boxes of a net, and route its lines.

    Args:
        boxes: Boxes in order of computation.
        lines: Lines between them.
        scale: See `scale_for`.
    """
    ranks = _ranks(boxes, lines)
    lanes = _lanes(ranks)
    crowded = {(box.level, lanes[box], ranks[box]) for box in boxes}
    arcs = {line: _arc(line, ranks, lanes, crowded, scale) for line in lines}
    levels = sorted({box.level for box in boxes} | {line.level for line in lines})
    middles: dict[tuple[int, int], float] = {}
    floors: dict[int, float] = {}
    y = 0.0
    for level in levels:
        own = [box for box in boxes if box.level == level]
        arc = max((arcs[line] for line in lines if line.level == level), default=0.0)
        y += max(arc, LEAST_ROOM)
        for lane in range(max((lanes[box] for box in own), default=0) + 1):
            height = max((scale.height(box) for box in own if lanes[box] == lane), default=LOWEST)
            middles[level, lane] = y + height / 2
            floors[level] = y + height
            y += height + LEAST_ROOM
        y += TAP_ROOM - LEAST_ROOM if any(box.taps for box in own) else 0.0
    places = {}
    for box in boxes:
        width, height = scale.width(box), scale.height(box)
        x = (ranks[box] + 0.5) * scale.pitch - width / 2
        places[box] = Place(ranks[box], lanes[box], x, middles[box.level, lanes[box]] - height / 2, width, height)
    tops = {level: middles[level, 0] for level in levels}
    routes = tuple(_route(line, places, arcs[line], tops, scale) for line in lines)
    return Layout(places, routes, tops, floors, (max(ranks.values(), default=0) + 1) * scale.pitch, y)


def _earliest(boxes: list[Box], lines: list[Line]) -> Ranks:
    """Return the leftmost place of each box, behind all that it reads. Boxes of one column share a place."""
    ranks: Ranks = {}
    before: dict[Box, list[Box]] = {box: [] for box in boxes}
    for line in lines:
        before[line.target].append(line.source)
    for box in boxes:
        together = [other for other in boxes if other.column == box.column] if box.column else [box]
        if box not in ranks:
            outside = [source for member in together for source in before[member] if source not in together]
            rank = max((ranks.get(source, -1) for source in outside), default=-1) + 1
            ranks |= dict.fromkeys(together, rank)
    return ranks


def _ranks(boxes: list[Box], lines: list[Line]) -> Ranks:
    """Return the place of each box, first of those that have no time: these stand as far left as they can.

    The others take a free place between what they read and what reads them.
    """
    earliest = _earliest(boxes, lines)
    behind: dict[Box, list[Box]] = {box: [] for box in boxes}
    before: dict[Box, list[Box]] = {box: [] for box in boxes}
    for line in lines:
        behind[line.source].append(line.target)
        before[line.target].append(line.source)
    latest: Ranks = {}
    for box in reversed(boxes):
        latest[box] = min((latest[other] - 1 for other in behind[box]), default=earliest[box])
        if box.column:
            latest[box] = earliest[box]
    ranks = {box: rank for box, rank in earliest.items() if latest[box] == rank}
    taken = {(box.level, rank) for box, rank in ranks.items()}
    for box in boxes:
        if box not in ranks:
            first = max((ranks[source] for source in before[box]), default=-1) + 1
            free = (rank for rank in range(first, latest[box] + 1) if (box.level, rank) not in taken)
            ranks[box] = next(free, first)
            taken.add((box.level, ranks[box]))
    return ranks


def _lanes(ranks: Ranks) -> dict[Box, int]:
    """Return the line of each box within its row: the first that is free at its place, in the order of the ranks."""
    lanes: dict[Box, int] = {}
    taken: set[tuple[int, int, int]] = set()
    for box in ranks:
        lane = 0
        while (box.level, ranks[box], lane) in taken:
            lane += 1
        taken.add((box.level, ranks[box], lane))
        lanes[box] = lane
    return lanes


def _arc(line: Line, ranks: Ranks, lanes: dict[Box, int], crowded: set[tuple[int, int, int]], scale: Scale) -> float:
    """Return how high a line must rise above the boxes of its row, 0 if nothing stands in its way."""
    source, target = line.source, line.target
    lane = lanes[source] if line.level == source.level else 0
    between = range(ranks[source] + 1, ranks[target])
    if not any((line.level, lane, rank) in crowded for rank in between):
        return 0.0
    return min(LEAST_ROOM + 0.07 * scale.pitch * (ranks[target] - ranks[source]), MOST_ARC)


def _route(line: Line, places: dict[Box, Place], arc: float, tops: dict[int, float], scale: Scale) -> Route:
    source, target = places[line.source], places[line.target]
    if source.rank == target.rank:  # in one column
        down = target.y > source.y
        start = (source.middle, source.y + source.height * down)
        return Route(line, (start, (target.middle, target.y + target.height * (not down))))
    if line.level != line.source.level:  # a second map, in a row of its own
        y = tops[line.level] - arc
        side = source.width / 4
        end = (target.middle - side, target.y if target.y > y else target.y + target.height)
        if line.target.level == line.level:
            return Route(line, ((source.middle + side, source.y), (source.middle + side, y), target.left))
        return Route(
            line, ((source.middle + side, source.y), (source.middle + side, y), (target.middle - side, y), end)
        )
    if target.rank == source.rank + 1:
        return Route(line, (source.right, target.left))
    if arc and line.target.level == line.level and source.lane == target.lane:
        top = min(source.y, target.y) - arc
        start, end = (source.middle, source.y), (target.middle, target.y)
        return Route(line, (start, (start[0], top), (end[0], top), end), curved=True)
    last = (target.rank + 0.5) * scale.pitch - 0.5 * scale.pitch  # between the two places before the target
    if arc:
        y = source.y - arc * 0.6
        return Route(line, ((source.middle, source.y), (source.middle, y), (last - scale.pitch / 4, y), target.left))
    return Route(line, (source.right, (last - scale.pitch / 4, source.right[1]), target.left))
