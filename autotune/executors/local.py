"""Measures on this machine, without Ray: one thread a measurement."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Sequence

from autotune.exceptions import InputError
from autotune.executors.base import Executor, Job, OnEvent
from autotune.executors.node import prepare_node
from autotune.supervision.supervisor import environment_learnt, supervise
from autotune.system import machine
from autotune.trial import Event, Failure, NodeInfo, ProbeRequest, TrialResult, TrialSpec


class LocalJob(Job):
    """A measurement in a thread of its own: the worker dies with the thread that spawned it."""

    def __init__(self, spec: TrialSpec, executor: LocalExecutor, slot: int) -> None:
        self.uuid = spec.uuid
        self.node = socket.gethostname()
        self._spec = spec
        self._executor = executor
        self.slot = slot
        self._stop = threading.Event()
        self._done = threading.Event()
        self._result: TrialResult | None = None
        # a daemon: where the driver ends without `close`, the trial's guardian cleans up
        threading.Thread(target=self._run, name=f"measure-{spec.uuid[:8]}", daemon=True).start()

    def done(self) -> bool:
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> TrialResult:
        if not self._done.wait(timeout) or self._result is None:
            raise TimeoutError(f"measurement {self.uuid} has not ended after {timeout} s")
        return self._result

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        executor, spec = self._executor, self._spec
        started_at, began = time.time(), time.monotonic()
        try:
            ahead = executor.environment_ahead(spec)
            changes = executor.changes(self.slot)
            self._result = supervise(spec, self._on_event, self._stop, changes=changes, ahead=ahead)
        except Exception as error:
            self._result = infrastructure_failure(
                spec.uuid, self.node, error, started_at, time.monotonic() - began
            )
        finally:
            executor.release(self)
            self._done.set()

    def _on_event(self, event: Event) -> None:
        learnt = environment_learnt(event)
        if learnt is not None:
            self._executor.learn(self._spec, learnt)
        if self._executor.on_event is not None:
            self._executor.on_event(self.uuid, event)


class LocalExecutor(Executor):
    """Slots on this machine."""

    def __init__(self, slots: int = 1, on_event: OnEvent | None = None) -> None:
        """Args:
        slots: measurements at a time; more than 1 lets them disturb each other.
        on_event: called with every event of every measurement.
        """
        self.slots = slots
        self.on_event = on_event
        self._shares: list[list[str]] | None = None
        self._running: list[LocalJob] = []
        self._lock = threading.Lock()
        self._environments: dict[str, dict[str, str]] = {}

    @classmethod
    def create(
        cls, *, address: str | None, slots_per_node: int, on_event: OnEvent | None = None
    ) -> LocalExecutor:
        """See `Executor.create`.

        Raises:
            InputError: if an address is given.
        """
        if address is not None:
            raise InputError(
                f"executor.address: {address!r} has no meaning for kind: local, which measures on "
                "this machine; leave it out, or use kind: ray"
            )
        return cls(slots=slots_per_node, on_event=on_event)

    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        """See `Executor.start`. What a node has is what each of its slots has."""
        if self.slots > 1:
            self._shares = shares(machine.visible_devices(), self.slots)
        return [prepare_node(probe, changes=self.changes(0))]

    def submit(self, spec: TrialSpec, node: str | None = None) -> LocalJob:
        if node not in (None, socket.gethostname()):
            raise ValueError(f"node {node!r} is not this machine, {socket.gethostname()!r}")
        with self._lock:
            free = set(range(self.slots)) - {job.slot for job in self._running}
            if not free:
                raise RuntimeError(f"all {self.slots} slots are taken")
            job = LocalJob(spec, self, min(free))
            self._running.append(job)
        return job

    def close(self) -> None:
        with self._lock:
            running = list(self._running)
        for job in running:
            job.stop()
        for job in running:
            job.result()

    def release(self, job: LocalJob) -> None:
        """A job is over: its slot is free."""
        with self._lock:
            if job in self._running:
                self._running.remove(job)

    def changes(self, slot: int) -> dict[str, str | None] | None:
        """What the environment of a slot's processes has of its own: the slot's GPUs."""
        if self._shares is None:
            return None
        return {"CUDA_VISIBLE_DEVICES": ",".join(self._shares[slot])}

    def learn(self, spec: TrialSpec, environment: dict[str, str]) -> None:
        """Remember what a target asked of the environment, to start the next worker with it."""
        with self._lock:
            self._environments[spec.target] = environment

    def environment_ahead(self, spec: TrialSpec) -> dict[str, str] | None:
        """What the target asked for last time; the worker checks that it still does."""
        with self._lock:
            return self._environments.get(spec.target)


def shares(devices: Sequence[str], slots: int) -> list[list[str]]:
    """The devices of each slot: equally many, as figures of two slots are compared. A remainder
    stays idle; where there are more slots than devices, several slots share one."""
    each = len(devices) // slots
    if each:
        return [list(devices[slot * each : (slot + 1) * each]) for slot in range(slots)]
    return [[devices[slot % len(devices)]] if devices else [] for slot in range(slots)]


def infrastructure_failure(
    uuid: str, node: str, error: BaseException, started_at: float, wall_seconds: float
) -> TrialResult:
    """The result of a measurement that the executor itself could not run.

    Args:
        started_at: Unix time; ``wall_seconds`` since then, by the monotonic clock.
    """
    text = " ".join(str(error).split())[:400]
    log = "".join(traceback.format_exception(error))
    return TrialResult(
        uuid=uuid,
        state="failed",
        failure=Failure(
            kind="infrastructure",
            cause=f"{type(error).__name__}: {text}",
            advice="The measurement is repeated; `autotune doctor` checks the executor.",
        ),
        log_tail=log[-4096:],
        node=node,
        started_at=started_at,
        wall_seconds=wall_seconds,
    )
