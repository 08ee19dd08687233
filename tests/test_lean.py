"""`zoo.set_lean`: less is kept for the backward pass, and all else stays the same to the last bit."""

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed
import torchvision
from structures import FORWARDS, tensors
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import zoo
from zoo.layers import Sum
from zoo.speed.timing import kept_bytes

STRUCTURES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in zoo.list_models("*_test")),
    *(("resnet_test", {"order": order}) for order in ("norm_after_add", "act_before_add", "act_only_pre")),
    ("resnet_test", {"squeeze": 4, "deform_stages": (2,), "drop_path_rate": 0.5}),
    ("resnet_test", {"shortcut": "none", "drop_path_rate": 0.5}),
    ("preresnet_test", {"activate_first": True, "drop_path_rate": 0.5, "norm_shortcut": True}),
    ("resnet20_cifar", {"depths": (3, 2, 2)}),
    ("densenet40_k12_bc_cifar", {"depths": (2, 2, 2), "drop_path_rate": 0.5}),
    ("resnet_test", {"act_layer": "silu"}),
    ("preresnet_test", {"act_layer": "leaky_relu"}),
    ("densenet_test", {"act_layer": "gelu"}),
    ("fishnet_test", {"act_layer": lambda: nn.ReLU(inplace=True)}),
    ("vgg_test", {"act_layer": lambda: nn.SiLU(inplace=True)}),
    ("resnet_test", {"act_layer": "prelu"}),
    ("preresnet_test", {"act_layer": lambda: nn.RReLU()}),
    ("preresnet_test", {"act_layer": torch.relu}),
    ("preresnet_test", {"norm_layer": "syncbatchnorm"}),
    ("densenet_test", {"norm_layer": "frozenbatchnorm2d"}),
    ("preresnet_test", {"norm_layer": "groupnorm1"}),
    ("preresnet_test", {"norm_layer": lambda chs: nn.BatchNorm2d(chs, affine=False)}),
    ("fishnet_test", {"norm_layer": lambda chs: nn.BatchNorm2d(chs, track_running_stats=False)}),
    ("densenet_test", {"norm_layer": timm.layers.BatchNormAct2d, "act_layer": "identity"}),
    ("fabric_test", {"unit": "pre", "gate": "gated", "drop_path_rate": 0.5}),
    ("fabric_test", {"unit": "preshared", "gate": "dropout"}),
    ("fabric_test", {"unit": "sparse", "gate": "none"}),
    ("fabric_test", {"unit": "conv", "gate": "none", "head": "hypercolumn", "out_scale": 1}),
]


def identity(structure: tuple[str, dict[str, Any]]) -> str:
    shown = [f"{key}={getattr(value, '__name__', value)}" for key, value in structure[1].items()]
    return " ".join([structure[0], *shown])


FEW = pytest.mark.only(name=("resnet_test", "densenet_test"))
structures = pytest.mark.parametrize("structure", STRUCTURES, ids=map(identity, STRUCTURES))


def images(name: str, size: tuple[int, int] = (37, 43)) -> Tensor:
    """Three images, not square and of odd sizes unless asked otherwise."""
    least = max(zoo.model_entry(name).spec.smallest())
    return torch.randn(3, 3, *(max(side, least) for side in size), generator=torch.Generator().manual_seed(1))


def loss_of(out: Any) -> Tensor:
    return torch.stack([part.float().square().mean() for part in tensors(out)]).sum()


