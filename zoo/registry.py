"""From table rows to timm registrations: the only module that touches timm's registry.

The families are found by walking `zoo.models`; each row of a ``MODELS`` table becomes a timm entrypoint in the module
bucket ``zoo``. A row keeps its name where timm has none of that name, and becomes ``zoo_<name>`` where timm owns it.
Trained weights are timm tags (``fishnet150.osmr_in1k``); they are read and checked by `zoo.weights` instead of by timm,
so that a bad file is one clear error and leaves no half-loaded net behind.
"""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import timm
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    is_model,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

import zoo.models
from zoo.backbone import feature_wrapper
from zoo.entry import Entry
from zoo.weights import Weights, loading
from zoo.weights.fit import CLASSIFIER, FIRST_CONV
from zoo.weights.loading import keep_whole, load_pretrained
from zoo.weights.tags import published_models, published_tags, timm_tags

BUCKET = "zoo"
"""Where our entrypoints are at home: this package, and so the name of timm's module bucket."""

_ENTRIES: dict[str, Entry] = {}


def create_model(name: str, pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Create a model by name.

    Args:
        name: One of ours, with or without ``zoo_``; any name of timm's; ``timm:<name>`` for timm's own where both have
            it; or a source of timm's (``hf-hub:...``, ``local-dir:...``).
        pretrained: Load weights: those of the tag in the name (``fishnet150.osmr_in1k``), of the first tag, or of
            ``pretrained_cfg_overlay=dict(url=...)`` or ``dict(file=...)``, in any layout that the family knows.
        **overrides: Fields of the specification (``body_blocks=(2, 2, 2)``), arguments of the net
            (``num_classes=10, in_chans=1, output_stride=8, drop_path_rate=0.1``), or timm's own
            (``features_only=True, out_indices=(1, 2, 3)``). None means the default.

    Returns:
        The net, or timm's feature wrapper around it with ``features_only=True``.

    Raises:
        ValueError: If the name is unknown, or weights are asked for that do not exist or do not fit.
        OSError: If weights cannot be fetched.
        TypeError: If an override is neither a field of the specification nor an argument of the net.
    """
    if name.startswith("timm:"):
        return timm.create_model(_name_of_timm(name.removeprefix("timm:")), pretrained=pretrained, **overrides)
    if ":" in name:
        return timm.create_model(name, pretrained=pretrained, **overrides)
    base, _, tag = name.partition(".")
    if _find(base) is None and is_model(base):
        return timm.create_model(_name_of_timm(name), pretrained=pretrained, **overrides)
    entry = model_entry(base)
    if tag and tag not in entry.weights:
        have = f"only {', '.join(entry.weights)}" if entry.weights else "no registered weights"
        raise ValueError(
            f"name ({name}): {base} has {have}" + (f"; timm:{name} is timm's own net" if is_model(base) else "")
        )
    return timm.create_model(".".join([entry.timm_name, *([tag] if tag else [])]), pretrained=pretrained, **overrides)


def list_models(filter: str = "", *, family: str | None = None) -> list[str]:
    """Names of our models, in natural order.

    Args:
        filter: A shell-style pattern (``*cifar``), or a part of the name.
        family: Only this family (a file of `zoo.models`).

    Raises:
        ValueError: If the family is unknown.
    """
    if family is not None and family not in families():
        raise ValueError(f"family ({family!r}) must be one of {', '.join(families())}")
    pattern = filter if any(c in filter for c in "*?[") else f"*{filter}*"
    names = [
        name
        for name, entry in _ENTRIES.items()
        if fnmatch.fnmatchcase(name, pattern) and family in (None, entry.family)
    ]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def families() -> list[str]:
    """Names of the families."""
    return sorted({entry.family for entry in _ENTRIES.values()})


def model_entry(name: str) -> Entry:
    """The row of a model of ours, by its name here or in timm.

    Raises:
        ValueError: If there is none; the message offers close matches.
    """
    entry = _find(name)
    if entry is None:
        if is_model(name.removeprefix("timm:")):
            raise ValueError(f"name ({name!r}) is a model of timm, not of the zoo: it has no row here")
        raise ValueError(f"name ({name!r}) is not a model of the zoo: {_close(name, {*_ENTRIES, *timm.list_models()})}")
    return entry


def preprocessing_params(name: str) -> dict[str, Any]:
    """What the published net expects of its images, in the form of segmentation_models_pytorch.

    smp's own ``get_preprocessing_params`` answers only for names that have registered weights.

    Args:
        name: Of a model of ours, here or in timm, with a tag of weights or without: then that of its first weights, if
            it has any. ``tu-`` in front does no harm.

    Returns:
        ``input_space`` (``"RGB"``), ``input_range`` (before the mean is taken off), ``mean`` and ``std``.

    Raises:
        ValueError: If there is no such model, or no such tag.
    """
    base, _, tag = name.removeprefix("tu-").partition(".")
    entry = model_entry(base)
    if tag and tag not in entry.weights:
        raise ValueError(
            f"name ({name}): {entry.name} has no weights {tag!r}, only {', '.join(entry.weights) or 'none'}"
        )
    cfg = resolve_pretrained_cfg(f"{entry.timm_name}.{tag}" if tag else entry.timm_name)
    return {"input_space": "RGB", "input_range": [0, 1], "mean": list(cfg.mean), "std": list(cfg.std)}


def _name_of_timm(name: str) -> str:
    """Return a name of timm's own registry, perhaps with a tag.

    Raises:
        ValueError: If timm has no such net, or the net no such tag.
    """
    base, _, tag = name.partition(".")
    if not is_model(base):
        raise ValueError(f"name ('timm:{name}') is not a model of timm: {_close(base, timm.list_models())}")
    if tag and name not in (tags := get_arch_pretrained_cfgs(base)):
        raise ValueError(f"name ('timm:{name}'): timm's {base} has no weights {tag!r}: {_close(name, tags)}")
    return name


def _close(name: str, known: Iterable[str]) -> str:
    """Return what a wrong name may have meant, as the end of a message."""
    close = difflib.get_close_matches(name, sorted(known), n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else "zoo.list_models() and timm.list_models() show all"


def _find(name: str) -> Entry | None:
    # A name of ours with the prefix added is the name in timm's registry, whether or not timm needs the prefix.
    return _ENTRIES.get(name) or _ENTRIES.get(name.removeprefix("zoo_"))


def _construct(entry: Entry, **kwargs: Any) -> nn.Module:
    """Build the net, sorting what was overridden into specification and task."""
    fields = entry.spec.field_names()
    task = tuple(name for name in inspect.signature(entry.build).parameters if name != "spec")
    for key in kwargs:
        if key not in fields and key not in task:
            close = difflib.get_close_matches(key, [*fields, *task], n=3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise TypeError(
                f"{entry.name} has no argument {key!r} (given {kwargs[key]!r}): {hint}"
                f"Fields of the specification: {', '.join(fields)}. Arguments of the net: {', '.join(task)}."
            )
    spec = entry.spec.replace(**{key: kwargs.pop(key) for key in fields if key in kwargs})
    return entry.build(spec, **kwargs)


def _entrypoint(entry: Entry) -> Callable[..., nn.Module]:
    """A function as timm wants it: named after the model, at home in the bucket's module."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        spec = entry.spec
        taps: dict[str, Any] = {"out_indices": tuple(range(len(spec.tap_strides))), "feature_cls": "list"}
        taps |= kwargs.pop("feature_cfg", None) or {}
        _check_taps(entry, kwargs.get("out_indices", taps["out_indices"]))
        for options in (kwargs, taps):
            if "feature_cls" in options:
                options["feature_cls"] = feature_wrapper(
                    options["feature_cls"], chain=getattr(entry.build, "chain", True)
                )
        source = {key: kwargs.pop(key, None) for key in ("pretrained_cfg", "pretrained_cfg_overlay")}
        cfg: Any = resolve_pretrained_cfg(entry.timm_name, **source)
        cache_dir = kwargs.pop("cache_dir", None)

        made: list[Any] = []

        def construct(**task: Any) -> nn.Module:
            net = _construct(entry, **task)
            made[:] = type(net), net.spec
            if pretrained:
                load_pretrained(net, entry, cfg, cache_dir)
            return net

        # timm wraps the net for features after this; the weights must be in it by then.
        model = build_model_with_cfg(
            construct,
            entry.timm_name,
            pretrained=False,
            pretrained_cfg=replace(cfg, state_dict=None),
            feature_cfg=taps,
            **kwargs,
        )
        if kwargs.get("features_only"):
            keep_whole(model, *made)
        return model

    create.__name__ = create.__qualname__ = entry.timm_name
    create.__module__ = BUCKET
    create.__doc__ = f"{entry.name} ({entry.paper})."
    return create


def _check_taps(entry: Entry, out_indices: Any) -> None:
    """Raise ValueError for a tap that the net has not; timm would fail on it in other words for each wrapper."""
    strides = entry.spec.tap_strides
    wanted = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if any(not -len(strides) <= i < len(strides) for i in wanted):
        reason = entry.spec.lacks.get("out_indices", "")
        raise ValueError(
            f"out_indices ({out_indices}) must lie below {len(strides)}: {entry.name} has {len(strides)} taps, stride "
            + ", ".join(map(str, strides))
            + (f" ({reason})" if reason else "")
        )


def _default_cfg(entry: Entry, weights: Weights) -> dict[str, Any]:
    """timm's description of a tag, or of a net without weights."""
    channels = weights.input_size or entry.input_size
    cfg = dict(
        url=weights.url,
        hf_hub_id=weights.hub_id or None,
        num_classes=weights.num_classes,
        input_size=channels,
        test_input_size=weights.test_input_size,
        pool_size=tuple(entry.spec.head_size(size) for size in channels[1:]),
        first_conv=FIRST_CONV,
        classifier=CLASSIFIER,
        mean=weights.mean or entry.mean,
        std=weights.std or entry.std,
        interpolation=weights.interpolation or entry.interpolation,
        crop_pct=weights.crop_pct or entry.crop_pct,
        test_crop_pct=weights.test_crop_pct,
        license=weights.licence or None,
    )
    cited = re.search(r"arXiv:[0-9.]+", entry.paper)
    return cfg | ({"paper_ids": cited.group()} if cited else {})


def _collect() -> dict[str, Entry]:
    """All rows of all families, named.

    Raises:
        RuntimeError: If two families use one name, or weights belong to no model of their family.
    """
    entries: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(zoo.models.__path__):
        family = importlib.import_module(f"{zoo.models.__name__}.{module.name}")
        published = getattr(family, "WEIGHTS", {})
        if orphans := published.keys() - family.MODELS.keys():
            raise RuntimeError(f"weights of family {module.name} belong to no model of it: {', '.join(orphans)}")
        for name, row in family.MODELS.items():
            if name in entries:
                raise RuntimeError(f"model name {name!r} of family {module.name} is taken by {entries[name].family}")
            entries[name] = replace(
                row,
                weights=(timm_tags(name) if row.reference == "timm" else {})
                | published.get(name, {})
                | published_tags(name),
                layouts=getattr(family, "LAYOUTS", {}),
                name=name,
                timm_name=_name_in_timm(name),
                family=module.name,
            )
    if orphans := published_models() - entries.keys():
        raise RuntimeError(f"published weights belong to no model: {', '.join(sorted(orphans))}")
    return entries


def _tagged(entry: Entry) -> dict[str, dict[str, Any]]:
    """timm's keys and cfgs of an entry; the first is the default."""
    if not entry.weights:
        return {entry.timm_name: _default_cfg(entry, Weights(num_classes=entry.num_classes))}
    return {f"{entry.timm_name}.{tag}": _default_cfg(entry, row) for tag, row in entry.weights.items()}


def _name_in_timm(name: str) -> str:
    """The name itself, or ``zoo_<name>`` where timm owns it.

    Raises:
        RuntimeError: If somebody else has registered the name.
    """
    for candidate in (name, f"zoo_{name}"):
        if not is_model(candidate):
            return candidate
        owner = model_entrypoint(candidate).__module__
        if owner == BUCKET:  # A reload of this module finds its own registrations.
            return candidate
        if not owner.startswith("timm."):
            raise RuntimeError(f"model name {candidate!r} is already registered with timm by {owner}")
    raise RuntimeError(f"model names {name!r} and 'zoo_{name}' are both taken in timm's registry")


def _register() -> None:
    # timm reads default_cfgs from the module of an entrypoint and appends its name to the module's __all__.
    package = vars(sys.modules[BUCKET])
    _ENTRIES.update(_collect())
    package["default_cfgs"] = generate_default_cfgs(
        {key: cfg for entry in _ENTRIES.values() for key, cfg in _tagged(entry).items()}
    )
    for entry in _ENTRIES.values():
        if not is_model(entry.timm_name):
            package[entry.timm_name] = register_model(_entrypoint(entry))


_register()


def __getattr__(name: str) -> Any:
    if name in ("load_weights", "check_weights", "checkpoint_filter_fn"):
        warnings.warn(f"zoo.registry.{name} is zoo.weights.loading.{name}", DeprecationWarning, stacklevel=2)
        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
