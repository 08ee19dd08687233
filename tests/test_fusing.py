"""`zoo.fuse`: the same function with less to do, for nets of every structure; and the nets that it must leave alone."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from structures import FABRIC, FORWARDS, SMALL_NETS, small_net_title, tensors
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import zoo
from zoo.fusing import Bound
from zoo.layers import Sum

structures = pytest.mark.parametrize("structure", SMALL_NETS, ids=small_net_title)
BARE = [(name, {}) for name in FORWARDS]
forwards = pytest.mark.parametrize(
    "structure",
    [pytest.param(net, id=small_net_title(net), marks=[] if net in BARE else pytest.mark.slow) for net in SMALL_NETS],
)
NO_NORMS = ("alexnet_test", "googlenet_test", "highway_test", "lenet_test", "vgg_lrn_test")


def trained(net: Any) -> Any:
    """Give norms statistics and weights as training might: of both signs, and one channel without any weight."""
    with torch.no_grad():
        for module in net.modules():
            mean: Any = getattr(module, "running_mean", None)
            if mean is not None:
                parts: Any = module
                mean.normal_(0, 0.5)
                parts.running_var.uniform_(0.5, 2)
                if parts.weight is not None:
                    parts.weight.uniform_(0.5, 1.5)
                    parts.weight[::3] *= -1
                    parts.weight[-1] = 0
                    parts.bias.normal_(0, 0.3)
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.1)
    return net.eval()


def create(structure: tuple[str, dict[str, Any]], **options: Any) -> Any:
    return trained(zoo.create_model(structure[0], **structure[1], **options))


def images(net_name: str, dtype: torch.dtype = torch.float64, extra: int = 5) -> Tensor:
    """Two images, not square and of odd sizes."""
    side = zoo.model_entry(net_name).input_size[-1] + extra
    return torch.randn(2, 3, side, side + 6, dtype=dtype)


def check_equal(ours: Any, theirs: Any, tolerance: float) -> None:
    """Each map of the two is equal up to a part of its spread."""
    pairs = list(zip(tensors(ours), tensors(theirs), strict=True))
    assert pairs
    for one, other in pairs:
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert other.std() > 0
        assert (one - other).abs().max() <= tolerance * other.std()


def check_same_function(net: nn.Module, x: Tensor, tolerance: float) -> Any:
    """The fused net gives what the net gives, at the first call and at the next, and leaves the images alone."""
    before = x.clone()
    fused = zoo.fuse(net)
    with torch.no_grad():
        expected = [part.clone() for part in tensors(net(x))]
        check_equal(fused(x), expected, tolerance)
        check_equal(fused(x), expected, tolerance)
    assert torch.equal(x, before)
    return fused


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@structures
def test_outputs_features_and_taps_are_equal_in_double_precision(structure: tuple[str, dict[str, Any]]) -> None:
    net = create(structure, dtype=torch.float64)
    x = images(structure[0])
    fused = check_same_function(net, x, 1e-12)
    with torch.no_grad():
        features = net.forward_features(x)
        check_equal(fused.forward_features(x), features, 1e-12)
        given = features.clone()
        check_equal(fused.forward_head(features), net.forward_head(features), 1e-12)
        assert torch.equal(features, given), "the features belong to whoever has asked for them"
        check_equal(fused.forward_intermediates(x), net.forward_intermediates(x), 1e-12)
        check_equal(fused.forward_intermediates(x, norm=True), net.forward_intermediates(x, norm=True), 1e-12)
    assert type(fused) is type(net)
    assert fused.feature_info == net.feature_info
    check_report(structure[0], net, fused)


@forwards
def test_outputs_are_equal_in_single_precision(structure: tuple[str, dict[str, Any]]) -> None:
    net = create(structure).to(memory_format=torch.channels_last)
    x = images(structure[0], torch.float32, extra=0).to(memory_format=torch.channels_last)
    check_same_function(net, x, 1e-5)


@forwards
def test_taps_of_dilated_nets_are_equal(structure: tuple[str, dict[str, Any]]) -> None:
    strides = zoo.create_model(structure[0], **structure[1], device="meta").spec.output_strides
    stride = max(min(strides), max(strides) // 2)
    net = create(structure, features_only=True, output_stride=stride, dtype=torch.float64)
    fused = check_same_function(net, images(structure[0]), 1e-12)
    assert fused.feature_info.channels() == net.feature_info.channels()


def check_report(name: str, net: nn.Module, fused: Any) -> None:
    """The report counts every norm once."""
    report = fused.report
    done, left = {*report.folded, *report.bounded}, set(report.left)
    assert len(done) == len(report.folded) + len(report.bounded)
    assert not done & left
    batch_norms = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    # The nodes of the last column that no class score reads, and auxiliary classifiers, are not called.
    called = batch_norms & (done | left)
    assert done <= batch_norms
    assert norms(fused) == norms(net) - len(done)
    assert bool(called) == (name not in NO_NORMS)
    assert bool(done) == bool(called)
    assert all(reason for reason in report.left.values())
    lines = report().splitlines()
    assert len(lines) >= 5
    assert sum(int(line.split()[0]) for line in lines if "norms" in line) == len(done) + len(left)


FOLDED = {
    "resnet_test": (1.0, 0.0),
    "vgg_test": (1.0, 0.0),
    "preresnet_test": (0.4, 0.0),
    "densenet40_k12_bc_cifar": (0.4, 0.4),
    "densenet_test": (0.4, 0.5),
    "fishnet_test": (0.5, 0.3),
}


@pytest.mark.parametrize(("name", "shares"), FOLDED.items())
def test_most_norms_go(name: str, shares: tuple[float, float]) -> None:
    net = create((name, {}))
    report = zoo.fuse(net).report
    assert len(report.folded) >= shares[0] * norms(net)
    assert len(report.bounded) >= shares[1] * norms(net)
    assert report.activations


def test_a_dense_block_is_written_into_one_buffer() -> None:
    """Every map is written once, whoever follows the graph; a block whose layers are not known stays."""
    net = create(("densenet_test", {}), dtype=torch.float64)
    x = images("densenet_test")
    fused = zoo.fuse(net)
    assert fused.report.buffers == ["stage1", "stage2", "stage3", "stage4"]
    seen: list[Tensor] = []
    for layer in fused.stage2:
        layer.concat.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        fused(x)
    assert len({view.untyped_storage().data_ptr() for view in seen}) == 1
    graph = torch.fx.symbolic_trace(zoo.fuse(net))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with torch.no_grad():
        check_equal(graph(x), net(x), 1e-12)
    net.stage2[1].branch = nn.Sequential(net.stage2[1].branch).eval()
    assert check_same_function(net, x, 1e-12).report.buffers == ["stage1", "stage3", "stage4"]


def test_gradients_of_the_input_of_a_dense_net() -> None:
    net = create(("densenet_test", {"depths": (2, 3, 1, 1)}), dtype=torch.float64).requires_grad_(False)
    x = images("densenet_test").requires_grad_()
    [expected] = torch.autograd.grad(net(x).square().sum(), x)
    [found] = torch.autograd.grad(zoo.fuse(net)(x).square().sum(), x)
    check_equal(found, expected, 1e-10)


def test_dense_nets_that_were_pickled_before_there_were_buffers() -> None:
    net = create(("densenet_test", {"depths": (2, 1, 1, 1)}), dtype=torch.float64)
    x = images("densenet_test")
    with torch.no_grad():
        expected = net(x)
        for module in net.modules():
            for name in ("reserved", "passing"):
                vars(module).pop(name, None)
        net = pickle.loads(pickle.dumps(net))
        for twin in (net, zoo.fuse(net), torch.jit.script(net)):
            check_equal(twin(x), expected, 1e-12)


def test_norms_behind_sums_of_convolutions_go_too() -> None:
    net = create(("fabric_test", FABRIC | {"unit": "conv", "stem": "cifar"}))
    assert zoo.fuse(net).report.left == {}
    assert norms(net) > 6


@pytest.mark.parametrize("feature_cls", ["list", "dict", "getter", "fx"])
@pytest.mark.parametrize("name", ["preresnet_test", "fishnet_test", "fabric_test"])
def test_every_wrapper_can_be_fused(name: str, feature_cls: str) -> None:
    net = create((name, {}), features_only=True, feature_cls=feature_cls, out_indices=(2, 0), dtype=torch.float64)
    fused = check_same_function(net, images(name), 1e-12)
    assert fused.report.folded


LAYERS: dict[str, dict[str, Any]] = {
    "frozen": {"norm_layer": "frozenbatchnorm2d"},
    "synchronised": {"norm_layer": "syncbatchnorm"},
    "norm with activation": {"norm_layer": BatchNormAct2d, "act_layer": "identity"},
    "instance": {"norm_layer": lambda chs: nn.InstanceNorm2d(chs, affine=True, track_running_stats=True)},
    "without weights": {"norm_layer": lambda chs: nn.BatchNorm2d(chs, affine=False)},
    "silu": {"act_layer": "silu"},
    "leaky_relu": {"act_layer": "leaky_relu"},
    "function": {"act_layer": F.relu},
    "in place": {"act_layer": lambda: nn.ReLU(inplace=True)},
    "gelu": {"act_layer": "gelu"},
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.only(name=("resnet_test", "preresnet_test", "densenet_test"))
@pytest.mark.parametrize("name", ["resnet_test", "preresnet_test", "densenet_test", "fabric_test"])
def test_other_norms_and_activations(name: str, layers: dict[str, Any]) -> None:
    net = trained(zoo.create_model(name, dtype=torch.float64, **layers))
    fused = check_same_function(net, images(name), 1e-12)
    assert fused.report.folded


@pytest.mark.parametrize("norm", ["groupnorm", "layernorm2d", partial(nn.BatchNorm2d, track_running_stats=False)])
def test_norms_that_look_at_the_images_stay(norm: Any) -> None:
    net = trained(zoo.create_model("preresnet_test", norm_layer=norm, dtype=torch.float64))
    report = check_same_function(net, images("preresnet_test"), 1e-12).report
    assert not report.folded + report.bounded
    assert set(report.left.values()) == {"it takes its statistics from the images"}


def test_the_net_stays_as_it_is() -> None:
    net = create(("preresnet_test", {"drop_path_rate": 0.2}))
    net.set_grad_checkpointing()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    layers = [(name, type(module), dict(vars(module))) for name, module in net.named_modules()]
    fused = zoo.fuse(net)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert layers == [(name, type(module), dict(vars(module))) for name, module in net.named_modules()]
    assert all(p.requires_grad for p in net.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    theirs = {p.data_ptr() for p in net.parameters()}
    assert not theirs & {p.data_ptr() for p in fused.parameters()}
    assert not hasattr(net, "report")


def test_autocast_is_as_near_as_its_type_allows() -> None:
    for name in ("resnet_test", "preresnet_test", "fishnet_test", "fabric_test"):
        net = create((name, {}))
        x = images(name, torch.float32, extra=0)
        with torch.no_grad():
            exact = net(x)
            with torch.autocast("cpu", torch.bfloat16):
                plain, fused = net(x).float(), zoo.fuse(net)(x).float()
        assert (fused - exact).abs().max() < 2 * (plain - exact).abs().max() + 0.05 * exact.std()


# What must not be touched ---------------------------------------------------------------------------------------------


class Shared(nn.Module):
    """A convolution whose map two read, one that is called twice, and sums of which one part is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        z = self.norm1(y) + y
        w = self.norm2(self.twice(z)) + self.norm3(self.twice(z * 2))
        kept = w * 1.5
        view = kept[:, :3]
        return torch.cat([self.act(kept), view, self.act2(self.norm1(w))], dim=1)


