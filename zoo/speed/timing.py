"""Measure time and memory: a step of a net, rounds over many steps, statistics within rounds, the products alone.

Times of two nets compare only if they were taken side by side: clocks, other users and thermal limits drift by more
than most differences between implementations. A round therefore times every step once, the next round goes through them
backwards, and ratios are taken within a round before anything is averaged.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from zoo.environment import PeakMemory, overflows_channels_last
from zoo.interrupts import for_parent_alone

Step = Callable[[], object]
Stopwatch = Callable[[Step], float]

MODES = ("eval", "train")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEAST = 2
"""Rounds that a spread needs."""

# What `Products` replays: as torch's dispatcher calls them, forward and backward. Attention in its fused form is not
# among them, as it is not among the counted multiply-adds.
PRODUCTS = {
    "aten::convolution",
    "aten::convolution_backward",
    "aten::addmm",
    "aten::baddbmm",
    "aten::bmm",
    "aten::mm",
    "torchvision::deform_conv2d",
    "torchvision::_deform_conv2d_backward",
}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of a sample.

    Attributes:
        median: Median of the sample, in its unit.
        low: Lower quartile, interpolated linearly between members of the sample.
        high: Upper quartile.
    """

    median: float
    low: float
    high: float


def spread(sample: Sequence[float]) -> Spread:
    """Summarise at least two numbers.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(sample) < LEAST:
        raise ValueError(f"sample ({len(sample)} numbers) must hold at least two for a spread")
    low, median, high = statistics.quantiles(sample, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high)


def rounds(text: str) -> int:
    """Read a number of rounds from a command line.

    Raises:
        argparse.ArgumentTypeError: If it is no whole number of at least `LEAST`.
    """
    if not text.isdecimal() or int(text) < LEAST:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {LEAST}, as quartiles need, not {text}")
    return int(text)


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the spread of above / below, round by round, over the rounds in which both took part.

    Raises:
        ValueError: If they share fewer than two rounds.
    """
    return spread([a / b for a, b in zip(above, below, strict=False)])


