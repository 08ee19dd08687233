"""Folders in the form of the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo

pytestmark = pytest.mark.quick


def same(one: nn.Module, other: nn.Module, side: int = 64, in_chans: int = 3) -> None:
    x = torch.randn(2, in_chans, side, side)
    with torch.no_grad():
        assert torch.equal(one.eval()(x), other.eval()(x))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(num_classes=7),
        dict(num_classes=7, in_chans=4),
        dict(depths=(1, 2, 1, 1), act_layer="silu", output_stride=16, drop_path_rate=0.1),
        dict(global_pool="catavgmax"),
        dict(num_classes=0),
    ],
    ids=str,
)
def test_a_folder_gives_the_net_back(changes: dict[str, Any], tmp_path: Path) -> None:
    net = zoo.create_model("resnet_test", **changes)
    folder = zoo.save_for_hf(net, tmp_path / "net", model_config=dict(label_names=["a", "b"]))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    for library in (zoo, timm):
        again = library.create_model(f"local-dir:{folder}", pretrained=True)
        assert (again.num_classes, again.in_chans) == (net.num_classes, net.in_chans)
        same(again, net, in_chans=changes.get("in_chans", 3))
    assert library.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=1).num_classes == 3


def test_what_transformers_reads(tmp_path: Path) -> None:
    """transformers 5 builds the net with the config's classes and ``model_args``; a number there twice is an error."""
    net = zoo.create_model("resnet_test", num_classes=7, in_chans=1)
    config = json.loads((zoo.save_for_hf(net, tmp_path) / "config.json").read_text())
    assert config["architecture"] == "resnet_test"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 7
    assert "num_classes" not in config["model_args"]
    again = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}


def test_damage_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = zoo.save_for_hf(zoo.create_model("resnet_test"), tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: it is a damaged safetensors file"):
        zoo.create_model(f"local-dir:{folder}", pretrained=True)
    weights.unlink()
    with pytest.raises(ValueError, match=r"there is no model\.safetensors or pytorch_model\.bin in it"):
        zoo.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", r"config\.json cannot be read as JSON"),
        ("[" * 100_000, r"config\.json cannot be read as JSON"),
        ("[1]", r"config\.json must hold an object, not \[1\]"),
        ({"architecture": 3}, r"architecture \(3\) must be the name of a net"),
        ({"architecture": "nosuch"}, r"architecture \('nosuch'\) must be the name of a net"),
        ({"pretrained_cfg": []}, r"pretrained_cfg \(\[\]\) must be an object"),
        ({"model_args": "x"}, r"model_args \('x'\) must be an object"),
        ({"pretrained_cfg": {"mean": "x"}}, r"pretrained_cfg: mean \('x'\) must be finite numbers"),
        ({"pretrained_cfg": {"std": [1, 0, 1]}}, r"std \(\[1, 0, 1\]\) must be finite numbers above 0"),
        ({"pretrained_cfg": {"mean": [1, 2]}}, r"mean has 2 numbers for an image of 3 channels"),
        ({"pretrained_cfg": {"input_size": [3, 32]}}, r"input_size \(\[3, 32\]\) must be three whole numbers"),
        ({"pretrained_cfg": {"label_names": 5}}, r"label_names \(5\) must be a list of texts"),
        ({"pretrained_cfg": {"crop_pct": float("nan")}}, r"crop_pct \(nan\) must be a number"),
        ({"pretrained_cfg": {"nosuch": 5}}, r"pretrained_cfg \(.*nosuch.*\): "),
    ],
    ids=str,
)
def test_a_folder_that_describes_no_net_is_told(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    whole = {"architecture": "resnet_test", "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    path.write_text(change if isinstance(change, str) else json.dumps(whole | change))
    with pytest.raises(ValueError, match=message):
        zoo.create_model(f"local-dir:{tmp_path}")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name \('local-dir:.*'\): .*config\.json is not there"):
        zoo.create_model(f"local-dir:{tmp_path}")


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of files, revisions, and what an unreachable hub looks like; the hub itself is played."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    net = zoo.create_model("resnet_test")
    folder = zoo.save_for_hf(net, tmp_path)
    asked = []

    def played(repository: str, name: str, revision: str | None = None, cache_dir: Path | None = None) -> str:
        asked.append((repository, name, revision))
        if name == "model.safetensors":
            raise EntryNotFoundError("no such entry")
        return str(folder / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", played)
    overlay = dict(hf_hub_id="somebody/net@v2")
    same(zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay), net)
    assert asked == [("somebody/net", "model.safetensors", "v2"), ("somebody/net", "pytorch_model.bin", "v2")]

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to the hub\nand a second line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(
        OSError, match=r"^timm/resnet18\.a1_in1k: cannot be fetched from the hub \(no route to the hub\)$"
    ):
        zoo.create_model("resnet18", pretrained=True)


def test_a_sharded_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    net = zoo.create_model("resnet_test")
    state = net.state_dict()
    parts = {"one.bin": list(state)[:9], "two.bin": list(state)[9:]}
    for name, keys in parts.items():
        torch.save({key: state[key] for key in keys}, tmp_path / name)
    table = {key: name for name, keys in parts.items() for key in keys}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    asked = []

    def played(repository: str, name: str, revision: str | None = None, cache_dir: Path | None = None) -> str:
        asked.append(name)
        if not (tmp_path / name).exists():
            raise EntryNotFoundError("no such entry")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", played)
    overlay = dict(hf_hub_id="somebody/net")
    same(zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay), net)
    assert asked[3:] == ["pytorch_model.bin.index.json", "one.bin", "two.bin"]
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../one.bin"}}))
    with pytest.raises(ValueError, match=r"somebody/net: .*it names a file outside its folder \(\.\./one\.bin\)"):
        zoo.create_model("resnet_test", pretrained=True, pretrained_cfg_overlay=overlay)
