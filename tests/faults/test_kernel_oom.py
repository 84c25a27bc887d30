"""The kernel kills a trial for memory, really: a study in a memory control group of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autotune.storage import Database
from autotune.system import control_groups
from tests.targets_for_tests.helpers import FOLDER, ROOT, wait_for

pytestmark = pytest.mark.long

LIMIT = 400 * 2**20

SPACE = """
target: greedy
parameters:
  batch_size: {values: [4], default: 4, flag: --batch-size}
  num_threads: {values: [1, 2, 3, 4], default: 1, flag: --num-threads}
"""

EXPERIMENT = """
target: {{name: greedy, limits: {limits}}}
search_space: space.yaml
enqueue: [{{num_threads: {taker}}}, {{num_threads: 4}}]
budget: {{trials: 3}}
measurement: {{min_seconds: 0.25, max_seconds: 0.5, relative_half_width: 0.5, window_seconds: 0.1,
  repeats: 0}}
limits: {host}
noise: {{runs: 0, drift_every: 0}}
verification: {{finalists: 0}}
executor: {{kind: local}}
"""

ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
"""A shell that goes into the control group, and then is the program."""


class Group(NamedTuple):
    """A memory control group without a limit yet."""

    folder: Path
    limit_file: str

    def kills(self) -> int:
        """How many processes the kernel killed in it."""
        counters = self.folder / "memory.oom_control"  # version 1
        if not counters.exists():
            counters = self.folder / "memory.events"
        return int(counters.read_text().split("oom_kill ")[1].split()[0])


def make_group() -> Group | None:
    """A new group below the process's own or, where that may have none, below one above it."""
    for parent in control_groups.folders("memory"):
        folder = parent / f"autotune-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        for name in ("memory.limit_in_bytes", "memory.max"):
            if os.access(folder / name, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
                return Group(folder, name)
        folder.rmdir()
    return None


@pytest.fixture
def group() -> Iterator[Group]:
    made = make_group()
    if made is None:
        pytest.skip("no memory control group can be made here: it takes root, and the controller")
    for name in ("memory.swappiness", "memory.swap.max"):  # nothing goes to a disk instead
        if (made.folder / name).exists():
            (made.folder / name).write_text("0")
    try:
        yield made
    finally:
        assert wait_for(lambda: removed(made.folder), 20), f"processes are left in {made.folder}"


def removed(folder: Path) -> bool:
    for pid in (folder / "cgroup.procs").read_text().split():
        os.kill(int(pid), 9)
    try:
        folder.rmdir()
    except OSError:  # what was killed takes a while to be gone
        return False
    return True


def study_in(
    group: Group, folder: Path, taker: int, *, limits: dict[str, int], host: str
) -> list[Any]:
    """Run a study whose driver and workers are in the group; its trials.

    Args:
        taker: number of threads of trial 1, which takes memory.
        limits: files of the group that it writes before.
        host: limits of the trials, in YAML.
    """
    site = folder / "site" / "greedy-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: greedy\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[autotune.targets]\ngreedy = greedy:Greedy\n")
    (folder / "space.yaml").write_text(SPACE)
    experiment = EXPERIMENT.format(taker=taker, limits=json.dumps(limits), host=host)
    (folder / "study.yaml").write_text(experiment)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}
    path = os.pathsep.join([str(site.parent), FOLDER, ROOT])
    launch = [sys.executable, "-m", "autotune", "launch", "study.yaml"]
    done = subprocess.run(
        ["/bin/sh", "-c", ENTER, str(group.folder), *launch],
        cwd=folder,
        env={**clean, "PYTHONPATH": path, "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    with Database.open(f"sqlite:///{folder / 'autotune.db'}", create=False) as database:
        study = database.get_study("study")
        assert study.state == "finished"
        return database.trials(study.id)


@pytest.mark.parametrize(
    ("taker", "ending"),
    [(2, "the worker was killed by SIGKILL"), (3, "a child of the loader ended with -9")],
)
def test_what_the_kernel_killed_is_known_with_its_control_group(
    group: Group, tmp_path: Path, taker: int, ending: str
) -> None:
    """The limit is set while the trial runs, so that the supervisor does not know of it and the
    kernel is the first to act; it stays for the trial after."""
    limits = {str(group.folder / group.limit_file): LIMIT}
    before, trial, after = study_in(
        group, tmp_path, taker, limits=limits, host="{host_memory_gib: 8}"
    )
    assert group.kills() == 1
    assert trial.failure.kind == "host_out_of_memory"
    full = f"control group {group.folder} reached its limit of 0.39 GiB"
    assert f"the kernel killed a process for lack of memory: {full}" in trial.failure.cause
    assert ending in trial.failure.cause
    assert before.samples_per_second > 0
    assert after.samples_per_second > 0


def test_in_a_control_group_with_a_limit_the_driver_outlives_its_trials(
    group: Group, tmp_path: Path
) -> None:
    """By the supervisor, or by the kernel where the memory goes faster than it can look."""
    (group.folder / group.limit_file).write_text(str(LIMIT))
    trials = study_in(group, tmp_path, taker=2, limits={}, host="{}")
    kinds = [trial.failure.kind if trial.failure else "" for trial in trials]
    assert kinds == ["", "host_out_of_memory", ""]
