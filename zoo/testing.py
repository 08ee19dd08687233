"""The contract of a backbone as a function: `check_backbone` tries every promise, for our families and for yours.

>>> from zoo.testing import check_backbone
>>> check_backbone("resnet_test")

A promise is a function of ``PROMISES``, by name; its docstring is what the net promises. Nothing is trained, and no
file is read. Random numbers of the caller are left as they were.
"""

from __future__ import annotations

import copy
import io
import pickle
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from timm.models import group_parameters
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.entry import Spec
from zoo.layers import DropPath, Skippable
from zoo.registry import create_model, model_entry

POOLS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")


class BrokenPromise(AssertionError):
    """Error for a backbone that breaks the contract; the message names net, promise and finding."""


def settle_norms(net: Any, *, prefix: str = "", scale: float = 1.0) -> Any:
    """Give the batch norms of a net the statistics and factors that training might, so that a lost one shows.

    A new norm changes nothing in evaluation mode: its mean is 0, its variance and its factor are 1. Numbers are drawn
    by the name of the norm, so two nets whose norms have the same names agree, in whatever order they hold them.

    Args:
        net: The net, changed in place.
        prefix: Left out at the start of names, for wrappers that hold the net below a name of their own.
        scale: Times the factors. Below 1 for deep sums of branches, which would overflow.

    Returns:
        The net.
    """
    for name, norm in net.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            generator = torch.Generator().manual_seed(zlib.crc32(name.removeprefix(prefix).encode()))
            for values, low, high in (
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.6, 1.4),
                (norm.weight, 0.75 * scale, 1.25 * scale),
                (norm.bias, -0.2, 0.2),
            ):
                if values is not None:
                    values.data.uniform_(low, high, generator=generator)
    return net


@dataclass(frozen=True)
class Subject:
    """A net under test.

    Attributes:
        title: Name of the net.
        make: Makes the net anew with arguments of `Backbone`, under the random state of the caller.
        spec: The architecture.
        input_size: Channels, height and width of an image.
        num_classes: Width of the default head.
    """

    title: str
    make: Callable[..., Any]
    spec: Spec
    input_size: tuple[int, int, int]
    num_classes: int

    def images(self, batch: int = 2, **size: int) -> Tensor:
        """Return random images, the same at every call; ``chans``, ``height`` and ``width`` may differ."""
        chans, height, width = self.input_size
        shape = (batch, size.get("chans", chans), size.get("height", height), size.get("width", width))
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def settled(self, **arguments: Any) -> Any:
        """Make a net in evaluation mode whose norms are not those of a fresh one."""
        torch.manual_seed(0)
        return settle_norms(self.make(**arguments)).eval()

    def lacks(self, argument: str) -> bool:
        """Return True if the specification lists the argument as unsupported."""
        return argument in self.spec.lacks


def check_backbone(
    net: str | nn.Module, *, input_size: tuple[int, int, int] | None = None, promises: Iterable[str] | None = None
) -> None:
    """Check that a backbone keeps the contract.

    Args:
        net: A name for `zoo.create_model`, or a net derived from `zoo.backbone.Backbone`, which is made anew from its
            class and its specification. Take a small one: hundreds of passes are made.
        input_size: Channels, height and width of an image. Default: what a name's row says; for a net its channels and
            64 pixels, or four times its total stride where that is more.
        promises: Names of some of ``PROMISES``. Default: all.

    Raises:
        BrokenPromise: (an AssertionError) If a promise is broken. The message names the net, the promise and what was
            found.
        ValueError: If a name or a promise is unknown.
        TypeError: If the net is no backbone of the zoo's.
    """
    subject = _subject(net, input_size)
    chosen = list(PROMISES) if promises is None else list(promises)
    if unknown := [name for name in chosen if name not in PROMISES]:
        raise ValueError(f"promises ({unknown[0]!r}) must be some of {', '.join(PROMISES)}")
    for name in chosen:
        with torch.random.fork_rng(devices=[]):
            try:
                PROMISES[name](subject)
            except AssertionError as error:
                raise BrokenPromise(f"{subject.title} breaks {name}: {error}") from error
            except Exception as error:  # whatever comes where a promise is kept to the letter
                raise BrokenPromise(f"{subject.title} breaks {name}: {type(error).__name__}: {error}") from error


