"""Costs and names of all nets, as they were recorded: ``python tests/golden_nets.py`` writes them.

The file is ``golden/nets.csv``: parameters, multiply-adds, activations, and a hash of the names and shapes of the state
dict, which is what published checkpoints fit. A row changes only when its net does, and then CHANGELOG.md says why.
"""

import argparse
import csv
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from shapes import Shapes
from torch import Tensor

import zoo

PATH = Path(__file__).with_name("golden") / "nets.csv"
aten = torch.ops.aten


class Counter(Shapes):
    """Counts by the operators that run, also on the meta device: a second counter beside `zoo.complexity`."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        inner = None
        if func is aten.convolution.default:
            inner = math.prod(args[1].shape[1:])
            if args[6]:  # transposed: each number that is read is multiplied, not each that comes out
                self.macs += inner * (args[0].numel() - out.numel())
        elif func in (aten.mm.default, aten.bmm.default):
            inner = args[0].shape[-1]
        elif func is aten.addmm.default:
            inner = args[1].shape[-1]
        if inner is not None:
            self.macs += inner * out.numel()
            self.activations += out.numel()
        return out


def measure(name: str, net: Any) -> dict[str, str]:
    """The row of a net on the meta device, at its own input size."""
    net.eval()
    with Counter() as counter, torch.no_grad():
        net(torch.empty((1, *zoo.model_entry(name).input_size), device="meta"))
    return {
        "name": name,
        "params": str(sum(p.numel() for p in net.parameters())),
        "macs": str(counter.macs),
        "activations": str(counter.activations),
        "state_dict": state_dict_hash(net.state_dict()),
    }


def state_dict_hash(tensors: dict[str, Tensor]) -> str:
    """Start of the SHA-256 of all names and shapes, in their order."""
    lines = "".join(f"{name} {tuple(value.shape)}\n" for name, value in tensors.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def golden() -> dict[str, dict[str, str]]:
    """The recorded rows by name."""
    with PATH.open(newline="", encoding="ascii") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def build_parser() -> argparse.ArgumentParser:
    """Its options: none."""
    return argparse.ArgumentParser(description="Record multiply-adds, activations and names of all nets.")


if __name__ == "__main__":
    build_parser().parse_args()
    rows = [measure(name, zoo.create_model(name, device="meta")) for name in zoo.list_models()]
    with PATH.open("w", newline="", encoding="ascii") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
