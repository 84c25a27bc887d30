"""The lines of a launch where there is no data, no stage to run alone, or no configuration."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.live import LiveObserver, PlainObserver, started_line
from autotune.plugins import load_target
from autotune.study.observer import CEILING_PHASE, StudyProgress
from autotune.study.run import PHASES
from autotune.trial import Failure, Fingerprint, NodeInfo, StageCeiling, TrialResult
from tests.fakes import FakeExecutor
from tests.launches import experiment, launch, surface, url
from tests.studies import BASELINE, measurement, result

__all__ = ["experiment", "url"]  # fixtures


def node(samples: int) -> NodeInfo:
    return NodeInfo(node="node-1", fingerprint=Fingerprint(), names={}, num_samples=samples)


def progress() -> StudyProgress:
    return StudyProgress(
        study="s",
        trials_done=1,
        trials_total=8,
        elapsed=1.0,
        time_left=None,
        best_number=None,
        best_params=None,
        best_rate=None,
        baseline_rate=None,
        num_samples=240_000,
        phase=CEILING_PHASE,
    )


def stages() -> TrialResult:
    alone = [StageCeiling(name="decode", concurrency=2, samples_per_second=945.0)]
    found = measurement(945.0).model_copy(update={"stage_ceilings": alone})
    return result("u", 945.0).model_copy(update={"measurement": found})


RUNS = [
    ("slowest stage alone", stages(), (920.0, 970.0), "slowest stage alone: 945 samples/s"),
    (
        "consumer fed from memory",
        result("u", 3405.0),
        (3400.0, 3410.0),
        "consumer fed from memory: 3,405 samples/s (3,400 to 3,410)",
    ),
    (
        "consumer fed from memory",
        result("u", None, Failure(kind="crash", cause="the model has no such layer")),
        None,
        "consumer fed from memory: not measured: the model has no such layer",
    ),
]


@pytest.mark.parametrize(("label", "outcome", "interval", "line"), RUNS)
def test_a_ceiling_has_neither_an_epoch_nor_a_configuration(
    label: str, outcome: Any, interval: Any, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainObserver(BASELINE, lambda: None)
    view.measurement_finished("u", label, BASELINE, outcome, interval, progress())
    assert capsys.readouterr().err == f"[1/8 trials] {line}\n"
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    live = LiveObserver(BASELINE, lambda: None, console)
    live.measurement_started("u", label, BASELINE, progress())
    with console.capture() as capture:
        console.print(live.render())
    assert "as the baseline" not in capture.get()
    live.measurement_finished("u", label, BASELINE, outcome, interval, progress())
    with console.capture() as capture:
        console.print(live.render())
    assert line in capture.get()


def test_the_phase_is_the_one_of_ceilings() -> None:
    assert PHASES["ceiling"] == CEILING_PHASE


def test_a_target_without_data_has_no_clips() -> None:
    assert started_line("s", False, [node(0)], ["a", "b"], "gp") == (
        "Starting study 's' on node-1: 2 searched parameters, sampler gp."
    )
    assert ": 1 clip, 1 searched" in started_line("s", True, [node(1)], ["a"], "gp")


class Modes(FakeExecutor):
    def __init__(self) -> None:
        super().__init__(surface)
        self.modes: set[str] = set()

    def submit(self, spec: Any, node: str | None = None) -> Any:
        self.modes.add(spec.mode)
        return super().submit(spec, node)


def test_stages_alone_are_asked_only_of_targets_that_run_them(
    experiment: dict[str, Any], url: str
) -> None:
    assert load_target("spdl_video").runs_stages_alone()
    assert not load_target("torch_dataloader").runs_stages_alone()
    executor = Modes()
    launch(experiment, url, executor)
    assert "stages" in executor.modes
    experiment["target"] = {
        "name": "torch_dataloader",
        "data_dir": experiment["target"]["data_dir"],
    }
    experiment["search_space"] = {"base": "torch_dataloader"}
    other = Modes()
    other._surface = lambda params: 1.0 + int(params["num_workers"])
    launch(experiment, url, other, name="other")
    assert other.modes == {"loader"}
