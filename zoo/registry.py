"""Register the rows of all families with timm. Only this module touches timm's registry.

The families are found by walking `zoo.models`. Each row of a ``MODELS`` table becomes a timm entrypoint in the module
bucket ``zoo``. A row keeps its name if timm has no model of that name, and becomes ``zoo_<name>`` otherwise. Trained
weights are timm tags (``fishnet150.osmr_in1k``). `zoo.weights` reads and checks them instead of timm, so that a bad
file gives one clear error and no half-loaded net.
"""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.layers import set_layer_config
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    is_model,
    load_checkpoint,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

import zoo.models
from zoo import arguments
from zoo.arguments import listed
from zoo.bounds import check_bounds
from zoo.entry import Entry, Spec
from zoo.escape import for_terminal
from zoo.features import check_features
from zoo.weights import Weights, loading
from zoo.weights.described import check_description, check_folder
from zoo.weights.fit import CLASSIFIER, FIRST_CONV
from zoo.weights.loading import keep_whole, load_pretrained
from zoo.weights.tags import published_models, tags
from zoo.weights.words import first_line

BUCKET = "zoo"
"""Module of our entrypoints: this package, and therefore the name of timm's module bucket."""

_ENTRIES: dict[str, Entry] = {}
_ENTRYPOINTS: dict[str, Callable[..., nn.Module]] = {}
FEATURE_OPTIONS = ("out_indices", "feature_cls")
USUAL = 2**16
"""Number of channels or classes up to which a preset needs no check of its size."""


