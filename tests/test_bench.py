"""The benchmark: data, recipe, training loop, lines on disk, sweeps that survive a kill, tables, plots."""

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import run_zoo
from result_lines import run as line_of
from result_lines import stored, write
from torch import Tensor, nn

import zoo
from zoo import files
from zoo.bench import one_run as attempt
from zoo.bench import sweep as runner
from zoo.bench import tasks
from zoo.bench.train import DivergedError, train
from zoo.datasets.augment import shift_images
from zoo.datasets.built_in import DATASETS, DatasetRow, dataset_row, load_dataset, systematic_split
from zoo.environment import PeakMemory
from zoo.results.recipe import Recipe
from zoo.results.run import Run
from zoo.results.store import read

RECIPE = dataset_row("digits").recipe
SMALL = {"depths": (1, 1, 1), "widths": (4, 4, 4), "stem_width": 4}
NARROW = dict.fromkeys(("ones", "three_reduces", "threes", "five_reduces", "fives", "projections"), (4,) * 5)
SMALL_NAME = "preresnet20_cifar + depths=(1, 1, 1), stem_width=4, widths=(4, 4, 4)"


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(1024, 10)
    )


# ---------------------------------------------------------------- data


def test_digits_are_split_as_documented() -> None:
    digits = load_dataset("digits")
    assert digits.train_images.shape == (897, 3, 32, 32)
    assert digits.test_images.shape == (900, 3, 32, 32)
    assert digits.input_size == (3, 32, 32)
    test, both = digits.test_labels.bincount(), torch.cat([digits.train_labels, digits.test_labels]).bincount()
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert float((test - both * 900 / 1797).abs().max()) < 1
    assert torch.equal(digits.train_images[:, 0], digits.train_images[:, 2])
    assert abs(float(digits.train_images.mean())) < 1e-4
    assert abs(float(digits.train_images.std()) - 1) < 1e-4
    assert float(digits.train_images.min()) == pytest.approx(digits.fill, abs=1e-5)


def test_the_split_of_digits_never_changes() -> None:
    # Results of all versions compare only as long as the halves stay the same.
    labels = load_dataset("digits").test_labels
    assert hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()[:16] == "93dcc4faf7b4d8fc"


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_systematic_split_is_stratified(labels: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels) - 1))
    train_half, test_half = systematic_split(np.array(labels), size)
    assert len(test_half) == size
    assert sorted([*train_half, *test_half]) == list(range(len(labels)))
    for label in set(labels):
        share = labels.count(label) * size / len(labels)
        assert abs(sum(labels[i] == label for i in test_half) - share) < 1


def test_wrong_data_requests_are_explained() -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'cifar': choose from cues, digits, "):
        load_dataset("cifar")
    with pytest.raises(ValueError, match=r"test_size must lie between 1 and 2 for 3 images, got 3"):
        systematic_split(np.array([0, 1, 2]), 3)


# ---------------------------------------------------------------- recipe


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(epochs=10, batch_size=8, lr=0.4, warmup_epochs=2)
    rates = [recipe.lr_at(epoch) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    assert Recipe(epochs=1, batch_size=8, lr=0.4, warmup_epochs=2).lr_at(0.5) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("lr", "fast"),
        ("batch_size", 0),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup_epochs", -1),
        ("label_smoothing", 1.0),
        ("max_shift", -1),
        ("amp", "int8"),
    ],
)
def test_a_wrong_recipe_names_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"recipe field {field} must .*, got {value!r}"):
        RECIPE.changed(**{field: value})


def test_an_unknown_recipe_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe field 'lrr': choose from epochs, "):
        RECIPE.changed(lrr=1)


# ---------------------------------------------------------------- training


def test_shifts_move_each_image_on_its_own() -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    shifted = shift_images(images, torch.tensor([[1, -2], [0, 0]]), fill=-7.0)
    assert torch.equal(shifted[1], images[1])
    assert torch.equal(shifted[0, :, 1:, :-2], images[0, :, :-1, 2:])
    assert torch.all(shifted[0, :, 0] == -7)
    assert torch.all(shifted[0, :, :, -2:] == -7)