def train(net: Any, run: Callable[[], Any]) -> tuple[dict[str, Any], int]:
    """Run a net forward and backward; return all that comes of it, and the bytes that were kept in between."""
    net.zero_grad()
    torch.manual_seed(3)
    with kept_bytes(net) as kept:
        out = run()
    size = kept()
    loss_of(out).backward()
    found = {f"output {i}": part.detach() for i, part in enumerate(tensors(out))}
    found |= {f"gradient of {key}": p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    return found | {f"buffer {key}": value.clone() for key, value in net.named_buffers()}, size


def check_same(net: Any, run: Callable[[], Any]) -> float:
    """A lean net does what the net does, to the last bit; return the share of the bytes that are kept."""
    state = copy.deepcopy(net.state_dict())
    want, plain = train(net, run)
    net.load_state_dict(state)
    zoo.set_lean(net)
    assert list(net.state_dict()) == list(state)
    found, lean = train(net, run)
    zoo.set_lean(net, False)
    assert found.keys() == want.keys()
    assert any(key.startswith("gradient") for key in found)
    assert [key for key in want if not torch.equal(found[key], want[key])] == []
    return lean / plain if plain else 1.0


def create(structure: tuple[str, dict[str, Any]], **options: Any) -> Any:
    torch.manual_seed(0)
    net = zoo.create_model(structure[0], **structure[1], **options).train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
                module.weight[::3] *= -1
                module.bias.normal_(0, 0.3)
    return net


class Unit(nn.Module):
    """A norm, an activation, a sum, and convolutions that read the same map."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.act = act or nn.ReLU()
        self.convs = nn.ModuleList([nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1)])
        self.sum = Sum()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.first(x)))
        return self.sum(self.convs[1](y)[:, :, 1:-1, 1:-1], self.convs[0](y))


def settled(net: Any) -> Any:
    torch.manual_seed(5)
    for p in net.parameters():
        nn.init.normal_(p, 0.0, 0.5)
    return net.train()


X = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(2))


@structures
def test_nothing_changes(structure: tuple[str, dict[str, Any]]) -> None:
    net, x = create(structure), images(structure[0])
    assert check_same(net, lambda: net(x)) < 1.05


SHARES = {
    "preresnet_test": 0.62,
    "fishnet_test": 0.5,
    "densenet_test": 0.55,
    "resnet20_cifar": 0.65,
    "wide_resnet16_2_cifar": 0.55,
    "vgg_test": 0.7,
    "resnet_test": 0.75,
    "fabric_test": 0.8,
}


@pytest.mark.only(name=("preresnet_test", "resnet_test", "densenet_test"))
@pytest.mark.parametrize("name", SHARES)
def test_less_is_kept(name: str) -> None:
    net, x = create((name, {})), images(name, (64, 64))
    assert check_same(net, lambda: net(x)) < SHARES[name]
    gate: dict[str, Any] = {"act_layer": "silu"}  # keeps its input and its output
    net = create((name, gate))
    assert check_same(net, lambda: net(x)) < SHARES[name]


@FEW
@pytest.mark.parametrize("name", FORWARDS)
def test_half_precision_and_layouts(name: str) -> None:
    net, x = create((name, {})), images(name)

    def cast() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    check_same(net, cast)
    net = create((name, {}), dtype=torch.float64)
    check_same(net, lambda: net(x.double()))
    net = create((name, {})).to(memory_format=torch.channels_last)
    check_same(net, lambda: net(x.contiguous(memory_format=torch.channels_last)))


@FEW
@pytest.mark.parametrize("name", FORWARDS)
def test_evaluation_and_frozen_parts(name: str) -> None:
    net, x = create((name, {})), images(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    check_same(net, lambda: net(x))
    net.train().stem.requires_grad_(False)
    check_same(net, lambda: net(x))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    check_same(net, lambda: net(x))


@FEW
@pytest.mark.parametrize("name", FORWARDS)
def test_checkpointing_at_the_same_time(name: str) -> None:
    net, x = create((name, {})), images(name)
    _, least = train(net, lambda: net(x))
    net.set_grad_checkpointing()
    check_same(net, lambda: net(x))
    zoo.set_lean(net)
    _, both = train(net, lambda: net(x))
    assert both < 0.7 * least
    net.set_grad_checkpointing(False)
    zoo.set_lean(net, False)
    for reentrant in (False, True):
        y = x.clone().requires_grad_()
        check_same(net, lambda reentrant=reentrant, y=y: checkpoint(net, y, use_reentrant=reentrant))


@FEW
@pytest.mark.parametrize("name", FORWARDS)
def test_other_ways_in(name: str) -> None:
    """Methods, wrappers and graphs of a net."""
    net, x = create((name, {})), images(name)
    check_same(net, lambda: net.forward_head(net.forward_features(x)))
    check_same(net, lambda: net.forward_intermediates(x, [0]))
    for wrapper in ("list", "getter", "hook", "fx"):
        taps = create((name, {}), features_only=True, feature_cls=wrapper, out_indices=(2, 0))
        check_same(taps, lambda taps=taps: taps(x))
    zoo.set_lean(net)
    graph = torch.fx.symbolic_trace(net)
    zoo.set_lean(net, False)
    zoo.set_lean(graph, False)
    check_same(graph, lambda: graph(x))


@pytest.mark.only(name=("mobilenetv3_small_050",))
@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50", "densenet121", "mobilenetv3_small_050", "test_vit"])
def test_nets_of_timm(name: str) -> None:
    net = timm.create_model(name).train()
    x = torch.randn(2, 3, *[160 if name == "test_vit" else 65] * 2)
    assert check_same(net, lambda: net(x)) < 1.01


def test_a_net_of_torchvision() -> None:
    net = torchvision.models.resnet18().train()
    assert check_same(net, lambda: net(torch.ones(2, 3, 64, 64))) < 0.9


@pytest.mark.slow
def test_several_processes(tmp_path: Path) -> None:
    """Two steps of two processes leave the same weights, lean or not."""
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for lean in (True, False):
        net = create(("preresnet_test", {}))
        zoo.set_lean(net, lean)
        parallel = DistributedDataParallel(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(2):
            generator = torch.Generator().manual_seed(10 * step + rank)
            parallel(torch.randn(2, 3, 64, 64, generator=generator)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(net.state_dict())
    torch.distributed.destroy_process_group()
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


# Tools ----------------------------------------------------------------------------------------------------------------


def check_compiled(net: Any, x: Tensor) -> None:
    want, _ = train(net, lambda: net(x))
    zoo.set_lean(net)
    run: Any = torch.compile(net, backend="aot_eager", fullgraph=True)
    found, _ = train(net, lambda: run(x))
    for key in want:
        if not key.startswith("buffer"):
            torch.testing.assert_close(found[key], want[key], rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net.eval(), (x,)).module()(x), net(x))


def test_compilers_see_a_plain_layer() -> None:
    check_compiled(settled(Unit()).double(), X.double())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preresnet_test", "densenet_test"])
def test_compilers_see_a_plain_net(name: str) -> None:
    check_compiled(create((name, {}), dtype=torch.float64), images(name).double())


def test_copies_and_files_stay_lean() -> None:
    net, x = create(("densenet_test", {})), images("densenet_test")
    _, plain = train(net, lambda: net(x))
    zoo.set_lean(net)
    _, lean = train(net, lambda: net(x))
    assert lean < 0.6 * plain
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.load_state_dict(net.state_dict())
        assert train(twin, lambda twin=twin: twin(x))[1] == lean
    zoo.set_lean(zoo.set_lean(net), False)
    assert train(net, lambda: net(x))[1] == plain
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not any(module._forward_hooks_always_called for module in net.modules())


def test_maps_can_be_written_to_files() -> None:
    net = zoo.set_lean(create(("preresnet_test", {})))
    kept: list[Tensor] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, args, out: kept.append(out))
    net(images("preresnet_test"))
    assert any(getattr(value, "_lean", None) for value in kept)
    for value in kept:
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False), value)


def test_fuse_takes_it_off() -> None:
    net = zoo.set_lean(create(("preresnet_test", {}))).eval()
    fused = zoo.fuse(net)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fused.modules())
    assert any(module._forward_hooks for module in net.modules())
    with torch.no_grad():
        torch.testing.assert_close(fused(images("preresnet_test")), net(images("preresnet_test")), rtol=1e-4, atol=1e-4)


def test_saving_on_the_cpu() -> None:
    """Other hooks around the net get what is kept, each map once."""
    net, x = create(("densenet_test", {})), images("densenet_test")

    def run() -> Any:
        with torch.autograd.graph.save_on_cpu():
            return net(x)

    check_same(net, run)


@pytest.mark.parametrize("name", ["densenet_test", "resnet_test"])
def test_a_graph_can_be_used_again(name: str) -> None:
    results = []
    for lean in (False, True):
        net = zoo.set_lean(create((name, {})), lean)
        loss = net(images(name)).square().mean()
        parts = [p for key, p in net.named_parameters() if "stage2" in key]
        some = torch.autograd.grad(loss, parts, retain_graph=True)
        loss.backward(retain_graph=True)
        loss.backward()
        results.append([*some, *(p.grad for p in net.parameters())])
    assert all(map(torch.equal, *results))


def test_second_derivatives() -> None:
    net, x = create(("preresnet_test", {"act_layer": "silu"}), dtype=torch.float64), images("preresnet_test").double()

    def run() -> Tensor:
        grads = torch.autograd.grad(net(x).square().mean(), list(net.parameters()), create_graph=True)
        return torch.stack([grad.square().sum() for grad in grads])

    state, found = copy.deepcopy(net.state_dict()), []
    for lean in (False, True):
        net.load_state_dict(state)
        zoo.set_lean(net, lean).zero_grad()
        run().sum().backward()
        found.append([p.grad for p in net.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def without_hooks(f: Callable[..., Any]) -> Callable[..., Any]:
    def run(parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        with torch.autograd.graph.disable_saved_tensors_hooks("no hooks here"):
            return dict(zip(parameters, torch.autograd.grad(f(parameters, x), list(parameters.values())), strict=True))

    return run


OWN = {"grad": grad, "vmap of grad": lambda f: vmap(grad(f), in_dims=(None, 0)), "disabled": without_hooks}


@pytest.mark.parametrize("of", OWN.values(), ids=OWN)
def test_where_no_hooks_are_allowed_a_lean_net_is_the_ordinary_one(of: Callable[..., Any]) -> None:
    net = settled(Unit()).eval()
    own = dict(net.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, parameters, (x.reshape(-1, *X.shape[1:]),)).square().mean()

    want = of(loss)(own, X)
    assert any(value.any() for value in want.values())
    zoo.set_lean(net)
    found = of(loss)(own, X)
    assert [key for key in want if not torch.equal(found[key], want[key])] == []


def test_memory_comes_back() -> None:
    """Nothing holds a map once the graph is gone, and after a backward pass nothing holds it either."""
    net = zoo.set_lean(create(("densenet_test", {})))
    seen: list[Any] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, args, out: seen.append(weakref.ref(out.untyped_storage())))
    gc.collect()
    gc.disable()
    try:
        for backwards in (False, True):
            out = net(images("densenet_test"))
            if backwards:
                out.sum().backward()
            del out
            assert not any(ref() is not None for ref in seen)
            seen.clear()
    finally:
        gc.enable()


# What must not go wrong in silence ------------------------------------------------------------------------------------


class Late(nn.Module):
    """Overwrites what the norm has read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act, self.last = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.act(self.norm(x))
        x += 1
        return self.last(y)


def test_a_map_that_is_overwritten_is_an_error() -> None:
    for lean in (False, True):
        net = zoo.set_lean(settled(Late()), lean)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            net(X).sum().backward()


def double(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out * 2


def doubled(module: nn.Module, args: Any, out: Tensor) -> None:
    with torch.no_grad():
        out.mul_(2)


def shift(module: nn.Module, args: Any) -> Any:
    return (args[0] + 0.3, *args[1:])


def shifted(module: nn.Module, args: Any) -> None:
    args[0].add_(0.3)


def with_hook(net: Any, layer: str, hook: Any, place: str, lean: bool) -> list[Tensor] | None:
    """Return output and gradients of a net with a hook; None where autograd refuses what the hook overwrites."""
    target, before, handle = net.get_submodule(layer), hook in (shift, shifted), None
    register: Any = target.register_forward_pre_hook if before else target.register_forward_hook
    if place == "global":
        register = nn.modules.module.register_module_forward_pre_hook if before else register_module_forward_hook
        handle = register(lambda each, *rest: hook(each, *rest) if each is target else None)
    if place == "earlier":
        register(hook)
    zoo.set_lean(net, lean)
    if place in ("later", "first"):
        register(hook, prepend=place == "first")
    try:
        out = net(X)
        out.square().sum().backward()
    except RuntimeError as error:
        if "inplace" not in str(error) and "in-place" not in str(error):
            raise
        return None
    finally:
        if handle:
            handle.remove()
    return [out.detach(), *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("layer", ["norm", "act", "sum", "convs.0"])
@pytest.mark.parametrize("hook", [double, doubled, shift, shifted], ids=lambda hook: hook.__name__)
def test_hooks_that_change_maps(layer: str, hook: Any) -> None:
    """Wherever a hook stands, what it makes of a map is what the backward pass reads.

    Autograd refuses some of what is overwritten. A lean net may go on there, with what stood there before.
    """
    compared = 0
    for place in ("earlier", "first", "later", "global"):
        for act in (nn.ReLU(), nn.SiLU(), nn.ReLU(inplace=True)):
            want, found = (
                with_hook(settled(Unit(copy.deepcopy(act))), layer, hook, place, lean) for lean in (False, True)
            )
            if want is not None:
                compared += 1
                assert found is not None
                assert all(map(torch.equal, found, want))
    assert compared or hook in (doubled, shifted)


class Clipped(nn.BatchNorm2d):
    """A norm that does more than to scale and to shift."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-0.5, 0.5)


def test_norms_and_activations_that_are_not_what_they_look_like() -> None:
    net = settled(Unit())
    net.norm = Clipped(6)
    check_same(net, lambda: net(X))
    net = settled(Unit())
    net.norm.forward = lambda x: nn.functional.batch_norm(x * x, None, None, training=True)
    check_same(net, lambda: net(X))
    net = settled(Unit())
    net.act.forward = lambda x: torch.relu(x) + x
    check_same(net, lambda: net(X))


def test_errors_inside_leave_no_hooks_behind() -> None:
    net = zoo.set_lean(settled(Unit()))
    for place in (net.act, net.norm, net):
        handle = place.register_forward_hook(lambda module, args, out: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            net(X)
        handle.remove()
        x = torch.ones(3, requires_grad=True)
        assert isinstance((x * x).grad_fn._raw_saved_self, torch._C._autograd.SavedTensor)
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    net(X).sum().backward()


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"net must be a module, not a str: create it"):
        zoo.set_lean("resnet_test")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ValueError, match="must not be scripted"):
        zoo.set_lean(torch.jit.script(nn.ReLU()))
