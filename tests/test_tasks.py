"""Segmentation and detection in the benchmark: scenes, metrics, training, results, pictures, requests that fail."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_rgb
from result_lines import stored, write
from torch import Tensor

from zoo.bench import dense_tasks as dense
from zoo.bench import sweep as runner
from zoo.bench import tasks
from zoo.bench.prediction_pictures import best_boxes, colour_of, draw_predictions
from zoo.bench.tasks import TASKS, block_error, load, standard_error, task_row, trivial_score
from zoo.bench.train import DivergedError, train
from zoo.datasets import fashion, scenes
from zoo.datasets.built_in import DatasetRow, load_dataset
from zoo.datasets.image_set import take
from zoo.datasets.scenes import MIN_VISIBLE, Scenes, digit_pool
from zoo.results.group import group
from zoo.results.metrics import METRICS
from zoo.results.recipe import Recipe
from zoo.results.run import Run
from zoo.results.store import read
from zoo.results.table import choose, footnote, format_table, sort_nets, to_dict, write_table
from zoo_cli import main

RECIPE = Recipe(epochs=1, batch_size=4, lr=1e-3, optimizer="adamw")
NET = "fabric_test"
# Of the first test scene.
LABELS = [9, 9, 8, 6]
GARMENTS = [10, 2, 4]
GARMENT_BOXES = [[53.0, 8.0, 87.0, 28.0], [31.0, 70.0, 41.0, 94.0], [22.0, 36.0, 32.0, 62.0]]
BOXES = [[5.0, 15.0, 22.0, 43.0], [13.0, 20.0, 34.0, 51.0], [15.0, 2.0, 36.0, 29.0], [29.0, 28.0, 46.0, 57.0]]

# ---------------------------------------------------------------- scenes


def same(a: Any, b: Any) -> bool:
    return torch.equal(a[0], b[0]) and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


def test_a_scene_depends_on_its_number_alone() -> None:
    few, many = Scenes("train", 3), Scenes("train", 30)
    torch.rand(3)
    backwards = [few[i] for i in (2, 1, 0)][::-1]
    assert all(same(backwards[i], many[i]) for i in range(3))
    assert not same(many[0], many[1])
    assert not same(many[0], Scenes("train", 3, seed=1)[0])
    assert not torch.equal(many[0][0], Scenes("test", 3)[0][0])
    assert len(list(few)) == len(few) == 3  # iteration ends
    with pytest.raises(IndexError, match=r"scene 3 of 3 does not exist"):
        few[3]


def test_the_scenes_never_change() -> None:
    # Results of all versions compare only as long as the scenes stay the same.
    target = Scenes("test", 1)[0][1]
    assert target.labels.tolist() == LABELS
    assert target.boxes.tolist() == BOXES


def test_training_and_test_scenes_share_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    (train_images, train_digits), (test_images, test_digits) = digit_pool("train"), digit_pool("test")
    assert len(train_images) == 897
    assert len(test_images) == 900
    # The halves of the classification benchmark, in its order, ...
    digits = load_dataset("digits")
    assert torch.equal(train_digits, digits.train_labels)
    assert torch.equal(test_digits, digits.test_labels)
    train_set = {tuple(image.flatten().tolist()) for image in train_images}
    assert not [image for image in test_images if tuple(image.flatten().tolist()) in train_set]
    # ... and a scene draws from its own half only.
    asked: list[str] = []

    def pool(split: str) -> tuple[Tensor, Tensor]:
        asked.append(split)
        return test_images, test_digits

    monkeypatch.setattr(scenes, "digit_pool", pool)
    Scenes("test", 1)[0]
    assert asked == ["test"]


@pytest.fixture(scope="module")
def forty() -> list[Any]:
    return list(Scenes("train", 40))


def test_boxes_masks_and_classes_agree(forty: list[Any]) -> None:
    counts = set()
    for image, target in forty:
        assert image.shape == (3, 64, 64)
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        n = len(target.labels)
        counts.add(n)
        assert target.boxes.shape == (n, 4)
        assert target.masks.shape == (n, 64, 64)
        assert int(target.masks.sum(0).max()) == 1  # a pixel belongs to one digit
        for mask, box, label in zip(target.masks, target.boxes.long().tolist(), target.labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            inside = mask[y0:y1, x0:x1]
            assert int(inside.sum()) == int(mask.sum()) > 0
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(bool(edge.any()) for edge in edges)  # the box is tight
            assert bool((target.semantic[mask] == label).all())
            assert 1 <= label <= 10
        assert torch.equal(target.semantic > 0, target.masks.any(0))
    assert counts <= set(range(2, 5))
    assert len(counts) > 1
    assert {label for _, target in forty for label in target.labels.tolist()} == set(range(1, 11))


def test_scenes_of_garments_are_opaque_and_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = torch.full((4, 28, 28), 0.9), torch.tensor([0, 3, 5, 9])
    images[:, :4] = 0.0  # nothing is there, so the ground shows
    monkeypatch.setattr(scenes, "garment_pool", lambda split: (images, classes))
    image, target = Scenes("test", 1, source="fashion")[0]
    assert image.shape == (3, 96, 96)
    assert set(target.labels.tolist()) <= {1, 4, 6, 10}
    sides = target.boxes[:, 2] - target.boxes[:, 0]
    assert float(sides.max()) <= 36
    for mask in target.masks:  # one colour, not mixed with what lies below
        inside = image[:, mask]
        assert float((inside - inside.median(1, keepdim=True).values).abs().median()) < 1e-3
    assert same(Scenes("test", 1, source="fashion")[0], (image, target))


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_scenes_of_garments_never_change() -> None:
    target = Scenes("test", 1, source="fashion")[0][1]
    assert target.labels.tolist() == GARMENTS
    assert target.boxes.tolist() == GARMENT_BOXES


def test_digits_stand_out_from_the_ground(forty: list[Any]) -> None:
    for image, target in forty:
        ground = image[:, ~target.masks.any(0)].mean(1)
        assert all(float((image[:, mask].mean(1) - ground).mean()) > 0.1 for mask in target.masks)


def test_later_digits_cover_earlier_ones_but_not_too_much() -> None:
    alone = [Scenes("train", 60, objects=(n, n)) for n in (1, 2)]
    covered = 0
    for i in range(60):
        (_, one), (_, two) = alone[0][i], alone[1][i]
        before, after = one.masks[0], two.masks[0]
        assert torch.equal(before & after, after)
        assert int(after.sum()) >= MIN_VISIBLE * int(before.sum())
        covered += not torch.equal(before, after)
    assert covered > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"split must be one of train, test, got 'val'"),
        ({"length": 0}, r"length must be at least 1, got 0"),
        ({"objects": (3, 2)}, r"objects must be .*fewest <= most, got \(3, 2\)"),
        ({"sides": (4, 80)}, r"sides must be .*<= 64, the scene's size, got \(4, 80\)"),
    ],
)
def test_wrong_scenes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenes(**{"split": "train", "length": 2, **arguments})


# ---------------------------------------------------------------- metrics


def test_mean_iou_of_hand_made_masks() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    truth[0, :2] = 3
    assert dense.mean_iou(truth, truth) == 1
    found = truth.clone()
    found[0, 1] = 0  # half of the digit is missed: 4 / 8, and 8 / 12 of the ground
    assert dense.mean_iou(found, truth) == pytest.approx((4 / 8 + 8 / 12) / 2)
    found[0, 1] = 5  # taken for another digit, which is right nowhere
    assert dense.mean_iou(found, truth) == pytest.approx((4 / 8 + 8 / 8 + 0) / 3)


def test_average_precision_of_hand_made_boxes() -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), "labels": torch.tensor([3, 4])}]

    def score(boxes: list[list[float]], labels: list[int]) -> float:
        found = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.ones(len(labels))}
        return dense.mean_average_precision([found], truth)

    both = [[0.0, 0, 10, 10], [20.0, 20, 40, 40]]
    assert score(both, [3, 4]) == pytest.approx(1)
    assert score(both[:1], [3]) == pytest.approx(0.5)
    assert score(both, [4, 3]) == pytest.approx(0)
    assert score([[0.0, 0, 10, 7.7], both[1]], [3, 4]) == pytest.approx((0.6 + 1) / 2)  # overlap 0.77: 6 of 10 steps
    assert dense.mean_average_precision(dense.no_boxes(truth), truth) == 0


def test_trivial_answers_are_measured_with_the_same_code(tiny: str) -> None:
    masks = load("segment", tiny).test_labels
    ground = float((masks == 0).float().mean())
    assert trivial_score("segment", tiny) == pytest.approx(ground / len(masks.unique()), rel=1e-4)
    assert trivial_score("detect", tiny) == 0
    assert trivial_score("classify", "digits") is None


def test_the_standard_error_is_that_of_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = (torch.rand(2000, generator=generator) < 0.7).long()
    right = torch.ones_like(answers)
    binomial = standard_error(0.7, 2000)
    assert block_error(tasks._accuracy, answers, right) == pytest.approx(binomial, rel=0.6)
    assert block_error(tasks._accuracy, right, right) == 0
    assert block_error(tasks._accuracy, right[:1], right[:1]) == 0  # one image does not spread


def test_targets_are_taken_from_tensors_and_lists() -> None:
    assert take(torch.tensor([5, 6, 7]), torch.tensor([2, 0])).tolist() == [7, 5]
    assert take(["a", "b", "c"], torch.tensor([2, 0])) == ["c", "a"]


# ---------------------------------------------------------------- training


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A handful of scenes for both tasks."""
    rows = {
        "segment": DatasetRow(load=lambda: replace(scenes.segmentation_scenes(8, 4), name="tiny"), recipe=RECIPE),
        "detect": DatasetRow(load=lambda: replace(scenes.detection_scenes(8, 4), name="tiny"), recipe=RECIPE),
    }
    for task, row in rows.items():
        monkeypatch.setitem(TASKS[task].datasets, "tiny", row)  # ty: ignore[invalid-argument-type]
    yield "tiny"
    tasks._load.cache_clear()
    trivial_score.cache_clear()


