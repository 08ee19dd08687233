"""Tests of chance: known values of the literature, and limits that hold for any input."""

import math
import random
from itertools import combinations

import pytest
from scipy.stats import t, ttest_rel

from zoo.results.chance import holm, mcnemar, over_seeds, rank_correlation


def answers(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [
        (1, 7, 10 / 256),  # Fagerland, Lydersen and Laake 2013, table 1: mid-p 0.039 (exact 0.070)
        (7, 1, 10 / 256),
        (0, 5, 1 / 32),
        (0, 0, 0.5),
        (2, 2, 1 - 6 / 32),
        (86, 150, 3.1e-5),  # Agresti, approval of a prime minister, by the normal distribution (z 4.17)
    ],
)
def test_mcnemar_gives_known_values(first: int, second: int, p_value: float) -> None:
    found = mcnemar(*answers(21 if first < 10 else 794, first, second, 59 if first < 10 else 570))
    assert (found.first, found.second) == (first, second)
    assert found.p_value == pytest.approx(p_value, rel=0.08 if first == 86 else 1e-12)
    assert found.difference == pytest.approx((first - second) / found.images)


def test_mcnemar_counts_only_images_that_tell_the_nets_apart() -> None:
    few, many = mcnemar(*answers(5, 3, 9, 2)), mcnemar(*answers(9_000, 3, 9, 988))
    assert few.p_value == many.p_value
    assert many.difference == -0.0006
    assert mcnemar(*answers(0, 0, 4_000, 0)).p_value == 0  # too small for a float, and no error


def test_mcnemar_wants_the_same_images() -> None:
    with pytest.raises(ValueError, match=r"first \(2 images\) and second \(1\) must be of the same images"):
        mcnemar([True, False], [True])
    with pytest.raises(ValueError, match="at least one image"):
        mcnemar([], [])


def test_holm_gives_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p_values \(1.5\)"):
        holm([0.1, 1.5])


def test_rank_correlation_gives_known_values() -> None:
    same = rank_correlation([1, 2, 3, 4], [10, 20, 25, 99])
    assert (same.rho, same.pairs, same.p_value) == (pytest.approx(1), 4, pytest.approx(2 / 24))
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]).rho == pytest.approx(-1)
    # Ten pairs of Wikipedia's example (IQ and hours of television): rho = -29/165.
    found = rank_correlation([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17])
    assert found.rho == pytest.approx(-29 / 165)
    assert found.p_value == pytest.approx(0.63, abs=0.02)  # two-sided; t with 8 degrees of freedom gives 0.627
    assert rank_correlation([1, 1, 2], [1, 1, 2]).rho == pytest.approx(1)  # ties share their rank


def test_rank_correlation_wants_orders() -> None:
    with pytest.raises(ValueError, match="three or more"):
        rank_correlation([1, 2], [1, 2])
    with pytest.raises(ValueError, match="of the same nets"):
        rank_correlation([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"second \(5 for all nets\)"):
        rank_correlation([1, 2, 3], [5, 5, 5])


def test_equal_nets_are_rarely_told_apart() -> None:
    """Ten nets that err on every tenth image, each on another residue: no pair differs by more than chance."""
    nets = [[i % 10 != place for i in range(1_000)] for place in range(10)]
    assert min(holm([mcnemar(a, b).p_value for a, b in combinations(nets, 2)])) == 1


def test_over_seeds_gives_known_values() -> None:
    """Two nets: Student's paired test (scipy's ttest_rel). Three: the pooled residual, worked out by hand."""
    pair = {"a": [0.91, 0.93, 0.92], "b": [0.90, 0.91, 0.92]}
    [(names, found)] = over_seeds(pair).items()
    want = ttest_rel(pair["a"], pair["b"])
    assert names == ("a", "b")
    assert found.difference == pytest.approx(0.01)
    assert (found.freedom, found.p_value) == (want.df, pytest.approx(want.pvalue))
    # Means 2, 4, 9; seeds -1, 1; residuals 0.5 and -0.5 in the first two nets, none in the third: 1 over 2 degrees.
    found = over_seeds({"a": [1.5, 2.5], "b": [2.5, 5.5], "c": [8, 10]})["a", "c"]
    assert (found.difference, found.freedom) == (-7, 2)
    assert found.standard_error == pytest.approx(0.5**0.5)
    assert found.p_value == pytest.approx(2 * t.sf(7 / 0.5**0.5, 2))


def test_what_a_seed_does_to_all_nets_alike_is_no_scatter() -> None:
    nets = {"a": [0.90, 0.91, 0.93], "b": [0.91, 0.92, 0.93], "c": [0.92, 0.925, 0.94]}
    moved = {
        name: [score + shift for score, shift in zip(own, (0, 0.2, -0.1), strict=True)] for name, own in nets.items()
    }
    for one, two in zip(over_seeds(nets).values(), over_seeds(moved).values(), strict=True):
        assert (one.standard_error, one.p_value) == (pytest.approx(two.standard_error), pytest.approx(two.p_value))
    same = over_seeds({"a": [0.5, 0.5], "b": [0.5, 0.5], "c": [0.75, 0.75]})
    assert [found.p_value for found in same.values()] == [1, 0, 0]


def test_over_seeds_is_right_about_equal_nets() -> None:
    """Of 400 draws of eight equal nets with three seeds about one in twenty calls any pair different."""
    draw = random.Random(0)
    wrong = 0
    for _ in range(400):
        nets = {str(net): [draw.gauss(0.9, 0.003) for _ in range(3)] for net in range(8)}
        wrong += min(holm([found.p_value for found in over_seeds(nets).values()])) < 0.05
    assert 5 <= wrong <= 28  # four standard errors around 20, and Holm is on the safe side


def test_over_seeds_wants_the_same_seeds() -> None:
    for scores in ({}, {"a": [1, 2]}, {"a": [1, 2], "b": [1]}, {"a": [1], "b": [2]}):
        with pytest.raises(ValueError, match="the same number of seeds, two or more"):
            over_seeds(scores)
    with pytest.raises(ValueError, match=r"scores \(b: \[1, nan\]\) must be finite"):
        over_seeds({"a": [1, 2], "b": [1, math.nan]})
