"""`zoo speed` and the measuring below it: what is timed and what is made of times; no test asks how long."""

import json
import math
import multiprocessing
import os
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from processes import FORK
from result_lines import RUN, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.complexity import count
from zoo.environment import PeakMemory
from zoo.results.line import SCHEMA
from zoo.speed import cases as speed
from zoo.speed.cases import Case, Listener, Row, make_record, plan, reference, speed_records, sweep
from zoo.speed.table import SpeedProgress, format_table, heading
from zoo.speed.timing import (
    Products,
    Spread,
    in_fresh_process,
    make_step,
    ratios,
    spread,
    stopwatch,
    time_round,
)
from zoo_cli import main

SMALL = Case(name="resnet20_cifar", mode="eval", batch_size=2, input_size=(3, 16, 16))
FACTS = {"family": "resnet", "counts": {"params": 1}}


def flops(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# ---------------------------------------------------------------- times


def test_a_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert spread([1.0, 2.0]) == Spread(median=1.5, low=1.25, high=1.75)
    with pytest.raises(ValueError, match=r"sample \(1 numbers\)"):
        spread([1.0])


def test_ratios_are_of_rounds_that_both_were_in() -> None:
    # The third round was slow for all; the fourth knew only one of the two.
    assert ratios([2.0, 4.0, 20.0, 999.0], [1.0, 2.0, 10.0]) == Spread(median=2.0, low=2.0, high=2.0)


def test_every_other_round_goes_backwards() -> None:
    calls: list[str] = []
    steps = [lambda name=name: calls.append(name) for name in "abc"]

    def watch(step: Any) -> float:
        step()
        return float(len(calls))

    assert time_round(steps, watch, backwards=False, on_step=lambda i: calls.append(str(i))) == [2.0, 4.0, 6.0]
    assert time_round(steps, watch, backwards=True) == [9.0, 8.0, 7.0]
    assert "".join(calls) == "0a1b2c" + "cba"


def test_cuda_is_timed_by_events_on_an_idle_device(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            happened.append("event")

        def elapsed_time(self, end: "Event") -> float:
            return 5.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    seconds = stopwatch(torch.device("cuda"))(lambda: happened.append("step"))
    assert seconds == 0.005
    assert happened == ["wait", "event", "step", "event", "wait"]


def test_a_step_evaluates_or_trains() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout())
    images = torch.randn(2, 3, 2, 2)
    before = net[1].weight.detach().clone()
    make_step(net, images, "eval")()
    assert not net.training
    assert torch.equal(net[1].weight, before)
    make_step(net, images, "train")()
    assert net.training
    assert not torch.equal(net[1].weight, before)
    assert net[1].weight.grad is None


def test_training_takes_what_auxiliary_heads_return() -> None:
    class Two(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            y = super().forward(x.flatten(1))
            return y, [y[:, :1]]

    step = make_step(Two(12, 3), torch.randn(2, 3, 2, 2), "train", "bfloat16")
    assert flops(step) == flops(step) > 0


# ---------------------------------------------------------------- the products alone


@pytest.mark.parametrize(("name", "size"), [("resnet_test", 64), ("fishnet_test", 64), ("fabric_test", 32)])
def test_each_product_is_made_once(name: str, size: int) -> None:
    net, images = zoo.create_model(name), torch.randn(2, 3, size, size)
    products = Products(make_step(net, images, "eval"), net)
    assert len(products.calls) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules())
    assert flops(products.run) == 2 * 2 * count(net, (3, size, size)).macs  # two images, two flops each
    step = make_step(net, images, "train")
    assert flops(Products(step, net).run) == flops(step)


def test_a_convolution_that_runs_twice_is_two() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    products = Products(make_step(net, torch.randn(1, 3, 4, 4), "eval"), net)
    assert len(products.calls) == 2
    assert flops(products.run) == 2 * 2 * 9 * 16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_stand_ins_look_like_what_they_stand_for(layout: torch.memory_format) -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).to(
        memory_format=layout
    )
    images = torch.randn(2, 4, 6, 6).to(memory_format=layout)
    products = Products(make_step(net, images, "eval"), net)
    (_, first, _), (_, second, _) = products.calls
    assert first[0] is second[0]  # one buffer for maps that look alike
    assert first[0] is not images
    assert (first[0].shape, first[0].stride()) == (images.shape, images.stride())
    assert [call[1].data_ptr() for call in (first, second)] == [net[i].weight.data_ptr() for i in (0, 2)]


