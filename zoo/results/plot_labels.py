"""Place labels of a scatter plot so that they overlap neither each other nor the points: pure geometry, in pixels.

Greedy placement is followed by rounds in which each label moves to its best place given all others. There is no
randomness, so a figure does not change from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ANGLES = np.deg2rad(np.arange(0, 360, 15))
RINGS = np.array([0, 3, 8, 14, 22, 32, 44, 58, 74, 92, 112, 134, 158, 184, 212, 242, 274, 308, 344, 382], dtype=float)
MARGIN = 2.0  # free pixels around a label
ROUNDS = 6
# Costs in pixels of leader line: what a long leader is worth.
LEADER_CROSSES = 80.0
LEADER_COVERED = 160.0
LEADER_HITS_POINT = 120.0
LABEL_ON_LINE = 60.0
LABEL_ON_BAR = 400.0
NEAR_OTHER_POINT = 60.0
AMBIGUOUS = 1.4  # a point at less than so many times the label's distance from its own could claim the label too


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: tuple[float, float, float, float],
    *,
    radius: float,
    others: Sequence[tuple[float, float]] = (),
    lines: Sequence[tuple[float, float, float, float]] = (),
    bars: Sequence[tuple[float, float, float, float]] = (),
) -> list[tuple[float, float, float, float]] | None:
    """Find a box for the label of each point.

    Args:
        points: (x, y) of each point.
        sizes: (width, height) of each label.
        area: (x0, y0, x1, y1) that no label may leave.
        radius: Radius of a point's marker. No label comes closer to any point.
        others: (x, y) of the points without a label.
        lines: (x0, y0, x1, y1) of segments that labels should not cover.
        bars: Segments that labels cover only if there is no other room, such as error bars.

    Returns:
        (x0, y0, x1, y1) of each label, or None if there is no room for all of them.
    """
    if not points:
        return []
    centres = np.asarray(points, dtype=float)
    obstacles = np.concatenate([centres, np.asarray(others, dtype=float).reshape(-1, 2)])
    segments = np.asarray([*lines, *bars], dtype=float).reshape(-1, 4)
    prices = np.array([LABEL_ON_LINE] * len(lines) + [LABEL_ON_BAR] * len(bars))
    candidates = [_candidates(centre, size, radius) for centre, size in zip(centres, sizes, strict=True)]
    fixed = []
    for boxes in candidates:
        allowed = _inside(boxes, area) & ~_overlap(boxes, _boxes_around(obstacles, radius)).any(1)
        fixed.append(boxes[allowed])
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    crowded_first = np.argsort(np.sort(distance, axis=1)[:, : min(4, len(centres))].sum(1), kind="stable")
    placed: dict[int, Array] = {}
    for _ in range(ROUNDS):
        before = dict(placed)
        for i in crowded_first:
            rest = [j for j in placed if j != i]
            best = _best(fixed[i], obstacles, i, [placed[j] for j in rest], centres[rest], (segments, prices))
            if best is None:
                return None
            placed[i] = best
        if all(i in before and np.array_equal(before[i], placed[i]) for i in placed):
            break
    return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in (placed[i] for i in range(len(centres)))]


def leader_end(point: tuple[float, float], box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return the position on a label's box that is nearest to its point."""
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _candidates(centre: Array, size: tuple[float, float], radius: float) -> Array:
    """Return (K, 4) boxes around a point, from near to far. The side of a box that faces the point touches a ring."""
    width, height = size
    boxes = []
    for ring in RINGS:
        for angle in ANGLES:
            x = centre[0] + (radius + MARGIN + ring) * np.cos(angle)
            y = centre[1] + (radius + MARGIN + ring) * np.sin(angle)
            # From 0 (box to the right of, or above, the anchor) to 1 (to the left, below): it slides round the anchor.
            left = x - width * np.clip(0.5 - np.cos(angle), 0, 1)
            low = y - height * np.clip(0.5 - np.sin(angle), 0, 1)
            boxes.append((left, low, left + width, low + height))
    return np.array(boxes)