def _subject(net: str | nn.Module, input_size: tuple[int, int, int] | None) -> Subject:
    if isinstance(net, str):
        entry, name = model_entry(net), net
        size = input_size or entry.input_size
        return Subject(net, lambda **given: create_model(name, **given), entry.spec, size, entry.num_classes)
    if not isinstance(net, Backbone):
        raise TypeError(f"net ({type(net).__name__}) must be a name, or derived from zoo.backbone.Backbone")
    kind, spec, chans, classes = type(net), net.spec, net.in_chans, net.num_classes or 10
    side = max(64, 4 * spec.tap_strides[-1])

    def make(**given: Any) -> nn.Module:
        arguments: dict[str, Any] = {"in_chans": chans, "num_classes": classes}
        return kind(spec, **arguments | given)

    return Subject(kind.__name__, make, spec, input_size or (chans, side, side), classes)


def _hold(condition: Any, found: str) -> None:
    """Raise AssertionError unless the condition holds; a statement would be left out by ``python -O``."""
    if not condition:
        raise AssertionError(found)


def _refuses(act: Callable[[], Any], *words: str) -> None:
    """Raise AssertionError unless a call raises a ValueError whose message holds the words."""
    try:
        act()
    except ValueError as error:
        missing = [word for word in words if word not in str(error)]
        _hold(not missing, f"the error does not say {missing and missing[0]!r}: {error}")
    else:
        raise AssertionError(f"no ValueError about {words[0]}")


def _same(have: Tensor, want: Tensor, what: str, **tolerance: Any) -> None:
    """Raise AssertionError unless two maps are equal, to rounding or as the tolerance says."""
    try:
        torch.testing.assert_close(have, want, **tolerance)
    except AssertionError as error:
        raise AssertionError(f"{what}: {str(error).splitlines()[0]}") from None


def _shape(have: Tensor, want: Sequence[int], what: str) -> None:
    _hold(tuple(have.shape) == tuple(want), f"{what} has shape {tuple(have.shape)}, not {tuple(want)}")


