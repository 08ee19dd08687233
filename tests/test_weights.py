"""Trained weights end to end, without a network: files as they are published, served from this machine."""

import hashlib
import io
import json
import re
import socket
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from pytorchcv.models.common.model_store import get_model_metainfo, get_model_metainfo_dict
from safetensors.torch import save_file
from test_golden import GOLDEN, images, released_names, weight
from torch import Tensor, nn

import zoo
from zoo.layouts import fishnet
from zoo.testing import settle_norms
from zoo.weights import Layout, Weights, sources
from zoo.weights.fit import Loaded, Target, fit
from zoo.weights.formats import Stored
from zoo.weights.loading import check_weights
from zoo.weights.tags import CLASSES, OSMR, torchvision_tags

TAGS = [(name, tag) for name in zoo.list_models() for tag in zoo.model_entry(name).weights]
TYPED = [(name, tag) for name, tag in TAGS if zoo.model_entry(name).weights[tag].url.startswith(OSMR)]


def row(name: str, tag: str) -> Weights:
    return zoo.model_entry(name).weights[tag]


def stem_of(weights: Weights) -> str:
    """pytorchcv's name of the net that a file belongs to."""
    return weights.url.rpartition("/")[2].partition("-")[0]


def twin_of(name: str, tag: str) -> nn.Module:
    """pytorchcv's net that a tag's file belongs to, by the name of the file."""
    return settle_norms(get_model(stem_of(row(name, tag)))).eval()


def publish(net: nn.Module, folder: Path, stem: str = "net-0123") -> Path:
    """Write a state dict as pytorchcv publishes it: a .pth, named after its hash, alone in a zip."""
    content = io.BytesIO()
    torch.save(net.state_dict(), content)
    name = f"{stem}-{hashlib.sha1(content.getvalue()).hexdigest()[:8]}.pth"
    method = zipfile.ZIP_DEFLATED if len(content.getvalue()) < 1 << 20 else zipfile.ZIP_STORED  # to save time
    with zipfile.ZipFile(folder / f"{name}.zip", "w", method) as archive:
        archive.writestr(name, content.getvalue())
    return folder / f"{name}.zip"


def assert_same(have: Tensor, want: Tensor) -> None:
    assert want.isfinite().all()
    assert want.std() > 0
    assert (have - want).abs().max() <= 1e-5 * want.std()


def fitted(tensors: Mapping[str, Tensor], net: nn.Module, **layouts: Layout) -> tuple[dict[str, Tensor], Loaded]:
    """What of tensors in memory fits a net, by the path that all files take."""
    stored = {key: Stored.of(value) for key, value in tensors.items()}
    return fit(stored, Target(type(net).__name__, net.state_dict(), layouts))


def same_outputs(ours: nn.Module, theirs: nn.Module, side: int) -> None:
    x = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert_same(ours.eval()(x), theirs.eval()(x))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a server of it on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"{'http'}://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        pytest.param("fishnet150", "osmr_in1k", marks=pytest.mark.slow),
        pytest.param("resnet50", "osmr_in1k", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", "osmr_in1k", marks=pytest.mark.slow),
        ("resnet20_projection_cifar", "osmr_c10"),
        ("resnet20_projection_cifar", "osmr_c100"),
        ("resnet20_projection_cifar", "osmr_svhn"),
        pytest.param("resnet164_cifar", "osmr_c10", marks=pytest.mark.slow),
        ("preresnet20_cifar", "osmr_c100"),
        pytest.param("preresnet164_cifar", "osmr_svhn", marks=pytest.mark.slow),
        pytest.param("wide_resnet28_10_cifar", "osmr_c10", marks=pytest.mark.slow),
        ("resnext29_32x4d_cifar", "osmr_c100"),
        ("seresnet20_projection_cifar", "osmr_c10"),
        pytest.param("densenet121", "osmr_in1k", marks=pytest.mark.slow),
        ("densenet40_k12_bc_cifar", "osmr_c10"),
    ],
)
def test_published_files_load_by_address(name: str, tag: str, served: tuple[Path, str]) -> None:
    folder, address = served
    theirs = twin_of(name, tag)
    url = f"{address}/{publish(theirs, folder).name}"
    entry = zoo.model_entry(name)
    first = next(iter(entry.weights)) == tag
    names = [(zoo, f"{name}.{tag}"), (timm, f"{entry.timm_name}.{tag}"), *([(zoo, name)] if first else [])]
    for library, full in names[:: 1 if entry.params < 10**7 else len(names)]:
        ours = library.create_model(full, pretrained=True, pretrained_cfg_overlay=dict(url=url, hf_hub_id=None))
        assert ours.num_classes == row(name, tag).num_classes
        same_outputs(ours, theirs, 224 if name == "fishnet150" else entry.input_size[-1])


