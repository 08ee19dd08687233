"""The report without a browser: what is read, what is shown of it, what the file is made of."""

import base64
import csv
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from result_lines import RUN, SPEED, changed, run, write

import zoo
from zoo.complexity import count, taps
from zoo.published import ONE_VIEW, results
from zoo.report.drawings import drawing_of_stages, kept_drawings, published_nets
from zoo.report.page import render
from zoo.report.rows import gather
from zoo.results.store import read
from zoo_cli import main

HOSTILE = "</script><img src=x onerror=document.title='pwned'>"


def contents_of(tmp_path: Path, *lines: dict[str, Any], **options: Any) -> dict[str, Any]:
    return gather(read([write(tmp_path / "results.jsonl", lines)]), **options)


def measured(contents: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in contents["rows"] if row["kind"] == "measured"]


def unpacked(page: str, name: str) -> str:
    [packed] = re.findall(rf'id="{name}">([^<]*)</script>', page)
    return gzip.decompress(base64.b64decode(packed)).decode()


def test_seeds_are_one_row_with_a_deviation(tmp_path: Path) -> None:
    scores = (0.98, 0.99, 0.97)
    contents = contents_of(tmp_path, *(run("a", seed, test_accuracy=score) for seed, score in enumerate(scores)))
    [row] = measured(contents)
    assert (row["score"], row["spread"], row["seeds"]) == (98.0, 1.0, 3)
    assert [shown["score"] for shown in contents["runs"]] == [98.0, 99.0, 97.0]
    assert contents["runs"][0]["scores"] == [50.0, 99.1]
    assert contents["runs"][0]["losses"] == [1.6, 0.1]
    [machine] = row["machine"].values()
    assert machine == [323.99, 1_086_308_352]


def test_recipes_are_series_of_their_own(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, run("a"), run("b"), run("a", 1, recipe__lr=0.02))
    titles = [contents["series"][row["series"]]["title"] for row in measured(contents)]
    assert sorted(titles) == ["measured", "measured", "measured, lr=0.02"]
    [only, *_] = measured(contents_of(tmp_path, run("a"), run("b")))
    assert contents_of(tmp_path, run("a"))["series"][only["series"]]["title"] == "measured"


def test_named_recipes_are_called_by_their_names(tmp_path: Path) -> None:
    steps = {"recipe__schedule": "steps", "recipe__step_at": [0.5], "recipe_name": "resnet_cifar"}
    contents = contents_of(tmp_path, run("a"), run("b", **steps))
    titles = [contents["series"][row["series"]]["title"] for row in measured(contents)]
    assert titles == ["measured, schedule=cosine, step_at=()", "measured, recipe resnet_cifar"]


def test_data_sets_and_tasks_stay_apart(tmp_path: Path) -> None:
    lines = [run("a"), run("b", dataset__name="cifar")]
    dense = run("c", task="segment", dataset__name="scenes", test_accuracy=None)
    contents = contents_of(tmp_path, *lines, {**dense, "test_miou": 0.5}, with_published=False)
    assert contents["groups"] == [
        {"id": "digits", "metric": "accuracy"},
        {"id": "cifar", "metric": "accuracy"},
        {"id": "scenes, segment", "metric": "mIoU"},
    ]


def test_published_and_measured_share_a_plot_and_no_series(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, run("resnet20_cifar", dataset__name="CIFAR-10", test_accuracy=0.92))
    rows = [row for row in contents["rows"] if row["group"] == "CIFAR-10"]
    kinds = {row["series"]: {other["kind"] for other in rows if other["series"] == row["series"]} for row in rows}
    assert all(len(kind) == 1 for kind in kinds.values())
    assert {"measured", "published"} == set.union(*kinds.values())
    [own] = measured(contents)
    assert own["gap"] == 0.75  # He et al. 2015 have an error of 8.75
    assert own["card"] == next(row["card"] for row in rows if row["name"].startswith("ResNet-20 "))
    [own] = measured(contents_of(tmp_path, run("resnet20_cifar", dataset__name="CIFAR-10", overrides={"order": "pre"})))
    assert "gap" not in own


