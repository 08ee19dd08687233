"""FishNet against recorded outputs of the authors' released code (kevin-ssy/FishNet at b968f02).

``golden_fishnet.json`` holds, for weights and images that are pure functions of the released names and shapes, the
first 16 logits of two images from a double-precision run of that code, the spread of all logits, the winning classes
and samples of the maps f0 to f10. ``weights_crc`` is a checksum over those names and weights: it matches only if our
names, translated back, and our shapes are those of the released checkpoint.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import RELEASED_FISHNET, load_foreign, rename
from torch import Tensor

import zoo
from zoo.models.fishnet import FishSpec

GOLDEN = json.loads((Path(__file__).parent / "golden_fishnet.json").read_text())
MASK = 0xFFFFFFFF
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def hashed(count: int, seed: int) -> Tensor:
    """Numbers in [0, 1) from the 32-bit finaliser of MurmurHash3: the same bits with every library and machine."""
    h = (torch.arange(count, dtype=torch.int64) * 0x9E3779B1 + seed) & MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = ((h ^ (h >> shift)) * factor) & MASK
    return ((h ^ (h >> 16)) >> 8).double() / (1 << 24)


def weight(key: str, shape: torch.Size) -> Tensor:
    """The tensor that belongs to a released name."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = hashed(shape.numel(), zlib.crc32(key.encode()))
    signed = 2 * u - 1
    if key.endswith("running_mean"):
        value = 0.2 * signed
    elif key.endswith("running_var"):
        value = 0.6 + 0.8 * u
    elif len(shape) == 4:
        # Residual branches are kept small, so that sums of many of them stay in range.
        gain = 0.05 if "conv3" in key and shape[2] == 1 else 2.0
        value = signed * (3 * gain / shape[1:].numel()) ** 0.5
    elif key.endswith("weight"):
        value = 1 + 0.25 * signed
    else:
        value = 0.2 * signed
    return value.reshape(shape).float()


def images(batch: int, side: int) -> Tensor:
    """Waves with noise on top; brighter and of another colour from image to image."""
    n, c, h, w = torch.meshgrid(*(torch.arange(k).double() for k in (batch, 3, side, side)), indexing="ij")
    wave = torch.sin(0.11 * h + 0.7 * c + 1.3 * n) * torch.cos(0.07 * w - 0.3 * c + 0.5 * n)
    noise = 2 * hashed(wave.numel(), zlib.crc32(b"input")).view_as(wave) - 1
    cast = torch.tensor([[0.5, -0.3, 0.1], [-1.0, 0.8, 0.9]]).double()[n.long() % 2, c.long()]
    return ((1 + n) * (0.7 * wave + 0.3 * noise) + cast).float()


def checksum(state_dict: dict[str, Tensor]) -> int:
    """A sum over names and sampled bytes of the float tensors, whatever their order."""
    total = 0
    for key, t in state_dict.items():
        if t.dtype == torch.float32:
            flat = t.flatten()
            flat = flat if flat.numel() < 4096 else flat[:: max(1, flat.numel() // 1024)]
            total += zlib.crc32(flat.contiguous().numpy().tobytes(), zlib.crc32(key.encode()))
    return total & MASK


def released_names(spec: FishSpec) -> Iterator[str]:
    """Keys of the released state dict, from the numbers of units alone."""

    def norm(prefix: str) -> Iterator[str]:
        yield from (f"{prefix}.{leaf}" for leaf in NORM)

    def unit(prefix: str, projects: bool) -> Iterator[str]:
        for i in "123":
            yield from norm(f"{prefix}.bn{i}")
            yield f"{prefix}.conv{i}.weight"
        if projects:
            yield from norm(f"{prefix}.shortcut.0")
            yield f"{prefix}.shortcut.2.weight"

    for i in "123":
        yield f"conv{i}.0.weight"
        yield from norm(f"conv{i}.1")
    stages = (*spec.tail_blocks, spec.bridge_blocks, *spec.body_blocks, *spec.head_blocks)
    laterals = (0, 0, 0, 0, *spec.body_laterals, *spec.head_laterals)
    for i, (blocks, transfers) in enumerate(zip(stages, laterals, strict=True)):
        for j in range(blocks):
            yield from unit(f"fish.fish.{i}.{2 if i == 3 else 0}.{j}", projects=i <= 3 and j == 0)
        for j in range(transfers):
            yield from unit(f"fish.fish.{i}.1.{j}", projects=False)
    for prefix in ("fish.fish.3.0", "fish.fish.9.3"):
        yield from norm(f"{prefix}.0")
        yield f"{prefix}.2.weight"
        yield from norm(f"{prefix}.3")
    yield from norm("fish.fish.3.3.0.0")
    for prefix in ("fish.fish.3.1", "fish.fish.3.3.0.3", "fish.fish.3.3.0.5", "fish.fish.9.4.1"):
        yield from (f"{prefix}.weight", f"{prefix}.bias")


# All three are made of the same blocks; test_weights.py asks this of the second, too.
@pytest.mark.only(name=("fishnet99",))
@pytest.mark.parametrize("name", list(GOLDEN))
def test_released_outputs(name: str) -> None:
    golden: dict[str, Any] = GOLDEN[name]
    net = zoo.create_model(name, device="meta").to_empty(device="cpu").eval()
    own = net.state_dict()
    shapes = {key: own[rename(key, RELEASED_FISHNET)].shape for key in released_names(net.spec)}
    shapes["fish.fish.9.4.1.weight"] += (1, 1)  # a 1x1 convolution there, a linear layer here
    state_dict = {key: weight(key, shape) for key, shape in shapes.items()}
    assert checksum(state_dict) == golden["weights_crc"]
    load_foreign(net, state_dict, RELEASED_FISHNET)

    x = images(2, 224)
    with torch.no_grad():
        logits = net(x)
        _, taps = net.forward_intermediates(x)
        maps = dict(zip(("f7", "f8", "f9", "f10"), taps[1:], strict=True))
        f0, f1, f2, f3 = net.tail(taps[0])
        f4 = net.bridge(f3)
        f5, f6, _ = net.body(f4, f2, f1, f0)
        maps |= {"f0": f0, "f1": f1, "f2": f2, "f3": f3, "f4": f4, "f5": f5, "f6": f6}
    want = torch.tensor(golden["logits16"], dtype=torch.float64)
    assert (logits[:, :16] - want).abs().max() <= 1e-5 * golden["logits_std"]
    assert logits.argmax(1).tolist() == golden["argmax"]
    for key, record in golden["features"].items():
        have = maps[key].double()
        assert list(have.shape) == record["shape"]
        sampled = have.flatten()[torch.tensor(record["at"])]
        error = (sampled - torch.tensor(record["values"], dtype=torch.float64)).abs().max()
        assert error <= 1e-5 * record["std"], key
