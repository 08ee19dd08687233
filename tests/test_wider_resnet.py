"""Wider ResNet-38 against what its authors' code says: channels, halvings, and the dilated form for segmentation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.layers import DilatedMaxPool, Residual
from zoo.models.wider_resnet import WiderResNetSpec

pytestmark = pytest.mark.quick

PUBLISHED = ["wider_resnet38", "wider_resnet38_a1", "wider_resnet38_a2"]

# Channels of the convolutions of each stage's first unit (B2 to B7 of the paper).
CHANNELS = [(128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096)]


def convs(unit: nn.Module) -> list[nn.Conv2d]:
    assert isinstance(unit, Residual)
    return [m for m in unit.branch.children() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_structure(name: str) -> None:
    net = zoo.create_model(name, device="meta")
    assert isinstance(net.spec, WiderResNetSpec)
    assert net.spec.layers == 38
    stages = [getattr(net, f"stage{i}") for i in range(1, 7)]
    assert [len(stage) for stage in stages] == [3, 3, 6, 3, 1, 1]
    for stage, channels in zip(stages, CHANNELS, strict=True):
        assert all(tuple(conv.out_channels for conv in convs(unit)) == channels for unit in stage)
        kernels = (1, 3, 1) if len(channels) == 3 else (3, 3)
        assert all(tuple(conv.kernel_size[0] for conv in convs(unit)) == kernels for unit in stage)
        assert [isinstance(unit.shortcut, nn.Identity) for unit in stage] == [False] + [True] * (len(stage) - 1)


@pytest.mark.parametrize(("name", "pools"), [("wider_resnet38", 5), ("wider_resnet38_a1", 0), ("wider_resnet38_a2", 2)])
def test_how_each_variant_halves(name: str, pools: int) -> None:
    net = zoo.create_model(name, device="meta")
    pooled = [child for child, module in net.named_children() if isinstance(module, nn.MaxPool2d)]
    assert pooled == [f"pool{i}" for i in range(1, pools + 1)]
    strided = [key for key, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert strided == [f"stage{i}.0.{part}.conv1" for i in range(pools + 1, 6) for part in ("branch", "shortcut")]


def test_variants_share_a_state_dict() -> None:
    a, a1, a2 = (zoo.create_model(name, device="meta").state_dict() for name in PUBLISHED)
    assert (
        {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in a1.items()} == {k: v.shape for k, v in a2.items()}
    )


@pytest.mark.parametrize("name", ["wider_resnet38_a1", "wider_resnet38_a2"])
def test_the_dilated_form_is_the_papers(name: str) -> None:
    """B5 loses its stride, what follows its first convolution has dilation 2; B6 likewise, and then 4."""
    net = zoo.create_model(name, output_stride=8, device="meta")
    dilations = [[conv.dilation[0] for unit in getattr(net, f"stage{i}") for conv in convs(unit)] for i in range(1, 7)]
    assert dilations[:3] == [[1] * 6, [1] * 6, [1] * 12]
    assert dilations[3] == [1, 2, 2, 2, 2, 2]
    assert dilations[4] == [1, 4, 1], "the 1x1 have none"
    assert dilations[5] == [1, 4, 1]
    assert all(conv.stride == (1, 1) for i in (4, 5, 6) for unit in getattr(net, f"stage{i}") for conv in convs(unit))


def test_the_dilated_form_of_pooling() -> None:
    """A pooling has the dilation of what precedes it, what follows the doubled one."""
    net = zoo.create_model("wider_resnet38", output_stride=8, device="meta")
    assert isinstance(net.pool3, nn.MaxPool2d)
    assert [(type(pool), pool.pool.dilation) for pool in (net.pool4, net.pool5)] == [
        (DilatedMaxPool, 1),
        (DilatedMaxPool, 2),
    ]
    dilations = [[conv.dilation[0] for unit in getattr(net, f"stage{i}") for conv in convs(unit)] for i in (3, 4, 5, 6)]
    assert dilations == [[1] * 12, [2] * 6, [1, 4, 1], [1, 4, 1]]


def test_dropout_stands_before_the_last_convolution() -> None:
    net = zoo.create_model("wider_resnet38_a2", device="meta")
    rates = {key: m.p for key, m in net.named_modules() if isinstance(m, nn.Dropout2d)}
    assert rates == {"stage5.0.branch.drop": 0.3, "stage6.0.branch.drop": 0.5}
    assert list(dict(net.stage5[0].branch.named_children()))[-2:] == ["drop", "conv3"]
    x = torch.randn(2, 3, 64, 64)
    net = zoo.create_model("wider_resnet_test")
    with torch.no_grad():
        assert torch.equal(net.eval().forward_features(x), net.forward_features(x))
        # Norms keep their statistics, so that dropout is all that differs between two runs.
        for module in net.modules():
            module.train(isinstance(module, nn.Dropout2d))
        assert not torch.equal(net.forward_features(x), net.forward_features(x))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pools", 6),
        ("bottlenecks", 7),
        ("dropouts", (0.5,)),
        ("dropouts", (0.0,) * 5 + (1.0,)),
        ("strides", (1, 2)),
        ("head", "voc"),
    ],
)
def test_nonsense_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} \("):
        zoo.model_entry("wider_resnet_test").spec.replace(**{field: value})


def test_the_head_for_segmentation_is_two_dilated_windows_at_stride_8() -> None:
    """fcrna_model_a1: ConvStage(512, 3, 12), ConvStage(classes, 3, 12), on the features of A1 at resolution 8."""
    net = zoo.create_model("wider_resnet38_a1_voc", device="meta")
    a1 = zoo.create_model("wider_resnet38_a1", output_stride=8, device="meta")
    dilations = [
        {key: (m.stride, m.dilation) for key, m in n.named_modules() if isinstance(m, nn.Conv2d) and "stage" in key}
        for n in (net, a1)
    ]
    assert dilations[0] == dilations[1]
    hidden, last = net.classifier.hidden.conv1, net.classifier.fc
    for conv, shape in ((hidden, (512, 4096, 3, 3)), (last, (21, 512, 3, 3))):
        assert tuple(conv.weight.shape) == shape
        assert (conv.dilation, conv.padding, conv.bias is not None) == ((12, 12), (12, 12), True)
    assert [name for name, _ in net.classifier.hidden.named_children()] == ["conv1", "act1"]
    assert net.eval()(torch.empty(1, 3, 500, 500, device="meta")).shape == (1, 21, 63, 63)
    assert [tap["reduction"] for tap in net.feature_info] == [2, 4, 8]
    assert net.feature_info[-1]["num_chs"] == 4096


def test_the_head_for_segmentation_computes_what_its_equations_say() -> None:
    torch.manual_seed(0)
    net = zoo.create_model("wider_resnet_test", head="dense", head_width=6, head_dilation=3).double().eval()
    x = torch.randn(1, 3, 40, 48, dtype=torch.float64)
    with torch.no_grad():
        hidden, last = net.classifier.hidden.conv1, net.classifier.fc
        y = F.conv2d(net.forward_features(x), hidden.weight, hidden.bias, padding=3, dilation=3).clamp(min=0)
        want = F.conv2d(y, last.weight, last.bias, padding=3, dilation=3)
        torch.testing.assert_close(net(x), want)
    assert want.shape == (1, 10, 5, 6)


def test_a_dense_head_can_be_held_finer() -> None:
    torch.manual_seed(0)
    native = zoo.create_model("wider_resnet_test", head="dense", head_width=6, pools=0).double().eval()
    fine = zoo.create_model("wider_resnet_test", head="dense", head_width=6, pools=0, output_stride=4).double().eval()
    fine.load_state_dict(native.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine.forward_features(x)[..., ::2, ::2], native.forward_features(x))
