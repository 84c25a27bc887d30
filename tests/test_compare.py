"""`autotune compare`: what its sides name, what is refused, when it ends, what it says."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.compare import _lines, result_line
from autotune.compare import (
    CompareFigures,
    CompareOutcome,
    CompareSettings,
    compare,
    compared_figures,
)
from autotune.exceptions import InputError
from autotune.sides import SHORT, Sides, read_sides
from autotune.stats import FIRST_BLOCKS, sequential_ratio
from autotune.storage import Database
from autotune.study.run import StopSignal
from autotune.trial import Failure, Params, TrialSpec
from tests.fakes import FakeExecutor
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures

FAST = "spdl_video --num-demux-threads 2 --num-decode-threads 4"
SLOW = "spdl_video --num-demux-threads 8 --num-decode-threads 4"


@pytest.fixture
def data(experiment: dict[str, Any]) -> str:
    return str(experiment["target"]["data_dir"])


def read(a: str, b: str, data: str | None = None, **more: Any) -> Sides:
    values = {} if data is None else {"target.data_dir": data}
    return read_sides(a, b, values=values, **more)


def run(sides: Sides, executor: FakeExecutor | None = None, **more: Any) -> CompareOutcome:
    executor = executor or FakeExecutor(surface, noise=0.01)
    settings = CompareSettings(**more)
    outcome = compare(sides, settings, executor=executor)
    assert executor.closed
    return outcome


# --------------------------------------------------------------------------- what a side names


def test_flags_are_those_of_the_target_and_the_rest_is_at_its_default(data: str) -> None:
    sides = read(FAST, "spdl_video", data)
    assert sides.a.params["num_demux_threads"] == 2
    assert sides.b.params["num_demux_threads"] == 8
    assert sides.a.params["subclip_duration"] == sides.b.params["subclip_duration"]
    assert sides.differences == []
    assert sides.a.plan.experiment.measurement.max_seconds == SHORT["max_seconds"]
    longer = read(FAST, SLOW, data, overrides=["measurement.max_seconds=9"])
    assert longer.b.plan.experiment.measurement.max_seconds == 9


def test_a_study_names_its_best_trial_its_baseline_or_a_number(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["enqueue"] = [{"num_demux_threads": 2, "num_decode_threads": 4}]
    launch(experiment, url)
    trials = records(url)[1]
    sides = read("study", "study:baseline", storage=url)
    assert (sides.a.trial, sides.b.trial) == (1, 0)
    assert sides.a.params == trials[1].params
    assert sides.a.plan.experiment.target.data_dir == experiment["target"]["data_dir"]
    assert read("study:3", "study:best", storage=url).a.params == trials[3].params


def test_flags_beside_a_study_are_measured_as_that_study_does(
    experiment: dict[str, Any], url: str
) -> None:
    experiment["target"] |= {"num_frames": 8, "consumer": {"kind": "paced", "ms_per_step": 40}}
    launch(experiment, url)
    sides = read("spdl_video --num-demux-threads 3", "study", storage=url)
    assert sides.a.plan.settings["num_frames"] == 8
    assert sides.a.plan.experiment.target.consumer.ms_per_step == 40
    assert sides.a.params["num_demux_threads"] == 3
    # What the study holds fixed is so here too, where the flags do not say otherwise.
    assert sides.a.params["device"] == "cpu"
    assert sides.differences == []


@pytest.mark.parametrize(
    ("a", "told"),
    [
        ("", "is empty"),
        ("spdl_video --num-demux 3", "^'spdl_video --num-demux 3': .*unknown flag --num-demux"),
        ("'unclosed", "No closing quotation"),
        ("spdl_vide --num-demux-threads 3", "there is no target 'spdl_vide'"),
        ("nothing", "no study 'nothing'"),
        ("study:99", "no trial 99"),
        ("study:winner", "the number of a trial, baseline or best"),
    ],
)
def test_what_names_nothing_is_told(
    experiment: dict[str, Any], url: str, data: str, a: str, told: str
) -> None:
    launch(experiment, url)
    with pytest.raises(InputError, match=told):
        read(a, SLOW, data, storage=url)


def test_different_data_are_refused(experiment: dict[str, Any], url: str, tmp_path: Path) -> None:
    launch(experiment, url)
    other = tmp_path / "other"
    other.mkdir()
    (other / "clip.mp4").write_bytes(b"y")
    experiment["target"]["data_dir"] = str(other)
    launch(experiment, url, name="elsewhere")
    with pytest.raises(InputError, match=r"different data: A .*/data, B .*/other"):
        read("study", "elsewhere", storage=url)
    # Unless it is said what both are to be measured on.
    assert read("study", "elsewhere", str(other), storage=url).a.plan.data_dir == other


def test_another_machine_is_refused_with_the_difference(
    experiment: dict[str, Any], url: str
) -> None:
    launch(experiment, url)
    executor = FakeExecutor(surface)
    executor.machine = {"cpu": "another", "cores": 2}
    with pytest.raises(InputError, match=r"machine\.cpu: 'fake' -> 'another'"):
        run(read("study", "study:0", storage=url), executor)


# --------------------------------------------------------------------------- what it measures


def test_a_difference_is_found_with_its_interval(data: str) -> None:
    executor = FakeExecutor(surface, noise=0.01)
    outcome = run(read(FAST, SLOW, data), executor)
    figures = compared_figures(outcome)
    assert figures.significant
    assert figures.ratio_low < 100 / 82 < figures.ratio_high
    assert figures.ratio == pytest.approx(
        figures.a_samples_per_second / figures.b_samples_per_second
    )
    assert figures.a_ci_low < figures.a_samples_per_second < figures.a_ci_high
    assert figures.a_epoch_seconds == pytest.approx(240 / figures.a_samples_per_second)
    assert figures.blocks == figures.blocks_needed >= FIRST_BLOCKS
    blocks = outcome.blocks
    assert figures.ratio == sequential_ratio(blocks.of_first, blocks.of_second).ratio
    # Fresh runs of both, in blocks of one each, in both orders.
    demux = [spec.params["num_demux_threads"] for spec in executor.specs]
    assert len(executor.specs) == 2 * figures.blocks
    pairs = list(zip(demux[::2], demux[1::2], strict=True))
    assert set(pairs) == {(2, 8), (8, 2)}
    assert len({spec.uuid for spec in executor.specs}) == len(executor.specs)


def test_the_slower_one_first_gives_a_ratio_below_one(data: str) -> None:
    figures = compared_figures(run(read(SLOW, FAST, data)))
    assert figures.significant
    assert figures.ratio_high < 1
    assert result_line(figures.model_dump()).startswith("A is 0.8")


def test_equal_configurations_show_no_significant_difference(data: str) -> None:
    figures = compared_figures(run(read(FAST, FAST, data), FakeExecutor(surface, noise=0.03)))
    assert not figures.significant
    assert result_line(figures.model_dump()).startswith("no significant difference: A is ")


def test_a_ratio_across_workloads_is_called_one(data: str) -> None:
    figures = compared_figures(
        run(read("spdl_video --subclip-duration 0.5", "spdl_video --subclip-duration 1.0", data))
    )
    assert figures.across_workloads
    assert figures.differences == ["workload.subclip_duration: 0.5 -> 1.0"]


def test_it_ends_after_the_most_blocks_allowed(data: str) -> None:
    figures = compared_figures(
        run(read(FAST, FAST, data), FakeExecutor(surface, noise=0.2), blocks=7)
    )
    assert (figures.blocks, figures.ended_early) == (7, "")


def test_without_time_it_ends_with_what_is_there_and_says_so(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("autotune.compare.time.monotonic", lambda: clock["now"])
    executor = FakeExecutor(surface, noise=0.01)

    def pass_time(spec: TrialSpec) -> None:
        clock["now"] += 5.0

    executor.before = pass_time
    figures = compared_figures(run(read(FAST, SLOW, data), executor, timeout=32.0))
    # Three blocks of 10 s; a fourth would end after 40 s.
    assert figures.blocks == 3
    assert figures.ratio is not None
    assert figures.ended_early == "the time of 32 s was over"


def test_disturbed_blocks_are_set_aside_and_told(data: str) -> None:
    executor = FakeExecutor(surface, noise=0.01)
    executor.disturbs = lambda spec: len(executor.specs) in (4, 5, 6, 15)
    figures = compared_figures(run(read(FAST, SLOW, data), executor, blocks=6))
    # Blocks 1 and 2 share three of them; then the one after the sixth is another attempt's.
    assert figures.blocks == 6
    assert figures.disturbed_runs == 4
    assert (figures.blocks_set_aside, figures.blocks_disturbed) == (3, 0)
    assert len(executor.specs) == 2 * (6 + 3)
    assert figures.significant
    assert "; 3 blocks set aside as other programs disturbed them" in measured(figures)


def test_a_machine_that_is_never_quiet_gives_a_wider_interval(data: str) -> None:
    quiet, loud = FakeExecutor(surface, noise=0.01), FakeExecutor(surface, noise=0.01)
    loud.disturbs = lambda spec: True
    expected = compared_figures(run(read(FAST, SLOW, data), quiet, blocks=6))
    figures = compared_figures(run(read(FAST, SLOW, data), loud, blocks=6))
    assert (figures.blocks_set_aside, figures.blocks_disturbed) == (12, 6)
    assert expected.significant
    assert not figures.significant
    assert figures.ratio_low < expected.ratio_low / 3
    assert "6 blocks disturbed each time, which widens the interval" in measured(figures)


def measured(figures: CompareFigures) -> str:
    """The line of what was measured, as shown."""
    [line] = [column for column in _lines() if column.header == "measured"]
    return line.cell(figures.model_dump())


def test_a_side_that_fails_is_named_with_its_cause(data: str) -> None:
    def broken(params: Params) -> float | Failure:
        if params["num_demux_threads"] == 8:
            return Failure(kind="host_out_of_memory", cause="killed at 14 GiB")
        return surface(params)

    figures = compared_figures(run(read(FAST, SLOW, data), FakeExecutor(broken)))
    assert (figures.ratio, figures.significant) == (None, False)
    assert figures.failed_side == "B"
    assert figures.failure is not None
    assert figures.failure.cause == "killed at 14 GiB"


def test_an_interrupt_ends_it_with_what_is_there(data: str) -> None:
    signal = StopSignal()
    executor = FakeExecutor(surface, noise=0.01)

    def interrupt(spec: TrialSpec) -> None:
        if len(executor.specs) == 6:
            signal.request()

    executor.before = interrupt
    outcome = compare(read(FAST, SLOW, data), executor=executor, signal=signal)
    assert outcome.interrupted
    assert len(executor.specs) == 7
    assert compared_figures(outcome).blocks == 3


def test_nothing_is_stored(experiment: dict[str, Any], url: str) -> None:
    launch(experiment, url)
    with Database.open(url, create=False) as database:
        before = len(database.measurements(1))
    run(read("study", "study:baseline", storage=url))
    with Database.open(url, create=False) as database:
        assert len(database.measurements(1)) == before


def test_the_json_has_the_names_of_the_product(data: str) -> None:
    found = json.loads(compared_figures(run(read(FAST, SLOW, data))).model_dump_json())
    assert {"ratio", "ratio_low", "ratio_high", "significant"} <= found.keys()


def test_looking_at_the_machine_counts_into_the_time(tmp_path: Path) -> None:
    clip = tmp_path / "a" / "clip.mp4"
    clip.parent.mkdir()
    os.mkfifo(clip)  # nobody writes to it: it never opens
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        compare(read(FAST, SLOW, str(tmp_path)), CompareSettings(timeout=3.0))
    assert time.monotonic() - began < 15.0
    text = str(caught.value)
    assert text.startswith("--timeout: 3 s were over before anything was measured: looking at this")
    assert "Pass a longer --timeout" in text