def test_products_of_half_precision_are_of_half_precision() -> None:
    net = nn.Conv2d(3, 3, 1)
    products = Products(make_step(net, torch.randn(1, 3, 4, 4), "eval", "bfloat16"), net)
    [(_, args, _)] = products.calls
    assert args[0].dtype == args[1].dtype == torch.bfloat16


# ---------------------------------------------------------------- memory


def test_memory_grows_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    if PeakMemory(torch.device("cpu")).read() is None:
        pytest.skip("the system does not tell the peak memory")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)  # a fifth of the time
    small, large = (
        in_fresh_process(speed.step_memory, replace(SMALL, mode="train", batch_size=n, input_size=(3, 32, 32)))
        for n in (1, 32)
    )
    maps = 32 * 4 * count(zoo.create_model(SMALL.name, device="meta")).activations
    assert 0 < small < large - maps / 2  # a backward pass keeps what every convolution wrote, and more


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [(math.sqrt, -1.0, r"^ValueError: .*"), (os._exit, 3, r"ended with status 3; was there enough memory")],
)
def test_a_process_that_fails_says_why(
    function: Any, argument: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)
    with pytest.raises(RuntimeError, match=message):
        in_fresh_process(function, argument)


# ---------------------------------------------------------------- plan and records


def test_nets_that_are_compared_stand_beside_each_other() -> None:
    cases = plan(["resnet_test", "timm:test_resnet"], batch_sizes=[1, 2], layouts=["contiguous", "channels_last"])
    assert [case.name for case in cases] == ["resnet_test", "timm:test_resnet"] * 6
    assert [(c.mode, c.batch_size, c.layout) for c in cases[::2]] == [
        ("eval", 1, "contiguous"),
        ("eval", 1, "channels_last"),
        ("eval", 2, "contiguous"),
        ("eval", 2, "channels_last"),
        ("train", 2, "contiguous"),
        ("train", 2, "channels_last"),
    ]
    assert {case.input_size for case in cases[::2]} == {zoo.model_entry("resnet_test").input_size}
    assert cases[1].input_size == (3, 160, 160)
    assert [case.mode for case in plan(["resnet_test"], batch_sizes=[1])] == ["eval", "train"]


@pytest.mark.parametrize("wrong", [{"modes": ["infer"]}, {"layouts": ["nchw"]}, {"dtype": "int8"}])
def test_a_wrong_plan_names_the_argument(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"unknown {next(iter(wrong)).rstrip('s')} .*choose from"):
        plan(["resnet_test"], **wrong)


def test_a_record_has_the_units_it_says() -> None:
    first = Row(case=replace(SMALL, name="first"), times=[0.4, 0.2, 0.4])
    row = Row(case=SMALL, memory=7, times=[0.1, 0.1, 0.2], bounds=[0.05, 0.025, 0.1])
    record = make_record(row, first, FACTS)
    assert record["step_ms"] == pytest.approx({"median": 100, "low": 100, "high": 150})
    assert record["images_per_second"] == pytest.approx(2 / 0.1)
    assert record["bound_ms"] == pytest.approx({"median": 50, "low": 37.5, "high": 75})
    assert record["bound_share"] == pytest.approx({"median": 0.5, "low": 0.375, "high": 0.5})
    assert record["speed_ratio"] == pytest.approx({"median": 2, "low": 2, "high": 3})
    assert record["speed_ratio_to"] == {
        "name": "first",
        "layout": "contiguous",
        "compile": False,
        "fuse": False,
        "lean": False,
    }
    assert (record["peak_memory"], record["rounds"], record["family"]) == (7, 3, "resnet")
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"]["threads"] == torch.get_num_threads()
    bare = make_record(Row(case=SMALL, times=[0.1, 0.1]), None, FACTS)
    assert [bare[key] for key in ("bound_ms", "bound_share", "bound_calls", "speed_ratio", "peak_memory")] == [None] * 5
    assert bare["key"] == record["key"]  # what was asked, not what came out
    assert make_record(replace_case(row, batch_size=3), None, FACTS)["key"] != record["key"]


