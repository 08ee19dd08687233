"""Good checkpoints as people have them: what training scripts, wrappers and sites put around a net's tensors."""

import argparse
import json
import pathlib
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo_cli import main

NAME = "resnet_test"

State = dict[str, Tensor]


def good() -> State:
    """A state dict of which no tensor is that of a new net."""
    generator = torch.Generator().manual_seed(7)
    own = zoo.create_model(NAME, device="meta").state_dict()
    return OrderedDict(
        (key, torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else torch.tensor(9))
        for key, value in own.items()
    )


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state: State) -> State:
    """The same net with other numbers: what must not be taken."""
    return {key: value * 0 for key, value in state.items()}


def averaged(state: State) -> State:
    net = zoo.create_model(NAME)
    net.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def timm_names(state: State) -> State:
    """The names of timm and torchvision."""
    new = {}
    for key, value in state.items():
        key = re.sub(r"^stem\.conv1", "conv1", re.sub(r"^stem\.norm1", "bn1", key))
        key = re.sub(r"^stage(\d)\.(\d+)\.branch\.conv", r"layer\1.\2.conv", key)
        key = re.sub(r"^stage(\d)\.(\d+)\.branch\.norm", r"layer\1.\2.bn", key)
        key = re.sub(r"^stage(\d)\.(\d+)\.shortcut\.conv1", r"layer\1.\2.downsample.0", key)
        key = re.sub(r"^stage(\d)\.(\d+)\.shortcut\.norm1", r"layer\1.\2.downsample.1", key)
        new[key.replace("classifier.fc", "fc")] = value
    return new


def mmpretrain(state: State) -> dict[str, Any]:
    """Backbone and head apart, with what mmengine keeps beside them."""
    theirs = timm_names(state)
    names = {key: f"head.{key}" if key.startswith("fc.") else f"backbone.{key}" for key in theirs}
    return {"meta": {"epoch": 3, "cfg": "x"}, "state_dict": {names[key]: value for key, value in theirs.items()}}


def beside_a_head(state: State) -> State:
    """A module of one's own: a backbone without classes and a linear layer."""
    return {
        key.replace("classifier.fc.", "head.") if key.startswith("classifier") else f"backbone.{key}": value
        for key, value in state.items()
    }


def with_operations(state: State) -> State:
    """What thop leaves in a net that it has profiled."""
    counts = {f"{key.rpartition('.')[0]}.total_{what}": torch.zeros(1, dtype=torch.float64)
              for key in state for what in ("ops", "params")}  # fmt: skip
    return {**state, **counts, "total_ops": torch.zeros(1, dtype=torch.float64)}


def lightning(prefix: str, **beside: Tensor) -> Callable[[State], dict[str, Any]]:
    return lambda state: {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**under(prefix, state), **beside},
        "callbacks": {},
        "hyper_parameters": {"lr": 0.1, "path": pathlib.PurePosixPath("data")},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
    }