@pytest.mark.rows
@pytest.mark.parametrize("name", sorted({name for name, _ in TYPED}))
def test_every_published_net_is_ours(name: str) -> None:
    """Names and shapes, for all nets; the outputs are compared above and in the parity tests."""
    entry = zoo.model_entry(name)
    tag = next(tag for owner, tag in TYPED if owner == name)
    with torch.device("meta"):
        theirs = get_model(stem_of(row(name, tag)))
        ours = zoo.create_model(f"{name}.{tag}")
    own = {key: value.shape for key, value in ours.state_dict().items()}
    [fit] = [
        renamed
        for layout in entry.build.layouts.values()
        if (renamed := {layout.rename(key): value for key, value in theirs.state_dict().items()}).keys() == own.keys()
    ]
    assert all(own[key].numel() == value.numel() for key, value in fit.items())


@pytest.mark.rows
@pytest.mark.parametrize(("name", "tag"), TYPED)
def test_the_facts_are_those_of_the_model_store(name: str, tag: str) -> None:
    weights = row(name, tag)
    stem, error, short = weights.url.rpartition("/")[2].removesuffix(".pth.zip").split("-")
    params, *facts = get_model_metainfo(stem)
    assert facts == [error, weights.digest.removeprefix("sha1:"), weights.url.split("/")[-2]]
    assert facts[1].startswith(short)
    assert int(error) == round(100 * (weights.top1_error if weights.top5_error is None else weights.top5_error))
    assert weights.num_classes == CLASSES[tag.removeprefix("osmr_")]
    assert params == sum(p.numel() for p in zoo.create_model(f"{name}.{tag}", device="meta").parameters())


def test_no_published_net_is_forgotten() -> None:
    """Whatever is held against a net of pytorchcv's has the tags of the files that there are of it."""
    store = get_model_metainfo_dict()
    for name in zoo.list_models():
        entry = zoo.model_entry(name)
        source, _, twin = entry.reference.partition(":")
        if source == "pytorchcv" and not twin.startswith("get_"):
            small = twin.removesuffix("_cifar10")
            stems = [twin] if small == twin else [f"{small}_{data}" for data in ("cifar10", "cifar100", "svhn")]
            published = [stem for stem in stems if stem in store and store[stem][1] != "NA"]
            theirs = [weights for weights in entry.weights.values() if not weights.file]
            assert [stem_of(weights) for weights in theirs] == published, name


def test_tags_are_well_formed() -> None:
    assert len(TYPED) >= 50
    for name, tag in TAGS:
        weights = row(name, tag)
        assert re.fullmatch(r"[a-z0-9_]+", tag), (name, tag)
        assert weights.url or weights.hub_id or Path(weights.path).is_file()
        if weights.url:
            assert re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+\.(pth|th|zip)", weights.url), weights.url
            assert re.fullmatch(r"sha1:[0-9a-f]{40}|sha256:[0-9a-f]{8,}", weights.digest), weights
        if weights.hub_id:
            assert re.fullmatch(r"[\w-]+/[\w.-]+", weights.hub_id)
        if (name, tag) in TYPED:
            assert weights.top1_error
            assert weights.licence
        for error in (weights.top1_error, weights.top5_error):
            assert error is None or 0.01 < error < 60
        cfg = timm.models.get_pretrained_cfg(f"{zoo.model_entry(name).timm_name}.{tag}")
        assert (cfg.url or "", cfg.hf_hub_id or "") == (weights.url, weights.hub_id)
        assert timm.is_model_pretrained(f"{zoo.model_entry(name).timm_name}.{tag}")


