"""The study of topologies of one size: what it compares is of one size, and every family takes part."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from result_lines import run, stored, write

import zoo
from zoo.complexity import count
from zoo.recipes import RECIPES

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import study  # noqa: E402 - a script, which is no part of the package


@pytest.mark.parametrize("topology", study.STUDY, ids=lambda topology: topology.label)
def test_nets_of_one_size_have_as_many_parameters(topology: study.Topology) -> None:
    for target, overrides in zip(study.SIZES.values(), topology.sizes, strict=True):
        with torch.device("meta"):
            net = zoo.create_model(topology.preset, num_classes=10, **overrides)
        params = sum(parameter.numel() for parameter in net.parameters())
        assert abs(params / target - 1) <= study.CLOSE, f"{topology.label}: {params:,} for {target:,}"


def test_every_family_of_small_images_takes_part() -> None:
    small = {entry.family for entry in map(zoo.model_entry, zoo.list_models()) if entry.name.endswith("_cifar")}
    assert {zoo.model_entry(topology.preset).family for topology in study.STUDY} == small
    assert len({topology.label for topology in study.STUDY}) == len(study.STUDY)


def test_runs_are_told_apart_and_the_small_ones_come_first() -> None:
    runs = study.study_runs([0, 1])
    assert len(runs) == 2 * len(study.SIZES) * len(study.STUDY)
    assert [size for _, size, run in runs.values() if run.seed == 0] == [
        size for size in study.SIZES for _ in study.STUDY
    ]


def test_tables_and_pictures_show_means_and_deviations(tmp_path: Path) -> None:
    runs = study.study_runs([0, 1])
    of = {(topology.label, size, run.seed): key for key, (topology, size, run) in runs.items()}
    path, lines = tmp_path / "r.jsonl", []
    for label, size, seed, accuracy in (
        ("VGG", "S", 0, 0.97),
        ("VGG", "S", 1, 0.99),
        ("LeNet", "S", 0, 0.985),
        ("LeNet", "L", 0, 0.995),
    ):
        counts = {"counts__params": 100, "counts__macs": 2_000_000}
        lines.append(run(f"{label} {size}", seed, key=of[label, size, seed], test_accuracy=accuracy, **counts))
    lines.append({"key": of["LeNet", "L", 1], "name": "LeNet L", "error": "the loss is nan"})
    lines.append(run("another study", test_accuracy=0.5))
    write(path, lines)
    points = study.points(path, runs)
    assert [(point.label, point.size, point.mean, point.failed) for point in points] == [
        ("VGG", "S", pytest.approx(98), 0),
        ("LeNet", "S", pytest.approx(98.5), 0),
        ("LeNet", "L", pytest.approx(99.5), 1),
    ]
    assert points[0].deviation == pytest.approx(2**0.5)
    _, _, first, second = study.table(points).splitlines()
    assert [cell.strip() for cell in first.split("|")[1:5]] == [
        "LeNet (lr 0.02)",
        "98.50 +- 0.00",
        "failed",
        "99.50 +- 0.00 (1 of 2 failed)",
    ]
    assert "98.00 +- 1.41" in second
    assert study.draw(points, "png").startswith(b"\x89PNG")
    assert study.draw(points, "svg") == study.draw(points, "svg")


def test_the_study_runs_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = RECIPES["digits"]
    monkeypatch.setitem(RECIPES, "digits", replace(row, recipe=row.recipe.changed(epochs=1)))
    sizes = tuple({"widths": (n, n), "wide": (n, n)} for n in (2, 3, 4))
    monkeypatch.setattr(study, "STUDY", (study.Topology("LeNet", "lenet5_cifar", sizes),))
    threads = torch.get_num_threads()
    command = ["--only", "study", "--seeds", "0", "--out", str(tmp_path)]
    assert study.main(command) == 0
    told = capsys.readouterr()
    assert "1 topologies at 3 sizes, 1 seeds each" in told.err
    assert "LeNet (lr 0.02)" in told.out
    lines = stored(tmp_path / "digits" / "results.jsonl")
    assert [line["overrides"]["wide"] for line in lines] == [[2, 2], [3, 3], [4, 4]]
    written = sorted(path.name for path in (tmp_path / "digits").iterdir())
    assert written == ["report.html", "results.jsonl", "study.md", "study.png", "study.svg"]
    assert study.main(command) == 0
    assert len(stored(tmp_path / "digits" / "results.jsonl")) == 3
    torch.set_num_threads(threads)


def test_the_published_study_is_whole_and_its_page_shows_it() -> None:
    points = study.points(study.OUT / "digits" / "results.jsonl", study.study_runs([0, 1, 2]))
    assert [(point.label, point.size) for point in points] == [
        (topology.label, size) for topology in study.STUDY for size in study.SIZES
    ]
    assert {point.result.seeds + point.failed for point in points} == {3}
    page = (ROOT / "docs" / "study.md").read_text("ascii")
    assert f"<!-- study -->\n{study.table(points)}\n<!-- /study -->" in page
    picture = (ROOT / "docs" / "images" / "topologies.png").read_bytes()
    assert picture == (study.OUT / "digits" / "study.png").read_bytes(), "copy it to docs/images/topologies.png"


def test_counts_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["resnet_test", "fabric_test"]
    monkeypatch.setattr(zoo, "list_models", lambda: names)
    assert study.main(["--only", "counts", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "counts.csv").read_text("ascii").splitlines()))
    assert [row["name"] for row in rows] == names
    counts = count(zoo.create_model("fabric_test", device="meta"), (3, 64, 64))
    assert (int(rows[1]["params"]), int(rows[1]["macs"])) == (counts.params, counts.macs)
    assert rows[1]["input_size"] == "3x64x64"


def test_the_published_counts_are_those_of_the_registry() -> None:
    with (study.OUT / "counts.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: int(row["params"]) for name, row in rows.items()} == {
        name: zoo.model_entry(name).params for name in zoo.list_models()
    }
    for name in ("resnet18", "vgg11_c32_bn_cifar", "fabric_test", "fishnet_test"):
        counts = count(zoo.create_model(name, device="meta"), zoo.model_entry(name).input_size)
        row = rows[name]
        for column in ("macs", "fvcore_flops", "activations"):
            assert int(row[column]) == getattr(counts, column), f"{name}: {column}"
        assert json.loads(row["uncounted"]) == counts.uncounted
