"""Ranking: verified first, only what compares, never Optuna's value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autotune.exceptions import ExpressionError, InputError
from autotune.expressions import Expression
from autotune.stats import RatioEstimate
from autotune.storage import BestGroup, Database, StudyRecord
from autotune.trial import Failure

AddTrial = Callable[..., None]


def _numbers(group: BestGroup) -> list[int]:
    return [trial.number for trial in group.trials]


def _verify(database: Database, study: StudyRecord, number: int, ratio: float) -> None:
    database.add_verification(
        study.id,
        number,
        workload="",
        outcome=RatioEstimate(ratio, ratio - 0.02, ratio + 0.02, 4),
        candidate_rates=[ratio, ratio],
        baseline_rates=[1.0, 1.0],
        baseline_params={},
    )


def test_verified_trials_come_first_and_the_rest_by_rate(
    database: Database, study: StudyRecord, add_trial: AddTrial
) -> None:
    add_trial(study, 0, 100.0, origin="baseline")
    for number, rate in ((1, 130.0), (2, 150.0), (3, 140.0)):
        add_trial(study, number, rate, num_demux_threads=number)
    _verify(database, study, 3, 1.38)
    _verify(database, study, 2, 1.01)
    [group] = database.best(study.id, top=3)
    assert _numbers(group) == [3, 2, 1]
    assert [trial.verified for trial in group.trials] == [True, False, False]
    assert group.baseline is not None
    assert group.baseline.number == 0
    assert _numbers(database.best(study.id)[0]) == [3]
    with pytest.raises(InputError, match="--top 0"):
        database.best(study.id, top=0)


def test_only_complete_feasible_trials_measured_to_their_end_are_ranked(
    database: Database,
    study: StudyRecord,
    add_trial: AddTrial,
    make_result: Callable[..., object],
) -> None:
    add_trial(study, 0, 100.0, origin="baseline")
    add_trial(study, 1, 900.0, violated=("cpu_percent <= 40",))
    add_trial(study, 2, 800.0)
    database.finish_trial(study.id, 2, "COMPLETE", stopped_early=True)
    add_trial(study, 3, 700.0)
    failure = Failure(kind="hang", cause="silent")
    database.finish_trial(study.id, 3, "COMPLETE", failure=failure, penalty=True)
    add_trial(study, 4, 600.0)
    database.finish_trial(study.id, 4, "PRUNED")
    database.start_trial(study.id, 5, {})
    database.record(study.id, 5, "search", make_result(500.0))  # type: ignore[arg-type]
    add_trial(study, 6)
    [group] = database.best(study.id, top=10)
    assert _numbers(group) == [0]
    assert database.trials(study.id)[1].samples_per_second == 900.0


def test_each_workload_value_has_its_own_best_and_baseline(
    database: Database, study: StudyRecord, add_trial: AddTrial
) -> None:
    add_trial(study, 0, 100.0, origin="baseline")
    add_trial(study, 1, 400.0, origin="baseline", subclip_duration=0.5)
    add_trial(study, 2, 150.0, num_demux_threads=3)
    add_trial(study, 3, 300.0, num_demux_threads=3, subclip_duration=0.5)
    add_trial(study, 4, 120.0, num_demux_threads=3, subclip_duration=1.0)
    groups = {group.workload_key: group for group in database.best(study.id)}
    assert list(groups) == ["subclip_duration=0.5", "subclip_duration=2", "subclip_duration=1"]
    assert _numbers(groups["subclip_duration=2"]) == [2]
    # In this workload nothing beat its baseline, however much faster it is than another's.
    assert _numbers(groups["subclip_duration=0.5"]) == [1]
    baselines = {key: g.baseline.number if g.baseline else None for key, g in groups.items()}
    assert baselines == {
        "subclip_duration=2": 0,
        "subclip_duration=0.5": 1,
        "subclip_duration=1": None,
    }


def test_where_filters_by_parameters_and_figures(
    database: Database, study: StudyRecord, add_trial: AddTrial
) -> None:
    for number in range(1, 6):
        add_trial(study, number, 100.0 * number, num_demux_threads=number)
    [group] = database.best(study.id, top=9, where="num_demux_threads <= 3")
    assert _numbers(group) == [3, 2, 1]
    [group] = database.best(study.id, where="samples_per_second < 450 and host_memory_gib < 64")
    assert _numbers(group) == [4]
    where = Expression.parse("num_demux_threads in [1, 2]")
    assert _numbers(database.best(study.id, where=where)[0]) == [2]
    assert database.best(study.id, where="gpu_memory_gib > 0") == []  # not known: no match
    with pytest.raises(ExpressionError, match="num_demux_thread"):
        database.best(study.id, where="num_demux_thread < 3")
    with pytest.raises(ExpressionError):
        database.best(study.id, where="num_demux_threads <")


def test_a_condition_on_a_parameter_leaves_out_trials_without_it(
    database: Database, study: StudyRecord
) -> None:
    for number, params in enumerate(({"n": 1}, {"n": 2, "extra": 5})):
        database.start_trial(study.id, number, params)
    assert database.best(study.id, where="extra > 1") == []


def test_per_gives_the_best_of_each_value(
    database: Database, study: StudyRecord, add_trial: AddTrial
) -> None:
    add_trial(study, 0, 100.0, origin="baseline")
    for number, (threads, rate) in enumerate(((3, 150.0), (3, 140.0), (4, 145.0)), start=1):
        add_trial(study, number, rate, num_demux_threads=threads)
    groups = database.best(study.id, per="num_demux_threads")
    assert [(g.per_value, _numbers(g)) for g in groups] == [(3, [1]), (4, [3]), (8, [0])]
    with pytest.raises(InputError, match="--per threads: no such parameter; accepted: arena"):
        database.best(study.id, per="threads")


def test_machines_and_data_never_mix(
    database: Database, make_study: Callable[..., StudyRecord], add_trial: AddTrial
) -> None:
    h100, l4 = {"gpu": "NVIDIA H100 80GB", "cpu": "A"}, {"gpu": "NVIDIA L4", "cpu": "B"}
    small, large = {"num_samples": 10}, {"num_samples": 1000}
    one, two, replay = make_study("one"), make_study("two"), make_study("r", source="replay")
    add_trial(one, 0, 100.0, machine=h100, data=small)
    add_trial(one, 1, 110.0, machine=l4, data=small)
    add_trial(two, 0, 300.0, machine=h100, data=large)
    add_trial(two, 1, 105.0, machine=h100, data=small)
    add_trial(two, 2, 104.0, machine=h100 | {"hostname": "n2"}, data=small)
    add_trial(replay, 0, 9999.0, machine=h100, data=small)
    make_study("else", target="torch_dataloader")

    found = database.best_across("spdl_video", top=9)
    shown = [(g.gpu, [(t.study, t.number) for t in g.trials]) for g in found]
    assert shown == [
        ("NVIDIA H100 80GB", [("two", 0)]),
        ("NVIDIA L4", [("one", 1)]),
        # Hosts of one kind are one machine.
        ("NVIDIA H100 80GB", [("two", 1), ("two", 2), ("one", 0)]),
    ]
    assert len({(g.machine, g.dataset) for g in found}) == 3
    [only] = database.best_across("spdl_video", gpu="l4")
    assert only.cpu == "B"
    with pytest.raises(InputError, match="there are: NVIDIA H100 80GB, NVIDIA L4"):
        database.best_across("spdl_video", gpu="B200")
    with pytest.raises(InputError, match="targets it holds: spdl_video, torch_dataloader"):
        database.best_across("frames")
    assert database.best_across("torch_dataloader") == []
    # A trial that was run on two machines keeps the figures of one.
    add_trial(one, 5, 100.0, 100.0, machine=h100)
    assert len(database.best(one.id)) == 3