def test_tags_of_timm_are_those_of_timm() -> None:
    theirs = timm.models.get_arch_pretrained_cfgs("resnet50")
    ours = timm.models.get_arch_pretrained_cfgs("zoo_resnet50")
    assert [f"zoo_{tag}" for tag in theirs] == list(ours)[: len(theirs)]
    same = "url hf_hub_id num_classes mean std input_size test_input_size crop_pct test_crop_pct interpolation license"
    for tag, cfg in theirs.items():
        for field in same.split():
            assert getattr(cfg, field) == getattr(ours[f"zoo_{tag}"], field), (tag, field)
    assert row("resnet50", "a1_in1k").top1_error == pytest.approx(18.76)
    assert zoo.create_model("resnet50.tv_in1k", device="meta").pretrained_cfg["crop_pct"] == 0.875
    assert timm.models.get_pretrained_cfg("resnet50").first_conv == "conv1", "timm's own stays untouched"


def test_tags_of_torchvision() -> None:
    tags = torchvision_tags("resnet50")
    assert list(tags) == ["tv_in1k", "tv2_in1k"]
    assert tags["tv_in1k"].digest == "sha256:0676ba61"
    assert (tags["tv2_in1k"].top1_error, tags["tv2_in1k"].crop_pct) == (19.142, 0.966)
    assert tags["tv_in1k"].mean == (0.485, 0.456, 0.406)


def test_tags_come_with_the_reference() -> None:
    """A net of torchvision's that changes its input by itself gets images as they are after the change."""
    bn = zoo.model_entry("googlenet_bn").weights
    assert list(bn) == ["tv_in1k"]
    assert bn["tv_in1k"].mean == bn["tv_in1k"].std == (0.5, 0.5, 0.5)
    alex = zoo.model_entry("alexnet").weights
    assert list(alex) == ["tv_in1k"]
    assert alex["tv_in1k"].std == (0.229, 0.224, 0.225)


