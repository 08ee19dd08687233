"""`benchmarks/gpu.py`, and what only a GPU can tell of fused and lean nets (marked ``gpu``)."""

import gc
import json
import multiprocessing
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from structures import FORWARDS

import zoo
from zoo.speed.timing import added_memory, make_step

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu

MINIATURE = ["--device", "cpu", "--no-tests", "--no-compile", "--repeats", "2"]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no GPU: torch.cuda.is_available() is False" in capsys.readouterr().err


def test_jobs_that_compile_come_last() -> None:
    jobs = gpu.plan(gpu.build_parser().parse_args(["resnet50", "vgg16_bn"]))
    assert [job.name for job in jobs] == ["resnet50", "vgg16_bn"] * 4
    assert jobs[0].forms == ("plain", "fused", "timm:resnet50", "pytorchcv:resnet50b")
    assert [any("compiled" in form for form in job.forms) for job in jobs] == [False] * 4 + [True] * 4


def test_the_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure_job(job: Any, batch: int) -> Any:
        asked.append(batch)
        if batch > 16:
            raise torch.OutOfMemoryError("too large")
        yield {"batch": batch}

    monkeypatch.setattr(gpu, "measure_job", measure_job)
    [job] = gpu.plan(gpu.build_parser().parse_args(["vgg16_bn", "--batch", "64", "--no-compile"]))[:1]
    assert list(gpu.fit(job)) == [{"batch": 16}]
    assert asked == [64, 32, 16]


def test_each_job_starts_without_the_nets_of_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that holds itself, as fused ones do, would count as memory that was there before."""

    class Stop(Exception):
        pass

    def added_memory(*args: Any) -> None:
        raise Stop("garbage" if old() is not None else "clean")

    monkeypatch.setattr(gpu.measure, "added_memory", added_memory)
    [job] = gpu.plan(gpu.build_parser().parse_args(["vgg16_bn", "--device", "cpu", "--no-compile"]))[:1]
    gc.disable()
    try:
        net: Any = torch.nn.Identity()
        net.report = {"net": net}
        old = weakref.ref(net)
        del net
        with pytest.raises(Stop, match="clean"):
            list(gpu.measure_job(job, 2))
    finally:
        gc.enable()


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["late", "in time"])
def test_gpu_tests_that_are_not_done_in_time_are_failures(
    seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], timeout: float, **options: Any) -> Any:
        if timeout < 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, stdout="1 passed")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(gpu, "plan", lambda args: [])
    argv = ["--device", "cpu", "--seconds", str(4 * seconds), "--out", str(tmp_path / "gpu.jsonl")]
    if seconds:
        gpu.main(argv)
    else:
        with pytest.raises(SystemExit, match="1 of 1 lines are failures"):
            gpu.main(argv)


@pytest.mark.slow
def test_the_miniature_goes_on_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A net that does not exist costs its own lines; every line has what it was measured with."""
    out = tmp_path / "new" / "gpu.jsonl"
    with pytest.raises(SystemExit, match="2 of 6 lines are failures"):
        gpu.main(["nosuch_net", "resnet20_cifar", *MINIATURE, "--out", str(out)])
    lines = [json.loads(line) for line in out.read_text(encoding="ascii").splitlines()]
    assert [(line["kind"], line["name"], line["mode"]) for line in lines] == [
        ("failure", "nosuch_net", "eval"),
        *[("gpu", "resnet20_cifar", "eval")] * 2,
        ("failure", "nosuch_net", "train"),
        *[("gpu", "resnet20_cifar", "train")] * 2,
    ]
    assert [line.get("form") for line in lines] == [None, "plain", "fused", None, "plain", "lean"]
    assert all(line["versions"]["torch"] == torch.__version__ for line in lines)
    shown = capsys.readouterr().out
    assert "nosuch_net, eval, plain, fused: ValueError: name ('nosuch_net')" in shown
    assert "| resnet20_cifar | eval   | fused  |" in shown


@pytest.mark.slow
def test_the_time_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    gpu.main(["resnet_test", *MINIATURE, "--seconds", "10", "--out", str(out)])
    kinds = [json.loads(line)["kind"] for line in out.read_text(encoding="ascii").splitlines()]
    assert kinds == ["late", "late"]


@pytest.mark.slow
def test_a_process_that_dies_costs_one_job() -> None:
    args = gpu.build_parser().parse_args(["resnet20_cifar", *MINIATURE, "--batch", "2", "--size", "32"])
    first, second = gpu.plan(args)
    lines: list[dict[str, Any]] = []
    for line in gpu.run([first, second, first], time.monotonic() + 120):
        if not lines:
            [worker] = multiprocessing.active_children()
            worker.kill()
        lines.append(line)
    assert [line["reason"] for line in lines if line["kind"] == "failure"] == ["its process ended with status -9"]
    assert [line.get("form") for line in lines[-2:]] == ["plain", "fused"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORWARDS)
def test_fused_nets_on_a_gpu(name: str) -> None:
    torch.manual_seed(0)
    net: Any = zoo.create_model(name, dtype=torch.float64, device="cuda").eval()
    x = torch.randn(2, 3, 67, 73, dtype=torch.float64, device="cuda")
    with torch.inference_mode():
        expected = net(x)
        assert (zoo.fuse(net)(x) - expected).abs().max() <= 1e-10 * expected.std()
        half = zoo.fuse(net).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
        found = half(x.to(dtype=torch.bfloat16, memory_format=torch.channels_last)).double()
    assert (found - expected).abs().max() <= 0.2 * expected.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORWARDS)
def test_lean_nets_on_a_gpu(name: str) -> None:
    """Gradients are equal up to rounding, as the norms of cuDNN are other kernels than those that make maps again."""
    found = []
    for lean in (False, True):
        torch.manual_seed(0)
        net: Any = zoo.set_lean(zoo.create_model(name, dtype=torch.float64, device="cuda").train(), lean)
        x = torch.randn(4, 3, 64, 64, dtype=torch.float64, device="cuda")
        net(x).square().mean().backward()
        found.append([p.grad for p in net.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.gpu
def test_lean_nets_need_less_memory_on_a_gpu() -> None:
    device, need = torch.device("cuda"), []
    for lean in (False, True):

        def make(lean: bool = lean) -> Any:
            net = zoo.set_lean(zoo.create_model("preresnet50", device=device), lean)
            return make_step(net, torch.randn(8, 3, 224, 224, device=device), "train", "bfloat16")

        need.append(added_memory(make, lambda: None, device) or 0)
    assert need[1] < 0.85 * need[0]
