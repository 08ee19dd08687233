"""The table of papers: every name in it exists, and every family is in it."""

import pkgutil
import re
from pathlib import Path

import pytest
import timm

import zoo
from zoo.papers import KINDS, SYSTEMS, System, systems

ROOT = Path(__file__).parents[1]
ROWS = [system for rows in SYSTEMS.values() for system in rows]
OURS = {"model", "override"}


def is_ours(name: str) -> bool:
    return name in zoo.list_models()


def ids(system: System) -> str:
    return system.name.replace(" ", "_")


@pytest.mark.parametrize("system", ROWS, ids=ids)
def test_models_exist(system: System) -> None:
    missing = [name for name in system.models if not (is_ours(name) if system.kind in OURS else timm.is_model(name))]
    assert not missing


@pytest.mark.parametrize("system", [system for system in ROWS if system.overrides], ids=ids)
def test_overrides_are_taken(system: System) -> None:
    for name in filter(is_ours, system.models):
        assert zoo.create_model(name, device="meta", **system.overrides)


@pytest.mark.parametrize("system", [system for system in ROWS if system.where], ids=ids)
def test_places_exist(system: System) -> None:
    for place in system.where:
        if "/" in place:
            assert (ROOT / place).is_file()
        else:
            assert pkgutil.resolve_name(place) is not None


@pytest.mark.parametrize("system", ROWS, ids=ids)
def test_a_kind_says_where_to_look(system: System) -> None:
    assert system.kind in KINDS
    assert system.found()
    at_home = [place.startswith(("zoo.", "benchmarks/")) for place in system.where]
    match system.kind:
        case "model":
            assert system.models
            assert not system.overrides
        case "override":
            assert system.models
            assert system.overrides
        case "part":
            assert at_home
            assert all(at_home)
            assert not system.models
        case "installed":
            assert system.models or system.where
            assert not any(at_home)
        case _:
            assert system.note
            assert not system.models


def test_names_and_sources() -> None:
    for rows in SYSTEMS.values():
        names = [system.name for system in rows]
        assert len(names) == len(set(names))
    for system in ROWS:
        assert not re.search(r"[|`]", system.found() + system.name + system.source), "it would break the page"
        assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.|2018|NeurIPS 2012", system.source), system.name


def test_every_family_is_named() -> None:
    families = {zoo.model_entry(name).family for system in ROWS for name in filter(is_ours, system.models)}
    assert families == set(zoo.families())


def test_filter() -> None:
    assert [system for _, system in systems()] == ROWS
    assert {system.kind for _, system in systems("cited")} == {"cited"}
    assert not systems("planned")
    assert [system.name for _, system in systems("GRIDNET_*")] == ["GridNet"]
    assert {subject for subject, _ in systems("FishNet")} >= {"FishNet"}
    assert all("1603.05027" in system.source for _, system in systems("1603.05027"))
    assert not systems("nothing_like_this")
