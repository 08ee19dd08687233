"""Result lines: the schema, the writer, the reader, the rule of aggregation, and what is shown of it."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_lines import RUN, SPEED, changed, run, stored, write

from zoo.bench.data import DATASETS
from zoo.bench.tasks import TASKS
from zoo.results import SCHEMA, NetResult, Results, append, group, read
from zoo.results.group import pareto_front
from zoo.results.metrics import METRICS
from zoo.results.plot import COSTS, draw, plot_all
from zoo.results.plot_labels import place_labels
from zoo.results.run import NAMED_SETS
from zoo.results.store import finished_keys, read_if_there
from zoo.results.table import choose, footnote, format_table, sort_nets, write_table


def nets(*lines: Mapping[str, Any]) -> tuple[NetResult, ...]:
    """The nets of lines that make one comparison."""
    [comparison] = group(list(map(dict, lines)))
    return comparison.nets


# ---------------------------------------------------------------- lines


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert read_if_there(path) == Results()
    for line in (RUN, SPEED):
        append(path, line)
        assert path.read_bytes().startswith(b'{"key":"')
    results = read([path.parent])
    assert results.trainings == [{**RUN, "schema": SCHEMA}]
    assert results.timings == [{**SPEED, "schema": SCHEMA}]
    assert results.finished == {RUN["key"], SPEED["key"]}
    assert results.warnings == []


def test_lines_without_a_schema_stay_readable(tmp_path: Path) -> None:
    old = {key: value for key, value in RUN.items() if key not in ("standard_error", "epochs", "versions", "device")}
    assert read([write(tmp_path / "r.jsonl", [old])]).trainings == [old]


def test_the_last_line_of_a_key_counts_but_no_failure_after_a_result(tmp_path: Path) -> None:
    failed = {"key": "a-0", "name": "a", "error": "nan"}
    for lines, scores, failures in (
        ([run("a", test_accuracy=0.5), run("b"), run("a", test_accuracy=0.25)], [0.25, RUN["test_accuracy"]], 0),
        ([run("a", test_accuracy=0.5), failed], [0.5], 0),
        ([failed, run("a", test_accuracy=0.5)], [0.5], 0),
        ([failed, failed], [], 1),
    ):
        results = read([write(tmp_path / "r.jsonl", lines)])
        assert [line["test_accuracy"] for line in results.trainings] == scores
        assert len(results.failures) == failures


TORN = [
    b'{"key":"b","te',
    b'{"key": "b", "name"',
    b'{"key":"b","na{"key":"c","name":"c"}',
    b'{"ke',
    b"\0\0\0\0\0\0\0\0\0\0",
    b'{"key":"b","name":"\xff',
]


@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_torn_line_costs_that_line_alone_wherever_it_stands(torn: bytes, place: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "results.jsonl", [json.dumps(run(name)).encode() for name in "ac"]
    path.write_bytes(b"\n".join([*whole[:place], torn, *whole[place:]]))
    results = read([path])
    assert [line["name"] for line in results.trainings] == ["a", "c"]
    assert results.warnings == [f"{path}, line {place + 1}: passed over a line that is cut off"]


def test_the_torn_end_of_our_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, run("a"))
    whole = path.read_bytes()
    for torn in TORN:
        path.write_bytes(whole + torn)
        append(path, run("c"))
        assert path.read_bytes().startswith(whole + b'{"key":"c-0"')
        assert [line["name"] for line in stored(path)] == ["a", "c"]
    path.write_bytes(b'{"key":"b","te')  # the very first line of a file
    append(path, run("c"))
    assert [line["name"] for line in stored(path)] == ["c"]


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(run("a")) + "\n" + json.dumps(run("b")))
    append(path, run("c"))
    assert [line["name"] for line in stored(path)] == ["a", "b", "c"]


FOREIGN = {
    "text": b"a note\nand another",
    "no newline": b"a note",
    "text with an end": b"a note\n",
    "one brace": b"{",
    "other JSON": b'{"a": 1}\n',
    "other JSON without an end": b'{"a": 1}',
    "JSON in several lines": b'{\n  "key": 1\n}\n',
    "other lines with keys": b'{"key": "a", "value": 1}\n',
    "a result and a note": json.dumps(RUN).encode() + b"\na note",
    "a note and a result": b"a note\n" + json.dumps(RUN).encode() + b"\n",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes.txt holds other things than results.*give another"):
        append(path, RUN)
    assert path.read_bytes() == content
    if content != b"{":
        with pytest.raises(ValueError, match=r"notes.txt, line \d"):
            read([path])


@pytest.mark.parametrize("verb", ["speed", "bench"])
def test_commands_refuse_a_foreign_file_before_they_measure(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.bench import runner, speed
    from zoo.cli import main

    monkeypatch.setattr(runner, "_facts", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(speed, "_facts", lambda *_: pytest.fail("it went on"))
    path = tmp_path / "results.jsonl"
    path.write_text("a note\nof mine")
    arguments = {"speed": ["lenet_test", "--out", str(path)], "bench": ["lenet5_cifar", "--out", str(tmp_path)]}
    assert main([verb, *arguments[verb]]) == 2
    [text] = capsys.readouterr().err.splitlines()
    assert text.startswith(f"zoo: error: {path}, line 1: the line is no JSON")
    assert path.read_text() == "a note\nof mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write_bytes = tmp_path / "results.jsonl", os.write
    append(path, run("0"))
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write_bytes(descriptor, line[:5]))
        with pytest.raises(OSError, match=r"a result of \d+ bytes did not fit"):
            append(path, run("a"))
    assert path.read_bytes() == whole

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"no space left"):
            append(path, run("a"))
    assert path.read_bytes() == whole
    append(path, run("b"))
    assert finished_keys(path) == {"0-0", "b-0"}


def test_several_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"

    def write_some(name: int) -> None:
        for number in range(20):
            append(path, run(str(name), number, git_revision="x" * 900))

    threads = [threading.Thread(target=write_some, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_bytes().splitlines()) == 80
    assert len(finished_keys(path)) == 80


def test_what_is_no_result_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match=r"record must have a 'key'"):
        append(path, {"n": 1})
    with pytest.raises(ValueError, match=r"Out of range float"):
        append(path, {**RUN, "loss": float("nan")})
    with pytest.raises(ValueError, match=r"counts.params \(None\) must be a whole number"):
        append(path, changed(RUN, counts__params=None))
    assert not path.exists()


def test_the_former_place_works_and_says_where_it_went(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"zoo.bench.results is now zoo.results"):
        from zoo.bench import results as former
    path = tmp_path / "r.jsonl"
    assert former.read_results(path) == former.newest_results(path) == former.failed_runs(path) == []
    former.append_result(path, RUN)
    former.append_result(path, {"key": "f", "name": "f", "error": "nan"})
    assert [line["key"] for line in former.read_results(path)] == [RUN["key"], "f"]
    assert former.finished_keys(path) == {RUN["key"]} == {line["key"] for line in former.newest_results(path)}
    assert [line["key"] for line in former.failed_runs(path)] == ["f"]


def test_tasks_and_sets_are_those_of_the_benchmark() -> None:
    assert set(METRICS) == set(TASKS)
    assert all(bool(METRICS[name].trivial_title) == (task.trivial is not None) for name, task in TASKS.items())
    rows = {**DATASETS, **{name: row for task in TASKS.values() for name, row in task.datasets.items()}}
    assert set(NAMED_SETS) == {name for name, row in rows.items() if row.keyed_by_name}


# ---------------------------------------------------------------- one rule


def test_seeds_become_one_net() -> None:
    first, second = nets(
        run("b", test_accuracy=0.9, seconds=2.0, standard_error=0.01),
        run("a", test_accuracy=0.97, seconds=9.0),
        run("b", 1, test_accuracy=0.94, seconds=3.0, standard_error=0.02),
    )
    assert (first.name, second.name) == ("b", "a")
    assert first.score == pytest.approx(0.92)
    assert first.spread == pytest.approx(0.02 * 2**0.5)
    assert first.standard_error == pytest.approx(0.015)
    assert (first.seeds, first.seconds, first.params) == (2, 2.5, RUN["counts"]["params"])
    assert (second.seeds, second.spread) == (1, None)
    both = [first, second]
    assert [net.name for net in sort_nets(both)] == ["a", "b"]
    assert [net.name for net in sort_nets(both, "seeds")] == ["a", "b"]
    assert [net.name for net in sort_nets(both, "seconds")] == ["b", "a"]
    with pytest.raises(ValueError, match=r"unknown column 'size': choose from name, params"):
        sort_nets(both, "size")


def test_old_lines_get_the_error_that_new_ones_hold() -> None:
    [net] = nets(run("a", test_accuracy=0.9, standard_error=None))
    assert net.standard_error == pytest.approx((0.9 * 0.1 / 900) ** 0.5)
    dense = changed(RUN, test_accuracy=None, standard_error=None, task="segment") | {"test_miou": 0.5}
    [net] = nets(dense)
    assert net.standard_error is None
    assert " - " in format_table([net])
    assert "two standard errors mean nothing" in footnote([net])


def test_what_one_net_is() -> None:
    """Everything that is asked for, but the seed, tells nets apart; nothing else does."""
    same = run("a", 1, device={"name": "other"}, versions={}, seconds=1.0, git_revision="b", finished_at="c")
    same["recipe"] = {**RUN["recipe"], "momentum": 0.9, "lr": 0.30000000000000004 / 3}
    assert len(nets(run("a"), same)) == 1
    for other in (
        run("a", 1, overrides={"order": "pre"}),
        run("a", 1, head="unet"),
        run("a", 1, frozen=True),
        run("a", 1, recipe__lr=0.1001),
        run("a", 1, recipe__new_field=1),
        run("b", 1),
    ):
        assert len(nets(run("a"), other)) == 2, other
        first, second = nets(run("a"), other)
        assert first.name != second.name


def test_what_may_be_compared() -> None:
    def places(*lines: dict[str, Any]) -> list[str]:
        return [comparison.title for comparison in group(lines)]

    def folder(name: str, **changes: Any) -> dict[str, Any]:
        return run(name, dataset__name="folder/flowers", **changes)

    dense = run("a", task="segment", test_accuracy=None) | {"test_miou": 0.5}
    assert places(run("a"), dense, folder("a")) == ["digits", "digits, segment", "folder/flowers"]
    one, two = (folder("a", dataset__fingerprint=text) for text in ("1f", "2f"))
    assert places(one, two, folder("b")) == [
        "folder/flowers (images 1f)",
        "folder/flowers (images 2f)",
        "folder/flowers (images unknown)",
    ]
    assert places(one, one) == ["folder/flowers"]
    assert places(run("a"), run("b", dataset__fingerprint="1f")) == ["digits"]
    with pytest.raises(ValueError, match=r"results hold digits; folder/flowers: keep one file for each image set"):
        choose(group([run("a"), one]))


def test_other_recipes_and_counts_are_not_mixed_in_silently() -> None:
    names = [net.name for net in nets(run("a"), run("a", 1, recipe__epochs=1))]
    assert names == ["a [epochs=8]", "a [epochs=1]"]
    names = [net.name for net in nets(*map(run, "abc"), run("d", recipe__epochs=1))]
    assert names == ["a", "b", "c", "d [epochs=1]"], "what most have in common goes without saying"
    named = [run("a"), run("b"), run("c"), run("d", recipe__epochs=1, recipe_name="quick")]
    assert [net.name for net in nets(*named)][-1] == "d [recipe quick]"
    ambiguous = [*named, run("e", recipe__epochs=2, recipe_name="quick")]
    assert [net.name for net in nets(*ambiguous)][-2:] == ["d [epochs=1]", "e [epochs=2]"]
    [net] = nets(run("a"), run("a", 1, counts__params=7))
    assert net.params == 7
    assert net.remarks == ("its runs were counted differently; the newest counts are shown",)
    [net] = nets(run("a", test_accuracy=0.5), run("a", key="other", test_accuracy=0.75))
    assert (net.score, net.seeds) == (0.75, 1)
    assert net.remarks == ("2 lines with 1 seeds; of each seed the last line counts",)


def test_tables_show_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    lines = [run("net_a", test_accuracy=0.97), run("net_a", 1, test_accuracy=0.98), run("b", test_accuracy=0.5)]
    both = nets(*lines)
    text = format_table(both)
    assert all(word in text for word in ("net_a", "269,722", "40.6 M", "97.50", "0.71", "0.31", "std. error"))
    assert "aten::add" in footnote(both)
    assert "900 test images" in footnote(both)
    markdown = write_table(both, tmp_path / "t.md").read_text()
    assert markdown.startswith("| net ")
    assert footnote(both) in markdown
    records = json.loads(write_table(both, tmp_path / "t.json").read_text())
    assert records[0]["accuracy"] == pytest.approx(0.975)
    assert records[0]["uncounted"] == {"aten::add": 9, "aten::pad": 2}
    rows = write_table(both, tmp_path / "t.csv").read_text().splitlines()
    assert rows[0].startswith("name,family,params,macs")
    assert len(rows) == 3
    with pytest.raises(ValueError, match=r"table file 't.txt' must end in one of md, csv, json"):
        write_table(both, tmp_path / "t.txt")


POINTS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=12)


@given(POINTS)
def test_the_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)
    assert sorted(points[i] for i in pareto_front(points[::-1][::-1])) == sorted(points[i] for i in front)


# ---------------------------------------------------------------- plots


def crowded_rows() -> list[NetResult]:
    """Sixteen nets with long names, most of them at nearly the same place, two at exactly the same."""
    places = [(0.991, 270_000)] * 2 + [(0.99 + 0.0005 * (i % 3), 268_000 + 1500 * i) for i in range(10)]
    places += [(0.95, 100_000), (0.999, 900_000), (0.97, 2_000_000), (0.985, 2_050_000)]
    return [
        NetResult(
            net=f"preresnet{i}_norm_after_add_cifar",
            family=("resnet", "fishnet", "densenet")[i % 3],
            params=params,
            macs=150 * params,
            activations=1,
            score=accuracy,
            standard_error=(accuracy * (1 - accuracy) / 900) ** 0.5,
            spread=None,
            seeds=1,
            seconds=1.0,
            test_images=900,
            uncounted={},
        )
        for i, (accuracy, params) in enumerate(places)
    ]


def conflicts(figure: Any, labels: list[Any], rows: list[NetResult], cost: str) -> list[str]:
    """Labels that overlap a label or a point, or leave the axes, in the figure as it is drawn."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in labels]
    area = axes.get_window_extent()
    radius = 3 * figure.dpi / 72
    found = [f"{a} on {b}" for (a, x), (b, y) in combinations(enumerate(boxes), 2) if x.overlaps(y)]
    for i, box in enumerate(boxes):
        if box.x0 < area.x0 or box.y0 < area.y0 or box.x1 > area.x1 or box.y1 > area.y1:
            found.append(f"{i} outside")
        for j, row in enumerate(rows):
            x, y = axes.transData.transform((getattr(row, cost), 100 * row.score))
            if box.x0 < x + radius and x - radius < box.x1 and box.y0 < y + radius and y - radius < box.y1:
                found.append(f"{i} on point {j}")
    return found


