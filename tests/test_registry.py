"""Names, timm's registry, errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from processes import run_apart

import zoo
from zoo.entry import Entry, Spec
from zoo.models.fishnet import FishNet
from zoo.models.resnet import ResNet

pytestmark = pytest.mark.quick

ALL = zoo.list_models()


def test_timm_lists_us() -> None:
    listed = timm.list_models(module="zoo")
    assert sorted(listed) == sorted(zoo.model_entry(name).timm_name for name in ALL)
    assert set(listed) <= set(timm.list_models())
    assert {"fishnet99", "resnet110_cifar", "zoo_resnet50"} <= set(listed)
    assert "zoo" in timm.list_modules()


def test_timm_keeps_its_own() -> None:
    assert type(timm.create_model("resnet50", device="meta")).__module__ == "timm.models.resnet"
    assert timm.is_model_pretrained("resnet50.a1_in1k")
    assert "resnet50" in timm.list_models(module="resnet")
    assert "zoo_resnet50" not in timm.list_models(module="resnet")


def test_one_name_everywhere() -> None:
    for name in ("resnet50", "zoo_resnet50"):
        assert isinstance(zoo.create_model(name, device="meta"), ResNet)
    assert isinstance(timm.create_model("zoo_resnet50", device="meta"), ResNet)
    assert isinstance(zoo.create_model("timm:resnet50", device="meta"), timm.models.ResNet)
    assert isinstance(zoo.create_model("mobilenetv1_100", device="meta"), torch.nn.Module)
    assert isinstance(zoo.fishnet99(num_classes=10, device="meta"), FishNet)
    assert zoo.fishnet99(num_classes=10, device="meta").num_classes == 10


def test_features_by_timm() -> None:
    net = timm.create_model("fishnet99", features_only=True, device="meta")
    assert net.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert net.feature_info.channels() == [64, 320, 832, 1600, 2112]


def test_list_models() -> None:
    assert zoo.list_models(family="fishnet") == [n for n in ALL if zoo.model_entry(n).family == "fishnet"]
    assert zoo.list_models("resnet20_*") == ["resnet20_cifar", "resnet20_projection_cifar"]
    assert "preresnet20_cifar" in zoo.list_models("resnet20_"), "without a pattern any part of a name"
    assert zoo.list_models("wide_*_cifar") == [n for n in ALL if n.startswith("wide_") and n.endswith("_cifar")]
    assert ALL.index("resnet18") < ALL.index("resnet50") < ALL.index("resnet101"), "natural order"
    with pytest.raises(ValueError, match=r"family \('fish'\) must be one of .*fishnet.*resnet"):
        zoo.list_models(family="fish")


@pytest.mark.parametrize(("wrong", "right"), [("fishnet98", "fishnet99"), ("resnet20_cifer", "resnet20_cifar")])
def test_unknown_names_get_close_matches(wrong: str, right: str) -> None:
    for ask in (zoo.create_model, zoo.model_entry):
        with pytest.raises(ValueError, match=rf"name \('{wrong}'\).*{right}"):
            ask(wrong)


def test_wrong_overrides_are_named() -> None:
    with pytest.raises(TypeError, match=r"fishnet99 has no argument 'body_block'.*did you mean body_blocks"):
        zoo.create_model("fishnet99", body_block=(1, 1, 1))
    with pytest.raises(TypeError, match="output_stride"):
        timm.create_model("zoo_resnet50", ouput_stride=8)
    with pytest.raises(ValueError, match=r"order \('after'\) must be one of post, norm_after_add"):
        zoo.create_model("resnet20_cifar", order="after")
    with pytest.raises(ValueError, match=r"tail_blocks \(\(1, 2\)\) must have three numbers"):
        zoo.create_model("fishnet99", tail_blocks=(1, 2))
    with pytest.raises(ValueError, match=r"in_chans \(0\)"):
        zoo.create_model("fishnet99", in_chans=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:test_resnet", {"act_layer": "nothing"}),
        ("test_resnet", {"norm_layer": "nothing"}),
        ("timm:test_resnet", {"output_stride": 7}),
        ("timm:botnet50ts_256", {"pretrained": True}),
    ],
    ids=str,
)
def test_what_timm_cannot_make_is_told(name: str, options: dict[str, Any]) -> None:
    [(option, value)] = options.items()
    with pytest.raises(ValueError, match=rf"name \('{name.removeprefix('timm:')}'\), .*{option} \({value!r}\)"):
        zoo.create_model(name, **options)


def test_missing_weights() -> None:
    for create in (zoo.create_model, timm.create_model):
        with pytest.raises(ValueError, match="fishnet99 has no registered weights"):
            create("fishnet99", pretrained=True)
    with pytest.raises(ValueError, match="no registered weights"):
        zoo.create_model("fishnet99.unheard_of")
    with pytest.raises(ValueError, match=r"resnet50 has only a1_in1k.*osmr_in1k$"):
        zoo.create_model("resnet50.unheard_of")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def execute(words: list[str]) -> int:
    """Run code in a process that has imported the zoo."""
    exec(words[0], {"__name__": "__main__"})
    return 0


TAKEN = """
import warnings, timm, torch
def fishnet99(pretrained=False, **kwargs): return torch.nn.Identity()
def zoo_fishnet150(pretrained=False, **kwargs): return torch.nn.Identity()
def fishnet150(pretrained=False, **kwargs): return torch.nn.Identity()
"""


@pytest.mark.slow
def test_a_name_that_others_took_first_is_theirs_in_timm_and_ours_in_the_zoo() -> None:
    done = run(
        TAKEN
        + "for f in (fishnet99, fishnet150, zoo_fishnet150): timm.models.register_model(f)\n"
        + "with warnings.catch_warnings(record=True) as caught:\n"
        + "    warnings.simplefilter('always')\n"
        + "    import zoo\n"
        + "print(*(str(w.message) for w in caught if 'model name' in str(w.message)), sep='\\n')\n"
        + "kind = lambda net: type(net).__name__\n"
        + "on = dict(device='meta')\n"
        + "print(kind(timm.create_model('fishnet99')), kind(timm.create_model('zoo_fishnet99', **on)))\n"
        + "print(kind(zoo.create_model('fishnet99', **on)), kind(zoo.create_model('fishnet150', **on)))\n"
        + "tagged = zoo.create_model('fishnet150.osmr_in1k', **on)\n"
        + "print(kind(timm.create_model('zoo_fishnet150')), tagged.pretrained_cfg['tag'])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "model name 'fishnet99' is registered with timm by __main__; ours is zoo_fishnet99 there. "
        "zoo.create_model('fishnet99') is ours.",
        "model name 'fishnet150' is registered with timm by __main__; so is zoo_fishnet150: ours is not there. "
        "zoo.create_model('fishnet150') is ours.",
        "Identity FishNet",
        "FishNet FishNet",
        "Identity osmr_in1k",
    ]


@pytest.mark.quick(False)
def test_what_others_register_later_changes_nothing_here(tmp_path: Path) -> None:
    done = run_apart(
        execute,
        TAKEN
        + "import zoo\n"
        + "warnings.simplefilter('ignore')\n"
        + "for f in (fishnet99, fishnet150, zoo_fishnet150): timm.models.register_model(f)\n"
        + "net = zoo.create_model('fishnet150.osmr_in1k', device='meta')\n"
        + "print(type(net).__name__, net.pretrained_cfg['tag'], net.pretrained_cfg['architecture'])\n"
        + "net = zoo.create_model('fishnet99', features_only=True, device='meta')\n"
        + "print(len(net.feature_info.channels()), net.pretrained_cfg['first_conv'])",
        folder=tmp_path,
    )
    assert done.status == 0, done.err
    assert done.out.splitlines() == ["FishNet osmr_in1k fishnet150", "5 stem.conv1"]


@pytest.mark.quick(False)
def test_a_reload_is_no_conflict(tmp_path: Path) -> None:
    code = "import importlib, zoo, zoo.registry\nimportlib.reload(zoo.registry)\nprint(zoo.list_models()[0])"
    done = run_apart(execute, code, folder=tmp_path)
    assert done.status == 0, done.err
    assert done.out.strip() == ALL[0]


def test_both_ways_of_creation_agree() -> None:
    """What timm's own function notes in a net is noted by ours: arguments, tag, source."""
    kwargs: dict[str, Any] = dict(num_classes=3, drop_rate=0.1, order="pre", device="meta")
    ours, theirs = (create("resnet_test", **kwargs) for create in (zoo.create_model, timm.create_model))
    assert ours._model_args == theirs._model_args
    assert ours.pretrained_cfg == theirs.pretrained_cfg
    tagged = [
        create(f"{name}.tv_in1k", device="meta")
        for create, name in ((zoo.create_model, "resnet50"), (timm.create_model, "zoo_resnet50"))
    ]
    assert tagged[0].pretrained_cfg == tagged[1].pretrained_cfg
    assert tagged[0].pretrained_cfg["tag"] == "tv_in1k"
    with pytest.raises(ValueError, match=r"pretrained_cfg \('nosuch'\) must be one of a1_in1k"):
        zoo.create_model("resnet50", pretrained_cfg="nosuch", device="meta")


