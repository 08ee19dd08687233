"""Arguments of nets: what is wrong is named before anything is built, and what is right does what the name says."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from argument_sets import argument_set, outcome
from timm.layers import create_act, create_norm
from torch import nn

import zoo
from zoo import bounds
from zoo.choosing import Wish
from zoo.complexity import count
from zoo.detection import faster_rcnn
from zoo.evaluation import open_dataset
from zoo.front import Front, Localisation
from zoo.hypercolumns import PixelNet
from zoo.layer_types import ACTS, NORMS, make_act, make_norm
from zoo.predicting import open_classifier
from zoo.published import select
from zoo.racing import Limits
from zoo.speed.cases import plan

NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[str, Any, str]] = [
    *(("num_classes", value, "must be a whole number") for value in (10.0, True, "ten", NAN, (10,))),
    ("num_classes", -1, "must be a whole number from 0"),
    *(("in_chans", value, "must be a whole number") for value in (True, 3.0, "3", INF)),
    ("in_chans", 0, "must be a whole number from 1"),
    *(("global_pool", value, "must be one of avg, max") for value in ("average", "AVG", 3, "fastest", False)),
    *(("output_stride", value, "must be one of 4, 8, 16, 32") for value in (True, 8.0, "8", NAN, 3, 64, -8)),
    *(("drop_rate", value, "must lie in [0, 1)") for value in (NAN, 2, -0.1, 1.0, INF)),
    *(("drop_rate", value, "must be a number") for value in ("x", True, (0.1,))),
    *(("drop_path_rate", value, "must lie in [0, 1)") for value in (NAN, 1, -INF)),
    *(("drop_path_rate", value, "must be a number") for value in ("x", False)),
    *(
        ("norm_layer", value, "must be one of batchnorm2d")
        for value in ("batchnorm3d", "", 3, "layernorm", "batchnorm1d")
    ),
    ("norm_layer", nn.BatchNorm2d(4), "not a module that is made already"),
    ("norm_layer", lambda channels: None, "must make a module"),
    ("norm_layer", lambda: nn.Identity(), "cannot be made with 16 channels"),
    *(("act_layer", value, "must be one of relu") for value in ("rleu", "", 3, True)),
    ("act_layer", nn.ReLU(), "not a module that is made already"),
    ("act_layer", lambda: 3, "must make a module"),
    *(("zero_init_last", value, "must be True or False") for value in (1, "yes", 0.0)),
    *(("device", value, "must be a device") for value in ("gpu", "cuda:x", 3.5, "cuda:99", "")),
    *(("dtype", value, "must be one of torch.float32") for value in ("float16", torch.int8, torch.complex64, float)),
    ("features_only", 1, "must be True or False"),
    ("pretrained", "yes", "must be True or False"),
    ("pretrained_cfg", 5, "must be a tag"),
    ("pretrained_cfg_overlay", "url", "must be a dict"),
    ("feature_cfg", 5, "must be a dict"),
]


@pytest.mark.parametrize(("argument", "value", "rule"), WRONG, ids=lambda v: str(v)[:20])
def test_a_wrong_argument_is_named_with_its_value_and_the_rule(argument: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{argument} (")) as caught:
        zoo.create_model("resnet_test", **{argument: value})
    assert rule in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 or isinstance(value, nn.Module)


FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "net (5)": (zoo.draw, {"": 5}),
    "net (('lenet_test', 5))": (zoo.draw, {"": ("lenet_test", 5)}),
    "input_size 32": (count, {"": zoo.create_model("lenet_test", device="meta"), "input_size": 32}),
    "filter (5)": (zoo.list_models, {"filter": 5}),
    "name (5)": (zoo.preprocessing_params, {"name": 5}),
    "model (int)": (zoo.save_for_hf, {"model": 5, "folder": "x"}),
    "checkpoint_path ('none.pth')": (zoo.create_model, {"name": "lenet_test", "checkpoint_path": "none.pth"}),
    "num_features (-1)": (Localisation, {"num_features": -1}),
    "in_chans ('3')": (Localisation, {"in_chans": "3"}),
    "net (3)": (Front, {"net": 3}),
    "hidden (5)": (PixelNet, {"net": "resnet_test", "num_classes": 3, "hidden": 5}),
    "hidden (0)": (PixelNet, {"net": "resnet_test", "num_classes": 3, "hidden": (0,)}),
    "options ([1])": (faster_rcnn, {"net": "resnet_test", "num_classes": 3, "options": [1]}),
    "batch_sizes must be a list": (plan, {"names": ["lenet_test"], "batch_sizes": 3}),
    "batch size must be at most": (plan, {"names": ["lenet_test"], "batch_sizes": [10**30]}),
    "split (5)": (open_dataset, {"name": "fashion", "split": 5}),
    "dataset (5)": (select, {"dataset": 5}),
    "sources must be a list": (Wish, {"sources": "timm"}),
    "max_params ('30M')": (Wish, {"max_params": "30M"}),
    "limit macs (nan)": (Limits, {"macs": NAN}),
    "device 'gpu'": (open_classifier, {"weights": "resnet20_cifar.fashion", "device": "gpu"}),
    "weights (5)": (open_classifier, {"weights": 5}),
}


@pytest.mark.parametrize("words", FUNCTIONS)
def test_a_wrong_argument_of_a_function_is_named(words: str) -> None:
    function, arguments = FUNCTIONS[words]
    first = [arguments[""]] if "" in arguments else []
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        function(*first, **{name: value for name, value in arguments.items() if name})


@pytest.mark.parametrize("argument", ["num_classes", "global_pool"])
def test_a_new_classifier_is_checked_too(argument: str) -> None:
    net = zoo.create_model("resnet_test")
    before = net.classifier
    with pytest.raises(ValueError, match=rf"{argument} \('x'\)"):
        net.reset_classifier(**{"num_classes": 3, argument: "x"})
    assert net.classifier is before
    assert net.num_classes == 10


@pytest.mark.parametrize("name", [5, None, b"resnet_test"])
def test_a_name_is_a_text(name: Any) -> None:
    for ask in (zoo.create_model, zoo.model_entry):
        with pytest.raises(ValueError, match=r"name \(.*\) must be a text"):
            ask(name)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("out_channels", value) for value in ("x", True, 0, 256.0, 10**9)),
        *(("trainable_stages", value) for value in (1.5, "x", -1, True)),
        *(("strides", value) for value in (4, "48", ("x",), ())),
        ("freeze_norms", "no"),
        ("extra_blocks", "pools"),
    ],
)
def test_arguments_of_a_pyramid_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{argument} (")):
        zoo.detection_backbone("resnet_test", **{argument: value})


def test_numbers_of_other_libraries_are_numbers() -> None:
    net = zoo.create_model(
        "resnet_test", num_classes=np.int64(7), drop_rate=np.float32(0.5), depths=np.array([1] * 4).tolist()
    )
    assert type(net.num_classes) is int
    assert net.classifier.drop.p == 0.5


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("resnet_test", "widths", (32, 48.0, 64, 96)),
        ("resnet_test", "depths", (2, True, 1, 1)),
        ("resnet_test", "groups", True),
        ("resnet_test", "close", 1),
        ("resnet_test", "order", None.__class__),
        ("densenet_test", "compression", NAN),
        ("densenet_test", "compression", True),
        ("googlenet_bn_test", "norm_eps", INF),
        ("highway_test", "gate_bias", -INF),
        ("wider_resnet_test", "dropouts", (0.0, 0.0, 0.0, 0.0, NAN, 0.5)),
        ("vgg_test", "depths", 3),
        ("vgg_test", "depths", "12345"),
    ],
)
def test_a_field_is_of_its_type_and_finite(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} \("):
        zoo.create_model(name, **{field: value})


def test_a_whole_number_is_a_number() -> None:
    assert (
        zoo.create_model("densenet_test", compression=1).spec == zoo.create_model("densenet_test", compression=1.0).spec
    )


# Norms and activations


def runs(make: Any) -> bool:
    try:
        return make().shape == (2, 64, 3, 5)
    except (RuntimeError, ValueError):
        return False


def test_norms_are_those_of_timm_that_take_maps() -> None:
    x = torch.randn(2, 64, 3, 5)
    known = {name for name, make in create_norm._NORM_MAP.items() if runs(lambda make=make: make(64)(x))}
    assert known == set(NORMS) - {"syncbatchnorm"}
    for name in NORMS:
        assert make_norm(name, 64).eval()(x).shape == x.shape


def test_activations_are_those_of_timm() -> None:
    assert set(ACTS) == set(create_act._ACT_LAYER_DEFAULT)
    x = torch.randn(2, 3, 4, 4)
    for name in ACTS:
        before = x.clone()
        assert make_act(name)(x).shape == x.shape
        assert torch.equal(x, before)


NORM_CALLABLES = {
    "a function of the channels": lambda channels: nn.GroupNorm(1, channels),
    "positional partial": functools.partial(nn.GroupNorm, 1),
    "partial": functools.partial(nn.BatchNorm2d, eps=1e-3),
    "class": nn.InstanceNorm2d,
    "no device": torch.nn.SyncBatchNorm,
    "identity": lambda channels: nn.Identity(),
}


@pytest.mark.parametrize(
    "name", [n for n in zoo.list_models("*_test") if "norm_layer" not in zoo.model_entry(n).spec.lacks]
)
@pytest.mark.parametrize("norm_layer", NORM_CALLABLES.values(), ids=NORM_CALLABLES)
def test_norm_constructors(name: str, norm_layer: Any) -> None:
    net = zoo.create_model(name, norm_layer=norm_layer, dtype=torch.float64)
    assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {torch.float64}
    assert net.eval()(torch.randn(1, *zoo.model_entry(name).input_size).double()).isfinite().all()


@pytest.mark.parametrize(
    "act_layer", [nn.SiLU, nn.GELU, functools.partial(nn.LeakyReLU, 0.2), lambda: nn.GELU(), F.relu, torch.tanh]
)
def test_activation_constructors(act_layer: Any) -> None:
    net = zoo.create_model("resnet_test", act_layer=act_layer).eval()
    assert net(torch.randn(1, 3, 64, 64)).isfinite().all()
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())


def test_parameters_of_an_activation_follow_device_and_dtype() -> None:
    net = zoo.create_model("resnet_test", act_layer="prelu", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.bfloat16)}
    assert any(isinstance(m, nn.PReLU) for m in net.modules())


def test_group_norm_takes_as_many_groups_as_divide() -> None:
    assert make_norm("groupnorm", 48).num_groups == 16
    assert make_norm(timm.layers.GroupNorm, 64).num_groups == 32


# Too large


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("fabric_test", dict(columns=1_000_000_000)),
        ("fabric_test", dict(columns=1_000_000)),
        pytest.param("resnet_test", dict(depths=(1_000_000, 1, 1, 1)), marks=pytest.mark.slow),
        ("resnet_test", dict(widths=(32, 48, 64, 1_000_000), mid_widths=(8, 12, 16, 500_000))),
        ("vgg_test", dict(window=100_000)),
        pytest.param("densenet_test", dict(depths=(100_000, 1, 1, 1)), marks=pytest.mark.slow),
        ("resnet50", dict(num_classes=2_000_000_000)),
        ("resnet50", dict(num_classes=2**40)),
        ("lenet_test", dict(in_chans=2_000_000_000)),
        ("highway_test", dict(depths=(2,) * 40, widths=(8,) * 40)),
    ],
)
def test_a_net_that_nobody_can_build_is_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(rf"{key} \(" for key in given)):
        zoo.create_model(name, **given)


def test_the_largest_presets_are_within_bounds() -> None:
    largest = max((zoo.model_entry(name) for name in zoo.list_models()), key=lambda entry: entry.params)
    assert 10 * largest.params < bounds.MOST_ELEMENTS
    deepest = zoo.create_model("resnet1202_cifar", device="meta")
    assert 5 * len(deepest.state_dict()) < bounds.MOST_TENSORS


def test_looking_at_the_size_draws_no_number() -> None:
    torch.manual_seed(0)
    plain = zoo.create_model("resnet_test")
    torch.manual_seed(0)
    again = zoo.create_model("resnet_test", depths=(2, 1, 1, 1))
    assert all(map(torch.equal, plain.state_dict().values(), again.state_dict().values()))


# At random


@pytest.mark.parametrize("seed", range(150))
def test_any_set_of_arguments_gives_what_is_promised_or_names_what_is_wrong(seed: int) -> None:
    name, arguments, size = argument_set(seed)
    assert outcome(name, arguments, size) in ("built", "refused")
