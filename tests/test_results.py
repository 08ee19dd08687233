"""Result lines: the schema, the writer, the reader, the rule of aggregation, and what is shown of it."""

import base64
import csv
import gzip
import importlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from fuzz_results import deep, fuzz
from hypothesis import given
from hypothesis import strategies as st
from result_lines import RUN, SPEED, changed, run, stored, write

import zoo
from zoo.bench import sweep as runner
from zoo.bench.progress import ProgressBar
from zoo.bench.tasks import TASKS
from zoo.cli import main
from zoo.datasets.built_in import DATASETS
from zoo.escape import for_csv, for_html, for_markdown, for_picture, for_terminal
from zoo.report.rows import gather
from zoo.results import SCHEMA, NetResult, Recipe, Results, Run, append, group, read
from zoo.results.group import pareto_front
from zoo.results.line import LONGEST_NAME, LONGEST_TEXT
from zoo.results.metrics import METRICS
from zoo.results.plot import COSTS, MOST_LABELS, MOST_TOPOLOGIES, draw, plot_all
from zoo.results.plot_labels import place_labels
from zoo.results.run import NAMED_SETS
from zoo.results.store import finished_keys, read_if_there
from zoo.results.table import choose, footnote, format_table, sort_nets, write_table
from zoo.results.topologies import MARKS, TOPOLOGIES, looks, topology_of
from zoo.speed import cases as speed

pytestmark = pytest.mark.quick

PLAIN = Recipe(epochs=8, batch_size=32, lr=0.1)


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
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes.txt holds other things than results.*give another"):
        append(path, RUN)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match=r"notes.txt"):  # before anything is trained for it
        read_if_there(path)
    if content.strip(b"\0{"):
        with pytest.raises(ValueError, match=r"notes.txt, line \d"):
            read([path])


@pytest.mark.parametrize("verb", ["speed", "bench"])
def test_commands_refuse_a_foreign_file_before_they_measure(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "facts_of", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(speed, "_facts", lambda *_: pytest.fail("it went on"))
    path = tmp_path / "results.jsonl"
    path.write_text("a note\nof mine")
    arguments = {"speed": ["lenet_test", "--out", str(path)], "bench": ["lenet5_cifar", "--out", str(tmp_path)]}
    assert main([verb, *arguments[verb]]) == 2
    [text] = capsys.readouterr().err.splitlines()
    assert text.startswith(f"zoo: error: {path}, line 1: the line is no JSON")
    assert path.read_text() == "a note\nof mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_tells_once_of_what_it_passes_over(tmp_path: Path) -> None:
    path, stream = tmp_path / "results.jsonl", io.StringIO()
    path.write_bytes(TORN[0] + b"\n")
    text = f"{path}, line 1: passed over a line that is cut off"
    with pytest.warns(UserWarning, match=re.escape(text)):
        runner.sweep([], path)
    runner.sweep([], path, listener=ProgressBar(stream=stream))
    assert stream.getvalue() == f"zoo: warning: {text}\n"


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


def test_the_former_place_works_and_says_where_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "zoo.bench.results", raising=False)
    with pytest.warns(DeprecationWarning, match=r"zoo.bench.results is now zoo.results;"):
        former = importlib.import_module("zoo.bench.results")
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
    asked = Run(name="a", dataset="folder/flowers", recipe=PLAIN, seed=0, fingerprint="1f")
    shown, left_out = choose(group([run("a"), one]), asked)
    assert shown is not None
    assert shown.title == "folder/flowers"
    assert left_out == ["the table leaves out digits, nets: 1; zoo report shows them"]
    assert choose(group([run("a"), two]), asked)[0] is None


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
    [net] = nets(run("a"), run("a", 1, device__name="H100", seconds=1.0))
    assert net.remarks == ("its runs are of different devices (AMD EPYC, H100); its seconds are a mean over them",)
    [net] = nets(run("a", device=None), run("a", 1, device=None))
    assert net.remarks == ()
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


# ---------------------------------------------------------------- one file, one truth


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    path = write(tmp_path / "results.jsonl", [RUN])
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"results at .*results\.jsonl cannot be read: Input/output error"):
        read([path])


