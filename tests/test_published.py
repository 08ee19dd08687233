"""Published results: the table is clean, keyed to the nets that they belong to, and no trap of theirs is sprung."""

import csv
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.complexity import count
from zoo.published import (
    AUTHORS,
    COLUMNS,
    ONE_VIEW,
    PAPER,
    SERIES,
    VIEWS,
    Published,
    dataset_name,
    primary,
    published_error,
    results,
    select,
)
from zoo.results.group import NetResult
from zoo.results.table import footnote, format_table
from zoo_cli import main

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import published_counts  # noqa: E402 - a script, which is no part of the package

TABLE = Path(zoo.__file__).parent / "data" / "published.csv"
ROWS = results()
KEYED = [row for row in ROWS if row.entry]

# Counts that are keyed to a net of ours and are not its count, with the reason.
OTHER_PARAMS = {
    ("resnet34_8xb32_in1k (mmpretrain)", "2.18"): "a slip of mmpretrain's table for 21.8 M",
}
# Series whose multiply-adds are one of ours to the last printed digit. The rest counts in ways of its own (norms,
# activations, poolings; rounded budgets) and stays near `macs`.
SAME_MACS = {
    "torchvision V1 weights": "macs",
    "torchvision V2 weights": "macs",
    "torchvision other recipes": "macs",
    "timm weights": "fvcore_flops",
    "timm on others' weights": "fvcore_flops",
}
OTHER_MACS = {
    ("resnet18 (MatConvNet/PT)", "2"): "rounded to a whole number",
    ("resnet34 (MatConvNet/PT)", "4"): "rounded to a whole number",
    ("vgg-vd-16 (MatConvNet/PT)", "16"): "rounded to a whole number",
    ("vgg-vd-19 (MatConvNet/PT)", "20"): "rounded to a whole number",
    ("resnet-50 (MatConvNet/PT)", "4"): "rounded to a whole number",
    ("ResNeXt-50 (32x4d)", "4.1"): "the rounded budget of all nets in its table",
    ("ResNeXt-101 32x4d", "7.8"): "the rounded budget of all nets in its table",
}


def find(model: str, **fields: Any) -> Published:
    [row] = [r for r in ROWS if r.model == model and all(getattr(r, k) == v for k, v in fields.items())]
    return row


def agrees(printed: str, value: int, unit: int) -> bool:
    """Whether a number is the printed one to its last digit; some sources round, some cut."""
    number = Decimal(printed)
    step = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return number in {(Decimal(value) / unit).quantize(step, rounding=r) for r in (ROUND_FLOOR, ROUND_HALF_UP)}


@cache
def params(entry: str, num_classes: int | None) -> int:
    if num_classes is None:
        return zoo.model_entry(entry).params
    net = zoo.create_model(entry, num_classes=num_classes, device="meta")
    return sum(p.numel() for p in net.parameters())


def test_agreement_is_to_the_last_digit() -> None:
    assert agrees("16.62", 16_628_904, 10**6)  # cut
    assert agrees("16.63", 16_628_904, 10**6)  # rounded
    assert not agrees("16.61", 16_628_904, 10**6)
    assert not agrees("16.64", 16_628_904, 10**6)
    assert agrees("27", 27_249_082, 10**6)
    assert not agrees("26.4", 24_959_400, 10**6)


def test_the_table_is_clean() -> None:
    text = TABLE.read_text(encoding="ascii")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert not re.search(r"https?://", text)
    assert len(ROWS) == len(text.splitlines()) - 1 == 837
    for row in ROWS:
        assert row.model
        assert row.source
        assert row.series in SERIES
        assert row.view in VIEWS
        assert row.model == row.model.strip()
        assert all(0 < error <= 100 for error in (row.top1_error, row.top5_error) if error is not None)
        if row.top1_error is not None and row.top5_error is not None:
            assert row.top5_error < row.top1_error
        assert not (row.entry and row.near)
        assert row.note or not row.near  # what differs is told
    assert set(SERIES) == {row.series for row in ROWS}
    assert set(VIEWS) - {"144 crops"} == {row.view for row in ROWS}
    assert all(
        row.view in ("whole image", "not stated")
        for row in ROWS
        if row.dataset in ("CIFAR-10", "CIFAR-100", "Fashion-MNIST")
    )


