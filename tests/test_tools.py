"""Every layer is a module that is called, so tools that hook, patch, replace, trace or quantise layers see all of them.

One small net of every family, and of every unit of a fabric.
"""

import copy
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from structures import SMALL_GRID
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.func import functional_call, grad, vmap
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.complexity import count
from zoo.layers import BandConv2d
from zoo.testing import settle_norms

GRID = SMALL_GRID["fabric_test"]
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (f"{family}_test", {}) for family in zoo.families() if f"{family}_test" in zoo.list_models()},
    "fabric": ("fabric_test", GRID),
    "preresnet": ("preresnet_test", {}),
    "vgg with local norms": ("vgg_lrn_test", {}),
    "fabric conv": (
        "fabric_test",
        GRID | {"unit": "conv", "gate": "none", "conv_bias": True, "type": "d", "columns": 3},
    ),
    "fabric sparse": (
        "fabric_test",
        GRID | {"unit": "sparse", "gate": "none", "channels": (8, 8, 8)},
    ),
    "fabric pre": ("fabric_test", GRID | {"unit": "pre", "gate": "gated", "up": "nearest"}),
    "fabric preshared": (
        "fabric_test",
        GRID | {"unit": "preshared", "gate": "none", "up": "zero"},
    ),
    "fabric dropout": (
        "fabric_test",
        GRID | {"unit": "pre", "gate": "dropout", "drop_path_rate": 0.3},
    ),
    "resnet drop path": ("resnet_test", {"drop_path_rate": 0.3}),
}
DEAR = (
    "resnet",
    "densenet",
    "fishnet",
    "fabric",
    "fabric sparse",
    "frrn",
    "googlenet",
)
"""What tracers and compilers are shown in the usual tier: every kind of forward, and layers that compute a weight."""
CONVS = (nn.Conv2d, nn.ConvTranspose2d, BandConv2d)
NORMS = nn.modules.batchnorm._BatchNorm
ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh)


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    """A net in evaluation mode whose norms have seen something."""
    name, options = NETS[request.param]
    return settle_norms(zoo.create_model(name, **options)).eval()


def images(net: nn.Module, batch: int = 4) -> Tensor:
    side = next(zoo.model_entry(name).input_size[-1] for name, _ in NETS.values() if same_family(net, name))
    return torch.randn(batch, 3, side, side)


def same_family(net: nn.Module, name: str) -> bool:
    return zoo.model_entry(name).build is type(net)


