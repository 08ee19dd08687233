"""A small share of the hostile files; `fuzz_checkpoints.py` tries as many as one likes, and times and weighs them."""

import sys
from pathlib import Path

import pytest
from fuzz_checkpoints import MARK, NAME, RECIPES, WATCHED, corpus, problems, write_file

import zoo

FILES = 3 * len(RECIPES)


def test_hostile_files_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: events.append(event) if watching and event in WATCHED else None)
    net = zoo.create_model(NAME)
    outcomes, wrong = [], []
    for number, made in enumerate(corpus(FILES, seed=7)):
        path = write_file(made, tmp_path)
        outcome, found = problems(net, path)
        outcomes.append(outcome)
        wrong += [f"file {number} ({made[0]}): {reason}" for reason in found]
        path.unlink()
    watching = False
    assert not wrong
    assert not events
    assert not Path(MARK).exists()
    assert outcomes.count("refused") > 40
    assert "loaded" in outcomes, "some damage does not matter"


@pytest.mark.slow
def test_files_are_the_same_for_a_seed() -> None:
    # Not to the byte: zips hold the time, and torch's older form addresses.
    first, again, other = ([kind for kind, _ in corpus(20, seed)] for seed in (3, 3, 4))
    assert first == again != other
