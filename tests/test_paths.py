"""Numbers and lengths of paths against closed formulas: of chains, of fish, and of the graphs of fabrics."""

from math import comb
from typing import Any

import numpy as np
import pytest
from structures import FABRIC

import zoo
from zoo import topology
from zoo.analysis.nets import Options
from zoo.analysis.paths import path_lengths
from zoo.analysis.run import analyse

SIZE = (3, 32, 32)


def binomial(units: int) -> dict[int, int]:
    return {k: comb(units, k) for k in range(units + 1)}


@pytest.mark.parametrize(
    ("name", "changes", "units"),
    [
        ("preresnet_test", {}, 5),
        ("resnet20_cifar", {"squeeze": 4}, 9),
        ("resnet_test", {"order": "act_before_add", "drop_path_rate": 0.2}, 5),
        ("densenet40_k12_bc_cifar", {"depths": (2, 3, 4)}, 9),
        ("highway11_cifar", {}, 6),
    ],
)
def test_a_chain_of_units_has_binomial_lengths(name: str, changes: dict[str, Any], units: int) -> None:
    net = zoo.create_model(name, device="meta", **changes)
    assert path_lengths(net, input_size=SIZE).counts == binomial(units)


def test_the_net_of_veit() -> None:
    """54 units: more than 95 % of the paths have 19 to 35 (the paper's words), 0.45 % have 5 to 17."""
    paths = path_lengths(zoo.create_model("preresnet110_cifar", device="meta"), input_size=SIZE)
    assert paths.counts == binomial(54)
    assert paths.mean == 27
    assert round(100 * paths.share(19, 35), 1) == 98.0
    assert round(100 * paths.share(5, 17), 4) == 0.4537
    first, last = paths.range()
    assert (first, last) == (20, 34)


def test_a_plain_net_has_one_path() -> None:
    paths = path_lengths(zoo.create_model("plain20_cifar", device="meta"), input_size=SIZE)
    assert (paths.counted, paths.counts) == ("convolutions", {19: 1})


def test_convolutions_of_a_residual_net() -> None:
    net = zoo.create_model("resnet20_cifar", device="meta")
    assert path_lengths(net, input_size=SIZE, counted="convolutions").counts == {
        1 + 2 * k: comb(9, k) for k in range(10)
    }


def test_a_fish_is_its_formula() -> None:
    spec = zoo.model_entry("fishnet58_cifar").spec
    tail, body, up, head, down = (
        getattr(spec, name) for name in ("tail_blocks", "body_blocks", "body_laterals", "head_blocks", "head_laterals")
    )

    def power(units: int) -> np.polynomial.Polynomial:
        return np.polynomial.Polynomial([1, 1]) ** units

    maps = [power(0)]
    for depth in tail:
        maps.append(maps[-1] * power(depth))
    maps.append(maps[3] * power(spec.bridge_blocks))
    for i in range(3):
        maps.append(maps[-1] * power(body[i]) + maps[2 - i] * power(up[i]))
    for i in range(3):
        maps.append(maps[-1] * power(head[i]) + maps[6 - i] * power(down[i]))
    found = path_lengths(zoo.create_model("fishnet58_cifar", device="meta"), input_size=SIZE)
    assert found.counts == {k: int(c) for k, c in enumerate(maps[-1].coef) if c}


@pytest.mark.parametrize(
    "changes", [{"unit": "conv"}, {"unit": "conv", "type": "d", "up": "zero", "columns": 5, "column_skip": 2}]
)
def test_a_fabric_has_the_paths_of_its_graph(changes: dict[str, Any]) -> None:
    net = zoo.create_model("fabric_test", device="meta", **FABRIC | changes)
    paths = path_lengths(net, input_size=(3, 64, 64))
    assert paths.total == topology.count_paths(net.spec.edges, net.spec.head_nodes[-1])


def test_skips_of_a_fabric_are_paths_beside_its_branches() -> None:
    """Each edge with a skip is two ways, so a path of n edges is 2^n paths."""
    plain, skips = (
        path_lengths(zoo.create_model("fabric_test", device="meta", **FABRIC | {"unit": unit}), input_size=(3, 64, 64))
        for unit in ("conv", "pre")
    )
    assert skips.total == sum(2**length * count for length, count in plain.counts.items())
    assert max(skips.counts) == max(plain.counts)


def test_the_table_of_paths() -> None:
    outcome = analyse("paths", ["resnet20_cifar", "plain20_cifar"], Options(counted="convolutions"))
    assert [row["paths"] for row in outcome.shown] == ["512", "1"]
    assert sum(row["share"] for row in outcome.rows if row["net"] == "resnet20_cifar") == pytest.approx(1)
    assert outcome.picture("png")
    with pytest.raises(ValueError, match=r"counted \('steps'\) must be one of units, convolutions"):
        analyse("paths", ["resnet20_cifar"], Options(counted="steps"))
