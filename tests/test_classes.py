"""Figures of the classes: in the line, the card and the page; and classes that weigh by how often they occur."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from result_lines import changed, stored
from test_keeping import line_for, request
from test_keeping import tiny as tiny  # an automatic fixture

from zoo.bench import run as bench
from zoo.bench.dense_tasks import weighted_loss
from zoo.bench.tasks import TASKS
from zoo.bench.train import balanced
from zoo.recipes import RECIPES
from zoo.report.rows import gather
from zoo.results.card import card
from zoo.results.classes import by_class
from zoo.results.line import check
from zoo.results.store import read

DIGITS = RECIPES["digits"].recipe


def test_figures_of_classes_are_those_of_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

    labels, predictions = torch.randint(5, (60,)), torch.randint(5, (60,))
    labels[labels == 3], predictions[predictions == 3] = 2, 1  # a class that neither has
    labels[labels == 4] = 0  # one that is named and never there
    found = TASKS["classify"].by_class(predictions, labels, 5)
    assert found["macro_f1"] == pytest.approx(float(MulticlassF1Score(5, average="macro")(predictions, labels)))
    assert found["confusion"] == MulticlassConfusionMatrix(5)(predictions, labels).tolist()
    expected = MulticlassAccuracy(5, average="none")(predictions, labels).tolist()
    assert found["class_accuracy"][:3] == pytest.approx(expected[:3])
    assert found["class_accuracy"][3:] == [None, None]
    assert "confusion" not in TASKS["classify"].by_class(predictions, labels, 101)


def test_figures_of_many_classes_need_no_table_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    bincount = torch.bincount

    def counted(values: torch.Tensor, **options: int) -> torch.Tensor:
        lengths.append(options["minlength"])
        return bincount(values, **options)

    labels, predictions = torch.randint(5, (60,)), torch.randint(5, (60,))
    few = TASKS["classify"].by_class(predictions, labels, 5)
    monkeypatch.setattr(torch, "bincount", counted)
    found = TASKS["classify"].by_class(predictions, labels, 20_000)
    assert max(lengths) == 20_000
    assert found["class_accuracy"] == few["class_accuracy"] + [None] * 19_995
    assert found["macro_f1"] == pytest.approx(few["macro_f1"])


@pytest.fixture(scope="module")
def out(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run with balanced classes and a validation half."""
    path = tmp_path_factory.mktemp("classes")
    bench(request(path, changes={"epochs": 1, "class_weights": "balanced"}, validation=0.2))
    return path


def test_line_card_and_page_tell_classes_apart(out: Path) -> None:
    [line] = stored(out / "results.jsonl")
    matrix = torch.tensor(line["confusion"])
    assert matrix.sum() == line["dataset"]["test"], "of the test half, not of that for choosing"
    assert matrix.trace() / matrix.sum() == pytest.approx(line["test_accuracy"])
    [folder] = (out / "weights").iterdir()
    text = (folder / "README.md").read_text()
    assert f"Macro F1 {100 * line['macro_f1']:.2f} %" in text
    assert "| class | accuracy [%] |" in text
    assert "classes weigh by the inverse" in text
    [shown] = gather(read([out / "results.jsonl"]), with_published=False)["cards"].values()
    assert shown["classes"]["words"] == f"seed 0; macro F1 {100 * line['macro_f1']:.2f} %"
    assert [row[2:] for row in shown["classes"]["rows"]] == line["confusion"]
    json.dumps(shown)


def test_lines_of_others_do_no_harm() -> None:
    line = line_for("a", class_accuracy=[0.5, 1.0], confusion=[[1, 1], [0, 2]], macro_f1=0.7)
    check(line)
    found = by_class(line)
    assert found is not None
    assert found.names == ("0", "1"), "seven names for two classes are none"
    assert found.confusions() == [("0", "1", 1)]
    assert by_class(changed(line, confusion=[[1]])) is None
    assert "## Classes" not in card(changed(line, class_accuracy=None), "a-seed0-1")
    for field, value in {"confusion": [[1, 2]], "class_accuracy": [2], "macro_f1": "high"}.items():
        with pytest.raises(ValueError, match=field):
            check(changed(line, **{field: value}))
    assert "\\<b\\>" in card(changed(line, dataset__classes=["<b>", "|"]), "a-seed0-1")


def test_rare_classes_weigh_more() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = balanced(labels.bincount(minlength=5))
    assert weights[[0, 1, 3]].tolist() == pytest.approx(
        compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy()).tolist()
    )
    assert weights[[2, 4]].tolist() == [0, 0]
    assert float(weights[labels].mean()) == pytest.approx(1)
    logits = torch.randn(10, 5)
    whole = weighted_loss(logits, labels, DIGITS, weights)
    parts = [weighted_loss(logits[part], labels[part], DIGITS, weights) for part in (slice(0, 5), slice(5, 10))]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2), "shares of a batch add up to it"
    torch.testing.assert_close(
        weighted_loss(logits, labels, DIGITS, torch.ones(5)), weighted_loss(logits, labels, DIGITS, None)
    )
    with pytest.raises(ValueError, match="recipe field class_weights must be one of"):
        DIGITS.changed(class_weights="rare")
    with pytest.raises(ValueError, match="class_weights must be '' for detection"):
        TASKS["detect"].loss(
            torch.nn.ModuleList(), logits, [], RECIPES["scenes"].recipe.changed(class_weights="balanced"), weights
        )
