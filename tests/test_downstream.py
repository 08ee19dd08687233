"""Our names inside the libraries that people use: one check a library and way of using it, for nets of every kind.

A check builds what a user of the library would build, runs it forwards, and backwards where it is trained. Where the
question is whether layers meet, on the meta device; what they compute is then asked of a small net.
"""

import os
import runpy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import transformers
from processes import Ended, run_apart
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import zoo
from zoo.timm import main, pool_at_test_time

ROOT = Path(__file__).parents[1]
NETS = (
    "fishnet_test",
    "fabric_test",
    "zoo_resnet50",
    "fishnet99",
    "fabric_a_l8_s4_c64x2_post",
    "preresnet50",
    "zoo_densenet121",
    "zoo_vgg16_bn",
)
Check = Callable[[str, Path], None]
CHECKS: dict[str, Check] = {}


def check(title: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[title] = function
        return function

    return add


def images(size: int = 64, chans: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, chans, size, size, generator=torch.Generator().manual_seed(1))


def many_paths(name: str) -> bool:
    """Whether the children of the net are no chain: fish and fabrics."""
    return not zoo.model_entry(name).build.chain


def learns(model: nn.Module, loss: Tensor) -> None:
    assert loss.isfinite()
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def same(one: nn.Module, other: nn.Module) -> bool:
    have, want = one.state_dict(), other.state_dict()
    return have.keys() == want.keys() and all(torch.equal(have[key], want[key]) for key in want)


# segmentation_models_pytorch


DECODERS: list[tuple[str, str, dict[str, Any]]] = [
    ("smp Unet depth5", "Unet", {}),
    ("smp Unet depth3", "Unet", dict(encoder_depth=3, decoder_channels=(64, 32, 16))),
    ("smp UnetPlusPlus", "UnetPlusPlus", {}),
    ("smp FPN", "FPN", {}),
    ("smp Linknet", "Linknet", {}),
    ("smp PSPNet", "PSPNet", {}),
    ("smp MAnet", "MAnet", {}),
    ("smp UPerNet", "UPerNet", {}),
    ("smp Segformer", "Segformer", {}),
    ("smp DeepLabV3 (os=8)", "DeepLabV3", {}),
    ("smp DeepLabV3Plus (os=16)", "DeepLabV3Plus", {}),
    ("smp PAN (os=16)", "PAN", {}),
]


def segment(decoder: str, arguments: dict[str, Any]) -> Check:
    def run(name: str, folder: Path) -> None:
        # A fabric is many small operations: to work out their shapes takes longer than to run them.
        with torch.device("cpu" if zoo.model_entry(name).family == "fabric" else "meta"):
            model = getattr(smp, decoder)(f"tu-{name}", encoder_weights=None, classes=5, **arguments)
            out = model.train()(torch.zeros(2, 3, 128, 160))
        assert out.shape == (2, 5, 128, 160)
        out.sum().backward()
        assert not [key for key, p in model.named_parameters() if p.grad is None]

    return run


for title, decoder, arguments in DECODERS:
    CHECKS[title] = segment(decoder, arguments)


@check("smp in_channels=4 + drop_path kwarg")
def _(name: str, folder: Path) -> None:
    model = smp.Unet(f"tu-{name}", encoder_weights=None, in_channels=4, classes=5, drop_path_rate=0.1)
    learns(model, model.train()(images(chans=4)).square().mean())


@check("smp preprocessing params")
def _(name: str, folder: Path) -> None:
    params = zoo.preprocessing_params(f"tu-{name}")
    prepared = smp.encoders.preprocess_input(torch.zeros(8, 8, 3).numpy(), **params)
    assert prepared[0, 0] == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    if timm.models.is_model_pretrained(name):
        assert smp.encoders.get_preprocessing_params(f"tu-{name}") == params
    else:  # smp asks whether there are weights, of timm's own nets too
        for untrained in (name, "cspresnet50d"):
            with pytest.raises(ValueError, match="does not have pretrained weights"):
                smp.encoders.get_preprocessing_params(f"tu-{untrained}")


# torchvision


def detect(kind: type[nn.Module], **pyramid: Any) -> Check:
    def run(name: str, folder: Path) -> None:
        backbone = zoo.detection_backbone(name, 64, **pyramid)
        few: dict[str, Any] = {}
        if issubclass(kind, FasterRCNN):
            few = dict(rpn_post_nms_top_n_train=20, rpn_post_nms_top_n_test=20, box_batch_size_per_image=8)
        detector = kind(backbone, num_classes=3, min_size=64, max_size=64, **few)
        boxes = torch.tensor([[4.0, 8.0, 40.0, 50.0]])
        target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
        losses = detector.train()(list(images()), [target, target])
        assert len(losses) >= 2
        learns(backbone.body, sum(losses.values()))
        with torch.no_grad():
            found = detector.eval()(list(images(batch=1)))
        assert {"boxes", "labels", "scores"} <= found[0].keys()

    return run


CHECKS["torchvision FasterRCNN"] = detect(FasterRCNN)
CHECKS["torchvision MaskRCNN"] = detect(MaskRCNN)
CHECKS["torchvision RetinaNet"] = detect(RetinaNet, strides=(8, 16, 32), extra_blocks="p6p7")
CHECKS["torchvision FCOS"] = detect(FCOS, strides=(8, 16, 32), extra_blocks="p6p7")


@check("torchvision BackboneWithFPN(create_model(...), return_layers)")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
        taps = net.feature_info[1:]
        layers = {tap["module"]: str(i) for i, tap in enumerate(taps)}
        channels = [tap["num_chs"] for tap in taps]
        if many_paths(name):  # it runs children one after the other; `zoo.detection_backbone` does not
            with pytest.raises(ValueError, match="return_layers are not present"):
                BackboneWithFPN(net, layers, channels, 32)
        else:
            maps = BackboneWithFPN(net, layers, channels, 32)(torch.empty(2, 3, 64, 64))
            assert [out.shape[-1] for out in maps.values()] == [16, 8, 4, 2, 1]


@check("torchvision IntermediateLayerGetter over features_only")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True)
        if many_paths(name):  # the net itself returns the maps
            with pytest.raises(ValueError, match="return_layers are not present"):
                IntermediateLayerGetter(net, net.return_layers)
            return
        maps = IntermediateLayerGetter(net, net.return_layers)(torch.empty(2, 3, 64, 64))
    assert [out.shape[-1] for out in maps.values()] == [32, 16, 8, 4, 2]
    assert [out.shape[1] for out in maps.values()] == net.feature_info.channels()


