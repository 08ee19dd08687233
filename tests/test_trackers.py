"""Runs in the programs that people watch them in, and as lines in a log."""

import io
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from result_lines import stored
from test_keeping import request
from test_keeping import tiny as tiny  # an automatic fixture

from zoo.bench import progress
from zoo.bench import run as bench
from zoo.bench.progress import PACKAGES, ProgressBar
from zoo.bench.sweep import Listener
from zoo_cli import main
from zoo_cli.common import LOGS


class Wandb(ModuleType):
    """As much of Weights & Biases as accelerate's tracker calls."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.broken, self.told, self.config = broken, [], self

    def init(self, **options: Any) -> "Wandb":
        self.told.append(("init", options))
        return self

    def update(self, values: Any, **_: Any) -> None:
        self.told.append(("config", values))

    def log(self, values: Any, step: int | None = None) -> None:
        if self.broken:
            raise ConnectionError("no server")
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finish")


def test_the_command_line_knows_all_trackers() -> None:
    assert tuple(PACKAGES) == LOGS


def test_epochs_and_results_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    bench(request(tmp_path, changes={"epochs": 2}, log="wandb", validation=0.2, seeds=[0, 1]))
    first, second = stored(tmp_path / "results.jsonl")
    assert wandb.told.count("finish") == 2
    (_, options), (_, config), *logged = wandb.told[: wandb.told.index("finish")]
    assert options["project"] == "zoo"
    assert options["name"].endswith(f"seed0-{first['key'][:8]}")
    assert config.items() >= {"dataset": "tiny", "epochs": 2, "seed": 0}.items()
    assert [step for step, _ in logged] == [1, 2, 2]
    epochs = [{key: value for key, value in epoch.items() if key != "epoch"} for epoch in first["epochs"]]
    assert [values for _, values in logged[:2]] == epochs
    assert logged[2][1]["final/test_accuracy"] == first["test_accuracy"]
    assert logged[2][1]["final/macro_f1"] == first["macro_f1"]
    assert second["seed"] == 1


def test_a_tracker_that_fails_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Wandb(broken=True))
    with pytest.warns(
        UserWarning, match="log 'wandb' has failed for a run and is left: ConnectionError: no server"
    ) as all:
        assert bench(request(tmp_path, changes={"epochs": 2}, log="wandb")).finished == 1
    assert len(all) == 1, "once"


def test_what_is_missing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        progress.importlib.util, "find_spec", lambda name: None if name in sum(PACKAGES.values(), ()) else name
    )
    words = ["bench", "lenet_test", "--dataset", "tiny", "--out", str(tmp_path)]
    assert main([*words, "--log", "mlflow"]) == 2
    assert (
        "log 'mlflow' needs the package mlflow, which is not installed: pip install mlflow" in capsys.readouterr().err
    )
    assert main([*words, "--log", "wandb", "--jobs", "2"]) == 2
    assert "log 'wandb' takes one run at a time: leave out --jobs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="log 'paper' must be one of tensorboard, wandb, mlflow"):
        request(tmp_path, log="paper")


@pytest.mark.skipif(
    not progress.importlib.util.find_spec("tensorboard"), reason="needs tensorboard, which no extra has"
)
def test_tensorboard_writes_files(tmp_path: Path) -> None:
    bench(request(tmp_path, log="tensorboard"))
    assert list((tmp_path / "log").rglob("events.out.tfevents.*"))


def test_a_log_has_lines_on_epochs(tmp_path: Path) -> None:
    stream, often = io.StringIO(), io.StringIO()
    asked = request(tmp_path, changes={"epochs": 2}, validation=0.2)
    bench(asked, ProgressBar(stream=often, every=0))
    first, second, last = often.getvalue().splitlines()
    assert first.startswith("preresnet20_cifar + ")
    assert "seed 0: epoch 1 of 2, training loss " in first
    assert ", validation accuracy " in second
    assert "test accuracy after 2 epochs" in last
    bench(request(tmp_path, changes={"epochs": 2}, validation=0.2, force=True), ProgressBar(stream=stream))
    assert len(stream.getvalue().splitlines()) == 1, "the run is over sooner"


def test_other_events_are_passed_on() -> None:
    """Every event of a listener is one of the tracker's, too: a new one may not be lost."""
    events = {name for name in vars(Listener) if name.startswith("on_")}
    assert events <= vars(progress.Tracked).keys()
