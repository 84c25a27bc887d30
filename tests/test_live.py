"""Watching a loader: what is published, by whom, and that nothing is where nobody watches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FOLDER, ROOT, marked, specification, wait_for
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError
from autotune.live.channel import FolderChannel, StreamChannel, open_channel
from autotune.live.history import History, point_of
from autotune.live.lines import Line, Point, QueueLine, StageLine
from autotune.live.usage import Usage
from autotune.manifest import scan
from autotune.publishing import sinks
from autotune.publishing.publisher import LIVE_VARIABLE, Publisher, live_folder
from autotune.supervision.supervisor import supervise
from autotune.system import processes
from autotune.trial import Event, TrialSpec
from autotune.watching import running_trials, watch_process, watch_trial
from tests.made_clips import write_clips


@pytest.fixture(autouse=True)
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")
    monkeypatch.delenv(LIVE_VARIABLE, raising=False)


def watched(**changes: Any) -> TrialSpec:
    return specification(target="watched:Watched", **changes)


LONG = {"min_seconds": 2.5, "max_seconds": 2.5, "relative_half_width": 1e-9, "window_seconds": 0.1}


# --------------------------------------------------------------------------- a measurement


def test_where_nobody_watches_there_is_no_thread_no_process_and_no_file() -> None:
    seen: list[list[str]] = []
    spec = watched()

    def look(event: Event) -> None:
        if event.event == "first_batch":
            (trial,) = running_trials(spec.study)
            seen.append(sorted(os.listdir(trial.scratch)))
            others = set(marked(spec)) - {trial.worker}
            seen.append([processes.name_of(pid) for pid in others])

    result = supervise(spec, look)
    assert result.measurement is not None, result
    files, others = seen
    assert set(files) <= {"forked", "owner"}
    assert others == [processes.GUARDIAN_NAME]
    threads = result.measurement.versions["threads"]
    assert "MainThread" in threads
    assert "autotune-live" not in threads


def test_the_environment_switches_it_on_from_the_start(tmp_path: Path) -> None:
    spec = watched()
    result = supervise(spec, changes={LIVE_VARIABLE: str(tmp_path)})
    assert result.measurement is not None, result
    assert "autotune-live" in result.measurement.versions["threads"]
    channel = FolderChannel(tmp_path)
    lines = channel.read()
    channel.close()
    assert sum(line.samples for line in lines) == sum(w.samples for w in result.windows)
    about = lines[0].about
    assert about is not None
    assert (about["trial"], about["params"]) == (spec.uuid, spec.params)
    last = next(line for line in reversed(lines) if line.samples)
    assert [(q.name, q.capacity) for q in last.queues] == [("make", 3), ("sink", 4)]
    assert last.queues[0].size == 2
    (stage,) = last.stages
    assert (stage.name, stage.concurrency, stage.tasks % 10) == ("make", 2, 0)
    assert all(line.error is None and line.dropped == 0 for line in lines)


class Spectator(threading.Thread):
    """Watches a study's first trial until it has seen a point with a rate."""

    def __init__(self, spec: TrialSpec, reporting: int = 1) -> None:
        super().__init__(daemon=True)
        self._spec = spec
        self._reporting = reporting
        self.point: Point | None = None
        self.scratch = ""

    def run(self) -> None:
        assert wait_for(lambda: running_trials(self._spec.study))
        (trial,) = running_trials(self._spec.study)
        self.scratch = trial.scratch
        watcher = watch_trial(trial)
        assert watcher is not None

        def seen() -> bool:
            point = watcher.look()
            recent = watcher.recent()
            good = recent is not None and recent.reporting == self._reporting
            if point is not None and recent is not None and good and recent.samples_per_second:
                self.point = recent
            return self.point is not None

        wait_for(seen)
        watcher.close()


def test_a_trial_publishes_as_soon_as_somebody_watches_and_leaves_nothing() -> None:
    spec = watched(measurement=LONG)
    spectator = Spectator(spec)
    spectator.start()
    result = supervise(spec)
    spectator.join(10)
    assert result.measurement is not None, result
    point = spectator.point
    assert point is not None
    assert point.fps == pytest.approx(16 * point.samples_per_second)
    assert [queue.name for queue in point.queues] == ["make", "sink"]
    assert point.memory_gib is not None
    assert point.memory_gib > 0.01
    assert point.processes == 1
    assert marked(spec) == []
    assert not os.path.exists(spectator.scratch)