def test_the_published_addresses_answer() -> None:
    host = OSMR.split("/")[2]
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"no network: {host} is out of reach ({error})")
    for name, tag in TYPED:
        request = urllib.request.Request(row(name, tag).url, method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("library", [timm, torchvision.models], ids=["timm", "torchvision"])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_twins_load_from_a_file(library: Any, kind: str, tmp_path: Path) -> None:
    theirs = settle_norms(library.create_model("resnet18") if library is timm else library.resnet18()).eval()
    path = tmp_path / f"twin.{kind}"
    if kind == "pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    same_outputs(zoo.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=dict(file=str(path))), theirs, 64)


def test_auxiliary_classifiers_are_left_out() -> None:
    """As torchvision publishes GoogLeNet: with two more classifiers, for inputs that the net changes by itself."""
    theirs: Any = settle_norms(torchvision.models.googlenet(init_weights=False, transform_input=True)).eval()
    overlay = dict(state_dict=theirs.state_dict())
    ours = zoo.create_model("googlenet_bn.tv_in1k", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    place: Any = zoo.create_model("resnet18.tv_in1k", device="meta").pretrained_cfg
    with torch.no_grad():
        want = theirs((image - torch.tensor(place["mean"]).view(3, 1, 1)) / torch.tensor(place["std"]).view(3, 1, 1))
        have = ours((image - 0.5) / 0.5)
    assert ours.pretrained_cfg["mean"] == ours.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    assert_same(have, want)


@pytest.mark.parametrize(
    "change",
    [dict(in_chans=1), dict(in_chans=5), dict(num_classes=7), dict(num_classes=0), dict(in_chans=1, num_classes=7)],
    ids=str,
)
def test_channels_and_classes_adapt_as_in_timm(change: dict[str, int], tmp_path: Path) -> None:
    overlay = dict(file=str(tmp_path / "twin.pth"))
    torch.save(settle_norms(timm.create_model("resnet18")).eval().state_dict(), overlay["file"])
    theirs = timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=overlay, **change).eval()
    ours = timm.create_model("zoo_resnet18", pretrained=True, pretrained_cfg_overlay=overlay, **change).eval()
    x = torch.randn(2, change.get("in_chans", 3), 64, 64)
    with torch.no_grad():
        assert_same(ours.forward_features(x), theirs.forward_features(x))
        assert ours(x).shape == theirs(x).shape


@pytest.mark.parametrize("feature_cls", ["list", "hook", "getter"])
def test_features_have_the_weights(feature_cls: str, tmp_path: Path) -> None:
    overlay = dict(file=str(tmp_path / "net.pth"))
    net: Any = settle_norms(zoo.create_model("fishnet_test")).eval()
    torch.save(net.state_dict(), overlay["file"])
    taps = zoo.create_model(
        "fishnet_test",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        features_only=True,
        feature_cls=feature_cls,
        in_chans=3,
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for have, want in zip(taps(x), net.forward_intermediates(x, intermediates_only=True), strict=True):
            assert torch.equal(have, want)


def test_a_state_dict_may_be_given() -> None:
    net = zoo.create_model("resnet_test")
    overlay = dict(state_dict=net.state_dict())
    again = zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay)
    same_outputs(again, net, 64)
    assert "state_dict" not in again.pretrained_cfg, "a second copy of the weights would live as long as the net"


def test_the_first_tag_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(url: str, *_: Any) -> None:
        asked.append(url)
        raise OSError(f"{url}: cannot be downloaded")

    monkeypatch.setattr("zoo.weights.sources.download", offline)
    for name in (
        "fishnet150",
        "fishnet150.osmr_in1k",
        "resnet56_projection_cifar",
        "resnet56_projection_cifar.osmr_svhn",
    ):
        with pytest.raises(OSError, match="cannot be downloaded"):
            zoo.create_model(name, pretrained=True)
    assert [url.rpartition("/")[2].partition("-")[0] for url in asked] == [
        *["fishnet150"] * 2,
        "resnet56_cifar10",
        "resnet56_svhn",
    ]


# The released checkpoints of FishNet


def as_released(net: Any, seedless: Callable[[str, torch.Size], Tensor]) -> dict[str, Tensor]:
    """A state dict under the released names, for a net of ours."""
    own, layout = net.state_dict(), fishnet.LAYOUTS["released"]
    shapes = {key: own[layout.rename(key)].shape for key in released_names(net.spec)}
    shapes["fish.fish.9.4.1.weight"] += (1, 1)
    return {key: seedless(key, shape) for key, shape in shapes.items()}


def as_saved(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the released training script wrote around a state dict: PyTorch 0.4.0 counted no batches."""
    return {
        "arch": "fishnet",
        "epoch": 99,
        "best_prec1": torch.tensor(78.1),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "state_dict": {f"module.{k}": v for k, v in tensors.items() if not k.endswith("num_batches_tracked")},
    }


def older(layout: str, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of an older layout."""
    table = json.loads((Path(__file__).parent / "older_fishnet_keys.json").read_text())[layout]
    back = {new: old for old, new in table["rename"].items()}
    return {back.get(key, key): value for key, value in released.items() if key not in table["absent"]}


@pytest.mark.parametrize("layout", ["released", "released_older"])
def test_released_checkpoints_give_the_golden_outputs(layout: str, tmp_path: Path) -> None:
    net: Any = zoo.create_model("fishnet150").eval()
    released = as_released(net, weight)
    path = tmp_path / "fishnet150_ckpt.tar"
    torch.save(as_saved(released if layout == "released" else older(layout, released)), path)
    assert zoo.load_weights(net, path).layout == layout
    with torch.no_grad():
        logits = net(images(2, 224))
    want = torch.tensor(GOLDEN["fishnet150"]["logits16"], dtype=torch.float64)
    assert (logits[:, :16] - want).abs().max() <= 1e-5 * GOLDEN["fishnet150"]["logits_std"]


@pytest.mark.parametrize("name", ["fishnet_test", pytest.param("fishnet201", marks=pytest.mark.slow)])
def test_all_released_layouts_are_one_net(name: str, tmp_path: Path) -> None:
    """The oldest layout has a bare first shortcut; the others get the norm there that changes nothing."""

    def without_first_norm(key: str, shape: torch.Size) -> Tensor:
        constants = {"weight": (1 + 1e-5) ** 0.5, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        prefix, _, leaf = key.rpartition(".")
        if prefix == "fish.fish.0.0.0.shortcut.0" and leaf in constants:
            return torch.full(shape, constants[leaf])
        return weight(key, shape)

    net: Any = zoo.create_model(name, device="meta")
    released = as_released(net, without_first_norm)
    path = tmp_path / "checkpoint.tar"
    read = []
    for layout in ("released", "released_older", "released_oldest"):
        torch.save(as_saved(released if layout == "released" else older(layout, released)), path)
        tensors, found = check_weights(net, path)
        assert found.layout == layout
        assert tensors.keys() == net.state_dict().keys()
        read.append(tensors)
    for other in read[1:]:
        assert all(torch.equal(other[key], value) for key, value in read[0].items())


def test_the_constant_norm_changes_nothing() -> None:
    net: Any = zoo.create_model("fishnet_test").eval()
    layout = fishnet.LAYOUTS["released_oldest"]
    for key, value in layout.constants.items():
        net.state_dict()[key].fill_(value)
    x = torch.rand(2, 8, 16, 16)  # what a max-pool of rectified maps gives
    shortcut = net.tail.stage1[0].shortcut
    with torch.no_grad():
        assert torch.equal(shortcut(x), shortcut.conv1(x))


# CIFAR ResNets whose shortcuts pad before and behind the channels


class Centred(nn.Module):
    """The unit of pytorch_resnet_cifar10, under its names: shortcut A with a quarter of the zeros on each side."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.extra = (out_chs - in_chs) // 2
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=2 if self.extra else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.extra:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return (branch + x).relu()


class CentredNet(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        chs = 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = [Centred(chs if i == 0 else width, width) for i in range(units)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            chs = width
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
        return self.linear(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(("name", "units"), [("resnet20_cifar", 3), ("resnet56_cifar", 9)])
def test_shortcuts_that_pad_on_both_sides(name: str, units: int, tmp_path: Path) -> None:
    """The same function in another order of channels; without the order it would be another function, unsaid."""
    theirs = settle_norms(CentredNet(units)).eval()
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "net.th")
    ours = zoo.create_model(name)
    assert zoo.load_weights(ours, tmp_path / "net.th").layout == "pytorch_resnet_cifar10"
    same_outputs(ours, theirs, 32)
    assert not torch.equal(ours.state_dict()["classifier.fc.weight"], theirs.linear.weight)
    state = {key.replace("linear", "fc"): value for key, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "other.th")
    zoo.load_weights(ours, tmp_path / "other.th")
    assert torch.equal(ours.state_dict()["classifier.fc.weight"], theirs.linear.weight), "nobody says it is in another"


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, pytest.param(1202, marks=pytest.mark.slow)])
def test_tags_of_the_nets_that_pad(depth: int) -> None:
    """Facts of the repository's table; files are named after the start of their SHA-256."""
    weights = row(f"resnet{depth}_cifar", "akamaster_c10")
    name = weights.url.rpartition("/")[2]
    assert re.fullmatch(rf"resnet{depth}-[0-9a-f]{{8}}\.th", name)
    assert weights.digest == f"sha256:{name[-11:-3]}"
    errors = {20: 8.27, 32: 7.37, 44: 6.90, 56: 6.61, 110: 6.32, 1202: 6.18}
    assert weights.top1_error == errors[depth]
    net: Any = zoo.create_model(f"resnet{depth}_cifar.akamaster_c10", device="meta")
    assert net.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)


def test_projections_under_the_same_names_keep_their_order(tmp_path: Path) -> None:
    ours = settle_norms(zoo.create_model("resnet20_projection_cifar")).eval()
    pairs = (
        *(("stem.conv1", "conv1"), ("stem.norm1", "bn1"), ("classifier.fc", "linear"), ("stage", "layer")),
        *(("branch.conv", "conv"), ("branch.norm", "bn")),
        *(("shortcut.conv1", "shortcut.0"), ("shortcut.norm1", "shortcut.1")),
    )  # fmt: skip
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in pairs:
            key = key.replace(old, new)
        state[key] = value
    torch.save({"net": state}, tmp_path / "net.pth")
    again = zoo.create_model("resnet20_projection_cifar")
    assert zoo.load_weights(again, tmp_path / "net.pth").layout == "pytorch_resnet_cifar10"
    same_outputs(again, ours, 32)


def test_names_of_torchvisions_densenet_files(tmp_path: Path) -> None:
    """The published files have ``norm.1`` where torchvision's nets have ``norm1``."""
    theirs = settle_norms(torchvision.models.densenet121()).eval()
    dotted = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", k): v for k, v in theirs.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in dotted
    torch.save(dotted, tmp_path / "densenet121.pth")
    ours = zoo.create_model("densenet121")
    assert zoo.load_weights(ours, tmp_path / "densenet121.pth").layout == "timm"
    same_outputs(ours, theirs, 64)


# Conversion


def test_native_names_pass_unchanged() -> None:
    for name in ("fishnet_test", "resnet_test", "preresnet_test"):
        net = zoo.create_model(name)
        own = net.state_dict()
        once = zoo.checkpoint_filter_fn(own, net)
        assert once.keys() == own.keys()
        assert all(torch.equal(once[key], value) for key, value in own.items())
        theirs = as_released(net, weight) if name == "fishnet_test" else own
        renamed = zoo.checkpoint_filter_fn(theirs, net)
        again = zoo.checkpoint_filter_fn(renamed, net)
        assert all(torch.equal(again[key], value) for key, value in renamed.items())


def test_timm_takes_the_filter(tmp_path: Path) -> None:
    theirs = settle_norms(timm.create_model("resnet18")).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "twin.pth")
    ours = zoo.create_model("resnet18")
    timm.models.load_checkpoint(ours, str(tmp_path / "twin.pth"), filter_fn=zoo.checkpoint_filter_fn)
    same_outputs(ours, theirs, 64)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)


