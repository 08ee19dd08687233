"""What every model owes its users, over the whole registry: a new row is tested without a new line.

Shapes and names are checked for every entry on the meta device; arithmetic for the cheap ones, which are the ``*_test``
nets that every family has and the nets of the default line-up.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import torch.fx
from shapes import Shapes
from structures import FORWARDS, LONG, SMALL_GRID
from timm.models import group_parameters
from torch import Tensor, nn

import zoo
from zoo.layers import Residual, Stage
from zoo.testing import PROMISES, check_backbone, settle_norms

ALL = zoo.list_models()
CHEAP = [name for name in ALL if name.endswith("_test") or "default" in zoo.model_entry(name).lineups]
TINY = [name for name in CHEAP if name.endswith("_test")]
"""What tracers and compilers are shown: every family's code, in nets of few layers, for they take seconds a layer."""
SCRIPTED = ("pruning", "torchscript")
"""Promises that TorchScript has a part in; it is shown every family's code, in nets of few layers."""
USUAL = [*TINY, "resnet20_cifar"]
"""What the usual tier shows to checks of arithmetic: every family, and a net for small images."""
PRUNED = [name for name in FORWARDS if name != "fabric_test"]
"""Each kind of forward but the grid, of which 25 cuts take seconds and which test_fabric.py prunes too."""
KEPT = [
    pytest.param(
        name,
        promise,
        marks=[] if name in (PRUNED if promise == "pruning" else USUAL) else pytest.mark.slow,
    )
    for promise in PROMISES
    for name in (TINY if promise in SCRIPTED else CHEAP)
]
BY_FORWARD = [pytest.param(name, marks=[] if name in FORWARDS else pytest.mark.slow) for name in CHEAP]

WRAPPED = {"getter": "model.", "hook": "body.", "fx": "graph_module."}
"""Where timm's feature wrappers keep the net."""


def images(name: str, batch: int = 2, **size: int) -> Tensor:
    chans, height, width = zoo.model_entry(name).input_size
    shape = (batch, size.get("chans", chans), size.get("height", height), size.get("width", width))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def settled(name: str, /, **kwargs: Any) -> nn.Module:
    """A net in evaluation mode whose norms are not those of a fresh one."""
    torch.manual_seed(0)
    net = zoo.create_model(name, **kwargs)
    return settle_norms(net, prefix=WRAPPED.get(kwargs.get("feature_cls", ""), "")).eval()


def sizes(taps: list[Tensor]) -> list[tuple[int, int, int]]:
    return [tuple(tap.shape[1:]) for tap in taps]


