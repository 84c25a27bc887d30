"""The stage of a chaos run: studies of the target `faulty`, one after the other, driven by real
`autotune launch` processes in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from autotune.storage import Database
from autotune.system import processes, system_v
from autotune.trial import STUDY_MARK, TRIAL_MARK
from experiments.benchmarks import _common
from experiments.benchmarks.chaos_plans import PLANS, Plan
from experiments.benchmarks.faulty import left_by

_CLOCK = """
import os, time
if "AUTOTUNE_TRIAL" not in os.environ:
    real = time.time
    time.time = lambda: real() - (3600.0 if os.path.exists({switch!r}) else 0.0)
"""
"""Sets the clock of a driver back by an hour while a file exists."""


TRACEBACK = "Traceback (most recent call last)"
"""Nothing that a user should ever read."""

_NONE: frozenset[Any] = frozenset()


class Hit(NamedTuple):
    """A fault that was injected."""

    fault: str
    time: float
    """CLOCK_MONOTONIC."""
    uuid: str | None
    """The measurement that was under way, where it may suffer."""
    outcomes: frozenset[str] = _NONE
    """Kinds of failure (or ``stopped``) that may come of it."""
    takes: bool = False
    """Whether the process that supervises or records dies, and with it the measurement that was
    not recorded yet."""
    endings: frozenset[int] = _NONE
    """Exit statuses of the driver (negative: signals) that may come of it."""


@dataclass
class Launch:
    """One driver: when it was started and how it ended."""

    study: str
    log: Path
    """Its standard error."""
    known: int
    """Measurements that were recorded before."""
    started: float = field(default_factory=time.monotonic)
    """CLOCK_MONOTONIC."""
    ended: float = math.inf
    status: int | None = None
    """Exit status, or negative the signal that ended it; None while it runs."""
    state: str = ""
    """The study's in the database, afterwards."""


