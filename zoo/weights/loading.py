"""Load weights into nets: one path for own files, published tags, and checks that write nothing.

A file is read (`zoo.weights.reader`), fitted (`zoo.weights.fit`) and cast completely before the first number is
written.
"""

import logging
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.entry import Entry
from zoo.escape import for_terminal
from zoo.weights.fit import CLASSIFIER, FOLLOWED, HEAD, WIDE, Loaded, Target, fit
from zoo.weights.formats import DTYPES, Stored, flat
from zoo.weights.pickles import Refused
from zoo.weights.reader import opened
from zoo.weights.sources import fetched, find_in_hub
from zoo.weights.tags import Weights

log = logging.getLogger("zoo.weights")

WHOLE = "zoo_whole"
"""Attribute of a feature wrapper that holds the `Whole` it was cut from."""


@dataclass(frozen=True)
class Whole:
    """The net that a feature wrapper was cut from.

    Attributes:
        kind: Class of the net.
        spec: Specification of the net.
    """

    kind: type[nn.Module]
    spec: Any

    def names(self) -> list[str]:
        """Return the names of all tensors of the net."""
        return list(self.kind(self.spec, device="meta").state_dict())


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, prefix: str | None = None) -> Loaded:
    """Load a checkpoint into a net of the zoo, completely or not at all.

    The file decides, not the net's description. If the file has a classifier of another size, or none, the net keeps
    its own. Kernels for three channels are adapted to the channels of the net. The result lists which tensors were
    taken, which parts stay new and what was left out. A warning is logged if a part stays new, or if the net fits under
    several prefixes and nothing but their order in the file decides.

    Args:
        model: A net of the zoo; also in DataParallel, compiled, averaged, or cut to features by ``features_only=True``.
        path: A file written by ``torch.save`` or safetensors, the index of a sharded checkpoint, or a folder or zip
            with one of these; in any layout of the net's family.
        prefix: Prefix of the names to load, such as ``teacher.``; None finds it.

    Returns:
        Description of the loaded tensors. As text it is one line.

    Raises:
        ValueError: If the file is no checkpoint, or does not fit in names, shapes or numbers; the net is unchanged.
        TypeError: If the net does not belong to the zoo.
    """
    target, net = _target(model)
    _check_memory(target)
    with opened(path, limit=plausible(target)) as stored:
        tensors, loaded = fit(stored, target, source=str(path), prefix=_dotted(prefix))
    _write(net, target, tensors)
    if loaded.new or loaded.guessed:
        log.warning("%s: %s", for_terminal(path), loaded)
    return loaded


