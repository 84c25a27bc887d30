"""What a driver that was killed leaves on a node, and what the next one removes of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.supervision.cleanup import end_leftovers, make_scratch, remove_scratch
from autotune.system import processes, system_v
from autotune.trial import STUDY_MARK
from tests.targets_for_tests.helpers import ROOT, wait_for

MAKE_A_FOLDER = """
import sys, time
from autotune.supervision.cleanup import make_scratch
print(make_scratch(sys.argv[1], "1" * 32), flush=True)
time.sleep(600)
"""

MAKE_SYSTEM_V = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
segment = libc.shmget(0, 4096, 0o1600)
own = libc.semget(0, 2, 0o1600)
shared = int(sys.argv[1])
for semaphores in (own, shared):
    libc.semctl(semaphores, 0, 16, 1)
print(segment, own, flush=True)
time.sleep(600)
"""

WAIT = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start(
    started: list[subprocess.Popen[str]], script: str, *words: str, **environment: str
) -> str:
    """Run a script until its first line, which is returned."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_folders_of_a_killed_measure_are_removed_by_the_next_launch(
    started: list[subprocess.Popen[str]],
) -> None:
    killed = Path(start(started, MAKE_A_FOLDER, uuid.uuid4().hex))
    living = Path(start(started, MAKE_A_FOLDER, uuid.uuid4().hex))
    started[0].kill()
    started[0].wait()
    elsewhere = Path(make_scratch(uuid.uuid4().hex, uuid.uuid4().hex) or "")
    owner = (elsewhere / "owner").read_text().split()
    try:
        # as of another container that shares the folder: its pids mean nothing here
        (elsewhere / "owner").write_text(f"{owner[0]} pid:[1] {killed.name}")
        assert all(folder.is_dir() for folder in (killed, living, elsewhere))
        end_leftovers(uuid.uuid4().hex)
        assert [folder.is_dir() for folder in (killed, living, elsewhere)] == [False, True, True]
    finally:
        for folder in (killed, living, elsewhere):
            remove_scratch(str(folder))


def test_folders_that_a_process_of_the_trial_uses_are_kept(
    started: list[subprocess.Popen[str]],
) -> None:
    folder = start(started, MAKE_A_FOLDER, uuid.uuid4().hex)
    start(started, WAIT, **{processes.SCRATCH_MARK: folder})
    started[0].kill()
    started[0].wait()
    end_leftovers(uuid.uuid4().hex)
    assert os.path.isdir(folder)
    started[1].kill()
    started[1].wait()
    end_leftovers(uuid.uuid4().hex)
    assert not os.path.exists(folder)


def test_system_v_ipc_of_leftovers_is_removed_and_what_others_use_is_kept(
    started: list[subprocess.Popen[str]],
) -> None:
    libc = ctypes.CDLL(None)
    shared = libc.semget(0, 2, 0o1600)  # 2 semaphores: ours is the last operation on one of them
    if shared < 0:
        pytest.skip("this kernel has no System V IPC")
    before = system_v.items()
    study = uuid.uuid4().hex
    try:
        libc.semctl(shared, 1, 16, 1)  # SETVAL
        marks = {STUDY_MARK: study, processes.SUPERVISOR_MARK: "1:1"}
        segment, own = start(started, MAKE_SYSTEM_V, str(shared), **marks).split()
        made = {(item.kind, item.id) for item in system_v.items() - before}
        assert made == {("segment", int(segment)), ("semaphores", int(own))}
        assert len(end_leftovers(study)) == 1
        assert wait_for(lambda: started[0].poll() is not None, 5)
        assert system_v.items() & before == before, "the one that this process uses too"
        assert system_v.items() - before == set()
    finally:
        libc.semctl(shared, 0, 0)  # IPC_RMID