def test_nothing_stands_twice() -> None:
    facts = ("model", "dataset", "input_size", "protocol", "series", "top1_error", "top5_error")
    twice = [key for key, n in Counter(tuple(getattr(row, f) for f in facts) for row in ROWS).items() if n > 1]
    assert not twice
    # One run that is printed in several tables is one row: same net, same numbers, same images, same authors.
    authors = [row for row in KEYED if row.series in (PAPER, AUTHORS) and row.top1_error is not None]
    same = Counter((r.entry, r.dataset, r.input_size, r.view, r.top1_error, r.top5_error) for r in authors)
    assert not [key for key, n in same.items() if n > 1]


def test_numbers_are_parsed() -> None:
    row = find("resnet50 IMAGENET1K_V1 (torchvision)")
    assert (row.params, row.macs, row.top1_error, row.top5_error) == (25_557_032, 4_089_000_000, 23.87, 7.138)
    assert (row.input_size, row.entry, row.dataset) == (224, "resnet50", "ImageNet-1k")
    assert find("ResNet-50 (multi-scale dense)").input_size is None
    assert all((row.params is None) == (row.params_printed == "") for row in ROWS)
    assert all((row.macs is None or row.counted) == (row.macs_printed == "") for row in ROWS)


def test_keyed_nets_exist() -> None:
    known = {*zoo.list_models(), ""}
    assert not {row.entry for row in ROWS} - known
    assert not {row.near for row in ROWS} - known


@pytest.mark.parametrize(
    "row", [r for r in KEYED if r.params], ids=lambda r: f"{r.model}-{r.dataset}".replace(" ", "_")
)
def test_counts_agree_with_ours(row: Published) -> None:
    # pytorchcv counts the net with a hundred classes, the others that with ten.
    classes = 100 if row.dataset == "CIFAR-100" and row.series == "pytorchcv" else None
    same = agrees(row.params_printed, params(row.entry, classes), 10**6)
    assert same != ((row.model, row.params_printed) in OTHER_PARAMS)


def test_every_exception_is_a_row() -> None:
    assert set(OTHER_PARAMS) <= {(row.model, row.params_printed) for row in KEYED}
    assert set(OTHER_MACS) <= {(row.model, row.macs_printed) for row in KEYED}


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        ("resnet18", 224),
        ("resnet18", 160),
        ("resnet34", 224),
        ("resnet50", 224),
        pytest.param("resnet50", 288, marks=pytest.mark.slow),
        pytest.param("resnet50_v1", 224, marks=pytest.mark.slow),
        ("resnext50_32x4d", 224),
        ("densenet121", 224),
        pytest.param("vgg11_bn", 224, marks=pytest.mark.slow),
        ("alexnet", 224),
        ("googlenet_bn", 224),
        ("fishnet99", 224),
        ("resnet20_projection_cifar", 32),
    ],
)
def test_multiply_adds_agree_with_ours(entry: str, size: int) -> None:
    rows = [r for r in KEYED if r.entry == entry and r.input_size == size and r.macs and r.dataset != "CIFAR-100"]
    assert rows
    counts = count(zoo.create_model(entry, device="meta"), (3, size, size))
    for row in rows:
        if figure := SAME_MACS.get(row.series):
            assert agrees(row.macs_printed, getattr(counts, figure), 10**9), row
        elif (row.model, row.macs_printed) not in OTHER_MACS:
            # The stride of a bottleneck makes 5 %; ways of counting and a printed digit make less.
            assert counts.macs * 0.98 < row.macs < counts.fvcore_flops * 1.02, row


# The traps of published figures, one by one.


