"""No change of initialisation, recipe, order, augmentation or data goes unnoticed: see `golden_curves`."""

from typing import Any

import pytest
from golden_curves import agree, golden, losses, plan

import zoo

GOLDEN = golden()
DEFAULT = [name for name in zoo.list_models() if "default" in zoo.model_entry(name).lineups]


# Recipe, order of the images and layers are one for all: the usual tier shows a residual net and a grid.
@pytest.mark.only(name=("resnet20_cifar", "fabric_a_l3_s3_c32x2_post_cifar"))
@pytest.mark.parametrize("name", DEFAULT)
def test_two_epochs_are_as_recorded(name: str) -> None:
    runs, images = plan()
    [run] = [run for run in runs if run.name == name]
    have = losses(run, images)
    assert agree(have, GOLDEN[name]), f"{have}; if it is meant: python tests/golden_curves.py"


def test_the_whole_line_up_is_recorded() -> None:
    assert sorted(GOLDEN) == sorted(DEFAULT) == sorted(run.name for run in plan()[0])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"lr": 0.105}, marks=pytest.mark.slow),
        pytest.param({"max_shift": 1}, marks=pytest.mark.slow),
        pytest.param({"momentum": 0.85}, marks=pytest.mark.slow),
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_small_change_is_seen(change: dict[str, Any]) -> None:
    runs, images = plan()
    [run] = [run for run in runs if run.name == "resnet20_cifar"]
    assert not agree(losses(run, images, **change), GOLDEN[run.name])