def create_model(name: str, pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Create a model by name.

    Args:
        name: A name of the zoo, with or without ``zoo_``; any name of timm's; ``timm:<name>`` for timm's own net if
            both have the name; or a source of timm's (``hf-hub:...``, ``local-dir:...``).
        pretrained: Load weights. They come from ``pretrained_cfg_overlay=dict(url=...)`` or ``dict(file=...)`` in any
            layout that the family knows, else from the tag in the name (``fishnet150.osmr_in1k``), else from the first
            tag.
        **overrides: Fields of the specification (``body_blocks=(2, 2, 2)``), arguments of the net
            (``num_classes=10, in_chans=1, output_stride=8, drop_path_rate=0.1``), or timm's own
            (``features_only=True, out_indices=(1, 2, 3)``). None means the default.

    Returns:
        The net, or timm's feature wrapper around it with ``features_only=True``.

    Raises:
        ValueError: If the name is unknown, or the requested weights do not exist or do not fit.
        OSError: If weights cannot be fetched.
        TypeError: If an override is neither a field of the specification nor an argument of the net.
    """
    if arguments.text("name", name).startswith("timm:"):
        return _from_timm(_name_of_timm(name.removeprefix("timm:")), pretrained=pretrained, **overrides)
    if ":" in name:
        source, _, place = name.partition(":")
        if source.lower() == "local-dir":
            check_folder(name, place, is_model)
        return _from_timm(name, pretrained=pretrained, **overrides)
    base, _, tag = name.partition(".")
    if _find(base) is None and is_model(base):
        return _from_timm(_name_of_timm(name), pretrained=pretrained, **overrides)
    entry = model_entry(base)
    if tag and tag not in entry.weights:
        have = f"only {', '.join(entry.weights)}" if entry.weights else "no registered weights"
        raise ValueError(f"name ({name}): {base} has {have}")
    return _create(entry, tag, pretrained, **overrides)


def _from_timm(name: str, **options: Any) -> nn.Module:
    """Create a net by timm; errors name it, and are of the types that `create_model` promises.

    Raises:
        ValueError: If timm cannot build the net with these options, or the net has no weights.
        OSError: If weights or a description cannot be fetched.
        TypeError: If an option is none of the net's.
    """
    try:
        return timm.create_model(name, **options)
    except (TypeError, ValueError):
        raise
    except OSError as error:
        raise OSError(f"name ({for_terminal(name)!r}): {first_line(error)}") from error
    except Exception as error:  # timm looks words up in tables, and asserts
        told = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        raise ValueError(f"name ({for_terminal(name)!r}), {listed(options)}: timm cannot make it ({told})") from error


def has_tag(name: str) -> bool:
    """Return True if a name, of the zoo or of timm, asks for trained weights by a tag."""
    return "." in name.removeprefix("timm:") and ":" not in name.removeprefix("timm:")


def weights_of(name: str) -> Weights | None:
    """Return the weights that the tag in a name of the zoo names; None if there is no such tag."""
    base, _, tag = name.partition(".")
    entry = _find(base)
    return entry.weights.get(tag) if entry else None


def list_models(filter: str = "", *, family: str | None = None) -> list[str]:
    """Return the names of the zoo's models, in natural order.

    Args:
        filter: A shell-style pattern (``*cifar``), or part of a name.
        family: Only this family (a file of `zoo.models`).

    Raises:
        ValueError: If the family is unknown.
    """
    if family is not None and family not in families():
        raise ValueError(f"family ({family!r}) must be one of {', '.join(families())}")
    arguments.text("filter", filter)
    pattern = filter if any(c in filter for c in "*?[") else f"*{filter}*"
    names = [
        name
        for name, entry in _ENTRIES.items()
        if fnmatch.fnmatchcase(name, pattern) and family in (None, entry.family)
    ]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def expand_names(names: Iterable[str]) -> list[str]:
    """Replace patterns such as `resnet*_cifar` by the matching models of the zoo; keep other names.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    found: list[str] = []
    for name in names:
        matches = list_models(name) if any(c in name for c in "*?[") else [name]
        if not matches:
            raise ValueError(f"pattern {name!r} matches no model: zoo list shows all")
        found += matches
    return list(dict.fromkeys(found))


def families() -> list[str]:
    """Return the names of the families."""
    return sorted({entry.family for entry in _ENTRIES.values()})


def model_entry(name: str) -> Entry:
    """Return the row of a model of the zoo, by its name here or in timm.

    Raises:
        ValueError: If there is no such model; the message offers close matches.
    """
    entry = _find(arguments.text("name", name))
    if entry is None:
        if is_model(name.removeprefix("timm:")):
            raise ValueError(f"name ({name!r}) is a model of timm, not of the zoo: it has no row here")
        raise ValueError(f"name ({name!r}) is not a model of the zoo: {_close(name, {*_ENTRIES, *timm.list_models()})}")
    return entry


def preprocessing_params(name: str) -> dict[str, Any]:
    """Return the preprocessing of the published net, in the form of segmentation_models_pytorch.

    smp's own ``get_preprocessing_params`` answers only for names that have registered weights.

    Args:
        name: Name of a model of the zoo, here or in timm, with or without a tag. The default is the tag of its first
            weights, if it has any. A leading ``tu-`` is ignored.

    Returns:
        ``input_space`` (``"RGB"``), ``input_range`` (before the mean is subtracted), ``mean`` and ``std``.

    Raises:
        ValueError: If the model or the tag does not exist.
    """
    base, _, tag = arguments.text("name", name).removeprefix("tu-").partition(".")
    entry = model_entry(base)
    if tag and tag not in entry.weights:
        raise ValueError(
            f"name ({name}): {entry.name} has no weights {tag!r}, only {', '.join(entry.weights) or 'none'}"
        )
    cfg = _pretrained_cfg(entry, tag or None, None)
    return {"input_space": "RGB", "input_range": [0, 1], "mean": list(cfg.mean), "std": list(cfg.std)}


def _name_of_timm(name: str) -> str:
    """Return a name of timm's own registry, perhaps with a tag.

    Raises:
        ValueError: If timm has no such net, or the net has no such tag.
    """
    base, _, tag = name.partition(".")
    if not is_model(base):
        raise ValueError(f"name ('timm:{name}') is not a model of timm: {_close(base, timm.list_models())}")
    if tag and name not in (tags := get_arch_pretrained_cfgs(base)):
        raise ValueError(f"name ('timm:{name}'): timm's {base} has no weights {tag!r}: {_close(name, tags)}")
    return name


def _close(name: str, known: Iterable[str]) -> str:
    """Return suggestions for a wrong name, as the end of a message."""
    close = difflib.get_close_matches(name, sorted(known), n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else "zoo.list_models() and timm.list_models() show all"


def _find(name: str) -> Entry | None:
    # A name of ours with the prefix added is the name in timm's registry, whether or not timm needs the prefix.
    return _ENTRIES.get(name) or _ENTRIES.get(name.removeprefix("zoo_"))


def _create(entry: Entry, tag: str, pretrained: bool, checkpoint_path: Any = "", **kwargs: Any) -> nn.Module:
    """Do what ``timm.create_model`` does with our entrypoint, even if others have registered its name since."""
    switches = {name: kwargs.pop(name, None) for name in ("scriptable", "exportable", "no_jit")}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if tag:
        kwargs.setdefault("pretrained_cfg", tag)
    with set_layer_config(**switches):
        model: Any = _ENTRYPOINTS[entry.name](pretrained=pretrained, **kwargs)
    runtime = ("device", "dtype", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay")
    of_tag = _of_tag(entry, kwargs.get("pretrained_cfg"))
    model._model_args = of_tag | {key: value for key, value in kwargs.items() if key not in runtime}
    if checkpoint_path:
        _load_as_timm_does(model, arguments.path("checkpoint_path", checkpoint_path))
    return model


def _load_as_timm_does(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"checkpoint_path ({str(path)!r}): there is no such file")
    try:
        load_checkpoint(model, str(path))
    except Exception as error:  # whatever torch raises for a file that is no checkpoint
        raise ValueError(f"checkpoint_path ({str(path)!r}) cannot be loaded ({first_line(error)})") from error


def _specify(entry: Entry, changes: Mapping[str, Any]) -> Spec:
    """Return the specification with some fields changed; errors name one of these fields."""
    try:
        return entry.spec.replace(**changes)
    except ValueError as error:
        if any(f"{name} (" in str(error) for name in changes):
            raise
        raise ValueError(f"{error}; given: {listed(changes)}") from error


def _check_names(entry: Entry, given: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument that the net does not have."""
    fields = entry.spec.field_names()
    task = tuple(name for name in inspect.signature(entry.build).parameters if name != "spec")
    for key, value in given.items():
        if key not in task:
            close = difflib.get_close_matches(key, [*fields, *task, *FEATURE_OPTIONS], n=3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            if key in FEATURE_OPTIONS:
                hint = "it needs features_only=True. "
            raise TypeError(
                f"{entry.name} has no argument {key!r} (given {value!r}): {hint}"
                f"Fields of the specification: {', '.join(fields)}. Arguments of the net: {', '.join(task)}."
            )


def _entrypoint(entry: Entry) -> Callable[..., nn.Module]:
    """Make an entrypoint as timm needs it: named after the model and belonging to the bucket's module."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        of_tag = _of_tag(entry, kwargs.get("pretrained_cfg"))
        kwargs = of_tag | kwargs
        changes = {key: kwargs.pop(key) for key in entry.spec.field_names() if key in kwargs}
        spec = _specify(entry, changes)
        pretrained = arguments.flag("pretrained", False if pretrained is None else pretrained)
        wrapper = arguments.mapping("feature_cfg", kwargs.pop("feature_cfg", None))
        if arguments.flag("features_only", kwargs.get("features_only", False)):
            wrapper |= {key: kwargs.pop(key) for key in FEATURE_OPTIONS if key in kwargs}
            wrapper = check_features(entry.build, spec, wrapper, entry.name)
        cfg = _pretrained_cfg(entry, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None))
        cache_dir = kwargs.pop("cache_dir", None)

        def construct(**task: Any) -> nn.Module:
            _check_names(entry, task)
            sizes = {key: task[key] for key in ("in_chans", "num_classes")}
            if changes or any(arguments.is_whole(n) and n > USUAL for n in sizes.values()):
                check_bounds(entry.build, spec, changes | sizes)
            net = entry.build(spec, **task)
            if pretrained:
                load_pretrained(net, entry, cfg, cache_dir)
            return net

        # timm wraps the net for features after this; the weights must be in it by then.
        model: Any = build_model_with_cfg(
            construct,
            entry.timm_name,
            pretrained=False,
            pretrained_cfg=replace(cfg, state_dict=None),
            feature_cfg=wrapper,
            **kwargs,
        )
        if kwargs.get("features_only"):
            keep_whole(model, entry.build, spec)
        model._model_args = of_tag  # timm adds what was given
        return model

    create.__name__ = create.__qualname__ = entry.timm_name
    create.__module__ = BUCKET
    create.__doc__ = f"{entry.name} ({entry.paper})."
    return create


def _of_tag(entry: Entry, given: Any) -> dict[str, Any]:
    """Return the arguments of the net that a tag's weights belong to; none for a preset's own, or for no tag."""
    weights = entry.weights.get(given) if isinstance(given, str) else None
    return dict(weights.overrides) if weights else {}


def _pretrained_cfg(entry: Entry, given: Any, overlay: Any) -> Any:
    """Return timm's description of the requested weights: a tag, or a whole description, with changes.

    It comes from our own table, because timm forgets it when other code registers the name.
    """
    if given is None or isinstance(given, str):
        tagged = vars(sys.modules[BUCKET])["default_cfgs"][entry.timm_name]
        tag = given or tagged.tags[0]
        if tag not in tagged.cfgs:
            known = ", ".join(filter(None, tagged.cfgs))
            raise ValueError(f"pretrained_cfg ({given!r}) must be one of {known} for {entry.name}")
        given = replace(tagged.cfgs[tag], architecture=entry.timm_name, tag=tag or None)
    if not isinstance(given, Mapping | PretrainedCfg):
        raise ValueError(f"pretrained_cfg ({given!r}) must be a tag, or a description of weights")
    overlay = arguments.mapping("pretrained_cfg_overlay", overlay)
    try:
        cfg = resolve_pretrained_cfg(entry.timm_name, given, overlay)
    except TypeError as error:  # a field that timm does not know
        named = {**(given if isinstance(given, Mapping) else {}), **overlay}
        raise ValueError(f"pretrained_cfg ({', '.join(map(str, named))}): {first_line(error)}") from error
    check_description(vars(cfg))
    return cfg


def _default_cfg(entry: Entry, weights: Weights) -> dict[str, Any]:
    """Return timm's description of a tag, or of a net without weights."""
    channels = weights.input_size or entry.input_size
    spec = entry.spec.replace(**{k: v for k, v in weights.overrides.items() if k in entry.spec.field_names()})
    cfg = dict(
        url=weights.url,
        file=weights.path or None,
        hf_hub_id=weights.hub_id or None,
        num_classes=weights.num_classes,
        input_size=channels,
        test_input_size=weights.test_input_size,
        pool_size=tuple(spec.head_size(size) for size in channels[1:]),
        first_conv=FIRST_CONV,
        classifier=CLASSIFIER,
        mean=weights.mean or entry.mean,
        std=weights.std or entry.std,
        interpolation=weights.interpolation or entry.interpolation,
        crop_pct=weights.crop_pct or entry.crop_pct,
        test_crop_pct=weights.test_crop_pct,
        license=weights.licence or None,
        label_names=weights.label_names or None,
    )
    cited = re.search(r"arXiv:[0-9.]+", entry.paper)
    return cfg | ({"paper_ids": cited.group()} if cited else {})


def _collect() -> dict[str, Entry]:
    """Return all rows of all families, with names.

    Raises:
        RuntimeError: If two families use one name, or published weights belong to no model.
    """
    entries: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(zoo.models.__path__):
        family = importlib.import_module(f"{zoo.models.__name__}.{module.name}")
        for name, row in family.MODELS.items():
            if name in entries:
                raise RuntimeError(f"model name {name!r} of family {module.name} is taken by {entries[name].family}")
            entries[name] = replace(
                row,
                weights=tags(name, row.reference),
                name=name,
                timm_name=_name_in_timm(name),
                family=module.name,
            )
    if orphans := published_models() - entries.keys():
        raise RuntimeError(f"published weights belong to no model: {', '.join(sorted(orphans))}")
    return entries


def _tagged(entry: Entry) -> dict[str, dict[str, Any]]:
    """Return timm's keys and configurations for an entry; the first is the default.

    A net without weights of its own has a default without a tag. It comes last with a star, or timm would put a tag of
    a changed net before it.
    """
    tagged = {f"{entry.timm_name}.{tag}": _default_cfg(entry, row) for tag, row in entry.weights.items()}
    if not entry.default_tag:
        bare = _default_cfg(entry, Weights(num_classes=entry.num_classes))
        tagged[f"{entry.timm_name}.*" if tagged else entry.timm_name] = bare
    return tagged


def _name_in_timm(name: str) -> str:
    """Return the name, or ``zoo_<name>`` if timm or other code owns it; warn if that code is not timm."""
    owner = _owner(name)
    if owner in ("", BUCKET):  # A reload of this module finds its own registrations.
        return name
    ours = f"zoo_{name}"
    if not owner.startswith("timm."):
        place = f"ours is {ours} there" if _owner(ours) in ("", BUCKET) else f"so is {ours}: ours is not there"
        warnings.warn(
            f"model name {name!r} is registered with timm by {owner}; {place}. zoo.create_model({name!r}) is ours.",
            stacklevel=2,
        )
    return ours


def _owner(name: str) -> str:
    """Return the module that has registered a name with timm; an empty string for none."""
    return model_entrypoint(name).__module__ if is_model(name) else ""


def _register() -> None:
    # timm reads default_cfgs from the module of an entrypoint and appends its name to the module's __all__.
    package = vars(sys.modules[BUCKET])
    _ENTRIES.update(_collect())
    package["default_cfgs"] = generate_default_cfgs(
        {key: cfg for entry in _ENTRIES.values() for key, cfg in _tagged(entry).items()}
    )
    for entry in _ENTRIES.values():
        _ENTRYPOINTS[entry.name] = _entrypoint(entry)
        if not is_model(entry.timm_name):
            package[entry.timm_name] = register_model(_ENTRYPOINTS[entry.name])


_register()


def __getattr__(name: str) -> Any:
    if name in ("load_weights", "check_weights", "checkpoint_filter_fn"):
        warnings.warn(f"zoo.registry.{name} is zoo.weights.loading.{name}", DeprecationWarning, stacklevel=2)
        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
