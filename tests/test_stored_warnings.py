"""What a user should know of a study and of its measurements is stored, and shown with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autotune.api import load_study
from autotune.cli.columns import without_common_warnings
from autotune.storage import Database
from autotune.trial import NodeInfo, Params, ProbeRequest, TrialResult, TrialSpec
from tests.fakes import FakeExecutor, FakeJob
from tests.launches import experiment, launch
from tests.studies import Run, make_study, run, url

__all__ = ["experiment", "make_study", "run", "url"]  # fixtures

ENDED = "the iterable ended and was iterated again; the stage `restart` says how often"


class Warns(FakeExecutor):
    """A program that shows no sign of ``num_demux_threads``; its loader warns of something."""

    def __init__(self, rate: Any, *told: str) -> None:
        super().__init__(rate)
        self._told = list(told)

    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        (node,) = super().start(probe)
        return [node.model_copy(update={"suspects": ["num_demux_threads"]})]

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = super().submit(spec, node)
        result: TrialResult = job.result()
        if result.measurement is not None:
            measured = result.measurement.model_copy(update={"warnings": self._told})
            result = result.model_copy(update={"measurement": measured})
        return FakeJob(spec, result)


def flat(params: Params) -> float:
    return 100.0


def one_per_thread(params: Params) -> float:
    return 100.0 * int(params["num_demux_threads"])


def test_a_parameter_that_may_be_ignored_is_stored_with_the_study(
    experiment: dict[str, Any], url: str, run: Run
) -> None:
    launch(experiment, url, Warns(flat))
    status = load_study("study", url).status()
    [told] = status.warnings
    assert told.startswith("num_demux_threads may be ignored: ")
    assert json.loads(run("status", "study", "-f", "json").stdout)["warnings"] == [told]
    shown = " ".join(run("status", "study").stdout.split())
    assert "warning num_demux_threads may be ignored" in shown
    assert "num_demux_threads may be ignored" in run("trials", "study").stderr
    # a later launch says it anew, or no more
    experiment["budget"] = {"trials": 9}
    launch(experiment, url, FakeExecutor(flat))
    assert load_study("study", url).status().warnings == []


def test_what_a_loader_warns_of_is_stored_with_its_measurement(
    experiment: dict[str, Any], url: str, run: Run
) -> None:
    launch(experiment, url, Warns(one_per_thread, ENDED))
    with Database.open(url, create=False) as database:
        study = database.get_study("study")
        runs = [m for m in database.measurements(study.id) if m.role != "ceiling"]
    assert len(runs) >= 8
    assert all(measured.warnings == [ENDED] for measured in runs)
    trials = json.loads(run("trials", "study", "-f", "json").stdout)
    assert all(trial["warnings"] == [ENDED] for trial in trials)
    done = run("trials", "study")  # the table says once what they all have in common
    assert done.stderr.splitlines() == [f"In every trial: {ENDED}."]
    assert ENDED not in done.stdout


@pytest.mark.parametrize(
    ("told", "common"),
    [
        ([["a"], ["a"]], ["a"]),
        ([["a", "b"], ["b"]], ["b"]),
        ([["a"], []], []),
        ([["a"]], []),
        ([], []),
    ],
)
def test_only_what_all_trials_share_is_said_once(told: list[list[str]], common: list[str]) -> None:
    rows = [{"samples_per_second": 1.0, "warnings": texts} for texts in told]
    failed = {"samples_per_second": None, "warnings": ["violates"]}
    left, found = without_common_warnings([*rows, failed])
    assert found == common
    assert [row["warnings"] for row in left] == [
        *([text for text in texts if text not in common] for texts in told),
        ["violates"],
    ]
