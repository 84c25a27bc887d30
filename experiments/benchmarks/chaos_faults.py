"""What is done to a running study from outside. Each fault says which measurement it hit and what
may have come of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable

from autotune.system import processes
from autotune.trial import TRIAL_MARK
from experiments.benchmarks.chaos_scene import TRACEBACK, Hit, Scene

_INTERRUPTED = frozenset({130})
_KILLED = frozenset({-signal.SIGKILL})


def kill_worker(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL, SIGSEGV or SIGTERM of the worker."""
    return _signal_worker(scene, rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))


def _signal_worker(scene: Scene, signum: signal.Signals) -> Hit | None:
    trial = scene.trial()
    if trial is None:
        return None
    try:
        os.kill(trial[1], signum)
    except ProcessLookupError:
        return None
    kind = "hang" if signum == signal.SIGSTOP else "crash"
    return Hit(f"worker {signum.name}", time.monotonic(), trial[0], frozenset({kind}))


def stop_worker(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGSTOP: it neither works nor ends."""
    return _signal_worker(scene, signal.SIGSTOP)


def kill_child(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL of a child of the worker."""
    trial = scene.trial()
    if trial is None:
        return None
    children = [
        pid
        for pid in processes.descendants(trial[1])
        if processes.name_of(pid) != processes.GUARDIAN_NAME
    ]
    if not children:
        return None
    processes.send([rng.choice(children)], signal.SIGKILL)
    outcomes = frozenset({"crash", "start_up", "hang"})
    return Hit("child SIGKILL", time.monotonic(), trial[0], outcomes)


def kill_guardian(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL of the trial's guardian."""
    trial = scene.trial()
    if trial is None:
        return None
    found = [
        pid
        for pid in processes.marked(TRIAL_MARK, trial[0])
        if processes.name_of(pid) == processes.GUARDIAN_NAME
    ]
    if not found:
        return None
    processes.send(found, signal.SIGKILL)
    return Hit("guardian SIGKILL", time.monotonic(), trial[0])


def _signal_driver(
    scene: Scene, name: str, *signals: signal.Signals, endings: frozenset[int] = _INTERRUPTED
) -> Hit | None:
    trial = scene.trial()
    if scene.driver is None or trial is None or not (endings == _KILLED or scene.heeds()):
        return None
    for signum in signals:
        scene.driver.send_signal(signum)
        time.sleep(0.1)
    hit = Hit(
        name,
        time.monotonic(),
        trial[0],
        frozenset({"stopped"} if len(signals) > 1 else ()),
        takes=endings == _KILLED,
        endings=endings,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        scene.driver.wait(30)
    return hit


def kill_driver(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL of the driver."""
    return _signal_driver(scene, "driver SIGKILL", signal.SIGKILL, endings=_KILLED)


def interrupt_driver(scene: Scene, rng: random.Random) -> Hit | None:
    """Ctrl-C once: the measurement in flight is finished."""
    return _signal_driver(scene, "driver SIGINT", signal.SIGINT)


def interrupt_driver_twice(scene: Scene, rng: random.Random) -> Hit | None:
    """Ctrl-C twice: the measurement in flight is stopped."""
    return _signal_driver(scene, "driver SIGINT twice", signal.SIGINT, signal.SIGINT)


def terminate_driver(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGTERM of the driver."""
    return _signal_driver(scene, "driver SIGTERM", signal.SIGTERM)


def second_driver(scene: Scene, rng: random.Random) -> Hit | None:
    """Another driver on the same study: refused with status 2, and nothing else happens."""
    if scene.driver is None or scene.trial() is None:
        return None
    log = scene.folder / f"second-driver-{len(scene.hits)}.log"
    second = scene.start(log)
    with contextlib.suppress(subprocess.TimeoutExpired):
        second.wait(60)
    status = second.poll()
    if scene.driver.poll() is None and (status != 2 or TRACEBACK in log.read_text()):
        scene.complaints.append(f"a second driver ended with {status}: {log.read_text()}")
    if status is None:  # the first one had ended by then
        second.send_signal(signal.SIGINT)
        second.wait(60)
    return Hit("second driver", time.monotonic(), None)


def lock_database(scene: Scene, rng: random.Random) -> Hit | None:
    """Another writer holds the database for 0.5 to 2 s; for 18 s, more than SQLite waits, once
    in ten times."""
    connection = sqlite3.connect(scene.database, timeout=5, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(18 if rng.random() < 0.1 else rng.uniform(0.5, 2))
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()
    return Hit("database locked", time.monotonic(), None)


def database_gone(scene: Scene, rng: random.Random) -> Hit | None:
    """The database's file has another name for 0.5 to 2 s."""
    if not scene.database.exists():
        return None
    away = scene.database.with_suffix(".away")
    scene.database.rename(away)
    time.sleep(rng.uniform(0.5, 2))
    if scene.database.exists():
        scene.complaints.append("a new database was made where the old one was gone")
    away.rename(scene.database)
    return Hit("database gone", time.monotonic(), None)


def disk_full(scene: Scene, rng: random.Random) -> Hit | None:
    """The database's file system is full for 0.5 to 2 s; only where it has one of its own."""
    if not os.path.ismount(scene.disk):
        return None
    filler = scene.disk / "filler"
    try:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        time.sleep(rng.uniform(0.5, 2))
    finally:
        filler.unlink(missing_ok=True)
    return Hit("disk full", time.monotonic(), None)


def clock_back(scene: Scene, rng: random.Random) -> Hit | None:
    """The driver's clock goes back by an hour; the next time, forward again."""
    if scene.clock_switch.exists():
        scene.clock_switch.unlink()
    else:
        scene.clock_switch.touch()
    return Hit("clock set", time.monotonic(), None)


def kill_ray_worker(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL of the Ray worker that supervises the measurement."""
    trial = scene.trial()
    fields = processes.stat_fields(trial[1]) if trial is not None else None
    if trial is None or fields is None or scene.driver is None:
        return None
    parent = int(fields[1])
    if parent in (1, scene.driver.pid, os.getpid()):
        return None
    processes.send([parent], signal.SIGKILL)
    outcomes = frozenset({"infrastructure"})
    return Hit("Ray worker SIGKILL", time.monotonic(), trial[0], outcomes, takes=True)


def kill_raylet(scene: Scene, rng: random.Random) -> Hit | None:
    """SIGKILL of the raylet of this driver's own Ray; the driver may go down with it."""
    trial = scene.trial()
    if trial is None or scene.driver is None:
        return None
    raylets = [
        pid for pid in processes.descendants(scene.driver.pid) if processes.name_of(pid) == "raylet"
    ]
    if not raylets:
        return None
    processes.send(raylets, signal.SIGKILL)
    outcomes = frozenset({"infrastructure"})
    hit = Hit("raylet SIGKILL", time.monotonic(), trial[0], outcomes, takes=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        scene.driver.wait(2)
    if scene.driver.poll() is None:  # a Ray without a raylet measures nothing more
        scene.end(seconds=60, patience=2)
    return hit


Outside = Callable[[Scene, random.Random], Hit | None]

LOCAL: list[tuple[Outside, int]] = [
    (kill_worker, 30),
    (stop_worker, 3),
    (kill_child, 25),
    (kill_guardian, 8),
    (kill_driver, 8),
    (interrupt_driver, 3),
    (interrupt_driver_twice, 3),
    (terminate_driver, 3),
    (second_driver, 2),
    (lock_database, 3),
    (database_gone, 3),
    (disk_full, 3),
    (clock_back, 2),
]
"""Faults for the local executor, with weights."""

RAY: list[tuple[Outside, int]] = [
    (kill_worker, 3),
    (kill_ray_worker, 4),
    (kill_raylet, 1),
    (kill_driver, 1),
    (kill_guardian, 1),
    (database_gone, 1),
]
"""Faults for the Ray executor, with weights."""
