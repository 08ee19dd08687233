"""Feature taps as timm hands them out.

timm's wrappers return maps in the order in which a net computes them, keep parameters that no tap needs, checkpoint
whole children or nothing, and fail in torch's words on small images. These keep the order of ``out_indices``, remove
what is not needed, checkpoint units, and check sizes.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from timm.models._features import FeatureGetterNet, _get_return_layers
from torch import Tensor, nn

from zoo import arguments
from zoo.backbone import Backbone, check_images, set_grad_checkpointing
from zoo.entry import Spec


class _CheckpointsUnits(nn.Module):
    """A wrapper that passes checkpointing on to the units in it."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute units in the backward pass instead of storing their maps; outputs do not change."""
        for child in self.children():
            set_grad_checkpointing(child, enable)


class FeatureDict(_CheckpointsUnits, FeatureDictNet):
    """Children of a chain up to its deepest tap; returns maps by number of the tap."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        take = _cut(model, out_indices)
        super().__init__(model, out_indices=take, **options)
        # In the order asked for; timm's is that of the children. transformers exchanges it for one of all taps.
        self.return_layers = {i["module"]: self.return_layers[i["module"]] for i in self.feature_info.get_dicts()}
        self.smallest = model.smallest[max(take)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) -> maps by the number of their tap, as text."""
        maps = self._collect(check_images(x, self.smallest))
        ordered: dict[str, Tensor] = {}
        for key in self.return_layers.values():
            ordered[key] = maps[key]
        return ordered


class FeatureList(FeatureDict):
    """The same as a list of maps."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, C, H, W) -> maps."""
        maps = self._collect(check_images(x, self.smallest))
        return [maps[key] for key in self.return_layers.values()]


class FeatureHook(_CheckpointsUnits, FeatureHookNet):
    """The net itself, with hooks on the modules that its taps are named after."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        super().__init__(model, out_indices=_cut(model, out_indices), **options)


class FeatureGraph(FeatureGraphNet):
    """A traced graph of the net up to its taps."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        super().__init__(model, out_indices=_cut(model, out_indices), **options)
        self.order = [str(key) for key in _get_return_layers(self.feature_info, options.get("out_map")).values()]

    def forward(self, x: Tensor) -> Any:
        """Images (N, C, H, W) -> maps; a graph has them in the order in which it computes them."""
        maps = self.graph_module(x)
        return {key: maps[key] for key in self.order} if self.return_dict else [maps[key] for key in self.order]


class FeatureGetter(_CheckpointsUnits, FeatureGetterNet):
    """timm's wrapper around `Backbone.forward_intermediates`."""


def taps_by_list(model: Backbone, out_indices: Any, output_fmt: str = "NCHW") -> Backbone:
    """What `FeatureList` is for a chain, for any net."""
    model.give_taps(out_indices)
    return model


def taps_by_name(model: Backbone, out_indices: Any, output_fmt: str = "NCHW") -> Backbone:
    """What `FeatureDict` is for a chain, for any net."""
    model.give_taps(out_indices, names=True)
    return model


CHAIN: Mapping[str, Any] = {
    "list": FeatureList,
    "dict": FeatureDict,
    "hook": FeatureHook,
    "fx": FeatureGraph,
    "getter": FeatureGetter,
}
"""Wrappers by timm's words for them."""
OTHER: Mapping[str, Any] = {**CHAIN, "list": taps_by_list, "dict": taps_by_name}
"""The same for nets whose children are no chain."""
WORDS = {
    FeatureListNet: "list",
    FeatureDictNet: "dict",
    FeatureHookNet: "hook",
    FeatureGraphNet: "fx",
    FeatureGetterNet: "getter",
}
"""timm's own classes, in whose place ours are taken."""


def check_features(build: Any, spec: Spec, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What timm needs to wrap a net for its taps.

    Args:
        build: Class of the net.
        spec: Of the net.
        options: ``out_indices`` and ``feature_cls`` as users give them, and whatever timm's wrapper takes besides.
        name: Of the net, for errors.

    Returns:
        The options with taps as numbers from 0, and a class.

    Raises:
        ValueError: If there is no such tap, or no such wrapper.
    """
    strides = spec.tap_strides
    remark = f": {name} has {len(strides)} taps, stride {', '.join(map(str, strides))}"
    reason = spec.lacks.get("out_indices", "")
    taps = options.get("out_indices")
    taps = len(strides) if taps is None else taps
    take = arguments.tap_indices("out_indices", taps, len(strides), remark + (f" ({reason})" if reason else ""))
    wrapper = options.get("feature_cls", "list")
    wrapper = WORDS.get(wrapper, wrapper) if isinstance(wrapper, type) else wrapper
    if not _is_wrapper(wrapper):
        word = wrapper.lower() if isinstance(wrapper, str) else wrapper
        wrappers = CHAIN if getattr(build, "chain", True) else OTHER
        wrapper = wrappers[arguments.one_of("feature_cls", word, CHAIN, ", or a class of wrappers")]
    return {**options, "out_indices": take, "feature_cls": wrapper}


def _is_wrapper(value: Any) -> bool:
    """Whether a value is a class that takes a net and ``out_indices``."""
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return False
    parameters = inspect.signature(value).parameters
    return "out_indices" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _cut(model: Backbone, out_indices: Any) -> tuple[int, ...]:
    """Remove what the taps do not need, so that every parameter gets a gradient; returns the taps."""
    return tuple(model.prune_intermediate_layers(out_indices, prune_norm=True))
