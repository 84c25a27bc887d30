"""The module that training scripts import: light, silent when nobody measures, whole lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code: str, *, pass_fds: tuple[int, ...] = (), **environment: str) -> str:
    """What a fresh interpreter prints, without the variables of this one's measurements."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        pass_fds=pass_fds,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fifo(tmp_path: Path) -> tuple[str, int]:
    path = str(tmp_path / "events")
    os.mkfifo(path)
    return path, os.open(path, os.O_RDWR | os.O_NONBLOCK)


def lines(descriptor: int) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in os.read(descriptor, 2**16).splitlines()]
    except BlockingIOError:
        return []


def test_importing_it_loads_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import autotune.probe; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(m for m in new - {'autotune'} if m not in sys.stdlib_module_names)); "
        "print(sorted(m for m in sys.modules if m.startswith('autotune.')))"
    )
    assert run(code).splitlines() == ["[]", "['autotune.probe']"]


def test_outside_a_measurement_the_calls_do_nothing() -> None:
    code = (
        "from autotune import probe; probe.start(num_workers=4); probe.step(samples=16); "
        "print(probe.active())"
    )
    assert run(code) == "False\n"


def test_start_and_step_are_lines_that_say_rank_and_time(fifo: tuple[str, int]) -> None:
    path, reader = fifo
    before = time.monotonic()
    code = (
        "from autotune import probe; from pathlib import Path; "
        "probe.start(num_workers=4, pin_memory=True, where=Path('/data')); "
        "probe.step(samples=16, frames=256); probe.step(samples=8)"
    )
    run(code, AUTOTUNE_EVENTS_PATH=path, RANK="3")
    start, first, second = lines(reader)
    assert start == {
        "event": "start",
        "rank": 3,
        "parameters": {"num_workers": 4, "pin_memory": True, "where": "/data"},
    }
    moment = first.pop("time")
    assert isinstance(moment, float)
    assert before < moment < time.monotonic()
    assert first == {"event": "step", "rank": 3, "samples": 16, "frames": 256}
    assert (second["samples"], second["frames"]) == (8, 0)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "5", "SLURM_PROCID": "1"}, 5),
        ({"OMPI_COMM_WORLD_RANK": "2"}, 2),
        ({"RANK": "", "SLURM_PROCID": "1"}, 1),
    ],
)
def test_the_rank_is_the_launcher_s(
    fifo: tuple[str, int], environment: dict[str, str], rank: int
) -> None:
    path, reader = fifo
    code = "from autotune import probe; probe.step(samples=1)"
    run(code, **{"AUTOTUNE_EVENTS_PATH": path, **environment})
    assert [line["rank"] for line in lines(reader)] == [rank]


def test_an_inherited_descriptor_will_do(fifo: tuple[str, int]) -> None:
    _, reader = fifo
    run(
        "from autotune import probe; probe.step(samples=1)",
        AUTOTUNE_EVENTS=str(reader),
        pass_fds=(reader,),
    )
    assert [line["samples"] for line in lines(reader)] == [1]


def test_a_number_that_means_another_file_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "checkpoint"
    victim.write_bytes(b"weights")
    with victim.open("ab") as file:
        code = "from autotune import probe; probe.step(samples=1); print(probe.active())"
        out = run(code, AUTOTUNE_EVENTS=str(file.fileno()), pass_fds=(file.fileno(),))
    assert out == "False\n"
    assert victim.read_bytes() == b"weights"


@pytest.mark.parametrize("path", ["/nowhere/events", "{tmp}/events"])
def test_a_measurement_that_is_over_does_not_stop_the_script(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "events")  # a pipe that nobody reads
    code = "from autotune import probe; probe.step(samples=1); print('trained')"
    assert run(code, AUTOTUNE_EVENTS_PATH=path.format(tmp=tmp_path)) == "trained\n"