def test_rules() -> None:
    layout = Layout([(r"a\.(\d+)\.b(\d)\.", r"x{1-1}.\2.{2+1}."), (r"a\.", "y.")], dropped=[r"aux"])
    assert layout.rename("a.10.b3.weight") == "x9.3.4.weight"
    assert layout.rename("a.c") == "y.c"
    assert layout.rename("b.a.c") is None, "a rule starts at the start"


def test_all_names_change_at_once() -> None:
    net = Toy()
    swap = Layout([("one", "two"), ("two", "one")], dropped=["aux"])
    tensors = {"one.weight": torch.zeros(2, 2), "two.weight": torch.ones(2, 2), "aux.weight": torch.ones(9)}
    converted, loaded = fitted(tensors, net, swap=swap)
    assert loaded.layout == "swap"
    assert loaded.left_out == ("1 tensor (aux.weight)",)
    assert torch.equal(converted["one.weight"], torch.ones(2, 2))
    assert torch.equal(converted["two.weight"], torch.zeros(2, 2))
    assert list(tensors) == ["one.weight", "two.weight", "aux.weight"]


def test_two_names_for_one_tensor() -> None:
    tensors = {f"{key}.weight": torch.ones(2, 2) for key in ("eins", "uno", "two")}
    with pytest.raises(ValueError, match=r"1 tensor twice there under two names \(one\.weight\)"):
        fitted(tensors, Toy(), twice=Layout([("eins|uno", "one"), ("two", "two")]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stem.norm1.bias"), r"1 tensor missing \(stem\.norm1\.bias\)"),
        (lambda s: s.update({"more\n\x1b[2J": torch.ones(1)}), r"1 tensor unknown \(more\\?\?*"),
        (lambda s: s.update({"stem.norm1.bias": torch.ones(5)}), r"stem\.norm1\.bias is 5 and not 16"),
        (lambda s: s.update({"stem.norm1.bias": torch.ones(16, dtype=torch.long)}), r"stem\.norm1\.bias is int64"),
        (
            lambda s: s.update({"stem.norm1.bias": torch.ones(16, device="meta")}),
            r"norm1\.bias is a tensor without numbers \(meta device\)",
        ),
        (lambda s: s.update({"stem.norm1.bias": torch.ones(16).to_sparse()}), r"sparse"),
        (lambda s: s["stem.norm1.bias"].fill_(float("inf")), r"1 tensor not finite \(stem\.norm1\.bias\)"),
        (lambda s: [s.pop(k) for k in list(s)[:9]], r"tensors missing \(\S+, \S+, \S+, \.\.\.\)"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    net = zoo.create_model("resnet_test")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    tensors = {key: value.clone() + 1 for key, value in before.items()}
    change(tensors)
    overlay = dict(state_dict=tensors)
    with pytest.raises(ValueError, match=message) as caught:
        zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay)
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=message):
        fitted(tensors, net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_view_without_its_numbers_is_refused() -> None:
    net = zoo.create_model("resnet_test", num_classes=3)
    tensors = dict(zoo.create_model("resnet_test").state_dict())
    tensors["classifier.fc.weight"] = torch.ones(1).expand(1 << 40)
    with pytest.raises(ValueError, match=r"classifier\.fc\.weight is a view of more numbers than it holds"):
        fitted(tensors, net)


def test_wrong_channels_are_named(tmp_path: Path) -> None:
    torch.save(zoo.create_model("resnet_test", in_chans=4).state_dict(), tmp_path / "four.pth")
    overlay = dict(file=str(tmp_path / "four.pth"))
    with pytest.raises(ValueError, match=r"four\.pth: .*stem\.conv1\.weight is 16x4x7x7 and not 16x3x7x7"):
        zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay)
    with pytest.raises(ValueError, match=r"four\.pth: .*stem\.conv1\.weight is 16x4x7x7 and not 16x1x7x7"):
        zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1)


