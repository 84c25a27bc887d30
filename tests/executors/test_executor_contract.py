"""What every executor must do, over local processes and over Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import FOLDER, ROOT, marked, specification, wait_for

from autotune.exceptions import InputError, UnsupportedError
from autotune.executors.base import Executor
from autotune.executors.local import LocalExecutor
from autotune.executors.ray import RayExecutor, _Place
from autotune.executors.ray_slot import trial_changes
from autotune.system import processes
from autotune.trial import STUDY_MARK, Event, NodeInfo, ProbeRequest

Listener = list[tuple[str, Event]]


class Running:
    """One started executor with what it told."""

    def __init__(self, executor: Executor, nodes: list[NodeInfo], events: Listener) -> None:
        self.executor = executor
        self.nodes = nodes
        self.events = events


def begin(executor: Executor, listener: Listener, folder: Path) -> Running:
    request = ProbeRequest(
        study="contract",
        target="synthetic:Steady",
        params={"batch_size": 4, "num_threads": 1},
        settings={"library": "probed"},
        cache_dir=str(folder),
    )
    return Running(executor, executor.start(request), listener)


@pytest.fixture(scope="module", autouse=True)
def _targets_importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")
        patch.setenv("OMP_NUM_THREADS", "3")
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # somebody's cluster: never joined
        yield


@pytest.fixture(scope="module")
def run_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Running]]:
    started: dict[str, Running] = {}

    def get(kind: str) -> Running:
        if kind not in started:
            listener: Listener = []

            def on_event(uuid: str, event: Event) -> None:
                listener.append((uuid, event))

            chosen = LocalExecutor if kind == "local" else RayExecutor
            executor = chosen.create(address=None, slots_per_node=1, on_event=on_event)
            started[kind] = begin(executor, listener, tmp_path_factory.mktemp(kind))
        return started[kind]

    yield get
    for running in started.values():
        running.executor.close()
        running.executor.close()  # idempotent


@pytest.fixture(params=["local", "ray"])
def running(request: pytest.FixtureRequest, run_on: Callable[[str], Running]) -> Running:
    return run_on(request.param)


LONG = {"min_seconds": 600, "max_seconds": 600, "window_seconds": 0.1}


def started_window(running: Running, uuid: str) -> bool:
    return any(u == uuid and e.event == "window" for u, e in list(running.events))


def test_start_probes_each_node(running: Running) -> None:
    assert running.executor.slots == 1
    (node,) = running.nodes
    assert node.error is None
    assert node.names["cpu_count"] == len(os.sched_getaffinity(0))
    assert node.fingerprint.machine["synthetic"] == "probed", "run in the target's environment"
    assert node.fingerprint.machine["packages"]["numpy"]


def test_a_measurement_comes_back_with_its_events(running: Running) -> None:
    spec = specification()
    job = running.executor.submit(spec)
    result = job.result(timeout=60)
    assert result.state == "finished", result
    assert job.done()
    assert result.uuid == spec.uuid == job.uuid
    assert result.node == job.node == running.nodes[0].node
    kinds = [event.event for uuid, event in running.events if uuid == spec.uuid]
    assert kinds[:3] == ["started", "built", "first_batch"]
    assert kinds[-1] == "finished"
    assert marked(spec) == []


def test_one_measurement_at_a_time(running: Running) -> None:
    spec = specification(measurement=LONG)
    job = running.executor.submit(spec)
    with pytest.raises(RuntimeError, match="taken"):
        running.executor.submit(specification())
    assert wait_for(lambda: started_window(running, spec.uuid))
    with pytest.raises(TimeoutError):
        job.result(timeout=0.05)
    job.stop()
    assert job.result(timeout=30).state == "stopped"
    assert marked(spec) == []
    assert running.executor.submit(specification()).result(timeout=60).state == "finished"


def test_a_failed_measurement_leaves_the_slot_usable(running: Running) -> None:
    job = running.executor.submit(specification(settings={"fault": [20, "segfault"]}))
    failure = job.result(timeout=60).failure
    assert failure is not None
    assert failure.kind == "crash"
    assert running.executor.submit(specification()).result(timeout=60).state == "finished"


def test_a_trial_gets_the_drivers_environment(running: Running) -> None:
    spec = specification(measurement=LONG)
    job = running.executor.submit(spec)
    try:
        assert wait_for(lambda: started_window(running, spec.uuid))
        worker = next(p for p in marked(spec) if processes.name_of(p) != processes.GUARDIAN_NAME)
        environment = processes.environment_of(worker)
        assert environment["OMP_NUM_THREADS"] == "3"
        assert environment[STUDY_MARK] == spec.study
        if running.executor.__class__ is RayExecutor:
            assert [name for name in environment if name.startswith("RAY_")] == []
        assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        job.stop()
        job.result(timeout=30)


# ------------------------------------------------------------------ local


def test_close_stops_what_runs() -> None:
    executor = LocalExecutor(slots=2)
    specs = [specification(measurement=LONG, settings={"forkserver": True}) for _ in range(2)]
    jobs = [executor.submit(spec) for spec in specs]
    assert wait_for(lambda: all(len(marked(spec)) >= 4 for spec in specs))
    executor.close()
    assert [job.result(timeout=0).state for job in jobs] == ["stopped", "stopped"]
    assert [marked(spec) for spec in specs] == [[], []]


def test_the_local_executor_has_no_address() -> None:
    with pytest.raises(InputError, match=r"executor\.address"):
        LocalExecutor.create(address="auto", slots_per_node=1)


# ------------------------------------------------------------------ Ray


def supervising(spec_uuid: str, pids: list[int]) -> int:
    """The pid of the process that supervises a measurement: its worker's parent."""
    fields = processes.stat_fields(
        next(p for p in pids if processes.name_of(p) != processes.GUARDIAN_NAME)
    )
    assert fields is not None, spec_uuid
    return int(fields[1])


