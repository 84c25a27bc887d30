"""What a machine cannot run is left out of the search, and said."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from autotune.config import Experiment, Plan, resolve
from autotune.exceptions import UnsupportedError
from autotune.storage import Database
from autotune.study.narrowing import narrowed
from autotune.study.observer import StudyObserver
from autotune.trial import Fingerprint, NodeInfo, Params, ProbeRequest, Scalar, UnavailableValue
from tests.fakes import FakeExecutor
from tests.launches import launch

MISSING: list[tuple[str, Scalar]] = [
    ("decoder", "decord"),
    ("decoder", "torchcodec"),
    ("pin_memory", True),
]


def node(values: Iterable[tuple[str, Scalar]] = MISSING) -> NodeInfo:
    return NodeInfo(
        node="n",
        fingerprint=Fingerprint(),
        names={},
        unavailable=[UnavailableValue(parameter=p, value=v, reason=f"no {v}") for p, v in values],
    )


def document(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "clip.mp4").write_bytes(b"x")
    return {
        "target": {"name": "torch_dataloader", "data_dir": str(data), **changes.pop("target", {})},
        "vary_workload": ["decoder"],
        "executor": {"kind": "local"},
        **changes,
    }


def plan(tmp_path: Path, **changes: Any) -> Plan:
    return resolve(Experiment.from_dict(document(tmp_path, **changes)))


def test_missing_values_are_left_out_and_said(tmp_path: Path) -> None:
    before = plan(tmp_path)
    after, notes = narrowed(before, [node()])
    assert after.searched.parameters["decoder"].values == (
        "pyav", "spdl", "opencv", "opencv_buffer", "torchvision", "pytorchvideo",
    )  # fmt: skip
    assert "pin_memory" not in after.searched.searched  # one value is nothing to search
    assert after.searched.pinned["pin_memory"] is False
    assert notes == [
        "decoder: decord is left out of the search: no decord",
        "decoder: torchcodec is left out of the search: no torchcodec",
        "pin_memory: true is left out of the search: no True",
    ]
    assert "torchcodec" in before.searched.parameters["decoder"].values
    assert after.space is before.space


def test_what_any_node_lacks_is_left_out(tmp_path: Path) -> None:
    nodes = [node([("decoder", "spdl")]), node([("decoder", "decord")])]
    after, _ = narrowed(plan(tmp_path), nodes)
    assert not {"spdl", "decord"} & set(after.searched.parameters["decoder"].values)


def test_what_is_held_fixed_is_not_mentioned(tmp_path: Path) -> None:
    fixed = plan(tmp_path, target={"decoder": "opencv"}, vary_workload=[])
    after, notes = narrowed(fixed, [node()])
    assert [note for note in notes if "decoder" in note] == []
    assert after.searched.pinned["decoder"] == "opencv"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"baseline": {"decoder": "decord"}}, "baseline: decoder: decord"),
        ({"target": {"pin_memory": True}}, "baseline: pin_memory: true"),
        ({"enqueue": [{"decoder": "torchcodec"}]}, "enqueue[0]: decoder: torchcodec"),
    ],
)
def test_what_the_experiment_needs_must_be_there(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    if "target" in changes:
        changes = {**changes, "vary_workload": []}
    with pytest.raises(UnsupportedError) as caught:
        narrowed(plan(tmp_path, **changes), [node()])
    assert where in str(caught.value)
    assert "cannot be measured here: no " in str(caught.value)


def test_another_default_is_taken_where_it_is_missing(tmp_path: Path) -> None:
    baseline = plan(tmp_path, baseline={"decoder": "opencv"})
    after, _ = narrowed(baseline, [node([("decoder", "pyav")])])
    assert after.searched.parameters["decoder"].default == "opencv"


class _Noting(StudyObserver):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class _WithoutDecord(FakeExecutor):
    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        (found,) = super().start(probe)
        return [found.model_copy(update={"unavailable": node().unavailable})]


def test_a_study_keeps_the_space_that_it_was_begun_with(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'autotune.db'}"
    experiment = document(
        tmp_path,
        budget={"trials": 12},
        noise={"runs": 0, "drift_every": 0},
        verification={"finalists": 1, "blocks": 4},
        sampler="random",
    )
    observer, executor = _Noting(), _WithoutDecord(lambda params: 1.0 + int(params["num_workers"]))
    launch(experiment, url, executor, observer=observer)
    assert any("decoder: decord is left out" in text for text in observer.notes)
    missing = {("decoder", "decord"), ("decoder", "torchcodec"), ("pin_memory", True)}
    assert not missing & {pair for spec in executor.specs for pair in _pairs(spec.params)}
    experiment["budget"] = {"trials": 14}
    installed = FakeExecutor(lambda params: 1.0)
    launch(experiment, url, installed)  # not refused as another experiment
    assert not missing & {pair for spec in installed.specs for pair in _pairs(spec.params)}
    with Database.open(url) as database:
        study = database.get_study("study")
    assert study.state == "finished"
    assert "decord" not in study.space["parameters"]["decoder"]["values"]


def test_what_a_study_was_begun_with_must_stay(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    with pytest.raises(UnsupportedError, match="begun where decoder: decord could be measured"):
        narrowed(whole, [node()], whole.searched)
    narrow, _ = narrowed(whole, [node()])
    assert narrowed(whole, [node([])], narrow.searched) == (narrow, [])


def _pairs(params: Params) -> set[tuple[str, Scalar]]:
    return set(params.items())
