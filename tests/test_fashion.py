"""Fashion-MNIST: found, checked and read; the comparison of topologies on it asks for the nets that it names."""

import gzip
import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from result_lines import run as line_of
from result_lines import stored

import zoo
from zoo.bench.cuda_graph import can_record, set_rate
from zoo.bench.one_run import Placement
from zoo.bench.sweep import plan, sweep
from zoo.bench.tasks import TASKS
from zoo.datasets import fashion
from zoo.datasets.built_in import load_dataset, load_fashion, load_fashion_search
from zoo.recipes import RECIPES
from zoo.results import append
from zoo.results.store import read_if_there

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fashion as comparison  # noqa: E402 - a script, which is no part of the package
from fashion_nets import CLOSE, HEADS, TARGETS, DenseNetwork  # noqa: E402

INSTALLED = fashion.DEBIAN.is_dir()
needs_files = pytest.mark.skipif(not INSTALLED, reason="needs Debian's package dataset-fashion-mnist")


# ---------------------------------------------------------------- files


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four files of a set of 40 and 20 images, gzipped as Debian's are."""
    generator = torch.Generator().manual_seed(0)
    folder, digests = tmp_path / "files", {}
    folder.mkdir()
    for start, count in (("train", 40), ("t10k", 20)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        for kind, header, values in (("images", 16, images), ("labels", 8, labels)):
            name = f"{start}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
            content = bytes(header) + values.numpy().tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            digests[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(fashion, "DIGESTS", digests)
    monkeypatch.setattr(fashion, "PARTS", {"train": ("train", 40), "test": ("t10k", 20)})
    return folder


def unpacked(folder: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for path in folder.glob("*.gz"):
        (to / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return to


def test_files_are_found_packed_unpacked_and_where_torchvision_keeps_them(small: Path, tmp_path: Path) -> None:
    unpacked(small, tmp_path / "root" / "FashionMNIST" / "raw")
    one, two = (load_fashion(folder) for folder in (small, tmp_path / "root"))
    assert torch.equal(one.train_images, two.train_images)
    assert one.fingerprint == two.fingerprint
    assert (one.input_size, one.train_size, one.test_size) == ((3, 28, 28), 40, 20)
    assert one.train_labels.tolist() == [i % 10 for i in range(40)]
    assert one.describe()["classes"][9] == "Ankle boot"


def test_a_missing_file_is_explained(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next(small.glob("t10k-labels*")).unlink()
    with pytest.raises(ValueError, match=r"data-dir '.*files' does not hold the four files .*: add --download"):
        load_fashion(small)
    monkeypatch.setattr(fashion, "DEBIAN", small)
    with pytest.raises(ValueError, match=r"dataset 'fashion' is not in .*: install Debian's package dataset-fashion"):
        load_fashion()


@pytest.mark.parametrize("damage", ["another", "cut", "no gzip", "bomb"])
def test_a_file_that_is_not_the_published_one_is_refused_by_name(
    small: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    changed = bytes([content[0] ^ 1]) + content[1:]
    whole = path.read_bytes()
    path.write_bytes({"another": gzip.compress(changed), "cut": whole[:-100], "no gzip": content}.get(damage, whole))
    if damage == "bomb":
        monkeypatch.setattr(fashion, "LIMIT", 100)
    said = {"another": "is not the published file", "bomb": "unpacks to more than 100 bytes"}
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte.gz: {said.get(damage, 'cannot be read')}"):
        load_fashion(small)


@needs_files
def test_the_published_set_is_whole() -> None:
    images = load_dataset("fashion")
    assert (images.train_size, images.test_size) == (60_000, 10_000)
    assert images.train_labels.bincount().tolist() == [6_000] * 10
    assert images.test_labels.bincount().tolist() == [1_000] * 10
    # The figures that everybody normalises with.
    assert float(images.mean) == pytest.approx(0.2860, abs=5e-5)
    assert float(images.std) == pytest.approx(0.3530, abs=5e-5)


@needs_files
def test_the_search_takes_training_images_alone_and_no_image_twice() -> None:
    whole, search = fashion.read(fashion.find(), "train"), load_fashion_search()
    assert (search.train_size, search.test_size) == (8_000, 4_000)
    assert search.test_labels.bincount().tolist() == [400] * 10

    def marks(images: torch.Tensor) -> list[bytes]:
        return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]

    own = marks(search.train_images[:, 0]), marks(search.test_images[:, 0])
    assert not set(own[0]) & set(own[1])
    assert set(own[0]) | set(own[1]) <= set(marks(whole.images))


# ---------------------------------------------------------------- the comparison


@pytest.mark.parametrize("size", comparison.SIZES)
@pytest.mark.parametrize("topology", comparison.STUDY, ids=lambda topology: topology.label)
def test_nets_for_28_px_have_the_size_that_they_are_compared_at(topology: comparison.Topology, size: str) -> None:
    net = zoo.create_model(topology.preset, num_classes=10, **comparison.overrides(topology, size)).eval()
    assert net(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
    params = sum(parameter.numel() for parameter in net.parameters())
    assert abs(params / comparison.SIZES[size][0] - 1) <= 0.05


def test_every_topology_is_trained_with_the_rate_that_suits_it(tmp_path: Path) -> None:
    path, runs = tmp_path / "search.jsonl", comparison.search_runs()
    assert len(runs) == 16 * 2 * 3
    scores = {0.03: 0.8, 0.1: 0.9, 0.3: 0.7}
    for key, (choice, run) in runs.items():
        if (choice.label, choice.size) == ("FRRN", "0.3 M") and run.recipe.lr == 0.1:
            append(path, {"key": key, "name": run.name, "error": "the loss is nan"})
        elif choice.label != "LeNet":
            score = scores.get(run.recipe.lr, run.recipe.lr)
            append(path, line_of(run.name, key=key, test_accuracy=score))
    chosen = comparison.chosen_rates(path)
    assert len(chosen) == 30  # LeNet's are not in
    assert chosen[comparison.Choice("ResNet", "0.1 M")] == 0.1
    assert chosen[comparison.Choice("FRRN", "0.3 M")] == 0.03
    assert chosen[comparison.Choice("highway", "0.1 M")] == 0.06  # a fifth of 0.3
    image = comparison.image_runs(chosen)
    assert len(image) == 30 * 3
    assert {run.recipe.lr for choice, run in image.values() if choice.label == "highway"} == {0.06}


def test_the_page_shows_the_table_of_the_lines() -> None:
    page = (ROOT / "docs" / "study.md").read_text("ascii")
    assert f"<!-- fashion -->\n{comparison.table(comparison.OUT)}\n<!-- /fashion -->" in page


def test_all_published_runs_of_the_search_are_there() -> None:
    stored = read_if_there(comparison.OUT / "search.jsonl")
    assert not stored.warnings
    assert {line["key"] for line in [*stored.trainings, *stored.failures]} == set(comparison.search_runs())


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, id=f"{n.task}-{n.label}-{n.size}", marks=pytest.mark.slow if n.size == "large" else [])
        for n in comparison.NETWORKS
    ],
)
def test_models_for_scenes_have_as_many_parameters_as_the_fish(network: DenseNetwork) -> None:
    [run] = [run for other, run in comparison.scene_runs([0]).values() if other == network and not run.frozen]
    with torch.device("meta"):
        model = TASKS[network.task].build(run, SimpleNamespace(num_classes=11, input_size=(3, 96, 96)))
    params = sum(parameter.numel() for parameter in model.parameters())
    assert abs(params / TARGETS[network.task][network.size] - 1) <= CLOSE, f"{params:,}"


def test_eight_topologies_take_part_at_each_level_and_each_has_a_floor() -> None:
    runs = comparison.scene_runs()
    assert len(runs) == 3 * 2 * (8 + 2 + 1)
    for task in HEADS:
        large = {n.label for n, run in runs.values() if (n.task, n.size, run.frozen) == (task, "large", False)}
        assert len(large) == 8
        assert sum(run.frozen for n, run in runs.values() if n.task == task) == 3


# ---------------------------------------------------------------- what a run leaves, and how a GPU computes it


def test_weights_are_kept_and_give_the_accuracy_of_the_line(tmp_path: Path) -> None:
    recipe = RECIPES["digits"].recipe.changed(epochs=1)
    runs = plan(["resnet20_cifar"], "digits", recipe, [0], {"depths": (1, 1, 1)})
    sweep(runs, tmp_path / "r.jsonl", placement=Placement(weights=tmp_path / "weights"))
    [line] = stored(tmp_path / "r.jsonl")
    net = zoo.create_model("resnet20_cifar", depths=(1, 1, 1)).eval()
    zoo.load_weights(net, tmp_path / line["weights"])
    images = load_dataset("digits")
    with torch.no_grad():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in images.test_batches())
    assert right / images.test_size == line["test_accuracy"]


def test_only_what_can_be_replayed_is_recorded() -> None:
    recipe = RECIPES["fashion"].recipe
    gpu = torch.device("cuda")
    assert can_record(gpu, recipe, 1)
    assert not can_record(torch.device("cpu"), recipe, 1)
    assert not can_record(gpu, recipe, 2)
    assert not can_record(gpu, recipe.changed(optimizer="adamw"), 1)
    assert not can_record(gpu, recipe.changed(ema=0.9), 1)


def test_a_rate_is_set_where_the_optimizer_keeps_it() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights], lr=0.1)
    kept = optimizer.param_groups[1]["lr"] = torch.tensor(0.1)
    set_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[1]["lr"] is kept  # in place: a recorded step reads this very tensor
    assert float(kept) == 0.5


@pytest.mark.gpu
def test_a_recorded_run_is_the_run(tmp_path: Path) -> None:
    recipe = RECIPES["digits"].recipe.changed(epochs=2)
    runs = plan(["resnet20_cifar"], "digits", recipe, [0], {"depths": (1, 1, 1)})
    losses = []
    for recorded in (False, True):
        path = tmp_path / f"{recorded}.jsonl"
        sweep(runs, path, placement=Placement(device="cuda", recorded=recorded, deterministic=True))
        losses.append([epoch["train_loss"] for epoch in stored(path)[0]["epochs"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