@dataclass
class Scene:
    """A folder, a database and the driver that runs in it.

    Args:
        folder: an empty folder.
        plans: of the studies, taken in turn: the next one when a launch has finished its study.
    """

    folder: Path
    executor: str
    seed: int
    plans: Sequence[Plan] = PLANS
    driver: subprocess.Popen[bytes] | None = None
    studies: dict[str, Plan] = field(default_factory=dict)
    """By name, in the order they were begun; the last one is under way."""
    launches: list[Launch] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What the faults themselves saw go wrong."""
    left_behind: dict[str, str] = field(default_factory=dict)
    """What was there after a driver had ended in order, and the study after whose launch it was
    found."""
    sysv_before: set[system_v.Item] = field(default_factory=system_v.items)

    def __post_init__(self) -> None:
        self.disk.mkdir(exist_ok=True)
        site = self.folder / "site" / "faulty_target-1.0.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-target\nVersion: 1.0\n")
        (site / "entry_points.txt").write_text(
            "[autotune.targets]\nfaulty = experiments.benchmarks.faulty:Faulty\n"
        )
        (site.parent / "sitecustomize.py").write_text(_CLOCK.format(switch=str(self.clock_switch)))
        self._begin_study()

    def _begin_study(self) -> None:
        number = len(self.studies)
        plan = self.plans[(self.seed + number) % len(self.plans)]
        name = f"chaos-{number}-{plan.name}"
        rng = random.Random(f"{self.seed}:{name}")
        (self.folder / f"space-{name}.yaml").write_text(plan.space(rng))
        (self.folder / f"{name}.yaml").write_text(
            plan.experiment(
                space=f"space-{name}.yaml",
                completed=str(self.completed),
                seed=rng.randrange(2**31),
                executor=self.executor,
            )
        )
        self.studies[name] = plan

    @property
    def study(self) -> str:
        """The name of the study under way."""
        return next(reversed(self.studies))

    @property
    def plan(self) -> Plan:
        return self.studies[self.study]

    @property
    def disk(self) -> Path:
        """Where the database lies; a small file system of its own if `small_disk` was entered."""
        return self.folder / "disk"

    @property
    def database(self) -> Path:
        return self.disk / "chaos.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def completed(self) -> Path:
        """Where the target itself logs what was measured."""
        return self.folder / "completed.log"

    @property
    def clock_switch(self) -> Path:
        return self.folder / "clock-is-back"

    def command(self) -> list[str]:
        launch = [sys.executable, "-m", "autotune", "launch", f"{self.study}.yaml"]
        return [*launch, "--storage", self.url]

    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
        path = os.pathsep.join([str(self.folder / "site"), str(_common.REPOSITORY)])
        return {**clean, "PYTHONPATH": path, "XDG_CACHE_HOME": str(self.folder / "cache")}

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start a driver of the study under way."""
        with open(log, "wb") as stderr:
            return subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def launch(self) -> None:
        """Start a driver, or start the study's next one."""
        log = self.folder / f"driver-{len(self.launches)}.log"
        known = len(self.query("SELECT 1 FROM autotune_measurements"))
        self.launches.append(Launch(self.study, log, known))
        self.driver = self.start(log)

    def heeds(self) -> bool:
        """Whether the driver is past its start: before, a signal ends it like any program."""
        return self.driver is not None and " study '" in self.launches[-1].log.read_text()

    def driver_ended(self) -> bool:
        """Whether there is no driver; notes how it ended, and what is left where that was in order.

        Where the study is finished, the next one is begun.
        """
        if self.driver is None or (status := self.driver.poll()) is None:
            return self.driver is None
        self.driver = None
        launch = self.launches[-1]
        launch.ended, launch.status = time.monotonic(), status
        states = dict(self.query("SELECT name, state FROM autotune_studies"))
        launch.state = states.get(launch.study, "")
        if status in (0, 1, 130):
            self.left_behind |= dict.fromkeys(self.nothing_left(), launch.study)
        if status == 0:
            self._begin_study()
        return True

    def end(self, seconds: float = 60.0, patience: float = 20.0) -> None:
        """End the driver by Ctrl-C, once more after ``patience``, by force after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not (self.driver_ended() or self.heeds()) and time.monotonic() < deadline:
            time.sleep(0.1)
        waits = {signal.SIGINT: (patience, seconds), signal.SIGKILL: (10.0,)}
        for signum, limits in waits.items():
            for limit in limits:
                if self.driver_ended() or self.driver is None:
                    return
                self._send(signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.driver.wait(limit)
        self.driver_ended()

    def _send(self, signum: signal.Signals) -> None:
        """End the driver, which is a fault like another."""
        assert self.driver is not None
        trial = self.trial()
        by_force = signum == signal.SIGKILL
        hit = Hit(
            "driver SIGKILL, by force" if by_force else "driver SIGINT, to end it",
            time.monotonic(),
            trial[0] if trial is not None else None,
            frozenset({"stopped"}),
            takes=by_force,
            endings=frozenset({-signal.SIGKILL if by_force else 130}),
        )
        self.hits.append(hit)
        self.driver.send_signal(signum)

    # ------------------------------------------------------------------ who is there

    def study_uuid(self) -> str | None:
        """That of the study under way; None until it exists."""
        return dict(self.query("SELECT name, uuid FROM autotune_studies")).get(self.study)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows; none while there is no table."""
        if not self.database.exists():
            return []
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    def trial(self) -> tuple[str, int] | None:
        """The measurement under way: its uuid and its worker's pid. A probe is none."""
        study = self.study_uuid()
        for pid in processes.marked(STUDY_MARK, study) if study else []:
            uuid = processes.environment_of(pid).get(TRIAL_MARK)
            with contextlib.suppress(ProcessLookupError):
                leads = os.getsid(pid) == pid
                other = processes.name_of(pid) == processes.GUARDIAN_NAME
                if uuid and leads and not other and "--probe" not in processes.command_of(pid):
                    return uuid, pid
        return None

    def left(self) -> list[str]:
        """What is there of the studies' trials, with no driver: it should be nothing."""
        made = system_v.items() - self.sysv_before
        found = [f"System V {item.kind} {item.id}" for item in made]
        for (uuid,) in self.query("SELECT uuid FROM autotune_studies"):
            found += self._left_by(uuid)
        return found

    @staticmethod
    def _left_by(study: str) -> list[str]:
        name = left_by(study)
        found = [f"process {processes.command_of(p)}" for p in processes.marked(STUDY_MARK, study)]
        found += [
            f"orphan {pid}"
            for pid in processes.pids()
            if processes.command_of(pid).startswith(name) and processes.is_running(pid)
        ]
        found += [entry for entry in os.listdir("/dev/shm") if name in entry]
        temporary = Path(tempfile.gettempdir())
        found += map(str, temporary.glob(f"autotune-{study[:8]}-*"))
        found += map(str, temporary.glob(f"{name}*"))
        return found

    def nothing_left(self, seconds: float = 10.0) -> list[str]:
        """What is still there, and was not found before, after some time for guardians to do their
        work."""
        deadline = time.monotonic() + seconds
        while found := [what for what in self.left() if what not in self.left_behind]:
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        return found

    def recorded(self) -> list[dict[str, Any]]:
        """Every measurement in the database, after the spool was written as a launch does."""
        if not self.database.exists():
            return []
        with Database.open(self.url, create=False) as database:
            database.flush_spool()
        columns = "uuid role state block arm attempt contaminated superseded samples_per_second"
        names = columns.split()
        rows = self.query(
            "SELECT s.name, m.trial_number, m.failure_kind, m.failure_cause, t.params, "
            f"{', '.join(f'm.{name}' for name in names)} FROM autotune_measurements m "
            "JOIN autotune_studies s ON s.id = m.study_id JOIN autotune_trials t "
            "ON t.study_id = m.study_id AND t.number = m.trial_number ORDER BY m.id"
        )
        keys = ("study", "trial", "kind", "cause", "params", *names)
        found = [dict(zip(keys, row, strict=True)) for row in rows]
        for row in found:
            # whichever trial it is compared with, this arm measures the configuration in use
            row["number"] = 0 if row["arm"] == "baseline" else _number(row["params"])
            row["noise_runs"] = self.studies[row["study"]].noise_runs
        return found

    def verifications(self) -> list[dict[str, Any]]:
        """The results of verification in the database, with the rates that they rest on."""
        rows = self.query(
            "SELECT s.name, v.trial_number, v.details FROM autotune_verifications v "
            "JOIN autotune_studies s ON s.id = v.study_id"
        )
        return [
            {"study": study, "trial": trial, **json.loads(details)}
            for study, trial, details in rows
        ]


def _number(params: str) -> int:
    return int(json.loads(params)["number"])


@contextlib.contextmanager
def small_disk(scene_folder: Path, mebibytes: int = 128) -> Iterator[bool]:
    """A file system of its own for the database, where root may mount one; whether it is."""
    disk = scene_folder / "disk"
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "autotune-chaos", str(disk)]
    mounted = False
    with contextlib.suppress(OSError):
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)
