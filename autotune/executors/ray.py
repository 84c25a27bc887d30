"""Measures through Ray: on this machine with a Ray of its own, or on a running cluster.

Each slot is an actor that reserves its share of a node's cores and GPUs, so that Ray never
places two measurements on one node at once. Nothing is retried by Ray: what fails comes back as
a result of kind ``infrastructure``, and the study decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import InputError, UnsupportedError
from autotune.executors.base import Executor, Job, OnEvent
from autotune.executors.local import infrastructure_failure
from autotune.executors.ray_slot import FROM_DRIVER, Slot
from autotune.trial import NodeInfo, ProbeRequest, TrialResult, TrialSpec, parse_event

_log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 2**20
"""Only small JSON passes through Ray."""

_RESERVE_SECONDS = 60.0
_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


@dataclass
class _Place:
    """One slot: where it is, its actor, and what it runs."""

    node: str
    node_id: str
    cpus: float
    gpus: float
    actor: Any = None
    job: RayJob | None = None


class RayJob(Job):
    """A measurement in a slot's actor, followed by a thread of the driver."""

    def __init__(self, spec: TrialSpec, place: _Place, executor: RayExecutor) -> None:
        self.uuid = spec.uuid
        self.study = spec.study
        self.node = place.node
        self._spec = spec
        self._place = place
        self._executor = executor
        self._done = threading.Event()
        self._result: TrialResult | None = None
        self._stop_asked: float | None = None
        threading.Thread(target=self._run, name=f"follow-{spec.uuid[:8]}", daemon=True).start()

    def done(self) -> bool:
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> TrialResult:
        if not self._done.wait(timeout) or self._result is None:
            raise TimeoutError(f"measurement {self.uuid} has not ended after {timeout} s")
        return self._result

    def stop(self) -> None:
        if self._stop_asked is None:
            self._stop_asked = time.monotonic()
        if not self._done.is_set():
            self._place.actor.stop.remote(self.uuid)

    def _run(self) -> None:
        started_at, began = time.time(), time.monotonic()
        lost = False
        try:
            result = self._follow()
        except Exception as error:  # Ray's own errors are many: actor, node, object, timeout
            lost = True
            result = infrastructure_failure(
                self.uuid, self.node, error, started_at, time.monotonic() - began
            )
        self._result = result.model_copy(update={"node": self.node})
        self._executor.release(self._place, lost and self._stop_asked is None)
        self._done.set()

    def _follow(self) -> TrialResult:
        actor = self._place.actor
        self._answer(actor.start.remote(self._spec.model_dump_json()))
        while True:
            events, result = self._answer(actor.poll.remote(self.uuid, _POLL_SECONDS))
            for line in events:
                if self._executor.on_event is not None:
                    self._executor.on_event(self.uuid, parse_event(line))
            if result is not None:
                return TrialResult.model_validate_json(result)

    def _answer(self, reference: Any) -> Any:
        """What an actor answers, unless it is given up: where its raylet is gone Ray does not say
        so, and a user who asked for a stop does not wait for it."""
        import ray

        deadline = time.monotonic() + _ANSWER_SECONDS
        while not ray.wait([reference], timeout=_POLL_SECONDS)[0]:
            if self._stop_asked is not None:
                deadline = min(deadline, self._stop_asked + _STOP_SECONDS)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the slot on {self.node} does not answer; is its node gone?")
        return ray.get(reference)


