"""`soak`: what it sums up, in how much memory, and what a real loader with a leak is told."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.exceptions import InputError
from autotune.measuring.figures import Record, coarse
from autotune.measuring.telemetry import Telemetry
from autotune.memory import memory_trend
from autotune.sides import Side, read_side
from autotune.soak import SHORTEST_SECONDS, Samples, SoakFigures, SoakSample, SoakSettings, soak
from autotune.study.observer import StudyObserver
from autotune.trial import Event, Growing, GrowthEvent, SampleEvent, Window
from tests.made_clips import write_clips

LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset

class Retain:
    def __init__(self, every):
        self.kept, self.every, self.seen = [], every, 0

    def __call__(self, clip):
        self.seen += 1
        if self.every and self.seen % self.every == 0:
            self.kept.append(clip)
        return clip

def own(batch_size=8, every=0):
    retain = Retain(every)
    while True:
        yield retain(torch.ones(batch_size, 3, 4, 64, 64, dtype=torch.uint8))

class Clips(Dataset):
    def __init__(self, every):
        self.transform = Retain(every)

    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        return self.transform(torch.ones(3, 16, 64, 64, dtype=torch.uint8)), index % 5

def workers(batch_size=8, every=0):
    return DataLoader(Clips(every), batch_size=batch_size, num_workers=2, drop_last=True)
"""


def event(start: float, end: float, samples: int = 100, mib: float = 500.0) -> SampleEvent:
    window = Window(index=0, start=start, end=end, batches=10, samples=samples)
    return SampleEvent(time=end, window=window, memory_gib=mib / 1024, processes=3)


def told(rates: list[int], mib: list[float], interval: float = 10.0) -> Samples:
    """One event a second."""
    samples = Samples(interval)
    for second, (rate, held) in enumerate(zip(rates, mib, strict=True)):
        samples.take(event(100.0 + second, 101.0 + second, rate, held))
    return samples


