"""Weights go into nets: one path for a file of one's own, a published tag, and a check that writes nothing.

A file is read (`zoo.weights.reader`), fitted (`zoo.weights.fit`) and cast whole before the first number is written.
"""

import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.entry import Entry
from zoo.weights.fit import Loaded, Target, fit
from zoo.weights.formats import DTYPES, Stored, flat
from zoo.weights.pickles import Refused
from zoo.weights.reader import opened
from zoo.weights.sources import fetched, find_in_hub
from zoo.weights.tags import Weights
from zoo.weights.words import shown

log = logging.getLogger("zoo.weights")

WHOLE = "zoo_whole"
"""Attribute of a feature wrapper: the `Whole` that it was cut from."""


@dataclass(frozen=True)
class Whole:
    """The net that a feature wrapper was cut from.

    Attributes:
        kind: Its class.
        spec: Its specification.
    """

    kind: type[nn.Module]
    spec: Any

    def names(self) -> list[str]:
        """Return the names of all its tensors."""
        return list(self.kind(self.spec, device="meta").state_dict())


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, prefix: str | None = None) -> Loaded:
    """Load a checkpoint into a net of ours, whole or not at all.

    The file is asked, not the net's description: a classifier of another size, or none, leaves the net's own as it is,
    and kernels for three channels are adapted to the net's. What was taken, what stays new and what was left out is in
    the result, and logged as a warning where a part stays new.

    Args:
        model: A net of ours; also in DataParallel, compiled, averaged, or cut to features by ``features_only=True``.
        path: What ``torch.save`` or safetensors wrote, the index of a sharded checkpoint, a folder or a zip with one;
            in any layout of the net's family.
        prefix: What stands before the names that are meant, such as ``teacher.``; found if None.

    Returns:
        What was loaded; printed, it is one line.

    Raises:
        ValueError: If the file is no checkpoint, or does not fit in names, shapes or numbers; the net is as before.
        TypeError: If the net is none of ours.
    """
    target, net = _target(model)
    _check_memory(target)
    with opened(path, limit=plausible(target)) as stored:
        tensors, loaded = fit(stored, target, source=str(path), prefix=_dotted(prefix))
    _write(net, target, tensors)
    if loaded.new:
        log.warning("%s: %s", shown(path), loaded)
    return loaded