def test_training_learns_and_repeats() -> None:
    digits = load_dataset("digits")
    state = torch.get_rng_state()
    recipe = RECIPE.changed(epochs=2)
    first = train(small_net, digits, recipe, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are untouched
    assert first.epochs[-1].test_score > 0.7  # chance is 0.1
    assert first.test_score == first.epochs[-1].test_score
    assert first.epochs[1].train_loss < first.epochs[0].train_loss

    def history(seed: int) -> list[tuple[float, float]]:
        trained = train(small_net, digits, recipe, seed=seed)
        return [(epoch.train_loss, epoch.test_score) for epoch in trained.epochs]

    same = [(epoch.train_loss, epoch.test_score) for epoch in first.epochs]
    torch.rand(7)  # what happened before does not matter, the seed does
    assert history(1) == same
    assert history(2) != same


class Watcher(nn.Module):
    """Notes what it is shown in training; draws random numbers, or does not."""

    def __init__(self, seen: list[float], draws: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)
        self.seen, self.draws = seen, draws

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(float(x.double().std()))
            if self.draws:
                torch.rand(5)
        return self.fc(x.mean((2, 3)))


def test_all_nets_of_a_seed_see_the_same_batches() -> None:
    plain: list[float] = []
    random: list[float] = []
    digits, recipe = load_dataset("digits"), RECIPE.changed(epochs=2)
    train(lambda: Watcher(plain, draws=False), digits, recipe, seed=3)
    train(lambda: Watcher(random, draws=True), digits, recipe, seed=3)
    assert len(plain) == 2 * (897 // recipe.batch_size)
    assert plain == random
    assert len(set(plain)) == len(plain)  # the second epoch is not a copy of the first


class ThreeHeads(nn.Module):
    """Logits and two auxiliary ones in training, logits in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.heads = nn.ModuleList(nn.Linear(48, 10) for _ in range(3))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.pool(x).flatten(1)
        if not self.training:
            return self.heads[0](x)
        self.steps += 1
        return tuple(head(x) for head in self.heads)


def test_auxiliary_logits_add_to_the_loss_alone() -> None:
    """Where all heads are zero each loss is log 10; accuracy is that of the first; all heads are trained."""
    nets = []

    def make() -> nn.Module:
        nets.append(ThreeHeads())
        for p in nets[0].parameters():
            nn.init.zeros_(p)
        nets[0].heads[1].bias.data[3] = 50.0  # an auxiliary head that always says 3 changes no prediction
        return nets[0]

    digits = load_dataset("digits")
    recipe = RECIPE.changed(epochs=1, batch_size=897, lr=1e-9, label_smoothing=0.0)
    trained = train(make, digits, recipe).epochs[0]
    share = float((digits.train_labels == 3).double().mean())
    assert trained.train_loss == pytest.approx(np.log(10) + 0.3 * (50 * (1 - share) + np.log(10)), rel=1e-4)
    assert trained.train_score == pytest.approx(float((digits.train_labels == 0).double().mean()))
    assert nets[0].steps == 1
    assert all(head.weight.grad.any() for head in nets[0].heads)


class Shift(nn.Module):
    """A norm that sees maps in training that are not those of evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = 3 * x + 1
        return self.fc(self.norm(x).mean((2, 3)))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_precise_norms_are_those_of_evaluation(ema: float) -> None:
    digits, found, losses = load_dataset("digits"), [], []
    for precise in (False, True):
        recipe = RECIPE.changed(epochs=2, batch_size=299, max_shift=0, precise_norms=precise, ema=ema)
        trained = train(Shift, digits, recipe, on_trained=lambda net: found.append(net.norm))
        losses.append([epoch.train_loss for epoch in trained.epochs])
    assert losses[0] == losses[1]  # training itself is the same
    images = digits.train_images
    assert found[1].running_mean == pytest.approx(images.mean((0, 2, 3)), abs=1e-4)
    assert found[1].running_var == pytest.approx(images.var((0, 2, 3)), rel=1e-3)
    assert float((found[0].running_mean - images.mean()).abs().min()) > 0.1
    assert not found[1].training


@pytest.mark.slow  # their part of the loss is asked for above
def test_auxiliary_classifiers_train() -> None:
    trained = train(
        lambda: zoo.create_model("googlenet16_bn_cifar", depths=(1, 3, 1), auxiliary=True, **NARROW),
        load_dataset("digits"),
        RECIPE.changed(epochs=2),
    )
    assert trained.epochs[-1].test_score > 0.3
    assert trained.epochs[1].train_loss < trained.epochs[0].train_loss


def test_a_loss_that_is_not_finite_names_net_and_epoch() -> None:
    with pytest.raises(DivergedError, match=r"^the net: the loss is nan in epoch 1 of 2"):
        train(NanNet, load_dataset("digits"), RECIPE.changed(epochs=2), label="the net")


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_scores_that_are_not_finite_are_no_answers(task: str) -> None:
    """A loss may be finite in every batch, and the scores of the final net not."""
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^the net's scores are not finite \(nan or inf\)"):
            tasks.TASKS[task].predict(nn.Identity(), torch.full((1, 3, 2, 2), value))


class NanNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))) * float("nan")


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size 1000 exceeds the 897 training images"):
        train(small_net, load_dataset("digits"), RECIPE.changed(batch_size=1000))


