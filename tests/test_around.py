"""Around nets: a spatial transformer, deformable RoI pooling, hypercolumns, detectors on one map, against torch."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, RoIPool, roi_align

import zoo
from zoo.detection import FastRCNN, MaxRoIPool, faster_rcnn
from zoo.front import Front
from zoo.hypercolumns import PixelNet, draw_pixels, hypercolumns
from zoo.regions import DeformRoIPool, deform_roi_pool


@pytest.mark.parametrize("kind", ["affine", "attention"])
@pytest.mark.parametrize("name", ["resnet_test", "fishnet_test"])
def test_at_its_start_a_transformer_changes_nothing(name: str, kind: str) -> None:
    net: Any = zoo.create_model(name, num_classes=7).double().eval()
    front: Any = Front(net, kind=kind).double().eval()
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(front(x), net(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(front.forward_features(x), net.forward_features(x), rtol=1e-9, atol=1e-9)
        taps = front.forward_intermediates(x, intermediates_only=True)
    assert [tap.shape[1] for tap in taps] == [tap["num_chs"] for tap in front.feature_info]
    assert front.pretrained_cfg == net.pretrained_cfg
    assert front.num_classes == 7
    with pytest.raises(AttributeError, match="nothing"):
        front.nothing  # noqa: B018


@pytest.mark.parametrize("kind", ["affine", "attention"])
def test_at_its_start_a_transformer_shifts_no_pixel_in_half_precision(kind: str) -> None:
    x = torch.arange(160.0).expand(1, 3, 4, 160)  # a ramp: a shift of a pixel is a difference of 1
    front = Front(nn.Identity(), kind=kind)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(front(x), x, rtol=0, atol=1e-3)
        assert front.theta(x).dtype == torch.float32
    torch.testing.assert_close(torch.fx.symbolic_trace(front)(x), x, rtol=0, atol=1e-3)
    half = x.to(torch.bfloat16)
    assert torch.equal(front.to(torch.bfloat16)(half), half)


def own_names(keys: list[str]) -> list[str]:
    """Return the names of the net's own parameters."""
    return [key.removeprefix("net.") for key in keys if key.startswith("net.")]


@pytest.mark.parametrize("name", ["resnet_test", "fishnet_test", "fabric_test"])
def test_layer_groups_of_a_net_behind_a_transformer(name: str) -> None:
    net: Any = zoo.create_model(name)
    front: Any = Front(net)
    names = [key for key, _ in net.named_parameters()]
    for coarse in (False, True):
        theirs = group_parameters(net, net.group_matcher(coarse=coarse))
        ours = group_parameters(front, front.group_matcher(coarse=coarse))
        assert len(theirs) > 2
        assert {group: own_names(keys) for group, keys in ours.items()} == theirs
        place = {key: group for group, keys in ours.items() for key in keys}
        assert place["last.weight"] == place["localisation.conv1.weight"] == place["net." + names[-1]] == max(ours)


def test_layer_groups_of_timm_behind_a_transformer() -> None:
    net: Any = timm.create_model("test_vit")
    theirs = group_parameters(net, net.group_matcher())
    ours = group_parameters(front := Front(net), front.group_matcher())
    assert len(theirs) > 3
    assert {group: own_names(keys) for group, keys in ours.items()} == theirs


def test_a_map_of_ninety_degrees_turns_the_image() -> None:
    front = Front(nn.Identity())
    x = torch.randn(2, 3, 9, 9)
    front.last.bias.data = torch.tensor([0.0, 1, 0, -1, 0, 0])
    torch.testing.assert_close(front(x), torch.rot90(x, -1, (2, 3)), rtol=1e-4, atol=1e-5)


