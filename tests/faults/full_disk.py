"""A study whose database is on a small disk of its own, run in a user and mount namespace:

    unshare -rm python -m tests.faults.full_disk FOLDER

Prints what happened as JSON. Other processes do not see the disk, so all of it happens in here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autotune.config import Experiment
from autotune.exceptions import AutotuneError
from autotune.storage import Database, Retry
from autotune.study import launching
from autotune.study.launching import launch_experiment
from autotune.trial import TrialSpec
from tests.fakes import FakeExecutor
from tests.launches import surface

DISK_MIB = 16


class Disk:
    """A file system of `DISK_MIB` MiB in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        size = f"size={DISK_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], check=True)

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for piece in (2**20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * piece)
                except OSError:
                    continue

    def free(self) -> None:
        """Make the space free again."""
        (self.folder / "filler").unlink()


def experiment(folder: Path) -> dict[str, Any]:
    """A short study."""
    data = folder / "data"
    data.mkdir()
    (data / "clip.mp4").write_bytes(b"x")
    return {
        "target": {"name": "spdl_video", "data_dir": str(data), "device": "cpu"},
        "budget": {"trials": 6},
        "noise": {"runs": 0, "drift_every": 0},
        "verification": {"finalists": 0},
        "sampler": "random",
        "executor": {"kind": "local"},
    }


def run_into_it(disk: Disk, values: dict[str, Any]) -> dict[str, Any]:
    """Fill the disk in the middle of a study, make space, and launch the study again."""
    url = f"sqlite:///{disk.folder / 'study.db'}"

    def launch(executor: FakeExecutor) -> str:
        try:
            outcome = launch_experiment(
                Experiment.from_dict(values), storage=url, study_name="study", executor=executor
            )
        except AutotuneError as error:
            return f"{type(error).__name__}: {error}"
        return outcome.state

    def fill(spec: TrialSpec) -> None:
        if len(first.specs) == 3:
            disk.fill()

    first, again = FakeExecutor(surface), FakeExecutor(surface)
    first.before = fill
    said = [launch(first)]
    disk.free()
    said.append(launch(again))
    with Database.open(url) as database:
        study = database.get_study("study")
        stored = [m.uuid for m in database.measurements(study.id) if m.role != "ceiling"]
        waiting = [str(path) for path in database.spool.waiting]
    measured = [spec.uuid for spec in (*first.specs, *again.specs)]
    return {"said": said, "stored": stored, "measured": measured, "waiting": waiting}


def command(folder: Path, values: dict[str, Any], database: Path) -> dict[str, Any]:
    """`autotune launch` on this database."""
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(values))
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "autotune",
            "launch",
            str(file),
            "--storage",
            f"sqlite:///{database}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    return {"status": done.returncode, "stderr": done.stderr, "seconds": seconds}


def main(folder: Path) -> None:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    launching.PATIENT = Retry(attempts=3, first_delay=0.02, disk=True)
    disk, values = Disk(folder / "disk"), experiment(folder)
    found = {"study": run_into_it(disk, values)}
    disk.fill()
    found["made"] = command(folder, values, disk.folder / "new.db")
    found["opened"] = command(folder, values, disk.folder / "study.db")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    found["read_only"] = command(folder, values, disk.folder / "study.db")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
