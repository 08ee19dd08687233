"""Feature wrappers in timm's form.

timm's own wrappers return maps in the order in which a net computes them. They keep parameters that no tap needs,
checkpoint whole children or nothing, and fail with torch's messages on small images. The wrappers here keep the order
of ``out_indices``, remove unneeded parts, checkpoint units, and check image sizes.
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
    """Base of wrappers that pass gradient checkpointing on to the units inside."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute units in the backward pass instead of storing their maps; outputs stay the same."""
        for child in self.children():
            set_grad_checkpointing(child, enable)


class FeatureDict(_CheckpointsUnits, FeatureDictNet):
    """Children of a chain up to its deepest tap; returns a dictionary of maps keyed by tap number."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        take = _cut(model, out_indices)
        super().__init__(model, out_indices=take, **options)
        # In the order asked for; timm's is that of the children. transformers exchanges it for one of all taps.
        self.return_layers = {i["module"]: self.return_layers[i["module"]] for i in self.feature_info.get_dicts()}
        self.smallest = model.smallest[max(take)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute maps from images (N, C, H, W), keyed by tap number as text."""
        maps = self._collect(check_images(x, self.smallest))
        ordered: dict[str, Tensor] = {}
        for key in self.return_layers.values():
            ordered[key] = maps[key]
        return ordered


class FeatureList(FeatureDict):
    """Children of a chain up to its deepest tap; returns a list of maps."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute a list of maps from images (N, C, H, W)."""
        maps = self._collect(check_images(x, self.smallest))
        return [maps[key] for key in self.return_layers.values()]


class FeatureHook(_CheckpointsUnits, FeatureHookNet):
    """The net itself, with hooks on the modules of its taps."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        super().__init__(model, out_indices=_cut(model, out_indices), **options)


class FeatureGraph(FeatureGraphNet):
    """Traced graph of the net up to its taps."""

    def __init__(self, model: Backbone, out_indices: Any, **options: Any) -> None:
        super().__init__(model, out_indices=_cut(model, out_indices), **options)
        self.order = [str(key) for key in _get_return_layers(self.feature_info, options.get("out_map")).values()]

    def forward(self, x: Tensor) -> Any:
        """Compute maps from images (N, C, H, W), in the order of ``out_indices``, not in the order of computation."""
        maps = self.graph_module(x)
        return {key: maps[key] for key in self.order} if self.return_dict else [maps[key] for key in self.order]


class FeatureGetter(_CheckpointsUnits, FeatureGetterNet):
    """timm's wrapper around `Backbone.forward_intermediates`."""


def taps_by_list(model: Backbone, out_indices: Any, output_fmt: str = "NCHW") -> Backbone:
    """Make any net return a list of taps, as `FeatureList` does for a chain."""
    model.give_taps(out_indices)
    return model


def taps_by_name(model: Backbone, out_indices: Any, output_fmt: str = "NCHW") -> Backbone:
    """Make any net return a dictionary of taps, as `FeatureDict` does for a chain."""
    model.give_taps(out_indices, names=True)
    return model


CHAIN: Mapping[str, Any] = {
    "list": FeatureList,
    "dict": FeatureDict,
    "hook": FeatureHook,
    "fx": FeatureGraph,
    "getter": FeatureGetter,
}
"""Wrappers of chains, by timm's names."""
OTHER: Mapping[str, Any] = {**CHAIN, "list": taps_by_list, "dict": taps_by_name}
"""Wrappers of nets whose children are no chain, by timm's names."""
WORDS = {
    FeatureListNet: "list",
    FeatureDictNet: "dict",
    FeatureHookNet: "hook",
    FeatureGraphNet: "fx",
    FeatureGetterNet: "getter",
}
"""timm's wrapper classes that are replaced by ours, with their names."""


def check_features(build: Any, spec: Spec, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options that timm needs to wrap a net for its taps.

    Args:
        build: Class of the net.
        spec: Specification of the net.
        options: ``out_indices`` and ``feature_cls`` as the user gave them, and other options of timm's wrapper.
        name: Name of the net, for errors.

    Returns:
        The options with tap numbers from 0, and a class.

    Raises:
        ValueError: If a tap or the wrapper does not exist.
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
    """Return True if a value is a class that takes a net and ``out_indices``."""
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return False
    parameters = inspect.signature(value).parameters
    return "out_indices" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _cut(model: Backbone, out_indices: Any) -> tuple[int, ...]:
    """Remove the parts that the taps do not need, so that every parameter gets a gradient; return the taps."""
    return tuple(model.prune_intermediate_layers(out_indices, prune_norm=True))
