"""The benchmark scripts: their statistics and that they run; how fast anything is, no test can know."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zoo.speed.timing import clocked, interleave

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_ratios_are_taken_within_pairs(speed: SimpleNamespace) -> None:
    # The machine becomes ten times slower half-way: the times drift, the ratio of each pair does not.
    ours, theirs = [1.0, 1.0, 10.0, 10.0, 10.0], [2.0, 2.0, 20.0, 20.0, 20.0]
    result = speed.compare(ours, theirs)
    assert (result.ratio, result.low, result.high) == (2.0, 2.0, 2.0)
    assert (result.ours_ms, result.theirs_ms) == (10_000.0, 20_000.0)


def test_an_outlier_moves_neither_median_nor_quartiles(speed: SimpleNamespace) -> None:
    result = speed.compare([1.0] * 9, [1.5] * 8 + [100.0])
    assert (result.ratio, result.low, result.high) == (1.5, 1.5, 1.5)


def test_noise_shows_in_the_quartiles(speed: SimpleNamespace) -> None:
    result = speed.compare([1.0, 2.0, 1.0, 2.0, 1.0], [2.0, 1.0, 1.0, 2.0, 1.0])
    assert result.low <= 1.0 <= result.high
    assert result.ratio == 1.0


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_too_few_pairs_are_refused(speed: SimpleNamespace, ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        speed.compare(ours, theirs)


def test_sides_alternate_and_take_turns_to_begin() -> None:
    calls: list[str] = []
    ticks = iter(range(100))
    steps = (lambda: calls.append("a"), lambda: calls.append("b"))
    times = interleave(steps, 3, clocked(lambda: float(next(ticks))))
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert times == ([1.0] * 3, [1.0] * 3)


@pytest.mark.parametrize("theirs", ["timm:test_resnet", "pytorchcv:resnet20_cifar10"])
def test_it_runs_and_writes_what_it_found(
    speed: SimpleNamespace, theirs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    sizes = ["--batch", "2", "--size", "32", "--repeats", "2", "--warmup", "0"]
    speed.main(["resnet20_cifar", theirs, "--layout", "nchw", "--no-memory", "--json", str(file), *sizes])
    result = json.loads(file.read_text(encoding="ascii"))
    assert [row["case"]["mode"] for row in result["rows"]] == ["infer", "train"]
    assert all(row["time"]["ratio"] > 0 for row in result["rows"])
    assert result["versions"]["torch"] == torch.__version__
    assert theirs in capsys.readouterr().out


def test_memory_of_checkpointing() -> None:
    """Steps train, with the units recomputed or not; the table divides what they need."""
    memory = SimpleNamespace(**runpy.run_path(str(SCRIPT.with_name("densenet_memory.py"))))
    args = memory.build_parser().parse_args([])
    assert (args.names, args.batch, args.size) == (("densenet121",), 8, 224)
    for checkpoint in (True, False):
        stored = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal stored
            stored += t.numel()
            return t

        step = memory.make_step("densenet_test", checkpoint, 2, 32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            step()
        assert stored > 0
        if checkpoint:
            least = stored
    assert least < stored
    row = {"name": "net", "time": {"ours_ms": 3.0, "theirs_ms": 2.0, "ratio": 0.5, "low": 0.4, "high": 0.8}}
    cells = memory.table([row | {"memory": {"checkpointed": 2**20, "stored": 2**22}}]).splitlines()[-1].split()
    assert cells[1::2] == ["net", "1", "4", "0.25", "3", "2", "2.00", "1.25", "2.50"]
    assert "-" in memory.table([row | {"memory": {"checkpointed": None, "stored": None}}]).splitlines()[-1].split()
