"""Random arguments for nets, and what came of them; ``fuzz_arguments.py`` tries as many as one likes.

A set names a small net of any family and some of its arguments, of which most values are good and some hostile. The
only outcomes allowed are the promised shapes, or a ValueError or TypeError that names an argument that was given.
"""

import dataclasses
import random
import warnings
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.arguments import POOLS
from zoo.layer_types import ACTS, NORMS

NAMES = [
    *zoo.list_models("*_test"),
    "resnet20_cifar",
    "plain20_cifar",
    "densenet40_k12_bc_cifar",
    "fishnet58_cifar",
    "fabric_a_l3_s3_c32x2_post_cifar",
    "fabric_a_l3_s6_c128_preshared_cifar",
    "googlenet16_bn_cifar",
    "lenet5_cifar",
    "bagnet17_cifar",
    "frrn_small_cifar",
    "vgg11_c32_bn_cifar",
    "wider_resnet13_cifar",
    "highway11_cifar",
]
NAN, INF = float("nan"), float("inf")
HOSTILE: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 10**9, 10**30, -(10**9), 2**31, 2**63, True, False),
    *(NAN, INF, -INF, 0.5, 1.0, 8.0, -0.1, 1e300, "x", "", "avg", "8", "cuda:99", b"8", (), [], {}, (1,), [1, 2]),
    *((1.5,), ("a", "b"), (None,), (NAN, 1), {1, 2}, object(), print, int, nn.ReLU, nn.ReLU(), torch.ones(2), 1j),
]
GOOD: dict[str, list[Any]] = {
    "num_classes": [0, 1, 5, 17],
    "in_chans": [1, 2, 3, 5],
    "global_pool": ["", *POOLS],
    "output_stride": [1, 2, 4, 4, 8, 8, 16],
    "drop_rate": [0, 0.0, 0.3, 0.99],
    "drop_path_rate": [0, 0.0, 0.2],
    "norm_layer": [*NORMS, "BatchNorm2d", "group_norm", nn.BatchNorm2d, lambda channels: nn.GroupNorm(1, channels)],
    "act_layer": [*ACTS, "ReLU", nn.SiLU, F.relu, torch.tanh, lambda: nn.GELU()],
    "zero_init_last": [True, False],
    "device": ["cpu", "meta", torch.device("cpu")],
    "dtype": [torch.float32, torch.float64, torch.bfloat16],
    "features_only": [True, True, True, False],
    "out_indices": [1, 2, 3, 0, -1, (0,), (0, 1), (1, 0), (-1,), (-1, 0), [2, 0, 1], (2, 2), (0, -5), (7,), 5, 6],
    "feature_cls": ["list", "dict", "hook", "getter", "list", "dict"],
}


def argument_set(seed: int) -> tuple[str, dict[str, Any], tuple[int, int]]:
    """A net, arguments, and the height and width of an image."""
    draw = random.Random(seed)
    name = draw.choice(NAMES)
    spec = zoo.model_entry(name).spec
    arguments: dict[str, Any] = {}
    for key in draw.sample(sorted(GOOD), draw.choice([0, 1, 2, 3, 5])):
        arguments[key] = draw.choice(GOOD[key]) if draw.random() < 0.93 else draw.choice(HOSTILE)
    if arguments.keys() & {"out_indices", "feature_cls"} and draw.random() < 0.95:
        arguments["features_only"] = True
    arguments = {key: value for key, value in arguments.items() if key not in spec.lacks or draw.random() < 0.1}
    fields = dataclasses.fields(spec)
    for field in draw.sample(fields, min(len(fields), draw.choice([0, 0, 0, 1, 1, 2]))):
        value = getattr(spec, field.name)
        arguments[field.name] = _near(draw, value, field.type) if draw.random() < 0.7 else draw.choice(HOSTILE)
    side = zoo.model_entry(name).input_size[-1]
    height, width = (draw.choice([1, 3, 8, 13, 31, 33, side, side, side, side + 3]) for _ in range(2))
    return name, arguments, (height, width)


def _near(draw: random.Random, value: Any, kind: Any) -> Any:
    """A value of a field's type, not far from the one it has."""
    if kind is bool:
        return draw.choice([True, False])
    if kind is float:
        return draw.choice([0.0, 0.25, 0.5, 1.0, value, -2.0, 1])
    if kind is int:
        return draw.choice([0, 1, 2, 3, 4, 5, value, value + 1, max(value - 1, 0), 2 * value])
    if kind is str:
        words = {w for n in NAMES for w in vars(zoo.model_entry(n).spec).values() if isinstance(w, str)}
        return draw.choice(sorted(words))
    if get_args(kind):
        parts = list(value)
        for _ in range(draw.choice([1, 1, 2])):
            action = draw.choice(["change", "change", "change", "drop", "add", "double"])
            if action == "add" or not parts:
                parts.append(draw.choice([0, 1, 2, 4, 8]))
            elif action == "drop":
                parts.pop(draw.randrange(len(parts)))
            elif action == "double":
                parts = [2 * part for part in parts]
            else:
                i = draw.randrange(len(parts))
                parts[i] = _near(draw, parts[i], get_args(kind)[0])
        return draw.choice([tuple, list])(parts)
    raise AssertionError(kind)


def outcome(name: str, arguments: dict[str, Any], size: tuple[int, int]) -> str:
    """Build the net and look at an image.

    Returns:
        ``built`` for the promised shapes, ``refused`` for an error that names an argument or the image's size.

    Raises:
        AssertionError: If neither holds.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: Any = zoo.create_model(name, **arguments).eval()
    except (ValueError, TypeError) as error:
        text = str(error)
        assert len(text) < 2000, text
        assert any(f"{key} (" in text or f"{key!r}" in text for key in arguments), f"no argument is named: {text}"
        return "refused"
    place = next((p for p in net.parameters()), torch.empty(0))
    chans = arguments.get("in_chans") or zoo.model_entry(name).input_size[0]
    x = torch.zeros((2, chans, *size), device=place.device, dtype=place.dtype)
    least = _smallest(net)
    if min(size) < least:
        message = rf"input size \({size[0]}x{size[1]}\) must be at least {least}x{least} "
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            net(x)
        return "refused"
    try:
        with torch.no_grad():
            out = net(x)
    except RuntimeError as error:
        if place.dtype != torch.bfloat16 or "not implemented" not in str(error):
            raise
        # an operator that the CPU lacks in this type
        return "built"
    if arguments.get("features_only"):
        _check_taps(net, out, x)
    else:
        classes = arguments.get("num_classes")
        classes = zoo.model_entry(name).num_classes if classes is None else classes
        assert out.shape[0] == 2
        assert out.shape[1] == (classes or net.head_hidden_size), out.shape
        assert out.ndim == (2 if net.classifier.global_pool.pool_type else 4)
    return "built"


def _smallest(net: Any) -> int:
    smallest = (net if hasattr(net, "smallest") else next(net.children())).smallest
    return smallest[-1] if isinstance(smallest, list) else smallest


def _check_taps(net: Any, out: Any, x: torch.Tensor) -> None:
    """Maps and their description agree, one by one."""
    maps = list(out.values()) if isinstance(out, dict) else out
    info = net.feature_info
    assert len(maps) == len(info.channels()) == len(set(info.out_indices)) > 0
    for tap, chs, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        assert tap.shape[:2] == (2, chs)
        for have, given in zip(tap.shape[-2:], x.shape[-2:], strict=True):
            assert 0 < have <= -(-given // stride)
    assert all(p.requires_grad for p in net.parameters())
