"""Runs that stop and go on, fail, die, and are computed elsewhere: states, processes, Ray, teams."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from processes import FORK, killed_at
from result_lines import stored
from torch import Tensor, nn

import zoo
from zoo.bench import engines
from zoo.bench import sweep as runner
from zoo.bench.distributed import interleave, join
from zoo.bench.engines import Processes, Ray
from zoo.bench.one_run import Placement
from zoo.bench.resume import Saved
from zoo.bench.train import EpochMetrics, Trained, training
from zoo.datasets.built_in import load_dataset
from zoo.recipes import RECIPES
from zoo.results import store as results
from zoo.results.run import Run
from zoo_cli import main

DIGITS = RECIPES["digits"].recipe
TINY = {"depths": (1, 1, 1), "widths": (4, 4, 4), "stem_width": 4}


def net() -> nn.Module:
    """A net that draws random numbers of its own and has norms."""
    return zoo.create_model("preresnet20_cifar", num_classes=10, drop_rate=0.2, drop_path_rate=0.3, **TINY)


def runs(seeds: int, epochs: int = 1, names: tuple[str, ...] = ("preresnet20_cifar",)) -> list[Run]:
    # Long steps: few of them, so that a run of an epoch takes a moment.
    return runner.plan(names, "digits", DIGITS.changed(epochs=epochs, batch_size=64), range(seeds), TINY)


def curves(path: Path) -> dict[str, Any]:
    """What repeats from run to run, by key."""
    return curves_of(stored(path))


def curves_of(lines: Iterable[Any]) -> dict[str, Any]:
    parts = ("train_loss", "train_accuracy", "test_accuracy")
    return {line["key"]: [[epoch[part] for part in parts] for epoch in line["epochs"]] for line in lines}


class Watch(runner.Listener):
    """Calls something after every epoch, and remembers failures."""

    def __init__(self, act: Callable[[Run, EpochMetrics], None] = lambda *_: None) -> None:
        self.act, self.failed = act, []

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        self.act(run, metrics)

    def on_failure(self, run: Run, message: str) -> None:
        self.failed.append(message)


# ---------------------------------------------------------------- states


def advance(run: Iterator[Any], epochs: int) -> Trained | None:
    """Take so many epochs of a training; the whole, where it ends before."""
    while epochs:
        try:
            epochs -= isinstance(next(run), EpochMetrics)
        except StopIteration as end:
            return end.value
    return None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adamw", "lr": 1e-3, "ema": 0.9}, marks=pytest.mark.slow),
        pytest.param({"precise_norms": True}, marks=pytest.mark.slow),
        {"mixup": 0.2, "cutmix": 1.0, "augment": "trivial", "erase": 0.3, "flip": True, "border": "reflect"},
    ],
    ids=["plain", "average", "precise norms", "changed images"],
)
def test_a_run_that_was_stopped_repeats_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe, weights = DIGITS.changed(epochs=4, batch_size=299, **changes), []

    def begin(name: str) -> Iterator[Any]:
        return training(
            net,
            load_dataset("digits"),
            recipe,
            seed=3,
            saved=Saved(tmp_path / name),
            on_trained=lambda model: weights.append([*model.state_dict().values()]),
        )

    whole = advance(begin("whole"), 9)
    for epochs in (1, 2):  # stopped twice: after one epoch, and after two more
        stopped = begin("parts")
        assert advance(stopped, epochs) is None
        torch.rand(3)  # between processes anything may happen
    parts = advance(begin("parts"), 9)
    assert whole is not None
    assert parts is not None
    assert [(e.train_loss, e.test_score, e.lr) for e in whole.epochs] == [
        (e.train_loss, e.test_score, e.lr) for e in parts.epochs
    ]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert [stop["epochs"] for stop in parts.resumed] == [1, 3]
    assert parts.resumed[0]["versions"]["torch"] == torch.__version__
    assert whole.resumed == ()


def test_a_state_of_something_else_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def score() -> float:
        trained = advance(training(net, load_dataset("digits"), DIGITS.changed(epochs=1), saved=Saved(path)), 9)
        assert trained is not None
        return trained.epochs[0].train_loss

    first = score()
    for content in (b"nothing that torch reads", path.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"run.pt cannot be read, its run begins anew"):
            assert score() == first
    torch.save({"model": {"weight": torch.ones(2)}, "history": []}, path)
    with pytest.warns(UserWarning, match=r"run.pt does not fit model, which begins anew"):
        assert score() == first


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    path, trap = tmp_path / "run.pt", tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trap),)

    torch.save({"model": Trap()}, path)
    with pytest.warns(UserWarning, match=r"cannot be read"):
        assert Saved(path).read() is None
    assert not trap.exists()


def test_states_go_when_the_line_is_there(tmp_path: Path) -> None:
    seen = []
    watch = Watch(lambda run, _: seen.append((tmp_path / runner.SAVED / f"{run.key}.pt").is_file()))
    assert runner.sweep(runs(1, epochs=2), tmp_path / "r.jsonl", listener=watch).finished == 1
    assert seen == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_disk_without_room_loses_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tries = tmp_path / "r.jsonl", []
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if content.startswith(b'{"key"'):
            tries.append(content)
            raise OSError("no space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "write", full)
        with pytest.warns(UserWarning, match=r"no space left on device; the line is kept and tried again"):
            outcome = runner.sweep(runs(2), path)
    assert len(tries) == 5  # the first at its end, both at that of the second, both at the end of all
    assert len(set(tries)) == 2
    assert outcome.finished == 0
    assert all("the line could not be written" in failure for failure in outcome.failures)
    assert stored(path) == []
    seen: list[int] = []
    outcome = runner.sweep(runs(2), path, listener=Watch(lambda _, metrics: seen.append(metrics.epoch)))
    assert outcome.finished == 2
    assert seen == []  # nothing was trained again
    assert [(line["seed"], len(line["epochs"])) for line in stored(path)] == [(0, 1), (1, 1)]
    tried = [json.loads(line) for line in sorted(set(tries))]
    assert curves(path) == curves_of(tried)
    assert [line["standard_error"] for line in stored(path)] == [
        line["standard_error"] for line in sorted(tried, key=lambda line: line["seed"])
    ]


def test_a_state_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    how = Placement(saved=tmp_path / "file")
    with pytest.warns(UserWarning, match=r"could not be written, the run cannot be resumed here"):
        assert runner.sweep(runs(1), tmp_path / "r.jsonl", placement=how).finished == 1


# ---------------------------------------------------------------- processes


def sweep_quietly(path: str, seeds: int, epochs: int) -> None:
    """A sweep in a process of its own."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a line that the last kill has cut off
        runner.sweep(runs(seeds, epochs), Path(path))