def test_attention_looks_at_a_part() -> None:
    front = Front(nn.Identity(), kind="attention", size=(5, 5))
    front.last.bias.data = torch.tensor([0.5, -0.5, 0.5])  # half of the side, left and below
    x = torch.arange(81.0).reshape(1, 1, 9, 9).expand(1, 3, 9, 9)
    torch.testing.assert_close(front(x), x[:, :, 4:, :5], rtol=1e-5, atol=1e-4)


def test_the_transformer_learns() -> None:
    front = Front(nn.Identity()).double()
    nn.init.normal_(front.last.weight, std=0.1)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = front.last.weight.detach().clone().requires_grad_(True)

    def out(weight: Tensor) -> Tensor:
        return torch.func.functional_call(front, {"last.weight": weight}, (x,))

    assert torch.autograd.gradcheck(out, (weight,), fast_mode=True)
    front(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in front.last.parameters())


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="kind"):
        Front(nn.Identity(), kind="projective")
    with pytest.raises(ValueError, match="localisation must have num_features"):
        Front(nn.Identity(), nn.Flatten())
    with pytest.raises(ValueError, match="Flatten has None"):
        Front(nn.Identity(), nn.Flatten())
    for size in (8, (8,), (0, 8), (8, 2.5)):
        with pytest.raises(ValueError, match=r"size \(.*\) must be a height and a width"):
            Front(nn.Identity(), size=size)  # ty: ignore[invalid-argument-type]
    rois, offsets = torch.zeros(2, 5), torch.zeros(3, 2, 7, 7)
    with pytest.raises(ValueError, match=r"rois \(2, 5\) and offsets \(3, 2, 7, 7\) must be"):
        deform_roi_pool(torch.zeros(1, 1, 4, 4), rois, offsets)
    with pytest.raises(ValueError, match="sampling_ratio"):
        deform_roi_pool(torch.zeros(1, 1, 4, 4), rois, offsets[:2], sampling_ratio=0)


ROIS = torch.tensor(
    [[1, 3.0, 2, 30, 25], [0, -8, -6, 20, 12], [1, 25, 20, 60, 70], [0, 5, 5, 6, 6], [0, 1.5, 0.5, 21.25, 30]],
    dtype=torch.float64,
)
"""Regions of two images, across the border and of a pixel among them."""


@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize("aligned", [True, False])
def test_without_offsets_it_is_roi_align(ratio: int, aligned: bool) -> None:
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    zero = torch.zeros(len(ROIS), 2, 3, 4, dtype=torch.float64)
    ours = deform_roi_pool(x, ROIS, zero, scale=0.5, sampling_ratio=ratio, aligned=aligned)
    theirs = roi_align(x, ROIS, (3, 4), 0.5, ratio, aligned)
    assert float((ours - theirs).abs().max()) < 1e-12


def test_one_offset_for_all_bins_moves_the_region() -> None:
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    offsets = torch.zeros(len(ROIS), 2, 3, 4, dtype=torch.float64)
    offsets[:, 0] = 0.5  # times gamma: a twentieth of the width
    moved = ROIS.clone()
    moved[:, [1, 3]] += 0.05 * (ROIS[:, 3] - ROIS[:, 1])[:, None]
    torch.testing.assert_close(
        deform_roi_pool(x, ROIS, offsets, scale=0.5), roi_align(x, moved, (3, 4), 0.5, 2, True), rtol=0, atol=1e-12
    )


def test_gradients_of_map_and_offsets() -> None:
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    offsets = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.7, 4.1, 5.2], [1, 1.2, 0.4, 6.3, 3.9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, o: deform_roi_pool(x, rois, o), (x, offsets))