def replace_case(row: Row, **changes: Any) -> Row:
    return Row(case=replace(row.case, **changes), times=row.times)


def test_a_layout_that_breaks_memory_is_refused() -> None:
    cases = plan(["bagnet_test"], batch_sizes=[2], layouts=["contiguous", "channels_last"])
    outcome = sweep(cases, repeats=2, bound=False, memory=False)
    assert [(r["case"]["mode"], r["case"]["layout"]) for r in outcome.records] == [
        ("eval", "contiguous"),
        ("eval", "channels_last"),
        ("train", "contiguous"),
    ]
    [failure] = outcome.failures
    assert re.fullmatch(r"bagnet_test, train, batch 2, channels_last: layout .* take contiguous", failure)


@pytest.mark.parametrize("chans", [1, 3])
def test_a_layout_that_breaks_memory_is_told_from_the_weights_too(chans: int) -> None:
    net, images = zoo.create_model("bagnet_test", in_chans=chans), torch.randn(2, chans, 64, 64)
    make_step(net, images, "train")
    net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    make_step(net, images, "eval")
    with pytest.raises(ValueError, match="layout channels_last"):
        make_step(net, images, "train")


def test_ratios_are_to_the_first_net_plain_in_the_first_layout() -> None:
    cases = plan(
        ["resnet_test", "fishnet_test"],
        batch_sizes=[2],
        layouts=["channels_last", "contiguous"],
        compiled=[False, True],
    )
    rows = [Row(case=case, times=[1.0, 1.0]) for case in cases]
    for row in rows:
        first = reference(row, rows)
        assert first
        assert (first.case.name, first.case.layout, first.case.compile) == ("resnet_test", "channels_last", False)
        assert first.case.mode == row.case.mode
    rows[0].times.clear()  # it failed
    assert reference(rows[1], rows) is None


def test_the_table_shows_what_differs() -> None:
    first = Row(case=SMALL, memory=3 * 2**20, times=[0.1, 0.1], bounds=[0.05, 0.05])
    other = Row(case=replace(SMALL, name="other"), times=[0.05, 0.05])
    records = [make_record(row, first, FACTS) for row in (first, other)]
    names, _, *lines = format_table(records).splitlines()
    header = ["net", "mode", "batch", "ms", "quartiles", "images/s", "bound", "ms", "bound", "%", "MiB", "speed", "x"]
    assert names.split() == [*header, "its", "quartiles"]
    expected = "resnet20_cifar eval 2 100 100 .. 100 20.0 50.0 50 3 1.00 1.00 .. 1.00"
    assert lines[0].split() == expected.split()
    expected = "other eval 2 50.0 50.0 .. 50.0 40.0 - - - 2.00 2.00 .. 2.00"
    assert lines[1].split() == expected.split()
    assert heading(records).endswith("float32, 3x16x16, contiguous, 2 rounds")
    records[1]["case"]["layout"] = "channels_last"
    assert "layout" in format_table(records).splitlines()[0]
    assert "contiguous" not in heading(records)


# ---------------------------------------------------------------- the sweep


def cases(*names: str, **changes: Any) -> list[Case]:
    return [replace(SMALL, name=name, **changes) for name in names]


