"""No net changes its cost or the names of its tensors unnoticed."""

import csv
import runpy
from pathlib import Path

import pytest
import torch
from golden_nets import Counter, golden, measure, state_dict_hash
from structures import LONG
from torch import nn

import zoo

GOLDEN = golden()
DOCS = Path(__file__).parents[1] / "docs"
CATALOGUE = runpy.run_path(str(DOCS / "catalogue.py"))
PAGE = (DOCS / "models.md").read_text(encoding="ascii")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in zoo.list_models()],
)
def test_costs_and_names_are_as_recorded(name: str) -> None:
    assert name in GOLDEN, "a new row: python tests/golden_nets.py"
    net = zoo.create_model(name, device="meta")
    assert measure(name, net) == GOLDEN[name], "if it is meant: python tests/golden_nets.py, and a line in CHANGELOG.md"
    assert f"| {' | '.join(CATALOGUE['cells'](zoo.model_entry(name), net))} |\n" in PAGE, "run `make format`"


def test_no_row_is_left_of_a_net_that_is_gone() -> None:
    assert list(GOLDEN) == zoo.list_models()


def test_both_counters_agree() -> None:
    """What runs on the meta device, and what fvcore counts in the trace that the published counts are from."""
    counts = Path(__file__).parents[1] / "benchmarks" / "results" / "counts.csv"
    with counts.open(newline="", encoding="ascii") as file:
        published = {row["name"]: row for row in csv.DictReader(file)}
    columns = ("params", "macs", "activations")
    differ = {
        name: column for name, row in GOLDEN.items() for column in columns if row[column] != published[name][column]
    }
    assert not differ


def test_a_change_is_seen() -> None:
    net = zoo.create_model("resnet_test", device="meta")
    before = state_dict_hash(net.state_dict())
    assert before == GOLDEN["resnet_test"]["state_dict"]
    assert state_dict_hash(zoo.create_model("resnet_test", device="meta", num_classes=11).state_dict()) != before
    renamed = {key.replace("stem.conv1", "stem.conv"): value for key, value in net.state_dict().items()}
    assert state_dict_hash(renamed) != before
    assert state_dict_hash(dict(reversed(net.state_dict().items()))) != before


def test_what_is_counted() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.Flatten(), nn.Linear(6 * 3 * 3, 5)).to("meta")
    with Counter() as counter, torch.no_grad():
        net(torch.empty(2, 4, 5, 5, device="meta"))
    assert (counter.macs, counter.activations) == (2 * 9 * 6 * 2 * 9 + 2 * 5 * 54, 2 * 6 * 9 + 2 * 5)
