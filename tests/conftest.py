"""What all tests share: tiers, the same random numbers in every run, and room for the other workers.

Three tiers (CONTRIBUTING.md): ``--tier quick`` runs what is marked so, with one net a family; ``--tier usual``, the
default, all but what is marked slow, with one net of each structure where a check is marked ``rows``; ``--tier all``
runs everything.
"""

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import psutil
import pytest
import torch
from structures import one_a_family, one_of_each

# Found examples would differ from machine to machine and a slow machine is no failure.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("zoo", derandomize=True, deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("zoo")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one thread, the processes that a test starts too; plots need no display."""
    os.environ["MPLBACKEND"] = "Agg"
    # A shell's job in the background ignores Ctrl-C, and so would the sweeps that tests interrupt and wait for.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The libraries and the list of all tests are a million objects that stay: a collection over them took a tenth of
    # the time of all tests. `left_overs` collects when the memory grows.
    gc.disable()
    if hasattr(config, "workerinput"):  # set by pytest-xdist in its workers
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the tier."""
    tiers = ("quick", "usual", "all")
    parser.addoption("--tier", choices=tiers, default="usual", help="how much to run (default: usual)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files without a quick test alone in the quick tier: some import libraries for seconds."""
    if config.getoption("tier") == "quick" and collection_path.suffix == ".py":
        return "mark.quick" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not belong to the tier."""
    tier = config.getoption("tier")
    if tier == "all":
        return
    check_only(config, items)
    nets: dict[str, set[str]] = {}
    few: set[str] = set()
    for item in items:
        if rows := item.get_closest_marker("rows"):
            nets.setdefault(test_of(item), set()).add(net_of(item))
            if tier == "quick" or rows.kwargs.get("families"):
                few.add(test_of(item))
    chosen = {test: (one_a_family if test in few else one_of_each)(names) for test, names in nets.items()}

    def belongs(item: pytest.Item) -> bool:
        quick = item.get_closest_marker("quick")
        if item.get_closest_marker("slow") or (tier == "quick" and (quick is None or quick.args == (False,))):
            return False
        for marker in item.iter_markers("only"):
            if any(item.callspec.params[name] not in values for name, values in marker.kwargs.items()):  # ty: ignore
                return False
        return not item.get_closest_marker("rows") or net_of(item) in chosen[test_of(item)]

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = [item for item in items if belongs(item)]


def pytest_collection_finish() -> None:
    """Leave what is there before the first test to itself, and collect what tests make, in large steps."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def check_only(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raise UsageError if `only` names a value that its test does not take: the check would be left out unnoticed."""
    if any("[" in argument for argument in config.args):
        return  # single parameters were asked for
    taken: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for item in items:
        for marker in item.iter_markers("only"):
            for name, values in marker.kwargs.items():
                value = item.callspec.params[name]  # ty: ignore[unresolved-attribute]
                taken.setdefault((test_of(item), name, tuple(values)), set()).add(value)
    for (test, name, values), have in taken.items():
        if missing := set(values) - have:
            raise pytest.UsageError(f"{test}: only({name}) names {', '.join(sorted(missing))}, which it does not take")


def test_of(item: pytest.Item) -> str:
    """Return the name of a test without its parameters."""
    return item.nodeid.partition("[")[0]


def net_of(item: pytest.Item) -> str:
    """Return the net that a test over many rows is about."""
    [marker] = item.iter_markers("rows")
    return item.callspec.params[marker.args[0] if marker.args else "name"]  # ty: ignore[unresolved-attribute]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start every test from the same random state, whichever ran before it in the same worker."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global state
    torch.manual_seed(0)


GROWTH = 2**29
"""Bytes by which a worker may grow before what is left over from tests is looked for."""
_size = 0


@pytest.fixture(autouse=True)
def left_overs() -> Iterator[None]:
    """Free nets that hold each other in circles by hooks and graphs; left alone, a worker grew to 10 GB."""
    global _size
    yield
    if psutil.Process().memory_info().rss > _size + GROWTH:
        gc.collect()
        _size = psutil.Process().memory_info().rss


_operators = 0


@pytest.fixture(autouse=True)
def freed_operators() -> Iterator[None]:
    """Strike operators of torch's quantisation from TorchScript's table of built-in functions.

    The table holds addresses, and torch frees some of these operators when it defines their other forms. A list of a
    convolution that comes to lie at such an address would be taken for a function, and the net not be scripted.
    """
    global _operators
    yield
    table = torch.jit._builtins._builtin_table
    if table is not None and len(table) != _operators:
        for address in [key for key, name in table.items() if name.startswith("quantized_decomposed::")]:
            del table[address]
        _operators = len(table)