def test_a_drop_in_for_the_pooling_of_detectors() -> None:
    maps = {"0": torch.randn(2, 4, 32, 32), "1": torch.randn(2, 4, 16, 16)}
    boxes = [torch.tensor([[0.0, 0, 200, 220], [10, 10, 40, 50]]), torch.tensor([[30.0, 20, 60, 90]])]
    sizes = [(256, 256), (256, 256)]
    pool = DeformRoIPool(["0", "1"], 3, 2, channels=4)
    still = MultiScaleRoIAlign(["0", "1"], 3, 2)
    torch.testing.assert_close(pool(maps, boxes, sizes), still(maps, boxes, sizes), rtol=1e-4, atol=1e-5)
    assert pool(maps, [boxes[0], boxes[1][:0]], sizes).shape == (2, 4, 3, 3)
    backbone = zoo.detection_backbone("resnet_test", 8)
    anchors = AnchorGenerator(((16,),) * 5, ((1.0,),) * 5)
    pool = DeformRoIPool(["0", "1", "2", "3"], 3, 2, channels=8)
    detector = FasterRCNN(backbone, 3, rpn_anchor_generator=anchors, box_roi_pool=pool, min_size=64, max_size=64)
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    sum(detector([torch.rand(3, 64, 64)], [target]).values()).backward()
    assert pool.offset.weight.grad is not None
    assert pool.offset.weight.grad.abs().sum() > 0


SMALL_DETECTOR: dict[str, Any] = dict(min_size=64, max_size=64, rpn_post_nms_top_n_train=20)


def on_one_map(name: Any = "vgg_test", classes: int = 3, **arguments: Any) -> FasterRCNN:
    torch.manual_seed(0)
    return faster_rcnn(name, classes, sizes=(16, 32), options=SMALL_DETECTOR, **arguments)


