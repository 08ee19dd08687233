"""The trade of strides for dilation: what every family takes from it, and that no family does it by itself."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.strides import STEMS, Level, Window, halvings, hold, smallest_before

FAMILIES = sorted((Path(zoo.__file__).parent / "models").glob("[!_]*.py"))


def test_a_stride_beyond_the_cap_becomes_dilation_of_what_follows() -> None:
    assert hold((1, 2, 4, 8), 2) == (Level(1, 1, 1, 1), Level(2, 2, 2, 1), Level(4, 2, 1, 1), Level(8, 2, 1, 2))
    assert [level.dilation for level in hold((1, 2, 4, 8), 2)] == [1, 1, 2, 4]
    assert [level.step for level in hold((4, 8, 8, 16))] == [4, 2, 1, 2]


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=6), st.data())
def test_nothing_is_lost_or_won(steps: list[int], data: st.DataObject) -> None:
    natives = [1]
    for step in steps:
        natives.append(natives[-1] * step)
    natives = natives[1:]
    cap = data.draw(st.sampled_from([None, *natives]))
    total = reach = 1
    for native, level in zip(natives, hold(natives, cap), strict=True):
        total *= level.step
        assert level.native == native == level.stride * level.dilation
        assert level.stride == total == min(native, cap or native)
        assert level.before == reach, "the operator's own window reads the level before"
        assert level.step == 1 or level.before == 1, "no window is strided and dilated"
        assert level.within == Level(native, total, 1, level.dilation)
        reach = level.dilation


def test_halvings() -> None:
    assert halvings(4, 4) == (4, 8, 16, 32)
    assert {stem: halvings(finest, 2) for stem, (_, finest) in STEMS.items()} == {"imagenet": (4, 8), "cifar": (1, 2)}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
def test_the_smallest_map_is_just_enough(sizes: list[tuple[int, int, int]]) -> None:
    windows = [Window(kernel=kernel, stride=stride, dilation=dilation) for kernel, stride, dilation in sizes]
    pools = torch.nn.Sequential(*(torch.nn.MaxPool1d(w.kernel, w.stride, dilation=w.dilation) for w in windows))
    least = smallest_before(windows)
    assert pools(torch.zeros(1, 1, least)).shape[-1] == 1
    if least > 1:
        with pytest.raises(RuntimeError):
            pools(torch.zeros(1, 1, least - 1))


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_no_family_trades_by_itself(path: Path) -> None:
    """A family says its strides and takes what `hold` makes of them; it never compares one with the output stride."""
    tree = ast.parse(path.read_text(encoding="ascii"))
    said = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in ("level_strides", "tap_strides", "output_strides")
    }
    assert said == {"level_strides"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.BoolOp) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max")
        ):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            assert "output_stride" not in names, f"line {node.lineno}"