class Halves(nn.Module):
    """A net in two methods, between which users look."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Standardised(nn.Conv2d):
    """A convolution that makes its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


class Clipped(nn.BatchNorm2d):
    """A norm that does more than to scale and to shift."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-0.5, 0.5)


class Padded(nn.Module):
    """A norm and a ReLU before a convolution with a border, and before one without."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.act(self.norm(x))
        return [conv(y) for conv in self.convs]


def in_double(net: nn.Module) -> nn.Module:
    return trained(net).double()


@pytest.mark.parametrize(
    "net",
    [
        Shared(),
        Halves(),
        Padded(),
        nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), Clipped(4)),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, padding=1), nn.BatchNorm2d(4)),
        nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
    ],
    ids=lambda net: type(net).__name__,
)
def test_norms_with_other_neighbours_stay(net: nn.Module) -> None:
    report = check_same_function(in_double(net), torch.randn(2, 3, 9, 8, dtype=torch.float64), 1e-12).report
    assert not report.folded + report.bounded
    assert report.left


def test_users_of_two_methods_see_their_maps() -> None:
    net: Any = in_double(Halves())
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    fused = zoo.fuse(net)
    check_equal(fused.forward_features(x), net.forward_features(x), 1e-12)


class Tapped(nn.Sequential):
    """A net that names two inner maps as taps, for whoever hooks into them."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
        taps: Any = [dict(num_chs=4, reduction=1, module=name) for name in ("0", "2")]
        self.feature_info = taps


def test_maps_that_are_named_as_taps_are_left_alone() -> None:
    net: Any = in_double(Tapped())
    fused = check_same_function(net, torch.randn(2, 3, 9, 8, dtype=torch.float64), 1e-12)
    assert "1" in fused.report.left
    kept: list[Tensor] = []
    for name in ("0", "2"):
        fused.get_submodule(name).register_forward_hook(lambda module, args, out: kept.append(out))
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        fused(x)
        first = net[0](x)
        check_equal(kept, [first, net[2](net[1](first))], 1e-12)


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.Dropout(0.5),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AdaptiveAvgPool2d(3),
    ],
    ids=lambda net: type(net).__name__,
)
def test_averages_between_do_not_matter(between: nn.Module) -> None:
    net = in_double(nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), between, nn.BatchNorm2d(8), nn.ReLU()))
    report = check_same_function(net, torch.randn(2, 3, 9, 8, dtype=torch.float64), 1e-12).report
    assert report.folded == ["2"]


def test_grouped_convolutions_take_bounds() -> None:
    net = in_double(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4)))
    report = check_same_function(net, torch.randn(2, 8, 9, 8, dtype=torch.float64), 1e-12).report
    assert report.bounded == ["0"]


class Choosy(nn.Module):
    """A net that no graph can follow, with a part that can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) if x.mean() > 0 else -self.part(-x)