@pytest.mark.parametrize("cost", COSTS)
def test_labels_of_crowded_points_do_not_overlap(cost: str) -> None:
    rows = crowded_rows()
    figure, labels = draw(rows, cost, "digits")
    assert [label.get_text() for label in labels] == [row.name for row in rows]
    assert not conflicts(figure, labels, rows, cost)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == {"params": "parameters", "macs": "multiply-adds (FLOPs in most papers)"}[cost]
    assert len(axes.containers) == 3  # error bars, one family each
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"Pareto front", "standard error (900 test images)", "resnet", "fishnet", "densenet"} == set(legend)
    for label, row in zip(
        labels, rows, strict=True
    ):  # the check above sees labels that were simply put at their points
        label.set_position((getattr(row, cost), 100 * row.score))
    assert len(conflicts(figure, labels, rows, cost)) > len(rows)


def test_plots_are_drawn_the_same_every_time(tmp_path: Path) -> None:
    rows = crowded_rows()[:5]
    first = [path.read_bytes() for path in plot_all(rows, tmp_path, "digits")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy_vs_macs.png", "accuracy_vs_params.png"]
    assert first == [path.read_bytes() for path in plot_all(rows, tmp_path, "digits")]
    for row in (rows[0], replace(rows[0], score=1.0, standard_error=0.0)):  # no range on either axis
        assert plot_all([row], tmp_path / "one", "digits")
    with pytest.raises(ValueError, match=r"nets must not be empty"):
        plot_all([], tmp_path, "digits")


def test_labels_without_room_are_not_placed() -> None:
    assert place_labels([(5, 5), (6, 6)], [(8, 3), (8, 3)], (0, 0, 20, 10), radius=2) is None
    assert place_labels([], [], (0, 0, 9, 9), radius=2) == []
