"""A race of nets: rounds, budget, decisions, and that a race which was stopped goes on."""

import json
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import FORK, killed_at
from result_lines import stored
from test_keeping import SMALL, request, tiny_set
from test_keeping import tiny as tiny  # an automatic fixture

import zoo
from zoo import racing
from zoo.racing import KEPT, Limits, Outcome, Round, candidates, fit_budget, race, rounds_of, seconds
from zoo.results.topologies import topology_of
from zoo_cli import main
from zoo_cli.race import span

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import race as measured

NAMES = ["preresnet20_cifar", "resnet20_cifar", "preresnet56_cifar", "resnet56_cifar"]


def quick(out: Path, **changes: Any) -> Any:
    return request(out, **({"models": NAMES, "changes": {"epochs": 3}, "validation": 0.2} | changes))


def test_rounds_fall_by_a_third_and_end_with_one_net() -> None:
    assert rounds_of(8, 9) == [(8, 1), (3, 3), (1, 9)]
    assert rounds_of(9, 81) == [(9, 9), (3, 27), (1, 81)]
    assert rounds_of(1, 5) == [(1, 5)]
    assert rounds_of(2, 1) == [(2, 1), (1, 1)]
    assert seconds([1.0] * 8, 9) == 8 + 9 + 9 <= 8 * 9 / 2, "at most half of training all to the end"
    assert seconds([5.0, 1.0], 3) == 6 + 15, "the dearest net may stay"
    assert seconds([1.0] * 8, 9, jobs=2) == 4.5 + 3 * 2 + 9, "the last net runs alone"


def test_a_budget_holds_what_the_estimate_says() -> None:
    costs = dict.fromkeys("abcdefgh", 1.0)
    assert fit_budget(costs, 9, None) == 9
    assert fit_budget(costs, 9, 1000.0) == 9
    held = fit_budget(costs, 90, 100.0)
    assert seconds(list(costs.values()), held) <= 80 < seconds(list(costs.values()), held + 3)
    with pytest.raises(
        ValueError, match=r"budget 5 s does not hold a race of 8 nets: rounds of one epoch take .* 15 s"
    ):
        fit_budget(costs, 9, 5.0)


def test_one_net_of_each_topology_fits_the_limits() -> None:
    names = candidates((3, 32, 32), Limits(params=3e5))
    entries = [zoo.model_entry(name) for name in names]
    topologies = [topology_of(entry.family, entry.spec.to_dict(), entry.name) for entry in entries]
    assert len(set(topologies)) == len(names)
    assert {"plain", "ResNet", "pre-activation", "ResNeXt", "squeeze-excite", "fabric", "LeNet"} <= set(topologies)
    assert all(entry.params <= 3e5 and entry.input_size[-1] <= 96 for entry in entries)
    assert candidates((3, 32, 32), Limits(params=7e4, macs=1e6)) == ["lenet5_cifar"]
    with pytest.raises(ValueError, match="no net of the zoo has at most 10 parameters"):
        candidates((3, 32, 32), Limits(params=10))


def test_a_limit_on_latency_takes_the_next_smaller_net() -> None:
    asked: list[str] = []

    def latency(name: str) -> float:
        asked.append(name)
        return zoo.model_entry(name).params / 1e5

    names = candidates((3, 32, 32), Limits(params=9e5, latency=4.5), latency)
    assert "lenet5_cifar" in names
    assert {name: zoo.model_entry(name).params <= 4.5e5 for name in names} == dict.fromkeys(names, True)
    assert len(asked) == len(set(asked)), "each once"
    assert set(names) <= set(asked)


def test_latencies_are_measured_once_and_are_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, told = {"preresnet20_cifar": 1.0, "resnet20_cifar": 2.0, "resnet56_cifar": 9.0}, []
    with monkeypatch.context() as patch:
        patch.setattr(racing, "measure_latency", lambda name, *_: taken[name])
        first = race(quick(tmp_path, models=[*taken]), limits=Limits(latency=5), tell=told.append)
    assert told[0] == "left out by the limits: resnet56_cifar (9 ms)"
    assert {row["net"]: row["latency"] for row in first.table()} == {"preresnet20_cifar": 1.0, "resnet20_cifar": 2.0}
    monkeypatch.setattr(racing, "measure_latency", lambda *_: pytest.fail("it is stored"))
    assert race(quick(tmp_path, models=[*taken]), limits=Limits(latency=5), tell=told.append) == first
    with pytest.raises(ValueError, match=r"no named net keeps the limits: .*resnet20_cifar \([0-9,]+ parameters\)"):
        race(quick(tmp_path, models=["resnet20_cifar"]), limits=Limits(params=5))
    with pytest.raises(ValueError, match="vary is not for a race"):
        race(quick(tmp_path, vary={"order": ["pre", "post"]}))