def test_the_nearest_layout_explains_the_error(tmp_path: Path) -> None:
    tensors = timm.create_model("resnet18").state_dict()
    tensors.pop("layer1.0.bn1.bias")
    torch.save(tensors, tmp_path / "almost.pth")
    with pytest.raises(ValueError, match=r"layout timm\): 1 tensor missing \(stage1\.0\.branch\.norm1\.bias\)$"):
        zoo.load_weights(zoo.create_model("resnet18"), tmp_path / "almost.pth")


# Fetching


def tiny(folder: Path) -> Path:
    return publish(settle_norms(zoo.create_model("resnet_test")).eval(), folder)


def test_a_download_is_kept_and_checked(served: tuple[Path, str]) -> None:
    folder, address = served
    file = tiny(folder)
    url = f"{address}/{file.name}"
    with zipfile.ZipFile(file) as archive:
        digest = "sha1:" + hashlib.sha1(archive.read(archive.namelist()[0])).hexdigest()
    with sources.fetched(url, digest=digest) as stored:
        want = stored.keys()
    cached = sources.cached_path(url)
    assert cached.is_file()
    file.unlink()
    with sources.fetched(url, digest=digest) as stored:
        assert stored.keys() == want, "from the cache"
    cached.write_bytes(b"damaged since")
    with pytest.raises(OSError, match=r"cannot be downloaded \(HTTP Error 404"), sources.fetched(url, digest=digest):
        pass
    assert not list(cached.parent.iterdir()), "neither the damaged file nor a part of another stays"