def test_keyed_nets_have_multiply_adds_though_their_sources_print_none() -> None:
    with published_counts.PATH.open(newline="") as file:
        rows = {(r["entry"], r["dataset"], int(r["input_size"])): int(r["macs"]) for r in csv.DictReader(file)}
    assert list(rows) == published_counts.wanted(), "run benchmarks/published_counts.py"
    assert not [row for row in KEYED if row.input_size and row.macs is None]
    counted = [row for row in KEYED if row.counted]
    assert len(counted) > 100
    assert {row.macs for row in counted} <= set(rows.values()), "the others are of weights"
    with (ROOT / "benchmarks" / "results" / "counts.csv").open(newline="") as file:
        own = {row["name"]: row for row in csv.DictReader(file)}
    same = [
        (entry, macs)
        for (entry, dataset, size), macs in rows.items()
        if zoo.model_entry(entry).num_classes == published_counts.CLASSES[dataset]
        if own[entry]["input_size"] == f"3x{size}x{size}"
    ]
    assert len(same) > 50
    assert all(macs == int(own[entry]["macs"]) for entry, macs in same)


@pytest.mark.parametrize(
    ("entry", "dataset", "size"),
    [
        ("densenet40_k12_cifar", "CIFAR-100", 32),
        pytest.param("vgg16", "ImageNet-1k", 384, marks=pytest.mark.slow),
        pytest.param("fabric_d_l8_s6_c32x2_voc", "PASCAL VOC 2012", 256, marks=pytest.mark.slow),
    ],
)
def test_multiply_adds_are_counted_as_written(entry: str, dataset: str, size: int) -> None:
    [macs] = {
        row.macs for row in KEYED if (row.entry, row.dataset, row.input_size) == (entry, dataset, size) if row.counted
    }
    assert macs == published_counts.multiply_adds(entry, dataset, size)


def test_the_best_of_five_is_not_the_mean() -> None:
    best, mean = find("ResNet-110 (paper)"), find("ResNet-110 unit=original Residual Unit")
    assert (best.top1_error, mean.top1_error) == (6.43, 6.61)
    assert best.departures == ("best of 5",)
    assert mean.departures == ()
    assert primary("resnet110_cifar", "CIFAR-10") == mean


def test_numbers_of_runs_are_told() -> None:
    assert find("DenseNet (L=40, k=12)+", dataset="CIFAR-10").protocol == "whole image; one run"
    assert find("WRN-28-10", dataset="CIFAR-10").protocol == "whole image; median of 5"
    assert find("ResNeXt-29, 8x64d", dataset="CIFAR-10").protocol == "whole image; mean of 10"
    assert all("mean of 5" in row.protocol for row in ROWS if row.series == "pycls")
    deep = [row for row in ROWS if row.source.startswith("Training Very Deep")]
    assert all(("best of 5" in row.protocol) == (row.series == "paper") for row in deep)
    quoted = [row for row in deep if row.model.startswith("Fitnet")]
    assert {row.series for row in quoted} == {"other papers"}
    assert all("reported by Romero et al." in row.note for row in quoted)


def test_what_has_another_unit_is_near_and_no_more() -> None:
    """Facebook's ResNet-50, and no other of its nets, has a norm after the addition."""
    units = {row.model: (row.entry, row.near) for row in ROWS if row.series == "fb.resnet.torch"}
    assert units["ResNet-50 (fb.resnet.torch)"] == ("", "resnet50")
    assert units["ResNet-101 (fb.resnet.torch)"] == ("resnet101", "")


def test_whitening_is_another_protocol() -> None:
    assert find("WRN-28-10 (ZCA)", dataset="CIFAR-10").top1_error == 4.17
    assert find("WRN-28-10 (ZCA)", dataset="CIFAR-10").departures == ("ZCA whitening",)
    figure = primary("wide_resnet28_10_cifar", "torch/cifar10")
    assert figure is not None
    assert figure.top1_error == 4.0
    assert figure.note.startswith("mean and deviation")