def test_bfloat16_trains() -> None:
    trained = train(small_net, load_dataset("digits"), RECIPE.changed(epochs=1, amp="bfloat16"))
    assert trained.epochs[0].test_score > 0.5


@pytest.mark.gpu
def test_a_gpu_trains() -> None:
    recipe = RECIPE.changed(epochs=2, amp="bfloat16")
    trained = train(small_net, load_dataset("digits"), recipe, device="cuda")
    assert trained.epochs[-1].test_score > 0.7
    assert trained.peak_memory
    assert trained.peak_memory < 2**30


def test_peak_memory_is_that_of_the_run_alone() -> None:
    device = torch.device("cpu")
    watch = PeakMemory(device)
    if watch.read() is None:
        pytest.skip("the system does not tell the peak memory")
    ballast = np.ones(2**25)  # 256 MiB
    with_ballast = watch.read()
    del ballast
    without = PeakMemory(device).read()
    assert with_ballast is not None
    assert without is not None
    assert with_ballast - without > 200 * 2**20


# ---------------------------------------------------------------- results on disk

RUN = Run(
    name="resnet20_cifar",
    overrides={"order": "pre", "depths": (1, 2)},  # not in alphabetical order
    dataset="digits",
    recipe=Recipe(epochs=3, batch_size=32, lr=0.1),
    seed=0,
)


def test_the_key_of_a_run_is_stable() -> None:
    assert RUN.key == "d449022d8985a2c8"  # a new value here means that every stored result is taken for missing
    assert RUN.display == "resnet20_cifar + depths=(1, 2), order=pre"
    stored = json.loads(json.dumps(RUN.to_dict()))
    stored["recipe"] = Recipe(**stored["recipe"])
    again = Run(**stored)
    assert (again.key, again.display) == (RUN.key, RUN.display)
    assert replace(RUN, recipe=RUN.recipe.changed(warmup_epochs=1)).key == RUN.key  # 1 is 1.0
    assert replace(RUN, overrides=dict(sorted(RUN.overrides.items()))).key == RUN.key


def test_the_key_follows_all_that_is_asked() -> None:
    others = [
        replace(RUN, name="resnet32_cifar"),
        replace(RUN, overrides={"order": "pre"}),
        replace(RUN, dataset="other"),
        replace(RUN, seed=1),
        *(replace(RUN, recipe=RUN.recipe.changed(**{key: value})) for key, value in CHANGES.items()),
    ]
    assert set(CHANGES) == set(RUN.recipe.to_dict())
    assert len({RUN.key, *(run.key for run in others)}) == len(others) + 1