class RayExecutor(Executor):
    """Slots on the nodes of a Ray cluster."""

    def __init__(
        self,
        address: str | None = None,
        slots_per_node: int = 1,
        on_event: OnEvent | None = None,
    ) -> None:
        """Args:
        address: None starts Ray here, reachable from this machine only; ``auto`` joins the
            cluster of this machine or of RAY_ADDRESS; ``host:port`` joins that one.
        slots_per_node: measurements at a time on a node; more than 1 disturb each other.
        on_event: called with every event of every measurement.
        """
        self.slots = 0
        self.on_event = on_event
        self._address = address
        self._per_node = slots_per_node
        self._places: list[_Place] = []
        self._manifests: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._connected = False

    @classmethod
    def create(
        cls, *, address: str | None, slots_per_node: int, on_event: OnEvent | None = None
    ) -> RayExecutor:
        return cls(address=address, slots_per_node=slots_per_node, on_event=on_event)

    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        """Bring the slots up; see `Executor.start`.

        Raises:
            InputError: if there is no cluster at the address.
            UnsupportedError: if Ray is missing or a node's cores are not free.
        """
        self._connect()
        self._places = self._find_places()
        for place in self._places:
            self._reserve(place)
        self.slots = len(self._places)
        first = {place.node_id: place for place in reversed(self._places)}
        import ray

        asked = {
            place.node: place.actor.prepare.remote(probe.model_dump_json())
            for place in reversed(first.values())
        }
        nodes = []
        for name, answer in asked.items():
            info = NodeInfo.model_validate_json(ray.get(answer))
            nodes.append(info.model_copy(update={"node": name}))
        self._manifests = {info.node: info.manifest for info in nodes}
        return nodes

    def submit(self, spec: TrialSpec, node: str | None = None) -> RayJob:
        with self._lock:
            free = [p for p in self._places if p.job is None and (node is None or p.node == node)]
            if not free:
                where = f" on {node}" if node else ""
                raise RuntimeError(f"all {self.slots} slots are taken{where}")
            place = free[0]
            manifest = self._manifests.get(place.node)
            if manifest is not None:
                spec = spec.model_copy(update={"manifest": manifest})
            job = RayJob(spec, place, self)
            place.job = job
        return job

    def close(self) -> None:
        if not self._connected:
            return
        import ray

        with self._lock:
            running = [place.job for place in self._places if place.job is not None]
        for job in running:
            job.stop()
        for job in running:
            with contextlib.suppress(TimeoutError):
                job.result(timeout=_ANSWER_SECONDS)
        self._connected = False
        places, self._places, self.slots = self._places, [], 0
        try:
            for place in places:
                if place.actor is not None:  # else its cores were not reserved yet
                    ray.kill(place.actor, no_restart=True)
        finally:
            ray.shutdown()

    def release(self, place: _Place, lost: bool) -> None:
        """A slot's measurement is over; an actor that was lost is started anew."""
        if lost and self._connected:
            try:
                self._reserve(place)
                if place.job is not None:
                    _get(place.actor.clean.remote(place.job.study))
            except Exception:  # the node is gone: its next measurement fails as this one did
                _log.warning("the slot on %s could not be restarted", place.node, exc_info=True)
        with self._lock:
            place.job = None

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self._address is None:
            # Read when ray is imported. Without "clusters" Ray takes 127.0.0.1 for this node's
            # address and then listens on it alone; it turns _node_ip_address="127.0.0.1" into
            # the outward address, and listens on every one.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            _give_token()
        try:
            import ray
        except ImportError as error:
            raise UnsupportedError(
                "executor.kind: ray needs the package ray, which cannot be imported; install it "
                "with `pip install ray`, or use `executor: {kind: local}`"
            ) from error
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": False,
        }
        if self._address is None:
            options |= {
                "address": "local",  # never a cluster that RAY_ADDRESS names
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": {"worker_niceness": 0},
            }
        else:
            options["address"] = self._address
        if self._address is not None and self._address != "auto":
            _check_reachable(self._address)
        logging.getLogger("ray").setLevel(logging.ERROR)  # a notice on authentication, and more
        with _handlers_kept():
            try:
                ray.init(**options)
            except ConnectionError as error:
                raise _no_cluster(self._address) from error
            except ray.exceptions.AuthenticationError as error:
                raise InputError(
                    f"executor.address: {self._address}: the Ray cluster refuses our token; set "
                    "RAY_AUTH_TOKEN to the one it was started with"
                ) from error
        self._connected = True

    def _find_places(self) -> list[_Place]:
        import ray

        places = []
        names: set[str] = set()
        for node in ray.nodes():
            resources = node["Resources"]
            cpus = float(resources.get("CPU", 0))
            if not node["Alive"] or cpus <= 0:
                continue
            name = str(node["NodeManagerHostname"])
            if name in names:  # several raylets on one host, as in tests and containers
                name = f"{name}-{node['NodeID'][:8]}"
            names.add(name)
            gpus = float(resources.get("GPU", 0))
            places += [
                _Place(name, str(node["NodeID"]), self._share(cpus), self._share(gpus))
                for _ in range(self._per_node)
            ]
        if not places:
            raise UnsupportedError("executor: the Ray cluster has no node with cores to reserve")
        return places

    def _share(self, amount: float) -> float:
        """A slot's part of a node's resource: whole units, as Ray wants them above 1."""
        share = amount / self._per_node
        return float(int(share)) if share >= 1 else share

    def _reserve(self, place: _Place) -> None:
        """Start a slot's actor on its node and wait until it is there."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node_id=place.node_id, soft=False)
        actor = ray.remote(Slot).options(  # type: ignore[attr-defined, unused-ignore]
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=3,
            scheduling_strategy=strategy,
        )
        driver = {name: os.environ.get(name) for name in FROM_DRIVER}
        place.actor = actor.remote(driver, os.getcwd())
        try:
            ray.get(place.actor.describe.remote(), timeout=_RESERVE_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise UnsupportedError(
                f"executor: {place.cpus:g} cores and {place.gpus:g} GPUs of node {place.node} were "
                f"not free within {_RESERVE_SECONDS:g} s; wait for what runs there, or leave the "
                "address out to measure on this machine"
            ) from error


def _get(answer: Any) -> Any:
    import ray

    return ray.get(answer, timeout=_ANSWER_SECONDS)


def _check_reachable(address: str) -> None:
    """Raise InputError where nothing listens: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"executor.address: {address!r} is not accepted; accepted are host:port of a Ray "
            "cluster's head node, auto, or nothing to start Ray here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str | None) -> InputError:
    return InputError(
        f"executor.address: {address}: no Ray cluster answers there; start one with `ray start "
        "--head`, give host:port of its head node (and its RAY_AUTH_TOKEN), or leave the address "
        "out to start Ray here"
    )


def _give_token() -> None:
    """Protect a Ray of our own with a token that lives in memory alone, where the user has
    none: Ray would write one into the home folder, which may not be writable."""
    named = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(name in os.environ for name in named):
        if (Path.home() / ".ray" / "auth_token").exists():
            return
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_AUTH_MODE"] = "token"


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the signal handlers that ray.init replaces: Ctrl-C belongs to the study."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