def test_the_deep_nets_of_2016_are_not_taken_for_those_of_2015() -> None:
    # 10.2 M / 27.82 % belong to ResNet-1001, 25.16 % to ResNet-164.
    [row] = [row for row in ROWS if (row.dataset, row.top1_error) == ("CIFAR-100", 27.82)]
    assert (row.model, row.params_printed) == ("ResNet-1001 original unit", "10.2")
    [row] = [row for row in ROWS if (row.dataset, row.top1_error) == ("CIFAR-100", 25.16)]
    assert row.model == "ResNet-164 original unit"
    assert {row.params_printed for row in results("resnet1202_cifar")} == {"19.4"}


def test_views_are_told_apart() -> None:
    assert {row.view for row in ROWS if row.source.startswith("VGG")} == {"dense"}
    assert {row.view for row in ROWS if "He2015 (arXiv:1512.03385) Table" in row.source and "3" in row.source[-8:]} == {
        "10-crop"
    }
    shown = Counter(row.view for row in results("resnet50_v1") if row.series == PAPER)
    assert shown == {"10-crop": 1, "multi-scale dense": 1}
    assert "test size 320" in find("PreAct ResNet-152").protocol
    assert "test size 320" in find("ResNet-38 Model A").protocol
    assert find("resnet50 IMAGENET1K_V1 (torchvision)").departures == ("resize 256",)
    assert find("resnet50 IMAGENET1K_V2 (torchvision)").departures == ("resize 232",)
    for row in ROWS:  # an image that is not the usual one is told in the protocol
        if row.view == "single crop" and row.input_size != 224:
            assert f"test size {row.input_size}" in row.protocol, row


def test_ensembles_are_no_nets() -> None:
    rows = [row for row in ROWS if row.view == "ensemble"]
    assert len(rows) == 6
    assert not [row for row in rows if row.entry or row.near]
    assert {row.dataset for row in rows} == {"ImageNet test server"}
    assert not [row for row in ROWS if "ensemble" in row.model and row.view != "ensemble"]


def test_the_errors_of_wrn_50_2_are_those_beside_its_weights() -> None:
    row = find("WRN-50-2-bottleneck (WRN repo)")
    assert (row.top1_error, row.top5_error, row.entry) == (21.9, 6.03, "wide_resnet50_2")
    assert "5.79" in row.note
    assert {r.top5_error for r in ROWS if "ResNet-200 (pre-act)" in r.model and r.protocol == "single crop"} == {5.79}


def test_pytorchcv_stands_apart() -> None:
    rows = [row for row in ROWS if "(pytorchcv)" in row.model]
    assert {row.series for row in rows} == {"pytorchcv", "pytorchcv on others' weights"}
    own, original = find("FishNet-150 (pytorchcv)"), find("FishNet-150 (original weights, re-evaluated)")
    assert (own.top1_error, own.series) == (19.26, "pytorchcv")
    assert (original.top1_error, original.series) == (21.97, "authors' weights elsewhere")
    figure = primary("fishnet150", "imagenet")
    assert figure is not None
    assert (figure.top1_error, figure.series) == (21.86, AUTHORS)


def test_densenets_of_the_same_name_are_not_merged() -> None:
    for name, printed, theirs in (("40_k12", "1", 0.6), ("100_k12", "7", 4.1), ("100_k24", "27.2", 16.1)):
        rows = results(f"densenet{name}_cifar")
        assert {row.params_printed for row in rows} == {printed}
        assert "pytorchcv" not in {row.series for row in rows}
        [other] = [r for r in ROWS if r.near == f"densenet{name}_cifar" and r.dataset == "CIFAR-10"]
        assert round((other.params or 0) / 1e6, 1) == theirs
    assert {"paper", "pytorchcv", "bearpaw"} <= {row.series for row in results("densenet100_k12_bc_cifar")}