SAVED: dict[str, Callable[[State], Any]] = {
    "flat": lambda s: s,
    "DataParallel": lambda s: under("module.", s),
    "PyTorch's ImageNet example": lambda s: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": under("module.", s),
        "best_acc1": torch.tensor(71.2),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    },
    "PyTorch's tutorial": lambda s: {"epoch": 5, "model_state_dict": s, "optimizer_state_dict": {}, "loss": 0.3},
    "timm's train.py": lambda s: {
        "epoch": 1,
        "arch": NAME,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": other(s),
        "state_dict_ema": under("module.", s),
        "version": 2,
        "metric": 70.0,
    },
    "an empty average": lambda s: {"state_dict": s, "state_dict_ema": {}},
    "torchvision's references": lambda s: {"model": s, "optimizer": {}, "lr_scheduler": {}, "epoch": 1},
    "torchvision's references, averaged": lambda s: {"model": other(s), "model_ema": averaged(s), "epoch": 3},
    "AveragedModel": averaged,
    "kuangliu's pytorch-cifar": lambda s: {"net": s, "acc": 93.2, "epoch": 100},
    "pycls": lambda s: {"epoch": 5, "model_state": s, "optimizer_state": {}, "cfg": "x"},
    "DeepSpeed": lambda s: {"module": s, "dp_world_size": 8, "buffer_names": ["a"]},
    "torch.compile": lambda s: under("_orig_mod.", s),
    "compiled in DDP": lambda s: {"model": under("_orig_mod.module.", s)},
    "DDP compiled": lambda s: under("module._orig_mod.", s),
    "single stages compiled": lambda s: {re.sub(r"^(stage\d\.)", r"\1_orig_mod.", k): v for k, v in s.items()},
    "FSDP": lambda s: {re.sub(r"^(stage\d\.)", r"\1_fsdp_wrapped_module.", k): v for k, v in s.items()},
    "Lightning, model.": lightning("model."),
    "Lightning, net., a loss with weights": lightning("net.", **{"criterion.weight": torch.ones(10)}),
    "Lightning, a teacher beside": lambda s: {
        "state_dict": {**under("ema_model.", s), **under("model.", other(s)), "temperature": torch.ones(1)}
    },
    "segmentation_models_pytorch": lambda s: {**under("encoder.model.", s), "decoder.conv.weight": torch.ones(3, 3)},
    "an encoder": lambda s: {"model": under("encoder.", s)},
    "transformers": lambda s: under("timm_model.", s),
    "mmpretrain": mmpretrain,
    "mmengine, averaged: it exchanges the two": lambda s: {
        "meta": {"mmengine_version": "0.10"},
        "state_dict": under("backbone.", s),
        "message_hub": {"resumed_keys": {"lr": True}},
        "ema_state_dict": {"steps": torch.tensor(7), **under("module.backbone.", other(s))},
    },
    "a part in DataParallel": lambda s: {
        "state_dict": {re.sub(r"^(stage\d\.)", r"\1module.", k): v for k, v in s.items()}
    },
    "a backbone and a head": beside_a_head,
    "a dict of parts": lambda s: {"models": {"backbone": s, "projector": {"weight": torch.ones(2, 2)}}},
    "fastai": lambda s: {"model": s, "opt": {"state": [{}], "hypers": [{"lr": 0.1}]}},
    "accelerate, fp16": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "a counter among the weights": lambda s: {**s, "epoch": torch.tensor(3)},
    "counted in floats": lambda s: {k: v.double() if k.endswith("num_batches_tracked") else v for k, v in s.items()},
    "before PyTorch 0.4.1": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "thop": with_operations,
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "numpy and paths beside": lambda s: {
        "model": s,
        "best": np.float64(0.7),
        "curve": np.arange(3.0),
        "when": np.datetime64("2020-01-01"),
        "out": pathlib.PurePosixPath("runs/1"),
        "seen": {1, 2},
        "log": defaultdict(list, loss=[0.1, 0.2]),
    },
    "torchvision's names": timm_names,
    "timm's names, Lightning": lambda s: {"state_dict": under("model.", timm_names(s)), "epoch": 3},
    "channels last": lambda s: {
        k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in s.items()
    },
    "one storage for all": lambda s: one_storage(s),
}
"""What ``torch.save`` is given."""


def one_storage(state: State) -> State:
    flat = torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])
    new, at = {}, 0
    for key, value in state.items():
        if value.is_floating_point():
            new[key] = flat[at : at + value.numel()].view(value.shape)
            at += value.numel()
    return new


def older(state: State, folder: Path) -> Path:
    torch.save(state, folder / "net.tar", _use_new_zipfile_serialization=False)
    return folder / "net.tar"


def safe(state: State, folder: Path) -> Path:
    save_file(dict(state), folder / "net.safetensors", metadata={"format": "pt"})
    return folder / "net.safetensors"