def test_published_nets_have_their_own_topology(tmp_path: Path) -> None:
    rows = contents_of(tmp_path, run("a"))["rows"]
    topologies = {row["name"]: row["topology"] for row in rows if row["kind"] == "published"}
    for name, topology in {
        "PyramidNet-110 (a=270) (pytorchcv)": "other",  # the table's row of LeNet stands in the same family
        "WRN-40-8 (pytorchcv)": "wide",
        "PreResNet-1001 (pytorchcv)": "pre-activation",
        "ResNeXt-272 (1x64d) (pytorchcv)": "ResNeXt",
    }.items():
        assert topologies[name] == topology


def test_a_series_of_published_figures_was_got_in_one_way(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, run("a"))
    shown = [series for series in contents["series"] if series["kind"] == "published"]
    figures = [figure for figure in results() if figure.top1_error is not None]
    ways = {(figure.series, figure.view, figure.departures) for figure in figures}
    assert len(shown) == len(ways) > 20
    assert len([row for row in contents["rows"] if row["kind"] == "published"]) == len(figures)
    for series in shown:
        if series["shown"]:
            assert series["title"].split(", ")[1].partition(";")[0] in ONE_VIEW
    assert not [
        row for row in contents_of(tmp_path, run("a"), with_published=False)["rows"] if row["kind"] != "measured"
    ]


def test_speed_joins_the_net_it_was_measured_of(tmp_path: Path) -> None:
    other = changed(SPEED, key="other", case__input_size=[3, 64, 64])
    contents = contents_of(tmp_path, RUN, run("resnet20_cifar", 1, overrides={"a": 1}, display="x"), SPEED, other)
    plain, overridden = measured(contents)
    condition = "speed: eval, batch 8, contiguous, float32, AMD EPYC, 1 thread, torch 2.15.0"
    assert plain["machine"][condition] == [1234.5, 54_321_000]
    assert condition not in overridden["machine"]
    paper = [row for row in contents["rows"] if row["card"] == "resnet20_cifar" and row["group"] == "CIFAR-10"]
    assert paper
    assert all(row["machine"] == {condition: [1234.5, 54_321_000]} for row in paper if row["size"] == 32)
    assert any(row["machine"] for row in gather(read([write(tmp_path / "s.jsonl", [SPEED])]))["rows"])


def test_a_card_holds_what_is_known(tmp_path: Path) -> None:
    entry = zoo.model_entry("resnet20_cifar")
    lines = {"stages": [{"name": "stem", "params": 1, "macs": 2, "activations": 3}], "taps": [{"module": "stem"}]}
    card = contents_of(tmp_path, {**RUN, **lines})["cards"]["resnet20_cifar"]
    assert card["paper"] == entry.paper
    assert card["spec"]["depths"] == "(3, 3, 3)"
    assert card["uncounted"] == {"aten::add": 9, "aten::pad": 2}
    assert card["stages"] == [["stem", 1, 2, 3]]
    assert card["taps"] == [["stem", "", ""]]
    card = contents_of(tmp_path, RUN, count_stages=True)["cards"]["resnet20_cifar"]
    counts = count(zoo.create_model("resnet20_cifar", device="meta"), entry.input_size)
    assert sum(stage[2] for stage in card["stages"]) == counts.macs
    assert [tap[0] for tap in card["taps"]] == [t["module"] for t in taps(zoo.create_model("resnet20_cifar"))]


