"""Facts about the machine that a result stores: versions, device, git revision, peak memory; a fault to work around."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import zoo
from zoo.arguments import is_whole, text

MOST_THREADS = 1024
"""Largest number of threads, and of processes, that may be requested."""
MOST_IMAGES = 2**20
"""Largest number of images in a batch that may be requested."""
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Largest memory use since this object was made.

    CUDA: bytes that torch's allocator held. Linux CPU: resident bytes of the whole process, interpreter and libraries
    included, after a reset of the kernel's high-water mark (`VmHWM`). On other systems it is unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._reset = device.type == "cpu" and _reset_high_water_mark()

    def read(self) -> int | None:
        """Return the peak in bytes; None if the system does not report it."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if not self._reset:
            return None
        match = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        return int(match.group(1)) * 1024 if match else None


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:  # not Linux, or a container that forbids it: a peak of the whole past would be no peak of this run
        return False
    return True


def versions(*modules: str) -> dict[str, str]:
    """Return the versions of Python, of the packages that affect a result, and of further packages."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class is no plain value
        "timm": timm.__version__,
        "zoo": zoo.__version__,
        **{module: version(module) for module in modules},
    }


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return kind and name of the device, and the threads that torch uses on the CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    match = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def check_between(name: str, value: int, least: int, most: int) -> int:
    """Return a whole number if it lies between two others.

    Raises:
        ValueError: If it does not, or is no whole number; the message begins with the name.
    """
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return value


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> str:
    """Return the device of that name; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: If torch has no such device, or it does not exist here.
    """
    if text("device", name) == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is none of torch's: use cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} must be cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch sees no CUDA; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} of them, from cuda:0")
    return name


def git_revision() -> str | None:
    """Return the commit of the checkout that this file belongs to, with `-dirty` appended if files differ.

    Return None for an installed package: the commit of another project's checkout does not describe it.
    """
    here = Path(__file__).resolve()
    root = here.parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None
    return result.stdout.strip()


def overflows_channels_last(model: nn.Module) -> bool:
    """Return True if a training step with channels last would write past its memory on a CPU.

    oneDNN (3.12, which torch 2.14 carries) does so in the backward pass of a strided 1x1 convolution whose input has
    fewer channels than a vector register has numbers (uxlfoundation/oneDNN issue 6035): wrong gradients, or a crash.
    """
    return any(
        isinstance(m, nn.Conv2d) and set(m.kernel_size) == {1} and max(m.stride) > 1 and m.in_channels < 16
        for m in model.modules()
    )