def test_strides_and_shortcuts_tell_resnets_apart() -> None:
    assert {row.series for row in results("resnet50_v1")} == {PAPER, AUTHORS, "pytorchcv", "convnet-burden"}
    assert not {row.series for row in results("resnet50")} & {PAPER, AUTHORS}
    assert find("ResNet-50 (pytorchcv)").entry == "resnet50_v1"
    assert find("ResNet-50b (pytorchcv)").entry == "resnet50"
    assert find("ResNet-34 B").entry == "resnet34"
    assert not {find("ResNet-34 A").entry, find("ResNet-34 C").entry, find("ResNet-18 A").entry} - {""}
    assert {row.series for row in results("resnet20_cifar")} == {PAPER, "akamaster"}
    assert {row.series for row in results("resnet20_projection_cifar")} == {"pytorchcv", "random erasing"}
    # The authors' code for 164 and 1001 layers strides on the first 1x1, which is not where ours do.
    assert {row.series for row in results("preresnet164_cifar")} == {"pytorchcv"}
    assert find("ResNet-164 unit=full pre-activation").near == "preresnet164_cifar"


def test_weights_of_others_are_not_mixed_with_own_ones() -> None:
    for row in ROWS:
        if "(timm)" in row.model:
            recipe = row.protocol.split("recipe ")[1].split(";")[0].split("_")[0]
            foreign = recipe in {"tv", "tv2", "gluon", "ms", "in1k"}
            assert row.series == ("timm on others' weights" if foreign else "timm weights"), row
        if "3rdparty" in row.model:
            assert row.series == "mmpretrain on others' weights"
    assert "V2" not in "".join(row.model for row in ROWS if row.series == "torchvision V1 weights")
    assert "V1" not in "".join(row.model for row in ROWS if row.series == "torchvision V2 weights")
    # A recipe of 2022 under the name of the first weights.
    assert find("resnext101_64x4d IMAGENET1K_V1 (torchvision)").series == "torchvision other recipes"


def test_one_series_says_one_thing() -> None:
    # Within a series and a dataset a net may stand twice only with another size, protocol or model name.
    key = ("series", "dataset", "entry", "model", "input_size", "protocol")
    assert max(Counter(tuple(getattr(row, k) for k in key) for row in KEYED).values()) == 1
    for row in ROWS:  # one who re-measures the nets of others is never the paper
        if row.series == PAPER:
            assert not re.search(r"as quoted|as in", f"{row.model} {row.note}"), row


def test_primary_is_of_one_net_and_its_authors() -> None:
    for entry in {row.entry for row in KEYED}:
        for dataset in ("CIFAR-10", "CIFAR-100", "ImageNet-1k"):
            figure = primary(entry, dataset)
            if figure is not None:
                assert (figure.entry, figure.dataset) == (entry, dataset)
                assert figure.series in (PAPER, AUTHORS)
                assert figure.top1_error is not None
                assert figure.view != "ensemble"
    figures = {
        "resnet20_cifar": 8.75,
        "resnet50_v1": 24.7,
        "densenet40_k12_cifar": 5.24,
        "densenet121": 25.02,
        "vgg16": 27.0,
        "fabric_a_l3_s6_c128_pre_scaled_cifar": 9.96,
    }
    for entry, error in figures.items():
        dataset = "CIFAR-10" if entry.endswith("cifar") else "ImageNet-1k"
        figure = primary(entry, dataset)
        assert figure is not None
        assert figure.top1_error == error
    assert primary("resnet20_cifar", "digits") is None
    assert primary("resnet50", "ImageNet-1k") is None  # others' net, under the paper's name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch/cifar10", "CIFAR-10"),
        ("hfds/uoft-cs/cifar100", "CIFAR-100"),
        ("CIFAR-10", "CIFAR-10"),
        ("imagenet", "ImageNet-1k"),
        ("ImageNet-1k", "ImageNet-1k"),
        ("digits", "digits"),
    ],
)
def test_names_of_datasets(text: str, name: str) -> None:
    assert dataset_name(text) == name


