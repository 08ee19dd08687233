"""Fashion-MNIST: found, checked and read; the comparison of topologies on it asks for the nets that it names."""

import csv
import gzip
import hashlib
import sys
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from result_lines import changed, stored, write
from result_lines import run as line_of

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

import fashion_page as page  # noqa: E402 - scripts, which are no part of the package
import fashion_picture as picture  # noqa: E402
import fashion_plan as comparison  # noqa: E402
import fashion_tables as tables  # noqa: E402
from fashion_nets import CLOSE, HEADS, TARGETS, DenseNetwork  # noqa: E402
from fashion_study import read_study, verdict  # noqa: E402
from fashion_weights import TRUTH  # noqa: E402

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


def test_published_files_belong_together() -> None:
    """Lines, tables, picture, page and README are of one state: run `python benchmarks/fashion.py --stages table`."""
    study, out = read_study(comparison.OUT), comparison.OUT
    assert (out / "study.md").read_text("ascii") == f"{page.summary(study)}\n"
    written = tables.tables(study)
    for name, table in written.items():
        assert (out / name).read_text("ascii") == table, name
    shown = (out / "study.png").read_bytes()
    source = picture.digest_of("".join(written.values())).encode()
    assert source in shown, "the picture shows another state"
    assert source in (out / "study.svg").read_bytes()
    for path, content in page.pages(study, shown).items():
        assert path.read_bytes() == content, path
    title = f"{page.TITLE}. {study.state}"
    assert f"<title>{title}</title>".encode() in (out / "report.html").read_bytes()


def test_no_answer_is_of_another_run() -> None:
    study = read_study(comparison.OUT)
    truth = study.answers[TRUTH]
    lines = {line["key"]: line for point in study.points.values() for line in point.result.runs}
    assert len(truth) == 10_000
    assert set(study.answers) - {TRUTH} <= set(lines)
    for key, line in lines.items():
        if own := study.answers.get(key):
            right = sum(a == b for a, b in zip(own, truth, strict=True))
            # Computed again on another device, in half precision.
            assert abs(right - 10_000 * line["test_accuracy"]) <= 15, line["display"]


def lines_of(choices: dict[tuple[str, str], list[float]], tmp_path: Path) -> Path:
    """A folder of results: a search that prefers 0.1, and some runs with their scores."""
    write(
        tmp_path / "search.jsonl",
        [
            line_of(run.name, key=key, test_accuracy=1 - abs(run.recipe.lr - 0.1))
            for key, (_, run) in comparison.search_runs().items()
        ],
    )
    lines = []
    for key, (choice, run) in comparison.image_runs(comparison.chosen_rates(tmp_path / "search.jsonl")).items():
        scores = choices.get((choice.label, choice.size), [])
        if run.seed < len(scores):
            line = line_of(run.name, run.seed, key=key, test_accuracy=scores[run.seed], overrides=dict(run.overrides))
            line = {**line, "recipe": run.recipe.to_dict(), "dataset": {**line["dataset"], "name": "fashion"}}
            lines.append(line)
    write(tmp_path / "image.jsonl", lines)
    return tmp_path


def test_an_incomplete_study_says_so_everywhere(tmp_path: Path) -> None:
    scores = {("ResNet", "0.3 M"): [0.93], ("VGG", "0.1 M"): [0.90, 0.91, 0.92], ("wide", "0.1 M"): [0.92]}
    scores[("plain", "0.3 M")] = [0.91, 0.91]  # one more than is planned
    study = read_study(lines_of(scores, tmp_path))
    assert study.state == "Not complete: 6 of 64 runs on images and 0 of 66 runs on scenes are in."
    assert study.ranked[:2] == ["ResNet", "plain"]
    table = {line.split("|")[1].strip(): line for line in tables.image_table(study).splitlines()[2:]}
    assert len(table) == 16
    assert "91.00 +- 0.58 (3 seeds)" in table["VGG"]
    assert "93.00 (1 seed)" in table["ResNet"]
    assert "92.00 (1 of 3 seeds)" in table["wide"]
    assert table["LeNet"].count("not yet") == 2
    assert study.state in page.summary(study)
    assert study.state in tables.image_csv(study)
    assert "No run on scenes is in." in page.summary(study)
    assert tables.correlation_table(study).count("not yet") == 6
    shown = page.draw(study, "svg", "0123").decode()
    assert f"{picture.DATASET}: NOT COMPLETE, 6 of 130 runs are in" in shown
    assert "<dc:source>0123</dc:source>" in shown