@pytest.mark.long
def test_all_ranks_publish_and_add_up() -> None:
    spec = watched(ranks=2, measurement=LONG)
    spectator = Spectator(spec, reporting=2)
    spectator.start()
    result = supervise(spec)
    spectator.join(10)
    assert result.measurement is not None, result
    assert spectator.point is not None
    assert [queue.capacity for queue in spectator.point.queues] == [6, 8]
    assert [stage.concurrency for stage in spectator.point.stages] == [4]


def test_a_target_that_tells_no_levels_shows_its_mean_filling(tmp_path: Path) -> None:
    result = supervise(specification(), changes={LIVE_VARIABLE: str(tmp_path)})
    assert result.measurement is not None, result
    lines = FolderChannel(tmp_path).read()
    last = next(line for line in reversed(lines) if line.samples)
    assert [(q.name, q.capacity, q.filled) for q in last.queues] == [("make", 3, 0.0)]


def test_a_place_that_cannot_be_written_does_not_fail_the_measurement() -> None:
    result = supervise(watched(), changes={LIVE_VARIABLE: "/nowhere/at/all"})
    assert result.state == "finished"
    assert "/nowhere/at/all: there is no such folder; nothing is published" in result.log_tail


BUILT_IN = [
    pytest.param("spdl_video", {}, 8, id="spdl_video"),
    pytest.param(
        "spdl_video", {"process_mode": "subprocess"}, 9, marks=pytest.mark.long, id="subprocess"
    ),
    pytest.param("torch_dataloader", {"num_workers": 2}, 1, id="torch_dataloader"),
]


@pytest.mark.parametrize(("target", "params", "queues"), BUILT_IN)
def test_the_queues_of_built_in_targets_are_those_of_their_stages(
    target: str, params: dict[str, Any], queues: int, tmp_path: Path
) -> None:
    manifest = scan(write_clips(tmp_path / "clips"))
    (tmp_path / "live").mkdir()
    spec = specification(
        target=target,
        params={"batch_size": 2, "subclip_duration": 0.5, **params},
        settings={"num_frames": 4, "frame_size": [32, 32]},
        data_dir=str(tmp_path / "clips"),
        manifest=str(manifest.write(tmp_path)),
        measurement={**LONG, "min_seconds": 1.5, "max_seconds": 1.5},
    )
    result = supervise(spec, changes={LIVE_VARIABLE: str(tmp_path / "live")})
    assert result.measurement is not None, result
    lines = FolderChannel(tmp_path / "live").read()
    stages = {s.name: s.queue_size for s in result.measurement.stages if s.queue_size}
    told = next(line for line in reversed(lines) if line.samples)
    assert {q.name: q.capacity for q in told.queues} == stages
    assert len(stages) == queues
    for line in lines:
        assert line.error is None
        assert all(0 <= q.size <= q.capacity + 2 for q in line.queues), line
    assert any(q.size > 0 for line in lines for q in line.queues)
    assert sum(line.samples for line in lines) == sum(w.samples for w in result.windows)


# --------------------------------------------------------------------------- a script's own loader

SCRIPT = """
import queue, time
from autotune import probe

class Loader:
    def __iter__(self):
        for i in range(8):
            with probe.stage("decode"):
                time.sleep(0.002)
            yield [0] * 4

staged = queue.Queue(5)
staged.put("batch")
probe.queue("staged", staged)
probe.queue("all", lambda: 7, capacity=14)
probe.queue("list", [1, 2])
loader = probe.watch(Loader())
STOP
for batch in loader:
    probe.step(samples=len(batch), frames=8 * len(batch))
"""