def halves(state: State) -> list[tuple[str, State]]:
    keys = list(state)
    return [
        ("00001-of-00002", {key: state[key] for key in keys[: len(keys) // 2]}),
        ("00002-of-00002", {key: state[key] for key in keys[len(keys) // 2 :]}),
    ]


def sharded(state: State, folder: Path) -> Path:
    table = {}
    for mark, part in halves(state):
        save_file(part, folder / f"model-{mark}.safetensors")
        table |= dict.fromkeys(part, f"model-{mark}.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def sharded_bin(state: State, folder: Path) -> Path:
    table = {}
    for mark, part in halves(under("timm_model.", state)):
        torch.save(part, folder / f"pytorch_model-{mark}.bin")
        table |= dict.fromkeys(part, f"pytorch_model-{mark}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def in_folder(state: State, folder: Path) -> Path:
    (folder / "run").mkdir()
    torch.save({"state_dict": state}, folder / "run" / "model_best.pth.tar")
    (folder / "run" / "args.yaml").write_text("lr: 0.1\n")
    return folder / "run"


def zipped_on_a_mac(state: State, folder: Path) -> Path:
    torch.save(state, folder / "net.pth")
    with zipfile.ZipFile(folder / "net.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "net.pth", "weights/net.pth")
        archive.writestr("__MACOSX/weights/._net.pth", b"\0\5\x16\7")
    return folder / "net.zip"


def zipped_with_words(state: State, folder: Path) -> Path:
    torch.save(state, folder / "net.pth")
    with zipfile.ZipFile(folder / "net.zip", "w") as archive:
        archive.write(folder / "net.pth", "net.pth")
        archive.writestr("README.txt", "resnet, 93 %")
    return folder / "net.zip"


def protocol_4(state: State, folder: Path) -> Path:
    torch.save({"model": state, "note": b"bytes"}, folder / "net.pt", pickle_protocol=4)
    return folder / "net.pt"


WRITTEN: dict[str, Callable[[State, Path], Path]] = {
    "torch.save before 1.6": older,
    "safetensors": safe,
    "sharded safetensors": sharded,
    "sharded .bin, the folder given": sharded_bin,
    "a run's folder": in_folder,
    "a zip from macOS": zipped_on_a_mac,
    "a zip with a text": zipped_with_words,
    "pickle protocol 4": protocol_4,
}
"""How files are written."""


def assert_is_loaded(path: Path) -> zoo.weights.fit.Loaded:
    net = zoo.create_model(NAME)
    loaded = zoo.load_weights(net, path)
    for key, value in good().items():
        have = net.state_dict()[key]
        if key.endswith("num_batches_tracked"):
            assert have in (0, 9)
        else:
            assert torch.allclose(have, value, atol=1e-3), key
    assert not loaded.new
    assert len(str(loaded).splitlines()) == 1
    return loaded


def test_there_are_thirty() -> None:
    assert len(SAVED) + len(WRITTEN) >= 30


@pytest.mark.parametrize("form", SAVED)
def test_what_people_save(form: str, tmp_path: Path) -> None:
    torch.save(SAVED[form](good()), tmp_path / "net.pth")
    assert_is_loaded(tmp_path / "net.pth")


@pytest.mark.parametrize("form", WRITTEN)
def test_how_files_are_written(form: str, tmp_path: Path) -> None:
    assert_is_loaded(WRITTEN[form](good(), tmp_path))


WHY_NOT: dict[str, tuple[Callable[[State], Any], str]] = {
    "a whole net": (
        lambda s: zoo.create_model(NAME),
        r"it asks for code \(zoo\.models\.resnet\.ResNet\), which is not run; save its state_dict alone$",
    ),
    "int8": (
        lambda s: {k: (v * 9).to(torch.int8) for k, v in s.items()},
        r"102 tensors of a wrong shape or kind \(stem\.conv1\.weight is int8, ",
    ),
    "numpy arrays": (
        lambda s: {k: v.numpy() for k, v in s.items()},
        r"it holds no tensors under names \(only stem\.conv1\.weight, which is no tensor\)$",
    ),
}


@pytest.mark.parametrize("form", WHY_NOT)
def test_why_not(form: str, tmp_path: Path) -> None:
    content, reason = WHY_NOT[form]
    torch.save(content(good()), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=reason):
        zoo.load_weights(zoo.create_model(NAME), tmp_path / "net.pth")


def of_numbers(state: State, folder: Path) -> Path:
    """As detectron2 and Paddle write them."""
    content = {"model": {k: v.numpy() for k, v in state.items()}, "matching_heuristics": True}
    (folder / "net.pkl").write_bytes(pickle.dumps(content))
    return folder / "net.pkl"


def written(content: bytes) -> Callable[[State, Path], Path]:
    def write(state: State, folder: Path) -> Path:
        (folder / "net.pth").write_bytes(content)
        return folder / "net.pth"

    return write


def distributed(state: State, folder: Path) -> Path:
    (folder / "net").mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (folder / "net" / name).write_bytes(b"PK\3\4")
    return folder / "net"


NOT_WRITTEN: dict[str, tuple[Callable[[State, Path], Path], str]] = {
    "a pickle of arrays": (of_numbers, r"does not begin as one: torch\.save did not write it\)$"),
    "a small pickle": (written(pickle.dumps({})), r"does not begin as one: torch\.save did not write it\)$"),
    "a pointer": (written(b"version v1\noid sha256:0\n"), r"no checkpoint: .* git lfs pull$"),
    "a page": (written(b"<!DOCTYPE html>\n<html>"), r"no checkpoint: it is a page of the web"),
    "packed": (written(b"\x1f\x8b\x08\x00"), r"no checkpoint: it is packed by gzip; unpack it first$"),
    "Keras": (written(b"\x89HDF\r\n\x1a\n"), r"no checkpoint: it is a file of HDF5"),
    "torch.distributed": (distributed, r"net: it is a folder of torch\.distributed\.checkpoint; .*dcp_to_torch_save$"),
}


@pytest.mark.parametrize("form", NOT_WRITTEN)
def test_what_is_taken_for_a_checkpoint(form: str, tmp_path: Path) -> None:
    write, reason = NOT_WRITTEN[form]
    with pytest.raises(ValueError, match=reason):
        zoo.load_weights(zoo.create_model(NAME), write(good(), tmp_path))


def test_a_torchscript_archive_says_so(tmp_path: Path) -> None:
    torch.jit.script(zoo.create_model(NAME)).save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt: it is a TorchScript archive, which is code; save its state_dict"):
        zoo.load_weights(zoo.create_model(NAME), tmp_path / "net.pt")


def test_the_line_says_what_was_taken_and_left(tmp_path: Path) -> None:
    torch.save(SAVED["torchvision's references, averaged"](good()), tmp_path / "net.pth")
    loaded = assert_is_loaded(tmp_path / "net.pth")
    assert str(loaded) == (
        "122 tensors, layout native, from model_ema.module.*; left out: 122 tensors under model, "
        "1 tensor under model_ema.n_averaged; fits, too: model.*"
    )
    torch.save(SAVED["mmpretrain"](good()), tmp_path / "net.pth")
    loaded = assert_is_loaded(tmp_path / "net.pth")
    assert str(loaded) == (
        "122 tensors, layout timm, from state_dict.backbone.*; adapted: the classifier is state_dict.head.fc.*"
    )


def moco(state: State, head: str = "fc") -> dict[str, Any]:
    """Two encoders, and a projection in the place of their classifiers."""
    theirs = {k: v for k, v in timm_names(state).items() if not k.startswith("fc.")}
    theirs |= {f"{head}.0.weight": torch.ones(96, 96), f"{head}.2.weight": torch.ones(8, 96)}
    return {"state_dict": {**under("module.encoder_q.", theirs), **under("module.encoder_k.", other(theirs))}}


def test_another_head_in_the_place_of_the_classifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The trunk is loaded; the line says that the classifier is new, and the log warns."""
    torch.save(moco(good()), tmp_path / "net.pth")
    net = zoo.create_model(NAME)
    before = net.classifier.fc.weight.clone()
    loaded = zoo.load_weights(net, tmp_path / "net.pth")
    assert str(loaded) == (
        "120 tensors, layout timm, from state_dict.module.encoder_q.*; "
        "stays new: classifier.fc (the file has another head); "
        "left out: 122 tensors under state_dict.module.encoder_k, "
        "2 tensors (state_dict.module.encoder_q.fc.0.weight, ...); "
        "the first of several was taken, choose by prefix; fits, too: state_dict.module.encoder_k.*"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert torch.equal(net.state_dict()["stem.conv1.weight"], good()["stem.conv1.weight"])
    assert torch.equal(net.classifier.fc.weight, before)
    loaded = zoo.load_weights(zoo.create_model(NAME, num_classes=0), tmp_path / "net.pth")
    assert not loaded.new
    torch.save(good() | {"classifier.fc.0.weight": torch.ones(8, 96)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"1 tensor unknown \(classifier\.fc\.0\.weight\)"):
        zoo.load_weights(net, tmp_path / "net.pth")
    torch.save(moco(good(), "neck"), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"2 tensors unknown \(state_dict\.module\.encoder_q\.neck\.0\.weight, "):
        zoo.load_weights(net, tmp_path / "net.pth")


def test_a_prefix_may_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    state = good()
    path = tmp_path / "net.pth"
    torch.save({**under("student.", other(state)), **under("teacher.", state)}, path)
    net = zoo.create_model(NAME)
    loaded = zoo.load_weights(net, path)
    assert (loaded.prefix, loaded.also) == ("student.", ("teacher.",))
    assert not net.state_dict()["stem.conv1.weight"].any(), "the first in the file"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "the first of several was taken, choose by prefix; fits, too: teacher.*" in record.getMessage()
    loaded = zoo.load_weights(net, path, prefix="teacher")
    assert not loaded.guessed
    assert loaded.prefix == "teacher."
    assert torch.equal(net.state_dict()["stem.conv1.weight"], state["stem.conv1.weight"])
    assert main(["verify", NAME, str(path), "--prefix", "teacher."]) == 0
    assert "from teacher.*" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"under nobody\.\*: 102 tensors missing"):
        zoo.load_weights(net, path, prefix="nobody")