def test_pairs_are_of_the_same_seed_and_corrected(tmp_path: Path) -> None:
    scores = {"ResNet": [0.92, 0.91], "plain": [0.9], "VGG": [0.9]}
    out = lines_of({(label, "0.3 M"): own for label, own in scores.items()}, tmp_path)
    keys = {
        choice.label: key
        for key, (choice, run) in comparison.image_runs(comparison.chosen_rates(out / "search.jsonl")).items()
        if (choice.size, run.seed) == ("0.3 M", 0)
    }
    rows = {"truth": "1" * 40, keys["ResNet"]: "1" * 40, keys["plain"]: "1" * 30 + "2" * 10}
    rows |= {keys["VGG"]: "1" * 31 + "2" * 9}
    text = "".join(f"{key},{answers}\n" for key, answers in {"key": "answers", **rows}.items())
    (out / "answers.csv").write_text(text, "ascii")
    study = read_study(out)
    assert study.by_answers["images, 0.1 M"] == []
    pairs = study.told_apart("images, 0.3 M")
    found = {pair.labels: pair for pair in pairs}
    assert set(found) == {("plain", "ResNet"), ("plain", "VGG"), ("ResNet", "VGG")}
    first = found["plain", "ResNet"]
    assert (first.compared.first, first.compared.second, first.compared.p_value) == (0, 10, 2**-10)
    assert first.corrected == 3 * 2**-10
    assert verdict("ResNet", pairs) == (2, 0, 2)
    assert verdict("plain", pairs) == (0, 1, 2)  # nothing tells it and VGG apart
    assert verdict("LeNet", pairs) is None
    assert "ResNet leads with 91.50 %, by more than chance ahead of 2 of 2 others on the same" in page.says(study)


def test_seconds_in_the_table_are_of_the_device_beside_them(tmp_path: Path) -> None:
    out = lines_of({("VGG", "0.1 M"): [0.90, 0.91]}, tmp_path)
    first, second = read_if_there(out / "image.jsonl").trainings
    write(out / "image.jsonl", [changed(first, seconds=7.0, device__name="H100"), changed(second, seconds=900.0)])
    rows = csv.DictReader(tables.image_csv(read_study(out)).splitlines())
    [row] = [row for row in rows if (row["topology"], row["size"]) == ("VGG", "0.1 M")]
    assert (row["device"], row["seconds"]) == ("H100", "7.0")


def test_a_failed_run_is_told_and_leaves_its_net_out_over_the_seeds(tmp_path: Path) -> None:
    scores = {(topology.label, "0.1 M"): [0.90, 0.91, 0.92] for topology in comparison.STUDY}
    scores["highway", "0.1 M"] = [0.90, 0.91]
    out = lines_of(scores, tmp_path)
    level = "images, 0.1 M"
    study = read_study(out)
    assert "47 of 64 runs on images and" in study.state
    assert study.by_seeds[level] == []  # highway's last run is missing
    runs = comparison.image_runs(comparison.chosen_rates(out / "search.jsonl"))
    where = ("highway", "0.1 M", 2)
    [key] = [key for key, (choice, run) in runs.items() if (choice.label, choice.size, run.seed) == where]
    last = read_if_there(out / "image.jsonl").trainings[-1]
    failure = changed(last, key=key, name=runs[key][1].name, seed=2, error="nan", test_accuracy=None, epochs=None)
    append(out / "image.jsonl", failure)
    study = read_study(out)
    assert "48 of 64 runs on images (1 failed) and" in study.state
    assert len(study.by_seeds[level]) == 15 * 14 / 2
    assert not any("highway" in pair.labels for pair in study.by_seeds[level])
    table = {line.split("|")[1].strip(): line for line in tables.image_table(study).splitlines()[2:]}
    assert "(2 of 3 seeds)" in table["highway"]
    assert ", seed 2: nan" in page.summary(study)
    assert ", 1 failed" in page.draw(study, "svg", "0123").decode()


