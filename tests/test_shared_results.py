"""Sweeps that share a results file, and what killed ones have left beside it."""

import errno
import fcntl
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import FORK
from result_lines import stored
from test_engines import Watch, curves, runs, sweep_quietly

from zoo.bench import resume as saved
from zoo.bench import sweep as runner
from zoo.bench.resume import Saved, States
from zoo.bench.sweep import SAVED
from zoo.results import append


def hold(folder: Path, key: str, pipe: Any) -> None:
    """Claim a run, say so, and keep it until told to let it go, or for ever."""
    claim = States(folder).claim(key)
    pipe.send(claim is not None)
    pipe.recv()
    assert claim is not None
    claim.release()
    pipe.send("released")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Any]:
    """Begins another process that trains a run, and returns the pipe to it."""
    begun = []

    def begin(key: str) -> Any:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=hold, args=(tmp_path / SAVED, key, theirs))
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        begun.append(process)
        assert ours.recv()
        return ours

    yield begin
    for process in begun:
        process.kill()
        process.join()


def test_a_run_that_another_bench_trains_is_left_to_it(tmp_path: Path, other: Any) -> None:
    asked, path = runs(2), tmp_path / "r.jsonl"
    pipe = other(asked[0].key)
    outcome = runner.sweep(asked, path)
    assert (outcome.finished, outcome.skipped, outcome.failures) == (1, 0, ())
    assert outcome.elsewhere == (f"{asked[0].display}, seed 0",)
    assert [line["seed"] for line in stored(path)] == [1]
    pipe.send("let go")
    assert pipe.recv() == "released"
    outcome = runner.sweep(asked, path)
    assert (outcome.finished, outcome.skipped, outcome.elsewhere) == (1, 1, ())
    assert sorted(line["seed"] for line in stored(path)) == [0, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_that_another_bench_ends_meanwhile_is_looked_at_again(tmp_path: Path, other: Any, finishes: bool) -> None:
    asked, path = runs(2), tmp_path / "r.jsonl"
    pipe = other(asked[0].key)
    skipped = []

    class Meanwhile(Watch):
        def on_finish(self, run: Any, record: Any) -> None:
            if run == asked[1]:
                if finishes:
                    append(path, {**record, "key": asked[0].key, "seed": 0})
                pipe.send("let go")
                assert pipe.recv() == "released"

        def on_skip(self, run: Any) -> None:
            skipped.append(run)

    outcome = runner.sweep(asked, path, listener=Meanwhile())
    assert (outcome.finished, outcome.skipped, outcome.elsewhere) == (2 - finishes, int(finishes), ())
    assert skipped == asked[:1] * finishes
    assert sorted(line["seed"] for line in stored(path)) == [0, 1]


def test_the_claim_of_a_process_that_dies_is_free(tmp_path: Path, other: Any) -> None:
    other("00")
    assert States(tmp_path / SAVED).claim("00") is None
    [process] = multiprocessing.active_children()
    process.kill()
    process.join()
    claim = States(tmp_path / SAVED).claim("00")
    assert claim is not None
    claim.release()
    assert not (tmp_path / SAVED).exists()


def test_two_sweeps_at_a_time_do_each_run_once(tmp_path: Path) -> None:
    path = tmp_path / "both" / "r.jsonl"
    both = [FORK.Process(target=sweep_quietly, args=(str(path), 3, 1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(line["seed"] for line in stored(path)) == [0, 1, 2]
    runner.sweep(runs(3), tmp_path / "alone.jsonl")
    assert curves(path) == curves(tmp_path / "alone.jsonl")
    assert not (path.parent / SAVED).exists()


def test_what_killed_sweeps_have_left_is_removed(tmp_path: Path, other: Any) -> None:
    asked, path = runs(2), tmp_path / "r.jsonl"
    runner.sweep(asked[:1], path)
    finished, theirs, waiting = asked[0].key, "ab" * 8, "cd" * 8
    other(theirs)
    folder = tmp_path / SAVED
    for name in (
        f"{finished}.pt",  # its line was written, and the state not removed yet
        f".{finished}.pt.x1y2",
        f".{waiting}.pt.a_b3",
        f"{waiting}.lock",
        f"{waiting}.pt",  # a run of another sweep that has not ended
        f".{theirs}.pt.z9",  # being written this moment
        "notes.txt",
    ):
        (folder / name).write_text("")
    runner.sweep(asked[:1], path)
    left = {f"{waiting}.pt", f".{theirs}.pt.z9", f"{theirs}.lock", "notes.txt"}
    assert {file.name for file in folder.iterdir()} == left


def test_a_run_that_is_forced_begins_anew(tmp_path: Path) -> None:
    """Not from the state that an interrupt has left after its line."""
    [run], path = runs(1), tmp_path / "r.jsonl"
    kept: list[bytes] = []
    state = tmp_path / SAVED / f"{run.key}.pt"
    runner.sweep([run], path, listener=Watch(lambda *_: kept.append(state.read_bytes())))
    state.parent.mkdir()
    state.write_bytes(kept[0])
    epochs: list[int] = []
    runner.sweep([run], path, force=True, listener=Watch(lambda _, metrics: epochs.append(metrics.epoch)))
    assert epochs == [1]
    assert Saved(state).read() is None


def test_a_lock_that_its_owner_removes_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = fcntl.lockf, []

    def slow(descriptor: int, how: int) -> None:
        if not removed:  # the owner ends between our opening of its file and our lock of it
            removed.append((tmp_path / "00.lock").stat().st_ino)
            (tmp_path / "00.lock").unlink()
        lock(descriptor, how)

    monkeypatch.setattr(saved.fcntl, "lockf", slow)
    claim = States(tmp_path).claim("00")
    assert claim is not None
    assert removed
    assert claim.path.is_file()
    claim.release()


@pytest.mark.parametrize("broken", ["folder", "locks"])
def test_where_nothing_can_be_locked_runs_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if broken == "folder":
        (tmp_path / "states").write_text("")
    else:
        monkeypatch.setattr(saved.fcntl, "lockf", refuse)
    claim = States(tmp_path / "states").claim("00")
    assert claim is not None
    claim.release()