def counted_sweep(path: str, seeds: int, epochs: int, files: str, last: int | None, sender: Any) -> None:
    """A sweep that sends how many lines of some of the zoo's files it runs, and is killed at the last of them."""
    with killed_at(files, last) as ran:
        sweep_quietly(path, seeds, epochs)
    sender.send(ran())


@pytest.mark.parametrize(
    ("files", "epochs", "kills"),
    [
        ("/zoo/(bench|results)/", 2, 3),
        pytest.param("/zoo/(bench|results)/", 3, 6, marks=pytest.mark.slow),
        pytest.param("/zoo/(files|bench/resume|results(/.*)?)[.]py$", 3, 6, marks=pytest.mark.slow),
    ],
)
def test_sigkill_at_any_moment_loses_no_finished_run(tmp_path: Path, files: str, epochs: int, kills: int) -> None:
    """Moments are lines of the code that trains, or only of the code that writes, so that they repeat everywhere."""
    undisturbed, path = tmp_path / "undisturbed" / "r.jsonl", tmp_path / "killed" / "r.jsonl"
    seeds, chance = 3, random.Random(0)
    receiver, sender = FORK.Pipe(duplex=False)
    whole = FORK.Process(target=counted_sweep, args=(str(undisturbed), seeds, epochs, files, None, sender))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    length = receiver.recv()
    done: set[str] = set()
    # The first kill falls into the first of three runs, behind its first epoch; the others anywhere.
    for last in (length // 7, *(chance.randint(1, length // 2) for _ in range(kills - 1))):
        process = FORK.Process(target=counted_sweep, args=(str(path), seeds, epochs, files, last, sender))
        process.start()
        process.join()
        if process.exitcode == 0:  # there was less to do
            break
        assert process.exitcode == -signal.SIGKILL
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            now = results.finished_keys(path)
        assert done <= now
        done = now
    sweep_quietly(str(path), seeds, epochs)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sorted(line["seed"] for line in lines) == list(range(seeds))  # each once
    assert curves(path) == curves(undisturbed)
    assert any("resumed" in line for line in lines)
    assert not (path.parent / runner.SAVED).exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curves of four runs, one after the other in this process, on one thread."""
    path = tmp_path_factory.mktemp("alone") / "r.jsonl"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runner.sweep(four(), path)
    torch.set_num_threads(threads)
    return curves(path)


def four() -> list[Run]:
    return runs(2, epochs=2, names=("preresnet20_cifar", "resnet20_cifar"))


def test_processes_give_the_same_lines_and_those_that_die_are_replaced(
    tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of one run dies once, that of another each time."""
    monkeypatch.setattr(engines.multiprocessing, "get_context", lambda _: FORK)  # a sixth of the time
    path, once = tmp_path / "r.jsonl", four()[0]
    [always] = runs(1, epochs=1000)  # which it does not finish before it is killed, however late that is
    tries: list[str] = []

    def kill(run: Run, metrics: EpochMetrics) -> None:
        if run.key == always.key or (run.key == once.key and run.key not in tries):
            tries.append(run.key)
            for child in (
                multiprocessing.active_children()
            ):  # which of them it is nobody knows; the other one's run has its second try, too
                child.kill()

    watch = Watch(kill)
    outcome = runner.sweep(four(), path, engine=Processes(2), listener=watch)
    assert (outcome.finished, outcome.failures, watch.failed) == (4, (), [])
    assert tries == [once.key]
    assert {line["device"]["threads"] for line in stored(path)} == {1}
    outcome = runner.sweep([always], path, engine=Processes(2), listener=watch)
    assert tries == [once.key, always.key, always.key]
    assert outcome.failures == tuple(watch.failed)
    *finished, failed = stored(path)
    assert failed["key"] == always.key
    assert failed["error"] == "its process ended with signal SIGKILL; was there enough memory?"
    assert curves_of(finished) == alone
    assert not multiprocessing.active_children()


def sweep_in_processes(path: str, pipe: Any) -> None:
    """A sweep that tells the numbers of its processes after each epoch."""
    watch = Watch(lambda *_: pipe.send([child.pid for child in multiprocessing.active_children()]))
    runner.sweep(runs(2, epochs=1000), Path(path), engine=Processes(2), listener=watch)


@pytest.mark.only(how=(signal.SIGKILL,))  # without a last word; after Ctrl-C the sweep ends them
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_sweep(tmp_path: Path, how: signal.Signals) -> None:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=sweep_in_processes, args=(str(tmp_path / "r.jsonl"), sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    found = receiver.recv()
    assert len(found) == 2
    children = [*map(psutil.Process, found)]
    os.kill(process.pid, how)
    process.join()
    while not all(map(has_ended, children)):  # for ever, where they go on without their parent
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---------------------------------------------------------------- Ray


# One worker in the usual tier, for each imports everything first.
@pytest.mark.parametrize(("workers", "number"), [(1, 2), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_ray_gives_the_same_lines_and_a_worker_that_dies_is_replaced(
    workers: int, number: int, tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run dies once."""
    path, victim, asked = tmp_path / "r.jsonl", tmp_path / "victim", four()[:number]
    once = asked[1]

    def events(job: Any, threads: int) -> Iterator[Any]:
        for event in compute(job, threads):
            yield event
            if isinstance(event, EpochMetrics) and job.run.key == once.key and not victim.exists():
                victim.write_text(str(os.getpid()))
                signal.pause()  # until it is killed

    def kill_once(run: Run, metrics: EpochMetrics) -> None:
        if run.key == once.key and not killed:
            while not (victim.exists() and victim.read_text()):
                time.sleep(0.01)
            killed.append(run.key)
            os.kill(int(victim.read_text()), signal.SIGKILL)

    killed, compute = [], engines.events
    monkeypatch.setattr(engines, "events", events)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default they wait for all others of a busy machine
    watch = Watch(kill_once)
    outcome = runner.sweep(asked, path, engine=Ray(workers=workers), listener=watch)
    assert (outcome.finished, outcome.failures, watch.failed) == (number, (), [])
    assert killed == [once.key]
    assert curves(path) == {run.key: alone[run.key] for run in asked}


# ---------------------------------------------------------------- teams

NETS = {
    "preresnet20_cifar": TINY,  # norms, which see the whole batch
    "lenet5_cifar": {},  # none
    "fabric_a_l3_s3_c32x2_post_cifar": {"type": "d", "columns": 2, "channels": (8, 8, 8)},  # dead parameters
}


class Wide(nn.Module):
    """A net in float64, in which two orders of summation agree for longer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = zoo.create_model(name, num_classes=10, **NETS[name]).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())


def train_in_team(out: Path, epochs: int) -> None:
    """Train `NETS`, and one more by the command; for one process, or any number of them together."""
    torch.set_num_threads(1)
    team, found = join("cpu"), {}
    for name in NETS:
        recipe = DIGITS.changed(epochs=epochs)
        events = training(lambda name=name: Wide(name), load_dataset("digits"), recipe, team=team)
        found[name] = [[e.train_loss, e.train_score, e.test_score] for e in events if isinstance(e, EpochMetrics)]
    if team.leads:
        out.mkdir()
        (out / "curves.json").write_text(json.dumps({"size": team.size, "curves": found}))
    assert main(["bench", "lenet5_cifar", "--epochs", "1", "--device", "cpu", "--out", str(out)]) == 0


def join_team(rank: int, port: int, out: Path, epochs: int) -> None:
    """Train as one of two processes, with what torchrun tells those that it starts."""
    where = dict(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2
    )
    os.environ.update({name: str(value) for name, value in where.items()})
    train_in_team(out, epochs)


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path: Path, epochs: int) -> None:
    threads = torch.get_num_threads()
    train_in_team(tmp_path / "1", epochs)
    torch.set_num_threads(threads)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    team = [FORK.Process(target=join_team, args=(rank, port, tmp_path / "2", epochs)) for rank in (0, 1)]
    for process in team:
        process.start()
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0, 0]
    one, two = (json.loads((tmp_path / size / "curves.json").read_text()) for size in "12")
    assert (one["size"], two["size"]) == (1, 2)
    for name in NETS:
        for (loss, *scores), (other, *others) in zip(one["curves"][name], two["curves"][name], strict=True):
            assert other == pytest.approx(loss, rel=1e-6)  # the sum of the losses is float32
            assert others == scores
    lines = [line for size in "12" for line in stored(tmp_path / size / "results.jsonl")]  # one of two writes
    assert [line["computed"]["processes"] for line in lines] == [1, 2]
    assert lines[0]["key"] == lines[1]["key"]
    assert lines[1]["epochs"][0]["train_loss"] == pytest.approx(lines[0]["epochs"][0]["train_loss"], rel=1e-4)


def test_a_batch_must_be_shared_evenly() -> None:
    class Three(engines.Team):
        size = 3

    with pytest.raises(ValueError, match=r"batch_size 32 must be a multiple of the 3 processes"):
        next(training(net, load_dataset("digits"), DIGITS, team=Three()))


def test_processes_see_disjoint_shares_of_every_batch() -> None:
    """Together they are the batch of one process, image by image."""
    digits, recipe = load_dataset("digits"), DIGITS.changed(flip=True, erase=0.5, augment="trivial")

    def batches(rank: int, of: int) -> list[Any]:
        generator = torch.Generator().manual_seed(5)
        chosen = digits.train_batches(recipe, generator, rank=rank, of=of)
        return [batch for batch, _ in zip(chosen, range(3), strict=False)]

    for (whole, labels), *shares in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        for rank, (images, own) in enumerate(shares):
            assert torch.equal(images, whole[rank::2])
            assert torch.equal(own, labels[rank::2])
    tested = [[images for images, _ in digits.test_batches(rank=rank, of=2)] for rank in range(2)]
    assert torch.equal(torch.cat(tested[0]), digits.test_images[::2])
    assert torch.equal(torch.cat(tested[1]), digits.test_images[1::2])


def test_shares_are_put_together_in_order() -> None:
    whole = torch.arange(7)
    assert torch.equal(interleave([whole[0::3], whole[1::3], whole[2::3]]), whole)
    assert interleave([["a", "c"], ["b"]]) == ["a", "b", "c"]
    assert all(a < b for a, b in pairwise(interleave([whole.tolist()])))


def test_a_compiled_net_is_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is asked once, its net sees every batch, and the weights are those of the net that it was given."""
    seen: list[bool] = []

    def compile_(model: nn.Module) -> nn.Module:
        model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    options: dict[str, Any] = {"seed": 3, "on_trained": lambda model: weights.append(model.state_dict())}
    recipe, weights = DIGITS.changed(epochs=1, batch_size=299), []
    for compiled in (False, True):
        assert advance(training(net, load_dataset("digits"), recipe, compiled=compiled, **options), 2) is not None
    assert seen == [True] * 3 + [False] * 9
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