def drops(net: nn.Module) -> bool:
    """Whether training draws random numbers."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in net.modules())


def close(have: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4 * float(want.detach().abs().max().clamp(min=1)))


@contextmanager
def innermost() -> Iterator[list[nn.Module]]:
    """The modules that are running, the innermost last; by hooks on all modules, as profilers and debuggers have."""
    running: list[nn.Module] = []
    before = register_module_forward_pre_hook(lambda module, _: running.append(module))
    after = register_module_forward_hook(lambda *_: running.pop() and None)
    try:
        yield running
    finally:
        before.remove()
        after.remove()


HOMES: dict[str, Any] = {
    "convolution": CONVS,
    "native_batch_norm": NORMS,
    "cudnn_batch_norm": NORMS,
    "_native_batch_norm_legit": NORMS,
    "_native_batch_norm_legit_no_training": NORMS,
    "relu": ACTIVATIONS,
    "relu_": ACTIVATIONS,
    "sigmoid": ACTIVATIONS,
    "tanh": ACTIVATIONS,
    "addmm": nn.Linear,
}
"""Where an operator may run."""


class Places(TorchDispatchMode):
    """Notes in which module each operator of interest ran."""

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()
        self.running = running
        self.called: Counter[nn.Module] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        home = HOMES.get(func.overloadpacket.__name__)
        if home is not None:
            where = self.running[-1] if self.running else None
            assert isinstance(where, home), f"{func} runs in {type(where).__name__}"
            self.called[where] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
def test_layers_are_called_once_each(net: nn.Module, training: bool) -> None:
    """No convolution, norm or activation is computed outside of its module, in any mode, and none serves two places."""
    calls: Counter[str] = Counter()
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with innermost() as running, Places(running) as places:
        net.train(training)(images(net))
    assert {name for name, times in calls.items() if times > 1} == set(), "layers without parameters, too"
    leaves = [m for m in net.modules() if isinstance(m, (*CONVS, NORMS, *ACTIVATIONS, nn.Linear))]
    assert {m for m in leaves if not places.called[m]} == set(), "each of them is run"
    offsets = {m.offset for m in net.modules() if hasattr(m, "offset")}
    assert {type(m) for m, times in places.called.items() if times != 1 and m not in offsets} == set()


def test_padding_mode(net: nn.Module) -> None:
    """As for tiles that fit together: all convolutions pad in a circle."""

    def in_a_circle(module: nn.Conv2d, args: tuple[Tensor], out: Tensor) -> Tensor:
        (y, x) = module.padding
        padded = F.pad(args[0], (x, x, y, y), mode="circular")
        return F.conv2d(padded, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)

    convs = [m for m in net.modules() if type(m) is nn.Conv2d]
    x = images(net)
    with torch.no_grad():
        hooks = [conv.register_forward_hook(in_a_circle) for conv in convs]
        want = net(x)
        for hook in hooks:
            hook.remove()
        plain = net(x)
        for conv in convs:
            conv.padding_mode = "circular"
        close(net(x), want)
    assert not torch.allclose(plain, want) or all(conv.padding == (0, 0) for conv in convs)


def replace_forward(module: nn.Module, function: Callable[..., Tensor]) -> None:
    module.forward = types.MethodType(function, module)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d, nn.ReLU])
def test_a_patched_forward_is_called(net: nn.Module, kind: type[nn.Module]) -> None:
    """Each of them halves: a hook that does so says what is right."""
    layers = [m for m in net.modules() if type(m) is kind]
    x = images(net)
    with torch.no_grad():
        hooks = [layer.register_forward_hook(lambda _m, _x, out: out / 2) for layer in layers]
        want = net(x)
        for hook in hooks:
            hook.remove()
        for layer in layers:
            replace_forward(layer, lambda self, x: kind.forward(self, x) / 2)
        close(net(x), want)


def test_an_added_bias_counts(net: nn.Module) -> None:
    convs = [m for m in net.modules() if type(m) is nn.Conv2d and m.bias is None]
    x = images(net)
    with torch.no_grad():
        hooks = [conv.register_forward_hook(lambda _m, _x, out: out + 0.1) for conv in convs]
        want = net(x)
        for hook in hooks:
            hook.remove()
        for conv in convs:
            conv.bias = nn.Parameter(torch.full((conv.out_channels,), 0.1))
        close(net(x), want)


def test_norms_that_do_not_follow_the_batch(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, NORMS):
            module.track_running_stats = False
    before = {key: t.clone() for key, t in net.state_dict().items()}
    net.train()(images(net))
    assert all(torch.equal(before[key], t) for key, t in net.state_dict().items())


@pytest.mark.only(net=DEAR)
@pytest.mark.parametrize("training", [False, True])
def test_norms_in_float32_in_a_net_in_bfloat16(net: nn.Module, training: bool) -> None:
    x = images(net)
    torch.manual_seed(1)
    want = copy.deepcopy(net).train(training)(x)
    net.to(torch.bfloat16)
    for module in net.modules():
        if isinstance(module, NORMS):
            module.float()
    torch.manual_seed(1)
    have = net.train(training)(x.bfloat16())
    have.float().square().mean().backward()
    assert have.dtype == torch.bfloat16
    if not training:  # a few samples at one pixel make the statistics of a batch a matter of rounding
        assert (have.float() - want).norm() < 0.1 * want.norm()
    assert all(m.running_mean.dtype == torch.float32 for m in net.modules() if isinstance(m, NORMS))


@pytest.mark.only(net=DEAR)
def test_counters_of_operators_agree(net: nn.Module) -> None:
    """FlopCounterMode by module, in evaluation and in training, and fvcore."""
    x = images(net, batch=1)
    for training in (False, True):
        for norm in net.train(training).modules():
            if isinstance(norm, NORMS):
                norm.eval()  # one pixel has no variance
        with FlopCounterMode(display=False) as counter:
            net(x)
        assert counter.get_total_flops() == 2 * count(net, tuple(x.shape[1:])).macs


@pytest.mark.only(net=DEAR)
@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_traced_net_follows_the_mode(net: nn.Module, training: bool) -> None:
    """Traced in one mode, run in both: outputs and what a step leaves in the norms."""
    traced = torch.fx.symbolic_trace(copy.deepcopy(net).train(training))
    x = images(net)
    for mode in (True, False, True):
        results = []
        for side in (net, traced):
            torch.manual_seed(1)
            results.append(side.train(mode)(x).detach())
        close(*results)
        for key, have in traced.state_dict().items():
            torch.testing.assert_close(have, net.state_dict()[key], rtol=1e-3, atol=1e-4)
        if mode and drops(net):
            twin = copy.deepcopy(traced)
            assert not torch.equal(twin(x), twin(x)), "training draws"


@pytest.mark.only(net=DEAR)
@pytest.mark.filterwarnings("ignore")  # torch says in many ways that it moves to another package
def test_quantisation_of_a_traced_net_reaches_all_convolutions(net: nn.Module) -> None:
    x = images(net)
    with torch.no_grad():
        want = net(x)
        # A layer of ours that computes its weight has no quantised form; such layers are named and stay as they are.
        ours = PrepareCustomConfig().set_non_traceable_module_classes([BandConv2d])
        prepared = prepare_fx(net, get_default_qconfig_mapping("fbgemm"), (x,), prepare_custom_config=ours)
        prepared(x)
        quantised = convert_fx(prepared)
        have = quantised(x)
    own = sum(type(m) is nn.Conv2d for m in net.modules())
    reached = sum("quantized" in type(m).__module__ and "Conv" in type(m).__name__ for m in quantised.modules())
    assert reached == own
    assert (have - want).norm() < 0.5 * want.norm()


def test_activations_can_be_replaced_and_are_seen(net: nn.Module) -> None:
    """By hand as by ``act_layer``."""
    name, options = next(row for row in NETS.values() if same_family(net, row[0]) and net.spec == spec_of(*row))
    other = zoo.create_model(name, act_layer="gelu", **options).eval()
    other.load_state_dict(net.state_dict())
    for parent in list(net.modules()):
        for key, child in parent.named_children():
            if type(child) is nn.ReLU:
                setattr(parent, key, nn.GELU())
    x = images(net)
    seen: Counter[nn.Module] = Counter()
    for module in net.modules():
        if isinstance(module, nn.GELU):
            module.register_forward_hook(lambda module, *_: seen.update([module]))
    with torch.no_grad():
        close(net(x), other(x))
    assert set(seen.values()) <= {1}
    assert len(seen) == sum(isinstance(m, nn.GELU) for m in net.modules())


def spec_of(name: str, options: dict[str, Any]) -> Any:
    entry = zoo.model_entry(name)
    return entry.spec.replace(**{k: v for k, v in options.items() if k in entry.spec.field_names()})


def test_gradients_as_functions(net: nn.Module) -> None:
    """``torch.func``: of a batch, and sample by sample, equal those of ``backward``."""
    parameters = {key: p.detach() for key, p in net.named_parameters() if p.requires_grad}
    x = images(net, batch=2)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, parameters, (x,)).square().sum()

    each = vmap(grad(lambda p, x: loss(p, x[None])), in_dims=(None, 0))(parameters, x)
    batch = grad(loss)(parameters, x)
    net(x).square().sum().backward()
    for key, p in net.named_parameters():
        if p.grad is not None:
            tolerance = dict(rtol=1e-2, atol=1e-3 * float(p.grad.abs().max()) + 1e-6)
            torch.testing.assert_close(batch[key], p.grad, **tolerance)
            torch.testing.assert_close(each[key].sum(0), p.grad, **tolerance)


def test_the_mode_between_forward_and_backward_does_not_matter(net: nn.Module) -> None:
    x = images(net)
    gradients = []
    for between in (False, True):
        twin = copy.deepcopy(net).train()
        torch.manual_seed(1)
        loss = twin(x).square().mean()
        twin.train(not between)
        loss.backward()
        gradients.append({key: p.grad for key, p in twin.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.only(net=DEAR)
def test_an_exported_graph_shows_all_convolutions(net: nn.Module) -> None:
    program = torch.export.export(net, (images(net),))
    calls = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    convs = sum(isinstance(m, CONVS) for m in net.modules())
    assert calls["aten.conv2d.default"] + calls["torchvision.deform_conv2d.default"] == convs
    norms = sum(isinstance(m, NORMS) for m in net.modules())
    assert calls["aten.batch_norm.default"] == norms
    assert not any("alpha" in node.kwargs for node in program.graph.nodes), "no sum with a factor: some refuse it"
    if same_family(net, "fishnet_test"):
        assert not calls["aten.alias.default"], "a slice that takes all: some refuse it"


@pytest.mark.only(net=DEAR)
def test_a_scripted_net_trains_and_is_evaluated_in_turn(net: nn.Module) -> None:
    """As timm's ``train.py --torchscript`` does: what is optimised for a training step runs in inference mode, too."""
    scripted = torch.jit.script(net)
    x = images(net)
    for _ in range(2):
        scripted.train()
        for _ in range(2):  # one run to record, one to optimise
            scripted(x).sum().backward()
        scripted.eval()
        with torch.inference_mode():
            close(scripted(x), net.eval()(x))