@pytest.mark.rows
@pytest.mark.parametrize("name", ALL)
def test_specs_survive_json(name: str) -> None:
    spec = zoo.model_entry(name).spec
    again = type(spec).from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


def test_rows_are_frozen() -> None:
    entry = zoo.model_entry("fishnet99")
    assert isinstance(entry, Entry)
    with pytest.raises(AttributeError):
        entry.spec.bridge_blocks = 3  # ty: ignore[invalid-assignment]


SPECS = {
    name: zoo.model_entry(name).spec for name in ("fishnet99", "resnet50", "resnet20_cifar", "gridnet_l6_s5_c16x2")
}
NUMBERS = [(name, field) for name, spec in SPECS.items() for field, v in spec.to_dict().items() if type(v) is not str]


@given(st.sampled_from(NUMBERS), st.sampled_from([-1, -7, 0.5, "two", None]))
def test_nonsense_in_a_spec_names_the_field(where: tuple[str, str], nonsense: object) -> None:
    name, field = where
    spec: Spec = SPECS[name]
    value = getattr(spec, field)
    assume(not (isinstance(value, float) and nonsense == 0.5))  # a good factor
    wrong = (nonsense,) * len(value) if isinstance(value, tuple) and value else nonsense
    with pytest.raises(ValueError, match=rf"^{field} \("):
        spec.replace(**{field: wrong})


def test_preprocessing_follows_the_tag() -> None:
    """The mean of the weights that are asked for; without any that of the row."""
    assert zoo.preprocessing_params("fishnet99")["mean"] == list(zoo.model_entry("fishnet99").mean)
    assert zoo.preprocessing_params("tu-googlenet_bn.tv_in1k")["mean"] == [0.5, 0.5, 0.5]
    assert zoo.preprocessing_params("zoo_resnet50.tv_in1k")["std"] == [0.229, 0.224, 0.225]
    with pytest.raises(ValueError, match="fishnet150 has no weights 'nothing', only osmr_in1k"):
        zoo.preprocessing_params("fishnet150.nothing")