def test_a_reader_that_leaves_does_not_stop_the_script(fifo: tuple[str, int]) -> None:
    path, reader = fifo
    code = (
        "import os\nfrom autotune import probe\n"
        f"probe.step(samples=1)\nopen({path!r} + '.go', 'w').close()\n"
        f"while not os.path.exists({path!r} + '.gone'): pass\n"
        "probe.step(samples=1)\nprint('trained', probe.active())"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": str(ROOT), "AUTOTUNE_EVENTS_PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not os.path.exists(path + ".go"):
        assert script.poll() is None
        time.sleep(0.01)
    os.close(reader)
    Path(path + ".gone").touch()
    out, _ = script.communicate(timeout=60)
    assert (script.returncode, out) == (0, "trained False\n")


def test_a_line_too_long_to_be_written_whole_is_told_once_and_the_script_goes_on(
    fifo: tuple[str, int],
) -> None:
    code = (
        "import sys\nsys.stderr = sys.stdout\nfrom autotune import probe\n"
        "for _ in range(3): probe.start(**{f'name_{i}': 'x' * 100 for i in range(60)})\n"
        "probe.step(samples=1)\nprint('trained')"
    )
    told, trained = run(code, AUTOTUNE_EVENTS_PATH=fifo[0]).splitlines()
    assert "start is left out: its line of " in told
    assert "longer than the 4096 that are written whole" in told
    assert trained == "trained"
    assert [line["event"] for line in lines(fifo[1])] == ["step"]


def test_stages_are_told_twice_a_second_with_what_was_done_since(fifo: tuple[str, int]) -> None:
    code = (
        "import os, time\nfrom autotune import probe\n"
        "end = time.monotonic() + 1.3\n"
        "while time.monotonic() < end:\n"
        "    with probe.stage('augment'): time.sleep(0.01)\n"
        "for item in probe.watch([1, 2], name='wait'): pass\n"
        "print(os.getpid())"
    )
    pid = int(run(code, AUTOTUNE_EVENTS_PATH=fifo[0]))
    told = lines(fifo[1])
    assert len(told) == 2
    for line in told:
        assert (line["event"], line["name"], line["pid"]) == ("stage", "augment", pid)
        tasks, busy = line["tasks"], line["busy_seconds"]
        assert isinstance(tasks, int)
        assert isinstance(busy, float)
        assert 0.01 * tasks <= busy <= 0.8
        assert tasks > 5


def test_a_forked_worker_tells_what_it_did_itself(fifo: tuple[str, int]) -> None:
    code = (
        "import os, time\nfrom autotune import probe\n"
        "for _ in range(5):\n"
        "    with probe.stage('parent'): pass\n"
        "if os.fork() == 0:\n"
        "    time.sleep(0.6)\n"
        "    with probe.stage('child'): pass\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    run(code, AUTOTUNE_EVENTS_PATH=fifo[0])
    assert [(line["name"], line["tasks"]) for line in lines(fifo[1])] == [("child", 1)]


def test_where_nobody_watches_or_measures_a_loader_is_handed_back_as_it_is() -> None:
    code = (
        "from autotune import probe; loader = [1]; "
        "print(probe.watch(loader) is loader, probe.stage('a') is probe.stage('b'))"
    )
    assert run(code) == "True True\n"


@pytest.mark.parametrize("kind", ["pipe", "file", "folder"])
def test_a_published_line_too_long_for_a_pipe_loses_stages_before_it_is_cut(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "live"
    if kind == "folder":
        path.mkdir()
    reader = None
    if kind == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    code = (
        "import os, time\nfrom autotune import probe\n"
        "print(os.getpid(), flush=True)\n"
        "for i in range(200):\n"
        "    with probe.stage(f'a stage with a long name {i}'): pass\n"
        "probe.queue('frames', [1, 2])\n"
        "time.sleep(0.8)"
    )
    pid = run(code, AUTOTUNE_LIVE=str(path)).strip()
    if reader is not None:
        [line, *_] = os.read(reader, 2**16).splitlines()
    else:
        file = path / f"{pid}.jsonl" if kind == "folder" else path
        [line, *_] = file.read_bytes().splitlines()
    told = json.loads(line)
    names = [stage["name"] for stage in told["stages"]]
    assert names == [f"a stage with a long name {i}" for i in range(len(names))]
    assert [queue["name"] for queue in told["queues"]] == ["frames"]
    assert told["about"]
    if kind == "pipe":
        assert 3900 < len(line) < 4096
    else:
        assert len(names) == 200
