"""Parts of the worker process: its probe, its channels, what an exception means."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import FOLDER, ROOT, wait_for

from autotune.exceptions import DataError, InputError, MeasurementFailed, UnsupportedError
from autotune.executors.node import probe_node
from autotune.manifest import Manifest
from autotune.system import machine, processes
from autotune.system.process_tree import ProcessTree
from autotune.trial import (
    STUDY_MARK,
    TRIAL_MARK,
    FailedEvent,
    Failure,
    ProbeRequest,
    StartedEvent,
    parse_event,
)
from autotune.worker.bootstrap import find_target
from autotune.worker.channel import Control, EventWriter
from autotune.worker.faults import failure_of
from autotune.worker.single import check_readback


@pytest.fixture(autouse=True)
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


# ------------------------------------------------------------------ the first moments


def test_a_worker_whose_supervisor_is_gone_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    marks = {
        TRIAL_MARK: "gone-before",
        processes.SUPERVISOR_MARK: "1:1",
        processes.SCRATCH_MARK: str(folder),
    }
    command = [sys.executable, "-m", "autotune.worker", "--mark", f"{TRIAL_MARK}=gone-before"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | marks)
    worker.communicate(timeout=30)  # closes its standard input, as the end of a supervisor does
    assert worker.returncode != 0
    assert wait_for(lambda: not folder.exists(), 10)


_ADOPTS = """
import os, subprocess, sys
from autotune.system import processes
processes.adopt_orphans()
bystander = subprocess.Popen(["sleep", "60"])
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
worker.communicate()
while os.waitpid(-1, 0)[0] == worker.pid:  # the guardian, which is ours now
    pass