def _sizes(subject: Subject, taps: list[Tensor], strides: list[int], height: int, width: int) -> None:
    """Check that maps have size / stride positions per side, rounded up or down, or fewer without padding."""
    for tap, stride in zip(taps, strides, strict=True):
        for have, given in zip(tap.shape[-2:], (height, width), strict=True):
            least = 1 if subject.lacks("padding") else max(1, given // stride - 1)
            text = f"a tap of stride {stride} has {have} positions for {given} pixels"
            _hold(least <= have <= -(-given // stride), text)


def description(subject: Subject) -> None:
    """``feature_info`` says channels, stride and module of each tap, the strides of the specification, rising."""
    net = subject.make(device="meta")
    info = net.feature_info
    strides = [tap["reduction"] for tap in info]
    _hold(strides == sorted(set(strides)), f"the strides of the taps do not rise: {strides}")
    _hold(tuple(strides) == subject.spec.tap_strides, f"feature_info has {strides}, tap_strides otherwise")
    modules = dict(net.named_modules())
    for tap in info:
        _hold(tap["module"] in modules, f"feature_info names {tap['module']!r}, and there is no such module")


def logits(subject: Subject) -> None:
    """``forward`` is ``forward_head`` of ``forward_features``, (N, num_features, h, w) -> (N, num_classes)."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        features = net.forward_features(x)
        _hold(features.ndim == 4, f"features have shape {tuple(features.shape)}, and are no maps")
        _shape(features, (2, net.num_features, *features.shape[-2:]), "forward_features")
        positions = features.shape[-2:] if subject.spec.dense else ()
        _shape(net(x), (2, subject.num_classes, *positions), "forward")
        _shape(net.forward_head(features, pre_logits=True), (2, net.head_hidden_size, *positions), "forward_head (pre)")
        _same(net(x), net.forward_head(features), "forward is not forward_head of forward_features")


def taps(subject: Subject) -> None:
    """Each tap is the output of its module, with the channels and the size that ``feature_info`` says."""
    net, x = subject.settled(), subject.images()
    seen: dict[str, Tensor] = {}
    for tap in net.feature_info:
        module = net.get_submodule(tap["module"])
        module.register_forward_hook(lambda _, __, out, name=tap["module"]: seen.update({name: out}))
    with torch.no_grad():
        final, maps = net.forward_intermediates(x)
        _hold(len(maps) == len(net.feature_info), f"{len(maps)} maps, {len(net.feature_info)} in feature_info")
        for tap, have in zip(net.feature_info, maps, strict=True):
            _hold(seen.get(tap["module"]) is have, f"the output of {tap['module']} is not the map that is returned")
            _hold(have.shape[1] == tap["num_chs"], f"{tap['module']}: {have.shape[1]} channels, not {tap['num_chs']}")
        _sizes(subject, maps, [tap["reduction"] for tap in net.feature_info], *subject.input_size[1:])
        _same(final, net.forward_features(x), "forward_intermediates and forward_features differ")


def choice_of_taps(subject: Subject) -> None:
    """Any taps in any order, by numbers, negative ones or how many, also stopped early; ``norm`` closes the last."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        maps = net.forward_intermediates(x, intermediates_only=True)
        before = [tap.clone() for tap in maps]
        if net.head_tap >= 0:  # else the trunk has run beyond its taps already
            net.forward_head(net.final(maps[net.head_tap]))
        _hold(all(map(torch.equal, before, maps)), "a layer behind a tap writes into it")
        final, maps = net.forward_intermediates(x)
        last = len(maps) - 1
        for i in range(last + 1):
            [early] = net.forward_intermediates(x, indices=[i], stop_early=True, intermediates_only=True)
            _same(early, maps[i], f"tap {i} differs when the net stops there")
        for indices, want in (([last, 0], [last, 0]), (2, [last - 1, last]), ([-1], [last])):
            have = net.forward_intermediates(x, indices=indices, intermediates_only=True)
            _hold(len(have) == len(want), f"indices={indices} give {len(have)} maps")
            for tap, i in zip(have, want, strict=True):
                _same(tap, maps[i], f"indices={indices} do not give tap {i} at its place")
        normed = net.forward_intermediates(x, norm=True, intermediates_only=True)
        for i, tap in enumerate(normed):
            _same(tap, final if i == net.head_tap else maps[i], f"norm=True: tap {i}")
            chs = net.feature_info[i].get("num_chs_norm", maps[i].shape[1])
            _hold(tap.shape[1] == chs, f"norm=True: tap {i} has {tap.shape[1]} channels, not {chs}")
    _refuses(lambda: net.forward_intermediates(x, output_fmt="NHWC"), "output_fmt (NHWC)")


def pruning(subject: Subject) -> None:
    """``prune_intermediate_layers`` keeps the taps, and leaves no parameter that they do not need."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        maps = net.forward_intermediates(x, intermediates_only=True)
        whole = copy.deepcopy(net)
        whole.prune_intermediate_layers([-1], prune_head=False)
        _same(whole(x), net(x), "pruned to its last tap without its head, the net has other logits")
    for i, tap in enumerate(maps):
        cut = copy.deepcopy(net)
        _hold(cut.prune_intermediate_layers([i], prune_norm=True) == [i], f"cut to tap {i}, it returns other taps")
        with torch.no_grad():
            _same(cut.forward_features(x), tap, f"cut to tap {i}, the features are not the tap")
        fewer = sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in net.parameters())
        _hold(fewer, f"cut to tap {i}, the net has as many parameters")
        _hold(cut.num_features == cut.head_hidden_size == tap.shape[1], f"cut to tap {i}, num_features is wrong")
        cut.reset_classifier(7, "avg")
        cut.train()(x).sum().backward()
        left = [name for name, p in cut.named_parameters() if p.grad is None]
        _hold(not left, f"cut to tap {i}, {left and left[0]} is of no use and is left")
        torch.jit.script(cut.eval())


def input_channels(subject: Subject) -> None:
    """``in_chans`` is any number of channels."""
    for chans in (1, 4):
        net = subject.settled(in_chans=chans)
        _hold(net.in_chans == chans, f"in_chans={chans} makes a net with in_chans {net.in_chans}")
        with torch.no_grad():
            _shape(net(subject.images(chans=chans))[:, :1].flatten(1)[:, :1], (2, 1), f"in_chans={chans}")


def image_sizes(subject: Subject) -> None:
    """Sizes that the stride does not divide work; an image that is too small is a ValueError with the smallest size."""
    net = subject.settled()
    strides = [tap["reduction"] for tap in net.feature_info]
    _, side, _ = subject.input_size
    with torch.no_grad():
        for height, width in ((side + 1, side + 3), (side - 3, side + 5), (side + 17, side - 1)):
            x = subject.images(height=height, width=width)
            _sizes(subject, net.forward_intermediates(x, intermediates_only=True), strides, height, width)
        least = net.smallest[-1]
        net(subject.images(height=least, width=least))
        if least > 1:
            small = subject.images(height=least - 1, width=side)
            _refuses(lambda: net(small), "input size", f"at least {least}x{least}")


def classifier(subject: Subject) -> None:
    """``reset_classifier`` takes any number of classes and any pooling; none at all leaves features, or their maps."""
    net, x = subject.settled(num_classes=7), subject.images()
    with torch.no_grad():
        features = net.forward_features(x)
        for pool in POOLS:
            net.reset_classifier(5, pool)
            _shape(net(x), (2, 5), f"with pooling {pool!r} forward")
            _shape(net.forward_head(features, pre_logits=True), (2, net.head_hidden_size), f"{pool!r} pre_logits")
            width = (net.num_features if net.wide is None else net.wide.out_chs) * (2 if "cat" in pool else 1)
            _hold(net.head_hidden_size == width, f"with pooling {pool!r} head_hidden_size is {net.head_hidden_size}")
        net.reset_classifier(0)
        _shape(net(x), (2, 2 * net.num_features), "without classes, the pooling left as it was, forward")
        net.reset_classifier(0, "avg")
        _same(net(x), features.mean((2, 3)), "without classes the output is not the mean of the features")
        net.reset_classifier(0, "")
        _same(net(x), features, "without classes and pooling the output is not the features")
        net.reset_classifier(3)
        _shape(net(x), (2, 3, *features.shape[-2:]), "without pooling forward")
        _hold(isinstance(net.get_classifier(), nn.Conv2d), "without pooling the classifier is no convolution")
        _shape(subject.settled(num_classes=0, global_pool="")(x), features.shape, "made without classes, forward")
    _refuses(lambda: net.reset_classifier(-1), "num_classes (-1)")


def output_stride(subject: Subject) -> None:
    """``output_stride`` caps every stride and keeps the state dict; a wrong one is a ValueError."""
    native = {name: value.shape for name, value in subject.make(device="meta").state_dict().items()}
    options = subject.spec.output_strides
    _hold(options[-1] == subject.spec.tap_strides[-1], f"the last of output_strides {options} is not the native one")
    x = subject.images(batch=1).to("meta")
    for stride in options:
        net = subject.make(output_stride=stride, device="meta").eval()
        held = {name: value.shape for name, value in net.state_dict().items()}
        _hold(held == native, f"output_stride={stride} changes the state dict")
        strides = [tap["reduction"] for tap in net.feature_info]
        want = [min(native, stride) for native in subject.spec.tap_strides]
        _hold(strides == want, f"output_stride={stride} has taps at {strides}, not {want}")
        _sizes(subject, net.forward_intermediates(x, intermediates_only=True), strides, *subject.input_size[1:])
    reason = subject.spec.lacks.get("output_stride", "must be one of")
    _refuses(lambda: subject.make(output_stride=3, device="meta"), "output_stride (3)", reason)


def gradients(subject: Subject) -> None:
    """Every parameter gets a gradient."""
    net = subject.settled().train()
    net(subject.images()).square().sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    _hold(not dead, f"{dead and dead[0]} gets no gradient")


def independent_images(subject: Subject) -> None:
    """In evaluation mode an image's output does not depend on the others of its batch."""
    net, x = subject.settled().double(), subject.images(batch=3).double()
    with torch.no_grad():
        _same(net(x)[1:2], net(x[1:2]), "an image alone has another output than in a batch")


def checkpointing(subject: Subject) -> None:
    """``set_grad_checkpointing`` stores less and changes neither outputs nor gradients."""
    x, stored = subject.images(), 0

    def pack(value: Tensor) -> Tensor:
        nonlocal stored
        stored += value.numel()
        return value

    def run(enable: bool) -> tuple[Tensor, dict[str, Tensor], int]:
        nonlocal stored
        stored, net = 0, subject.settled().train()
        net.set_grad_checkpointing(*([] if enable else [False]))  # on is the default
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            out = net(x)
        out.square().mean().backward()
        return out.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}, stored

    out, grads, plain = run(enable=False)
    again, recomputed, less = run(enable=True)
    _same(again, out, "outputs change")
    for name, grad in grads.items():
        _same(recomputed[name], grad, f"the gradient of {name} changes", rtol=1e-3, atol=1e-4)
    _hold(less < 0.6 * plain, f"{less / plain:.0%} of the numbers are stored all the same")


def drop_rates(subject: Subject) -> None:
    """``drop_rate`` and ``drop_path_rate`` act in training alone; the latter rises with depth."""
    x = subject.images()
    with torch.no_grad():
        want = subject.settled()(x)
        for argument in ("drop_rate", "drop_path_rate"):
            if subject.lacks(argument):
                continue
            net = subject.settled(**{argument: 0.5})
            _same(net(x), want, f"{argument} acts in evaluation")
            net.train()
            _hold(not torch.equal(net(x), net(x)), f"{argument} does not act in training")
            _refuses(lambda argument=argument: subject.make(device="meta", **{argument: 1.0}), f"{argument} (1.0)")
    if not subject.lacks("drop_path_rate"):
        rates = [part.drop_prob for part in net.modules() if isinstance(part, DropPath | Skippable)]
        _hold(max(rates) == 0.5 and len(set(rates)) > 1, f"drop path does not rise to 0.5 with depth: {rates}")


def what_it_lacks(subject: Subject) -> None:
    """Asking for what the specification lacks is a ValueError that gives its reason."""
    asked = {"drop_path_rate": 0.1, "zero_init_last": True, "norm_layer": "groupnorm1"}
    known = {*asked, "out_indices", "output_stride", "padding"}
    for argument, reason in subject.spec.lacks.items():
        _hold(argument in known and reason, f"lacks ({argument!r}) must be one of {', '.join(sorted(known))}")
        if argument in asked:
            given = {argument: asked[argument]}
            _refuses(lambda given=given: subject.make(device="meta", **given), argument, reason)


def layer_types(subject: Subject) -> None:
    """``act_layer`` and ``norm_layer`` replace all activations and norms."""
    norm = {} if subject.lacks("norm_layer") else {"norm_layer": "groupnorm1"}
    net = subject.make(act_layer="silu", **norm)
    kinds = {type(part).__name__ for part in net.modules()}
    old = kinds & {"ReLU", "BatchNorm2d"}
    _hold(not old, f"{', '.join(sorted(old))} is left")
    _hold("SiLU" in kinds and (not norm or "GroupNorm1" in kinds), "what was asked for is not there")
    _hold(net(subject.images()).isfinite().all(), "outputs are not finite")


def meta_device(subject: Subject) -> None:
    """A net on the meta device is made without memory, and begins as a new one by ``to_empty`` and ``init_weights``."""
    net = subject.make(device="meta")
    real = [name for name, value in net.state_dict().items() if not value.is_meta]
    _hold(not real, f"{real and real[0]} is not on the meta device")
    net = net.to_empty(device="cpu")
    for value in net.state_dict().values():
        value.fill_(float("nan")) if value.is_floating_point() else value.fill_(-1)
    net.init_weights()
    left = [name for name, value in net.state_dict().items() if not value.isfinite().all() or (value == -1).all()]
    _hold(not left, f"init_weights does not set {left and left[0]}")


def layer_groups(subject: Subject) -> None:
    """``group_matcher`` puts every parameter into a group: the first convolution first, the classifier last."""
    net = subject.make(device="meta")
    fine = group_parameters(net, net.group_matcher(), reverse=True)
    coarse = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    _hold(set(fine) == {name for name, _ in net.named_parameters()}, "some parameters are in no group")
    first = next(iter(dict(net.named_parameters())))
    _hold(fine[first] == 0, f"{first} is not in the first group")
    _hold(fine["classifier.fc.weight"] == max(fine.values()), "the classifier is not the last group")
    _hold(len(set(fine.values())) > len(set(coarse.values())) > 2, "coarse groups are not fewer than fine ones")


def layouts_and_types(subject: Subject) -> None:
    """Channels-last maps stay channels last and bfloat16 stays bfloat16; neither changes what is computed."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        want = net(x)
        net.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
        _same(net(x), want, "channels last", rtol=1e-4, atol=1e-4 * max(1.0, float(want.std())))
        for i, tap in enumerate(net.forward_intermediates(x, intermediates_only=True)):
            _hold(tap.is_contiguous(memory_format=torch.channels_last), f"tap {i} is not channels last any more")
        out = net.to(torch.bfloat16)(x.to(torch.bfloat16))
    _hold(out.dtype == torch.bfloat16 and out.isfinite().all(), "bfloat16 is not kept, or not finite")
    types = {p.dtype for p in subject.make(dtype=torch.float64, device="meta").parameters()}
    _hold(types == {torch.float64}, f"dtype=torch.float64 makes parameters of {types}")


def copies(subject: Subject) -> None:
    """Copies, pickles, saved state dicts and fx graphs compute the same."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        want = net(x)
        _same(copy.deepcopy(net)(x), want, "a deep copy")
        _same(pickle.loads(pickle.dumps(net))(x), want, "a pickle")
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        fresh = subject.make().eval()
        fresh.load_state_dict(torch.load(file, weights_only=True))
        _same(fresh(x), want, "a net with the state dict")
        _same(torch.fx.symbolic_trace(net)(x), want, "an fx graph")


def torchscript(subject: Subject) -> None:
    """TorchScript compiles the net and computes the same."""
    net, x = subject.settled(), subject.images()
    with torch.no_grad():
        # A net may run fewer operators than TorchScript does; rounding is all that may differ.
        _same(torch.jit.script(net)(x), net(x), "TorchScript", rtol=1e-4, atol=1e-4)


PROMISES: dict[str, Callable[[Subject], None]] = {
    promise.__name__: promise
    for promise in (
        *(description, logits, taps, choice_of_taps, pruning, input_channels, image_sizes, classifier, output_stride),
        *(gradients, independent_images, checkpointing, drop_rates, what_it_lacks, layer_types, meta_device),
        *(layer_groups, layouts_and_types, copies, torchscript),
    )
}
"""Promises of every backbone, by name; ``PROMISES[name].__doc__`` states the promise."""