def test_a_sweep_measures_and_stores_every_case(tmp_path: Path) -> None:
    path = tmp_path / "speed.jsonl"
    write(path, [RUN])
    asked = cases("resnet20_cifar", "timm:test_resnet") + cases("resnet20_cifar", mode="train")
    outcome = sweep(asked, repeats=2, memory=False, path=path)
    assert not outcome.failures
    assert not outcome.interrupted
    assert [(r["name"], r["case"]["mode"]) for r in outcome.records] == [(c.name, c.mode) for c in asked]
    assert speed_records(path) == [{**record, "schema": SCHEMA} for record in outcome.records]
    for record in outcome.records:
        assert record["rounds"] == 2
        assert 0 < record["step_ms"]["low"] <= record["step_ms"]["median"] <= record["step_ms"]["high"]
        assert record["bound_ms"]["median"] > 0
        assert record["peak_memory"] is None
    assert [r["family"] for r in outcome.records] == ["resnet", "timm", "resnet"]
    assert outcome.records[0]["counts"]["macs"] == count(zoo.create_model("resnet20_cifar"), (3, 16, 16)).macs
    assert outcome.records[0]["bound_calls"] == 20
    assert outcome.records[0]["speed_ratio"] == {"median": 1, "low": 1, "high": 1}
    sweep(asked[:1], repeats=3, memory=False, bound=False, path=path)
    assert [r["rounds"] for r in speed_records(path)] == [3, 2, 2]  # the newest of a case counts


def test_a_case_leaves_when_its_time_is_up() -> None:
    listener = Listener()
    listener.on_skip = skipped = Mock()
    outcome = sweep(cases("resnet20_cifar"), repeats=5, seconds=1e-9, memory=False, listener=listener)
    assert [record["rounds"] for record in outcome.records] == [2]
    skipped.assert_called_once_with(3)


@pytest.mark.parametrize(("rounds", "kept"), [(1, 0), (2, 2), (3, 2)])
def test_an_interrupt_keeps_what_had_two_rounds(rounds: int, kept: int, tmp_path: Path) -> None:
    class Impatient(Listener):
        steps = -1

        def on_phase(self, what: str, steps: int) -> None:
            self.counting = what == "rounds"

        def on_step(self, display: str) -> None:
            self.steps += self.counting
            if self.steps == 2 * rounds + 1:  # in the middle of the next round
                raise KeyboardInterrupt

    path = tmp_path / "speed.jsonl"
    outcome = sweep(
        cases("resnet20_cifar", "preresnet20_cifar"), repeats=9, memory=False, path=path, listener=Impatient()
    )
    assert outcome.interrupted
    assert [record["rounds"] for record in outcome.records] == [rounds] * kept
    assert len(speed_records(path)) == kept


def test_a_net_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(row: Row) -> None:
        if row.case.name == "resnet20_cifar":
            raise RuntimeError("its process ended with status -9")
        row.memory = 5

    monkeypatch.setattr(speed, "_measure_memory", memory)
    outcome = sweep(cases("resnet20_cifar", "preresnet20_cifar"), repeats=2, bound=False)
    assert outcome.failures == ["resnet20_cifar, eval, batch 2, contiguous: its process ended with status -9"]
    [record] = outcome.records
    assert (record["name"], record["peak_memory"], record["speed_ratio"]) == ("preresnet20_cifar", 5, None)