def time_round(
    steps: Sequence[Step], stopwatch: Stopwatch, backwards: bool, on_step: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Time each step once and return the seconds in the order of the steps.

    Args:
        steps: Steps to time.
        stopwatch: See `stopwatch` and `clocked`.
        backwards: Begin with the last step, because later steps find a warmer machine.
        on_step: Called with the position of each step before it begins; not timed.
    """
    seconds = [0.0] * len(steps)
    for position in reversed(range(len(steps))) if backwards else range(len(steps)):
        on_step(position)
        seconds[position] = stopwatch(steps[position])
    return seconds


def interleave(steps: Sequence[Step], repeats: int, stopwatch: Stopwatch) -> tuple[list[float], ...]:
    """Time the steps in ``repeats`` rounds, every other one backwards; return the times of each step."""
    rounds = [time_round(steps, stopwatch, backwards=bool(repeat % 2)) for repeat in range(repeats)]
    return tuple(list(times) for times in zip(*rounds, strict=True))


def clocked(clock: Callable[[], float]) -> Stopwatch:
    """Return a stopwatch that reads a clock before and after the step."""

    def seconds(step: Step) -> float:
        start = clock()
        step()
        return clock() - start

    return seconds


def stopwatch(device: torch.device) -> Stopwatch:
    """Return a stopwatch: wall time on a CPU; on a GPU the time between two CUDA events, on an idle device."""
    if device.type != "cuda":
        return clocked(time.perf_counter)

    def seconds(step: Step) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            start.record()
            step()
            end.record()
            torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    return seconds


def make_step(net: nn.Module, images: Tensor, mode: str, dtype: str = "float32") -> Step:
    """Put a net in a mode and return its step: a forward pass without autograd, or forward, backward and SGD.

    The loss is the mean square of all outputs; a real loss costs little in comparison with a net as well. The learning
    rate is so small that the weights do not change.

    Args:
        net: A net, or the result of `torch.compile`.
        images: (N, C, H, W) on the device and in the layout of the net.
        mode: ``eval`` or ``train``.
        dtype: Autocast type of the forward pass, a key of `DTYPES`.

    Raises:
        ValueError: If training would write past its memory, see `environment.overflows_channels_last`.
    """
    # Images of one channel, and weights of 1x1, look the same in both layouts; all of them together do not.
    channels_last = not all(tensor.is_contiguous() for tensor in (images, *net.parameters()))
    if mode == "train" and images.device.type == "cpu" and channels_last and overflows_channels_last(net):
        raise ValueError(
            "layout channels_last: in training on a CPU, oneDNN writes past its memory at strided 1x1 convolutions of "
            "fewer than 16 channels, which this net has; take contiguous"
        )
    net.train(mode == "train")
    cast = torch.autocast(images.device.type, DTYPES[dtype], enabled=dtype != "float32")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode(), cast:
            net(images)

    def train() -> None:
        with cast:
            loss = torch.stack([out.float().square().mean() for out in _tensors(net(images))]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train if mode == "train" else forward


def _tensors(out: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output: a tensor, or tuples and lists of them (auxiliary classifiers)."""
    if isinstance(out, Tensor):
        yield out
    else:
        for part in out:
            yield from _tensors(part)


@contextmanager
def kept_bytes(net: nn.Module) -> Generator[Callable[[], int]]:
    """Count the bytes that autograd keeps for the backward pass of what runs inside this context.

    Each storage counts once; parameters and buffers of the net do not count.

    Args:
        net: The net that runs.

    Yields:
        A function that returns the bytes so far.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, Any] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage
        return value.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield lambda: sum(storage.nbytes() for storage in kept.values())


def added_memory(make: Callable[[], Step], rehearse: Step, device: torch.device) -> int | None:
    """Return the bytes that making a step and taking it twice add at the peak; None if the system does not report it.

    Call this in a process of its own: memory that earlier code returned to the allocator would hide part of the need.
    See `environment.PeakMemory` for the meaning of a byte on each device.

    Args:
        make: Builds net and images and returns the step.
        rehearse: Makes a small step of the same kind and takes it, so that code which torch loads on first use is not
            counted.
        device: Device of the measurement.
    """
    rehearse()
    watch = PeakMemory(device)
    before = watch.read() or 0
    step = make()
    for _ in range(2):  # the second step meets the optimizer's state
        step()
    after = watch.read()
    return None if after is None else after - before


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a top-level function of a module in a new process with as many CPU threads, and return its result.

    An interrupt ends the process.

    Raises:
        RuntimeError: If the function raised, or the process ended without a result, for example because the kernel
            ended it for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, torch.get_num_threads(), function, args))
    with for_parent_alone():
        process.start()
    sender.close()  # the new process has the other copy, so its end is an end of file here
    try:
        good, answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with status {process.exitcode}; was there enough memory?") from None
    finally:
        receiver.close()
        process.terminate()
        process.join()
    if not good:
        raise RuntimeError(answer)
    return answer


def _answer(sender: Any, threads: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    try:
        answer = True, function(*args)
    except Exception as error:
        answer = False, f"{type(error).__name__}: {error}"
    sender.send(answer)


@dataclass(frozen=True)
class _Like:
    """Shape, strides, type and device of a tensor. One buffer stands for all tensors that are alike in these."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        elements = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        kind = self.dtype if self.dtype.is_floating_point else torch.float32
        return torch.randn(elements, dtype=kind, device=self.device).to(self.dtype).as_strided(self.shape, self.stride)


class _Recorder(TorchDispatchMode):
    """Report every call of `PRODUCTS` within its context, before the call is made."""

    def __init__(self, tell: Callable[[Any, Any, Any], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.name().partition(".")[0] in PRODUCTS:
            self._tell(func, args, kwargs)
            return func(*args, **kwargs)
        with self:  # in inference mode what is made of other operators, as linear is, arrives in one piece
            parts = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if parts is NotImplemented else parts


class Products:
    """The convolutions and matrix products of a step, for calling them again without anything between them.

    A step is run once, and the calls of `PRODUCTS` that reach torch's dispatcher are recorded, one entry per call. For
    a training step this includes those of the backward pass, with exactly the gradients that the step needs. `run`
    makes the same calls one after the other. Weights are those of the net. Maps and gradients are random numbers in
    buffers of the same shape, strides and type, one buffer for all that are alike.

    Attributes:
        calls: (operator, positional arguments, keyword arguments) in the order of the step.
    """

    def __init__(self, step: Step, net: nn.Module) -> None:
        owned = {tensor.untyped_storage().data_ptr() for tensor in net.parameters()}
        buffers: dict[_Like, Tensor] = {}
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []

        def stand_in(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.untyped_storage().data_ptr() in owned:
                return value.detach()
            like = _Like(tuple(value.shape), value.stride(), value.dtype, value.device)
            if like not in buffers:
                buffers[like] = like.make()
            return buffers[like]

        with _Recorder(lambda func, args, kwargs: self.calls.append((func, *tree_map(stand_in, (args, kwargs))))):
            step()

    def run(self) -> None:
        """Make the calls."""
        with torch.inference_mode():
            for func, args, kwargs in self.calls:
                func(*args, **kwargs)
