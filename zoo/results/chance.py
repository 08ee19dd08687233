"""Chance: whether nets differ by more than it, on the same images or over the same seeds, and whether orders agree.

Differences of two scores on the same images are paired: images that both nets answer alike say nothing about which is
better. `mcnemar` counts the others. Of many comparisons some are below any limit by chance alone; `holm` corrects for
their number. `rank_correlation` compares two orders of the same nets.

`mcnemar` tells two trained nets apart. It does not know how far another seed would move them; `over_seeds` does, from
the scores of several nets that were trained with the same seeds.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from zoo.extras import require

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


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """Two nets of several that were trained with the same seeds.

    Attributes:
        difference: Mean score of the first net minus that of the second.
        standard_error: Standard error of the difference over the seeds.
        freedom: Degrees of freedom of that error.
        p_value: Probability of a difference as large as this, or larger, if the seeds alone made it.
    """

    difference: float
    standard_error: float
    freedom: int
    p_value: float


def over_seeds(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], OverSeeds]:
    """Compare every two of several nets by their scores with the same seeds.

    Nets and seeds are the two factors of an analysis of variance (randomised blocks without repetition, Fisher 1935).
    What a seed does to all nets alike drops out. What is left over is pooled over all nets, and Student's t compares
    each difference with it: three seeds of a single pair would tell next to nothing. So all nets are taken to scatter
    alike, and the test says nothing about other test images.

    Args:
        scores: Scores of each net by its name, one a seed, with the seeds in the same order for all nets.

    Returns:
        The comparison of each pair of names, in the order of the names.

    Raises:
        ValueError: If there are fewer than two nets or seeds, the numbers of seeds differ, a score is not finite, or
            scipy is missing.
    """
    numbers = {name: len(own) for name, own in scores.items()}
    if len(scores) < 2 or len(set(numbers.values())) > 1 or min(numbers.values()) < 2:
        raise ValueError(
            f"scores ({numbers} seeds) must hold two nets or more, with the same number of seeds, two or more"
        )
    if wrong := [name for name, own in scores.items() if not all(map(math.isfinite, own))]:
        raise ValueError(f"scores ({wrong[0]}: {list(scores[wrong[0]])}) must be finite")
    require("bench", "scipy")
    from scipy.special import stdtr

    seeds = min(numbers.values())
    means = {name: statistics.fmean(own) for name, own in scores.items()}
    shifts = [statistics.fmean(own[seed] for own in scores.values()) for seed in range(seeds)]
    overall = statistics.fmean(shifts)
    left = [own[i] - means[name] - shifts[i] + overall for name, own in scores.items() for i in range(seeds)]
    freedom = (len(scores) - 1) * (seeds - 1)
    error = math.sqrt(2 * math.fsum(x * x for x in left) / freedom / seeds)
    found = {}
    for one, two in combinations(scores, 2):
        difference = means[one] - means[two]
        t = abs(difference) / error if error else math.inf if difference else 0.0
        p_value = float(2 * stdtr(freedom, -t))
        found[one, two] = OverSeeds(difference=difference, standard_error=error, freedom=freedom, p_value=p_value)
    return found


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