# Parameters without gradients, and nets that begin without numbers


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


DISTRIBUTED = NETS | {
    "dead nodes": ("fabric_test", {"type": "d", "columns": 4}),
    "dead columns": ("fabric_test", {"type": "bd", "columns": 4, "head": "dense"}),
    "hypercolumn": ("fabric_test", {"head": "hypercolumn", "out_scale": 1}),
}


@pytest.mark.only(key=(*DEAR, "highway", "dead nodes", "dead columns", "hypercolumn", "resnet drop path"))
@pytest.mark.parametrize("key", DISTRIBUTED)
def test_data_parallel_training_needs_no_option(one_process: None, key: str) -> None:
    """Of whole nets and of features, whichever taps: a parameter without a gradient would stop the second step."""
    name, options = DISTRIBUTED[key]
    x = torch.randn(2, *zoo.model_entry(name).input_size)
    last = len(zoo.create_model(name, device="meta", **options).feature_info) - 1
    nets = [zoo.create_model(name, **options)]
    for taps in (tuple(range(last + 1)), (last,), (0,), tuple(range(last)), (1, 2)):
        nets.append(zoo.create_model(name, features_only=True, out_indices=taps, **options))
    for net in nets:
        parallel = DistributedDataParallel(net.train())
        for _ in range(2):
            out = parallel(x)
            sum(t.square().mean() for t in ([out] if isinstance(out, Tensor) else out)).backward()


def test_a_net_from_the_meta_device(net: nn.Module) -> None:
    """The state dict holds all there is: loaded into empty tensors, or put in their place, as transformers does."""
    name, options = next(row for row in NETS.values() if same_family(net, row[0]) and net.spec == spec_of(*row))
    x = images(net)
    with torch.no_grad():
        want = net(x)
        for assign in (False, True):
            other = zoo.create_model(name, device="meta", **options).eval()
            if not assign:
                other.to_empty(device="cpu")
                for t in [*other.parameters(), *other.buffers()]:
                    t.fill_(3)
            other.load_state_dict(net.state_dict(), assign=assign)
            assert torch.equal(other(x), want)
