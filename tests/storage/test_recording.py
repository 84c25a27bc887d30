"""What is recorded comes back, exactly once, in one piece."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from autotune.exceptions import InputError, StorageError
from autotune.stats import RatioEstimate
from autotune.storage import Database, StudyRecord
from autotune.storage.models import MeasurementRow, StageRow, WindowRow
from autotune.trial import (
    Failure,
    MemoryTrend,
    RankFigures,
    Resources,
    StageStats,
    TrialResult,
    Window,
)

MakeResult = Callable[..., TrialResult]
BASELINE = {
    "num_demux_threads": 8,
    "subclip_duration": 2.0,
    "process_mode": "in_process",
    "arena": "off",
}


def _count(database: Database, table: type) -> int:
    with Session(database.engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_every_figure_of_a_measurement_comes_back(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE, origin="baseline")
    result = make_result(123.5)
    machine = {"cpu": "Xeon", "gpus": [{"name": "NVIDIA H100"}]}
    assert database.record(
        study.id, 0, "baseline", result, machine=machine, data={"num_samples": 7}
    )
    [found] = database.measurements(study.id, 0)
    measured = result.measurement
    assert measured is not None
    dumped = found.model_dump()
    for name, value in measured.model_dump(exclude={"resources", "stages"}).items():
        assert dumped[name] == value, name
    for name, value in measured.resources.model_dump().items():
        assert dumped[name] == value, name
    for name in ("uuid", "state", "log_tail", "command_line", "exit_code", "node", "timeline"):
        assert dumped[name] == getattr(result, name), name
    assert found.started_at.timestamp() == result.started_at
    assert found.wall_seconds == result.wall_seconds
    assert database.stages(found.id) == measured.stages
    assert database.windows(found.id) == result.windows
    [stored] = database.machines()
    assert (stored.hash, stored.gpu, stored.cpu) == (found.machine, "NVIDIA H100", "Xeon")
    assert stored.fingerprint == machine
    assert database.datasets()[0].num_samples == 7
    assert database.study_fingerprints(study.id) == (machine, {"num_samples": 7})


def test_the_same_uuid_is_recorded_once(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    result = make_result()
    assert database.record(study.id, 0, "search", result)
    assert database.record(study.id, 0, "search", result)
    assert _count(database, MeasurementRow) == 1
    assert _count(database, WindowRow) == len(result.windows)
    assert _count(database, StageRow) == 3


def test_a_measurement_is_stored_whole_or_not_at_all(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    broken = make_result()
    # As a driver that dies between the measurement and its windows.
    seen: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def die(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("INSERT INTO autotune_windows"):
            seen.append(statement)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.record(study.id, 0, "search", broken)
    event.remove(database.engine, "before_cursor_execute", die)
    assert seen
    assert _count(database, MeasurementRow) == 0
    assert database.record(study.id, 0, "search", broken)
    assert _count(database, WindowRow) == 4


def test_figures_and_text_that_databases_refuse_do_not_cost_the_result(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    stage = StageStats(name="demux", queue_occupancy=math.nan)
    rank = RankFigures(rank=0, samples_per_second=math.nan, time_to_first_batch=1.0)
    result = make_result(
        within_low=-math.inf,
        within_high=math.inf,
        unique_frames=math.nan,
        stages=[stage],
        ranks=[rank],
    )
    result = result.model_copy(
        update={
            "windows": [Window(index=0, start=0.0, end=math.inf, stages=[stage])],
            "log_tail": "nul \x00 surrogate \udcff end",
            "timeline": {"started": math.nan},
            "command_line": "x --url postgresql://me:hunter2@db/x --api-key=hunter2",
        }
    )
    assert database.record(study.id, 0, "search", result, machine={"kernel\x00": "\udcff"})
    [found] = database.measurements(study.id)
    assert found.samples_per_second == 100.0
    assert (found.within_low, found.within_high, found.unique_frames) == (None, None, None)
    assert found.log_tail.startswith("nul ")
    assert found.log_tail.endswith(" end")
    assert "hunter2" not in found.command_line
    assert math.isnan(found.ranks[0].samples_per_second)
    assert math.isnan(database.stages(found.id)[0].queue_occupancy)
    [window] = database.windows(found.id)
    assert math.isnan(window.end)
    assert math.isnan(window.stages[0].queue_occupancy)
    database.finish_trial(study.id, 0, "COMPLETE")
    trial = database.trials(study.id)[0]
    assert (trial.ci_low, trial.ci_high) == (0.0, None), "a run that knows nothing of itself"


def test_a_failed_trial_has_no_figure_and_says_why(
    database: Database, study: StudyRecord, make_result: MakeResult, make_failure: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    database.record(study.id, 0, "search", make_result())
    database.record(study.id, 0, "search", make_failure())
    failure = Failure(kind="crash", cause="killed by signal 11", advice="look at the log")
    database.finish_trial(study.id, 0, "COMPLETE", failure=failure, penalty=True)
    [trial] = database.trials(study.id)
    assert trial.samples_per_second is None
    assert trial.ci_low is None
    assert trial.failure == failure
    assert not trial.rankable
    assert [m.failure for m in database.measurements(study.id)] == [None, failure]


def test_a_trial_has_the_mean_of_its_search_runs_alone(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 3, BASELINE)
    resources = Resources(rss_gib=4.0, cpu_percent=55.0, cache_gib=1.5, cache_mean_gib=0.5)
    database.record(study.id, 3, "search", make_result(100.0))
    database.record(study.id, 3, "search", make_result(110.0, resources=resources))
    for role in ("selection", "verification"):
        database.record(study.id, 3, role, make_result(500.0), block=0, arm="candidate")
    database.finish_trial(study.id, 3, "COMPLETE")
    trial = database.trial(study.id, 3)
    assert trial.samples_per_second == pytest.approx(105.0)
    assert trial.epoch_seconds == pytest.approx(1000 / 105)
    assert trial.measurements == 2
    assert trial.rss_gib == 4.0
    assert (trial.cache_gib, trial.cache_mean_gib) == (1.5, 0.5)
    assert database.best(study.id, where="cache_gib <= 2 and cache_mean_gib < 1") != []
    assert database.best(study.id, where="cache_gib <= 1") == []
    assert database.measurements(study.id)[1].cache_gib == 1.5
    assert database.measurements(study.id)[0].cache_gib is None
    assert trial.cpu_percent == pytest.approx(45.0)
    with pytest.raises(InputError, match="no trial 9 in this study"):
        database.trial(study.id, 9)


def test_a_run_that_did_not_become_steady_is_warned_of(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    for number, (steady, early) in enumerate([(False, False), (True, False), (False, True)]):
        database.start_trial(study.id, number, BASELINE | {"num_demux_threads": 1 + number})
        run = make_result(100.0, steady=steady, stopped_early=early)
        database.record(study.id, number, "search", run)
        database.finish_trial(study.id, number, "COMPLETE", stopped_early=early)
    told, steady, stopped = (trial.warnings for trial in database.trials(study.id))
    assert len(told) == 1
    assert told[0].startswith("not steady: ")
    assert steady == stopped == []


def test_the_interval_widens_with_the_spread_between_runs(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    def width() -> float:
        trial = database.trials(study.id)[0]
        assert trial.ci_low is not None
        assert trial.ci_high is not None
        return trial.ci_high - trial.ci_low

    database.start_trial(study.id, 0, BASELINE)
    database.record(study.id, 0, "search", make_result(100.0))
    database.finish_trial(study.id, 0, "COMPLETE")
    before = width()
    prior = database.between_run_sd(study.id)
    database.start_trial(study.id, 1, BASELINE | {"num_demux_threads": 3})
    for rate in (50.0, 100.0, 200.0, 75.0, 150.0):
        database.record(study.id, 1, "verification", make_result(rate), arm="candidate")
    assert width() > 2 * before
    assert database.between_run_sd(study.id)[0] > prior[0]
    assert database.between_run_sd(study.id)[1] == 4, "five repeats speak for themselves"


def test_wrong_roles_are_refused(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    with pytest.raises(ValueError, match="role 'serach' is none of search"):
        database.record(study.id, 0, "serach", make_result())
    with pytest.raises(ValueError, match="arm 'left'"):
        database.record(study.id, 0, "search", make_result(), arm="left")


def test_a_result_of_an_unknown_trial_is_kept_on_disk_and_told(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    with pytest.raises(StorageError, match="The result is kept in "):
        database.record(study.id, 77, "search", make_result())
    assert len(database.spool.waiting) == 1
    database.start_trial(study.id, 77, BASELINE)
    assert database.flush_spool() == 1
    assert len(database.measurements(study.id, 77)) == 1


def test_verifications_come_back_and_mark_the_trial(
    database: Database, study: StudyRecord, add_trial: Callable[..., None]
) -> None:
    add_trial(study, 0, 100.0, origin="baseline")
    add_trial(study, 1, 150.0, num_demux_threads=3)
    add_trial(study, 2, 101.0, num_demux_threads=7)
    for number, outcome in (
        (1, RatioEstimate(1.43, 1.40, 1.46, 4)),
        (2, RatioEstimate(1.01, 0.98, 1.04, 4)),
    ):
        database.add_verification(
            study.id,
            number,
            workload="",
            outcome=outcome,
            candidate_rates=[143.0, 144.0],
            baseline_rates=[100.0, 101.0],
            baseline_params=BASELINE,
        )
    first, second = database.verifications(study.id)
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1.43, 1.40, 1.46)
    assert (first.verified, first.significant, first.blocks) == (True, True, 2)
    assert (first.baseline_number, first.candidate_mean) == (0, 143.5)
    assert first.details["baseline_rates"] == [100.0, 101.0]
    assert (second.verified, second.significant) == (False, False)
    assert [t.verified for t in database.trials(study.id)] == [False, True, False]
    assert database.trials(study.id)[1].verification == first


def test_a_replay_is_never_verified(
    database: Database, make_study: Callable[..., StudyRecord], add_trial: Callable[..., None]
) -> None:
    replay = make_study("replay", source="replay")
    add_trial(replay, 1, 150.0)
    with pytest.raises(InputError, match="is a replay"):
        database.add_verification(
            replay.id,
            1,
            workload="",
            outcome=RatioEstimate(2.0, 1.9, 2.1, 4),
            candidate_rates=[2.0],
            baseline_rates=[1.0],
            baseline_params=BASELINE,
        )


def test_readers_go_on_while_the_driver_writes(
    url: str, database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    done = threading.Event()
    counts: list[int] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            with Database.open(url, create=False) as reader:
                while not done.is_set():
                    counts.append(len(reader.measurements(study.id)))
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for _ in range(20):
        assert database.record(study.id, 0, "search", make_result())
    done.set()
    for thread in readers:
        thread.join(timeout=30)
    assert not errors
    assert len(database.measurements(study.id)) == 20
    assert counts
    assert not database.spool.waiting


def test_two_threads_may_record_at_once(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    same = make_result()

    def write() -> None:
        for _ in range(5):
            database.record(study.id, 0, "search", make_result(), machine={"cpu": "x"})
            database.record(study.id, 0, "search", same, machine={"cpu": "x"})

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(database.measurements(study.id)) == 16
    assert len(database.machines()) == 1


def test_the_slope_of_the_memory_comes_back(
    database: Database, study: StudyRecord, make_result: MakeResult
) -> None:
    database.start_trial(study.id, 0, BASELINE)
    trend = MemoryTrend(
        verdict="grows", mib_per_minute=12.0, low=11.0, high=13.0, seconds=80.0, hours_left=3.0
    )
    resources = Resources(rss_gib=4.0, memory=trend)
    database.record(study.id, 0, "search", make_result(100.0, resources=resources))
    assert database.measurements(study.id)[0].memory == trend
