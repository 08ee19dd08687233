"""From table rows to timm registrations: the only module that touches timm's registry.

The families are found by walking `zoo.models`; each row of a ``MODELS`` table becomes a timm entrypoint in the module
bucket ``zoo``. A row keeps its name where timm has none of that name, and becomes ``zoo_<name>`` where timm owns it.
Trained weights are timm tags (``fishnet150.osmr_in1k``); they are read and checked by `zoo.checkpoint` and
`zoo.weights` instead of by timm, so that a bad file is one clear error and leaves no half-loaded net behind.
"""

import csv
import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
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
from torch import Tensor, nn

import zoo.models
from zoo.backbone import FeatureGetter
from zoo.checkpoint import fetch, find_in_folder, find_in_hub, read
from zoo.entry import Entry
from zoo.weights import CLASSIFIER, FIRST_CONV, Layout, Weights, convert, load

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
        return timm.create_model(name.removeprefix("timm:"), pretrained=pretrained, **overrides)
    if ":" in name:
        return timm.create_model(name, pretrained=pretrained, **overrides)
    base, _, tag = name.partition(".")
    if _find(base) is None and is_model(base):
        return timm.create_model(name, pretrained=pretrained, **overrides)
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
        close = difflib.get_close_matches(name, {*_ENTRIES, *timm.list_models()}, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "zoo.list_models() shows all."
        raise ValueError(f"name ({name!r}) is not a model of the zoo: {hint}")
    return entry


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Load a checkpoint file into a net of ours, whole or not at all.

    Args:
        model: The net, with as many classes and channels as the file's.
        path: What ``torch.save`` or safetensors wrote, or a zip of one such file; in any layout of the net's family.

    Returns:
        The name of the layout: ``native``, or one of the family's.

    Raises:
        ValueError: If the file is no checkpoint, or does not fit in names, shapes or numbers; the net is as before.
    """
    own: Any = model
    tensors = read(path, limit=_plausible(model))
    return load(model, tensors, _layouts(model), source=str(path), num_classes=own.num_classes, in_chans=own.in_chans)


def check_weights(model: nn.Module, path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Read a checkpoint file as `load_weights` does, and write nothing.

    Args:
        model: A net of ours; one on the meta device will do.
        path: The file.

    Returns:
        The tensors under our names, and the name of the layout that they came in.

    Raises:
        ValueError: As `load_weights`.
    """
    return convert(read(path, limit=_plausible(model)), model, _layouts(model), source=str(path))


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict in any layout of the net's family, under our names: what timm calls a checkpoint filter.

    For ``timm.models.load_checkpoint(net, path, filter_fn=zoo.checkpoint_filter_fn)`` and the like.

    Args:
        state_dict: Names and tensors; ours pass unchanged.
        model: A net of ours.

    Raises:
        ValueError: If a tensor is missing, unknown, of a wrong shape or kind, or not finite.
    """
    return convert(state_dict, model, _layouts(model))[0]


def _layouts(model: nn.Module) -> Mapping[str, Layout]:
    """Those of the family whose file defines the net."""
    return getattr(sys.modules[type(model).__module__], "LAYOUTS", {})


def _plausible(model: nn.Module) -> int:
    """Bytes that a checkpoint of the net may have: with an optimiser's state, in double precision, not more."""
    return (64 << 20) + 8 * sum(t.numel() * t.element_size() for t in model.state_dict().values())


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
        taps = {"out_indices": tuple(range(len(spec.tap_strides)))} | (kwargs.pop("feature_cfg", None) or {})
        _check_taps(entry, kwargs.get("out_indices", taps["out_indices"]))
        for options in (kwargs, taps):
            if options.get("feature_cls") == "getter":
                options["feature_cls"] = FeatureGetter
        source = {key: kwargs.pop(key, None) for key in ("pretrained_cfg", "pretrained_cfg_overlay")}
        cfg: Any = resolve_pretrained_cfg(entry.timm_name, **source)
        cache_dir = kwargs.pop("cache_dir", None)

        def construct(**task: Any) -> nn.Module:
            net = _construct(entry, **task)
            if pretrained:
                load_pretrained(net, entry, cfg, cache_dir)
            return net

        # timm wraps the net for features after this; the weights must be in it by then.
        return build_model_with_cfg(
            construct,
            entry.timm_name,
            pretrained=False,
            pretrained_cfg=replace(cfg, state_dict=None),
            feature_cfg=taps,
            **kwargs,
        )

    create.__name__ = create.__qualname__ = entry.timm_name
    create.__module__ = BUCKET
    create.__doc__ = f"{entry.name} ({entry.paper})."
    return create


def load_pretrained(net: nn.Module, entry: Entry, cfg: Any, cache_dir: Any = None) -> None:
    """Load what timm's pretrained cfg points to into a net of the entry.

    The order of sources is timm's: a local folder or hub repository that the whole cfg came from, a state dict, a file,
    the hub, an address.

    Raises:
        ValueError: If the cfg points to nothing, or to what does not fit; the net is unchanged then.
        OSError: If weights cannot be fetched.
    """
    row = entry.weights.get(cfg.tag or "", Weights())
    limit = _plausible(net)
    tensors: Mapping[str, Tensor]
    if cfg.source == "local-dir":
        source = find_in_folder(cfg.file)
        tensors = read(source, limit=limit)
    elif cfg.state_dict:
        source, tensors = "state_dict", cfg.state_dict
    elif cfg.file:
        # A copy of the published file is recognised by its name, and must then be that file.
        known = row.digest if row.url and Path(cfg.file).name in row.url.rpartition("/")[2] else ""
        source = cfg.file
        tensors = read(source, digest=known, limit=limit)
    elif cfg.hf_hub_id and (cfg.source == "hf-hub" or not _mirrors(cfg, row)):
        source = find_in_hub(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir)
        tensors = read(source, limit=limit)
    elif cfg.url:
        source = cfg.url
        known = row.digest if row.url and source.rpartition("/")[2] == row.url.rpartition("/")[2] else ""
        tensors = fetch(source, folder=cache_dir, digest=known, limit=limit)
    else:
        raise ValueError(
            f"pretrained (True): {entry.name} has no registered weights; use pretrained=False"
            + (f", or timm:{entry.name} for timm's own net" if entry.timm_name != entry.name else "")
        )
    load(
        net,
        tensors,
        entry.layouts,
        source=str(source),
        num_classes=cfg.num_classes,
        in_chans=cfg.input_size[0],
    )


def _mirrors(cfg: Any, row: Weights) -> bool:
    """Whether an address other than the tag's own was given; it then counts more than the tag's place in the hub."""
    return bool(cfg.url and cfg.url != row.url and cfg.hf_hub_id == row.hub_id)


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


def _weights_of_timm(name: str) -> dict[str, Weights]:
    """The tags of a net of timm's, its default first; errors are from timm's own evaluation."""
    tags = {}
    for tag, cfg in get_arch_pretrained_cfgs(name).items():
        if not cfg.has_weights:
            continue
        url = cfg.url if isinstance(cfg.url, str) else ""
        size = (cfg.test_input_size or cfg.input_size)[-1]
        top1, top5 = _timm_errors().get((tag, size), (None, None))
        start = re.search(r"-([0-9a-f]{8,})\.", url)
        tags[tag.partition(".")[2]] = Weights(
            url=url,
            hub_id=cfg.hf_hub_id or "",
            digest=f"sha256:{start[1]}" if start else "",
            num_classes=cfg.num_classes,
            top1_error=top1,
            top5_error=top5,
            error_source="" if top1 is None else "timm",
            licence=cfg.license or "",
            mean=cfg.mean,
            std=cfg.std,
            crop_pct=cfg.crop_pct,
            interpolation=cfg.interpolation,
            input_size=cfg.input_size,
            test_input_size=cfg.test_input_size,
            test_crop_pct=cfg.test_crop_pct,
        )
    return tags


@cache
def _timm_errors() -> dict[tuple[str, int], tuple[float, float]]:
    """Top-1 and top-5 errors on ImageNet that timm publishes beside its releases, by tag and input size."""
    text = resources.files("zoo").joinpath("timm_errors.csv").read_text(encoding="utf-8")
    return {
        (row["model"], int(row["input_size"])): (float(row["top1_error"]), float(row["top5_error"]))
        for row in csv.DictReader(text.splitlines())
    }


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
                weights=(_weights_of_timm(name) if row.reference == "timm" else {}) | published.get(name, {}),
                layouts=getattr(family, "LAYOUTS", {}),
                name=name,
                timm_name=_name_in_timm(name),
                family=module.name,
            )
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