def check_weights(
    model: nn.Module, path: str | os.PathLike[str], *, strict: bool = False, prefix: str | None = None
) -> tuple[dict[str, Tensor], Loaded]:
    """Read a checkpoint as `load_weights` does, and write nothing.

    Args:
        model: A net of ours; one on the meta device will do.
        path: The file.
        strict: Adapt nothing: classes and channels of the file must be the net's.
        prefix: As in `load_weights`.

    Returns:
        The tensors under our names, and what was found.

    Raises:
        ValueError: As `load_weights`.
    """
    target, _ = _target(model)
    with opened(path, limit=plausible(target)) as stored:
        return fit(stored, target, source=str(path), strict=strict, prefix=_dotted(prefix))


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A state dict in any layout of the net's family, under our names: what timm calls a checkpoint filter.

    For ``timm.models.load_checkpoint(net, path, filter_fn=zoo.checkpoint_filter_fn)`` and the like.

    Args:
        state_dict: Names and tensors; ours pass unchanged.
        model: A net of ours.

    Raises:
        ValueError: If a tensor is missing, unknown, of a wrong shape or kind, or not finite.
    """
    target, _ = _target(model)
    return fit(_in_memory(state_dict), target, strict=True)[0]


def load_pretrained(net: nn.Module, entry: Entry, cfg: Any, cache_dir: Any = None) -> Loaded:
    """Load what timm's pretrained cfg points to into a net of the entry.

    The order of sources is timm's: a local folder or hub repository that the whole cfg came from, a state dict, a file,
    the hub, an address.

    Raises:
        ValueError: If the cfg points to nothing, or to what does not fit; the net is unchanged then.
        OSError: If weights cannot be fetched.
    """
    target, _ = _target(net)
    _check_memory(target)
    with _source(entry, cfg, cache_dir, plausible(target)) as (source, stored, registered):
        tensors, loaded = fit(stored, target, source=source, channels=cfg.input_size[0])
    _write(net, target, tensors)
    # A new classifier on a published trunk is what was asked for; on a file of one's own it may be a surprise.
    quiet = registered and target.classes != cfg.num_classes
    log.log(logging.WARNING if loaded.new and not quiet else logging.INFO, "%s: %s", shown(source), loaded)
    return loaded


@contextmanager
def _source(entry: Entry, cfg: Any, cache_dir: Any, limit: int) -> Generator[tuple[str, Mapping[str, Stored], bool]]:
    """Open what a cfg points to: its name, its tensors, and whether it is what a tag of the entry points to."""
    row = entry.weights.get(cfg.tag or "", Weights())
    published = row.url.rpartition("/")[2]
    if cfg.source == "local-dir":
        with opened(cfg.file, limit=limit) as stored:
            yield str(cfg.file), stored, False
    elif cfg.state_dict:
        yield "state_dict", _in_memory(cfg.state_dict), False
    elif cfg.file:
        # A copy of the published file has its name, perhaps without the zip around it, and must then be that file.
        known = row.digest if published and Path(cfg.file).name in (published, published.removesuffix(".zip")) else ""
        with opened(cfg.file, digest=known, limit=limit) as stored:
            yield str(cfg.file), stored, False
    elif cfg.hf_hub_id and (cfg.source == "hf-hub" or not _mirrors(cfg, row)):
        with opened(find_in_hub(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir), limit=limit) as stored:
            yield cfg.hf_hub_id, stored, cfg.hf_hub_id == row.hub_id
    elif cfg.url:
        known = row.digest if published and cfg.url.rpartition("/")[2] == published else ""
        with fetched(cfg.url, folder=cache_dir, digest=known, limit=limit) as stored:
            yield cfg.url, stored, cfg.url == row.url
    else:
        raise ValueError(
            f"pretrained (True): {entry.name} has no registered weights; use pretrained=False"
            + (f", or timm:{entry.name} for timm's own net" if entry.timm_name != entry.name else "")
        )


def _mirrors(cfg: Any, row: Weights) -> bool:
    """True if an address other than the tag's own was given; it then counts more than the tag's place in the hub."""
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
    """Bytes that a checkpoint may unpack to: with an optimiser's state, in double precision, not more."""
    return (64 << 20) + 8 * sum(t.numel() * t.element_size() for t in target.tensors.values())


def _target(model: nn.Module) -> tuple[Target, nn.Module]:
    """What weights go into: the net of ours in a model, and its module.

    Raises:
        TypeError: If there is none, or if it is a part of something larger.
        ValueError: If its tensors cannot be written.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model ({shown(type(model).__name__)}) must be a net")
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
    return Target(whole.kind.__name__, tensors, layouts, whole.names), net


def _check_memory(target: Target) -> None:
    """Raise ValueError for a net that has no numbers to write, or whose numbers must not be written."""
    for key, value in target.tensors.items():
        if value.is_meta:
            raise ValueError(
                f"model ({target.title}) is on the meta device, which holds no numbers ({key}): create it on another, "
                "or give it memory by model.to_empty(device=...)"
            )
        if value.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"model ({target.title}) was made in inference mode ({key}); load in it, too")


def _inner(model: nn.Module) -> str:
    """Where in a model the net of ours is, by its name there; timm's list of layers is the net itself."""
    return next((name for name, module in model.named_modules() if isinstance(module, Backbone)), "")


def _write(net: nn.Module, target: Target, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a net; types and memory formats of its own stay."""
    own = net.state_dict()
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def keep_whole(features: nn.Module, net_type: type[nn.Module], spec: Any) -> None:
    """Let a feature wrapper take the state dicts of the whole net that it was cut from, by any way of loading.

    What the wrapper has no place for, because no tap needs it, is left out; other names stay errors.

    Args:
        features: timm's wrapper.
        net_type: Class of the net in it.
        spec: Its specification.
    """
    setattr(features, WHOLE, Whole(net_type, spec))
    features.register_load_state_dict_pre_hook(_leave_out)


def _leave_out(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename and leave out what a whole net has and its wrapper not, in a copy that torch has made."""
    whole = {f"{prefix}{name}": name for name in getattr(module, WHOLE).names()}
    own = module.state_dict().keys()
    inner = f"{_inner(module)}." if _inner(module) else ""
    for key in [key for key in state_dict if key in whole]:
        name = whole[key]
        if inner and f"{inner}{name}" in own:
            state_dict[f"{prefix}{inner}{name}"] = state_dict.pop(key)
        elif name not in own:
            del state_dict[key]
