"""Ceilings: the consumer fed from memory, stages alone, and what a study does with them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FOLDER, ROOT, marked, specification

from autotune.cli.columns import ceiling_line
from autotune.results import all_trials, study_result
from autotune.search_space import SearchSpace, find_space
from autotune.storage import Database
from autotune.study.ceilings import Ceilings, WorkloadCeiling
from autotune.supervision.supervisor import supervise
from autotune.targets.base import Batch, Loader
from autotune.targets.spdl_video.stages_alone import tasks_per_second
from autotune.trial import FailedClip, Failure, Params, StageCeiling, StageStats, TrialSpec
from autotune.worker.ceiling import KEPT_BATCHES, MemoryLoader
from tests.fakes import FakeExecutor, FakeJob, Surface, measurement
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures

CLIPS = Path(ROOT).parent / "shared" / "clips" / "real"
PACED = {"kind": "paced", "ms_per_step": 5.0}

# ------------------------------------------------------------------ in worker processes


@pytest.fixture
def _targets_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{ROOT}")


@pytest.mark.usefixtures("_targets_importable")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_ceiling_is_the_consumers_rate_whatever_the_loader_does(ranks: int) -> None:
    slow = {"seconds_per_batch": 0.25}  # 16 samples/s a rank
    spec = specification(mode="ceiling", consumer=PACED, settings=slow, ranks=ranks)
    result = supervise(spec)
    assert result.state == "finished", result
    figures = result.measurement
    assert figures is not None
    assert ranks * 16 < figures.samples_per_second <= ranks * 4 / 0.005 * 1.01
    assert figures.accelerator_utilization > 0.5
    assert len(figures.ranks) == ranks
    assert figures.readback == spec.params
    assert marked(spec) == []


@pytest.mark.usefixtures("_targets_importable")
def test_a_consumer_that_takes_everything_has_no_ceiling() -> None:
    result = supervise(specification(mode="ceiling"))
    assert result.failure is not None
    assert "the consumer is none" in result.failure.cause


@pytest.mark.usefixtures("_targets_importable")
def test_stages_alone_are_what_the_target_reports() -> None:
    settings = {"stages": {"make": 900.0, "hand_over": 300.0}}
    spec = specification(mode="stages", target="staged:Staged", settings=settings)
    result = supervise(spec)
    assert result.state == "finished", result
    assert result.measurement is not None
    assert result.measurement.stage_ceilings == [
        StageCeiling(name="make", concurrency=1, samples_per_second=900.0),
        StageCeiling(name="hand_over", concurrency=1, samples_per_second=300.0),
    ]
    assert result.measurement.samples_per_second == 300.0
    assert result.measurement.batches == 0
    assert marked(spec) == []


@pytest.mark.usefixtures("_targets_importable")
@pytest.mark.parametrize(
    ("changes", "cause"),
    [({}, "does not run its stages alone"), ({"target": "staged:Staged", "ranks": 2}, "ranks: 2")],
)
def test_stages_that_cannot_be_run_alone_are_a_failure(changes: Any, cause: str) -> None:
    result = supervise(specification(mode="stages", **changes))
    assert result.failure is not None
    assert cause in result.failure.cause


@pytest.mark.long
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the test clips in {CLIPS}")
def test_every_stage_of_the_real_pipeline_runs_alone_on_real_clips() -> None:
    changed = {"device": "cpu", "subclip_duration": 0.5, "batch_size": 8, "num_fetch_threads": 3}
    params = SearchSpace.load(find_space("spdl_video")).complete(changed, "test")
    spec = specification(
        mode="stages",
        target="spdl_video",
        params=params,
        settings={"num_frames": 8, "frame_size": [64, 64]},
        data_dir=str(CLIPS),
    )
    result = supervise(spec)
    assert result.measurement is not None, result
    found = result.measurement.stage_ceilings
    assert list(dict.fromkeys(s.name for s in found)) == ["fetch", "demux", "decode", "collate"]
    assert all(s.samples_per_second > 0 for s in found)
    cores = len(os.sched_getaffinity(0))
    assert {s.concurrency for s in found if s.name == "fetch"} == {3, cores}
    assert {s.concurrency for s in found if s.name == "decode"} == {16, cores}
    assert {s.concurrency for s in found if s.name == "collate"} == {1}
    assert marked(spec) == []


# ------------------------------------------------------------------ parts of the worker


class Reusing(Loader):
    """Hands out the same memory with another content each time."""

    def __init__(self) -> None:
        import torch

        self.memory = torch.zeros(2)
        self.closed = False

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.memory += 1
            yield Batch(self.memory, None, 2, 32, 28, 40)

    def readback(self) -> Params:
        return {"a": 1}

    def stage_stats(self) -> list[StageStats]:
        return [StageStats(name="s")]

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 3, []

    def close(self) -> None:
        self.closed = True
        self.memory.zero_()


def test_what_is_fed_from_memory_are_copies_of_different_batches() -> None:
    source = Reusing()
    loader = MemoryLoader(source)
    try:
        assert source.closed
        assert not gc.isenabled()
        assert loader.readback() == {"a": 1}
        fed = [next_batch for next_batch, _ in zip(loader, range(2 * KEPT_BATCHES), strict=False)]
        values = [float(batch.video[0]) for batch in fed]
        assert values == [1.0, 2.0, 3.0, 4.0] * 2
        assert loader.failed() == (0, [])
    finally:
        loader.close()
    assert gc.isenabled()
    assert list(loader) == []


def test_only_what_a_stage_passes_on_counts() -> None:
    assert tasks_per_second(lambda item: item, [1, None], threads=1, seconds=0.05) > 0
    assert tasks_per_second(lambda item: None, [1, 2], threads=2, seconds=0.05) == 0


# ------------------------------------------------------------------ in a study


class WithCeilings(FakeExecutor):
    """A consumer that takes 100 samples/s, and a stage that reaches 500."""

    def __init__(self, surface: Surface) -> None:
        super().__init__(surface)
        self.modes: list[str] = []

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        self.modes.append(spec.mode)
        job = super().submit(spec, node)
        if spec.mode == "loader":
            return job
        figures = measurement(100.0)
        if spec.mode == "stages":
            stages = [StageCeiling(name="decode", concurrency=2, samples_per_second=500.0)]
            figures = figures.model_copy(update={"stage_ceilings": stages})
        changed = {"state": "finished", "measurement": figures, "failure": None}
        return FakeJob(spec, job.result().model_copy(update=changed))


@pytest.fixture
def paced(experiment: dict[str, Any]) -> dict[str, Any]:
    experiment["target"]["consumer"] = PACED
    return experiment


def test_every_result_is_a_share_of_its_workloads_ceiling(paced: dict[str, Any], url: str) -> None:
    paced["vary_workload"] = ["subclip_duration"]
    launch(paced, url, WithCeilings(lambda params: 300.0 / int(params["num_demux_threads"])))
    with Database.open(url) as database:
        study = database.get_study("study")
        found = Ceilings.of(study)
        trials = all_trials(database, study)
        shown = study_result(database, study)
        best = database.best(study.id)[0].trials[0]
    assert found is not None
    assert len(found.workloads) == 4, "one for each subclip duration"
    assert {w.samples_per_second for w in found.workloads} == {100.0}
    assert all(w.stages[0].samples_per_second == 500.0 for w in found.workloads)
    for trial in trials:
        assert trial.samples_per_second is not None
        assert trial.ceiling_share == pytest.approx(trial.samples_per_second / 100.0)
    assert shown.best is not None
    assert shown.best.ceiling_share is not None
    assert all(w.trial.ceiling_share is not None for w in shown.winners)
    assert best.samples_per_second != 100.0, "a ceiling is no result"


def test_ceilings_are_measured_once_and_after_the_baseline(paced: dict[str, Any], url: str) -> None:
    first = WithCeilings(surface)
    paced["budget"] = {"trials": 3, "stop_at_ceiling": None}
    launch(paced, url, first)
    assert first.modes[:3] == ["loader", "stages", "ceiling"]
    assert first.modes.count("ceiling") == 1
    paced["budget"] = {"trials": 5, "stop_at_ceiling": None}
    again = WithCeilings(surface)
    launch(paced, url, again)
    assert set(again.modes) == {"loader"}


def test_a_search_ends_near_the_ceiling_and_its_winner_is_verified(
    paced: dict[str, Any], url: str
) -> None:
    paced["enqueue"] = [{"num_demux_threads": 2, "num_decode_threads": 4}]
    paced["baseline"] = {"num_demux_threads": 8, "num_decode_threads": 8}
    paced["noise"] = {"runs": 5, "drift_every": 0}  # equal: nothing differs between runs here
    rates = WithCeilings(lambda p: 99.5 if p["num_demux_threads"] == 2 else 60.0)
    outcome = launch(paced, url, rates)
    _, trials, _, verifications = records(url)
    assert outcome.state == "finished"
    assert len(trials) == 2
    assert [v.trial_number for v in verifications] == [1]


@pytest.mark.parametrize(
    ("budget", "trials"),
    [({"trials": 4, "target_rate": 50}, 1), ({"trials": 4, "target_rate": 1e6}, 4)],
)
def test_a_search_ends_at_the_target_rate(
    experiment: dict[str, Any], url: str, budget: dict[str, Any], trials: int
) -> None:
    experiment["budget"] = budget
    launch(experiment, url, FakeExecutor(lambda params: 60.0))
    assert len(records(url)[1]) == trials


def test_a_lucky_run_ends_no_search(paced: dict[str, Any], url: str) -> None:
    paced["noise"] = {"runs": 5, "drift_every": 0}
    paced["budget"] = {"trials": 6}
    noisy = WithCeilings(lambda params: 99.5)  # within 3 % of the ceiling, in each single run
    noisy._noise = 0.1
    launch(paced, url, noisy)
    assert len(records(url)[1]) == 6
    paced["budget"] = {"trials": 6, "stop_at_ceiling": None, "target_rate": 95}
    launch(paced, url, noisy, name="target")
    _, trials, _, _ = records(url, "target")
    assert len(trials) == 6
    assert any(t.samples_per_second > 95 for t in trials)


class FailingCeilings(WithCeilings):
    """The runs of the consumer fed from memory fail in this way, so often."""

    def __init__(self, kind: Any, times: int) -> None:
        super().__init__(surface)
        self._failure = Failure(kind=kind, cause="why")
        self._left = times

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = super().submit(spec, node)
        if spec.mode != "ceiling" or self._left == 0:
            return job
        self._left -= 1
        changed = {"state": "failed", "measurement": None, "failure": self._failure}
        return FakeJob(spec, job.result().model_copy(update=changed))


@pytest.mark.parametrize(
    ("kind", "times", "runs", "again"),
    [
        ("infrastructure", 2, 3, 0),  # made again at once
        ("hang", 1, 1, 1),  # made again by the next launch
        ("unsupported", 1, 1, 0),  # it is of no use
    ],
)
def test_a_ceiling_that_could_not_be_measured_is_tried_again(
    paced: dict[str, Any], url: str, kind: str, times: int, runs: int, again: int
) -> None:
    paced["budget"] = {"trials": 2, "stop_at_ceiling": None}
    first = FailingCeilings(kind, times)
    launch(paced, url, first)
    assert first.modes.count("ceiling") == runs
    paced["budget"] = {"trials": 3, "stop_at_ceiling": None}
    later = WithCeilings(surface)
    launch(paced, url, later)
    assert later.modes.count("ceiling") == again
    [only] = Ceilings.model_validate(records(url)[0].ceilings).workloads
    assert (only.samples_per_second is None) == (kind == "unsupported")


def test_without_a_consumer_there_is_no_ceiling_and_it_says_so(
    experiment: dict[str, Any], url: str
) -> None:
    executor = WithCeilings(surface)
    launch(experiment, url, executor)
    study, trials, _, _ = records(url)
    assert study.ceilings is not None
    [only] = Ceilings.model_validate(study.ceilings).workloads
    assert (only.samples_per_second, only.reason) == (None, "no ceiling: the consumer is none")
    assert only.stages
    assert trials[0].samples_per_second != 100.0
    with Database.open(url) as database:
        assert [m.role for m in database.measurements(study.id)].count("ceiling") == 1
        assert {t.ceiling_share for t in all_trials(database, study)} == {None}


def test_the_line_that_people_see() -> None:
    found = Ceilings(
        consumer="train_step",
        workloads=[
            WorkloadCeiling(workload="d=1", samples_per_second=3405.0),
            WorkloadCeiling(workload="d=2", samples_per_second=None, reason="no ceiling: x"),
        ],
    ).model_dump()
    trial = {"workload": "d=1", "number": 7, "ceiling_share": 0.38}
    assert ceiling_line(found, trial) == (
        "ceiling 3,405 samples/s (train_step fed from memory); trial 7 reaches 38 %"
    )
    assert ceiling_line(found, trial | {"workload": "d=2"}) == "no ceiling: x"
    assert ceiling_line(found, trial | {"workload": "d=3"}) == ""
