"""Where weights go: nets in wrappers, cut nets, nets of another size; and numbers that must not get through."""

import copy
import importlib
import io
import logging
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_weights_cli import paint
from torch import Tensor, nn

import zoo
from zoo.files import write_atomically
from zoo.weights.formats import Stored
from zoo.weights.loading import check_weights
from zoo_cli import main

NAME = "resnet_test"
CUT = ("resnet_test", "fishnet_test", "fabric_test", "densenet_test", "vgg_test")


def changed(net: nn.Module, seed: int = 1) -> Any:
    """The net with other numbers than a new one's, ready to evaluate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape, generator=generator))
    return net.eval()


def held(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(changed(zoo.create_model(NAME)).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


# Nets in wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
        torch.optim.swa_utils.AveragedModel,
        nn.Sequential,
    ],
    ids=["DataParallel", "compiled", "both", "averaged", "Sequential"],
)
def test_wrapped_nets(wrap: Callable[[nn.Module], nn.Module], file: Path) -> None:
    net = zoo.create_model(NAME)
    wrapped = wrap(net)
    zoo.load_weights(wrapped, file)
    inner = wrapped.module if isinstance(wrapped, torch.optim.swa_utils.AveragedModel) else net
    assert same(held(inner), torch.load(file))


@pytest.mark.only(name=("resnet_test", "fishnet_test", "densenet_test"))
@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("wrapper", ["list", "dict", "hook", "getter"])
def test_cut_nets(name: str, wrapper: str, tmp_path: Path) -> None:
    """A feature net takes the whole net's file by every way, says what is left out, and gives its maps."""
    net = changed(zoo.create_model(name))
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = net.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    make = dict(features_only=True, out_indices=(0, 1), feature_cls=wrapper)
    nets = [zoo.create_model(name, **make) for _ in range(2)]
    loaded = zoo.load_weights(nets[0], path)
    assert loaded.left_out
    assert not loaded.new
    nets[1].load_state_dict(torch.load(path))
    nets.append(timm.create_model(zoo.model_entry(name).timm_name, checkpoint_path=str(path), **make))
    nets.append(copy.deepcopy(nets[0]))
    nets.append(zoo.create_model(name, **make, pretrained=True, pretrained_cfg_overlay=dict(file=str(path))))
    for cut in nets:
        with torch.no_grad():
            have = cut.eval()(x)
        for one, other in zip(have.values() if isinstance(have, dict) else have, want, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_a_cut_net_takes_no_other(tmp_path: Path) -> None:
    cut = zoo.create_model(NAME, features_only=True)
    state = zoo.create_model(NAME).state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"surprise"'):
        cut.load_state_dict({**state, "surprise": torch.ones(2)})
    torch.save({**state, "surprise": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"1 tensor unknown \(surprise\)"):
        zoo.load_weights(cut, tmp_path / "net.pth")
    torch.save({k: v for k, v in state.items() if k != "stage2.0.branch.conv1.weight"}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"1 tensor missing \(stage2\.0\.branch\.conv1\.weight\)"):
        zoo.load_weights(cut, tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "change"),
    [("vgg_test", zoo.fuse), (NAME, zoo.fuse), (NAME, None)],
    ids=["fused, biases", "fused", "other norms"],
)
def test_a_changed_net_is_no_cut_one(name: str, change: Callable[[nn.Module], Any] | None, tmp_path: Path) -> None:
    """A tensor whose layer was exchanged would be missed. In VGG no name is missing: its convolutions have biases."""
    state = zoo.create_model(name).state_dict()
    torch.save(state, tmp_path / "net.pth")
    for options in ({}, {"features_only": True}):
        net = zoo.create_model(name, **options, **({} if change else {"norm_layer": "groupnorm1"})).eval()
        net = change(net) if change else net
        before = held(net)
        with pytest.raises(ValueError, match=r"tensors unknown \(.*norm"):
            zoo.load_weights(net, tmp_path / "net.pth")
        with pytest.raises(RuntimeError, match=r"Unexpected key.*norm"):
            net.load_state_dict(state)
        torch.save(before, tmp_path / "own.pth")
        zoo.load_weights(net, tmp_path / "own.pth")
        assert same(held(net), before)


def test_foreign_names_into_a_cut_net(tmp_path: Path) -> None:
    theirs = changed(timm.create_model("resnet18"))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "net.pth")
    cut = zoo.create_model("resnet18", features_only=True, out_indices=(1, 2)).eval()
    loaded = zoo.load_weights(cut, tmp_path / "net.pth")
    assert loaded.layout == "timm"
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = theirs.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(cut(x), want, strict=True))