def test_what_cannot_be_traced_is_fused_child_by_child() -> None:
    net = in_double(Choosy())
    report = check_same_function(net, torch.randn(2, 3, 9, 8, dtype=torch.float64), 1e-12).report
    assert (report.folded, report.activations) == (["part.1"], ["part.2"])


OTHERS = {
    "resnet18": {},
    "densenet121": {"growth_rate": 4},
    "mobilenetv3_small_050": {},
    "resnetv2_50d_evos": {"layers": (1, 1, 1, 1)},
    "efficientnet_lite0": {"features_only": True},
    "test_vit": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_nets_of_timm(name: str) -> None:
    net = trained(timm.create_model(name, **OTHERS[name])).double()
    side = 160 if name == "test_vit" else 96
    check_same_function(net, torch.randn(2, 3, side, side, dtype=torch.float64), 1e-10)


def test_a_net_of_torchvision_whose_units_share_an_activation() -> None:
    net = trained(torchvision.models.resnet18()).double()
    report = check_same_function(net, torch.randn(2, 3, 64, 64, dtype=torch.float64), 1e-10).report
    assert not report.left


# Refusals and tools ---------------------------------------------------------------------------------------------------


def test_refusals_say_what_to_do() -> None:
    net = zoo.create_model("resnet_test")
    with pytest.raises(ValueError, match=r"net must be in evaluation mode.*ResNet.*call net.eval\(\) first"):
        zoo.fuse(net)
    net.eval()
    net.stage1.train()
    with pytest.raises(ValueError, match=r"net must be in evaluation mode.*stage1"):
        zoo.fuse(net)
    net.eval()
    handle = net.stage1.register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match=r"net must have no hooks.*stage1"):
        zoo.fuse(net)
    handle.remove()
    with pytest.raises(ValueError, match=r"net must be a module, not a str: create it"):
        zoo.fuse("resnet_test")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ValueError, match="net must have its weights"):
        zoo.fuse(zoo.create_model("resnet_test", device="meta").eval())
    with pytest.raises(ValueError, match="must not be compiled yet: fuse it first"):
        zoo.fuse(torch.jit.script(net))
    with pytest.raises(ValueError, match="must not be compiled yet: fuse it first"):
        zoo.fuse(torch.compile(net))
    zoo.fuse(net)


