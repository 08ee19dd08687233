"""What each task is scored by, in the words of lines, tables and axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo.results.run import CLASSIFY


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The score of a task.

    Attributes:
        key: Its name in lines and tables, such as "accuracy" in ``test_accuracy``.
        title: The same in headings and on axes.
        trivial_title: What the trivial answer is that ``trivial_<key>`` holds the score of; empty where there is none.
    """

    key: str
    title: str
    trivial_title: str = ""


METRICS = {
    CLASSIFY: Metric(key="accuracy", title="accuracy"),
    "segment": Metric(key="miou", title="mIoU", trivial_title="all background"),
    "detect": Metric(key="map", title="mAP", trivial_title="no box at all"),
}
"""By task. A score is a share in [0, 1], and larger is better."""


def standard_error(share: float, images: int) -> float:
    """Return the binomial standard error of a share that was measured on so many images."""
    return math.sqrt(share * (1 - share) / images)