# transformers


def timm_backbone(name: str, **config: Any) -> transformers.TimmBackbone:
    return transformers.TimmBackbone(transformers.TimmBackboneConfig(backbone=name, **config))


def shapes(maps: tuple[Tensor, ...]) -> list[int]:
    return [out.shape[-1] for out in maps]


FINE = [1, 2, 3, 4]
"""The taps that transformers asks for: stride 4 and coarser."""


@check("transformers TimmBackbone")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        model = timm_backbone(name, out_indices=FINE)
        maps = model(torch.empty(2, 3, 64, 64)).feature_maps
    assert shapes(maps) == [16, 8, 4, 2]
    assert [out.shape[1] for out in maps] == model.channels


@check("transformers TimmBackbone default out_indices (-1)")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        assert shapes(timm_backbone(name)(torch.empty(2, 3, 64, 64)).feature_maps) == [2]


@check("transformers TimmBackbone output_hidden_states")
def _(name: str, folder: Path) -> None:
    model = timm_backbone(name, out_indices=FINE).eval()
    x = images(batch=1)
    with torch.no_grad():
        out = model(x, output_hidden_states=True)
        assert shapes(out.hidden_states) == [32, 16, 8, 4, 2]
        assert shapes(out.feature_maps) == [16, 8, 4, 2]
        again = model(x).feature_maps
    assert all(map(torch.equal, out.feature_maps, again)), "asking for more leaves the model as it was"


@check("transformers TimmBackbone output_stride=16")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        model = timm_backbone(name, out_indices=FINE, output_stride=16)
        assert shapes(model(torch.empty(2, 3, 64, 64)).feature_maps) == [16, 8, 4, 4]


@check("transformers TimmBackbone save/load")
def _(name: str, folder: Path) -> None:
    model = timm_backbone(name, out_indices=FINE)
    model.save_pretrained(folder)
    config = transformers.TimmBackboneConfig.from_pretrained(folder)
    again = transformers.TimmBackbone(config)
    again.load_state_dict(load_file(folder / "model.safetensors"))
    assert same(again._backbone, model._backbone)


