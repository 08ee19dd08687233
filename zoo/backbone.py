"""The contract that all nets share: timm's methods over a trunk of top-level children.

A net's `build` registers its trunk as direct children, in the order in which they run. ``final`` and the classifier
follow. ``final`` stands between the deepest tap and the pooling, and may be the identity. A tap is the output of a
module, whose name ``feature_info`` gives. In a chain these modules are children of the net, so that timm's list
wrapper, transformers and torchvision find them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.fx
from timm.layers import ClassifierHead, get_device_dtype
from timm.models import FeatureInfo
from torch import Tensor, nn

from zoo import arguments
from zoo.entry import Spec
from zoo.layers import Kit, LayerType, OffsetConv, ScoreHead, Scores, Stage, Wide, WideHead
from zoo.weights import Layout


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Description of the children that `Backbone.build` has registered.

    Attributes:
        taps: Module, channels and total stride of each tap, finest first. The module's output is the map.
        final: Module that runs on the trunk's last map, before the pooling.
        num_features: Channels that leave ``final``.
        head_tap: The tap at which the trunk ends: None for the deepest, -1 if the last map is no tap.
        wide: Wide layers between the features and the classifier. They are added and removed with the classifier.
        scores: Convolutions that score every position; None for one 1x1. They are part of the classifier.
    """

    taps: Sequence[tuple[str, int, int]]
    final: nn.Module
    num_features: int
    head_tap: int | None = None
    wide: Wide | None = None
    scores: Scores | None = None