def test_the_first_faster_rcnn_by_its_parts() -> None:
    """VGG-16 up to conv5_3, 9 anchors, its own fc6 and fc7, scores and boxes of 21 classes."""
    with torch.device("meta"):
        detector = faster_rcnn("vgg16", 21, drop_rate=0.5)
        maps = detector.backbone(torch.empty(1, 3, 600, 800))
    assert {key: tuple(x.shape) for key, x in maps.items()} == {"0": (1, 512, 37, 50)}
    own = sum(p.numel() for p in detector.parameters())
    proposing = 9 * 512 * 512 + 512 + (9 + 36) * (512 + 1)
    classifying = 138_357_544 - 1000 * 4097 + (21 + 84) * 4097
    assert own == proposing + classifying
    assert [m.p for m in detector.roi_heads.box_head.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert (detector.transform.min_size, detector.transform.max_size) == ((600,), 1000)


@pytest.mark.parametrize("pooling", ["max", "align"])
@pytest.mark.parametrize(
    ("name", "stride"), [("vgg_test", 16), ("vgg_test", 32), ("alexnet_test", 16), ("resnet_test", 16)]
)
def test_faster_rcnn_learns_on_one_map(name: str, stride: int, pooling: str) -> None:
    net: Any = zoo.create_model(name)
    detector = on_one_map(net, stride=stride, pooling=pooling)
    if net.wide is not None:
        wide = detector.roi_heads.box_head[0]
        assert len(net.wide.layers), "the net itself keeps them"
        assert torch.equal(wide.layers.conv1.weight, net.wide.layers.conv1.weight)
    image = torch.rand(3, 96, 96)
    target = {"boxes": torch.tensor([[8.0, 8, 60, 50]]), "labels": torch.tensor([1])}
    losses = detector([image], [target])
    assert len(losses) == 4
    sum(losses.values()).backward()
    unused = {key for key, p in detector.named_parameters() if p.grad is None}
    assert not unused
    [found] = detector.eval()([image])
    assert found.keys() == {"boxes", "labels", "scores"}


def test_fast_rcnn_judges_given_boxes() -> None:
    """With the proposals of a Faster R-CNN it is the same detector, also of an image of another size."""
    detector = on_one_map(trainable_stages=2).eval()
    with torch.no_grad():
        for p in detector.roi_heads.box_predictor.parameters():
            p.mul_(20)  # scores that differ
    fast = FastRCNN(detector)
    image = torch.rand(1, 3, 64, 64).repeat_interleave(2, 2).repeat_interleave(2, 3)[0]  # 128 px, halved to 64
    kept: list[Tensor] = []
    handle = detector.rpn.register_forward_hook(lambda _m, _i, out: kept.extend(out[0]))
    with torch.no_grad():
        [want] = detector([image])
        [have] = fast.eval()([image], [kept[0] * 2])
    handle.remove()
    assert len(want["boxes"]) > 1
    for key in want:
        torch.testing.assert_close(have[key], want[key], rtol=1e-4, atol=1e-3)
    [none] = fast([image], [torch.zeros(0, 4)])
    assert len(none["boxes"]) == 0
    target = {"boxes": torch.tensor([[8.0, 8, 60, 50]]), "labels": torch.tensor([1])}
    losses = fast.train()([image, image], [kept[0], kept[0][:3]], [target, target])
    assert losses.keys() == {"loss_classifier", "loss_box_reg"}
    sum(losses.values()).backward()
    assert fast.roi_heads.box_head[0].layers.conv1.weight.grad.any()
    assert fast.backbone.body.model.stem.conv1.weight.grad is None, "two stages learn"
    assert fast.backbone.body.model.stage5[1].conv1.weight.grad.any()


def test_regions_are_rounded_before_their_largest_values() -> None:
    x = torch.randn(2, 3, 20, 20)
    boxes = [torch.tensor([[0.0, 0, 100, 80], [9, 9, 50, 60]]), torch.tensor([[16.0, 0, 47, 47]])]
    want = RoIPool((7, 7), 1 / 16)(x, boxes)
    torch.testing.assert_close(MaxRoIPool(7, 16)({"0": x}, boxes, [(320, 320)] * 2), want)
    # Column 440 / 32 = 13.75 becomes 14, row 264 / 32 = 8.25 becomes 8; five rows make two bins that share one.
    places = 100.0 * torch.arange(20)[:, None] + torch.arange(20)
    [[found]] = MaxRoIPool(2, 32)({"0": places[None, None]}, [torch.tensor([[440.0, 264, 544, 384]])], [(640, 640)])
    assert found.tolist() == [[1015, 1017], [1215, 1217]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, r"pooling \('mean'\) must be one of max, align"),
        ({"num_classes": 1}, r"num_classes \(1\) must be a whole number from 2"),
        ({"stride": 4}, r"stride \(4\) must be that of a map of 24 channels, which the wide layers of vgg_test read"),
        ({"stride": 5}, r"stride \(5\) must be one of those of the taps of vgg_test: 2, 4, 8, 16, 32"),
        ({"sizes": ()}, r"sizes \(\(\)\) must be a tuple of numbers above 0"),
        ({"ratios": (1.0, 0)}, r"ratios \(\(1.0, 0\)\) must be a tuple of numbers above 0"),
        ({"trainable_stages": 9}, r"trainable_stages \(9\) must lie in 0 to"),
    ],
)
def test_detectors_of_one_map_explain_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        faster_rcnn(**{"net": "vgg_test", "num_classes": 3, **arguments})


def test_detectors_of_one_map_need_a_classifier() -> None:
    net = zoo.create_model("vgg_test", num_classes=0)
    with pytest.raises(ValueError, match=r"net \(VGG\) must have its wide layers"):
        faster_rcnn(net, 3)
    with pytest.raises(ValueError, match="drop_rate must be given to the net where it is made"):
        faster_rcnn(net, 3, drop_rate=0.5)
    for other in (nn.Identity(), zoo.create_model("vgg_test", features_only=True)):
        with pytest.raises(TypeError, match=r"net \(\w+\) must be the name of a net of the zoo"):
            faster_rcnn(other, 3)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], r"proposals \(0\) must be one tensor for each of 1 images"),
        (
            [torch.tensor([[4, 4, 9, 9]])],
            r"proposals \(torch.int64, \(1, 4\) for image 0\) must be boxes \(P, 4\) in floating",
        ),
        ([torch.zeros(2, 5)], r"proposals \(torch.float32, \(2, 5\) for image 0\)"),
        ([torch.tensor([[4.0, 4, 4, 9]])], r"with right and bottom beyond left and top"),
    ],
)
def test_proposals_that_are_no_boxes(boxes: list[Tensor], message: str) -> None:
    fast = FastRCNN(on_one_map()).eval()
    with pytest.raises(ValueError, match=message):
        fast([torch.rand(3, 64, 64)], boxes)
    with pytest.raises(ValueError, match=r"targets \(none\) must be one dict for each of 1 images in training mode"):
        fast.train()([torch.rand(3, 64, 64)], [torch.rand(1, 4)])