HEADS = [(task.name, head) for task in TASKS.values() for head in task.heads]


def test_both_tasks_have_two_heads() -> None:
    assert HEADS == [("segment", "unet"), ("segment", "deeplabv3plus"), ("detect", "fcos"), ("detect", "retinanet")]


def plan(task: str, head: str = "", name: str = NET, recipe: Recipe = RECIPE, **options: Any) -> Run:
    [run] = runner.plan([name], "tiny", recipe, [0], task=task, head=head, **options)
    return run


@pytest.mark.only(task=("segment",))  # both detectors train in the test of frozen nets
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_every_head_trains_and_is_counted(task: str, head: str, tiny: str, tmp_path: Path) -> None:
    path, run = tmp_path / "results.jsonl", plan(task, head)
    outcome = runner.sweep([run], path)
    assert outcome == runner.Outcome(finished=1, skipped=0, failures=())
    before = path.read_bytes()
    assert runner.sweep([run], path).skipped == 1  # resumed: nothing is done twice
    assert path.read_bytes() == before

    [record] = stored(path)
    metric = TASKS[task].metric
    assert (record["task"], record["head"], record["frozen"]) == (task, head, False)
    assert record["display"] == f"{head}({NET})"
    assert record["family"] == "fabric"
    assert record["spec"]["columns"] == 3
    assert record["dataset"]["train"] == 8
    assert 0 <= record[f"test_{metric}"] <= 1
    assert record["standard_error"] >= 0
    assert record[f"trivial_{metric}"] == trivial_score(task, tiny)
    [epoch] = record["epochs"]
    assert epoch[f"test_{metric}"] == record[f"test_{metric}"]
    assert f"train_{metric}" not in epoch
    assert epoch["train_loss"] > 0
    model = runner.build(run, load(task, tiny))
    assert record["counts"]["params"] == sum(p.numel() for p in model.parameters())
    assert record["counts"]["macs"] > 10**6


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_training_lowers_the_loss_and_repeats(task: str, tiny: str) -> None:
    row, data = TASKS[task], load(task, tiny)
    recipe = replace(RECIPE, epochs=4)
    run = plan(task, recipe=recipe)

    def losses() -> list[float]:
        trained = train(lambda: runner.build(run, data), data, recipe, task=row, seed=2)
        return [epoch.train_loss for epoch in trained.epochs]

    first = losses()
    assert first[-1] < 0.9 * first[0]
    assert losses() == first


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_a_frozen_net_keeps_its_weights_and_its_head_learns(task: str, head: str, tiny: str) -> None:
    run, data = plan(task, head, frozen=True), load(task, tiny)
    start: dict[str, Tensor] = {}
    end: dict[str, Tensor] = {}

    def build() -> torch.nn.Module:
        model = runner.build(run, data)
        start.update({name: value.detach().clone() for name, value in model.named_parameters()})
        return model

    train(build, data, RECIPE, task=TASKS[task], on_trained=lambda model: end.update(model.named_parameters()))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    own = {name for name in start if name.startswith(("encoder.", "backbone.body."))}
    assert own
    assert not moved & own
    assert len(moved) > 0.8 * len(start.keys() - own)
    assert run.display == f"{head}(frozen {NET})"