def test_a_rate_that_holds_and_one_that_falls() -> None:
    steady = told([100 + i % 7 for i in range(600)], [500.0] * 600)
    assert steady.rate_trend().verdict == "holds"
    falling = told([200 - i // 6 for i in range(600)], [500.0] * 600).rate_trend()
    assert falling.verdict == "falls"
    assert falling.low is not None
    assert falling.high is not None
    assert falling.percent_per_hour is not None
    assert falling.low <= falling.percent_per_hour <= falling.high < 0
    assert told([200 - i for i in range(40)], [500.0] * 40).rate_trend().verdict == "too_short"


def test_a_fall_that_is_small_is_not_spoken_of() -> None:
    assert told([1000 - i // 20 for i in range(600)], [500.0] * 600).rate_trend().verdict == "holds"


def test_memory_that_grows_has_its_hours_left() -> None:
    samples = told([100] * 600, [500.0 + i / 6 for i in range(600)])
    trend = samples.memory_trend(limit_gib=1.0)
    assert trend.verdict == "grows"
    assert trend.mib_per_minute == pytest.approx(10.0)
    assert trend.hours_left == pytest.approx((1024 - 600) / 10 / 60, rel=0.01)
    assert trend.hours_left_low is not None
    assert trend.hours_left_high is not None
    assert trend.hours_left_low <= trend.hours_left <= trend.hours_left_high


def test_memory_is_not_accused_by_a_measurement_of_half_a_minute() -> None:
    clock = [0.5 * i for i in range(60)]
    trend = memory_trend(clock, [500 + 20 * t for t in clock], 1000.0)
    assert trend.verdict == "too_short"
    assert trend.mib_per_minute == pytest.approx(1200)
    assert trend.hours_left is None


def test_the_worst_interval_is_told_and_the_first_one_is_not_it() -> None:
    rates = [10] * 10 + [100] * 30 + [50] * 10 + [100] * 30
    lines: list[SoakSample] = []
    samples = Samples(10.0, lines.append)
    for second, rate in enumerate(rates):
        samples.take(event(100.0 + second, 101.0 + second, rate))
    assert [line.samples_per_second for line in lines] == [10, 100, 100, 100, 50, 100, 100, 100]
    assert samples.worst is not None
    assert (samples.worst.samples_per_second, samples.worst.seconds) == (50, 50)


def test_what_grows_is_the_last_that_each_rank_told() -> None:
    samples = told([100] * 10, [500.0] * 10)

    def growing(kind: str, grown: int) -> Growing:
        return Growing(kind=kind, count=1, bytes=grown, grown_count=3, grown_bytes=grown, seconds=5)

    samples.take(GrowthEvent(time=1, rank=0, growing=[growing("list", 1)]))
    samples.take(GrowthEvent(time=1, rank=1, growing=[growing("dict", 5)]))
    samples.take(GrowthEvent(time=2, rank=0, growing=[growing("list", 3)]))
    assert [(g.kind, g.grown_bytes) for g in samples.growing] == [("dict", 5), ("list", 3)]


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_the_driver_does_not_grow_with_the_length_of_the_run() -> None:
    samples = Samples(30.0)
    for second in range(4000):
        samples.take(event(100.0 + second, 101.0 + second))
    before = _objects()
    for second in range(4000, 30_000):
        samples.take(event(100.0 + second, 101.0 + second))
    assert _objects() <= before + 1000
    assert max(len(samples.rates), len(samples.memory)) <= 960


def test_the_worker_s_record_of_a_night_is_bounded_and_loses_no_sample() -> None:
    record = Record(drained=3)
    for second in range(20_000):
        start = 100.0 + second
        record.add(
            coarse(
                Window(
                    index=second,
                    start=start,
                    end=start + 1,
                    batches=7,
                    samples=28,
                    frames=448,
                    arrivals=[start + 0.1 * i for i in range(7)],
                    batch_samples=[4] * 7,
                )
            )
        )
        record.thin()
        assert len(record.windows) <= 129
    assert sum(record.samples) == sum(w.samples for w in record.windows) == 28 * 20_000
    assert sum(w.batches for w in record.windows) == 7 * 20_000
    assert len(record.times) == len(record.windows) == len(record.bounds)
    assert (record.start, record.times[-1]) == (100.0, 20_100.0)
    assert record.drained == 1


def test_telemetry_keeps_a_bounded_number_of_samples_and_their_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autotune.measuring.telemetry._MAX_SAMPLES", 32)
    telemetry = Telemetry(os.getpid())
    taken = [telemetry.sample()]
    block = bytearray(100 * 2**20)
    taken.append(telemetry.sample())
    del block
    for _ in range(200):
        taken.append(telemetry.sample())
        assert len(telemetry._samples) <= 32
    assert telemetry._samples[0] is taken[0]
    resources = telemetry.resources(0.0, time.monotonic())
    assert resources.rss_gib == max(sample.memory_gib for sample in taken)
    assert resources.memory is not None
    assert resources.memory.verdict == "too_short"


# ------------------------------------------------------------------ real processes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    (tmp_path / "leaky.py").write_text(LOADER)
    return tmp_path


def side(
    folder: Path, function: str, every: int, pace: int = 20, overrides: Sequence[str] = ()
) -> Side:
    """A loader of the test's own, with a consumer that takes a batch each ``pace`` ms."""
    return read_side(
        "python",
        "WHAT",
        overrides=[
            "search_space={parameters: {batch_size: {values: [8, 16], default: 8}}}",
            f"target.function=leaky:{function}",
            f"target.working_dir={folder}",
            f"target.arguments={{every: {every}}}",
            f"target.consumer={{kind: paced, ms_per_step: {pace}}}",
            *overrides,
        ],
    )


def run(folder: Path, function: str, every: int, **settings: Any) -> SoakFigures:
    file = folder / "soak.jsonl"
    outcome = soak(side(folder, function, every), SoakSettings(file=file, **settings))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["record"] for line in lines[:1] + lines[-1:]] == ["start", "verdict"]
    assert {line["record"] for line in lines[1:-1]} <= {"sample"}
    assert lines[-1] == outcome.model_dump(mode="json")
    assert outcome.failure is None, outcome.log_tail
    return outcome


@pytest.mark.long
def test_a_short_run_writes_its_file_and_accuses_nobody(folder: Path) -> None:
    outcome = run(folder, "own", every=1, seconds=4.0, interval=1.0)
    assert (outcome.holds, outcome.memory.verdict, outcome.rate.verdict) == (
        None,
        "too_short",
        "too_short",
    )
    assert 4 <= outcome.seconds < 10
    assert outcome.samples > 0
    assert outcome.memory_mib is not None
    assert len((folder / "soak.jsonl").read_text().splitlines()) - 2 >= 2


@pytest.mark.long
def test_the_wall_time_that_a_study_allows_its_trials_does_not_end_a_soak(folder: Path) -> None:
    limited = side(folder, "own", 0, overrides=["limits.wall_seconds=2"])
    outcome = soak(limited, SoakSettings(seconds=3.0, interval=0.5))
    assert outcome.failure is None
    assert outcome.seconds >= 3


class Windows(StudyObserver):
    """What failed from the first batch on."""

    failed = 0

    def measurement_event(self, uuid: str, event: Event) -> None:
        if isinstance(event, SampleEvent):
            self.failed += event.window.failed


@pytest.mark.long
def test_samples_that_fail_before_the_first_batch_are_told_too(folder: Path) -> None:
    videos = write_clips(folder / "videos")
    for broken in sorted((videos / "class_0").iterdir())[:1]:
        broken.write_bytes(broken.read_bytes()[:200])
    flags = "torch_dataloader --num-workers 0 --subclip-duration 0.5 --batch-size 8"
    overrides = ["target.num_frames=2", "target.frame_size=[16, 16]", "limits.max_failed_share=1"]
    overrides += ["target.consumer={kind: paced, ms_per_step: 100}"]
    broken_side = read_side(
        flags, "WHAT", overrides=overrides, values={"target.data_dir": str(videos)}
    )
    windows = Windows()
    outcome = soak(broken_side, SoakSettings(seconds=1.0, interval=0.25), observer=windows)
    assert outcome.failure is None, outcome.failure
    assert outcome.failed > windows.failed


def test_the_file_is_never_overwritten(folder: Path) -> None:
    (folder / "soak.jsonl").write_text("kept")
    with pytest.raises(InputError, match=r"soak.jsonl exists; choose another file"):
        run(folder, "own", every=0, seconds=6.0)
    assert (folder / "soak.jsonl").read_text() == "kept"


@pytest.mark.long
@pytest.mark.parametrize("function", ["own", "workers"])
def test_a_planted_leak_is_found_and_named(folder: Path, function: str) -> None:
    outcome = run(folder, function, every=4, seconds=80.0, interval=4.0, locate=True)
    assert outcome.memory.verdict == "grows"
    assert not outcome.holds
    assert outcome.memory.hours_left is not None
    assert outcome.mib_per_1000_batches is not None
    found = outcome.growing[0]
    assert found.kind.startswith("torch.Tensor [")
    assert found.holders[0].startswith("leaky.Retain.kept (list of ")
    where = (
        ["main process"] if function == "own" else ["DataLoader worker 0", "DataLoader worker 1"]
    )
    assert found.where == where
    assert found.age_seconds is not None
    # what is named is what the memory grows by; the two are not taken over the same seconds, and
    # the rate of a loader on a busy machine changes
    pace = found.grown_bytes / 2**20 / found.seconds * 60
    assert 0.4 < pace / outcome.memory.mib_per_minute < 2.5


class Looks(StudyObserver):
    """What each look for growing objects found, whatever became of the memory."""

    def __init__(self) -> None:
        self.found: list[list[Growing]] = []

    def measurement_event(self, uuid: str, event: Event) -> None:
        if isinstance(event, GrowthEvent):
            self.found.append(event.growing)


CLEAN = SoakSettings(seconds=80.0, interval=4.0, locate=True)


@pytest.mark.long
@pytest.mark.parametrize("function", ["own", "workers"])
def test_a_clean_loader_is_not_accused(folder: Path, function: str) -> None:
    looks = Looks()
    # The shortest soak that the command line takes. In less, what forked workers copy as Python
    # first collects garbage in each of them (50 MiB at a time) can look like a rise without end.
    shortest = replace(CLEAN, seconds=SHORTEST_SECONDS)
    outcome = soak(side(folder, function, every=0), shortest, observer=looks)
    assert outcome.memory.verdict == "holds"
    assert len(looks.found) >= 10
    assert looks.found[-1] == []


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        "torch_dataloader --num-workers 2",
        "prefetch_cache --num-threads 2 --decoder spdl",
        "spdl_video",
    ],
)
def test_a_built_in_loader_is_not_accused(folder: Path, text: str) -> None:
    """Over epochs of seven clips, which is where a loader would keep what it should not. Of its
    objects: what native libraries hold is told by the memory, in runs longer than this one."""
    looks = Looks()
    overrides = ["target.num_frames=4", "target.frame_size=[32, 48]"]
    data = {"target.data_dir": str(write_clips(folder / "clips"))}
    flags = f"{text} --subclip-duration 0.5 --batch-size 8"
    clean = read_side(flags, "WHAT", overrides=overrides, values=data)
    outcome = soak(clean, CLEAN, observer=looks)
    assert outcome.failure is None, outcome.log_tail
    assert len(looks.found) >= 10
    assert looks.found[-1] == []