@check("transformers DETR / MaskFormer style load_backbone")
def _(name: str, folder: Path) -> None:
    config = transformers.DetrConfig(
        backbone_config=transformers.TimmBackboneConfig(backbone=name, out_indices=FINE),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
        num_labels=3,
    )
    model = transformers.DetrForObjectDetection(config)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}] * 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.model.backbone.modules()), "DETR freezes them"
    out = model(images(), labels=labels)
    assert out.pred_boxes.shape == (2, 5, 4)
    learns(model.model.backbone, out.loss)


@check("transformers UperNet + TimmBackbone")
def _(name: str, folder: Path) -> None:
    backbone = transformers.TimmBackboneConfig(backbone=name, out_indices=FINE)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, use_auxiliary_head=False, num_labels=3, pool_scales=[1, 2]
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    out = model(images(), labels=torch.zeros(2, 64, 64, dtype=torch.long))
    assert out.logits.shape == (2, 3, 64, 64)
    learns(model.backbone, out.loss)


def slim(name: str) -> dict[str, Any]:
    """Narrow wide layers: those of VGG have 120 M of its 138 M parameters, and say nothing here."""
    return {"wide": [64, 64]} if "wide" in zoo.model_entry(name).spec.field_names() else {}


def classifier(name: str) -> transformers.TimmWrapperForImageClassification:
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=7, model_args=slim(name) or None)
    return transformers.TimmWrapperForImageClassification(config)


@check("transformers TimmWrapper cls fwd+bwd, hidden states, save/load")
def _(name: str, folder: Path) -> None:
    model = classifier(name)
    out = model(images(), labels=torch.tensor([0, 6]), output_hidden_states=True)
    assert shapes(out.hidden_states) == [32, 16, 8, 4, 2]
    learns(model, out.loss)
    model.save_pretrained(folder)
    again = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert same(again.timm_model, model.timm_model)


@check("transformers TimmWrapper gradient checkpointing")
def _(name: str, folder: Path) -> None:
    model = classifier(name)
    assert model.supports_gradient_checkpointing
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def stored() -> int:
        kept = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal kept
            kept += 0 if t.untyped_storage().data_ptr() in weights else t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model.train()(images(96)).logits.square().mean()
        learns(model, loss)
        return kept

    plain = stored()
    with warnings.catch_warnings():  # transformers gives the method another name in version 6
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()
    assert stored() < 0.7 * plain


@check("transformers TimmWrapper from timm save_for_hf dir")
def _(name: str, folder: Path) -> None:
    net = timm.create_model(name, num_classes=7, **slim(name)).eval()
    timm.models.save_for_hf(net, folder, safe_serialization=True)
    load = transformers.AutoModelForImageClassification.from_pretrained
    # The number of classes is in the folder twice, and transformers passes both on; for timm's own nets too (below).
    with pytest.raises(TypeError, match="multiple values for keyword argument 'num_classes'"):
        load(folder)
    zoo.save_for_hf(net, folder)
    assert same(load(folder).timm_model, net)
    assert same(timm.create_model(f"local-dir:{folder}", pretrained=True), net)


# Others: what torch.hub calls; and recipes of libraries that are not installed here, each in the lines that matter


@check("torch.hub-style hubconf globals")
def _(name: str, folder: Path) -> None:
    net = torch.hub.load(str(ROOT), name, source="local", pretrained=False, num_classes=7, device="meta")
    assert net.num_classes == 7


@check("fastai-style cut (create_timm_model recipe)")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        body = timm.create_model(name, pretrained=False, num_classes=0, in_chans=3, global_pool="")
        assert body(torch.empty(2, 3, 64, 64)).shape == (2, body.num_features, 2, 2)


@check("mmpretrain TIMMBackbone recipe")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, features_only=False, pretrained=False, checkpoint_path="", in_chans=3)
        net.reset_classifier(0, "")
        assert net(torch.empty(2, 3, 64, 64)).shape == (2, net.num_features, 2, 2)
        features = timm.create_model(name, features_only=True, pretrained=False, checkpoint_path="", in_chans=3)
        assert shapes(features(torch.empty(2, 3, 64, 64))) == [32, 16, 8, 4, 2]


@check("lightly-style backbone (num_classes=0 -> flat features)")
def _(name: str, folder: Path) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
        assert net(torch.empty(2, 3, 64, 64)).shape == (2, net.num_features)


FIRST = {title.split()[0]: title for title in reversed(CHECKS)}.values()