def with_scenes(folder: Path, labels: Collection[str]) -> Path:
    """Add lines of scenes: topologies in alphabetical order, regions the other way round, one seed missing."""
    lines = []
    for key, (network, run) in comparison.scene_runs().items():
        if network.label in labels and (network.size, run.seed) != ("small", 2):
            place = sorted(labels).index(network.label) * (1 if network.task == "segment" else -1)
            score = 0.1 if run.frozen else 0.5 + place / 100 + run.seed / 1000
            own = {"task": run.task, "head": run.head, "frozen": run.frozen, "overrides": dict(run.overrides)}
            own |= {"test_miou": score, "trivial_miou": 0.07} if run.task == "segment" else {"test_map": score}
            line = line_of(run.name, run.seed, key=key, recipe=run.recipe.to_dict(), dataset__name="fashion_scenes")
            lines.append({k: v for k, v in (line | own).items() if k not in ("test_accuracy", "epochs")})
    write(folder / "scenes.jsonl", lines)
    return folder


def test_pixels_and_regions_are_told_beside_images(tmp_path: Path) -> None:
    labels = sorted({network.label for network in comparison.NETWORKS})
    images = {(label, "0.3 M"): [0.9 + place / 100] for place, label in enumerate(labels)}
    study = read_study(with_scenes(lines_of(images, tmp_path), labels))
    assert study.done["scenes"] == 66 - 4
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in tables.scene_table(study).splitlines()[2:]}
    cells = ["55.10 +- 0.06 (3 seeds)", "5 / 2 of 7", "45.10 +- 0.06 (3 seeds)", "2 / 5 of 7"]
    assert [cell.strip() for cell in table["fabric, large"]] == cells
    assert table["fabric, small"][0].strip() == "55.05 +- 0.05 (2 of 3 seeds)"
    assert table["ResNet, large, random and frozen"][0].strip() == "10.00 +- 0.00 (3 seeds)"
    assert [cell.strip() for cell in table["all background"]] == ["7.00", "-", "-", "-"]
    found = [line.split("|")[1:-1] for line in tables.correlation_table(study).splitlines()[2:]]
    rho = {(cells[0].strip(), cells[1].strip()): cells[3].strip() for cells in found}
    assert rho["images, 0.3 M", "scenes, mIoU"] == "1.00"
    assert rho["images, 0.3 M", "scenes, mAP"] == rho["scenes, mIoU", "scenes, mAP"] == "-1.00"
    says = page.says(study)
    assert "pre-activation leads by pixels (mIoU 57.1 %, by more than chance ahead of 7 of 7 others)" in says
    assert "and DenseNet leads by regions (mAP 50.1 %, by more than chance ahead of 7 of 7 others)" in says
    assert "of 8 topologies between images and pixels is 1.00 and between images and regions is -1.00" in says
    rows = list(csv.DictReader(tables.scene_csv(study).splitlines()))
    assert len(rows) == 2 * (8 + 2 + 1)
    assert {row["seeds"] for row in rows if row["size"] == "small"} == {"2"}
    shown = page.draw(study, "svg", "0123").decode()
    assert "regions of scenes" in shown
    assert shown.count(" (2 of 3)") == 4  # the smaller fish and fabric, twice


def test_one_missing_topology_is_no_order_of_scenes(tmp_path: Path) -> None:
    labels = sorted({network.label for network in comparison.NETWORKS} - {"VGG"})
    images = {(label, "0.3 M"): [0.9] for label in labels}
    assert "In scenes" not in page.says(read_study(with_scenes(lines_of(images, tmp_path), labels)))


def test_the_longer_training_stands_beside_published_nets_of_its_size(tmp_path: Path) -> None:
    [(key, run)] = comparison.long_runs().items()
    assert run.recipe.epochs >= 20
    line = line_of(run.name, key=key, test_accuracy=0.9444, recipe=run.recipe.to_dict(), dataset__name="fashion")
    write(lines_of({}, tmp_path) / "long.jsonl", [line])
    rows = [row.split("|")[1:-1] for row in tables.long_table(read_study(tmp_path)).splitlines()[2:]]
    names = [row[0].strip() for row in rows]
    assert names.index("ResNet-20") < names.index("resnet20_cifar, 20 epochs")
    assert [row[3].strip() for row in rows if "20 epochs" in row[0]] == ["94.44"]
    assert not any("WRN" in name for name in names)


def test_correlations_are_those_of_common_topologies(tmp_path: Path) -> None:
    labels = ("plain", "ResNet", "VGG", "LeNet")
    scores = {(label, size): [0.8 + i / 100] for size in comparison.SIZES for i, label in enumerate(labels)}
    study = read_study(lines_of(scores | {("FishNet", "0.1 M"): [0.5]}, tmp_path))
    first = tables.correlation_table(study).splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["images, 0.1 M", "images, 0.3 M", "4", "1.00", "0.083"]


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
