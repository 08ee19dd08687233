"""Ctrl-C: one line and status 130 wherever it comes, and no word from the processes that the command has started."""

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch

from zoo import catalogue, complexity, evaluation
from zoo.bench import request
from zoo.bench.engines import _Worker
from zoo.datasets.check import check_halves
from zoo.datasets.decode import PictureError
from zoo.datasets.half import Half, read_batches
from zoo.interrupts import for_parent_alone
from zoo.speed import cases as speed
from zoo.speed import timing as measure
from zoo.speed.timing import in_fresh_process
from zoo_cli import main


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        (catalogue, "count_names", ["list", "--counts"]),
        (catalogue, "count_names", ["count", "resnet_test"]),
        (complexity, "count", ["info", "resnet_test"]),
        (evaluation, "open_dataset", ["validate", "resnet_test", "--data-dir", ".", "--checkpoint", "x"]),
        (request, "default_recipe", ["bench", "resnet_test"]),
        (speed, "_facts", ["speed", "resnet_test", "--device", "cpu"]),
        (speed, "plan", ["speed", "resnet_test", "--device", "cpu"]),
    ],
)
def test_ctrl_c_is_one_line(
    module: Any,
    name: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, name, interrupt)
    assert main(arguments) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert "nterrupted" in line


def deaf(*_: object) -> bool:
    """Whether Ctrl-C does not reach this process."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_ctrl_c_waits_while_processes_are_started() -> None:
    assert not deaf()

    def begin() -> None:
        with for_parent_alone():
            assert deaf()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert not deaf()


@pytest.mark.slow  # as the next: the usual tier asks those that read images
def test_ctrl_c_does_not_reach_a_fresh_process() -> None:
    assert in_fresh_process(deaf)
    assert not deaf()


@pytest.mark.slow  # as those below, by the same switch
def test_ctrl_c_does_not_reach_those_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_count", deaf)
    monkeypatch.setattr(catalogue, "SHORT", 1)
    assert list(catalogue.count_names(["a", "b", "c"], workers=2)) == [True] * 3
    assert list(catalogue.count_names(["a", "b", "c"], workers=1)) == [False] * 3


class Pictures(Half):
    """Pictures that can be read only where Ctrl-C does not reach, and whose label says so."""

    def __getitem__(self, position: int) -> Any:
        return torch.zeros(1), int(deaf())

    def look(self, found: int) -> bytes:
        if not deaf():
            raise PictureError("Ctrl-C reaches its reader")
        return bytes([found])

    def name(self, found: int) -> str:
        return str(found)

    def state(self) -> str:
        return ""


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_does_not_reach_those_that_read_images(workers: int) -> None:
    pictures = Pictures(classes=("no", "yes"), all_labels=np.zeros(4))
    [(_, labels, _)] = read_batches(pictures, 4, workers=workers)
    assert labels is not None
    assert labels.tolist() == [int(workers > 0)] * 4
    found = check_halves((pictures, pictures), title="", workers=workers, looked_at=(True, False))
    assert len(found.broken[0]) == (0 if workers else 4)


def test_ctrl_c_does_not_reach_those_that_train(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process:
        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            started.append(deaf())

    context = measure.multiprocessing.get_context("spawn")
    monkeypatch.setattr(context, "Process", Process, raising=False)
    _Worker(1).pipe.close()
    assert started == [True]
