"""Nets that an analysis is asked for: by name with fresh weights, or trained ones in a folder."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import registry
from zoo.escape import for_terminal
from zoo.keeping import CONFIG


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the analyses; each reads those that it needs.

    Attributes:
        input_size: Channels, height and width of the image. Default: each net's own.
        gates: Treatment of gates in receptive fields, see `zoo.analysis.field.GATES`.
        counted: Steps of a path, see `zoo.analysis.paths.LENGTHS`.
        seed: Seed of fresh weights, and of what is drawn.
    """

    input_size: tuple[int, int, int] | None = None
    gates: str = "constant"
    counted: str = "units"
    seed: int = 0


@contextmanager
def untouched(net: nn.Module) -> Generator[None]:
    """Run a net in evaluation; restore the mode of every module and the random state afterwards."""
    modes = {module: module.training for module in net.modules()}
    with torch.random.fork_rng(devices=[]):
        try:
            net.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def expand(names: Iterable[str]) -> list[str]:
    """Return names and folders, with the names that a pattern matches in its place.

    Raises:
        ValueError: If a name is no model, or a folder holds no net that ``zoo bench`` has kept.
    """
    found: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            found += registry.expand_names([name])
        elif (Path(name) / CONFIG).is_file():
            found.append(name)
        else:
            raise ValueError(f"{for_terminal(name)!r} is a folder without {CONFIG}: zoo bench keeps such ones")
    return list(dict.fromkeys(found))


def title(name: str) -> str:
    """Return a short name of a net: of a folder its own name."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def open_net(name: str, *, seed: int = 0, meta: bool = False, **overrides: Any) -> Any:
    """Return a net in evaluation mode.

    Args:
        name: Model of the zoo or of timm with fresh weights, or the folder of a trained net.
        seed: Seed of fresh weights. The random state of the caller stays as it is.
        meta: Make a net of the zoo without memory for its weights.
        overrides: Arguments of the net.
    """
    if Path(name).is_dir():
        return registry.create_model(f"local-dir:{name}", pretrained=True, **overrides).eval()
    place: dict[str, Any] = {"device": "meta"} if meta and name in registry.list_models() else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.create_model(name, **place, **overrides).eval()


def own_size(net: Any) -> tuple[int, int, int]:
    """Return the image size that a net was made for: channels, height, width."""
    _, height, width = getattr(net, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return getattr(net, "in_chans", 3), height, width