def test_a_frozen_classifier_learns_its_last_layer() -> None:
    [run] = runner.plan(["resnet20_cifar"], "digits", RECIPE, [0], frozen=True)
    model = runner.build(run, load("classify", "digits"))
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert learning == {"classifier.fc.weight", "classifier.fc.bias"}


def test_a_model_is_shown_before_it_is_gone(tiny: str) -> None:
    run, data, seen = plan("segment"), load("segment", tiny), []
    train(
        lambda: runner.build(run, data),
        data,
        RECIPE,
        task=TASKS["segment"],
        on_trained=lambda model: seen.append(model.training),
    )
    assert seen == [False]


def test_a_loss_that_is_not_finite_is_reported(tiny: str) -> None:
    run, data = plan("segment"), load("segment", tiny)
    broken = replace(data, train_images=data.train_images * float("nan"))
    with pytest.raises(DivergedError, match=r"unet\(fabric_test\): the loss is nan in epoch 1 of 1"):
        train(lambda: runner.build(run, data), broken, RECIPE, task=TASKS["segment"], label=run.display)


def test_recipes_that_a_task_cannot_follow_are_refused(tiny: str) -> None:
    data = load("segment", tiny)
    run = plan("segment")
    with pytest.raises(ValueError, match=r"max_shift must be 0 for task segment, got 2"):
        train(lambda: runner.build(run, data), data, replace(RECIPE, max_shift=2), task=TASKS["segment"])
    data, run = load("detect", tiny), plan("detect")
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 for detection, got 0.1"):
        train(lambda: runner.build(run, data), data, replace(RECIPE, label_smoothing=0.1), task=TASKS["detect"])