# Hidden states of a fabric are more maps than its head reads, and the net says so.
@pytest.mark.filterwarnings("ignore:the head of this net does not read all of these taps:UserWarning")
@pytest.mark.only(name=("fishnet_test", "fabric_test"))
@pytest.mark.parametrize(
    ("title", "name"),
    [
        # The usual tier shows a fish to every check, and a fabric to the first of every library.
        pytest.param(title, name, marks=pytest.mark.slow if name == "fabric_test" and title not in FIRST else [])
        for title in CHECKS
        for name in NETS
    ],
)
def test_check(title: str, name: str) -> None:
    with TemporaryDirectory() as folder:  # not pytest's, which keeps those of three runs: hundreds of megabytes each
        CHECKS[title](name, Path(folder))


# Numbers, of small nets

TINY = [name for name in zoo.list_models() if name.endswith("_test")]
SCENIC = [name for name in TINY if zoo.model_entry(name).spec.tap_strides == (2, 4, 8, 16, 32)]


@pytest.mark.parametrize(("title", "decoder", "arguments"), DECODERS, ids=[title for title, _, _ in DECODERS])
def test_smp_learns(title: str, decoder: str, arguments: dict[str, Any]) -> None:
    model = getattr(smp, decoder)("tu-fishnet_test", encoder_weights=None, classes=5, **arguments)
    learns(model.encoder, model.train()(images(128)).square().mean())


@pytest.mark.only(name=("resnet_test", "densenet_test", "fishnet_test", "fabric_test", "googlenet_test"))
@pytest.mark.parametrize("name", SCENIC)
def test_detection_backbone(name: str) -> None:
    x = images(70)
    net = zoo.create_model(name).eval()
    backbone = zoo.detection_backbone(net, 16).eval()
    with torch.no_grad():
        maps = backbone(x)
        taps = net.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        for have, want in zip(backbone.body(x), taps, strict=True):
            torch.testing.assert_close(have, want)
        scripted = torch.jit.script(backbone)(x)
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert [m.shape[1:3] for m in list(maps.values())[:4]] == [(16, tap.shape[2]) for tap in taps]
    assert backbone.strides == [4, 8, 16, 32]
    for key in maps:
        torch.testing.assert_close(scripted[key], maps[key], rtol=1e-4, atol=1e-4)
    assert net.num_classes == 10, "the net itself keeps its classifier"
    backbone.train().set_grad_checkpointing()
    sum(m.square().mean() for m in backbone(x).values()).backward()
    assert all(p.grad is not None for p in backbone.parameters()), "nothing unused is left"


@pytest.mark.parametrize(
    ("name", "stages", "first"),
    [("fishnet_test", 5, ["stem"]), ("resnet_test", 5, ["stem"]), ("fabric_test", 2, ["stem"])],
)
def test_detection_trainable_stages(name: str, stages: int, first: list[str]) -> None:
    def learning(count: int | None) -> list[str]:
        net = zoo.detection_backbone(name, 16, trainable_stages=count, device="meta").body.model
        return [key for key, child in net.named_children() if any(p.requires_grad for p in child.parameters())]

    everything = learning(None)
    assert learning(stages) == everything
    assert learning(stages - 1) == [key for key in everything if key not in first]
    assert learning(1)[-1] == everything[-1]
    assert not learning(0)
    with pytest.raises(ValueError, match=rf"trainable_stages \({stages + 1}\) must lie in 0 to {stages} .*: stem; "):
        learning(stages + 1)


def test_detection_of_other_nets() -> None:
    x = torch.empty(1, 3, 64, 64, device="meta")
    with torch.device("meta"):
        assert len(zoo.detection_backbone("timm:resnet18", 16, trainable_stages=3, extra_blocks="none")(x)) == 4
        wrapped = timm.create_model("zoo_resnet18", features_only=True, output_stride=16)
        backbone = zoo.detection_backbone(wrapped, 16)
        assert backbone.strides == [4, 8, 16], "one map a stride"
        assert backbone.take[-1] == 4, "the deepest"
        assert zoo.detection_backbone("resnet20_cifar", 16)(x).keys() == {"0", "pool"}
        rough = zoo.detection_backbone("resnet_test", 16, strides=(8, 32), extra_blocks="p6p7", freeze_norms=True)
        assert [m.shape[-1] for m in rough(x).values()] == [8, 2, 1, 1]
        assert not any(isinstance(m, nn.BatchNorm2d) for m in rough.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(strides=(4, 64)), r"strides \(\(4, 64\)\) must be .* resnet_test: 2, 4, 8, 16, 32"),
        (dict(strides=(8, 4)), r"strides \(\(8, 4\)\) must be rising"),
        (dict(extra_blocks="p5"), r"extra_blocks \('p5'\) must be one of pool, p6p7, none"),
        (dict(out_channels=0), r"out_channels \(0\)"),
        (dict(net=nn.Conv2d(3, 3, 1), in_chans=1), "in_chans must be given to the net where it is made"),
    ],
)
def test_detection_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.detection_backbone(**{"net": "resnet_test", **arguments})