CHANGES = {
    "epochs": 4,
    "batch_size": 16,
    "lr": 0.2,
    "momentum": 0.8,
    "nesterov": False,
    "weight_decay": 0.0,
    "warmup_epochs": 0.5,
    "label_smoothing": 0.1,
    "max_shift": 1,
    "amp": "bfloat16",
}


# ---------------------------------------------------------------- sweeps


class Notes(runner.Listener):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.started: tuple[int, int, int] | None = None
        self.counted: list[str] = []
        self.epochs: list[tuple[str, int, int]] = []
        self.failed: list[str] = []

    def on_count(self, display: str, done: int, total: int) -> None:
        self.counted.append(display)

    def on_start(self, runs: int, skipped: int, epochs: int) -> None:
        self.started = runs, skipped, epochs

    def on_epoch(self, run: Run, metrics: Any) -> None:
        self.epochs.append((run.name, run.seed, metrics.epoch))

    def on_failure(self, run: Run, message: str) -> None:
        self.failed.append(message)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset of a few digits, eight pixels wide, for sweeps that need not learn."""
    whole = load_dataset("digits")
    few = replace(
        whole,
        name="tiny",
        train_images=whole.train_images[:70, :, ::4, ::4],
        train_labels=whole.train_labels[:70],
        test_images=whole.test_images[:50, :, ::4, ::4],
        test_labels=whole.test_labels[:50],
    )
    monkeypatch.setitem(DATASETS, "tiny", DatasetRow(load=lambda: few, recipe=RECIPE))
    return "tiny"


def small_runs(names: list[str], seeds: list[int], dataset: str) -> list[Run]:
    return runner.plan(names, dataset, RECIPE.changed(epochs=1), seeds, SMALL)


def test_a_sweep_stores_every_run_and_does_none_twice(tmp_path: Path, tiny: str) -> None:
    path, notes = tmp_path / "results.jsonl", Notes()
    outcome = runner.sweep(small_runs(["preresnet20_cifar"], [0, 1], tiny), path, listener=notes)
    assert outcome == runner.Outcome(finished=2, skipped=0, failures=())
    assert notes.counted == [SMALL_NAME]  # counted once for two seeds
    before, notes = path.read_bytes(), Notes()
    outcome = runner.sweep(
        small_runs(["preresnet20_cifar", "zoo_preresnet20_cifar"], [0, 1, 2], tiny), path, listener=notes
    )
    assert outcome == runner.Outcome(finished=1, skipped=2, failures=())
    assert notes.started == (1, 2, 1)
    assert notes.epochs == [("preresnet20_cifar", 2, 1)]
    assert path.read_bytes().startswith(before)

    record = stored(path)[-1]
    net = runner.build(small_runs(["preresnet20_cifar"], [0], tiny)[0], load_dataset(tiny))
    assert record["counts"]["params"] == sum(parameter.numel() for parameter in net.parameters())
    assert record["display"] == SMALL_NAME
    assert record["counts"]["uncounted"]
    assert record["spec"]["depths"] == [1, 1, 1]
    assert record["overrides"] == {"depths": [1, 1, 1], "widths": [4, 4, 4], "stem_width": 4}
    assert record["family"] == "resnet"
    assert record["recipe"]["epochs"] == len(record["epochs"]) == 1
    assert (record["dataset"]["train"], record["dataset"]["test"]) == (70, 50)
    accuracy = record["test_accuracy"]
    assert record["standard_error"] == pytest.approx((accuracy * (1 - accuracy) / 50) ** 0.5)
    assert record["device"]["threads"] == torch.get_num_threads()
    assert set(record["versions"]) == {"python", "torch", "timm", "zoo"}
    assert record["seed"] == 2
    assert record["finished_at"].endswith("+00:00")


def test_force_does_it_again(tmp_path: Path, tiny: str) -> None:
    path, runs = tmp_path / "results.jsonl", small_runs(["preresnet20_cifar"], [0], tiny)
    write(path, [line_of("a", key=runs[0].key)])
    assert runner.sweep(runs, path).finished == 0
    assert runner.sweep(runs, path, force=True).finished == 1
    assert len(stored(path)) == 2


BROKEN = "resnet20_projection_cifar"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Notes:
    """A listener; once training has begun, nets of the name `BROKEN` give no numbers."""
    build, notes, started = attempt.build, Notes(), []
    monkeypatch.setattr(notes, "on_start", lambda *_: started.append(True))  # the nets are counted by now
    monkeypatch.setattr(
        attempt, "build", lambda run, data: NanNet() if started and run.name == BROKEN else build(run, data)
    )
    return notes


def test_a_net_that_diverges_has_its_line_and_does_not_stop_the_others(
    tmp_path: Path, tiny: str, broken: Notes
) -> None:
    runs, path = small_runs([BROKEN, "preresnet20_cifar"], [0], tiny), tmp_path / "results.jsonl"
    outcome = runner.sweep(runs, path, listener=broken)
    assert (outcome.finished, outcome.skipped) == (1, 0)
    assert outcome.failures == tuple(broken.failed)
    assert len(broken.failed) == 1
    assert broken.failed[0].startswith(runs[0].display)
    failed, finished = stored(path)
    assert finished["name"] == "preresnet20_cifar"
    assert "nan in epoch 1 of 1" in broken.failed[0]
    assert failed["error"].startswith("DivergedError: resnet20_projection_cifar")
    assert "nan in epoch 1 of 1" in failed["error"]
    assert "raise DivergedError(" in failed["traceback"]
    assert (failed["name"], failed["seed"], failed["key"]) == (BROKEN, 0, runs[0].key)
    assert [record["name"] for record in read([path]).trainings] == ["preresnet20_cifar"]
    assert [record["name"] for record in read([path]).failures] == [BROKEN]


def test_a_failed_run_is_tried_again(tmp_path: Path, tiny: str, broken: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, path, row = small_runs([BROKEN], [0], tiny), tmp_path / "results.jsonl", DATASETS[tiny]
    assert len(runner.sweep(runs, path, listener=broken).failures) == 1
    monkeypatch.undo()
    monkeypatch.setitem(DATASETS, tiny, row)
    assert runner.sweep(runs, path).finished == 1
    assert read([path]).failures == []
    assert [record["key"] for record in read([path]).trainings] == [runs[0].key]


def test_wrong_requests_stop_before_any_training(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for names, overrides, message in (
        (["preresnet20_cifar", "resnet20_cifarr"], {}, r"resnet20_cifarr.*did you mean"),
        (["preresnet20_cifar"], {"depth": 3}, r"preresnet20_cifar \+ depth=3: .*depths"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.sweep(runner.plan(names, "digits", RECIPE, [0], overrides), path)
    with pytest.raises(ValueError, match=r"override 'num_classes' is set by the benchmark"):
        runner.plan(["resnet20_cifar"], "digits", RECIPE, [0], {"num_classes": 3})
    with pytest.raises(ValueError, match=r"pattern 'nothing\*' matches no model"):
        zoo.registry.expand_names(["nothing*"])
    with pytest.raises(ValueError, match=r"unknown lineup 'big': choose from default, all"):
        runner.lineup("big")
    assert not path.exists()


def test_a_net_that_needs_another_recipe_gets_it() -> None:
    """Rows of nets without norms say so; what the user fixes stays; other nets have the recipe as it is."""
    names = ["highway11_cifar", "resnet20_cifar", "timm:test_resnet"]
    highway, resnet, foreign = (run.recipe for run in runner.plan(names, "digits", RECIPE, [0]))
    assert (highway.lr, highway.epochs) == (0.2 * RECIPE.lr, 2.5 * RECIPE.epochs)
    assert resnet == foreign == RECIPE
    [fixed] = runner.plan(names[:1], "digits", RECIPE, [0], fixed=("lr", "epochs"))
    assert fixed.recipe == RECIPE
    for name in zoo.list_models():
        entry = zoo.model_entry(name)
        assert entry.lr_factor == 1 or "learning rate" in entry.notes, name
        assert entry.epochs_factor == 1 or "epochs" in entry.notes, name
        assert not entry.precise_norms or "precise" in entry.notes, name


def test_a_plan_compares_all_nets_before_the_next_seed() -> None:
    runs = runner.plan(["b", "a", "b"], "digits", RECIPE, [4, 2])
    assert [(run.name, run.seed) for run in runs] == [("b", 4), ("a", 4), ("b", 2), ("a", 2)]


def test_a_plan_varies_overrides_in_all_combinations() -> None:
    vary = {"order": ["post", "pre"], "squeeze": [0, 16]}
    runs = runner.plan(["a"], "digits", RECIPE, [0, 1], {"close": False}, vary=vary)
    assert [run.overrides for run in runs[:4]] == [
        {"close": False, "order": order, "squeeze": squeeze} for order in ("post", "pre") for squeeze in (0, 16)
    ]
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4


def test_the_lineups_are_nested() -> None:
    default = runner.lineup("default")
    assert "resnet20_cifar" in default
    assert set(default) < set(runner.lineup("all"))


@pytest.mark.parametrize(("width", "layout"), [(4, "contiguous"), (16, "channels_last")])
def test_narrow_strided_projections_keep_torchs_layout(tmp_path: Path, width: int, layout: str) -> None:
    narrow = {"depths": (1, 1, 1), "widths": (width,) * 3, "stem_width": width}
    [run] = runner.plan(["preresnet20_cifar"], "digits", RECIPE.changed(epochs=1), [0], narrow)
    runner.sweep([run], tmp_path / "r.jsonl")
    [line] = stored(tmp_path / "r.jsonl")
    assert line["computed"]["layout"] == layout


def test_timm_nets_run_beside_ours() -> None:
    run = runner.plan(["timm:test_resnet"], "digits", RECIPE, [0])[0]
    assert run.name == "timm:test_resnet"
    assert runner.build(run, load_dataset("digits"))(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def die_after_the_first_line() -> None:
    write = runner.append

    def append_and_die(*args: Any) -> None:
        write(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    runner.append = append_and_die


def test_a_killed_bench_keeps_what_is_finished_and_does_the_rest(tmp_path: Path) -> None:
    seeds, done = list(range(3)), 1
    words = ["bench", "preresnet20_cifar", "--epochs", "1", "--threads", "1"]
    words += [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    words += ["--out", str(tmp_path), "--seeds", *map(str, seeds)]
    path = tmp_path / "results.jsonl"
    assert run_zoo(*words, folder=tmp_path, prepare=die_after_the_first_line).status == -signal.SIGKILL
    before = path.read_bytes()
    assert len(before.splitlines()) == done
    assert before.endswith(b"\n")
    assert not list(tmp_path.glob("*.png"))

    again = run_zoo(*words, folder=tmp_path)
    assert again.status == 0
    assert f"{done} finished run" in again.err
    assert again.err.count("% test accuracy after 1 epochs") == len(seeds) - done
    assert path.read_bytes().startswith(before)
    assert [record["seed"] for record in stored(path)] == seeds
    for name in ("accuracy_vs_params.png", "accuracy_vs_macs.png", "table.md"):
        assert str(tmp_path / name) in again.out
        assert (tmp_path / name).stat().st_size > 0


# ---------------------------------------------------------------- files


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_in_folder(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"disk"):
        files.write_in_folder(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_have_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """What is a day old, for a younger one may be in the making; and of this file alone."""
    path = tmp_path / "weights.pth"
    old = [tmp_path / name for name in (".weights.pth.0123abcd", ".weights.pth.0123abcg", ".other.pth.0123abcd")]
    young = tmp_path / ".weights.pth.ffffffff"
    for remains in (*old, young):
        remains.write_bytes(b"half")
    for remains in old:
        os.utime(remains, (1, 1))
    files.write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, *old[1:], young])


def test_what_is_written_is_not_private(tmp_path: Path) -> None:
    """A temporary file is readable by its owner alone; the one that takes its place is for everybody."""
    path = tmp_path / "file"
    files.write_in_folder(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o644
