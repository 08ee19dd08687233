"""The metric of each task, with its names in lines, tables and axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo.results.run import CLASSIFY


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The score of a task.

    Attributes:
        key: Name in lines and tables, such as "accuracy" in ``test_accuracy``.
        title: Name in headings and on axes.
        trivial_title: Description of the trivial answer whose score is in ``trivial_<key>``; empty if there is none.
    """

    key: str
    title: str
    trivial_title: str = ""


METRICS = {
    CLASSIFY: Metric(key="accuracy", title="accuracy"),
    "segment": Metric(key="miou", title="mIoU", trivial_title="all background"),
    "detect": Metric(key="map", title="mAP", trivial_title="no box at all"),
}
"""Metrics by task. A score is a share in [0, 1], and larger is better."""


def standard_error(share: float, images: int) -> float:
    """Return the binomial standard error of a share that was measured on the given number of images."""
    return math.sqrt(share * (1 - share) / images)