class Larger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decoder = zoo.create_model(NAME, num_classes=0), nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Linear(2, 2), TypeError, r"model \(Linear\) is no net of the zoo"),
        (lambda: timm.create_model("test_resnet"), TypeError, "load by their own load_state_dict"),
        (lambda: torch.jit.script(zoo.create_model(NAME)), TypeError, "scripted or traced"),
        (lambda: "resnet18", TypeError, r"model \(str\) must be a net"),
        (Larger, TypeError, r"beside the net of the zoo in it \(decoder\.weight\): give the ResNet itself"),
        (lambda: zoo.create_model(NAME, device="meta"), ValueError, r"is on the meta device, .*to_empty"),
        (lambda: zoo.create_model(NAME).to(torch.float8_e4m3fn), ValueError, "is no plain tensor"),
        (lambda: torch.inference_mode()(lambda: zoo.create_model(NAME))(), ValueError, "made in inference mode"),
    ],
    ids=["module", "timm", "scripted", "name", "larger", "meta", "float8", "inference"],
)
def test_other_nets_are_named(make: Callable[[], Any], error: type[Exception], message: str, file: Path) -> None:
    with pytest.raises(error, match=message):
        zoo.load_weights(make(), file)


def test_other_paths_and_prefixes_are_named(file: Path) -> None:
    net: Any = zoo.create_model(NAME)
    for path in (None, b"net.pth", 3):
        with pytest.raises(TypeError, match=r"path \(\w+\) must be the path of a file or folder"):
            zoo.load_weights(net, path)  # ty: ignore[invalid-argument-type]
    with pytest.raises(TypeError, match=r"prefix \(3\) must be text"):
        zoo.load_weights(net, file, prefix=3)  # ty: ignore[invalid-argument-type]


def test_a_net_without_numbers_has_no_weights(file: Path) -> None:
    overlay = dict(file=str(file))
    with pytest.raises(ValueError, match="is on the meta device"):
        zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, device="meta")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.bfloat16(),
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to(memory_format=torch.channels_last),
    ],
    ids=["bfloat16", "half", "double", "channels_last"],
)
def test_type_and_format_stay(change: Callable[[nn.Module], nn.Module], file: Path) -> None:
    net = change(zoo.create_model(NAME))
    before = {key: (value.dtype, value.stride()) for key, value in net.state_dict().items()}
    zoo.load_weights(net, file)
    assert {key: (value.dtype, value.stride()) for key, value in net.state_dict().items()} == before
    want = torch.load(file)["stem.conv1.weight"].to(net.stem.conv1.weight.dtype)
    assert torch.equal(net.stem.conv1.weight, want)


# Classes and channels: the file is asked


def overlaid(path: Path, **task: int) -> nn.Module:
    return zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **task)