def test_a_latency_is_that_of_one_image() -> None:
    threads = torch.get_num_threads()
    assert 0 < racing.measure_latency("preresnet20_cifar", SMALL, (3, 8, 8), "cpu", 1) < 10_000
    assert torch.get_num_threads() == threads


def test_a_race_ends_with_a_trained_net(tmp_path: Path) -> None:
    told: list[str] = []
    outcome = race(quick(tmp_path), tell=told.append)
    assert told[0].startswith("4 nets for 1 epoch; 2 nets for 1 epoch; 1 net for 3 epochs; about")
    first, second, last = outcome.rounds
    assert sorted(first.scores) == sorted(NAMES)
    assert list(second.scores) == list(first.kept) or sorted(second.scores) == sorted(first.kept)
    assert list(last.scores) == [outcome.winner] == list(second.kept)
    scores = [score for score in first.scores.values() if score is not None]
    assert scores == sorted(scores, reverse=True)
    assert outcome.line["recipe"]["epochs"] == 3
    assert outcome.line["validation"] == 0.2
    assert [p.name for p in (tmp_path / "weights").iterdir()] == [Path(outcome.line["weights"]).name], "the winner's"
    assert outcome.table()[0]["net"] == outcome.winner
    assert len(outcome.table()) == 4
    assert outcome.winner in outcome.confidence()


def test_a_race_that_is_stopped_goes_on_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = {"models": NAMES[:3]}
    whole = race(quick(tmp_path / "whole", **three), tell=lambda _: None)
    finished: list[str] = []

    class Stopped(BaseException):
        pass

    class Watch(racing.Listener):
        def on_finish(self, run: Any, record: Any) -> None:
            finished.append(run.key)
            if len(finished) in (2, 4):
                raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            race(quick(tmp_path / "parts", **three), listener=Watch(), tell=lambda _: None)
    monkeypatch.setattr(racing, "epoch_seconds", lambda *_: pytest.fail("the plan is there"))
    parts = race(quick(tmp_path / "parts", **three), listener=Watch(), tell=lambda _: None)
    keys = [line["key"] for line in stored(parts.path)]
    assert len(set(keys)) == len(keys) == len(stored(whole.path))
    assert parts.winner == whole.winner
    assert parts.rounds == whole.rounds


def race_until_killed(out: str, files: str, last: int | None, sender: Any) -> None:
    """A race that sends how many lines of some of the zoo's files it runs, and is killed at the last of them."""
    torch.set_num_threads(1)
    trained = []

    class Watch(racing.Listener):
        def on_epoch(self, run: Any, metrics: Any) -> None:
            trained.append((run.key, metrics.epoch))
            sender.send(trained[-1])

        def on_warning(self, text: str) -> None:
            """Of a line that the last kill has cut off."""

    with tiny_set():
        asked = quick(Path(out), models=NAMES[:3])
        with killed_at(files, last) as ran:
            outcome = race(asked, listener=Watch(), tell=lambda _: None)
    sender.send((outcome.winner, outcome.rounds, ran()))


