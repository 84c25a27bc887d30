"""What a target is given of a configuration where a user changed the default of a parameter that
has no effect in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.config import Experiment, Plan, resolve
from autotune.loaders.tuned import Recipe, build_tuned
from autotune.plugins import load_target
from autotune.search_space import SearchSpace, find_space
from autotune.study.run import specification
from autotune.targets.python.target import Settings, callables
from autotune.trial import Fingerprint, NodeInfo, Params
from tests.fakes import FakeExecutor
from tests.launches import experiment, launch, url

__all__ = ["experiment", "url"]  # fixtures

CASES = [
    # target, changed default, a configuration in which it is off, and one in which it is not
    ("torch_dataloader", {"prefetch_factor": 4}, {"num_workers": 0}, {"num_workers": 2}),
    ("torch_dataloader", {"in_order": False}, {"num_workers": 0}, {"num_workers": 1}),
    (
        "spdl_video",
        {"backend_buffer_size": 5, "arena": "pool"},
        {"process_mode": "in_process"},
        {"process_mode": "subprocess"},
    ),
    ("spdl_video", {"decoder_threads": 2}, {"device": "nvdec"}, {"device": "cpu"}),
]


def plan(tmp_path: Path, target: str, parameters: dict[str, Any], **target_keys: Any) -> Plan:
    document = {
        "target": {"name": target, "data_dir": str(tmp_path), **target_keys},
        "search_space": {"base": target, "parameters": parameters},
    }
    return resolve(Experiment.from_dict(document))


@pytest.mark.parametrize(("target", "defaults", "off", "on"), CASES)
def test_it_gets_its_own_default_where_the_users_would_be_refused(
    tmp_path: Path, target: str, defaults: Params, off: Params, on: Params
) -> None:
    changed = {name: {"default": value} for name, value in defaults.items()}
    made = plan(tmp_path, target, changed)
    model = load_target(target).Params
    without = made.given(made.space.complete(off))
    model.model_validate(without)  # accepted
    for name in defaults:
        assert without[name] == model.model_fields[name].default
    assert made.given(made.space.complete(on)).items() >= defaults.items()
    usual = SearchSpace.load(find_space(target)).complete(off)
    assert {n: v for n, v in without.items() if n not in defaults} == {
        n: v for n, v in usual.items() if n not in defaults
    }


def test_what_the_target_takes_stays_the_users(tmp_path: Path) -> None:
    """A condition of the user's own: to the target the parameter has an effect all the same."""
    changed = {
        "sink_buffer_size": {"default": 5, "when": 'process_mode == "subprocess"'},
        "backend_buffer_size": {"default": 7},
    }
    made = plan(tmp_path, "spdl_video", changed)
    given = made.given(made.space.complete({"process_mode": "in_process"}))
    assert (given["sink_buffer_size"], given["backend_buffer_size"]) == (5, 3)


def test_what_a_user_asked_for_is_not_changed(tmp_path: Path) -> None:
    """A value that does nothing is refused by the target, with its own words, where it was asked
    for and not taken from a default."""
    made = plan(tmp_path, "torch_dataloader", {"prefetch_factor": {"default": 4, "when": "true"}})
    asked = made.space.complete({"num_workers": 0, "prefetch_factor": 8})
    assert made.given(asked) == asked


OWN = """
def build(**parameters):
    return parameters.items()
"""


@pytest.mark.parametrize(
    ("params", "passed"),
    [({"workers": 0}, {"workers": 0}), ({"workers": 2}, {"workers": 2, "depth": 4})],
)
def test_a_function_of_the_user_s_gets_what_has_an_effect_in_a_trial_and_in_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params, passed: Params
) -> None:
    """The specification holds every parameter: what is off is left out by the target."""
    (tmp_path / "loader_of_a_user.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    document = {
        "target": {"name": "python", "function": "loader_of_a_user:build"},
        "search_space": {
            "parameters": {
                "workers": {"min": 0, "max": 2, "default": 0},
                "depth": {"min": 1, "max": 9, "default": 4, "when": "workers > 0"},
            }
        },
    }
    made = resolve(Experiment.from_dict(document))
    full = made.given(made.space.complete(params))
    assert full == {**params, "depth": 4}
    spec = specification(made, "s", full, NodeInfo(node="n", fingerprint=Fingerprint(), names={}))
    measured = callables(Settings.model_validate(spec.settings), spec.params, {})[0]()
    assert dict(measured) == passed
    recipe = Recipe(
        name="trial 1",
        target="python",
        params={"workers": 1, "depth": 4},
        active=frozenset({"workers", "depth"}),
        settings=made.settings,
    )
    trained: Any = build_tuned(recipe, **params)
    assert dict(trained) == passed


def test_every_measurement_and_the_probe_get_it(experiment: dict[str, Any], url: str) -> None:
    experiment["target"] |= {"process_mode": "in_process"}
    experiment["search_space"]["parameters"]["backend_buffer_size"] = {"default": 6}
    probes: list[Params] = []

    class Probed(FakeExecutor):
        def start(self, probe: Any) -> Any:
            probes.append(probe.params)
            return super().start(probe)

    executor = Probed(lambda params: 1.0 + int(params["num_demux_threads"]))
    launch(experiment, url, executor)
    assert len(executor.specs) > 4
    assert {spec.params["backend_buffer_size"] for spec in executor.specs} == {3}
    assert [params["backend_buffer_size"] for params in probes] == [3]