def test_another_file_than_the_published_one_is_refused(served: tuple[Path, str]) -> None:
    folder, address = served
    name, tag = "resnet20_projection_cifar", "osmr_c10"
    published = row(name, tag).url.rpartition("/")[2]
    publish(twin_of(name, tag), folder).rename(folder / published)
    for overlay in (dict(url=f"{address}/{published}"), dict(file=str(folder / published))):
        with pytest.raises(ValueError, match=rf"{published}: it is not the published file: its sha1 starts with"):
            zoo.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert not list(sources.cached_path("x").parent.glob("zoo-*"))


def test_a_cut_connection_leaves_nothing(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    file = tiny(folder)

    def half(self: Quiet, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read()[:1000])

    monkeypatch.setattr(Quiet, "copyfile", half)
    url = f"{address}/{file.name}"
    with pytest.raises(OSError, match=r"the connection ended after 1,000 of"), sources.fetched(url):
        pass
    assert not list(sources.cached_path("x").parent.iterdir())


def test_two_addresses_never_share_a_file() -> None:
    first, second = (sources.cached_path(f"{host}/a/net.pth") for host in ("one", "two"))
    assert first != second
    assert {first.parent, second.parent} == {sources.cached_path("x").parent}
    assert sources.cached_path("host/..%2f..%2fnet").parent == first.parent
