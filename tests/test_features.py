"""Feature taps: which maps come, in which order, from which module, and with which parameters."""

from typing import Any

import pytest
import torch
from structures import SMALL_NETS, one_of_each, small_net_title
from test_contract import images, settled
from timm.models import FeatureDictNet, FeatureListNet
from torch import Tensor, nn

import zoo
from zoo.features import FeatureDict

TINY = zoo.list_models("*_test")
WRAPPERS = ("list", "dict", "hook", "fx", "getter")
STRUCTURES = [(name, {}) for name in one_of_each(zoo.list_models())]
every_structure = pytest.mark.parametrize(
    ("name", "options"),
    [
        *(pytest.param(*net, id=small_net_title(net)) for net in SMALL_NETS),
        *(pytest.param(*net, id=net[0], marks=pytest.mark.slow) for net in STRUCTURES if net not in SMALL_NETS),
    ],
)
SMALLER: dict[str, dict[str, Any]] = {"vgg11": {"wide": (64, 64)}, "fabric_d_l8_s6_c32x2_voc": {"channels": (8,) * 6}}
"""Of a hundred million parameters that add no structure."""


def small_images(name: str) -> Tensor:
    """One image of a size that every net takes, for maps of all layers are kept."""
    side = min(zoo.model_entry(name).input_size[-1], 96)
    return images(name, batch=1, height=side, width=side)


def maps_of(out: Any) -> list[Tensor]:
    return list(out.values()) if isinstance(out, dict) else list(out)


@pytest.mark.only(name=("resnet_test", "fishnet_test"))
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", TINY)
def test_maps_come_in_the_order_asked_for(name: str, wrapper: str) -> None:
    x, net = images(name, batch=1), settled(name)
    last = len(net.feature_info) - 1
    with torch.no_grad():
        expected = net.forward_intermediates(x, intermediates_only=True)
        for asked, taps in (
            ((last, 0), [last, 0]),
            ((-1, 0, 1), [last, 0, 1]),
            ([1, -1], [1, last]),
            (2, [last - 1, last]),
            (last + 1, list(range(last + 1))),
            (0, [0]),
            (-1, [last]),
            (-2, [last - 1]),
        ):
            wrapped = settled(name, features_only=True, feature_cls=wrapper, out_indices=asked)
            out = wrapped(x)
            info: Any = wrapped.feature_info
            assert [tap.shape[1] for tap in maps_of(out)] == info.channels()
            assert info.reduction() == [net.feature_info[tap]["reduction"] for tap in taps]
            assert list(info.out_indices) == taps
            for have, tap in zip(maps_of(out), taps, strict=True):
                torch.testing.assert_close(have, expected[tap])
            if wrapper == "dict":
                assert list(out) == [str(tap) for tap in taps]


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ((0, 0), "name each tap once"),
        ((0, -5), "name each tap once"),
        ((), "name taps from 0 to 4"),
        ((5,), "name taps from 0 to 4"),
        ((-6,), "name taps from 0 to 4"),
        (6, "a number n from 1 to 5 for the last n: resnet_test has 5 taps, stride 2, 4, 8, 16, 32"),
        (-6, "name taps from 0 to 4"),
        ((1.0,), "hold whole numbers only"),
        ((True,), "hold whole numbers only"),
        (True, "be whole numbers of taps"),
        (2.0, "be whole numbers of taps"),
        ("12", "be whole numbers of taps"),
    ],
)
def test_wrong_taps_are_named(asked: Any, rule: str) -> None:
    for give in ({"out_indices": asked}, {"feature_cfg": {"out_indices": asked}}):
        with pytest.raises(ValueError, match=r"out_indices \(") as caught:
            zoo.create_model("resnet_test", features_only=True, **give)
        assert rule in str(caught.value)
    net = zoo.create_model("resnet_test")
    for ask in (net.prune_intermediate_layers, lambda taps: net.forward_intermediates(images("resnet_test"), taps)):
        with pytest.raises(ValueError, match=r"indices \(.*must .*" + rule.partition(":")[0]):
            ask(asked)


@pytest.mark.parametrize("wrapper", ["lists", 3, "hooks", None, int, nn.ReLU, ""])
def test_wrong_wrappers_are_named(wrapper: Any) -> None:
    if wrapper is None:
        assert zoo.create_model("resnet_test", features_only=True, feature_cls=None) is not None
        return
    with pytest.raises(ValueError, match=r"feature_cls \(.*must be one of list, dict, hook, fx, getter"):
        zoo.create_model("resnet_test", features_only=True, feature_cls=wrapper)


def test_options_of_features_need_features() -> None:
    with pytest.raises(TypeError, match=r"'out_indices' \(given \(0, 1\)\): it needs features_only=True"):
        zoo.create_model("resnet_test", out_indices=(0, 1))


def test_a_class_of_wrappers_is_taken_as_it_is() -> None:
    class Own(FeatureListNet):
        pass

    wrapped = zoo.create_model("resnet_test", features_only=True, feature_cls=Own, out_indices=(1, 3))
    assert type(wrapped) is Own
    assert isinstance(zoo.create_model("resnet_test", features_only=True, feature_cls=FeatureDictNet), FeatureDict)
    assert [tap.shape[1] for tap in wrapped(images("resnet_test"))] == wrapped.feature_info.channels()