def test_one_file_says_the_same_wherever_it_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds of 99.11 and 90.00 % with a torn line between them, one other net."""
    seeds = [run("a", 0, test_accuracy=892 / 900), run("a", 1, test_accuracy=0.9), run("b", test_accuracy=0.95)]
    for line in seeds:
        share = line["test_accuracy"]
        line["standard_error"] = (share * (1 - share) / 900) ** 0.5
    path = tmp_path / "results.jsonl"
    texts = [json.dumps(line) for line in seeds]
    path.write_text("\n".join([texts[0], texts[1][:200], *texts[1:]]) + "\n")
    warning = f"zoo: warning: {path}, line 2: passed over a line that is cut off\n"
    mean, spread, error = 94.555556, 6.442528, 0.656442

    assert main(["plot", str(path), "--format", "csv", "json", "md"]) == 0
    told = capsys.readouterr()
    assert told.err == warning
    [shown] = [line.split() for line in told.out.splitlines() if line.startswith("a ")]
    assert shown[-5:-1] == [f"{mean:.2f}", f"{error:.2f}", f"{spread:.2f}", "2"]
    assert "| a " in (tmp_path / "table.md").read_text()
    [first] = [row for row in csv.DictReader((tmp_path / "table.csv").read_text().splitlines()) if row["name"] == "a"]
    figures = [100 * float(first[key]) for key in ("accuracy", "spread", "standard_error")]
    assert figures == pytest.approx([mean, spread, error], abs=1e-5)

    assert main(["report", str(path), "-o", str(tmp_path / "page.html"), "--also", "csv", "md"]) == 0
    assert capsys.readouterr().err == warning
    [first] = [row for row in csv.DictReader((tmp_path / "page.csv").read_text().splitlines()) if row["name"] == "a"]
    assert [float(first[key]) for key in ("score", "spread", "error")] == pytest.approx([mean, spread, error], abs=1e-4)

    [packed] = re.findall(
        r'<script type="application/gzip" id="data">(.*?)</script>', (tmp_path / "page.html").read_text()
    )
    embedded = json.loads(gzip.decompress(base64.b64decode(packed)))
    row = next(row for row in embedded["rows"] if row["name"] == "a" and row["kind"] == "measured")
    assert [row[key] for key in ("score", "spread", "error")] == pytest.approx([mean, spread, error], abs=1e-4)
    assert [(shown["card"], shown["seed"]) for shown in embedded["runs"]] == [("a", 0), ("a", 1), ("b", 0)]

    results = read([path])
    contents = gather(results, with_published=False)
    row = next(row for row in contents["rows"] if row["name"] == "a")
    assert [row[key] for key in ("score", "spread", "error")] == pytest.approx([mean, spread, error], abs=1e-4)
    assert contents["provenance"]["warnings"] == results.warnings
    [comparison] = group(results.trainings)
    figure, _ = draw(comparison.nets, "params", "digits")
    [drawn, *_] = figure.axes[0].containers
    assert drawn.lines[0].get_ydata()[0] == pytest.approx(mean, abs=1e-5)
    low, high = drawn.lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(error, abs=1e-5)

    of_table = [line["key"] for net in comparison.nets for line in net.runs]
    assert of_table == [line["key"] for line in seeds]
    assert [(shown["card"], shown["seed"]) for shown in contents["runs"]] == [("a", 0), ("a", 1), ("b", 0)]


# ---------------------------------------------------------------- hostile lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"key": "zz"}', "name (None) must be a text"),
        ('{"key": [1], "name": "a"}', "key ([1]) must be a text"),
        ('{"key": "", "name": "a"}', "key ('') must be a text of 1 to 1,000 characters"),
        ("{}", "key (None) must be a text"),
        ("null", "the line (None) must be an object"),
        (changed(RUN, counts__params=0), "counts.params (0) must be a whole number from 1 to 10^15"),
        (changed(RUN, counts__macs=10**400), "'counts' (1000"),
        (changed(RUN, counts__macs=10**16), "counts.macs (10000000000000000) must be a whole number from 1 to 10^15"),
        (
            changed(RUN, counts__uncounted={"a": "b"}),
            "counts.uncounted ({'a': 'b'}) must be an object of whole",
        ),
        ({**RUN, "overrides": "x"}, "overrides ('x') must be an object"),
        ({**RUN, "seed": True}, "seed (True) must be a whole number"),
        ({**RUN, "seed": 1.5}, "seed (1.5) must be a whole number"),
        ({**RUN, "test_accuracy": True}, "test_accuracy (True) must be a number in [0, 1]"),
        ({**RUN, "frozen": "no"}, "frozen ('no') must be true or false"),
        ({**RUN, "task": "count"}, "task ('count') must be one of classify, segment, detect"),
        ({**RUN, "task": ["segment"]}, "task (['segment']) must be one of"),
        ({**RUN, "task": "segment"}, "the line has neither a score ('test_miou') nor an 'error'"),
        ({**RUN, "kind": "other"}, "kind ('other') must be 'speed' or absent"),
        ({**RUN, "schema": SCHEMA + 1}, "a later zoo wrote the line, update this one"),
        ({**RUN, "epochs": [1]}, "epochs ([1]) must be a list of objects"),
        ({**RUN, "x": [float("nan")]}, "'x' (nan) must hold finite numbers"),
        ({**RUN, "x": [float("-inf")]}, "'x' (-inf) must hold finite numbers"),
        ({**RUN, "x": "y" * (LONGEST_TEXT + 1)}, "'x' holds a text of more than 100,000 characters"),
        ({**RUN, "x": {"y" * (LONGEST_TEXT + 1): 1}}, "'x' holds a text of more than 100,000 characters"),
        ({**RUN, "name": "y" * (LONGEST_NAME + 1)}, "must be a text of 1 to 1,000 characters"),
        ({**RUN, "x": deep(31)}, "'x' is nested more than 32 levels deep"),
        (changed(RUN, dataset__input_size=[3, 32]), "dataset.input_size ([3, 32]) must be a list of channels, height"),
        (changed(RUN, dataset__test=0), "dataset.test (0) must be a whole number from 1"),
        (changed(SPEED, case__input_size="32"), "case.input_size ('32') must be a list of channels, height and width"),
        ('{"key": "a", "key": "b", "name": "a"}', "'key' stands twice in one object"),
        ('{"key": "a", "n": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"key": "a", "n": ' + "[" * 500_000, "is nested more than 32 levels deep"),
        ('"' + "x" * (1 << 24) + '"', "the line has 16,777,218 bytes, more than the 16,777,216 of any result"),
    ],
)
def test_a_hostile_line_is_an_error_that_names_the_field(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(json.dumps(RUN) + "\n" + text + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: ")) as error:
        read([path])
    assert message in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.slow  # each kind of wrong line has a test of its own above
def test_hostile_lines_break_nothing(tmp_path: Path) -> None:
    """More with: python tests/fuzz_results.py."""
    found = fuzz(tmp_path, 60, seed=1, batch=60)
    assert set(found) == {"result", "warning", "error"}


@pytest.mark.parametrize(
    ("text", "terminal", "markdown", "table_cell", "page"),
    [
        ("resnet20_cifar", "resnet20_cifar", "resnet20_cifar", "resnet20_cifar", "resnet20_cifar"),
        ("=1+1", "=1+1", "=1+1", "'=1+1", "=1+1"),
        ("-1", "-1", "-1", "'-1", "-1"),
        ("@a", "@a", "@a", "'@a", "@a"),
        ("\t=1", r"\t=1", r"\\t=1", r"\t=1", r"\t=1"),
        ("a\r=1", r"a\r=1", r"a\\r=1", r"a\r=1", r"a\r=1"),
        ("a\n=1", r"a\n=1", r"a\\n=1", r"a\n=1", r"a\n=1"),
        ("a;+1", "a;+1", "a;+1", "a;'+1", "a;+1"),
        (" =1", " =1", " =1", "' =1", " =1"),
        ("\uff1d1", "\uff1d1", "\uff1d1", "'\uff1d1", "\uff1d1"),
        ("\x1b[31m", r"\x1b[31m", r"\\x1b\[31m", r"\x1b[31m", r"\x1b[31m"),
        ("\u202ea", r"\u202ea", r"\\u202ea", r"\u202ea", r"\u202ea"),
        ("\ud800", r"\ud800", r"\\ud800", r"\ud800", r"\ud800"),
        ("a|`b\\", "a|`b\\", r"a\|\`b\\", "a|`b\\", "a|`b\\"),
        ("<i>&", "<i>&", r"\<i\>\&", "<i>&", "&lt;i&gt;&amp;"),
        ("_a_ $x$", "_a_ $x$", r"\_a\_ \$x\$", "_a_ $x$", "_a_ $x$"),
    ],
)
def test_every_place_escapes_what_it_must(text: str, terminal: str, markdown: str, table_cell: str, page: str) -> None:
    assert for_terminal(text) == terminal
    assert for_markdown(text) == markdown
    assert for_csv(text) == table_cell
    assert for_html(text) == page


def test_pictures_show_foreign_text_as_text() -> None:
    assert for_picture("_a") == " _a"
    assert for_picture("x" * 100) == "x" * 77 + "..."
    lines = [run("$\\frac{$", family="_f"), run("a\x1b\u4e2d", family="$x$", counts__params=1)]
    figure, labels = draw(nets(*lines), "params", "$\\frac{$")
    assert [label.get_text() for label in labels] == ["$\\frac{$", r"a\x1b\u4e2d"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {" _f", "$x$"} < set(legend)
    assert "$\\frac{$" in figure.axes[0].get_ylabel()
    texts = [*labels, *figure.legends[0].get_texts(), figure.axes[0].yaxis.label]
    assert not any(text.get_parse_math() for text in texts)


def test_a_picture_of_many_nets_names_those_on_the_front() -> None:
    count = MOST_LABELS + 10
    lines = [
        run(f"n{i}", family=f"f{i}", counts__params=1000 + 100 * i, test_accuracy=0.5 + 0.1 * (i % 50 == 0) + 1e-4 * i)
        for i in range(count)
    ]
    many = nets(*lines)
    front = [many[i].name for i in sorted(pareto_front([(net.params, net.score) for net in many]))]
    figure, labels = draw(many, "params", "digits")
    assert [label.get_text() for label in labels] == front
    assert len(front) < 10
    assert figure.axes[0].get_title(loc="right") == "only nets on the Pareto front are named"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == MOST_TOPOLOGIES + 3
    assert "other topologies" in legend
    crowd = [run(f"n{i}" + "x" * 70, counts__params=10**6 + i, test_accuracy=0.5 + 1e-5 * i) for i in range(count - 1)]
    figure, labels = draw(nets(*crowd), "params", "digits")  # all on the front
    assert labels == []
    assert figure.axes[0].get_title(loc="right") == "the names of the nets find no room"


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
    titles = {"params": "parameters, logarithmic", "macs": "multiply-adds (FLOPs in most papers), logarithmic"}
    assert axes.get_xlabel() == titles[cost]
    assert len(axes.containers) == 3  # error bars, one topology each
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    front = {"Pareto front", "within 2 standard errors of it"}
    assert {*front, "standard error (900 test images)", "ResNet", "FishNet", "DenseNet"} == set(legend)
    for label, row in zip(
        labels, rows, strict=True
    ):  # the check above sees labels that were simply put at their points
        label.set_position((getattr(row, cost), 100 * row.score))
    assert len(conflicts(figure, labels, rows, cost)) > len(rows)


def default_nets() -> list[NetResult]:
    """The six nets of the default line-up as the README prints them."""
    return [
        replace(row, net=name, family=family, params=params, macs=macs, score=score, standard_error=error)
        for row, (name, family, params, macs, score, error) in zip(
            crowded_rows(),
            (
                ("resnet20_cifar", "resnet", 269_722, 40_600_000, 0.9933, 0.0027),
                ("preresnet20_cifar", "resnet", 272_282, 40_800_000, 0.99, 0.0033),
                ("wide_resnet16_2_cifar", "resnet", 691_674, 101_100_000, 0.99, 0.0033),
                ("fishnet58_cifar", "fishnet", 602_306, 48_600_000, 0.9856, 0.004),
                ("fabric_a_l3_s3_c32x2_post_cifar", "fabric", 207_018, 28_800_000, 0.9789, 0.0048),
                ("resnext20_4x8d_cifar", "resnet", 296_282, 47_600_000, 0.9733, 0.0054),
            ),
            strict=False,
        )
    ]


@pytest.mark.parametrize("cost", COSTS)
def test_labels_leave_error_bars_and_the_front_alone(cost: str) -> None:
    rows = default_nets()
    figure, labels = draw(rows, cost, "digits")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for label in labels:
        box = label.get_window_extent()
        for row in rows:
            x, low = axes.transData.transform((getattr(row, cost), 100 * (row.score - row.standard_error)))
            _, high = axes.transData.transform((getattr(row, cost), 100 * (row.score + row.standard_error)))
            crossed = box.x0 < x < box.x1 and box.y0 < high and low < box.y1
            assert not crossed, f"{label.get_text()} crosses the bar of {row.name}"


def test_the_front_is_soft_within_two_standard_errors() -> None:
    rows = default_nets()
    figure, _ = draw(rows, "macs", "digits")
    [band] = [c for c in figure.axes[0].collections if c.get_label() == "within 2 standard errors of it"]
    box = band.get_paths()[0].get_extents()
    fabric, best = rows[4], rows[0]
    assert box.y0 == pytest.approx(100 * (fabric.score - 2 * fabric.standard_error))
    assert box.y1 == pytest.approx(100 * best.score)
    inside = [row.name for row in rows if band.get_paths()[0].contains_point((row.macs, 100 * row.score))]
    assert inside == ["preresnet20_cifar", "wide_resnet16_2_cifar"]
    exact = [replace(row, standard_error=None) for row in rows]
    assert not [c for c in draw(exact, "macs", "digits")[0].axes[0].collections if "standard errors" in c.get_label()]


def test_topologies_are_read_from_specifications() -> None:
    of = {
        entry.name: topology_of(entry.family, entry.spec.to_dict(), entry.name)
        for entry in map(zoo.model_entry, zoo.list_models())
    }
    assert set(of.values()) == set(TOPOLOGIES)
    for name, topology in {
        "plain20_cifar": "plain",
        "resnet50_v1": "ResNet",
        "resnet110_norm_after_add_cifar": "ResNet",
        "preresnet1001_cifar": "pre-activation",
        "wide_resnet50_2": "wide",
        "resnext20_4x8d_cifar": "ResNeXt",
        "seresnet50": "squeeze-excite",
        "fishnext150_4d": "FishNet",
        "gridnet_l6_s5_c16x2": "fabric",
    }.items():
        assert of[name] == topology
    assert topology_of("timm", None) == "timm"
    assert topology_of("resnet", None) == "ResNet"
    [net] = nets(run("resnet20_cifar", spec={"order": "pre", "groups": "many", "widths": 3}))
    assert net.topology == "pre-activation"


def test_marks_are_told_apart_in_grey() -> None:
    """At the size of plots no two marks share so much of their area that a reader could take one for the other."""
    import numpy as np
    from matplotlib.figure import Figure

    assert len(looks(TOPOLOGIES)) == len({look.mark for look in looks(TOPOLOGIES).values()})

    def grey(mark: Any) -> Any:
        figure = Figure(figsize=(0.2, 0.2), dpi=200)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot([0], [0], marker=mark, color="0.4", markersize=8, markeredgewidth=0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba")
        return np.frombuffer(buffer.getvalue(), np.uint8).reshape(40, 40, 4)[..., 0] < 180

    areas = {name: grey(mark) for name, mark in MARKS.items()}
    for (one, a), (other, b) in combinations(areas.items(), 2):
        assert a.any()
        assert (a & b).sum() < 0.8 * (a | b).sum(), f"{one} and {other}"


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
