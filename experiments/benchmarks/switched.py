"""A loader beside which something of ours is switched off and on again, many times in one run.

What supervising, measuring or watching cost is about a per cent; two runs of one configuration
differ by ten times that. Within one run the loader, its threads and its memory stay the same, so
the rates of neighbouring slices of it differ by what was switched, and by little else.

`Switched` is a target around another one. The worker that measures it, or a benchmark, says by
`Plan` what is off in every second slice: processes are stopped by SIGSTOP, a thread of the worker
is held before its next piece of work, and, where the measuring loop itself is switched, the
batches are taken in a plain loop that only counts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from autotune.measuring.telemetry import Telemetry
from autotune.plugins import load_target
from autotune.publishing.publisher import Publisher
from autotune.stats import RatioEstimate, ratio_interval
from autotune.system import processes
from autotune.targets.base import Batch, BuildContext, Loader, OpenParams, QueueLevel, Target
from autotune.trial import Delivered, FailedClip, Params, StageStats, TrialSpec

SWITCHED = "experiments.benchmarks.switched:Switched"
_PLAN = "AUTOTUNE_SWITCHED"


@dataclass(frozen=True)
class Plan:
    """What is switched, and how."""

    target: str
    """The target whose loader runs."""
    what: Literal["measuring", "watching"]
    """``measuring``: windows, delivery checks, telemetry; ``watching``: the publishing thread."""
    output: str
    """File to which every slice is written, as a line of JSON."""
    stop: list[int] = field(default_factory=list)
    """Processes that are stopped where it is off."""
    slice_seconds: float = 1.0
    settle_seconds: float = 2.0
    """On, and not counted, after the first batch."""
    seed: int = 0

    def in_environment(self) -> dict[str, str]:
        """What a worker of `Switched` has to be started with."""
        return {_PLAN: json.dumps(asdict(self))}

    @classmethod
    def of_this_process(cls) -> Plan:
        """The plan that this worker was started with."""
        return cls(**json.loads(os.environ[_PLAN]))


@dataclass(frozen=True)
class Slice:
    """A stretch of the run, from one batch to another."""

    on: bool
    samples: int
    batches: int
    seconds: float
    loop_cpu_seconds: float
    """CPU time of the thread that takes the batches."""
    own_cpu_seconds: float
    """CPU time of what is held and stopped where it is off."""

    @property
    def rate(self) -> float:
        """samples/s."""
        return self.samples / self.seconds


def slices_of(path: Path) -> list[Slice]:
    """What a run wrote."""
    return [Slice(**json.loads(line)) for line in path.read_text().splitlines()]


def on_over_off(slices: Sequence[Slice]) -> RatioEstimate:
    """The rate with it over the rate without it. Slices come in pairs of either order, and the
    interval is a t interval over the pairs.

    Raises:
        ValueError: if there are fewer than two pairs.
    """
    pairs = zip(slices[::2], slices[1::2], strict=False)
    ordered = [(a, b) if a.on else (b, a) for a, b in pairs]
    return ratio_interval([on.rate for on, _ in ordered], [off.rate for _, off in ordered])


def cpu_share(slices: Sequence[Slice], cores: int) -> float:
    """CPU time that it takes while it is on, as a share of the machine: what is switched itself,
    and what the thread that takes the batches spends on one more than with it off."""
    on, off = ([s for s in slices if s.on == state] for state in (True, False))
    own = sum(s.own_cpu_seconds for s in on)
    plain = sum(s.loop_cpu_seconds for s in off) / sum(s.batches for s in off)
    loop = sum(s.loop_cpu_seconds for s in on) - plain * sum(s.batches for s in on)
    return (own + loop) / sum(s.seconds for s in on) / cores


class Switched(Target):
    """Another target, as the plan says."""

    name: ClassVar[str] = "switched"
    Params: ClassVar[type[BaseModel]] = OpenParams
    Settings: ClassVar[type[BaseModel]] = OpenParams

    def environment(self, params: Params, settings: Mapping[str, Any]) -> dict[str, str]:
        """As the other one asks."""
        return load_target(Plan.of_this_process().target).environment(params, settings)

    def expected(self, spec: TrialSpec) -> Delivered | None:
        """As of the other one: what is checked belongs to what is switched."""
        return load_target(Plan.of_this_process().target).expected(spec)

    def build(self, context: BuildContext) -> Loader:
        """The other one's loader, switched."""
        plan = Plan.of_this_process()
        return SwitchedLoader(load_target(plan.target).build(context), plan)


class SwitchedLoader(Loader):
    """Hands on the batches of another loader; off the record where measuring is switched off."""

    def __init__(self, loader: Loader, plan: Plan) -> None:
        self._loader = loader
        self._plan = plan
        self._gate = _Gate()
        if plan.what == "measuring":
            self._gate.hold(Telemetry, "_sample")
        else:
            self._gate.hold(Publisher, "_publish")

    @property
    def prefetched_batches(self) -> int:
        return self._loader.prefetched_batches

    def __iter__(self) -> Iterator[Batch]:
        plan, batches = self._plan, iter(self._loader)
        yield next(batches)
        settled = time.monotonic() + plan.settle_seconds
        while (began := time.monotonic()) < settled:
            yield next(batches)
        order = random.Random(plan.seed)
        before = self._cpu()
        with open(plan.output, "w", encoding="utf-8", buffering=1) as file:
            while True:
                for on in order.sample([True, False], 2):
                    self._switch(on)
                    samples, count, now = 0, 0, began
                    while now - began < plan.slice_seconds:
                        batch = next(batches)
                        samples += batch.samples
                        count += 1
                        if on or plan.what == "watching":
                            yield batch
                        now = time.monotonic()
                    after = self._cpu()
                    spent = [b - a for a, b in zip(before, after, strict=True)]
                    made = Slice(on, samples, count, now - began, *spent)
                    file.write(json.dumps(asdict(made)) + "\n")
                    began, before = now, after

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of this thread, and of what is switched, until now."""
        stopped = sum(_cpu_seconds(pid) for pid in self._plan.stop)
        return time.thread_time(), self._gate.cpu_seconds + stopped

    def _switch(self, on: bool) -> None:
        self._gate.open(on)
        for pid in self._plan.stop:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)

    def readback(self) -> Params:
        return self._loader.readback()

    def stage_stats(self) -> list[StageStats]:
        return self._loader.stage_stats()

    def queues(self) -> list[QueueLevel]:
        return self._loader.queues()

    def failed(self) -> tuple[int, list[FailedClip]]:
        return self._loader.failed()

    def on_epoch_or_step(self, step: int) -> None:
        self._loader.on_epoch_or_step(step)

    def close(self) -> None:
        self._switch(True)
        self._loader.close()


class _Gate:
    """Holds methods back while it is closed, and adds up the CPU time that they take."""

    def __init__(self) -> None:
        self._on = threading.Event()
        self._on.set()
        self.cpu_seconds = 0.0

    def open(self, on: bool) -> None:
        """Let calls begin, or no longer."""
        if on:
            self._on.set()
        else:
            self._on.clear()

    def hold(self, owner: type, method: str) -> None:
        """From now on no call of ``owner.method`` begins while the gate is closed."""
        original = getattr(owner, method)

        def held(*args: Any, **kwargs: Any) -> Any:
            self._on.wait()
            before = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                self.cpu_seconds += time.thread_time() - before

        setattr(owner, method, held)


def _cpu_seconds(pid: int) -> float:
    fields = processes.stat_fields(pid)
    if fields is None:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