SMALL: list[tuple[str, dict[str, Any]]] = [
    ("resnet_test", {}),
    ("preresnet_test", {"mid_widths": (8, 8, 8, 8)}),
    ("densenet_test", {"depths": (2, 2, 1, 1)}),
    ("fabric_test", FABRIC | {"columns": 2, "unit": "pre"}),
]


@pytest.fixture(params=SMALL, ids=small_net_title)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A fused net and images, after what the fused net makes of them has been held against its net."""
    net = create(request.param)
    x = images(request.param[0], torch.float32, extra=0)
    return check_same_function(net, x, 1e-5), x


def test_copies_and_files_are_the_same_net(pair: tuple[Any, Tensor]) -> None:
    fused, x = pair
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), zoo.fuse(fused)):
        with torch.no_grad():
            check_equal(twin(x), fused(x), 1e-5)
        assert twin.report().splitlines()
    twin = zoo.fuse(create(("resnet_test", {})))
    twin.load_state_dict(copy.deepcopy(twin).state_dict())


def test_scripting_and_tracing(pair: tuple[Any, Tensor]) -> None:
    fused, x = pair
    with torch.no_grad():
        expected = fused(x)
        check_equal(torch.jit.script(fused)(x), expected, 1e-5)
        check_equal(torch.fx.symbolic_trace(fused)(x), expected, 1e-5)


@pytest.mark.parametrize("structure", [pytest.param(SMALL[1], marks=pytest.mark.slow), SMALL[2]], ids=small_net_title)
def test_compiling_and_exporting(structure: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    net = create(structure)
    x = images(structure[0], torch.float32, extra=0)
    fused = zoo.fuse(net)
    assert fused.report.bounded
    with torch.no_grad():
        check_equal(torch.compile(fused, backend="aot_eager", fullgraph=True)(x), net(x), 1e-5)
        program = torch.export.export(fused, (x,))
        check_equal(program.module()(x), net(x), 1e-5)
    torch.onnx.export(program, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    written = {node.op_type for node in onnx.load(str(tmp_path / "net.onnx"), load_external_data=False).graph.node}
    assert "ScatterND" not in written, "where a block is exported its maps are concatenated"
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        check_equal(found, net(x), 1e-4)


@pytest.mark.filterwarnings("ignore")  # torch calls this exporter old
@pytest.mark.parametrize("kind", ["net", "script", "graph"])
def test_exporting_a_dense_net_by_torchscript(kind: str, tmp_path: Path) -> None:
    net = create(("densenet_test", {"depths": (2, 2, 1, 1)}))
    x = images("densenet_test", torch.float32, extra=0)
    fused = zoo.fuse(net)
    twin = {"net": lambda twin: twin, "script": torch.jit.script, "graph": torch.fx.symbolic_trace}[kind](fused)
    path = str(tmp_path / "net.onnx")
    with torch.no_grad():
        expected = net(x)
        torch.onnx.export(twin, (x,), path, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    check_equal(found, expected, 1e-4)
    written = {node.op_type for node in onnx.load(path).graph.node}
    assert kind != "net" or "ScatterND" not in written, "where a block is exported its maps are concatenated"


def test_a_sum_in_place_writes_into_the_first_map_alone() -> None:
    total = Sum()
    total.inplace = True
    x, y = torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 3), 2.0)
    assert total(x, y) is x
    assert torch.equal(x, torch.full_like(x, 3))
    assert torch.equal(y, torch.full_like(y, 2))


def test_bounds_of_either_kind() -> None:
    x = torch.randn(2, 2, 3, 3)
    low, high = torch.tensor([[[[-0.5]], [[0.1]]]]), torch.tensor([[[[0.2]], [[0.3]]]])
    assert torch.equal(Bound(low, None)(x), torch.maximum(x, low))
    assert torch.equal(Bound(None, high)(x), torch.minimum(x, high))
    assert torch.equal(Bound(low, high)(x), x.clamp(low, high))
