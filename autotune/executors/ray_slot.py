"""The part of the Ray executor that runs on the measuring node: one actor a slot.

The actor reserves the slot's cores and GPUs through Ray and supervises there; the worker is a
child of the actor's process. A thread of its own supervises, since the kernel ends the worker
with the thread that spawned it, and Ray's threads are not ours to rely on.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping

from autotune.executors.local import infrastructure_failure
from autotune.executors.node import prepare_node
from autotune.supervision.cleanup import end_leftovers
from autotune.supervision.supervisor import environment_learnt, supervise
from autotune.system import processes
from autotune.trial import Event, ProbeRequest, TrialResult, TrialSpec

_BATCH_SECONDS = 0.5
"""Events wait so long for others, a result never: each answer costs all of Ray some milliseconds
of CPU, on the machine that measures."""

_AFTER_THE_TRIAL = 500
"""Ray puts its workers at 1000, where the trial is: the supervisor has to outlive it."""

FROM_DRIVER = ("OMP_NUM_THREADS", "PYTHONPATH")
"""Variables that Ray sets for its own workers, or that a checkout needs: as in the driver."""


class Slot:
    """Measures one specification at a time. All arguments and answers are JSON or plain."""

    def __init__(self, driver: Mapping[str, str | None], cwd: str | None) -> None:
        """Args:
        driver: the driver's values of `FROM_DRIVER`.
        cwd: the driver's working directory, used where this node has it.
        """
        processes.offer_to_the_kernel(_AFTER_THE_TRIAL)
        self._changes = trial_changes(driver, _assigned_gpus())
        self._cwd = cwd if cwd is not None and os.path.isdir(cwd) else None
        self._news = threading.Condition()
        self._events: list[str] = []
        self._result: TrialResult | None = None
        self._uuid = ""
        self._stop = threading.Event()
        self._environments: dict[str, dict[str, str]] = {}

    def describe(self) -> dict[str, str | int]:
        """Host name and pid of the process that measures."""
        return {"node": socket.gethostname(), "pid": os.getpid()}

    def prepare(self, request: str) -> str:
        """End leftovers and probe this node: ProbeRequest in, NodeInfo out."""
        probe = ProbeRequest.model_validate_json(request)
        return prepare_node(probe, sys.executable, self._changes, self._cwd).model_dump_json()

    def clean(self, study: str) -> list[str]:
        """End what the slot's actor before this one left; returns the command lines."""
        return end_leftovers(study)

    def start(self, spec: str) -> None:
        """Begin a measurement (a TrialSpec); `poll` tells how it goes.

        Raises:
            RuntimeError: if one is under way.
        """
        parsed = TrialSpec.model_validate_json(spec)
        with self._news:
            if self._uuid and self._result is None:
                raise RuntimeError(f"this slot measures {self._uuid}")
            self._uuid, self._result, self._events = parsed.uuid, None, []
            self._stop = threading.Event()
        threading.Thread(
            target=self._measure, args=(parsed, self._stop), name="measure", daemon=True
        ).start()

    def poll(self, uuid: str, wait_seconds: float) -> tuple[list[str], str | None]:
        """Events since the last call, waiting for one for some time, and the result if over."""
        deadline = time.monotonic() + wait_seconds
        with self._news:
            while not self._events and self._result is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    break
            batched = time.monotonic() + _BATCH_SECONDS
            while self._events and self._result is None:
                left = batched - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    break
            events, self._events = self._events, []
            result = self._result
        if uuid != self._uuid:
            raise RuntimeError(f"this slot measures {self._uuid or 'nothing'}, not {uuid}")
        return events, None if result is None else result.model_dump_json()

    def stop(self, uuid: str) -> None:
        """End the measurement now, if it is the one under way."""
        with self._news:
            if uuid == self._uuid:
                self._stop.set()

    def _measure(self, spec: TrialSpec, stop: threading.Event) -> None:
        def on_event(event: Event) -> None:
            learnt = environment_learnt(event)
            with self._news:
                if learnt is not None:
                    self._environments[spec.target] = learnt
                self._events.append(event.model_dump_json())
                self._news.notify_all()

        started_at, began = time.time(), time.monotonic()
        try:
            ahead = self._environments.get(spec.target)
            result = supervise(
                spec, on_event, stop, changes=self._changes, ahead=ahead, cwd=self._cwd
            )
        except Exception as error:
            result = infrastructure_failure(
                spec.uuid,
                socket.gethostname(),
                error,
                started_at,
                time.monotonic() - began,
            )
        with self._news:
            self._result = result
            self._news.notify_all()


def trial_changes(
    driver: Mapping[str, str | None], gpus: list[str] | None
) -> dict[str, str | None]:
    """What to change in a Ray worker's environment for the processes of a trial.

    They get what production has: not Ray's number of threads, none of its variables, and
    exactly the GPUs that Ray reserved (reserving none does not hide them).

    Args:
        driver: values of `FROM_DRIVER` in the driver.
        gpus: the reserved GPUs.
    """
    changes: dict[str, str | None] = {n: None for n in os.environ if n.startswith("RAY_")}
    changes.update(driver)
    changes["CUDA_VISIBLE_DEVICES"] = ",".join(gpus or [])
    return changes


def _assigned_gpus() -> list[str]:
    import ray

    return [str(gpu) for gpu in ray.get_gpu_ids()]
