"""What `zoo bench` does, as a function call: the request, its checks, and that the command makes the same one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from result_lines import stored

from zoo import bench
from zoo.bench import Request, prepare, run
from zoo.bench.sweep import Listener
from zoo.recipes import RECIPES
from zoo_cli import parse
from zoo_cli.bench import to_request

TINY = {"depths": (1, 1, 1), "widths": (4, 4, 4), "stem_width": 4}


def test_a_sweep_in_python(tmp_path: Path) -> None:
    request = Request(
        models=["preresnet20_cifar"], overrides=TINY, seeds=[0, 1], changes={"epochs": 1}, out=tmp_path, device="cpu"
    )
    finished = []

    class Watch(Listener):
        def on_finish(self, run: Any, record: Any) -> None:
            finished.append(run.seed)

    outcome = run(request, Watch())
    assert (outcome.finished, outcome.skipped, outcome.failures) == (2, 0, ())
    assert finished == [0, 1]
    assert outcome.path == tmp_path / "results.jsonl"
    assert [line["seed"] for line in stored(outcome.path)] == [0, 1]
    again = run(prepare(request))
    assert (again.finished, again.skipped) == (0, 2)


def test_nothing_is_trained_or_written_by_preparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = prepare(Request(models=["resnet*20_cifar"], seeds=[3], changes={"lr": 0.05}, device="cpu"))
    assert [run.name for run in prepared.runs] == ["resnet20_cifar"]
    assert (prepared.recipe.lr, prepared.base) == (0.05, RECIPES["digits"].recipe)
    assert prepared.path == Path("results", "digits", "results.jsonl")
    text = prepared.describe()
    assert "1 net, 1 seed each, on digits: 897 training and 900 test images of 3x32x32, 10 classes" in text
    assert "recipe digits with lr=0.05 (" in text
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_a_request() -> None:
    words = ["bench", "a", "b*", "--task", "segment", "--decoder", "deeplabv3plus", "--frozen", "--set", "order=pre"]
    words += ["--vary", "squeeze", "0", "16", "--seeds", "1", "2", "--dataset", "scenes", "--workers", "0"]
    words += [
        "--recipe",
        "digits",
        "--recipe",
        "lr=0.5",
        "--epochs",
        "7",
        "--bf16",
        "--device",
        "cpu",
        "--threads",
        "3",
    ]
    words += ["--threads", "3", "--layout", "contiguous", "--compile", "--retries", "4"]
    words += ["--out", "here", "--force", "--keep", "none", "--pictures"]
    assert to_request(parse(words)) == Request(
        models=["a", "b*"],
        task="segment",
        head="deeplabv3plus",
        frozen=True,
        overrides={"order": "pre"},
        vary={"squeeze": [0, 16]},
        seeds=[1, 2],
        dataset="scenes",
        workers=0,
        recipe="digits",
        changes={"lr": 0.5, "epochs": 7, "amp": "bfloat16"},
        device="cpu",
        threads=3,
        layout="contiguous",
        compile=True,
        retries=4,
        out=Path("here"),
        force=True,
        keep="none",
        pictures=True,
    )
    assert to_request(parse(["bench"])) == Request(models=[], seeds=[0])


def test_every_attribute_is_an_option() -> None:
    """Nothing that a request can ask for is out of the command's reach, and the other way round."""
    words = ["bench", "--lineup", "all", "--dataset", "torch/cifar10", "--data-dir", "d", "--download", "--skip-broken"]
    words += ["--jobs", "2", "--engine", "ray", "--ray-address", "auto", "--gpus-per-run", "0.5"]
    request = to_request(parse(words))
    assert (request.lineup, request.data_dir, request.download, request.skip_broken) == ("all", Path("d"), True, True)
    assert (request.jobs, request.engine, request.ray_address, request.gpus_per_run) == (2, "ray", "auto", 0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": "resnet18"}, "models must be a list of texts, got 'resnet18'"),
        ({"seeds": 3}, "seeds must be a list, got 3"),
        ({"seeds": []}, "seeds must have one number at least"),
        ({"seeds": [-1]}, "seeds must be at least 0, got -1"),
        ({"seeds": [2**63]}, "seeds must be at most 9223372036854775807"),
        ({"task": "paint"}, "unknown task 'paint'"),
        ({"head": "unet"}, "unknown head 'unet' of task classify"),
        ({"layout": "nchw"}, "layout 'nchw' must be one of channels_last, contiguous"),
        ({"engine": "slurm"}, "engine 'slurm' must be one of local, ray"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": 10**12}, "threads must be at most 1024"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"freeze": 3}, r"freeze \(3\) must be a text"),
        ({"task": []}, r"task \(\[\]\) must be a text"),
        ({"download": 1}, r"download \(1\) must be True or False"),
        ({"out": 3}, r"out \(3\) must be a path"),
        ({"gpus_per_run": "x", "engine": "ray"}, "gpus_per_run must be at least 0 and at most 1024, got x"),
        ({"workers": "2"}, "workers must be a whole number, got '2'"),
        ({"seeds": [1.5]}, "seeds must be a whole number, got 1.5"),
        ({"gpus_per_run": float("nan"), "engine": "ray"}, "gpus_per_run must be at least 0"),
        ({"gpus_per_run": 1.0}, "gpus_per_run 1.0 belongs to --engine ray"),
        ({"lineup": "all", "models": ["a"]}, "lineup 'all' was given together with names"),
        ({"pictures": True}, "pictures are for the tasks segment and detect"),
        ({"pictures": True, "task": "detect", "jobs": 2}, "pictures are drawn in this process"),
        ({"data_dir": "somewhere"}, "data-dir 'somewhere' was given without a data set"),
    ],
)
def test_a_wrong_request_is_told_when_it_is_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "detect", "changes": {"class_weights": "balanced"}}, "class_weights must be '' for detection"),
        ({"task": "detect", "changes": {"label_smoothing": 0.1}}, "label_smoothing must be 0 for detection, got 0.1"),
        ({"task": "segment", "changes": {"flip": True}}, "flip must be False for task segment"),
    ],
)
def test_a_recipe_that_a_task_cannot_follow_is_told_before_the_images_are_read(
    wrong: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zoo.bench.request.load", lambda *_: pytest.fail("the images are read"))
    with pytest.raises(ValueError, match=message):
        prepare(Request(**wrong, out=tmp_path / "out"))


@pytest.mark.parametrize(("name", "message"), [("lenet_test", "has no units"), ("plain20_cifar", "0 for a plain net")])
def test_paths_of_a_net_without_branches_are_told_before_the_training(name: str, message: str, tmp_path: Path) -> None:
    request = Request(models=[name], changes={"epochs": 1, "paths": 4}, out=tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        run(request)
    assert not (tmp_path / "out/results.jsonl").exists()


def test_a_batch_larger_than_the_set_is_told_before_the_training(tmp_path: Path) -> None:
    request = Request(models=["lenet_test"], changes={"batch_size": 1000}, out=tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=r"batch_size 1000 exceeds the 897 training images of digits"):
        run(request)
    assert not (tmp_path / "out").exists()


def test_an_average_of_few_steps_is_warned_of(tmp_path: Path) -> None:
    request = Request(models=["lenet_test"], changes={"epochs": 7, "ema": 0.999}, out=tmp_path, device="cpu")
    with pytest.warns(UserWarning, match=r"ema=0.999 averages the weights of 196 steps, fewer than 200"):
        prepare(request)
    prepare(replace(request, changes={"epochs": 8, "ema": 0.999}))


def test_the_package_names_what_it_offers() -> None:
    assert bench.Request is Request
    with pytest.raises(AttributeError, match=r"module 'zoo.bench' has no attribute 'nothing'"):
        _ = bench.nothing  # ty: ignore[unresolved-attribute]
