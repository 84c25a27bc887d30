"""The stage of a chaos run: a study of the target `faulty`, driven by real `autotune launch`
processes, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.storage import Database
from autotune.system import processes, system_v
from autotune.trial import STUDY_MARK, TRIAL_MARK
from experiments.benchmarks import _common
from experiments.benchmarks.faulty import left_by

STUDY = "chaos"
NUMBERS = 99_999

_SPACE = f"""
target: faulty
parameters:
  number: {{min: 0, max: {NUMBERS}, default: 0, flag: --number, help: Draws a fault.}}
"""

_EXPERIMENT = """
target: {{name: faulty, completed: {completed}}}
search_space: space.yaml
budget: {{trials: 100000}}
measurement: {{min_seconds: 0.25, max_seconds: 0.5, relative_half_width: 0.5, window_seconds: 0.1,
  repeats: 0}}
limits:
  {{startup_seconds: 20, silence_seconds: 4, shutdown_seconds: 1.0, host_memory_gib: 0.35,
    processes: 40}}
noise: {{runs: 2, drift_every: 0}}
verification: {{finalists: 0}}
sampler: random
seed: {seed}
executor: {{kind: {executor}}}
"""

_CLOCK = """
import os, time
if "AUTOTUNE_TRIAL" not in os.environ:
    real = time.time
    time.time = lambda: real() - (3600.0 if os.path.exists({switch!r}) else 0.0)
"""
"""Sets the clock of a driver back by an hour while a file exists."""


@dataclass
class Scene:
    """A folder, a database and the driver that runs in it."""

    folder: Path
    executor: str
    seed: int
    driver: subprocess.Popen[bytes] | None = None
    launches: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    """How drivers ended: exit status or signal -> number."""
    complaints: list[str] = field(default_factory=list)
    """What the faults themselves saw go wrong."""
    forced: list[float] = field(default_factory=list)
    """When a driver had to be ended by SIGKILL."""
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
        (self.folder / "space.yaml").write_text(_SPACE)
        (self.folder / f"{STUDY}.yaml").write_text(
            _EXPERIMENT.format(completed=self.completed, seed=self.seed, executor=self.executor)
        )

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
        launch = [sys.executable, "-m", "autotune", "launch", f"{STUDY}.yaml"]
        return [*launch, "--storage", self.url]

    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
        path = os.pathsep.join([str(self.folder / "site"), str(_common.REPOSITORY)])
        return {**clean, "PYTHONPATH": path, "XDG_CACHE_HOME": str(self.folder / "cache")}

    def launch(self) -> None:
        """Start a driver, or start the study's next one."""
        self.launches += 1
        with open(self.folder / "driver.log", "ab") as log:
            self.driver = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def driver_ended(self) -> bool:
        """Whether there is no driver; counts how it ended."""
        if self.driver is None or self.driver.poll() is None:
            return self.driver is None
        status = str(self.driver.returncode)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.driver = None
        return True

    def end(self, seconds: float = 60.0, patience: float = 20.0) -> None:
        """End the driver by Ctrl-C, once more after ``patience``, by force after ``seconds``."""
        waits = {signal.SIGINT: (patience, seconds), signal.SIGKILL: (10.0,)}
        for signum, limits in waits.items():
            for limit in limits:
                if self.driver_ended() or self.driver is None:
                    return
                if signum == signal.SIGKILL:
                    self.forced.append(time.monotonic())
                self.driver.send_signal(signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.driver.wait(limit)
        self.driver_ended()

    # ------------------------------------------------------------------ who is there

    def study_uuid(self) -> str | None:
        """None until the study exists."""
        rows = self.query("SELECT uuid FROM autotune_studies")
        return rows[0][0] if rows else None

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
        """What is there of the study's trials, with no driver: it should be nothing."""
        study = self.study_uuid() or "none"
        name = left_by(study)
        found = [f"process {processes.command_of(p)}" for p in processes.marked(STUDY_MARK, study)]
        found += [
            f"orphan {pid}"
            for pid in processes.pids()
            if processes.command_of(pid).startswith(name) and processes.is_running(pid)
        ]
        found += [entry for entry in os.listdir("/dev/shm") if name in entry]
        made = system_v.items() - self.sysv_before
        found += [f"System V {item.kind} {item.id}" for item in made]
        temporary = Path(tempfile.gettempdir())
        found += map(str, temporary.glob(f"autotune-{study[:8]}-*"))
        found += map(str, temporary.glob(f"{name}*"))
        return found

    def nothing_left(self, seconds: float = 10.0) -> list[str]:
        """What is still there after some time for guardians to do their work."""
        deadline = time.monotonic() + seconds
        while (found := self.left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def recorded(self) -> list[dict[str, Any]]:
        """Every measurement in the database, after the spool was written as a launch does."""
        with Database.open(self.url, create=False) as database:
            database.flush_spool()
        rows = self.query(
            "SELECT m.uuid, m.trial_number, m.role, m.state, m.failure_kind, m.failure_cause, "
            "m.attempt, t.params FROM autotune_measurements m JOIN autotune_trials t "
            "ON t.study_id = m.study_id AND t.number = m.trial_number ORDER BY m.id"
        )
        names = ("uuid", "trial", "role", "state", "kind", "cause", "attempt", "params")
        return [dict(zip(names, row, strict=True)) | {"number": _number(row[-1])} for row in rows]


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