def _best(
    boxes: Array, points: Array, i: int, placed: list[Array], others: Array, lines: tuple[Array, Array]
) -> Array | None:
    """Return the cheapest box for label i that overlaps none of the placed boxes; their points are `others`.

    Lines are segments, and the price of covering each.
    """
    segments, prices = lines
    taken = np.array(placed).reshape(-1, 4)
    boxes = boxes[~_overlap(boxes, taken).any(1)] if len(taken) else boxes
    if not len(boxes):
        return None
    ends = _ends(boxes, points[i])
    leaders = np.concatenate([np.broadcast_to(points[i], ends.shape), ends], axis=1)  # (K, 4)
    cost = np.linalg.norm(ends - points[i], axis=1)
    # To the right and slightly above is where a reader looks first.
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - points[i]
    cost += 4 * (middle[:, 0] < 0) + 2 * (middle[:, 1] < 0)
    if len(taken):
        their_ends = np.array([_ends(box[None], point)[0] for box, point in zip(taken, others, strict=True)])
        theirs = np.concatenate([others, their_ends], axis=1)
        cost += LEADER_CROSSES * _segments_cross(leaders, theirs).sum(1)
        covered = _segment_meets_box(leaders, taken).sum(1) + _segment_meets_box(theirs, boxes).sum(0)
        cost += LEADER_COVERED * covered
    rest = np.delete(points, i, axis=0)
    nearest = np.clip(rest[None], boxes[:, None, :2], boxes[:, None, 2:])  # (K, N - 1, 2) of each box to each point
    near = np.linalg.norm(nearest - rest[None], axis=2)
    cost += NEAR_OTHER_POINT * (near < AMBIGUOUS * np.linalg.norm(ends - points[i], axis=1)[:, None]).sum(1)
    cost += LEADER_HITS_POINT * _segment_meets_box(leaders, _boxes_around(rest, 2.0)).sum(1)
    if len(segments):
        cost += (prices[:, None] * _segment_meets_box(segments, boxes)).sum(0)
    return boxes[int(np.argmin(cost))]


def _boxes_around(points: Array, radius: float) -> Array:
    return np.concatenate([points - radius, points + radius], axis=1)


def _ends(boxes: Array, point: Array) -> Array:
    return np.clip(point, boxes[:, :2], boxes[:, 2:])


def _inside(boxes: Array, area: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    return (
        (boxes[:, 0] >= area[0] + MARGIN)
        & (boxes[:, 1] >= area[1] + MARGIN)
        & (boxes[:, 2] <= area[2] - MARGIN)
        & (boxes[:, 3] <= area[3] - MARGIN)
    )


def _overlap(a: Array, b: Array) -> NDArray[np.bool_]:
    """Return (A, B) for (A, 4) and (B, 4) boxes: True if two boxes come closer than the margin."""
    a, b = a[:, None], b[None]
    across = (a[..., 0] < b[..., 2] + MARGIN) & (b[..., 0] < a[..., 2] + MARGIN)
    return across & (a[..., 1] < b[..., 3] + MARGIN) & (b[..., 1] < a[..., 3] + MARGIN)


def _segments_cross(a: Array, b: Array) -> NDArray[np.bool_]:
    """Return (A, B) for (A, 4) and (B, 4) segments: True if two segments cross inside both."""
    a, b = a[:, None], b[None]

    def side(line: Array, x: Array, y: Array) -> Array:
        return (line[..., 2] - line[..., 0]) * (y - line[..., 1]) - (line[..., 3] - line[..., 1]) * (x - line[..., 0])

    splits_b = side(a, b[..., 0], b[..., 1]) * side(a, b[..., 2], b[..., 3]) < 0
    return splits_b & (side(b, a[..., 0], a[..., 1]) * side(b, a[..., 2], a[..., 3]) < 0)


def _segment_meets_box(segments: Array, boxes: Array) -> NDArray[np.bool_]:
    """Return (S, B) for (S, 4) segments and (B, 4) boxes: True if a segment meets a box (slab test)."""
    start, step = segments[:, None, :2], (segments[:, 2:] - segments[:, :2])[:, None]
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    one, other = (boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step
    enter, leave = np.minimum(one, other).max(-1), np.maximum(one, other).min(-1)
    return (enter <= leave) & (leave >= 0) & (enter <= 1)