def test_detection_needs_taps() -> None:
    with pytest.raises(TypeError, match=r"net \(Conv2d\) must be"):
        zoo.detection_backbone(nn.Conv2d(3, 3, 1))


# The usual tier runs the export of docs/downstream.md, and one of a fused net (test_fusing.py).
@pytest.mark.slow
@pytest.mark.parametrize("name", [next(n for n in TINY if zoo.model_entry(n).family == f) for f in zoo.families()])
@pytest.mark.parametrize("sizes", [False, True])
def test_onnx(name: str, sizes: bool, tmp_path: Path) -> None:
    net = zoo.create_model(name).eval()
    chans, side, _ = zoo.model_entry(name).input_size
    step = max(zoo.model_entry(name).spec.tap_strides[-1], 8)
    batch = torch.export.Dim("batch", min=1, max=8)
    height, width = (step * torch.export.Dim(d, min=side // step, max=8 * side // step) for d in ("h", "w"))
    dynamic = ({0: batch, **({2: height, 3: width} if sizes else {})},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(net, (images(side, chans),), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    program.save(str(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((2, chans, side, side), (3, chans, side + step * sizes, side + 2 * step * sizes)):
        x = torch.randn(shape)
        (have,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            want = net(x)
        assert (torch.from_numpy(have) - want).abs().max() < 1e-4 * want.std()


# Scripts


def run_script(folder: Path, *words: str) -> Ended:
    return run_apart(main, *words, folder=folder, prepare=partial(os.chdir, folder))


def test_timm_scripts_know_us(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "helper.py").write_text("SIZE = 64\n")
    (scripts / "script.py").write_text(
        "import sys, timm, torch, helper\n"
        "assert __name__ == '__main__'\n"
        "net = timm.create_model(sys.argv[sys.argv.index('--model') + 1], num_classes=3)\n"
        "print(sys.argv[0], tuple(net(torch.zeros(1, 3, helper.SIZE, helper.SIZE)).shape))\n"
    )
    done = run_script(tmp_path, "scripts/script.py", "--model", "fishnet_test", "--help")
    assert done.out == "scripts/script.py (1, 3)\n", done.err


@pytest.mark.parametrize("name", ["vgg_test", "alexnet_test", "lenet_test", "resnet_test"])
def test_timms_test_time_pooling(name: str) -> None:
    """As validate.py --test-pool does it: at the published size the net itself, at a larger one a mean of places."""
    pool = pool_at_test_time(timm.layers.apply_test_time_pool)
    net = zoo.create_model(name).eval()
    chans, side, _ = zoo.model_entry(name).input_size
    same, pooled = pool(net, {"input_size": (chans, side, side)})
    assert same is net
    assert not pooled
    with torch.no_grad():
        want = net(images(side, chans))
        head, pooled = pool(net, {"input_size": (chans, 2 * side, 2 * side)})
        assert pooled
        torch.testing.assert_close(head(images(side, chans)), want)
        places = head(images(2 * side, chans))
    assert places.shape == want.shape
    assert places.isfinite().all()


def test_timm_scripts_pool_with_ours(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import timm\n"
        "from timm.layers import apply_test_time_pool\n"
        "net = timm.create_model('vgg_test')\n"
        "print(type(apply_test_time_pool(net, {'input_size': (3, 128, 128)})[0]).__name__)\n"
    )
    done = run_script(tmp_path, "script.py")
    assert done.out == "PooledLogits\n", done.err


def test_timm_scripts_help_and_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "python -m zoo.timm train.py" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train_nothing.py", "data"])
    assert stop.value.code == 2
    assert "script (train_nothing.py) is not a file" in capsys.readouterr().err


def test_torch_hub_lists_us() -> None:
    listed = {name for name in runpy.run_path(str(ROOT / "hubconf.py")) if not name.startswith("_")}
    assert listed - {"dependencies"} == {
        name for e in map(zoo.model_entry, zoo.list_models()) for name in (e.name, e.timm_name)
    }


def test_folders_of_timm_are_beyond_transformers_for_its_own_nets_too(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("resnet18", num_classes=7), tmp_path, safe_serialization=True)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'num_classes'"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
