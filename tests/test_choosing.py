"""Nets that fit a budget: three questions with their meaning, checked by hand, and what a list may claim."""

import csv
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from result_lines import run as line_of
from result_lines import write

import zoo
from zoo.choosing import SOURCES, TIMM_SETS, Candidate, Wish, choose
from zoo.published import results
from zoo_cli import main
from zoo_cli.choose import amount


def table() -> list[dict[str, str]]:
    """timm's tables, read without the code under test."""
    return list(csv.DictReader(resources.files("zoo").joinpath("data", "timm_results.csv").read_text().splitlines()))


def asked(words: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["choose", *words.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- three questions


def test_the_best_published_net_with_weights_under_30_m_and_5_g(capsys: pytest.CaptureFixture[str]) -> None:
    """SELECT model FROM timm WHERE params <= 30 AND macs <= 5 ORDER BY top1 DESC LIMIT 1."""
    [first, *others] = asked("--max-params 30M --max-macs 5G --needs weights", capsys)
    fitting = [row for row in table() if row["macs"] and float(row["params"]) <= 30 and float(row["macs"]) <= 5]
    best = max(fitting, key=lambda row: float(row["top1"]))
    assert first["kind"] == "timm"
    assert first["rows"][0]["net"] == f"timm:{best['model']}" == "timm:tf_efficientnet_b4.ns_jft_in1k"
    assert (first["rows"][0]["accuracy"], first["fitting"]) == (float(best["top1"]), len(fitting))
    assert first["rows"][0]["load"] == f'zoo.create_model("timm:{best["model"]}", pretrained=True)'
    assert {other["kind"] for other in others} == {"weights"}, "papers have figures and no weights"
    assert all(row["macs"] <= 5e9 and row["params"] <= 30e6 for other in others for row in other["rows"])


def test_the_cheapest_free_net_above_80_percent_for_dense_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    """SELECT model FROM timm WHERE top1 >= 80 AND size <= 256 AND licence = 'apache-2.0' AND 8 IN strides.

    The cheapest of them is the last of the front: ORDER BY macs LIMIT 1.
    """
    words = "--min-accuracy 80 --max-size 256 --licence apache-2.0 --needs weights output_stride=8 --source timm"
    [found] = asked(words, capsys)
    fitting = [
        row
        for row in table()
        if float(row["top1"]) >= 80 and int(row["size"]) <= 256 and row["licence"] == "apache-2.0"
        if "8" in row["strides"].split()
    ]
    cheapest = min((row for row in fitting if row["macs"]), key=lambda row: (float(row["macs"]), -float(row["top1"])))
    assert found["rows"][-1]["net"] == f"timm:{cheapest['model']}" == "timm:tf_efficientnet_b1.ns_jft_in1k"
    assert found["fitting"] == len(fitting)
    accuracies = [row["accuracy"] for row in found["rows"]]
    macs = [row["macs"] for row in found["rows"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert macs == sorted(macs, reverse=True), "a front: less accurate is cheaper"


def test_the_best_net_of_a_paper_under_2_m_parameters_on_cifar_10(capsys: pytest.CaptureFixture[str]) -> None:
    """SELECT model FROM published WHERE series = 'paper' AND dataset = 'CIFAR-10' AND params <= 2e6 ORDER BY error."""
    rankings = asked("--dataset cifar10 --max-params 2M --source published --all", capsys)
    [paper] = [ranking for ranking in rankings if ranking["title"] == "CIFAR-10, paper, whole image"]
    rows = [row for row in results() if (row.dataset, row.series, row.view) == ("CIFAR-10", "paper", "whole image")]
    rows = [row for row in rows if not row.departures]
    fitting = [row for row in rows if row.params and row.params <= 2e6 and row.top1_error is not None]
    best = min(fitting, key=lambda row: row.top1_error or 0)
    assert paper["rows"][0]["net"] == (best.entry or best.model) == "densenet100_k12_bc_cifar"
    assert paper["rows"][0]["source"] == best.source
    assert len(paper["rows"]) >= len(fitting)


# ---------------------------------------------------------------- what a list may claim


def test_sources_are_never_in_one_list(capsys: pytest.CaptureFixture[str]) -> None:
    rankings = choose(Wish())
    assert {ranking.kind for ranking in rankings} == {"timm", "weights", "published"}
    assert len({ranking.title for ranking in rankings}) == len(rankings)
    assert all(row.source == "timm's results" for row in rankings[0].rows)
    assert main(["choose", "--max-params", "5M"]) == 0
    assert "lists from different sources: accuracies of two lists do not compare" in capsys.readouterr().err


def test_a_front_holds_what_nothing_beats() -> None:
    wish = Wish(sources=["timm"], max_params=10e6)
    [front], [every] = choose(wish), choose(wish, front=False)
    assert set(front.rows) < set(every.rows)
    for row in every.rows:
        if row.macs is None:
            continue
        better = [o for o in every.rows if o.macs is not None and o.macs <= row.macs and o.accuracy >= row.accuracy]
        beaten = any((o.macs, o.accuracy) != (row.macs, row.accuracy) for o in better)
        assert (row in front.rows) is not beaten
    [by_params] = choose(Wish(sources=["timm"], max_params=10e6, cost="params"))
    assert by_params.rows != front.rows


def test_what_a_source_does_not_tell_is_counted_and_left_out() -> None:
    [ranking] = choose(Wish(sources=["timm"], min_cpu=30.0), front=False)
    measured = [row for row in table() if row["cpu"]]
    assert ranking.unknown == {"cpu": len(table()) - len(measured)}
    assert ranking.fitting == sum(float(row["cpu"]) >= 30 for row in measured)
    assert all(row.cpu is not None and row.cpu >= 30 for row in ranking.rows)


@pytest.mark.parametrize("dataset", TIMM_SETS)
def test_each_test_set_of_timm_has_its_figures(dataset: str) -> None:
    [ranking] = choose(Wish(dataset=dataset.lower(), sources=["timm"]), front=False)
    assert ranking.asked >= 1555
    known = {row.net: row.accuracy for row in ranking.rows}
    column = TIMM_SETS[dataset]
    assert known["timm:resnet50.a1_in1k"] in [float(r[column]) for r in table() if r["model"] == "resnet50.a1_in1k"]


def test_own_results_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = line_of("preresnet20_cifar", counts__params=100_000, counts__macs=10**6, test_accuracy=0.95)
    kept = "weights/preresnet20_cifar-seed0-1"
    path = write(tmp_path / "results.jsonl", [line_of("resnet20_cifar"), small | {"weights": kept}])
    [found] = asked(f"{path} --source results", capsys)
    assert [row["net"] for row in found["rows"]] == ["resnet20_cifar", "preresnet20_cifar"]
    assert found["title"] == "digits, own results (accuracy)"
    assert found["rows"][1]["load"] == ""
    assert found["rows"][0]["standard_error"] == pytest.approx(100 * 0.0031286)
    [found] = asked(f"{tmp_path} --source results --max-params 200k", capsys)
    assert [row["net"] for row in found["rows"]] == ["preresnet20_cifar"]
    assert choose(Wish(weights=True, sources=["results"]), [path]) == []
    (tmp_path / kept).mkdir(parents=True)
    (tmp_path / kept / "config.json").write_text("{}")
    [ranking] = choose(Wish(weights=True, sources=["results"]), [path])
    assert ranking.rows[0].load == f'zoo.create_model("local-dir:{tmp_path / kept}", pretrained=True)'


def test_weights_of_the_zoo_have_a_list_for_each_publisher() -> None:
    rankings = choose(Wish(sources=["weights"], weights=True, output_stride=8), front=False)
    assert {r.title.rpartition(" ")[2] for r in rankings} == {"pytorchcv", "timm", "torchvision"}
    rows: list[Candidate] = [row for ranking in rankings for row in ranking.rows]
    assert any(row.net == "fishnet150.osmr_in1k" for row in rows)
    for row in rows:
        base, _, tag = row.net.partition(".")
        weights = zoo.model_entry(base).weights[tag]
        assert row.accuracy == 100 - (weights.top1_error or 0)
        assert 8 in zoo.model_entry(base).spec.output_strides


def test_weights_that_come_with_the_package_are_listed_as_they_are_and_not_as_their_presets() -> None:
    [ranking] = choose(Wish(dataset="fashion", sources=["weights"], max_params=310_000), front=False)
    rows = {row.net: row for row in ranking.rows}
    row = rows["lenet5_cifar.fashion"]
    weights = zoo.model_entry("lenet5_cifar").weights["fashion"]
    assert (row.params, row.macs, row.size) == (weights.params, weights.macs, 28)
    assert row.params != zoo.model_entry("lenet5_cifar").params
    assert row.create == 'zoo.create_model("lenet5_cifar.fashion")'
    assert rows.keys() == {
        f"{name}.fashion" for name in zoo.list_models() if "fashion" in zoo.model_entry(name).weights
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-params many", "max-params 'many' must be a number, such as 30M, 300k or 4.5G"),
        ("--max-macs 0", "max_macs (0.0) must be positive"),
        ("--needs speed", "needs 'speed' must be weights or output_stride=N"),
        ("--needs output_stride=x", "needs 'output_stride=x' must be weights or output_stride=N"),
        ("--source web", f"source 'web' must be one of {', '.join(SOURCES)}"),
        ("--source results", "source 'results' was given without results"),
        ("--cost money", "cost 'money' must be one of macs, params"),
        ("--dataset pets", "dataset 'pets' is in no table asked: choose from ImageNet-1k"),
        ("nowhere --source results", "no results at nowhere"),
        ("--family nosuch", "family 'nosuch' is that of no net in the tables asked: there are"),
        ("--family resnett --source weights", "there are resnet"),
        ("--licence apache", "licence 'apache' is that of no net in the tables asked"),
        ("--needs output_stride=7", "output stride '7' is that of no net in the tables asked: there are"),
    ],
)
def test_a_wrong_question_is_told(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["choose", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_nothing_that_fits_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["choose", "--max-params", "1", "--source", "timm"]) == 0
    assert capsys.readouterr().out == "no net fits\n"


def test_amounts_are_read_as_people_write_them() -> None:
    told = {"30M": 30e6, "300k": 3e5, "4.5G": 4.5e9, "5g": 5e9, "1e6": 1e6, "12": 12.0, "1.5B": 1.5e9}
    assert {text: amount("x", text) for text in told} == told
    assert amount("x", None) is None
