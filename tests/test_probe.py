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


def test_a_line_too_long_to_be_written_whole_is_refused(fifo: tuple[str, int]) -> None:
    code = (
        "from autotune import probe\n"
        "try: probe.start(**{f'name_{i}': 'x' * 100 for i in range(60)})\n"
        "except ValueError as error: print(error)"
    )
    out = run(code, AUTOTUNE_EVENTS_PATH=fifo[0])
    assert "too long; report at most 4096" in out
    assert lines(fifo[1]) == []
