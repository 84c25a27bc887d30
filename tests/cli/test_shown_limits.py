"""Ceilings and trials that were stopped early, as people and scripts see them."""

from __future__ import annotations

import json

import pytest

from tests.studies import MakeStudy, Run, Writer, measurement, params, result

STAGES = [{"name": "decode", "concurrency": 2, "samples_per_second": 180.0}]


@pytest.fixture
def limited(make_study: MakeStudy) -> Writer:
    """A study with a ceiling of 200 samples/s; trial 2 was stopped early at 4."""
    writer = make_study("kinetics")
    writer.trial(0, 100.0, origin="baseline")
    writer.trial(1, 150.0, num_demux_threads=3)
    writer.database.start_trial(writer.record.id, 2, params(num_demux_threads=16))
    estimate = measurement(4.0).model_copy(update={"stopped_early": True})
    run = result("stopped", 4.0).model_copy(update={"measurement": estimate})
    writer.database.record(writer.record.id, 2, "search", run)
    writer.database.finish_trial(writer.record.id, 2, "PRUNED", stopped_early=True)
    ceiling = {"workload": "subclip_duration=2", "samples_per_second": 200.0, "stages": STAGES}
    document = {"consumer": "train_step", "workloads": [ceiling]}
    writer.database.set_ceilings(writer.record.id, document)
    return writer


@pytest.mark.usefixtures("limited")
def test_the_distance_to_the_ceiling_is_shown(run: Run) -> None:
    shown = run("status", "kinetics").output
    assert "200 samples/s (train_step fed from memory); trial 1 reaches 75 %" in shown
    assert "samples/s alone" not in shown
    assert "ceiling 200 samples/s (train_step" in run("best", "kinetics").output
    [best] = json.loads(run("best", "kinetics", "-f", "json").stdout)
    assert best["ceiling_share"] == pytest.approx(0.75)
    status = json.loads(run("status", "kinetics", "-f", "json").stdout)
    assert status["ceilings"]["workloads"][0]["stages"] == STAGES


@pytest.mark.usefixtures("limited")
def test_the_stages_alone_are_shown_when_asked_for(run: Run) -> None:
    shown = run("status", "kinetics", "-v").output
    assert "samples/s alone" in shown
    assert "decode" in shown
    assert "180" in shown


@pytest.mark.usefixtures("limited")
def test_a_stopped_trial_is_shown_as_such_and_is_no_result(run: Run) -> None:
    assert "stopped early at ~4.00/s" in " ".join(run("trials", "kinetics").output.split())
    trials = json.loads(run("trials", "kinetics", "-f", "json").stdout)
    assert [t["stopped_early"] for t in trials] == [False, False, True]
    best = json.loads(run("best", "kinetics", "--top", "9", "-f", "json").stdout)
    assert [t["number"] for t in best] == [1, 0]
    refused = run("export", "kinetics", "--trial", "2", "--unverified")
    assert refused.exit_code == 2
    assert "stopped early" in refused.output
