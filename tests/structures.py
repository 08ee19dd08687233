"""A choice of nets that shows every structure of every family, for checks that are too dear for all rows.

A structure is a value of one field of a family's specification: each word and each flag; whether a number is 0, 1 or
more; whether a tuple is empty, constant or varied; further the number of taps, and the scale of the images. Rows that
differ in larger numbers only (depths, widths) run the same code.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

import zoo

FORWARDS = ("resnet_test", "densenet_test", "fishnet_test", "fabric_test", "frrn_test", "googlenet_test")
"""One net of each kind of forward: a chain, concatenation, streams, a grid, two paths, branches."""

FABRIC: dict[str, Any] = dict(columns=3, scales=3, channels=(8, 8, 16), gate="none")
HALVED: dict[str, Any] = dict(stem_kernel=7, stem_stride=2, stage2=(32,), ceil=True)
SMALL_NETS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in zoo.list_models("*_test")),
    *(("resnet_test", {"order": order}) for order in ("norm_after_add", "act_before_add", "act_only_pre")),
    ("resnet_test", {"squeeze": 4, "deform_stages": (2,)}),
    ("resnet_test", {"shortcut": "none", "drop_path_rate": 0.2}),
    (
        "preresnet_test",
        {
            "activate_first": True,
            "drop_path_rate": 0.2,
            "norm_shortcut": True,
            "shortcut_scale": 0.5,
            "branch_scale": 2,
        },
    ),
    ("resnet20_cifar", {}),
    ("preresnet20_cifar", {}),
    ("plain20_cifar", {}),
    ("resnext20_4x8d_cifar", {}),
    ("densenet40_k12_bc_cifar", {"depths": (2, 2, 2)}),
    ("fishnet58_cifar", {}),
    ("frrn_small_cifar", {}),
    ("vgg11_c32_bn_cifar", {}),
    ("wider_resnet13_cifar", {}),
    ("wider_resnet_test", {"head": "dense", "head_width": 8, "head_dilation": 2}),
    ("alexnet_test", HALVED | {"local_norms": 2, "towers": 2, "stage2_stride": 2, "stage2_padding": 1}),
    ("alexnet_test", HALVED | {"pools": (3, 2, 3), "pool_strides": (3, 2, 3)}),
    ("gridnet_test", {"dropout": 0.2, "drop_path_rate": 0.2}),
    *(("fabric_test", FABRIC | {"unit": unit}) for unit in ("conv", "sparse", "pre", "preshared", "pre_released")),
    ("fabric_test", FABRIC | {"unit": "conv", "conv_bias": True, "stem": "cifar", "drop_path_rate": 0.2}),
    ("fabric_test", FABRIC | {"unit": "conv", "up": "zero", "type": "d"}),
    ("fabric_test", FABRIC | {"unit": "pre", "gate": "gated", "up": "nearest", "type": "b"}),
    ("fabric_test", FABRIC | {"unit": "post", "gate": "dropout", "skips": "within"}),
    ("fabric_test", FABRIC | {"unit": "post", "gate": "none", "up": "zero", "head": "hypercolumn"}),
    ("fabric_test", FABRIC | {"unit": "post", "gate": "scaled", "skips": "across", "column_skip": 2}),
]
"""Every structure of every family as a small net: a name, and arguments that change it."""

LONG = tuple(name for name in zoo.list_models() if "1001" in name or "1202" in name)
"""Rows of a thousand layers; shorter nets of the same families run the same code."""

GIANTS = ("fabric_a_l16_s6_c64_sparse_cifar", *LONG)
"""Rows of which one pass takes seconds, and whose structures `SMALL_NETS` show."""

SMALL_GRID: dict[str, dict[str, Any]] = {"fabric_test": dict(columns=2, scales=3, channels=(8, 12, 16))}
"""Arguments that leave a fabric with one node or two of each kind, for compilers, which take seconds a layer."""


def small_net_title(structure: tuple[str, dict[str, Any]]) -> str:
    """Return a short name of one of the nets above, for a test's identity."""
    return " ".join(
        [structure[0], *(f"{key}={value}" for key, value in structure[1].items() if FABRIC.get(key) != value)]
    )


def structures(name: str) -> frozenset[tuple[str, Any]]:
    """Return the structures that a net shows."""
    entry = zoo.model_entry(name)
    shown: set[tuple[str, Any]] = {
        ("taps", len(entry.spec.tap_strides)),
        ("image", "small" if entry.input_size[-1] <= 64 else "large"),
    }
    for field, value in entry.spec.to_dict().items():
        if isinstance(value, str | bool):
            shown.add((field, value))
        elif isinstance(value, int | float):
            shown.add((field, min(value, 2) if value in (0, 1) or value > 1 else "between"))
        else:
            shown.add((field, ("empty", "constant", "varied")[min(len(set(map(str, value))), 2)]))
    return frozenset((f"{entry.family}.{field}", value) for field, value in shown)


def one_of_each(names: Iterable[str]) -> list[str]:
    """Return few of the nets that together show all that these show; of nets that show as much the smallest.

    The net that adds most is taken first, and what the others show too is left out in the end, the largest first; so
    the choice is short, not the shortest.
    """
    shown = {name: structures(name) for name in names if name not in GIANTS}
    missing = set().union(*shown.values())
    chosen = []
    while missing:
        best = max(shown, key=lambda name: (len(shown[name] & missing), -zoo.model_entry(name).params, name))
        chosen.append(best)
        missing -= shown[best]
    for name in sorted(chosen, key=lambda name: -zoo.model_entry(name).params):
        if shown[name] <= frozenset().union(*(shown[other] for other in chosen if other != name)):
            chosen.remove(name)
    return sorted(chosen)


def one_a_family(names: Iterable[str]) -> list[str]:
    """Return the smallest net of every family."""
    smallest = {}
    for name in sorted(names, key=lambda name: (-zoo.model_entry(name).params, name)):
        smallest[zoo.model_entry(name).family] = name
    return sorted(smallest.values())


def tensors(out: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, at any depth."""
    if isinstance(out, Tensor):
        yield out
    else:
        for part in out.values() if isinstance(out, dict) else out:
            yield from tensors(part)