def test_detectors_train_under_autocast() -> None:
    maps = {"0": torch.randn(1, 4, 32, 160)}
    boxes, sizes = [torch.tensor([[0.0, 0, 600, 100], [501, 10, 603, 90]])], [(128, 640)]
    pool = DeformRoIPool(["0"], 3, 2, channels=4)
    exact = pool(maps, boxes, sizes)
    with torch.autocast("cpu", torch.bfloat16):
        found = pool({key: x.to(torch.bfloat16) for key, x in maps.items()}, boxes, sizes)
        mixed = pool(maps, boxes, sizes)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(mixed, exact, rtol=1e-4, atol=1e-4)


def test_sampled_hypercolumns_are_those_of_enlarged_maps() -> None:
    maps = [torch.randn(2, 3, 8, 6, dtype=torch.float64), torch.randn(2, 4, 4, 3, dtype=torch.float64)]
    size = (32, 24)
    enlarged = torch.cat([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps], 1)
    places = torch.stack([torch.randint(0, 32, (2, 50)), torch.randint(0, 24, (2, 50))], 2)
    found = hypercolumns(maps, places, size)
    for image in range(2):
        rows, columns = places[image].T
        torch.testing.assert_close(found[image], enlarged[image][:, rows, columns].T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hypercolumns_in_half_precision_are_of_the_right_pixels(dtype: torch.dtype) -> None:
    size = (8, 160)
    ramp = torch.arange(160).to(dtype).expand(1, 2, 8, 160)  # exact in half precision
    places = torch.cartesian_prod(torch.arange(8), torch.arange(160))[None]
    found = hypercolumns([ramp], places, size)
    assert found.dtype == dtype
    torch.testing.assert_close(found[0, :, 0], places[0, :, 1].to(dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg_test", "fishnet_test"])
def test_pixels_are_classified_alone_and_together(name: str) -> None:
    net = PixelNet(name, 5, hidden=(8,)).eval()
    x = torch.randn(2, 3, 64, 96)
    labels = torch.randint(0, 5, (2, 64, 96))
    labels[:, :32] = 255
    places, classes = draw_pixels(labels, 20)
    assert (places[:, :, 0] >= 32).all()
    whole, some = net(x), net(x, places)
    assert whole.shape == (2, 5, 64, 96)
    for image in range(2):
        rows, columns = places[image].T
        torch.testing.assert_close(some[image], whole[image][:, rows, columns].T, rtol=1e-4, atol=1e-5)
        assert torch.equal(classes[image], labels[image, rows, columns])
    F.cross_entropy(some.flatten(0, 1), classes.flatten()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_mistakes_about_pixels_are_explained() -> None:
    with pytest.raises(TypeError, match=r"net \(ResNet\) must be a model's name"):
        PixelNet(zoo.create_model("resnet_test"), 5)
    with pytest.raises(ValueError, match="out_indices must be given to the net where it is made"):
        PixelNet(zoo.create_model("resnet_test", features_only=True), 5, out_indices=(1,))
    with pytest.raises(ValueError, match=r"other than 255 \(ignore\)"):
        draw_pixels(torch.full((1, 4, 4), 255))