def test_a_card_names_the_images_and_the_recipe_of_its_figures(tmp_path: Path) -> None:
    classes = {"dataset__classes": ["a", "b"], "class_accuracy": [0.9, 0.8]}
    lines = [
        run("resnet20_cifar", **classes),
        run("a", dataset__name="others"),
        run("b", dataset__name="others"),
        run("resnet20_cifar", dataset__name="others", dataset__input_size=[3, 28, 28], recipe__lr=0.02, **classes),
    ]
    lines[-1]["key"] = "another"
    card = contents_of(tmp_path, *lines)["cards"]["resnet20_cifar"]
    assert card["classes"]["rows"] == [["a", 90.0], ["b", 80.0]]
    assert card["of"] == "others, lr=0.02"
    assert card["counted"] == "for one image of others, (3, 28, 28)"
    later = run("resnet20_cifar", 1, class_accuracy=[0.7, 0.6], dataset__classes=["a", "b"])
    card = contents_of(tmp_path, *lines, later)["cards"]["resnet20_cifar"]
    assert (card["of"], card["classes"]["rows"][0]) == ("digits", ["a", 70.0]), (
        "the last that was read, not of the last images"
    )


def test_nets_that_differ_in_more_than_size_are_told_apart(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {},
        {"overrides": {"widths": [8, 16, 32], "stem_width": 8, "squeeze": 4}},
        {"overrides": {"widths": [8, 16, 32], "act_layer": "silu"}},
        {"head": "linear"},
        {"frozen": True},
        {"digest": "abc"},
        {"freeze": "stage1"},
        {"validation": 0.1, "validation_accuracy": 0.9},
    ]
    nets = [{**RUN, **line, "key": str(n)} for n, line in enumerate(lines)]
    apart = [row["apart"] for row in measured(contents_of(tmp_path, *nets))]
    assert apart[:3] == ["", "", "act_layer=silu"]
    assert len(set(apart)) == len(lines) - 1


def test_a_drawing_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents_of(tmp_path, run("resnet20_cifar"))
    monkeypatch.setattr("zoo.report.drawings.draw", lambda name: pytest.fail(f"{name} was drawn again"))
    assert contents_of(tmp_path, run("resnet20_cifar"))["drawings"]["resnet20_cifar"].startswith("<svg")


def test_cards_of_nets_that_are_only_published_have_a_drawing(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, run("a"))
    ours = {card["net"]: card["drawn"] for card in contents["cards"].values() if "net" in card}
    assert len(ours) > 90
    assert all(name == drawn for name, drawn in ours.items())
    assert all(contents["drawings"][name].startswith("<svg") for name in ours)
    assert set(contents["drawings"]) == set(ours)


def test_published_nets_are_drawn_beforehand() -> None:
    assert list(kept_drawings()) == published_nets(), "run `make format`"


@pytest.mark.only(name=("lenet5_cifar", "resnet20_cifar"))
@pytest.mark.parametrize("name", published_nets())
def test_a_drawing_of_a_published_net_is_up_to_date(name: str) -> None:
    assert kept_drawings()[name] == drawing_of_stages(name), "run `make format`"


def test_lines_are_not_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Building what a line asks for could fetch weights, or take all memory.
    monkeypatch.setattr(zoo, "create_model", lambda *_, **__: pytest.fail("a line was built"))
    lines = [run("hf-hub:a/b"), run("timm:resnet18"), {**run("resnet20_cifar"), "overrides": {"widths": [10**9]}}]
    contents = contents_of(tmp_path, *lines, count_stages=True)
    assert len(measured(contents)) == 3


def test_the_last_line_of_a_key_counts(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [run("a", test_accuracy=0.5)])
    other = write(tmp_path / "other.jsonl", [run("a", test_accuracy=0.75)])
    [row] = measured(gather(read([one, other])))
    assert row["score"] == 75.0
    [row] = measured(gather(read([other, one])))
    assert row["score"] == 50.0


def test_a_failed_run_is_told_of(tmp_path: Path) -> None:
    failed = {"key": "f", "name": "b", "seed": 3, "error": "the loss is nan"}
    contents = contents_of(tmp_path, run("a"), failed)
    assert contents["failures"] == [{"name": "b", "seed": 3, "error": "the loss is nan"}]
    assert len(measured(contents)) == 1