def test_taps_follow_the_specification_that_was_asked_for() -> None:
    net = zoo.create_model("resnet_test", features_only=True, depths=(1, 1), widths=(16, 32), mid_widths=())
    assert net.feature_info.reduction() == [2, 4, 8]
    assert len(net(images("resnet_test"))) == 3


@every_structure
def test_a_hook_on_a_taps_module_sees_the_map(name: str, options: dict[str, Any]) -> None:
    """So that Grad-CAM, decoders that hook into an encoder, and tools by the names of feature_info work."""
    net, x = settled(name, **(SMALLER.get(name, {}) | options)), small_images(name)
    want = net.forward_intermediates(x, intermediates_only=True)
    seen: dict[int, Tensor] = {}
    backwards: set[int] = set()
    for tap, info in enumerate(net.feature_info):
        module = net.get_submodule(info["module"])
        module.register_forward_hook(lambda *args, tap=tap: seen.update({tap: args[-1]}))
        module.register_full_backward_hook(lambda *args, tap=tap: backwards.add(tap))
    # Taps that lead nowhere, as some of a type d fabric, are computed where they are asked for.
    asked = net.forward_intermediates(x.requires_grad_(), intermediates_only=True)
    for tap, expected in enumerate(want):
        assert isinstance(seen[tap], Tensor)
        torch.testing.assert_close(seen[tap], expected)
    sum(tap.square().sum() for tap in asked).backward()
    assert backwards == set(range(len(want)))
    seen.clear()
    net(x)
    assert seen.keys() >= ({net.head_tap} if net.head_tap >= 0 else set())
    seen.clear()  # maps, their graph and the hooks on it hold each other where the garbage collector does not look


@every_structure
def test_hooks_on_every_layer_may_keep_what_they_see(name: str, options: dict[str, Any]) -> None:
    """No layer writes into what another returned, so that maps and gradients are what they were."""
    net, x = settled(name, **(SMALLER.get(name, {}) | options)), small_images(name)
    kept: list[tuple[str, Tensor, Tensor]] = []
    for key, module in net.named_modules():
        if type(module).__module__.startswith("torch.nn.") and not any(True for _ in module.children()):
            module.register_full_backward_hook(lambda *args: None)

        def keep(module: nn.Module, args: Any, out: Any, key: str = key) -> None:
            if isinstance(out, Tensor):
                kept.append((key, out, out.detach().clone()))

        module.register_forward_hook(keep)
    net(x.requires_grad_()).sum().backward()
    assert len(kept) > 5
    assert not [key for key, out, copied in kept if not torch.equal(out, copied)]
    kept.clear()  # maps, their graph and the hooks on it hold each other where the garbage collector does not look


@pytest.mark.only(name=("resnet_test", "fishnet_test", "fabric_test"), wrapper=("list", "fx"))
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", TINY)
def test_taps_leave_no_parameter_without_a_gradient(name: str, wrapper: str) -> None:
    """As torch's DistributedDataParallel asks for."""
    last = len(zoo.model_entry(name).spec.tap_strides) - 1
    for taps in ((0, last), tuple(range(last)), (last,), (1,), tuple(range(last + 1))):
        net = zoo.create_model(name, features_only=True, out_indices=taps, feature_cls=wrapper).train()
        sum(tap.square().mean() for tap in maps_of(net(images(name)))).backward()
        assert not [key for key, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize("wrapper", ["list", "dict"])
@pytest.mark.parametrize("name", TINY)
def test_a_state_dict_of_the_whole_net_fits_its_taps(name: str, wrapper: str) -> None:
    net, x = settled(name), images(name, batch=1)
    wrapped = zoo.create_model(name, features_only=True, feature_cls=wrapper, out_indices=(1, 2)).eval()
    wrapped.load_state_dict(net.state_dict())
    nn.Sequential(wrapped).load_state_dict({f"0.{key}": value for key, value in net.state_dict().items()})
    with torch.no_grad():
        for have, want in zip(maps_of(wrapped(x)), net.forward_intermediates(x, [1, 2])[1], strict=True):
            torch.testing.assert_close(have, want)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        wrapped.load_state_dict(net.state_dict() | {"other.weight": x})


@pytest.mark.only(name=("resnet_test",))  # the whole nets of all families are scripted by the contract
@pytest.mark.parametrize("name", TINY)
def test_wrappers_in_torchscript_keep_the_order(name: str) -> None:
    x = images(name, batch=1)
    for wrapper in ("list", "dict"):
        net = settled(name, features_only=True, feature_cls=wrapper, out_indices=(2, 0))
        with torch.no_grad():
            scripted, plain = torch.jit.script(net)(x), net(x)
        assert [m.shape for m in maps_of(scripted)] == [m.shape for m in maps_of(plain)]
        assert not isinstance(plain, dict) or list(scripted) == list(plain) == ["2", "0"]