class Backbone(nn.Module):
    """Base class of all nets. A family defines `build`, and `forward_trunk` if its children are no chain.

    Args:
        spec: The architecture.
        in_chans: Channels of the input.
        num_classes: Width of the classifier; 0 for none.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, their ``fast`` forms, or ``""`` for none. None takes
            the default of the specification. Without pooling the classifier is a convolution with logits at every
            position.
        output_stride: Total stride at which dilation holds the deepest map, one of ``spec.output_strides``. None for
            the native one. For a net that is no chain, the family's text explains it.
        drop_rate: Dropout before the classifier, in [0, 1).
        drop_path_rate: Drop path of the deepest unit, in [0, 1). The rate rises linearly from 0 at the first unit.
        norm_layer: Name of the norm (``zoo.layer_types.NORMS``), or a callable ``(channels) -> module``.
        act_layer: Name of the activation (``zoo.layer_types.ACTS``), a callable ``() -> module``, or a function of a
            map.
        zero_init_last: Start every residual unit as the identity.
        device: Device of the parameters.
        dtype: Type of the parameters, a floating point one.

    Attributes:
        spec: The architecture.
        in_chans: Channels of the input.
        num_classes: Width of the output; 0 without a classifier.
        num_features: Channels that `forward_features` returns.
        head_hidden_size: Input width of the last layer: that of the pooled features (doubled for ``catavgmax``), or of
            the last wide layer.
        feature_info: One dict a tap: ``num_chs``, ``reduction`` (total stride), ``module`` (name of the module whose
            output is the map).
        chain: True if each child takes the output of the child before it, and all taps are children.
        layouts: Tensor names of the family in other implementations, by a name for each (``zoo.layouts``).
        smallest: Height and width of the smallest image that reaches each tap, and last the end of the trunk.

    Raises:
        ValueError: If an argument is out of its range; the message names the argument.
    """

    # TorchScript compiles the branch that is taken, and no property.
    __constants__ = ("gives_taps", "gives_names")
    __jit_unused_properties__ = ("return_layers",)

    feature_info: list[dict[str, Any]]
    out_indices: list[int]
    kept_indices: list[int]
    chain = True
    layouts: ClassVar[Mapping[str, Layout]] = {}

    def __init__(
        self,
        spec: Spec,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        output_stride: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: LayerType = "batchnorm2d",
        act_layer: LayerType = "relu",
        zero_init_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_chans = arguments.whole("in_chans", in_chans, least=1)
        num_classes = arguments.whole("num_classes", num_classes, least=0)
        if global_pool is None:
            global_pool = "" if spec.dense else "avg"
        global_pool = arguments.pooling("global_pool", global_pool)
        drop_rate = arguments.share("drop_rate", drop_rate)
        drop_path_rate = arguments.share("drop_path_rate", drop_path_rate)
        norm_layer = arguments.norm("norm_layer", norm_layer)
        act_layer = arguments.act("act_layer", act_layer)
        zero_init_last = arguments.flag("zero_init_last", zero_init_last)
        device = arguments.device("device", device)
        dtype = arguments.dtype("dtype", dtype)
        output_stride = _check_stride(spec, output_stride)
        for name, value, default in (
            ("drop_path_rate", drop_path_rate, 0.0),
            ("zero_init_last", zero_init_last, False),
            ("norm_layer", norm_layer, "batchnorm2d"),
        ):
            if name in spec.lacks and value != default:
                raise ValueError(f"{name} ({value!r}) must stay {default!r} for this net: {spec.lacks[name]}")
        self.spec = spec
        self.in_chans = in_chans
        self.num_classes = num_classes
        kit = Kit(norm_layer=norm_layer, act_layer=act_layer, device=device, dtype=dtype)
        trunk = self.build(spec, kit, in_chans=in_chans, output_stride=output_stride, drop_path_rate=drop_path_rate)
        self.final = trunk.final
        self.num_features = trunk.num_features
        self.wide = None if trunk.wide is None else WideHead(kit, trunk.num_features, trunk.wide, drop_rate)
        if trunk.scores is None:
            self.classifier = ClassifierHead(trunk.num_features, 0, global_pool, drop_rate)
        else:
            self.classifier = ScoreHead(kit, trunk.num_features, trunk.scores, drop_rate)
        self._reset_classifier(num_classes, global_pool, device=device, dtype=dtype)
        self.feature_info = [dict(num_chs=chs, reduction=stride, module=name) for name, chs, stride in trunk.taps]
        self.tap_names = [name.partition(".")[0] for name, _, _ in trunk.taps]
        self.last_tap = len(trunk.taps) - 1
        self.smallest = list(spec.smallest(output_stride))
        self.head_tap = self.last_tap if trunk.head_tap is None else trunk.head_tap
        if self.head_tap >= 0:
            self.feature_info[self.head_tap]["num_chs_norm"] = trunk.num_features
        self.gives_taps = self.gives_names = False
        self.out_indices = self.kept_indices = []
        # On the meta device there is nothing to draw, and torch takes its time for it.
        if not any(p.is_meta for p in self.parameters()):
            self.init_weights(zero_init_last=zero_init_last)

    @torch.jit.ignore
    def build(self, spec: Any, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float) -> Trunk:
        """Register the trunk's children in the order in which they run, and describe them.

        Args:
            spec: The architecture, checked.
            kit: The shared layer types.
            in_chans: Channels of the input.
            output_stride: One of ``spec.output_strides``, or None.
            drop_path_rate: Drop path rate of the deepest unit.
        """
        raise NotImplementedError

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = False) -> None:
        """Draw all weights anew: He normal with fan-out for convolutions, torch's defaults for the rest.

        The scheme of He et al. 2015 (arXiv:1502.01852), which the residual, FishNet and fabric papers use.
        """
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            if isinstance(module, nn.Conv2d) and not isinstance(module, OffsetConv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last:
            for module in self.modules():
                start_as_identity = getattr(module, "zero_init_last", None)
                if callable(start_as_identity):
                    start_as_identity()

    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """Run the trunk up to a tap. Nets that are no chain of children override this.

        Args:
            x: Images, (N, in_chans, H, W).
            keep: Taps to return, ascending.
            stop: The last tap to compute.

        Returns:
            The input of ``final``, or the map of tap ``stop`` if the trunk does not run to its end; and the maps of the
            taps in ``keep``.
        """
        taps: list[Tensor] = []
        tap = -1
        for name, child in self.named_children():
            if tap < stop:
                x = child(x)
                if name in self.tap_names:
                    tap += 1
                    if tap in keep:
                        taps.append(x)
        return x, taps

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the unpooled features: images (N, in_chans, H, W) -> (N, num_features, h, w)."""
        keep: list[int] = []
        x, _ = self.forward_trunk(check_images(x, self.smallest[-1]), keep, self.last_tap)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits (N, num_classes) from features; with ``pre_logits`` return the last layer's input instead.

        That input is (N, head_hidden_size). Without pooling both are maps of the features' size.
        """
        if self.wide is not None:
            x = self.wide(x)
        return self.classifier(x, pre_logits=pre_logits)

    def forward(self, x: Tensor):  # noqa: ANN201 - TorchScript takes the type of the branch that is taken
        """Compute logits (N, num_classes) from images (N, in_chans, H, W), or the taps after `give_taps`."""
        if self.gives_names:
            return self.forward_named_taps(x)
        if self.gives_taps:
            return self.forward_taps(x)
        return self.forward_head(self.forward_features(x))

    def forward_taps(self, x: Tensor) -> list[Tensor]:
        """Compute the taps in ``out_indices``, in that order, from images (N, in_chans, H, W)."""
        _, taps = self.forward_trunk(check_images(x, self.smallest[-1]), self.kept_indices, self.kept_indices[-1])
        return [taps[self.kept_indices.index(i)] for i in self.out_indices]

    def forward_named_taps(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the taps in ``out_indices`` from images (N, in_chans, H, W), keyed by tap number as text."""
        named: dict[str, Tensor] = {}
        for i, tap in zip(self.out_indices, self.forward_taps(x)):  # noqa: B905 - TorchScript knows no strict
            named[str(i)] = tap
        return named

    @torch.jit.ignore
    def give_taps(self, indices: int | list[int] | None = None, *, names: bool = False) -> None:
        """Make `forward` return taps. This is ``features_only=True`` for nets whose children are no chain.

        Parts that the taps do not need are removed. The names of the parameters stay the same.

        Args:
            indices: Taps, as in `forward_intermediates`.
            names: Return a dictionary keyed by tap number instead of a list.
        """
        take = self.prune_intermediate_layers(self.last_tap + 1 if indices is None else indices, prune_norm=True)
        self.gives_taps, self.gives_names = True, names
        net: Any = self
        net.feature_info = FeatureInfo(self.feature_info, take)
        self._take(take)

    def _take(self, indices: list[int]) -> None:
        self.out_indices, self.kept_indices = indices, sorted(set(indices))

    @property
    def return_layers(self) -> dict[str, str]:
        """Module and number of each tap that `forward` returns after `give_taps`. Can be set, as in timm's wrappers."""
        return {self.feature_info[i]["module"]: str(i) for i in self.out_indices}

    @return_layers.setter
    def return_layers(self, layers: Mapping[str, str]) -> None:
        self._take([i for i, tap in enumerate(self.feature_info) if tap["module"] in layers])

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute features at several strides.

        Args:
            x: Images, (N, in_chans, H, W).
            indices: Taps to return, in this order; a number n above 0 means the last n; None means all.
            norm: Apply ``final`` to the tap at which the trunk ends, usually the deepest (``num_chs_norm`` channels).
                The other taps have no norm of their own.
            stop_early: Do not compute beyond the deepest requested tap.
            output_fmt: Only ``"NCHW"``.
            intermediates_only: Return only the taps.

        Returns:
            The final features and the taps. With ``stop_early`` the features are those of the last tap that was
            reached.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt ({output_fmt}) must be NCHW")
        take = take_taps(self.last_tap + 1, indices)
        keep = sorted(take)
        stop = self.last_tap
        least = self.smallest[-1]
        if stop_early and keep[-1] < stop:
            stop = keep[-1]
            least = self.smallest[stop]
        x, taps = self.forward_trunk(check_images(x, least), keep, stop)
        if stop == self.last_tap and (norm or not intermediates_only):
            x = self.final(x)
            if norm and self.head_tap in keep:
                taps[keep.index(self.head_tap)] = x
        ordered = [taps[keep.index(i)] for i in take]
        if intermediates_only:
            return ordered
        return x, ordered

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the parts that some taps do not need; `forward_features` then ends at the deepest of these taps.

        Args:
            indices: Taps to keep, as in `forward_intermediates`.
            prune_norm: Also remove the layers after the deepest tap of the whole net.
            prune_head: Also remove the classifier. It is removed in any case if the trunk is cut.

        Returns:
            The taps as positive numbers.
        """
        take = list(arguments.tap_indices("indices", indices, self.last_tap + 1))
        deepest = max(take)
        # A head that does not read the last tap needs more than the taps do.
        cut = deepest < self.last_tap or (prune_head and self.head_tap != self.last_tap)
        if cut:
            behind = False
            for name, _ in list(self.named_children()):
                if behind and name not in ("final", "wide", "classifier"):
                    # None, not a deletion: TorchScript drops a branch on "self.child is None" when it compiles.
                    setattr(self, name, None)
                behind = behind or name == self.tap_names[deepest]
            self.tap_names = self.tap_names[: deepest + 1]
            self.smallest = self.smallest[: deepest + 1]
            self.feature_info = self.feature_info[: deepest + 1]
            self.last_tap = self.head_tap = deepest
            self.wide = None
        self.prune_trunk(take)
        if cut or prune_norm:
            self.final = nn.Identity()
            if self.head_tap >= 0:
                self.num_features = self.feature_info[self.head_tap]["num_chs"]
                self.feature_info[self.head_tap]["num_chs_norm"] = self.num_features
        if cut or prune_head:
            self.reset_classifier(0, "")
        elif prune_norm:
            self.reset_classifier(self.num_classes)
        return take

    @torch.jit.ignore
    def prune_trunk(self, take: list[int]) -> None:
        """Remove parts that neither the taps in ``take`` nor the end of the trunk need. A chain has no such parts."""

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the last layer: a linear map (a convolution without pooling), or the identity without classes."""
        return self.classifier.fc

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: Width of the new classifier. 0 for none; `forward` then returns (N, head_hidden_size).
            global_pool: New pooling; None keeps the current one. Without pooling (``""``), `forward` returns maps of
                shape (N, num_classes or num_features, h, w).
        """
        num_classes = arguments.whole("num_classes", num_classes, least=0)
        if global_pool is None:
            global_pool = self.classifier.global_pool.pool_type
        global_pool = arguments.pooling("global_pool", global_pool)
        self.num_classes = num_classes
        self._reset_classifier(num_classes, global_pool, **get_device_dtype(self))

    def _reset_classifier(self, num_classes: int, global_pool: str, **place: Any) -> None:
        self.classifier.use_conv = not global_pool
        in_features = self._reset_wide(num_classes, global_pool, **place)
        self.classifier.reset(num_classes, global_pool, in_features=in_features, **place)
        self.head_hidden_size = self.classifier.num_features

    def _reset_wide(self, num_classes: int, global_pool: str, **place: Any) -> int:
        """Add or remove the wide layers with the classifier; return the classifier's input width."""
        if self.wide is None:
            return self.num_features
        self.wide.reset(num_classes > 0, **place)
        self.wide.same = not global_pool
        return self.wide.out_chs

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute units in the backward pass instead of storing their maps; outputs stay the same."""
        set_grad_checkpointing(self, enable)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return layer groups in order of depth, for layer-wise learning rates. The classifier is the last group.

        Args:
            coarse: One group per child instead of one per unit or wide layer.
        """
        groups = {}
        for name, child in self.named_children():
            if isinstance(child, WideHead):
                groups[name] = rf"^{name}\." if coarse else rf"^{name}\.layers\.conv(\d+)\."
            elif name != "classifier":
                groups[name] = rf"^{name}\." if coarse or not isinstance(child, Stage) else rf"^{name}\.(\d+)\."
        return groups


def set_grad_checkpointing(module: nn.Module, enable: bool) -> None:
    """Set whether units that support it recompute their maps in the backward pass, or store them."""
    for part in module.modules():
        if hasattr(part, "grad_checkpointing"):
            part.grad_checkpointing = enable  # ty: ignore[invalid-assignment]


def _check_stride(spec: Spec, output_stride: Any) -> int | None:
    if output_stride is None:
        return None
    if not arguments.is_whole(output_stride) or output_stride not in spec.output_strides:
        valid = ", ".join(map(str, spec.output_strides))
        reason = spec.lacks.get("output_stride", "these are the strides that dilation can hold its deepest map at")
        raise ValueError(f"output_stride ({output_stride!r}) must be one of {valid} for this net: {reason}")
    return int(output_stride)


def check_images(x: Tensor, least: int) -> Tensor:
    """Return the images, or raise ValueError if their height or width is below ``least``."""
    return _check_images(x, least)


@torch.fx.wrap
def _check_images(x: Tensor, least: int) -> Tensor:
    # Not while tracing or compiling: sizes are symbols there, and a comparison would pin them.
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            height, width = x.shape[-2:]
            if min(height, width) < least:
                raise ValueError(f"input size ({height}x{width}) must be at least {least}x{least} for this net")
    return x


def take_taps(taps: int, indices: int | list[int] | None) -> list[int]:
    """Return tap numbers from 0 for ``indices`` of `Backbone.forward_intermediates`; see `arguments.tap_indices`."""
    if not torch.jit.is_scripting():
        return _take_in_python(taps, indices)
    # TorchScript knows neither Python's numbers nor iterables.
    take: list[int] = []
    if indices is None:
        take = list(range(taps))
    elif isinstance(indices, int):
        take = list(range(taps - indices, taps))
    else:
        for i in indices:
            take.append(i + taps if i < 0 else i)
    return take


@torch.jit.ignore
def _take_in_python(taps: int, indices: int | list[int] | None) -> list[int]:
    return list(range(taps)) if indices is None else list(arguments.tap_indices("indices", indices, taps))


def drop_path_rates(rate: float, units: int) -> list[float]:
    """Return one drop path rate per unit, rising linearly from 0 to ``rate`` (Huang et al. 2016, arXiv:1603.09382)."""
    return [rate * i / max(units - 1, 1) for i in range(units)]