def test_a_run_that_was_finished_has_not_failed(tmp_path: Path) -> None:
    """Not before it was tried again, and not when it was forced to."""
    failed = {"key": "a-0", "name": "a", "seed": 0, "error": "the loss is nan"}
    for lines in ((failed, run("a")), (run("a"), failed)):
        contents = contents_of(tmp_path, *lines)
        assert contents["failures"] == []
        assert len(measured(contents)) == 1


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path: Path) -> None:
    epochs = [{"epoch": n, "train_loss": 1 / n, "test_accuracy": n / 1000} for n in range(1, 1000)]
    [shown] = contents_of(tmp_path, {**RUN, "epochs": epochs})["runs"]
    assert len(shown["epochs"]) <= 100
    assert shown["epochs"][-1] == 999
    assert len(shown["epochs"]) == len(shown["scores"]) == len(shown["losses"])


def test_provenance_names_files_devices_and_revisions(tmp_path: Path) -> None:
    path = write(tmp_path / "results.jsonl", [run("a"), run("b"), run("c", git_revision="other")])
    provenance = gather(read([tmp_path]))["provenance"]
    [file] = provenance["files"]
    assert file == {
        "name": f"{tmp_path.name}/results.jsonl",
        "lines": 3,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    }
    assert [(m["device"], m["lines"]) for m in provenance["machines"]] == [
        ("AMD EPYC, 1 thread, torch 2.15.0", 2),
        ("AMD EPYC, 1 thread, torch 2.15.0", 1),
    ]
    assert provenance["machines"][0]["revision"] == RUN["git_revision"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: the line is no JSON"),
        ("[" * 100_000, "line 2: the line is nested more than 32 levels deep"),
        ("[1]", "line 2: the line ([1]) must be an object"),
        (json.dumps({**RUN, "name": 5}), "line 2: name (5) must be a text"),
        (json.dumps(changed(RUN, counts__macs="many")), "line 2: counts.macs ('many') must be a whole number from 1"),
        (json.dumps(changed(RUN, counts__macs=True)), "line 2: counts.macs (True) must be a whole number"),
        (json.dumps(changed(RUN, counts=None)), "line 2: counts.params (None) must be a whole number"),
        (
            json.dumps(changed(RUN, test_accuracy=float("nan"))),
            "line 2: 'test_accuracy' (nan) must hold finite",
        ),
        (json.dumps(changed(RUN, test_accuracy=99.1)), "line 2: test_accuracy (99.1) must be a number in [0, 1]"),
        (json.dumps(changed(RUN, test_accuracy=None)), "line 2: the line has neither a score"),
        (json.dumps(changed(RUN, device="cpu")), "line 2: device ('cpu') must be an object"),
        (json.dumps(changed(SPEED, images_per_second=None)), "line 2: images_per_second (None) must be a number"),
    ],
)
@pytest.mark.parametrize("verb", ["report", "plot"])
def test_a_broken_line_is_named(
    verb: str, line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(RUN)}\n{line}\n")
    assert main([verb, str(path), "--out", str(tmp_path / "r.html")]) == 2
    [text] = capsys.readouterr().err.splitlines()
    assert text.startswith(f"zoo: error: {path}, ")
    assert message in text
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_line_that_is_cut_off_is_passed_over_and_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(RUN)}\n{json.dumps(RUN)[:300]}")
    assert main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 0
    warning = f"{path}, line 2: passed over a line that is cut off"
    assert capsys.readouterr().err == f"zoo: warning: {warning}\n"
    assert json.loads(unpacked((tmp_path / "r.html").read_text(), "data"))["provenance"]["warnings"] == [warning]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "no results at missing.jsonl"),
        (["."], "no results at results.jsonl"),
        (["empty.jsonl"], "nothing to show: empty.jsonl hold no finished run; run zoo bench"),
        (["failed.jsonl"], "no finished run (failed runs: 1)"),
        (["speed.jsonl", "--no-published"], "nothing to show: the files hold no score"),
        (["run.jsonl", "-o", "page.txt"], "out (page.txt) must end in .html"),
    ],
)
def test_what_cannot_be_shown_is_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("empty.jsonl"), [])
    write(Path("failed.jsonl"), [{"key": "f", "name": "b", "error": "nan"}])
    write(Path("speed.jsonl"), [SPEED])
    write(Path("run.jsonl"), [RUN])
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 4