def script(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_script_that_nobody_watches_runs_as_if_there_were_no_call() -> None:
    code = SCRIPT.replace(
        "STOP",
        "assert type(loader) is Loader\n"
        "import sys, threading\n"
        "print(threading.active_count(), [m for m in sys.modules if m.startswith('autotune.')])",
    )
    assert script(code).stdout == "1 ['autotune.probe']\n"


def test_a_script_publishes_its_steps_queues_and_stages(tmp_path: Path) -> None:
    # a last line is published by the thread; a script that ends sooner loses half a second
    script(SCRIPT.replace("STOP", "") + "time.sleep(1.1)\n", AUTOTUNE_LIVE=str(tmp_path), RANK="3")
    lines = FolderChannel(tmp_path).read()
    point = point_of(lines)
    assert sum(line.samples for line in lines) == 32
    assert sum(line.frames for line in lines) == 256
    assert sum(line.batches for line in lines) == 8
    assert {line.rank for line in lines} == {3}
    found = [(q.name, q.size, q.capacity, q.filled) for q in point.queues]
    assert found == [("staged", 1, 5, 0.2), ("all", 7, 14, 0.5), ("list", 2, 0, None)]
    tasks = {
        s.name: sum(t.tasks for x in lines for t in x.stages if t.name == s.name)
        for s in point.stages
    }
    assert tasks == {"decode": 8, "next": 8}
    assert all(s.milliseconds is not None and s.milliseconds >= 2 for s in point.stages)


def test_a_queue_that_cannot_be_asked_is_named_and_the_script_goes_on(tmp_path: Path) -> None:
    code = (
        "import time\nfrom autotune import probe\n"
        "probe.queue('odd', object())\nprobe.step(4)\ntime.sleep(0.8)\nprint('trained')"
    )
    assert script(code, AUTOTUNE_LIVE=str(tmp_path)).stdout == "trained\n"
    history = History()
    history.add(FolderChannel(tmp_path).read())
    assert history.error is not None
    assert "has no len()" in history.error


def test_a_path_that_cannot_be_written_is_told_once_and_the_script_goes_on() -> None:
    done = script(SCRIPT.replace("STOP", "") + "print('trained')", AUTOTUNE_LIVE="/nowhere/live")
    assert done.stdout == "trained\n"
    assert done.stderr.count("AUTOTUNE_LIVE=/nowhere/live: there is no such folder") == 1


DATALOADER = """
import time, torch
from torch.utils.data import DataLoader, Dataset
from autotune import probe

class Clips(Dataset):
    def __len__(self): return 48
    def __getitem__(self, i):
        with probe.stage("decode"):
            return torch.zeros(3)

if __name__ == "__main__":
    loader = probe.watch(DataLoader(Clips(), batch_size=4, num_workers=2, prefetch_factor=3,
                                    multiprocessing_context="{context}"))
    assert len(loader) == 12 and loader.batch_size == 4
    for epoch in range(2):
        batches = iter(loader)
        next(batches)
        time.sleep(1.6)  # the workers fill the queue meanwhile
        for batch in batches:
            probe.step(len(batch))
    time.sleep(0.6)
"""


def test_a_dataloader_tells_how_many_batches_are_ready(tmp_path: Path) -> None:
    code = DATALOADER.replace("{context}", "fork")
    path = tmp_path / "train.py"
    path.write_text(code)
    live = tmp_path / "live"
    live.mkdir()
    script(
        f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')", AUTOTUNE_LIVE=str(live)
    )
    lines = FolderChannel(live).read()
    ready = [q for line in lines for q in line.queues]
    assert {(q.name, q.capacity) for q in ready} == {("next ready", 6)}
    assert max(q.size for q in ready) >= 5, "the queue was full while nothing was taken"
    assert ready[-1].size == 0
    by_workers = {line.pid for line in lines for s in line.stages if s.name == "decode"}
    assert len(by_workers) >= 2, "each worker tells for itself"


@pytest.mark.long
def test_a_dataloader_s_spawned_workers_are_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(DATALOADER.replace("{context}", "spawn").replace("1.6", "6"))
    live = tmp_path / "live"
    live.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**clean, "PYTHONPATH": ROOT, "AUTOTUNE_LIVE": str(live)},
        timeout=120,
    )
    assert done.returncode == 0
    ready = [q for line in FolderChannel(live).read() for q in line.queues]
    assert max(q.size for q in ready) >= 5