def assert_sizes(name: str, taps: list[Tensor], strides: list[int]) -> None:
    """Maps of size / stride; smaller where the entry says that it does not pad."""
    entry = zoo.model_entry(name)
    full = [-(-entry.input_size[-1] // stride) for stride in strides]
    have = [tap.shape[-1] for tap in taps]
    if "padding" in entry.spec.lacks:
        assert have == sorted(have, reverse=True)
        assert all(0 < a <= b for a, b in zip(have, full, strict=True))
        assert have != full
    else:
        assert have == full


def lacks(name: str, argument: str) -> bool:
    return argument in zoo.model_entry(name).spec.lacks


def test_every_family_has_a_test_net() -> None:
    for family in zoo.families():
        assert any(name.endswith("_test") for name in zoo.list_models(family=family)), family


# All entries, on the meta device


@pytest.fixture
def shapes() -> Iterator[None]:
    with Shapes():
        yield


@pytest.mark.quick
@pytest.mark.rows
@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("name", ALL)
def test_meta(name: str) -> None:
    entry = zoo.model_entry(name)
    net = zoo.create_model(name, device="meta")
    assert {t.device.type for t in net.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in net.parameters()) == entry.params
    assert entry.paper
    assert entry.reference or entry.notes, "without a reference the row says why"
    with torch.device("meta"):
        assert {t.device.type for t in zoo.create_model(name).state_dict().values()} == {"meta"}

    cfg = net.pretrained_cfg
    assert (net.in_chans, net.num_classes) == (cfg["input_size"][0], cfg["num_classes"])
    assert cfg["input_size"] == entry.input_size
    keys = net.state_dict().keys()
    assert {cfg["classifier"] + ".weight", cfg["first_conv"] + ".weight"} <= keys
    x = torch.empty((2, *entry.input_size), device="meta")
    features = net.eval().forward_features(x)
    assert tuple(features.shape) == (2, net.num_features, *cfg["pool_size"])
    positions = features.shape[-2:] if entry.spec.dense else ()
    assert net.forward_head(features).shape == (2, entry.num_classes, *positions)
    assert net.forward_head(features, pre_logits=True).shape == (2, net.head_hidden_size, *positions)

    last = group_parameters(net, net.group_matcher(), reverse=True)
    coarse = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    assert len(set(last.values())) > len(set(coarse.values())) > 2
    assert last[cfg["first_conv"] + ".weight"] == 0
    assert last["classifier.fc.weight"] == max(last.values())


@pytest.mark.quick
@pytest.mark.rows
@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("name", ALL)
def test_meta_taps(name: str) -> None:
    entry = zoo.model_entry(name)
    x = torch.empty((1, *entry.input_size), device="meta")
    net = timm.create_model(entry.timm_name, features_only=True, device="meta").eval()
    strides = net.feature_info.reduction()
    assert tuple(strides) == entry.spec.tap_strides
    assert strides == sorted(set(strides)), "one tap a stride, finest first"
    if entry.input_size[-1] == 224 and "out_indices" not in entry.spec.lacks:
        assert strides == [2, 4, 8, 16, 32]
    modules = [net.get_submodule(module) for module in net.feature_info.module_name()]
    assert not entry.build.chain or set(modules) <= set(net.children()), "what timm's list wrapper needs"
    seen: dict[nn.Module, Tensor] = {}
    for module in modules:
        module.register_forward_hook(lambda module, _, out: seen.update({module: out}))
    taps = net(x)
    assert all(seen[module] is tap for module, tap in zip(modules, taps, strict=True)), "the module's output is the map"
    assert [t.shape[1] for t in taps] == net.feature_info.channels()
    assert_sizes(name, taps, strides)
    beyond = len(strides)
    with pytest.raises(
        ValueError, match=rf"out_indices .* has {beyond} taps.*" + re.escape(entry.spec.lacks.get("out_indices", ""))
    ):
        timm.create_model(entry.timm_name, features_only=True, out_indices=(0, beyond), device="meta")


# Nets of a thousand layers are rows like their shorter sisters, and take a minute here. The promise of output strides
# is asked of every structure.
@pytest.mark.rows(families=True)
@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("name", [name for name in ALL if name not in LONG])
def test_meta_output_stride(name: str) -> None:
    entry = zoo.model_entry(name)
    native = zoo.create_model(name, device="meta").state_dict()
    x = torch.empty((1, *entry.input_size), device="meta")
    options = entry.spec.output_strides
    assert options[-1] == entry.spec.tap_strides[-1]
    if entry.input_size[-1] == 224 and "output_stride" not in entry.spec.lacks:
        assert {8, 16} <= set(options)
    for stride in options:
        net = zoo.create_model(name, output_stride=stride, device="meta").eval()
        assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in native.items()}
        strides = [info["reduction"] for info in net.feature_info]
        assert strides == [min(s, stride) for s in entry.spec.tap_strides]
        taps = net.forward_intermediates(x, intermediates_only=True)
        assert_sizes(name, taps, strides)
    with pytest.raises(
        ValueError, match=r"output_stride \(3\) must be one of.*" + re.escape(entry.spec.lacks.get("output_stride", ""))
    ):
        zoo.create_model(name, output_stride=3, device="meta")


@pytest.mark.rows
@pytest.mark.parametrize("name", [name for name in ALL if zoo.model_entry(name).spec.lacks])
def test_meta_what_it_lacks(name: str) -> None:
    """Asking for what the topology cannot do is an error that says why."""
    asked = {"drop_path_rate": 0.1, "zero_init_last": True, "norm_layer": "groupnorm1"}
    known = {*asked, "out_indices", "output_stride", "padding"}
    for argument, reason in zoo.model_entry(name).spec.lacks.items():
        assert argument in known
        assert reason
        if argument in asked:
            with pytest.raises(ValueError, match=rf"{argument} .* must stay .*{re.escape(reason)}"):
                zoo.create_model(name, device="meta", **{argument: asked[argument]})


@pytest.mark.rows
@pytest.mark.parametrize("name", ALL)
def test_meta_unknown_argument(name: str) -> None:
    with pytest.raises(TypeError, match="drop_path_rate"):
        zoo.create_model(name, drop_pth_rate=0.1, device="meta")


# The cheap ones, with numbers


@pytest.mark.quick
@pytest.mark.rows
@pytest.mark.parametrize(("name", "promise"), KEPT)
def test_promises(name: str, promise: str) -> None:
    check_backbone(name, promises=[promise])


@pytest.mark.parametrize("name", BY_FORWARD)
@pytest.mark.parametrize("wrapper", ["list", "dict", "hook", "getter", "fx"])
def test_feature_wrappers(name: str, wrapper: str) -> None:
    x = images(name)
    net = settled(name)
    with torch.no_grad():
        expected = net.forward_intermediates(x, intermediates_only=True)
        wrapped = settled(name, features_only=True, feature_cls=wrapper)(x)
        wrapped = list(wrapped.values()) if wrapper == "dict" else wrapped
        assert sizes(wrapped) == sizes(expected)
        for have, want in zip(wrapped, expected, strict=True):
            torch.testing.assert_close(have, want)
        some = settled(name, features_only=True, feature_cls=wrapper, out_indices=(0, 2))
        some = some(x)
        some = list(some.values()) if wrapper == "dict" else some
        assert sizes(some) == [sizes(expected)[0], sizes(expected)[2]]


@pytest.mark.rows
@pytest.mark.parametrize("name", CHEAP)
def test_feature_cfg_is_merged(name: str) -> None:
    net = zoo.create_model(name, features_only=True, feature_cfg={"out_indices": (1, 2)}, device="meta")
    assert len(net.feature_info.channels()) == 2


@pytest.mark.parametrize("name", BY_FORWARD)
@pytest.mark.parametrize("wrapper", [None, "list", "getter"])
def test_checkpointing(name: str, wrapper: str | None) -> None:
    kwargs = {"features_only": True, "feature_cls": wrapper} if wrapper else {}
    x = images(name)

    def run(checkpoint: bool) -> tuple[Tensor, dict[str, Tensor], int]:
        net = settled(name, **kwargs).train()
        net.set_grad_checkpointing(checkpoint)
        stored = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal stored
            stored += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = net(x)
        out = torch.cat([o.flatten() for o in out]) if wrapper else out
        out.square().mean().backward()
        return out.detach(), {k: p.grad for k, p in net.named_parameters() if p.grad is not None}, stored

    plain, plain_grads, plain_stored = run(checkpoint=False)
    saved, saved_grads, saved_stored = run(checkpoint=True)
    torch.testing.assert_close(saved, plain)
    torch.testing.assert_close(saved_grads, plain_grads, rtol=1e-3, atol=1e-4)
    assert saved_stored < 0.6 * plain_stored, "memory is what it is for"


@pytest.mark.rows
@pytest.mark.parametrize("name", [name for name in CHEAP if not lacks(name, "zero_init_last")])
def test_zero_init_last(name: str) -> None:
    net = zoo.create_model(name, zero_init_last=True).eval()
    for unit in net.modules():
        if isinstance(unit, Residual):
            x = torch.randn(1, unit.branch.conv1.in_channels, 8, 8)
            assert not unit.branch(x).any(), "the branch starts at zero"
    assert any(not p.any() for key, p in net.named_parameters() if key.endswith("weight"))


@pytest.mark.rows
@pytest.mark.parametrize("name", CHEAP)
def test_frozen_stays_frozen(name: str) -> None:
    net = zoo.create_model(name, device="meta").requires_grad_(False)
    net.reset_classifier(4, "max")
    assert {k for k, p in net.named_parameters() if p.requires_grad} == {"classifier.fc.weight", "classifier.fc.bias"}


# Compilers, formats, copies


@pytest.mark.slow  # those that keep the order of taps are scripted in test_features.py
@pytest.mark.parametrize("name", TINY)
def test_torchscript_of_a_wrapper(name: str) -> None:
    x = images(name)
    with torch.no_grad():
        # A net may run fewer operators than TorchScript does; rounding is all that may differ.
        close = dict(rtol=1e-4, atol=1e-4)
        getter = settled(name, features_only=True, feature_cls="getter")
        for have, want in zip(torch.jit.script(getter)(x), getter(x), strict=True):
            torch.testing.assert_close(have, want, **close)


@pytest.mark.only(name=("resnet_test",))
@pytest.mark.parametrize("name", TINY)
def test_compile(name: str) -> None:
    small = SMALL_GRID.get(name, {})
    net = settled(name, **small)
    x = images(name)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
    compiled(x).sum().backward()


@pytest.mark.only(name=("resnet_test", "fishnet_test"))
@pytest.mark.parametrize("name", TINY)
def test_compile_of_taps(name: str) -> None:
    taps = settled(name, features_only=True, **SMALL_GRID.get(name, {}))
    x = images(name)
    torch._dynamo.reset()
    with torch.no_grad():
        for have, want in zip(torch.compile(taps, backend="eager", fullgraph=True)(x), taps(x), strict=True):
            torch.testing.assert_close(have, want)


@pytest.mark.only(name=("resnet_test", "fabric_test"))
@pytest.mark.parametrize("name", TINY)
def test_export(name: str) -> None:
    net = settled(name, **SMALL_GRID.get(name, {}))
    x = images(name)
    side, batch = x.shape[-1], torch.export.Dim("batch", min=1, max=8)
    step = 32 if zoo.model_entry(name).spec.tap_strides[-1] == 32 else 8
    if net.wide is not None:
        # Wide layers make a 1x1 map at the published size, and torch takes a size of one for fixed: that size by
        # itself, and any size from the next one on.
        fixed = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(fixed.module()(x[:1]), net(x[:1]))
        side += step
        x = images(name, height=side, width=side)
    height, width = (step * torch.export.Dim(d, min=side // step, max=8 * side // step) for d in ("h", "w"))
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch, 2: height, 3: width},))
    larger = images(name, batch=3, height=side + step, width=side + 2 * step)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x))
        torch.testing.assert_close(program.module()(larger), net(larger))


@pytest.mark.parametrize("name", TINY)
def test_local_folder(name: str, tmp_path: Any) -> None:
    net = settled(name, num_classes=6)
    timm.models.save_for_hf(net, tmp_path, safe_serialization=True)
    again = zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(images(name)), net(images(name)))


@pytest.mark.rows
@pytest.mark.parametrize("name", CHEAP)
def test_stages_hold_the_units(name: str) -> None:
    """Checkpointing acts on stages; a residual unit outside of one would silently be stored."""
    net = zoo.create_model(name, device="meta")
    inside = {id(unit) for stage in net.modules() if isinstance(stage, Stage) for unit in stage}
    assert {id(unit) for unit in net.modules() if isinstance(unit, Residual)} <= inside