def test_a_missing_library_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["report", str(write(tmp_path / "r.jsonl", [RUN]))]) == 2
    assert "module 'plotly' is not installed and belongs to the extra 'report'" in capsys.readouterr().err


def test_the_page_is_one_file_and_loads_nothing(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, RUN)
    page = render(contents, "T").decode("ascii")
    assert page.encode() == render(contents, "T")
    assert json.loads(unpacked(page, "data")) == contents
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href|action)=(?!"data:,")|@import|url\(', outside)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for text in (script, unpacked(page, "library")):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_hostile_texts_stay_data(tmp_path: Path) -> None:
    line = run(HOSTILE, family=HOSTILE, spec={HOSTILE: HOSTILE}, dataset__name=HOSTILE, device={"name": HOSTILE})
    contents = contents_of(tmp_path, {**line, "recipe": {HOSTILE: HOSTILE}, "stages": [{"name": HOSTILE}]})
    page = render(contents, HOSTILE + "{{data}}").decode("ascii")
    assert "<img" not in page
    assert page.count("</script>") == 3
    assert json.loads(unpacked(page, "data"))["rows"][0]["name"] == HOSTILE


def test_a_thousand_lines_stay_small(tmp_path: Path) -> None:
    epochs = [{**RUN["epochs"][0], "epoch": n, "test_accuracy": (n * 37 % 200) / 200} for n in range(200)]
    lines = [run(f"net{n}", seed, epochs=epochs) for n in range(100) for seed in range(10)]
    contents = contents_of(tmp_path, *lines)
    assert len(contents["runs"]) == 1000
    assert len(measured(contents)) == 100
    assert len(render(contents, "T")) < 6_000_000


def test_tables_and_pictures_beside_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a|b <i> *"
    lines = [run(name, test_accuracy=0.98), run(name, 1, test_accuracy=0.99), run("=c()", family="fabric"), SPEED]
    path, out = write(tmp_path / "results.jsonl", lines), tmp_path / "out" / "page.html"
    assert main(["report", str(path), "-o", str(out), "--also", "png", "svg", "md", "csv"]) == 0
    names = {file.name for file in out.parent.iterdir()}
    pictures = {f"page_digits_accuracy_vs_{cost}.{kind}" for cost in ("params", "macs") for kind in ("png", "svg")}
    assert names == {"page.html", "page.md", "page.csv", *pictures}
    assert set(capsys.readouterr().out.split()) == {str(out.parent / name) for name in names}
    rows = list(csv.DictReader(io.StringIO((out.parent / "page.csv").read_text("ascii"))))
    assert rows[0]["name"] == name
    assert (rows[0]["score"], rows[0]["seeds"], rows[0]["kind"]) == ("98.5", "2", "measured")
    assert rows[1]["name"] == "'=c()"  # no formula for a spreadsheet
    assert len(rows) == 2 + len([figure for figure in results() if figure.top1_error is not None])
    assert any(column.startswith("images a second: zoo speed, eval, batch 8") for column in rows[0])
    text = (out.parent / "page.md").read_text()
    assert r"a\|b \<i\> \*" in text
    assert "## digits, accuracy" in text
    assert "ImageNet" not in text
    assert all((out.parent / picture).stat().st_size > 5000 for picture in pictures)
    assert (out.parent / "page_digits_accuracy_vs_macs.svg").read_bytes().startswith(b"<?xml")


def test_a_write_that_fails_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write(tmp_path / "results.jsonl", [RUN]), tmp_path / "page.html"
    out.write_text("old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", str(path), "-o", str(out)]) == 1
    assert out.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "results.jsonl"]