def check_weights(
    model: nn.Module, path: str | os.PathLike[str], *, strict: bool = False, prefix: str | None = None
) -> tuple[dict[str, Tensor], Loaded]:
    """Read a checkpoint as `load_weights` does, but write nothing.

    Args:
        model: A net of the zoo; the meta device is enough.
        path: The file.
        strict: Adapt nothing: classes and channels of the file must equal those of the net.
        prefix: As in `load_weights`.

    Returns:
        The tensors under our names, and a description of the findings.

    Raises:
        ValueError: As `load_weights`.
    """
    target, _ = _target(model)
    with opened(path, limit=plausible(target)) as stored:
        return fit(stored, target, source=str(path), strict=strict, prefix=_dotted(prefix))


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict in any layout of the net's family under our names: timm's checkpoint filter.

    For ``timm.models.load_checkpoint(net, path, filter_fn=zoo.checkpoint_filter_fn)`` and similar calls.

    Args:
        state_dict: Names and tensors. Our names stay unchanged.
        model: A net of the zoo.

    Raises:
        ValueError: If a tensor is missing, unknown, of a wrong shape or kind, or not finite.
    """
    target, _ = _target(model)
    return fit(_in_memory(state_dict), target, strict=True)[0]


DESCRIBED = ("local-dir", "hf-hub")
"""Sources that describe the net beside its weights."""


def load_pretrained(net: nn.Module, entry: Entry, cfg: Any, cache_dir: Any = None) -> Loaded:
    """Load the weights of timm's pretrained configuration into a net of the entry.

    The order of sources is timm's: the local folder or hub repository of the whole configuration, a state dict, a file,
    the hub, an address.

    Raises:
        ValueError: If the configuration names no source, or its weights do not fit; the net is unchanged.
        OSError: If weights cannot be fetched.
    """
    target, _ = _target(net)
    _check_memory(target)
    with _source(entry, cfg, cache_dir, plausible(target)) as (source, stored, registered):
        tensors, loaded = fit(stored, target, source=source, channels=cfg.input_size[0])
    if loaded.new and cfg.source in DESCRIBED and target.classes == cfg.num_classes:
        raise ValueError(
            f"{for_terminal(source)}: the description says {cfg.num_classes} classes, and the file is of another net: "
            f"{loaded}"
        )
    _write(net, target, tensors)
    # A new classifier on a published trunk is what was asked for; on a file of one's own it may be a surprise.
    quiet = registered and target.classes != cfg.num_classes
    doubtful = loaded.guessed or (loaded.new and not quiet)
    log.log(logging.WARNING if doubtful else logging.INFO, "%s: %s", for_terminal(source), loaded)
    return loaded


@contextmanager
def _source(entry: Entry, cfg: Any, cache_dir: Any, limit: int) -> Generator[tuple[str, Mapping[str, Stored], bool]]:
    """Open the source of a configuration: yield its name, its tensors, and True if it is the source of a tag."""
    row = entry.weights.get(cfg.tag or "", Weights())
    published = row.file or row.url.rpartition("/")[2]
    # A source that the user gave takes precedence over the file of the tag.
    own = bool(row.file) and cfg.file == row.path and not (cfg.url or cfg.hf_hub_id)
    if cfg.source == "local-dir":
        with opened(cfg.file, limit=limit) as stored:
            yield str(cfg.file), stored, False
    elif cfg.state_dict:
        yield "state_dict", _in_memory(cfg.state_dict), False
    elif cfg.file and (own or cfg.file != row.path):
        # A copy of the published file has its name, perhaps without the zip around it, and must then be that file.
        known = row.digest if published and Path(cfg.file).name in (published, published.removesuffix(".zip")) else ""
        with opened(cfg.file, digest=known, limit=limit) as stored:
            yield str(cfg.file), stored, own
    elif cfg.hf_hub_id and (cfg.source == "hf-hub" or not _mirrors(cfg, row)):
        with opened(find_in_hub(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir), limit=limit) as stored:
            yield cfg.hf_hub_id, stored, cfg.hf_hub_id == row.hub_id
    elif cfg.url:
        known = row.digest if published and cfg.url.rpartition("/")[2] == published else ""
        with fetched(cfg.url, folder=cache_dir, digest=known, limit=limit) as stored:
            yield cfg.url, stored, cfg.url == row.url
    else:
        tagged = f", only {', '.join(f'{entry.name}.{tag}' for tag in entry.weights)}" if entry.weights else ""
        raise ValueError(
            f"pretrained (True): {entry.name} has no registered weights{tagged}; use pretrained=False"
            + (f", or timm:{entry.name} for timm's own net" if entry.timm_name != entry.name else "")
        )


def _mirrors(cfg: Any, row: Weights) -> bool:
    """Return True if the user passed an address of their own; it takes precedence over the tag's hub repository."""
    return bool(cfg.url and cfg.url != row.url and cfg.hf_hub_id == row.hub_id)


def _in_memory(state_dict: Mapping[str, Any]) -> dict[str, Stored]:
    try:
        return {name: Stored.of(tensor) for name, tensor in flat(state_dict).items()}
    except Refused as refused:
        raise ValueError(f"state_dict: {refused}") from None


def _dotted(prefix: str | None) -> str | None:
    if not isinstance(prefix, str | None):
        raise TypeError(f"prefix ({prefix!r}) must be text: what stands before the names that are meant")
    return f"{prefix}." if prefix and not prefix.endswith(".") else prefix


def plausible(target: Target) -> int:
    """Return the bytes that a checkpoint may unpack to: enough for double precision and an optimizer's state."""
    return (64 << 20) + 8 * sum(t.numel() * t.element_size() for t in target.tensors.values())