# A measured run beside the published figure


def record(name: str, dataset: str, size: int, **overrides: Any) -> dict[str, Any]:
    return {"name": name, "overrides": overrides, "dataset": {"name": dataset, "input_size": [3, size, size]}}


def test_a_run_is_held_against_the_published_figure() -> None:
    assert published_error(record("resnet20_cifar", "torch/cifar10", 32)) == 8.75
    assert published_error(record("resnet20_cifar", "digits", 32)) is None
    assert published_error(record("resnet20_cifar", "torch/cifar10", 64)) is None
    assert published_error(record("resnet20_cifar", "torch/cifar10", 32, order="pre")) is None
    assert published_error(record("resnet20_cifar", "torch/cifar100", 32)) is None
    assert published_error(record("timm:resnet50", "imagenet", 224)) is None
    assert published_error(record("resnet50_v1", "imagenet", 224)) == 24.7
    vgg = primary("vgg16", "imagenet")
    assert vgg is not None
    assert vgg.view not in ONE_VIEW
    assert published_error(record("vgg16", "imagenet", 256)) is None


ROW = NetResult(
    net="resnet20_cifar",
    family="resnet",
    params=269_722,
    macs=40_551_040,
    activations=1,
    score=0.9,
    standard_error=0.003,
    spread=None,
    seeds=1,
    seconds=1.0,
    test_images=10_000,
    uncounted={},
)


def test_the_difference_is_a_column_where_there_is_one() -> None:
    assert "published" not in format_table([ROW]) + footnote([ROW])
    held = [replace(ROW, published_error=8.75), replace(ROW, score=0.95, published_error=8.75), ROW]
    lines = format_table(held, "github").splitlines()
    assert [cell.strip() for cell in lines[0].split("|")][5:7] == ["accuracy [%]", "vs. published"]
    assert [line.split("|")[6].strip() for line in lines[2:]] == ["-1.25", "+3.75", "-"]
    assert "zoo published NAME" in footnote(held)


# The command


def test_published_shows_a_net(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "resnet50_v1"]) == 0
    text = capsys.readouterr().out
    starred = [line for line in text.splitlines() if line.startswith("*")]
    assert len(starred) == 1
    assert "24.70" in starred[0]
    assert "single crop; resize 256" in starred[0]
    assert f"pytorchcv: {SERIES['pytorchcv']}" in text
    assert "arXiv" not in text
    assert main(["published", "resnet50_v1", "--notes"]) == 0
    assert "He2015 (arXiv:1512.03385) Table 3" in capsys.readouterr().out


def test_published_shows_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "densenet40_k12_cifar"]) == 0
    lines = capsys.readouterr().out.splitlines()
    near = [line for line in lines if "~densenet40_k12_cifar" in line]
    assert [line for line in lines if "densenet40_k12_cifar" in line][-len(near) :] == near
    assert all("pytorchcv" in line for line in near)


def test_published_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "FishNe*", "--dataset", "imagenet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} >= {"FishNet99", "FishNeXt-150"}
    assert {row["dataset"] for row in rows} == {"ImageNet-1k"}
    assert set(rows[0]) >= {*COLUMNS, "params", "macs"}
    assert len(select()) == len(ROWS)
    assert {row.series for row in select(series="pycls")} == {"pycls"}
    assert {row.entry for row in select("zoo_resnet50")} == {"resnet50", ""}
    assert main(["published", "resnet_test"]) == 0
    assert capsys.readouterr().out == "nothing published in the table\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet51"], "did you mean"),
        (["zzzz"], "zoo published shows all"),
        (["resnet50", "--dataset", "digits"], "dataset 'digits' is not in the table: choose from ADE20K"),
        (["--series", "papers"], "series 'papers' is not in the table: choose from paper"),
    ],
)
def test_published_says_what_is_wrong(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", *arguments]) == 2
    assert words in capsys.readouterr().err
