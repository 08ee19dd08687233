"""Chance: whether nets that answered the same test images differ by more than it, and whether two orders agree.

Differences of two scores on the same images are paired: images that both nets answer alike say nothing about which is
better. `mcnemar` counts the others. Of many comparisons some are below any limit by chance alone; `holm` corrects for
their number. `rank_correlation` compares two orders of the same nets.

A test of two trained nets tells these two apart. It does not know how far another seed would move them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

LEVEL = 0.05
"""Probability below which a difference is called more than chance, after the correction."""
EXACT = 8
"""Largest number of pairs whose orders are all tried."""
DRAWS = 9_999
"""Number of random orders that are tried for more pairs."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two nets on the same test images.

    Attributes:
        first: Number of images that the first net alone answers rightly.
        second: Number of images that the second net alone answers rightly.
        images: Number of test images.
        p_value: Mid-p value of McNemar's exact test: the probability of a difference as large as this, or larger, if
            both nets were equally good on such images.
    """

    first: int
    second: int
    images: int
    p_value: float

    @property
    def difference(self) -> float:
        """Accuracy of the first net minus that of the second, as a share of the images."""
        return (self.first - self.second) / self.images


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare two nets by their right answers to the same test images (McNemar 1947, exact, with mid-p).

    The mid-p value keeps the error rate near its limit, where the plain exact test is needlessly strict (Fagerland,
    Lydersen and Laake 2013).

    Args:
        first: For each test image, True if the first net is right.
        second: The same for the second net, in the same order.

    Raises:
        ValueError: If the numbers of images differ, or there are none.
    """
    if len(first) != len(second):
        raise ValueError(f"first ({len(first)} images) and second ({len(second)}) must be of the same images")
    if not len(first):
        raise ValueError("first (0 images) must hold at least one image")
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    alone = pairs.count((True, False)), pairs.count((False, True))
    return Paired(first=alone[0], second=alone[1], images=len(pairs), p_value=_mid_p(*alone))


def _mid_p(first: int, second: int) -> float:
    """Return the two-sided mid-p value of two counts that are equally likely to be the larger one."""
    total, least = first + second, min(first, second)
    ways, tail = 1, 0  # whole numbers: there is nothing to round before the last division
    for count in range(least + 1):
        tail += ways
        last, ways = ways, ways * (total - count) // (count + 1)
    everything = 1 << total
    if first == second:
        return (2 * everything - last) / (2 * everything)
    return (2 * tail - last) / everything


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order (Holm 1979).

    Those at or below a limit are the differences of which, with the probability of the limit, not even one is chance.

    Args:
        p_values: One of each comparison.

    Raises:
        ValueError: If a value is no probability.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p_values ({wrong[0]!r}) must be in [0, 1]")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Agreement of two orders of the same nets.

    Attributes:
        rho: Spearman's rank correlation: 1 for the same order, -1 for the reverse.
        pairs: Number of nets.
        p_value: Probability of a correlation as far from zero, or further, if one order were random.
    """

    rho: float
    pairs: int
    p_value: float


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Correlate the ranks of two scores of the same nets (Spearman 1904). Equal scores share their mean rank.

    The p-value comes from all orders of up to `EXACT` nets, and from `DRAWS` random ones of more, always the same.

    Args:
        first: One score of each net.
        second: Another score of each net, in the same order.

    Raises:
        ValueError: If the numbers of scores differ, are below three, or all scores of a side are equal.
    """
    if len(first) != len(second) or len(first) < 3:
        raise ValueError(
            f"first ({len(first)} scores) and second ({len(second)}) must be of the same nets, three or more"
        )
    for name, scores in (("first", first), ("second", second)):
        if len(set(scores)) == 1:
            raise ValueError(
                f"{name} ({scores[0]!r} for all nets) must hold different scores: equal ones have no order"
            )
    one, two = _ranks(first), _ranks(second)
    rho = statistics.correlation(one, two)
    if len(one) <= EXACT:
        orders = [statistics.correlation(one, order) for order in permutations(two)]
        return Correlation(rho=rho, pairs=len(one), p_value=_share(orders, rho))
    generator = random.Random(0)
    orders = [rho, *(statistics.correlation(one, generator.sample(two, len(two))) for _ in range(DRAWS))]
    return Correlation(rho=rho, pairs=len(one), p_value=_share(orders, rho))


def _share(orders: Sequence[float], rho: float) -> float:
    """Return the share of correlations that are at least as far from zero, up to rounding."""
    return sum(abs(order) >= abs(rho) - 1e-12 for order in orders) / len(orders)


def _ranks(scores: Sequence[float]) -> list[float]:
    """Return ranks from 1, the mean rank for equal scores."""
    return [
        sum(other < score for other in scores) + (sum(other == score for other in scores) + 1) / 2 for score in scores
    ]
