"""A running study or script, watched from outside: its trial is found by its mark.

    /proc -> the processes that carry the study's mark -> the trial's folder -> live.Watcher

The study is not touched. The one thing that watching does is to make a folder in the trial's own,
which has its worker publish until it ends; the trial's clean-up takes it away.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import InputError
from autotune.live.channel import FolderChannel, open_channel
from autotune.live.lines import Point
from autotune.live.usage import Usage
from autotune.live.watcher import Watcher
from autotune.publishing.publisher import LIVE_VARIABLE, live_folder
from autotune.results import StudySummary, summary
from autotune.storage import Database, StudyRecord
from autotune.storage.leases import host_key
from autotune.system import processes
from autotune.trial import STUDY_MARK, TRIAL_MARK, Params

_SESSION = 3
"""Field of /proc/<pid>/stat from the state on."""
_SUMMARY_SECONDS = 2.0
_MAX_SHARE = 0.01
"""Of the time, for asking the database."""


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial that runs on this machine."""

    uuid: str
    scratch: str
    worker: int
    """The pid of its main process."""


def running_trials(study: str) -> list[RunningTrial]:
    """The trials of a study (its uuid) that run here and can be watched."""
    return _trials_marked(STUDY_MARK, study)


def _trials_marked(variable: str, value: str) -> list[RunningTrial]:
    found = []
    for pid in processes.marked(variable, value):
        environment = processes.environment_of(pid)
        uuid, scratch = environment.get(TRIAL_MARK), environment.get(processes.SCRATCH_MARK)
        if uuid and scratch and _is_worker(pid):
            found.append(RunningTrial(uuid, scratch, pid))
    return found


def _is_worker(pid: int) -> bool:
    """Whether a process of a trial is the one that its supervisor started."""
    fields = processes.stat_fields(pid)
    leads = fields is not None and int(fields[_SESSION]) == pid
    return leads and processes.name_of(pid) != processes.GUARDIAN_NAME


def watch_trial(trial: RunningTrial) -> Watcher | None:
    """Have a trial publish, and read it; None where it has ended meanwhile."""
    folder = Path(live_folder(trial.scratch))
    with contextlib.suppress(FileExistsError):
        try:
            folder.mkdir(mode=0o700)
        except FileNotFoundError:
            return None
    usage = Usage(TRIAL_MARK, trial.uuid, trial.worker, trial.scratch)
    return Watcher(FolderChannel(folder), usage)


@dataclass(frozen=True)
class StudyLook:
    """A study at one moment."""

    summary: StudySummary
    baseline: Params
    where: str
    """Why there is nothing to see of a trial; empty where there is."""
    number: int | None
    """Of the trial, where one of the search runs."""
    about: dict[str, Any]
    point: Point | None
    """Since the last look."""

    @property
    def over(self) -> bool:
        """Whether nobody drives the study any more."""
        return self.summary.state != "running"


class StudyWatcher:
    """Follows a study from trial to trial."""

    def __init__(self, database: Database, record: StudyRecord) -> None:
        self._database = database
        self._record = record
        self._trial: RunningTrial | None = None
        self._summary: StudySummary | None = None
        self._number: int | None = None
        self._next_summary = 0.0
        self.watcher: Watcher | None = None
        """Of the trial that runs now, or ran last."""

    def look(self) -> StudyLook:
        """Look at the study now.

        Raises:
            StorageError, InputError: if the database cannot be read, or the study is gone.
        """
        stands = self._ask()
        if self._trial is None or not processes.is_running(self._trial.worker):
            self._attach()
        point = self.watcher.look() if self.watcher is not None and self._trial else None
        return StudyLook(
            summary=stands,
            baseline=self._record.baseline,
            where=self._where(stands),
            number=self._number,
            about=self.watcher.history.about if self.watcher is not None else {},
            point=point,
        )

    def _ask(self) -> StudySummary:
        """How it stands, from the database: anew every few seconds."""
        began = time.monotonic()
        if self._summary is None or began >= self._next_summary:
            self._record = self._database.get_study(self._record.name)
            self._summary = summary(self._database, self._record)
            self._number = self._running_number()
            cost = time.monotonic() - began
            self._next_summary = began + max(_SUMMARY_SECONDS, cost / _MAX_SHARE)
        return self._summary

    def _running_number(self) -> int | None:
        running = [t for t in self._database.trials(self._record.id) if t.state == "RUNNING"]
        return running[0].number if len(running) == 1 else None

    def _attach(self) -> None:
        """Watch the trial that runs here now, if one does."""
        self._trial = None
        for trial in running_trials(self._record.uuid):
            watcher = watch_trial(trial)
            if watcher is not None:
                if self.watcher is not None:
                    self.watcher.close()
                self._trial, self.watcher = trial, watcher
                self._next_summary = 0.0  # another trial: so one has ended
                return

    def _where(self, stands: StudySummary) -> str:
        """Why no trial is seen."""
        if self._trial is not None:
            return ""
        if stands.state != "running":
            return "it does not run"
        lease = self._database.lease(self._record.id)
        if lease is not None and lease.host_key != host_key():
            return (
                f"its driver is process {lease.pid} on {lease.host}; queues are seen on the "
                "machine that measures"
            )
        return "no measurement runs on this machine at the moment"

    def close(self) -> None:
        """Look no more."""
        if self.watcher is not None:
            self.watcher.close()


def watch_path(path: Path, mark: str | None = None) -> Watcher:
    """Read what processes publish at a path.

    Args:
        path: a folder, a named pipe or a file.
        mark: ``AUTOTUNE_LIVE`` as they have it; ``path`` if None.

    Raises:
        InputError: if it cannot be read.
    """
    value = str(path) if mark is None else mark
    return Watcher(open_channel(path), lambda pid: Usage(LIVE_VARIABLE, value, pid))


def watch_process(pid: int) -> Watcher:
    """Watch a script that publishes, a process of a trial, or what drives one.

    Raises:
        InputError: if there is nothing to see of it.
    """
    if not processes.is_running(pid):
        raise InputError(f"--pid {pid}: there is no such process on this machine")
    environment = processes.environment_of(pid)
    if path := environment.get(LIVE_VARIABLE):
        folder = Path(f"/proc/{pid}/cwd").resolve()
        return watch_path(folder / path, path)
    scratch, uuid = environment.get(processes.SCRATCH_MARK), environment.get(TRIAL_MARK)
    if scratch and uuid:
        trials = [RunningTrial(uuid, scratch, pid)]
    else:
        trials = _trials_marked(processes.SUPERVISOR_MARK, processes.identity(pid))
    for trial in trials:
        if (watcher := watch_trial(trial)) is not None:
            return watcher
    raise InputError(
        f"--pid {pid}: it publishes nothing. Start it with `autotune watch -- COMMAND`, or with "
        f"{LIVE_VARIABLE} set to a folder; see docs/watching.md"
    )