def test_a_script_in_a_trial_publishes_from_when_somebody_watches(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom autotune import probe\n"
        "probe.queue('mine', [1], 2)\nsteps = 0\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[1]):\n"
        "    probe.step(2); time.sleep(0.01)\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "stop")],
        env={**clean, "PYTHONPATH": ROOT, "AUTOTUNE_SCRATCH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert os.listdir(tmp_path) == []
        folder = Path(live_folder(str(tmp_path)))
        folder.mkdir()
        channel = FolderChannel(folder)
        found: list[Line] = []
        assert wait_for(lambda: found.extend(channel.read()) or any(x.samples for x in found))
        assert [q.name for q in found[-1].queues] == ["mine"]
    finally:
        (tmp_path / "stop").touch()
        assert process.wait(timeout=60) == 0
        process.stdout.close() if process.stdout else None


def test_a_process_is_found_by_what_its_environment_says(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    code = "import time\nfrom autotune import probe\nwhile True: probe.step(3); time.sleep(0.01)"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": ROOT, "AUTOTUNE_LIVE": "live"},
    )
    try:
        assert wait_for(lambda: processes.environment_of(process.pid).get("AUTOTUNE_LIVE"))
        watcher = watch_process(process.pid)
        points: list[Point] = []

        def seen() -> bool:
            point = watcher.look()
            points.extend([point] if point is not None else [])
            return bool(points) and points[-1].cpu_cores is not None

        assert wait_for(seen)
        assert points[-1].samples_per_second > 0
        assert points[-1].processes == 1
        watcher.close()
    finally:
        process.kill()
        process.wait()


def test_a_process_that_publishes_nothing_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"it publishes nothing.*autotune watch -- COMMAND"):
        watch_process(os.getpid())
    with pytest.raises(InputError, match="--pid 999999999: there is no such process"):
        watch_process(999999999)


# --------------------------------------------------------------------------- files and pipes


def counting() -> Callable[[], dict[str, Any]]:
    """A source that tells 1, 2, 3 ... samples."""
    numbers = iter(range(1, 10**6))
    return lambda: {"samples": next(numbers)}


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher(interval=0.005)
    made.add_source(counting())
    yield made
    made.stop()


def test_a_full_file_is_exchanged_and_nothing_is_read_twice_or_missed(
    tmp_path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "FILE_BYTES", 2000)
    channel = FolderChannel(tmp_path)
    publisher.publish_to(str(tmp_path))
    found: list[int] = []
    assert wait_for(lambda: found.extend(x.samples for x in channel.read()) or len(found) > 100)
    assert found == list(range(1, len(found) + 1))
    assert len(os.listdir(tmp_path)) <= 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 2000
    late = FolderChannel(tmp_path).read()
    assert [x.samples for x in late] == list(range(late[0].samples, late[-1].samples + 1))


def test_a_pipe_may_have_no_reader_a_slow_one_and_one_that_leaves(
    tmp_path: Path, publisher: Publisher
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    publisher.publish_to(str(path))
    for _ in range(2):  # a reader that leaves and one that comes back
        reader = StreamChannel(path)
        found: list[Line] = []
        assert wait_for(lambda f=found, r=reader: f.extend(r.read()) or len(f) >= 3)
        assert all(line.pid == os.getpid() for line in found)
        reader.close()
        time.sleep(0.05)
    slow = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    before = found[-1].samples
    assert wait_for(lambda: _dropped(publisher) > 20), "a full pipe drops lines and blocks nobody"
    assert json.loads(os.read(slow, 2**20).splitlines()[0])["samples"] > before
    os.close(slow)


def _dropped(publisher: Publisher) -> int:
    return publisher._dropped


def test_the_first_line_of_a_file_says_what_is_watched(
    tmp_path: Path, publisher: Publisher
) -> None:
    publisher.about = {"command": "train.py"}
    publisher.publish_to(str(tmp_path / "lines"))
    channel = open_channel(tmp_path) if (tmp_path / "lines").is_dir() else None
    assert channel is None, "a path that is no folder is a file"
    assert wait_for(lambda: (tmp_path / "lines").exists())
    stream = open_channel(tmp_path / "lines")
    found: list[Line] = []
    assert wait_for(lambda: found.extend(stream.read()) or len(found) >= 2)
    assert [line.about for line in found[:2]] == [{"command": "train.py"}, None]
    stream.close()


def test_a_path_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent: No such file.*AUTOTUNE_LIVE"):
        open_channel(tmp_path / "absent")


def test_what_is_no_line_is_left_out(tmp_path: Path) -> None:
    good = Line(time=1.0, pid=1, seconds=0.5, samples=3).model_dump_json()
    text = f'garbage\n{{"time": 1}}\n{good[:-1]}, "new": "key"}}\n{good[:20]}'
    (tmp_path / "7.jsonl").write_text(text)
    assert [line.samples for line in FolderChannel(tmp_path).read()] == [3]


def test_cpu_and_memory_are_those_of_the_marked_processes() -> None:
    code = "x = bytearray(80 << 20)\nprint('ready', flush=True)\nwhile True: pass"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, LIVE_VARIABLE: "mark-of-this-test"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        usage = Usage(LIVE_VARIABLE, "mark-of-this-test", process.pid)
        first = usage.look()
        assert first is not None
        assert (first.processes, first.cpu_cores) == (1, None)
        assert first.memory_gib > 0.07
        time.sleep(0.3)
        second = usage.look()
        assert second is not None
        assert second.cpu_cores is not None
        assert second.cpu_cores > 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert usage.look() is None


# --------------------------------------------------------------------------- adding up

_counts = st.integers(0, 1000)
_lines = st.lists(
    st.builds(
        Line,
        time=st.floats(0, 100),
        pid=st.integers(1, 3),
        seconds=st.floats(0.1, 2.0),
        samples=_counts,
        frames=_counts,
        stages=st.lists(
            st.builds(
                StageLine,
                name=st.sampled_from(["fetch", "decode"]),
                concurrency=st.integers(0, 4),
                tasks=_counts,
                busy_seconds=st.floats(0, 8),
            ),
            max_size=2,
            unique_by=lambda stage: stage.name,
        ),
        queues=st.lists(
            st.builds(
                QueueLine,
                name=st.sampled_from(["fetch", "sink"]),
                size=st.integers(0, 9),
                capacity=st.integers(0, 8),
                filled=st.none() | st.floats(0, 1),
            ),
            max_size=2,
            unique_by=lambda queue: queue.name,
        ),
    ),
    min_size=1,
    max_size=30,
).map(lambda lines: sorted(lines, key=lambda line: line.time))


@given(_lines)
def test_a_point_adds_up_processes_and_stays_within_bounds(lines: list[Line]) -> None:
    point = point_of(lines)
    by_process = {pid: [x for x in lines if x.pid == pid] for pid in {x.pid for x in lines}}
    expected = sum(
        sum(x.samples for x in told) / sum(x.seconds for x in told) for told in by_process.values()
    )
    assert point.samples_per_second == pytest.approx(expected)
    assert point.reporting == len(by_process)
    assert all(queue.filled is None or 0 <= queue.filled <= 1 for queue in point.queues)
    assert all(queue.filled is not None or not queue.capacity for queue in point.queues)
    assert all(stage.busy is None or 0 <= stage.busy <= 1 for stage in point.stages)
    assert Point.model_validate_json(point.model_dump_json()) == point


@given(_lines, st.integers(1, 40))
def test_a_series_holds_every_line_of_its_stretch_once(lines: list[Line], count: int) -> None:
    history = History()
    history.add(lines)
    series = history.series(end=100.0, seconds=100.0, count=count)
    assert len(series) == count
    inside = [line for line in lines if line.time > 0]
    assert sum(p.reporting > 0 for p in series if p is not None) <= len(inside)
    told = sum(round(p.samples_per_second * p.seconds) for p in series if p and p.reporting == 1)
    if len({line.pid for line in lines}) == 1:
        assert told == sum(line.samples for line in inside)


def test_history_forgets_what_is_old() -> None:
    history = History(kept_seconds=10.0)
    for moment in range(30):
        history.add([Line(time=float(moment), pid=1, seconds=1.0, samples=moment)])
    assert history.point(0.0, 19.0) == history.point(18.5, 19.0)
    assert history.last == 29.0
    assert history.point(40.0, 50.0) is None