print(bystander.poll())
bystander.kill()
"""

_GONE_AT_ONCE = """
import os, time
ask = os.getppid
os.getppid = lambda: (time.sleep(0.5), ask())[1]
from autotune.worker.guardian import fork_guardian
fork_guardian(0, "AUTOTUNE_TRIAL", "gone-at-once")
os._exit(1)
"""


def test_a_guardian_whose_worker_is_gone_ends_nobody_else() -> None:
    marks = {processes.SUPERVISOR_MARK: "1:1"}
    adopting = subprocess.run(
        [sys.executable, "-c", _ADOPTS, _GONE_AT_ONCE],
        capture_output=True,
        text=True,
        env=os.environ | marks,
        timeout=60,
    )
    assert adopting.stdout == "None\n", adopting.stderr


def test_a_process_that_has_the_pid_of_a_worker_that_is_gone_is_a_stranger() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    tree = ProcessTree(TRIAL_MARK, "of-nobody", gone.pid, None)
    later = subprocess.Popen(["sleep", "60"])
    tree._root = later.pid  # as if the kernel had given it that pid again
    found = tree.remaining()
    later.kill()
    later.wait()
    assert found == []


# ------------------------------------------------------------------ probe


def request(folder: Path, data: Path | None, **changes: object) -> ProbeRequest:
    return ProbeRequest.model_validate(
        {
            "study": "probing",
            "target": "synthetic:Steady",
            "params": {},
            "settings": {"library": "x"},
            "data_dir": None if data is None else str(data),
            "cache_dir": str(folder / "cache"),
            **changes,
        }
    )


def test_the_probe_describes_machine_and_data(tmp_path: Path) -> None:
    data = tmp_path / "data" / "class_a"
    data.mkdir(parents=True)
    for i in range(3):
        (data / f"{i}.mp4").write_bytes(b"not a video" * 100)
    info = probe_node(request(tmp_path, data.parent))
    assert info.error is None, info.error
    assert info.names == machine.names()
    assert info.fingerprint.machine["synthetic"] == "x"
    assert info.fingerprint.data["clips"] == info.num_samples == 3
    assert info.fingerprint.data["warmed_bytes"] == 3300
    assert info.manifest is not None
    assert Manifest.load(info.manifest).hash == info.manifest_hash
    assert "3 of 3 clips looked at do not open: class_a/0.mp4" in info.warnings[0]
    assert processes.marked(STUDY_MARK, "probing") == []


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"settings": {"unsupported": True}}, "unsupported", "no GPU; use device: cpu"),
        ({"target": "synthetic:Nothing"}, "input", "synthetic:Nothing"),
        ({"data_dir": "/nowhere/at/all"}, "input", "/nowhere/at/all"),
    ],
)
def test_the_probe_says_what_is_wrong(
    tmp_path: Path, changes: dict[str, object], kind: str, message: str
) -> None:
    info = probe_node(request(tmp_path, None, **changes))
    assert info.error_kind == kind
    assert message in (info.error or "")


@pytest.mark.skipif(bool(machine.find_gpus()), reason="this machine has a GPU")
def test_nvdec_without_a_gpu_is_refused_with_the_remedy(tmp_path: Path) -> None:
    info = probe_node(request(tmp_path, None, params={"device": "nvdec"}))
    assert info.error_kind == "unsupported"
    assert "device: cpu" in (info.error or "")


def test_a_probe_that_dies_is_an_answer_too(tmp_path: Path) -> None:
    info = probe_node(request(tmp_path, None), changes={"PYTHONHOME": "/nowhere"})
    assert info.error_kind == "unsupported"
    assert "ended without an answer" in (info.error or "")


# ------------------------------------------------------------------ life and death


def test_a_worker_ends_when_its_control_pipe_does(tmp_path: Path) -> None:
    read, write = os.pipe()
    # a supervisor that is gone although the worker's parent lives: only the pipe can tell
    marks = {TRIAL_MARK: "pipe-test", STUDY_MARK: "pipe-test"}
    helper = "import subprocess, sys, time\ntime.sleep(600)\n"
    bystander = subprocess.Popen([sys.executable, "-c", helper], env={**os.environ, **marks})
    worker = subprocess.Popen(
        [sys.executable, "-m", "autotune.worker", "--events-fd", str(write), "--mark",
         f"{TRIAL_MARK}=pipe-test"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(write,),
        env={**os.environ, **marks},
    )  # fmt: skip
    os.close(write)
    try:
        assert worker.stdin is not None
        assert wait_for(lambda: len(processes.marked(TRIAL_MARK, "pipe-test")) == 3)
        worker.stdin.close()
        assert worker.wait(timeout=20) != 0
        assert bystander.wait(timeout=20) < 0, "the guardian ended what carries the mark"
        assert wait_for(lambda: not processes.marked(TRIAL_MARK, "pipe-test"))
    finally:
        os.close(read)
        for process in (worker, bystander):
            if process.poll() is None:
                process.kill()
            process.wait()


def test_a_target_is_found_by_path_or_refused_with_the_reason() -> None:
    assert find_target("synthetic:Steady").name == "steady"
    for name in ("synthetic:Nothing", "no_such_module:Target", "synthetic:sleep", "os:sep"):
        with pytest.raises(InputError, match=name.split(":")[0]):
            find_target(name)


# ------------------------------------------------------------------ channels


def test_events_are_whole_lines_even_when_long_and_from_many_threads() -> None:
    read, write = os.pipe()
    emit = EventWriter(write)
    long = {"LONG": "x" * 200_000}

    def send(number: int) -> None:
        emit(StartedEvent(time=0, pid=number, environment=long))

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    with open(read, "rb") as file:
        events = [parse_event(file.readline()) for _ in range(8)]
        for thread in threads:
            thread.join()
        assert sorted(e.pid for e in events if isinstance(e, StartedEvent)) == list(range(8))
        failed = FailedEvent(time=0, failure=Failure(kind="crash", cause="c"))
        assert emit(failed)
        assert not emit(failed), "nothing follows the end"
        assert not emit(StartedEvent(time=0, pid=1))
        os.close(write)
        assert len(file.readlines()) == 1


def test_commands_are_obeyed_also_those_that_came_with_the_specification() -> None:
    read, write = os.pipe()
    control = Control(read, seen=b"go\nst")
    ended = threading.Event()
    control.start(on_end=ended.set)
    assert control.go.wait(5)
    assert not control.stop.is_set()
    os.write(write, b"op\n")
    assert control.stop.wait(5)
    assert not ended.is_set()
    os.close(write)
    assert ended.wait(5)
    os.close(read)


# ------------------------------------------------------------------ failures


class WrappedError(Exception):
    """As a pipeline raises it around what a stage raised."""


def test_an_exception_is_classified_by_type_also_behind_a_wrapper() -> None:
    def wrapped(cause: BaseException) -> WrappedError:
        error = WrappedError("out of memory")  # its text must decide nothing
        error.__cause__ = cause
        return error

    failure = Failure(kind="contaminated", cause="x")
    for error, kind in [
        (DataError("a.mp4", "broken"), "data"),
        (InputError("data_dir: none"), "start_up"),
        (UnsupportedError("no GPU"), "unsupported"),
        (MemoryError(), "host_out_of_memory"),
        (MeasurementFailed(failure), "contaminated"),
    ]:
        assert failure_of(error, had_batch=True).kind == kind
        assert failure_of(wrapped(error), had_batch=True).kind == kind
    assert failure_of(WrappedError("CUDA out of memory"), had_batch=True).kind == "crash"
    assert failure_of(WrappedError("x"), had_batch=False).kind == "start_up"


def test_torchs_out_of_memory_error_is_known_once_torch_is_loaded() -> None:
    torch = pytest.importorskip("torch")
    error = torch.cuda.OutOfMemoryError("whatever it says")
    assert failure_of(error, had_batch=True).kind == "gpu_out_of_memory"


def test_readback_is_strict_about_types_that_matter() -> None:
    check_readback({"a": 1, "b": 2.0, "c": "x", "d": True}, {"a": 1, "b": 2, "c": "x", "d": True})
    for asked, built in [({"a": 1}, {"a": 2}), ({"a": True}, {"a": 1}), ({"a": 1}, {})]:
        with pytest.raises(MeasurementFailed, match="a"):
            check_readback(asked, built)


# ------------------------------------------------------------------ processes


def test_a_process_is_named_for_good() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = processes.identity(child.pid)
    assert processes.exists(who)
    assert not processes.exists(f"{child.pid}:1")
    assert not processes.exists("")
    child.communicate(b"\n")
    assert not processes.exists(who)


def test_only_segments_made_since_and_unused_are_removed(tmp_path: Path) -> None:
    from multiprocessing import shared_memory

    from autotune.system.shared_memory import listing, remove, used_by

    old = shared_memory.SharedMemory(create=True, size=4096)
    before = listing()
    used = shared_memory.SharedMemory(create=True, size=4096)
    free = Path("/dev/shm") / f"autotune-test-{os.getpid()}"
    free.write_bytes(b"x")
    elsewhere = tmp_path / "file"
    elsewhere.write_bytes(b"x")
    paths = [f"/dev/shm/{old.name}", f"/dev/shm/{used.name}", str(free), str(elsewhere)]
    try:
        assert set(paths[:2]) <= used_by([os.getpid()])
        assert remove(paths, before) == [str(free)]
        assert all(os.path.exists(path) for path in (*paths[:2], elsewhere))
    finally:
        for segment in (old, used):
            segment.close()
            segment.unlink()