# ---------------------------------------------------------------- requests


def test_keys_of_classification_runs_are_those_of_before() -> None:
    run = Run(name="a", dataset="digits", recipe=Recipe(epochs=3, batch_size=32, lr=0.1), seed=0)
    assert set(run.to_dict()) == {"name", "overrides", "dataset", "recipe", "seed"}
    assert "optimizer" not in run.to_dict()["recipe"]
    others = [
        replace(run, task="segment"),
        replace(run, task="segment", head="unet"),
        replace(run, frozen=True),
        replace(run, recipe=run.recipe.changed(optimizer="adamw")),
    ]
    assert len({run.key, *(other.key for other in others)}) == 5
    assert all(Run(**{**o.to_dict(), "recipe": o.recipe}) == o for o in others)


def test_a_wrong_optimizer_is_named() -> None:
    with pytest.raises(ValueError, match=r"recipe field optimizer must be one of .*, got 'adam'"):
        RECIPE.changed(optimizer="adam")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "paint"], "unknown task 'paint': choose from classify, segment, detect"),
        (["--task", "segment", "--decoder", "fpn"], "unknown decoder 'fpn': choose from unet, deeplabv3plus"),
        (["--task", "detect", "--detector", "yolo"], "unknown detector 'yolo': choose from fcos, retinanet"),
        (["--decoder", "unet"], "--decoder 'unet' belongs to --task segment, not to classify"),
        (["--task", "segment", "--detector", "fcos"], "--detector 'fcos' belongs to --task detect, not to segment"),
        (["--pictures"], "pictures are for the tasks segment and detect, not for classify"),
        (["--task", "segment", "--dataset", "digits"], "unknown dataset 'digits': choose from fashion_scenes, folder"),
        (["--task", "segment", "--sort", "accuracy"], "unknown column 'accuracy': choose from name, params"),
        (["--task", "segment", "fabric_tset"], "did you mean fabric_test"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["bench", *arguments, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("zoo: error: ")
    assert message in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20_cifar", [], "resnet20_cifar has taps of stride 1, 2, 4, and task segment needs 2, 4, 8, 16, 32"),
        (NET, ["--set", "colour=3"], "unet(fabric_test + colour=3): fabric_test has no argument 'colour'"),
        ("resnet18", ["--decoder", "deeplabv3plus", "--set", "output_stride=8"], "has taps of stride 2, 4, 8, 8, 8"),
    ],
)
def test_a_net_that_does_not_fit_stops_before_training(
    name: str, options: list[str], message: str, tiny: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["bench", name, "--task", "segment", "--dataset", tiny, *options, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_missing_package_names_the_extra(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find, gone = importlib.util.find_spec, task_row(task).modules[-1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == gone else find(name))
    assert main(["bench", "--task", task]) == 2
    error = capsys.readouterr().err
    assert f"module '{gone}' is not installed and belongs to the extra 'downstream'" in error
    assert "pip install -e '.[downstream]'" in error


@pytest.mark.parametrize(("task", "title"), [("segment", "mIoU"), ("detect", "mAP")])
def test_the_command_makes_lines_tables_plots_and_pictures(
    task: str, title: str, tiny: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    metric = TASKS[task].metric
    command = ["bench", NET, "--task", task, "--dataset", tiny, "--pictures", "--out", str(tmp_path)]
    assert main([*command, "--format", "md", "csv", "json"]) == 0
    captured = capsys.readouterr()
    head = TASKS[task].heads[0]
    picture = tmp_path / "pictures" / f"{head}_{NET}_seed0.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in captured.err
    assert f"% test {title} after 1 epochs" in captured.err
    assert f"{title} [%]" in captured.out
    assert f"{head}({NET})" in captured.out
    assert METRICS[task].trivial_title.capitalize() + " scores " in captured.out
    for cost in ("params", "macs"):
        assert (tmp_path / f"{metric}_vs_{cost}.png").exists()
    assert not list(tmp_path.glob("accuracy*"))
    [row] = json.loads((tmp_path / "table.json").read_text())
    assert row["task"] == task
    assert row[f"trivial_{metric}"] == pytest.approx(trivial_score(task, tiny))
    assert (tmp_path / "table.csv").read_text().split(",")[5] == metric
    assert main([*command, "--seeds", "0"]) == 0
    assert "1 finished run found, 0 to do" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 0
    assert f"{title} [%]" in capsys.readouterr().out


def test_a_picture_shows_the_best_box_of_a_digit() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [1.0, 0, 20, 20], [30.0, 30, 50, 50], [40.0, 0, 60, 20]])
    shown = best_boxes({"boxes": boxes, "scores": torch.tensor([0.5, 0.6, 0.9, 0.1])})
    assert shown.tolist() == [2, 1]  # one is covered by a better one, one is too unsure


def test_a_picture_shows_scenes_truth_and_prediction(tiny: str) -> None:
    for task in ("segment", "detect"):
        data = load(task, tiny)
        figure = draw_predictions(task, runner.build(plan(task), data).eval(), data, "a title", scenes=3)
        assert len(figure.axes) == 9
        assert figure.get_suptitle() == "a title: 3 held-out scenes"
        if task == "segment":
            mask = data.test_labels[1]
            shown = torch.tensor(figure.axes[4].images[0].get_array())
            expected = torch.tensor([to_rgb(colour_of(label)) for label in mask.flatten().tolist()])
            assert torch.equal(shown, expected.reshape(*mask.shape, 3))
        else:
            assert len(figure.axes[4].patches) == len(data.test_labels[1]["boxes"])


def make_record(task: str, name: str, seed: int, score: float, **recipe: Any) -> dict[str, Any]:
    [run] = runner.plan([name], "scenes", RECIPE.changed(**recipe), [seed], task=task)
    metric = TASKS[task].metric
    return {
        **run.to_dict(),
        "key": run.key,
        "display": run.display,
        "task": task,
        "family": "resnet",
        "counts": {"params": 1000, "macs": 10**6, "activations": 5, "uncounted": {}},
        "dataset": {"name": "scenes", "test": 150},
        f"test_{metric}": score,
        f"trivial_{metric}": 0.07,
        "standard_error": 0.01 * (1 + seed),
        "seconds": 1.0,
    }


def test_tables_are_named_after_the_metric(tmp_path: Path) -> None:
    records = [make_record("segment", "a", 0, 0.5), make_record("segment", "b", 0, 0.6)]
    [comparison] = group([*records, make_record("segment", "a", 1, 0.9)])
    rows = sort_nets(comparison.nets)
    assert [row.name for row in rows] == ["unet(a)", "unet(b)"]
    assert rows[0].score == pytest.approx(0.7)
    assert rows[0].standard_error == pytest.approx(0.015)  # as measured: it is not binomial
    assert "mIoU [%]" in format_table(rows)
    assert "mIoU comes from 150 test images" in footnote(rows)
    assert "All background scores 7.00 % on them." in footnote(rows)
    assert json.loads(write_table(rows, tmp_path / "t.json").read_text())[0]["miou"] == pytest.approx(0.7)
    assert [row.name for row in sort_nets(rows, "miou")] == [row.name for row in rows]
    with pytest.raises(ValueError, match=r"results hold scenes, segment; scenes, detect: keep one file for each"):
        choose(group([*records, make_record("detect", "a", 0, 0.5)]))


def test_a_row_names_the_optimizer_where_it_differs() -> None:
    records = [make_record("segment", "a", 0, 0.5), make_record("segment", "a", 0, 0.4, optimizer="sgd")]
    [comparison] = group(records)
    assert {row.name for row in comparison.nets} == {"unet(a) [optimizer=adamw]", "unet(a) [optimizer=sgd]"}


def test_old_lines_without_a_task_are_classification(tmp_path: Path) -> None:
    record = make_record("segment", "a", 0, 0.5)
    for key in ("task", "head", "trivial_miou", "test_miou"):
        del record[key]
    [comparison] = group(read([write(tmp_path / "results.jsonl", [{**record, "test_accuracy": 0.5}])]).trainings)
    [row] = comparison.nets
    assert (row.task, row.score) == ("classify", 0.5)
    assert to_dict(row)["accuracy"] == 0.5
    assert not {"score", "task", "trivial", "trivial_accuracy"} & set(to_dict(row))


def test_the_page_knows_scenes_and_recipe() -> None:
    text = " ".join((Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="ascii").split())
    assert f"Training scenes ({scenes.TRAIN_SCENES}) and test scenes ({scenes.TEST_SCENES})" in text
    example = Scenes("train", 1)
    low, high = example.sides
    assert f"{example.size}x{example.size} pixels" in text
    assert f"a side of {low} to {high} pixels" in text
    assert example.objects == (2, 4)
    assert "two to four" in text
    assert f"keep at least {MIN_VISIBLE:.0%} of their ink".replace("%", " %") in text
    for task in ("segment", "detect"):
        recipe = TASKS[task].row("scenes").recipe
        assert recipe.optimizer == "adamw"
        assert f"AdamW, learning rate {recipe.lr} after a warm-up of one epoch" in text
        assert f"weight decay {recipe.weight_decay}, {recipe.batch_size} scenes a step, {recipe.epochs} epochs" in text