def test_an_own_classifier_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The description says ten classes and three channels; the net and the file have others."""
    net = changed(zoo.create_model(NAME, num_classes=7, in_chans=4))
    torch.save(net.state_dict(), tmp_path / "own.pth")
    again = overlaid(tmp_path / "own.pth", num_classes=7, in_chans=4)
    assert same(held(again), held(net))
    assert not caplog.records
    caplog.clear()
    overlaid(tmp_path / "own.pth", num_classes=5, in_chans=4)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "stays new: classifier.fc (7x96 in the file, 5x96 in the net)" in record.getMessage()


def test_a_classifier_of_another_size_stays_new(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for classes in (3, 0):
        net = zoo.create_model(NAME, num_classes=classes)
        before = held(net)
        loaded = zoo.load_weights(net, file)
        state = torch.load(file)
        for key, value in held(net).items():
            assert torch.equal(value, before[key] if key.startswith("classifier") else state[key])
        assert loaded.classes == 10
        if classes:
            assert loaded.new == ("classifier.fc (10x96 in the file, 3x96 in the net)",)
            assert caplog.records[-1].levelno == logging.WARNING
        else:
            assert loaded.left_out == ("2 tensors (classifier.fc.weight, ...)",)
            assert len(caplog.records) == 1


def test_a_file_without_classifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = zoo.create_model(NAME, num_classes=0).state_dict()
    torch.save(state, tmp_path / "trunk.pth")
    loaded = zoo.load_weights(zoo.create_model(NAME), tmp_path / "trunk.pth")
    assert loaded.new == ("classifier.fc (the file has none)",)
    assert caplog.records[-1].levelno == logging.WARNING
    with pytest.raises(ValueError, match=r"2 tensors missing \(classifier\.fc\.weight, classifier\.fc\.bias\)"):
        check_weights(zoo.create_model(NAME, device="meta"), tmp_path / "trunk.pth", strict=True)
    torch.save({**state, "classifier.fc.weight": torch.ones(10, 96)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"1 tensor missing \(classifier\.fc\.bias\)"):
        zoo.load_weights(zoo.create_model(NAME), tmp_path / "half.pth")


def test_kernels_of_three_channels_are_adapted(file: Path) -> None:
    kernels = torch.load(file)["stem.conv1.weight"]
    grey = zoo.create_model(NAME, in_chans=1)
    loaded = zoo.load_weights(grey, file)
    assert loaded.adapted == ("stem.conv1 from 3 channels to 1",)
    assert torch.allclose(grey.stem.conv1.weight, kernels.sum(1, keepdim=True))
    with pytest.raises(ValueError, match=r"stem\.conv1\.weight is 16x3x7x7 and not 16x1x7x7"):
        check_weights(grey, file, strict=True)


def test_a_tag_with_other_classes_is_no_warning(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    state = changed(zoo.create_model("resnet20_projection_cifar")).state_dict()
    stored = {key: Stored.of(value) for key, value in state.items()}
    monkeypatch.setattr("zoo.weights.loading.fetched", lambda *_, **__: nullcontext(stored))
    with caplog.at_level(logging.INFO, "zoo.weights"):
        zoo.create_model("resnet20_projection_cifar", pretrained=True, num_classes=7)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "stays new: classifier.fc (10x64 in the file, 7x64 in the net)" in caplog.text


def test_verify_says_what_stays_new(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["verify", NAME, str(file), "--num-classes", "5"]) == 0
    assert "stays new: classifier.fc (10x96 in the file, 5x96 in the net)" in capsys.readouterr().out
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(file), str(out), "--model", NAME, "--num-classes", "5"]) == 2
    assert "classifier.fc.weight is 10x96 and not 5x96" in capsys.readouterr().err
    assert not out.exists()


def test_a_net_with_a_new_classifier_is_not_measured(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    request = ["validate", NAME, "--checkpoint", str(file), "--num-classes", "7", "--workers", "0"]
    assert main([*request, "--data-dir", str(paint(tmp_path / "data"))]) == 2
    assert "has not all weights that are to be measured: " in capsys.readouterr().err


@pytest.mark.parametrize("count", ["4611686018427387904", "-1"])
@pytest.mark.parametrize("option", ["--in-chans", "--num-classes"])
def test_classes_and_channels_have_bounds(
    option: str, count: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", NAME, str(file), f"{option}={count}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert option.removeprefix("--").replace("-", "_") in line.replace("-", "_")


# Names of files


def test_an_own_file_may_be_called_like_a_part_of_a_published_one(tmp_path: Path) -> None:
    net = changed(zoo.create_model("resnet20_projection_cifar"))
    for name in ("resnet20", "resnet20_cifar10", "pth", "0597"):
        torch.save(net.state_dict(), tmp_path / name)
        overlay = dict(file=str(tmp_path / name))
        again = zoo.create_model("resnet20_projection_cifar", pretrained=True, pretrained_cfg_overlay=overlay)
        assert same(held(again), held(net))
    published = zoo.model_entry("resnet20_projection_cifar").weights["osmr_c10"].url.rpartition("/")[2]
    for name in (published, published.removesuffix(".zip")):
        torch.save(net.state_dict(), tmp_path / name)
        overlay = dict(file=str(tmp_path / name))
        with pytest.raises(ValueError, match="it is not the published file"):
            zoo.create_model("resnet20_projection_cifar", pretrained=True, pretrained_cfg_overlay=overlay)


def test_names_are_printed_as_one_line(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / "a\x1b[2J\nb.pth"
    odd.write_bytes(file.read_bytes())
    assert main(["verify", NAME, str(odd)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    odd.write_bytes(b"no")
    with pytest.raises(ValueError, match="no checkpoint") as caught:
        zoo.load_weights(zoo.create_model(NAME), odd)
    assert str(caught.value).isprintable()


def test_convert_prints_what_an_ascii_terminal_can(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    out = tmp_path / "gr\u00f6\u00dfe.safetensors"
    assert main(["convert", str(file), str(out), "--model", NAME]) == 0
    screen.flush()
    assert b"gr\\xf6\\xdfe.safetensors: resnet_test, float32: 122 tensors" in screen.buffer.getvalue()
    assert zoo.load_weights(zoo.create_model(NAME), out).layout == "native"


# Numbers and types


def test_numbers_must_fit_the_type_of_the_net(tmp_path: Path) -> None:
    state = {k: v.double() if v.is_floating_point() else v for k, v in zoo.create_model(NAME).state_dict().items()}
    torch.save(state, tmp_path / "good.pth")
    assert zoo.load_weights(zoo.create_model(NAME), tmp_path / "good.pth").types == ("float64", "int64")
    state["stem.norm1.bias"][3] = 1e300
    torch.save(state, tmp_path / "huge.pth")
    zoo.load_weights(zoo.create_model(NAME).double(), tmp_path / "huge.pth")
    net = zoo.create_model(NAME)
    before = held(net)
    for write in (
        lambda: zoo.load_weights(net, tmp_path / "huge.pth"),
        lambda: check_weights(net, tmp_path / "huge.pth"),
    ):
        with pytest.raises(ValueError, match=r"1 tensor not finite \(stem\.norm1\.bias in float32\)"):
            write()
    assert same(held(net), before)


def test_counters_must_fit_their_type(tmp_path: Path) -> None:
    """An average of checkpoints counts batches in parts; 1e30 batches would become a negative number."""
    state = zoo.create_model(NAME).state_dict()
    counter = next(key for key in state if key.endswith("num_batches_tracked"))
    state[counter] = torch.tensor(12.5, dtype=torch.float64)
    torch.save(state, tmp_path / "mean.pth")
    zoo.load_weights(zoo.create_model(NAME), tmp_path / "mean.pth")
    state[counter] = torch.tensor(1e30)
    torch.save(state, tmp_path / "huge.pth")
    with pytest.raises(ValueError, match=rf"1 tensor not finite \({re.escape(counter)} in int64\)"):
        zoo.load_weights(zoo.create_model(NAME), tmp_path / "huge.pth")


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "float8": (lambda: torch.ones(16).to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "float8 e5m2": (lambda: torch.ones(16).to(torch.float8_e5m2), "float8_e5m2"),
    "bits": (lambda: torch.empty(16, dtype=torch.bits8), "bits8"),
    "uint16": (lambda: torch.ones(16, dtype=torch.uint16), "uint16"),
    "complex": (lambda: torch.ones(16, dtype=torch.complex64), "complex64"),
    "sparse": (lambda: torch.ones(16).to_sparse(), "a sparse tensor"),
    "meta": (lambda: torch.ones(16, device="meta"), "a tensor without numbers"),
}
if hasattr(torch, "float4_e2m1fn_x2"):  # newer than the lowest torch that pyproject.toml admits
    ODD["float4"] = (lambda: torch.empty(8, dtype=torch.float4_e2m1fn_x2), "float4_e2m1fn_x2")


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_refused(kind: str, tmp_path: Path) -> None:
    make, word = ODD[kind]
    state = zoo.create_model(NAME).state_dict()
    last = list(state)[-1]
    assert state[last].shape == (10,)
    state["stage4.0.branch.norm1.bias"] = make()  # not the first: what stands before it would have been written
    net = zoo.create_model(NAME)
    before = held(net)
    torch.save(state, tmp_path / "odd.pth")
    for attempt in (
        lambda: zoo.load_weights(net, tmp_path / "odd.pth"),
        lambda: check_weights(net, tmp_path / "odd.pth"),
        lambda: zoo.checkpoint_filter_fn(state, net),
        lambda: zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(state_dict=state)),
    ):
        with pytest.raises(ValueError, match=rf"stage4\.0\.branch\.norm1\.bias is {word}"):
            attempt()
    assert same(held(net), before)


class Marked(Tensor):
    """A tensor of a class of its own."""


def test_subclasses_are_refused_and_attributes_ignored(tmp_path: Path) -> None:
    state = zoo.create_model(NAME).state_dict()
    state["stem.norm1.bias"] = torch.ones(16).as_subclass(Marked)
    with pytest.raises(ValueError, match=r"stem\.norm1\.bias is a tensor of the subclass Marked"):
        zoo.checkpoint_filter_fn(state, zoo.create_model(NAME))
    torch.save(state, tmp_path / "marked.pth")
    with pytest.raises(ValueError, match=r"asks for code \(test_loading\.Marked\)"):
        zoo.load_weights(zoo.create_model(NAME), tmp_path / "marked.pth")
    shadowed: Any = torch.full((16,), 3.0)
    shadowed.detach = shadowed.to = shadowed.read = 3
    torch.save({**state, "stem.norm1.bias": shadowed}, tmp_path / "shadowed.pth")
    net = zoo.create_model(NAME)
    zoo.load_weights(net, tmp_path / "shadowed.pth")
    assert (net.stem.norm1.bias == 3).all()


# Permissions


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_get_what_open_would_give(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "new", b"x")
        (tmp_path / "open").write_bytes(b"x")
        (tmp_path / "old").write_bytes(b"x")
        (tmp_path / "old").chmod(0o640)
        write_atomically(tmp_path / "old", b"y")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        write_atomically(tmp_path / "link", b"z")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes["new"] == modes["open"] == 0o666 & ~mask
    assert modes["old"] == 0o640
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"z"
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "never", "text")  # ty: ignore[invalid-argument-type]
    write_atomically(tmp_path / ("n" * 250), b"x")
    assert len(list(tmp_path.iterdir())) == 6, "no parts are left"


def test_a_net_in_channels_last_is_saved(tmp_path: Path) -> None:
    net = zoo.create_model(NAME, num_classes=3).to(memory_format=torch.channels_last).eval()
    folder = zoo.save_for_hf(net, tmp_path)
    assert net.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    again = zoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert same(held(again), held(net))
    assert not net._state_dict_hooks


# Old names


@pytest.mark.parametrize("name", ["load_weights", "check_weights", "checkpoint_filter_fn"])
def test_the_registry_still_has_them(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"zoo\.registry\.{name} is zoo\.weights\.loading\.{name}"):
        assert getattr(zoo.registry, name) is getattr(zoo.weights.loading, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.registry.nothing  # noqa: B018


def test_the_old_reader_is_still_there(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    checkpoint = importlib.import_module("zoo.checkpoint")
    with pytest.warns(DeprecationWarning, match=r"zoo\.checkpoint\.read is zoo\.weights\.reader\.opened"):
        read = checkpoint.read
    assert same(read(file), dict(torch.load(file)))
    with pytest.warns(DeprecationWarning, match=r"zoo\.weights\.sources\.fetched"):
        fetch = checkpoint.fetch
    assert same(fetch(file.as_uri()), dict(torch.load(file)))
    with pytest.warns(DeprecationWarning, match="find_in_folder"):
        find = checkpoint.find_in_folder
    assert find(tmp_path) == file
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it is a folder without a checkpoint"):
        find(tmp_path / "empty")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        checkpoint.nothing  # noqa: B018