def test_the_death_of_a_ray_worker_ends_its_trial_and_the_slot_comes_back(
    run_on: Callable[[str], Running],
) -> None:
    running = run_on("ray")
    spec = specification(measurement=LONG, settings={"forkserver": True})
    job = running.executor.submit(spec)
    assert wait_for(lambda: started_window(running, spec.uuid))
    found = marked(spec)
    assert len(found) >= 4, "worker, guardian, forkserver and its child"
    os.kill(supervising(spec.uuid, found), signal.SIGKILL)
    result = job.result(timeout=60)
    assert result.failure is not None
    assert result.failure.kind == "infrastructure"
    assert wait_for(lambda: not marked(spec), 10), [processes.command_of(p) for p in marked(spec)]
    assert running.executor.submit(specification()).result(timeout=60).state == "finished"


def test_ray_listens_on_loopback_only_and_leaves_ctrl_c_to_us(
    run_on: Callable[[str], Running],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    run_on("ray")
    assert signal.getsignal(signal.SIGINT) is before
    tree = {os.getpid(), *processes.descendants(os.getpid())}
    assert any("raylet" in processes.command_of(p) for p in tree)
    assert outward_listeners(tree) == []


def outward_listeners(pids: set[int]) -> list[str]:
    """Local addresses other than loopback on which any of the processes listens for TCP."""
    sockets = set()
    for pid in pids:
        try:
            entries = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for entry in entries:
            try:
                sockets.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
            except OSError:
                continue
    found = []
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                address, state, inode = fields[1].split(":")[0], fields[3], fields[9]
                if state == "0A" and f"socket:[{inode}]" in sockets and address not in loopback:
                    found.append(fields[1])
    return found


def is_agent(pid: int) -> bool:
    """Ray's own idle agents, which notice the death of their raylet only after a minute or so."""
    return "Agent" in processes.command_of(pid)


@pytest.mark.long
def test_nothing_outlives_a_driver_with_ray_that_is_killed() -> None:
    spec = specification(measurement=LONG, settings={"forkserver": True})
    command = [sys.executable, f"{FOLDER}/driver.py", "ray", spec.model_dump_json()]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert driver.stdout is not None
        lines = iter(driver.stdout)
        assert any(line.strip() == "window" for line in lines)
        tree = [p for p in processes.descendants(driver.pid) if not is_agent(p)]
        assert len(marked(spec)) >= 4
    finally:
        driver.kill()
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()
    assert wait_for(lambda: not marked(spec), 20), [processes.command_of(p) for p in marked(spec)]
    left = lambda: [processes.command_of(p) for p in tree if processes.is_running(p)]  # noqa: E731
    assert wait_for(lambda: not left(), 30), left()


def test_what_ray_puts_into_the_environment_does_not_reach_a_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    changes = trial_changes({"OMP_NUM_THREADS": None, "PYTHONPATH": "x"}, ["0", "3"])
    assert changes["RAY_AUTH_TOKEN"] is None
    assert changes["OMP_NUM_THREADS"] is None
    assert changes["CUDA_VISIBLE_DEVICES"] == "0,3"
    assert trial_changes({}, [])["CUDA_VISIBLE_DEVICES"] == ""


def test_a_slot_that_was_never_reserved_is_no_reason_to_leave_ray_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first slot's cores are not free, so the second one is not even asked for."""
    import ray

    def refuse(self: RayExecutor, place: _Place) -> None:
        raise UnsupportedError("its cores are not free")

    places = [_Place("node", "id", 1.0, 0.0) for _ in range(2)]
    ended: list[str] = []
    monkeypatch.setattr(RayExecutor, "_connect", lambda self: setattr(self, "_connected", True))
    monkeypatch.setattr(RayExecutor, "_find_places", lambda self: places)
    monkeypatch.setattr(RayExecutor, "_reserve", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("shutdown"))
    executor = RayExecutor.create(address=None, slots_per_node=2)
    request = ProbeRequest(study="s", target="t", params={}, cache_dir=str(tmp_path))
    with pytest.raises(UnsupportedError, match="its cores are not free"):
        executor.start(request)
    executor.close()
    assert ended == ["shutdown"]


def test_without_ray_the_remedy_is_a_package_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    executor = RayExecutor.create(address="auto", slots_per_node=1)
    with pytest.raises(UnsupportedError, match="`pip install ray`"):
        executor.start(ProbeRequest(study="s", target="t", params={}, cache_dir=""))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
        ("cluster", "accepted are host:port"),
    ],
)
def test_an_address_where_nothing_answers_is_the_users_error(
    address: str, message: str, tmp_path: Path
) -> None:
    executor = RayExecutor.create(address=address, slots_per_node=1)
    request = ProbeRequest(study="s", target="t", params={}, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=message):
        executor.start(request)
    executor.close()