def raced(out: Path, files: str, last: int | None) -> tuple[int | None, list[Any]]:
    """Race in a process of its own; return its status and what it has sent."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=race_until_killed, args=(str(out), files, last, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    sent = []
    with suppress(EOFError):
        while True:
            sent.append(receiver.recv())
    process.join()
    return process.exitcode, sent


@pytest.mark.slow  # a race that is stopped is above, and a sweep that is killed in test_engines
def test_a_race_that_is_killed_at_any_moment_has_the_same_winner_and_trains_nothing_twice(tmp_path: Path) -> None:
    files = "/zoo/(racing|keeping|files|bench/.*|results/.*)[.]py$"
    status, [*epochs, (winner, rounds, length)] = raced(tmp_path / "whole", files, None)
    assert status == 0
    out, chance, killed, trained = tmp_path / "killed", random.Random(0), 0, []
    while True:
        last = chance.randint(1, length // 2) if killed < 4 else None
        status, sent = raced(out, files, last)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed, trained = killed + 1, trained + sent
    assert killed >= 3
    assert sent[-1][:2] == (winner, rounds)
    trained += sent[:-1]
    # An epoch is told when its state is on disk.
    assert sorted(trained) == sorted(epochs), "each epoch once, though the race was killed"
    keys = [line["key"] for line in stored(out / "results.jsonl")]
    assert len(set(keys)) == len(keys) == len(stored(tmp_path / "whole/results.jsonl")) == 4


@pytest.mark.slow
def test_a_plan_of_another_race_is_made_anew(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / racing.PLAN).write_text("[]")
    race(quick(tmp_path, models=NAMES[:1]), tell=lambda _: None)
    plan = json.loads((tmp_path / racing.PLAN).read_text())
    race(quick(tmp_path, models=NAMES[:2]), tell=lambda _: None)
    assert json.loads((tmp_path / racing.PLAN).read_text())["asked"] != plan["asked"]


def outcome_of(*scores: dict[str, float | None]) -> Outcome:
    rounds = [
        Round(
            epochs=KEPT**i,
            scores=own,
            errors=dict.fromkeys(own, 0.01),
            kept=tuple(own)[: -(-len(own) // KEPT)],
        )
        for i, own in enumerate(scores)
    ]
    return Outcome(rounds=tuple(rounds), winner=next(iter(scores[-1])), line={}, path=Path())


def test_the_table_says_who_was_dropped_when_and_by_how_much() -> None:
    outcome = outcome_of({"a": 0.9, "b": 0.8, "c": 0.7, "d": None}, {"b": 0.95, "a": 0.93}, {"b": 0.97})
    rows = {row["net"]: row for row in outcome.table()}
    assert list(rows) == ["b", "a", "c", "d"]
    assert rows["b"]["dropped"] == "-"
    assert (rows["a"]["dropped"], rows["a"]["epochs"]) == ("round 2 of 3", 3)
    assert rows["a"]["behind"] == pytest.approx(2)
    assert rows["c"]["behind"] == pytest.approx(10), "behind b, the last that stayed"
    assert rows["d"]["behind"] is rows["d"]["validation"] is None


def test_how_sure_a_choice_is() -> None:
    close = outcome_of({"b": 0.95, "a": 0.94}, {"b": 0.97})
    assert close.confidence() == (
        "b leads a by 1.00 points after 1 epoch, within two standard errors of the difference (1.41): other images "
        "could turn it round"
    )
    clear = outcome_of({"b": 0.95, "a": 0.9}, {"b": 0.97})
    assert "more than two standard errors of the difference (1.41)" in clear.confidence()
    assert outcome_of({"b": 0.9}).confidence() == "b ran alone"


def test_the_command_races(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "race",
        "tiny",
        "preresnet20_cifar",
        "--validation",
        "0.2",
        "--recipe",
        "epochs=1",
        "--recipe",
        "batch_size=8",
    ]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "preresnet20_cifar ran alone." in out
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "weights/preresnet20_cifar-seed0-") in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "budget 'soon' must be a time, such as 90s, 30m or 2h"),
        (["--budget", "0"], "budget '0' must be a time"),
        (["--max-params", "few"], "max-params 'few' must be a number"),
        (["--max-latency", "0"], "limit latency (0.0) must be positive"),
        (["--recipe", "a", "--recipe", "b"], "recipe 'a' and recipe 'b' were given: choose one"),
        (["--validation", "2"], "validation must be a share"),
    ],
    ids=str,
)
def test_a_wrong_race_is_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["race", "tiny", "resnet20_cifar", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_net_for_another_size_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"input_size \(3, 8, 8\) does not run through VisionTransformer"):
        race(request(tmp_path, models=["timm:test_vit"], overrides={}))
    with pytest.raises(ValueError, match=r"budget \(nan\) must be a finite number"):
        race(request(tmp_path), budget=float("nan"))


def test_a_race_in_which_every_run_fails_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["race", "tiny", "preresnet20_cifar", "--recipe", "epochs=1", "--recipe", "batch_size=8"]
    assert main([*words, "--recipe", "lr=1e9", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "zoo: failed: all runs of 1 epoch have failed" in capsys.readouterr().err


def test_times_are_read_as_people_write_them() -> None:
    assert {text: span(text) for text in ("90s", "30m", "2h", "1.5h", "45")} == {
        "90s": 90,
        "30m": 1800,
        "2h": 7200,
        "1.5h": 5400,
        "45": 45,
    }
    assert span(None) is None


def test_the_measurement_touches_no_results_of_an_earlier_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError("the measurement begins")

    monkeypatch.setattr(measured, "write_pictures", begun)
    (tmp_path / "exhaustive").mkdir()
    (tmp_path / "exhaustive/results.jsonl").touch()
    for words in ([], ["--out", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            measured.main(words)
        assert ended.value.code == 2
        message = "results.jsonl holds results of an earlier call: delete it, or name another by --out"
        assert message in capsys.readouterr().err
    with pytest.raises(AssertionError, match="the measurement begins"):
        measured.main(["--out", str(tmp_path / "new")])
