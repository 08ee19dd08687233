"""Places where the runs of a sweep are computed: this process, several processes of this machine, or Ray.

An engine takes jobs and yields (job, line) as they end, in any order. A line with an ``error`` is a failed run. Epochs
are reported as they end. If the process of a run dies, the run is tried again from its last saved epoch; if that fails
as well, its failure is recorded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, Protocol

import torch
from torch import nn

from zoo.bench.distributed import Team
from zoo.bench.one_run import Job, Line, attempt, failure
from zoo.bench.train import EpochMetrics, Progress
from zoo.datasets.image_set import ImageSet
from zoo.extras import require
from zoo.interrupts import for_parent_alone

Event = EpochMetrics | Progress
Tell = Callable[[Job, Event], None]


class Engine(Protocol):
    """Computes jobs."""

    def __call__(self, jobs: Iterable[Job], tell: Tell) -> Iterator[tuple[Job, Line]]:
        """Yield each job with its line; ``tell`` is called after every epoch and at intervals.

        Jobs are taken from the iterator when their turn comes.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Compute one run after the other in this process, or in all processes of its team together.

    Attributes:
        team: Processes that train together. None means this process alone, on the job's device.
        on_trained: Called with job, final model in evaluation mode, and its images.
    """

    team: Team | None = None
    on_trained: Callable[[Job, nn.Module, ImageSet], None] | None = None

    def __call__(self, jobs: Iterable[Job], tell: Tell) -> Iterator[tuple[Job, Line]]:
        """See `Engine`."""
        for job in jobs:
            for event in attempt(job, self.team, self._watch(job)):
                if isinstance(event, Event):
                    tell(job, event)
                else:
                    yield job, event

    def _watch(self, job: Job) -> Callable[[nn.Module, ImageSet], None] | None:
        watch = self.on_trained
        return None if watch is None else lambda model, images: watch(job, model, images)


@dataclass(frozen=True)
class Processes:
    """Compute several runs at a time, each in a process of this machine.

    A process serves one run after the other. All of them end with this process, however it ends.

    Attributes:
        number: Number of processes.
        threads: CPU threads of each process.
        retries: How many times a run is tried again if its process dies.
    """

    number: int
    threads: int = 1
    retries: int = 1

    def __call__(self, jobs: Iterable[Job], tell: Tell) -> Iterator[tuple[Job, Line]]:
        """See `Engine`."""
        workers: dict[int, _Worker] = {}
        again: deque[Job] = deque()
        deaths: Counter[str] = Counter()
        source = iter(jobs)
        try:
            while True:
                for place in range(self.number):
                    if place in workers and workers[place].job is not None:
                        continue
                    job = again.popleft() if again else next(source, None)
                    if job is None:
                        break
                    if place not in workers:
                        workers[place] = _Worker(self.threads)
                    workers[place].begin(_placed(job, place))
                busy = {worker.pipe: place for place, worker in workers.items() if worker.job is not None}
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    place = busy[pipe]  # ty: ignore[invalid-argument-type]
                    job, event = workers[place].job, workers[place].read()
                    assert job is not None
                    if isinstance(event, Event):
                        tell(job, event)
                        continue
                    if event is None:
                        ended = workers.pop(place).end(patience=5.0)
                        deaths[job.run.key] += 1
                        if deaths[job.run.key] <= self.retries:
                            again.append(job)
                            continue
                        event = failure(job, f"its process ended {ended}; was there enough memory?")
                    else:
                        workers[place].job = None
                    yield job, event
        finally:
            for worker in workers.values():
                worker.end()


@dataclass(frozen=True)
class Ray:
    """Compute runs as tasks of a Ray cluster, or of one that is started on this machine.

    Attributes:
        address: Address of the cluster; ``auto`` for the one that this machine belongs to. By default one is started
            here and ends with the sweep.
        cpus: CPU cores of a run, which is also its number of threads.
        gpus: GPUs of a run; with a fraction, runs share one.
        retries: How many times a run is tried again if its process or machine dies.
        workers: Largest number of runs at a time on a cluster that is started here; None for all cores.

    Raises:
        ValueError: If ray is not installed, or a number is too small.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        require("ray", "ray")

    def __call__(self, jobs: Iterable[Job], tell: Tell) -> Iterator[tuple[Job, Line]]:
        """See `Engine`."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home
        import ray
        from ray.exceptions import RayError

        ours = not ray.is_initialized()
        if ours:
            local: Any = {} if self.address else {"num_cpus": self.workers and self.workers * self.cpus}
            quiet: Any = dict(include_dashboard=False, log_to_driver=False, logging_level="error")
            ray.init(self.address, **quiet, **local)
        settings: Any = dict(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, num_returns="streaming")
        task: Any = ray.remote(**settings)(events)
        running: dict[Any, Job] = {}
        deaths: Counter[str] = Counter()
        try:
            for job in jobs:
                running[task.remote(job, self.cpus)] = job
            while running:
                ready, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
                stream: Any = ready[0]
                job = running[stream]
                try:
                    event: Any = ray.get(next(stream))
                except (StopIteration, RayError) as error:
                    del running[stream]
                    deaths[job.run.key] += 1
                    if deaths[job.run.key] <= self.retries:
                        running[task.remote(job, self.cpus)] = job
                        continue
                    yield job, failure(job, f"its Ray task ended: {type(error).__name__}: {error}")
                    continue
                if isinstance(event, Event):
                    tell(job, event)
                else:
                    del running[stream]
                    yield job, event
        finally:
            for stream in running:
                ray.cancel(stream, force=True)
            if ours:
                ray.shutdown()


def events(job: Job, threads: int) -> Iterator[Event | Line]:
    """Run a job in a process of its own: yield the metrics of each epoch, then the line."""
    torch.set_num_threads(threads)
    yield from attempt(job)


class _Worker:
    """A process that serves jobs, with the pipe to it."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # No daemon, which could not have processes that read images.
        self.process = context.Process(target=_serve, args=(theirs, threads))
        with for_parent_alone():
            self.process.start()
        theirs.close()  # the process has the other copy, so its end is an end of file here
        self.job: Job | None = None

    def begin(self, job: Job) -> None:
        """Send a job."""
        self.job = job
        with suppress(ConnectionError):  # it has died meanwhile, as reading will show
            self.pipe.send(job)

    def read(self) -> Event | Line | None:
        """Return the next message of the process; None if it has died."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            return None

    def end(self, patience: float = 0.0) -> str:
        """End the process after waiting for its own end; return a description of how it ended."""
        self.pipe.close()
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        return f"with signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _serve(pipe: Any, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # the parent has nothing more to ask
        while True:
            for event in events(pipe.recv(), threads):
                pipe.send(event)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _placed(job: Job, place: int) -> Job:
    """Return a job with the GPU of its process, if there are several GPUs."""
    gpus = torch.cuda.device_count() if job.placement.device == "cuda" else 0
    return replace(job, placement=replace(job.placement, device=f"cuda:{place % gpus}")) if gpus > 1 else job