def _target(model: nn.Module) -> tuple[Target, nn.Module]:
    """Return the net of the zoo inside a model, as a target for weights and as a module.

    Raises:
        TypeError: If there is no such net, or it is part of something larger.
        ValueError: If its tensors cannot be written.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model ({for_terminal(type(model).__name__)}) must be a net")
    found = [m for m in model.modules() if isinstance(m, Backbone) or hasattr(m, WHOLE)]
    if not found:
        raise TypeError(
            f"model ({type(model).__name__}) is no net of the zoo: nets of other libraries and scripted or traced ones "
            "load by their own load_state_dict"
        )
    net = found[0]
    inside = {id(t) for t in net.state_dict(keep_vars=True).values()}
    beside = [name for name, p in model.named_parameters() if id(p) not in inside]
    if beside:
        raise TypeError(
            f"model ({type(model).__name__}) has parameters beside the net of the zoo in it ({beside[0]}): "
            f"give the {type(net).__name__} itself"
        )
    net = dict(net.named_modules())[_inner(net)]
    tensors = net.state_dict()
    whole: Whole = getattr(found[0], WHOLE, None) or Whole(type(net), net.spec)
    strange = [key for key, value in tensors.items() if type(value) is not Tensor or value.dtype not in DTYPES]
    if strange:
        raise ValueError(f"model ({type(net).__name__}): {strange[0]} is no plain tensor; load before it is changed")
    layouts = getattr(whole.kind, "layouts", {})
    return Target(whole.kind.__name__, tensors, layouts, lambda: _cut(net, whole.names())), net


def _cut(net: nn.Module, names: Iterable[str]) -> set[str]:
    """Return those names of a whole net's tensors that a net lacks because it was cut, not changed.

    A net was changed if a layer without the tensor stands in its place, as in a fused copy, whose norms are part of
    other layers, or in a net with other norms. There a tensor that is left out would be missed.
    """
    places = {name for name, _ in net.named_modules()}
    own = net.state_dict().keys()
    # Without a classifier what belongs to it is cut off, too, and the identity stands there.
    free = () if f"{CLASSIFIER}.weight" in own else (HEAD, f"{WIDE}.")
    return {
        name
        for name in names
        if name not in own
        and (name.rpartition(".")[0] not in places or name.startswith(free) or name.endswith(FOLLOWED))
    }


def _check_memory(target: Target) -> None:
    """Raise ValueError if the net has no memory to write to, or its tensors must not be written."""
    for key, value in target.tensors.items():
        if value.is_meta:
            raise ValueError(
                f"model ({target.title}) is on the meta device, which holds no numbers ({key}): create it on another, "
                "or give it memory by model.to_empty(device=...)"
            )
        if value.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"model ({target.title}) was made in inference mode ({key}); load in it, too")


def _inner(model: nn.Module) -> str:
    """Return the name of the zoo's net inside a model. timm's list of layers is the net itself."""
    return next((name for name, module in model.named_modules() if isinstance(module, Backbone)), "")


def _write(net: nn.Module, target: Target, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a net. The net keeps its types and memory formats."""
    own = net.state_dict()
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def keep_whole(features: nn.Module, net_type: type[nn.Module], spec: Any) -> None:
    """Let a feature wrapper load state dicts of the whole net that it was cut from, by any way of loading.

    Tensors that the wrapper lacks because no tap needs them are left out. Other unknown names stay errors.

    Args:
        features: timm's wrapper.
        net_type: Class of the net inside.
        spec: Specification of the net inside.
    """
    setattr(features, WHOLE, Whole(net_type, spec))
    features.register_load_state_dict_pre_hook(_leave_out)


def _leave_out(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename tensors of the whole net and leave out those that the wrapper lacks, in torch's own copy of the dict."""
    whole = {f"{prefix}{name}": name for name in getattr(module, WHOLE).names()}
    own = module.state_dict().keys()
    inner = f"{_inner(module)}." if _inner(module) else ""
    cut = _cut(dict(module.named_modules())[_inner(module)], whole.values())
    for key in [key for key in state_dict if key in whole]:
        name = whole[key]
        if inner and f"{inner}{name}" in own:
            state_dict[f"{prefix}{inner}{name}"] = state_dict.pop(key)
        elif name in cut:
            del state_dict[key]