def test_a_sweep_of_nets_that_all_fail_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def memory(row: Row) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 5 bytes")

    monkeypatch.setattr(speed, "_measure_memory", memory)
    assert main(["speed", "resnet_test", "--batch-size", "2", "--mode", "eval", "--device", "cpu"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("zoo: failed: resnet_test, eval, batch 2, contiguous: not enough memory")


def test_compiled_nets_are_rows_beside_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def pretend(net: nn.Module, dynamic: bool) -> nn.Module:
        assert not dynamic
        compiled.append(net)
        return nn.Sequential(net)

    def refuse(*args: Any) -> None:
        raise AssertionError("a resident set cannot tell the compiler's memory from the net's")

    monkeypatch.setattr(torch, "compile", pretend)
    monkeypatch.setattr(speed, "in_fresh_process", refuse)
    outcome = sweep(cases("resnet20_cifar", compile=True), repeats=2)
    assert [record["case"]["compile"] for record in outcome.records] == [True]
    assert outcome.records[0]["bound_calls"] == 20  # of the plain net, whose operators can be seen
    assert len(compiled) == 1


def test_fused_nets_are_rows_of_evaluation_beside_plain_ones() -> None:
    asked = plan(["resnet20_cifar"], batch_sizes=[2], input_size=(3, 16, 16), fused=[False, True])
    assert [(case.mode, case.fuse) for case in asked] == [("eval", False), ("eval", True), ("train", False)]
    assert "fuse" not in asked[0].to_dict(), "or keys of stored lines would be others"
    assert asked[1].to_dict()["fuse"]
    outcome = sweep(asked[:2], repeats=2, memory=False)
    assert not outcome.failures
    assert [record["speed_ratio_to"]["fuse"] for record in outcome.records] == [False, False]
    assert [record["bound_calls"] for record in outcome.records] == [20, 20]
    rows = format_table(outcome.records).splitlines()
    assert "fused" in rows[0]
    assert [row.split()[3] for row in rows[2:]] == ["no", "yes"]


def test_lean_nets_are_rows_of_training_beside_plain_ones() -> None:
    asked = plan(
        ["resnet20_cifar"], batch_sizes=[2], input_size=(3, 16, 16), lean=[False, True], compiled=[False, True]
    )
    found = [(case.mode, case.lean, case.compile) for case in asked]
    assert found[:2] == [("eval", False, False), ("eval", False, True)]
    assert found[2:] == [("train", False, False), ("train", False, True), ("train", True, False)]
    assert "lean" not in asked[2].to_dict(), "or keys of stored lines would be others"
    assert asked[4].to_dict()["lean"]
    outcome = sweep([asked[2], asked[4]], repeats=2, memory=False)
    assert not outcome.failures
    assert [record["speed_ratio_to"]["lean"] for record in outcome.records] == [False, False]
    assert [record["bound_calls"] for record in outcome.records] == [outcome.records[0]["bound_calls"]] * 2
    rows = format_table(outcome.records).splitlines()
    assert [row.split()[3] for row in rows] == ["lean", "-----", "no", "yes"] or "lean" in rows[0]


# ---------------------------------------------------------------- the command


def test_the_command_prints_json_and_appends_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.jsonl"
    options = ["--input-size", "32", "--mode", "eval", "--batch-size", "1", "2", "--repeats", "2", "--no-memory"]
    asked = ["speed", "resnet20_cifar", "timm:test_resnet", *options, "--device", "cpu", "--out", str(path)]
    assert main([*asked, "--json"]) == 0
    captured = capsys.readouterr()
    records = json.loads(captured.out)
    assert [{**record, "schema": SCHEMA} for record in records] == speed_records(path)
    assert [(r["name"], r["case"]["batch_size"]) for r in records] == [
        ("resnet20_cifar", 1),
        ("timm:test_resnet", 1),
        ("resnet20_cifar", 2),
        ("timm:test_resnet", 2),
    ]
    for record in records:
        batch, milliseconds = record["case"]["batch_size"], record["step_ms"]["median"]
        assert record["images_per_second"] * milliseconds == pytest.approx(1e3 * batch)
    assert "4 lines appended" in captured.err
    assert captured.err.count("resnet20_cifar, eval, batch 1, contiguous: ") == 1
    assert main([*asked, "--no-bound"]) == 0
    text = capsys.readouterr().out
    assert "float32, 3x32x32, contiguous, 2 rounds" in text
    assert text.count("timm:test_resnet") == 2
    assert len(path.read_bytes().splitlines()) == 8
    assert main(["plot", str(path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(("failures", "interrupted", "status"), [(["a: bad"], False, 1), ([], True, 130)])
def test_the_status_tells_how_it_ended(
    failures: list[str],
    interrupted: bool,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = SimpleNamespace(records=[], failures=failures, interrupted=interrupted)
    monkeypatch.setattr(speed, "sweep", lambda *_, **__: outcome)
    assert main(["speed", "resnet20_cifar", "--device", "cpu"]) == status
    text = capsys.readouterr().err
    assert ("zoo: failed: a: bad" if failures else "0 of 3 rows had two rounds or more") in text


def test_a_terminal_sees_a_bar() -> None:
    written: list[str] = []
    stream: Any = SimpleNamespace(isatty=lambda: True, write=written.append, flush=lambda: None)
    with SpeedProgress(stream) as progress:
        progress.on_phase("rounds", 4)
        progress.on_step("net, eval")
        progress.on_skip(3)
        progress.on_failure("other: no memory")
    text = "".join(written)
    assert "rounds" in text
    assert "0/4 " in text
    assert "1/1 " in text
    assert "failed: other: no memory" in text
