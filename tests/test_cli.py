"""The command `zoo`: what it prints, what it writes, how it fails."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from fuzz_commands import fuzz
from hypothesis import given
from hypothesis import strategies as st
from processes import Ended, run_zoo
from safetensors.torch import save_file

import zoo
from zoo import files
from zoo.bench import one_run as attempt
from zoo.bench import request as bench_request
from zoo.bench import sweep as runner
from zoo.bench.sweep import Outcome
from zoo.escape import for_terminal
from zoo.papers import SYSTEMS, systems
from zoo.results import Recipe, Run, append, store
from zoo.speed import cases as speed
from zoo.weights import loading
from zoo_cli import main
from zoo_cli.common import guarded, parse_pairs, parse_size, printable


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_shows_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "list")
    assert [row["name"] for row in rows] == zoo.list_models()
    row = next(row for row in rows if row["name"] == "resnet20_cifar")
    assert row == {
        "name": "resnet20_cifar",
        "family": "resnet",
        "params": 269_722,
        "input": [3, 32, 32],
        "strides": [1, 2, 4],
        "paper": zoo.model_entry("resnet20_cifar").paper,
    }
    assert main(["list", "20_cifar"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "family", "params", "input", "strides", "paper"]
    assert len(lines) == 2 + len(zoo.list_models("20_cifar"))
    assert any("269,722" in line and "3x32x32" in line and "1 2 4" in line for line in lines)
    assert main(["list", "nothing_like_this"]) == 0
    assert capsys.readouterr().out == "no model matches\n"


@pytest.mark.parametrize("column", ["family", "params", "input", "strides", "paper"])
def test_list_sorts_by_any_column(capsys: pytest.CaptureFixture[str], column: str) -> None:
    values = [row[column] for row in run_json(capsys, "list", "--sort", column)]
    assert values == sorted(values)
    assert len(values) == len(zoo.list_models())
    assert [row[column] for row in run_json(capsys, "list", "--sort", column, "--reverse")] == values[::-1]


def test_list_filters_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "list", "*20_cifar", "--family", "resnet", "--counts", "--sort", "macs")
    assert {row["family"] for row in rows} == {"resnet"}
    assert [row["macs"] for row in rows] == sorted(row["macs"] for row in rows)
    assert next(row for row in rows if row["name"] == "resnet20_cifar")["macs"] == 40_551_040
    assert all(row["activations"] > 0 for row in rows)


def test_list_of_papers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "list", "--papers")
    assert [row["name"] for row in rows] == [system.name for _, system in systems()]
    assert {row["subject"] for row in rows} == set(SYSTEMS)
    [row] = run_json(capsys, "list", "--papers", "*frrn_b")
    assert (row["subject"], row["kind"], row["models"]) == ("Neural fabrics", "model", ["frrn_a", "frrn_b"])
    assert main(["list", "--papers", "mobilenet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A history of convolutional nets"
    assert lines[1].split() == ["system", "kind", "found", "source"]
    assert re.split("  +", lines[3])[:3] == ["MobileNet v1", "installed", "mobilenetv1_100"]
    assert len(lines) == 4
    assert main(["list", "--papers", "nothing_like_this"]) == 0
    assert capsys.readouterr().out == "no paper matches\n"
    assert main(["list", "--papers"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{subject}\n" in f"\n{text}" for subject in SYSTEMS)
    assert "resnet34 + shortcut=project_all" in text


def test_info_tells_all_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    info = run_json(capsys, "info", "fishnet_test")
    entry = zoo.model_entry("fishnet_test")
    assert info["counts"]["params"] == entry.params
    assert info["counts"]["uncounted"]
    assert sum(stage["macs"] for stage in info["counts"]["stages"]) == info["counts"]["macs"]
    assert info["spec"] == json.loads(json.dumps(entry.spec.to_dict()))
    assert [tap["stride"] for tap in info["taps"]] == list(entry.spec.tap_strides)
    assert all(tap["channels"] > 0 and tap["module"] for tap in info["taps"])
    assert (info["timm_name"], info["family"], info["paper"]) == (entry.timm_name, "fishnet", entry.paper)
    assert main(["info", "fishnet_test"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (f"{entry.params:,}", entry.paper, "tail_widths", "max_pool2d", "classifier"))


def test_count_counts_ours_and_those_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "count", "resnet20_*cifar", "timm:test_resnet")
    assert [row["name"] for row in rows] == [*zoo.list_models("resnet20_*cifar"), "timm:test_resnet"]
    first = rows[0]
    assert (first["name"], first["params"], first["macs"]) == ("resnet20_cifar", 269_722, 40_551_040)
    assert first["fvcore_flops"] > first["macs"]
    assert first["uncounted"] == {"aten::add": 9, "aten::pad": 2}
    [row] = run_json(capsys, "count", "resnet20_cifar", "--input-size", "3x64x32")
    assert row["input_size"] == [3, 64, 32]
    assert row["macs"] == 2 * (first["macs"] - 640) + 640  # all but the classifier grows with the image
    assert main(["count", "resnet20_cifar"]) == 0
    assert "40,551,040" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "fishnet9"], r"fishnet9.*fishnet99"),
        (["count", "resnet20_cifarr"], r"resnet20_cifarr.*resnet20_cifar"),
        (["info", "vit_base_patch16_224"], r"is a model of timm, not of the zoo"),
        (["count", "timm:nosuch"], r"name ('timm:nosuch') is not a model of timm"),
        (["count", "timm:resnet5"], r"name ('timm:resnet5') is not a model of timm: did you mean.*resnet50"),
        (["count", "timm:resnet50.none"], r"timm's resnet50 has no weights 'none': did you mean resnet50."),
        (["count", "zzz*"], r"pattern 'zzz*' matches no model"),
        (["count", "resnet20_cifar", "--input-size", "3x32"], r"input size '3x32' must look like 224 or 3x224x224"),
        (["count", "resnet20_cifar", "--input-size", "1x32x32"], r"1 channels"),
        (["list", "--sort", "size"], r"sort 'size' must be one of name"),
        (["list", "--sort", "macs"], r"macs and activations need --counts"),
        (["list", "--family", "foo"], r"family ('foo') must be one of"),
        (["list", "--papers", "--counts"], r"--papers lists papers, not nets: leave out --counts"),
        (["list", "--papers", "--sort", "name", "--reverse"], r"leave out --sort, --reverse"),
        (["bench", "resnet20_cifarr"], r"did you mean resnet20_cifar"),
        (["bench", "timm:nosuch"], r"name ('timm:nosuch') is not a model of timm"),
        (
            ["bench", "resnet20_cifar", "--set", "widths=8,16,32"],
            r"widths ((8, 16, 32)) must not fall, from stem_width 16",
        ),
        (["bench", "resnet20_cifar", "--set", "ordre=pre"], r"resnet20_cifar + ordre=pre: "),
        (["bench", "resnet20_cifar", "--set", "order"], r"'order' must have the form KEY=VALUE"),
        (["bench", "resnet20_cifar", "--set", "num_classes=3"], r"override 'num_classes' is set by the benchmark"),
        (["bench", "resnet20_cifar", "--epochs", "0"], r"epochs must be at least 1, got 0"),
        (["bench", "resnet20_cifar", "--recipe", "rate=1"], r"unknown recipe field 'rate'"),
        (["bench", "resnet20_cifar", "--recipe", "lr=fast"], r"recipe field lr must be of type float, got 'fast'"),
        (["bench", "resnet20_cifar", "--threads", "0"], r"threads must be at least 1, got 0"),
        (["bench", "resnet20_cifar", "--device", "gpuu"], r"device 'gpuu' is none of torch's"),
        (["bench", "resnet20_cifar", "--dataset", "cifar"], r"unknown dataset 'cifar'"),
        (["bench", "resnet20_cifar", "--lineup", "all"], r"lineup 'all' was given together with names"),
        (["bench", "--lineup", "big"], r"unknown lineup 'big'"),
        (["bench", "resnet20_cifar", "--sort", "size"], r"unknown column 'size'"),
        (["bench", "resnet20_cifar", "--dataset", "torch/cifar10"], r"dataset 'torch/cifar10' needs a folder"),
        (["bench", "resnet20_cifar", "--recipe", "wrn"], r"unknown recipe 'wrn': choose from digits, "),
        (["bench", "resnet20_cifar", "--recipe", "digits", "--recipe", "scenes"], r"'digits' and recipe 'scenes'"),
        (["bench", "resnet20_cifar", "--recipe", "modern_imagenet"], r"image_size must be 0 for digits"),
        (["bench", "resnet20_cifar", "--vary", "order"], r"vary 'order' needs values"),
        (["bench", "resnet20_cifar", "--vary", "in_chans", "1", "3"], r"override 'in_chans' is set by the benchmark"),
        (["bench", "resnet20_cifar", "--jobs", "0"], r"jobs must be at least 1, got 0"),
        (["bench", "resnet20_cifar", "--retries", "-1"], r"retries must be at least 0, got -1"),
        (["bench", "resnet20_cifar", "--ray-address", "auto"], r"ray_address 'auto' belongs to --engine ray"),
        (["bench", "--task", "segment", "--pictures", "--jobs", "2"], r"pictures are drawn in this process"),
        (["plot", "nowhere"], r"no results at nowhere"),
        (["speed", "resnet20_cifarr"], r"resnet20_cifarr.*resnet20_cifar"),
        (["speed", "timm:no_such_net"], r"name ('timm:no_such_net') is not a model of timm"),
        (["speed", "resnet_test", "--batch-size", "0"], r"batch size must be at least 1, got 0"),
        (["speed", "resnet_test", "--repeats", "1"], r"repeats must be at least 2, got 1"),
        (["speed", "resnet_test", "--seconds", "0"], r"seconds must be positive, got 0.0"),
        (["speed", "resnet_test", "--out", "."], r"out . is a folder: name a file in it"),
        (["speed", "resnet_test", "--threads", "0"], r"threads must be at least 1, got 0"),
        (["speed", "resnet_test", "--device", "gpuu"], r"device 'gpuu' is none of torch's"),
        (["speed", "resnet_test", "--input-size", "3x32"], r"input size '3x32' must look like 224 or 3x224x224"),
        (["speed", "resnet_test", "--input-size", "1x32x32"], r"1 channels"),
        (["speed", "timm:test_vit", "--input-size", "100"], r"input_size (3, 100, 100) does not run.*patch size (16)"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("zoo: error: ")
    parts = message.split(".*")
    assert all(part in line for part in parts)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_parts_of_a_request_are_read() -> None:
    assert parse_pairs(["order=pre", "depths=(1, 2)", "rate=0.5", "flag=True", "text=a=b", "set={1, 2}"]) == {
        "order": "pre",
        "depths": (1, 2),
        "rate": 0.5,
        "flag": True,
        "text": "a=b",
        "set": "{1, 2}",
    }
    assert parse_size("224") == (3, 224, 224)
    assert parse_size("1x28X30") == (1, 28, 30)
    assert parse_size("3, 8, 9") == (3, 8, 9)


def write_results(path: Path) -> None:
    for seed, (name, accuracy) in enumerate([("small", 0.97), ("large", 0.99), ("large", 0.98)]):
        run = Run(name=name, dataset="digits", recipe=Recipe(epochs=1, batch_size=8, lr=0.1), seed=seed)
        counts = {"params": 10 ** len(name), "macs": 10**6, "activations": 5, "uncounted": {}}
        append(
            path,
            {
                **run.to_dict(),
                "key": run.key,
                "display": run.display,
                "family": "resnet",
                "counts": counts,
                "dataset": {"name": "digits", "test": 900},
                "test_accuracy": accuracy,
                "seconds": 1.5,
            },
        )


def test_plot_shows_stored_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "results.jsonl", tmp_path / "figures"
    write_results(path)
    before = path.read_bytes()
    assert main(["plot", str(tmp_path), "--out", str(out), "--format", "md", "csv", "json", "--sort", "name"]) == 0
    text = capsys.readouterr().out
    assert text.index("large") < text.index("small")
    assert "98.50" in text
    assert "differences below about two standard errors" in text
    names = ["accuracy_vs_macs.png", "accuracy_vs_params.png", "table.csv", "table.json", "table.md"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert all(str(out / name) in text for name in names)
    assert json.loads((out / "table.json").read_text())[0]["seeds"] == 2
    assert main(["plot", str(path)]) == 0  # the file itself; everything goes beside it
    assert (tmp_path / "accuracy_vs_macs.png").exists()
    assert path.read_bytes() == before
    path.write_text("")
    assert main(["plot", str(path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_a_failed_run_makes_the_bench_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path / "results.jsonl")
    failure = Outcome(finished=3, skipped=0, failures=("resnet20_cifar, seed 0: the loss is nan in epoch 1 of 2",))
    monkeypatch.setattr(bench_request, "sweep", lambda *_, **__: failure)
    assert main(["bench", "resnet20_cifar", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "zoo: failed: resnet20_cifar, seed 0: the loss is nan in epoch 1 of 2" in captured.err
    assert "small" in captured.out  # what was finished is shown all the same


def test_an_interrupted_bench_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_request, "sweep", interrupt)
    assert main(["bench", "resnet20_cifar", "--out", str(tmp_path)]) == 130
    assert "the same command does the rest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bench", "resnet20_cifar", "--epochs", "1", "--out", "{}"], "out"),
        (["bench", "--task", "segment", "--pictures", "--out", "pictured"], "pictures"),
        (["bench", "resnet20_cifar", "--epochs", "1", "--out", "kept"], "keep"),
        (["bench", "resnet20_cifar", "--epochs", "1", "--out", "begun"], "out"),
        (["plot", ".", "--out", "{}"], "out"),
        (["report", ".", "-o", "{}.html"], "out"),
        (["speed", "resnet_test", "--out", "{}"], "out"),
        (["convert", "in.pth", "{}.safetensors", "--model", "resnet_test"], "out"),
    ],
)
def test_what_cannot_be_written_is_found_first(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is trained, measured or read before."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((runner, "facts_of"), (speed, "_facts"), (loading, "check_weights"), (store, "read")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it began"))
    write_results(tmp_path / "results.jsonl")
    for path in ("pictured/pictures", "kept/weights", "begun/running"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format("file/below") for word in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zoo: error: {named} ")
    assert "cannot be written: Not a directory" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_may_not_be_written_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    files.check_writable("out", path)
    files.check_writable("out", path, folder=True)
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "there").write_text("")
    monkeypatch.setattr(Path, "open", refuse)
    files.check_writable("out", path)
    with pytest.raises(ValueError, match=r"out .*there cannot be written: Permission denied"):
        files.check_writable("out", tmp_path / "there")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"out .*file cannot be written: Permission denied"):
        files.check_writable("out", path)


def test_a_bench_whose_runs_all_fail_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(attempt, "training", fail)
    assert main(["bench", "lenet_test", "resnet_test", "--epochs", "1", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    failures = [line for line in captured.err.splitlines() if line.startswith("zoo: ")]
    assert failures == [
        f"zoo: failed: {name}, seed 0: RuntimeError: not enough memory" for name in ("lenet_test", "resnet_test")
    ]


# ---------------------------------------------------------------- what nobody foresaw


def raise_(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("depth (3)\nis wrong"), 2, "zoo: error: depth (3) is wrong"),
        (ValueError("name \x1b[31m.pth\r"), 2, "zoo: error: name \\x1b[31m.pth"),
        (OSError("no space left"), 1, "zoo: error: no space left"),
        (OSError(36, "", "a" * 300), 2, f"zoo: error: '{'a' * 40}'... is too long for the name of a file"),
        (KeyError("zz"), 1, "zoo: error: KeyError: 'zz' (ZOO_TRACEBACK=1 shows where)"),
        (RecursionError("deep"), 1, "zoo: error: RecursionError: deep (ZOO_TRACEBACK=1 shows where)"),
        (MemoryError(), 1, "zoo: error: MemoryError: (ZOO_TRACEBACK=1 shows where)"),
        (KeyboardInterrupt(), 130, "zoo: interrupted"),
    ],
)
def test_every_error_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ZOO_TRACEBACK", raising=False)
    assert guarded(lambda: raise_(error)) == status
    assert capsys.readouterr() == ("", f"{line}\n")
    monkeypatch.setenv("ZOO_TRACEBACK", "1")
    assert guarded(lambda: raise_(error)) == status
    text = capsys.readouterr().err
    assert text.endswith(f"{line}\n")
    assert text.startswith("Traceback") == (status != 130)


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.formatwarning

    def show() -> int:
        print(warnings.formatwarning("a line\nis skipped", UserWarning, str(Path(zoo.__file__)), 3), end="")
        print(warnings.formatwarning("old", DeprecationWarning, "elsewhere.py", 3), end="")
        return 0

    assert guarded(show) == 0
    assert capsys.readouterr().out.splitlines() == [
        "zoo: warning: a line is skipped",
        "zoo: warning: old (DeprecationWarning, elsewhere.py:3)",
    ]
    assert warnings.formatwarning is before


def test_an_ascii_terminal_is_no_error(tmp_path: Path) -> None:
    done = run_zoo("info", "r\u00e9snet", folder=tmp_path, encoding="ascii")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("zoo: error: name ('r\\xe9snet')")
    path = tmp_path / "caf\u00e9.safetensors"
    weights = tmp_path / "in.safetensors"
    save_file(zoo.create_model("resnet_test").state_dict(), weights)
    done = run_zoo("convert", str(weights), str(path), "--model", "resnet_test", folder=tmp_path, encoding="ascii")
    assert (done.status, done.err) == (0, "")
    assert "caf\\xe9.safetensors" in done.out
    assert path.is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = run_zoo("recipes", folder=tmp_path, prepare=print_to_full_disk)
    assert done == Ended(1, "", "zoo: error: [Errno 28] No space left on device\n")


def print_to_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


@pytest.mark.parametrize(
    "verb",
    [
        "list",
        "info",
        "count",
        "bench",
        "recipes",
        "plot",
        "report",
        "speed",
        "weights",
        "convert",
        "verify",
        "validate",
    ],
)
def test_help_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([verb, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"  zoo {verb}" in text


def test_the_module_runs_silently_and_survives_a_reader_that_leaves() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-m", "zoo", "list"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writer)
    assert result.returncode == 141
    assert result.stderr == ""


def test_command_lines_by_chance_end_as_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More with: python tests/fuzz_commands.py --count 500."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ends, faults = fuzz(tmp_path, 25, seed=5)
    assert not faults
    assert len(ends) > 10, "verbs and ways to end"


@given(st.text())
def test_both_escapes_for_terminals_are_one(text: str) -> None:
    assert printable(text) == for_terminal(text)
    assert printable(text).isprintable()
