"""What every sampler must do, through the proposer that the study loop uses."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest

from autotune.exceptions import InputError
from autotune.samplers import SAMPLERS, Proposal, Proposer, choose
from autotune.search_space import SearchSpace
from autotune.trial import Params

KINDS = [kind for kind in SAMPLERS if kind != "auto"]
NAMES = {"cpu_count": 2, "gpu_count": 0, "memory_gib": 16.0}

SPACE = SearchSpace.from_dict(
    {
        "target": "made_up",
        "parameters": {
            "num_demux_threads": {"min": 1, "max": 6, "default": 4},
            "num_decode_threads": {"min": 1, "max": 6, "default": 4},
            "process_mode": {"values": ["in_process", "subprocess"], "default": "in_process"},
            "arena": {
                "values": ["off", "pool"],
                "default": "off",
                "when": "process_mode == 'subprocess'",
            },
        },
        "constraints": ["num_demux_threads + num_decode_threads <= 4 * cpu_count"],
    }
)


def rate(params: Params) -> float:
    """Best at 2 demux and 5 decode threads, in a subprocess with a pool."""
    value = 100.0 - 5 * abs(int(params["num_demux_threads"]) - 2)
    value -= 5 * abs(int(params["num_decode_threads"]) - 5)
    return value + 10 * (params["arena"] == "pool")


def make(
    kind: str, seed: int = 0, study: optuna.Study | None = None, space: SearchSpace = SPACE
) -> Proposer:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = study or optuna.create_study(direction="maximize")
    proposer = Proposer(study, space, NAMES, kind, seed, figure_constraints=["cpu_percent <= 40"])
    proposer.enqueue(space.defaults(), "baseline")
    return proposer


def run(proposer: Proposer, trials: int) -> list[Proposal]:
    done = []
    while len(done) < trials and (proposal := proposer.next()) is not None:
        # Every fifth trial fails: the sampler has to live with it.
        value = None if len(done) % 5 == 4 else rate(proposal.params)
        proposer.tell(proposal, value, {"cpu_percent <= 40": -0.5})
        done.append(proposal)
    return done


@pytest.fixture(autouse=True)
def _strict_warnings() -> None:
    warnings.simplefilter("error", UserWarning)


@pytest.mark.parametrize("kind", KINDS)
def test_the_baseline_is_trial_0_and_every_proposal_is_valid_and_new(kind: str) -> None:
    trials = 14 if kind == "gp" else 24
    done = run(make(kind), trials)
    assert done[0].number == 0
    assert done[0].origin == "baseline"
    assert done[0].params == SPACE.defaults()
    assert len(done) == trials
    keys = [SPACE.canonical(p.params) for p in done]
    assert len(set(keys)) == len(keys)
    assert [p.number for p in done] == list(range(trials))
    for proposal in done:
        assert SPACE.violations(proposal.params, NAMES) == []
        assert set(proposal.params) == set(SPACE.parameters)


def test_a_gaussian_process_computes_in_one_thread_and_leaves_torch_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    threads, search = [], optuna.samplers.GPSampler._sample_relative_impl

    def noted(*args: Any) -> dict[str, Any]:
        threads.append(torch.get_num_threads())
        return search(*args)

    monkeypatch.setattr(optuna.samplers.GPSampler, "_sample_relative_impl", noted)
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(make("gp"), 12)
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)


def test_a_trial_of_the_study_holds_what_was_proposed_and_runs() -> None:
    proposer = make("random")
    proposal = proposer.next()
    assert proposal is not None
    (stored,) = proposer._study.get_trials()
    assert stored.state.name == "RUNNING"
    assert stored.user_attrs == {"autotune:origin": "baseline"}
    assert stored.params == {k: v for k, v in proposal.params.items() if k in stored.params}
    assert {"num_demux_threads", "num_decode_threads", "process_mode"} <= set(stored.params)
    assert stored.datetime_start is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_proposes_the_same(kind: str) -> None:
    first, second = (run(make(kind, seed=3), 12) for _ in range(2))
    assert [p.params for p in first] == [p.params for p in second]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_study_repeats_nothing(kind: str) -> None:
    study = optuna.create_study(direction="maximize")
    before = run(make(kind, 1, study), 10)
    resumed = make(kind, 1, study)
    for index, proposal in enumerate(before):
        resumed.remember(
            proposal.number, proposal.params, None if index % 5 == 4 else rate(proposal.params)
        )
    after = run(resumed, 4)
    seen = {SPACE.canonical(p.params) for p in before}
    assert not [p for p in after if SPACE.canonical(p.params) in seen]


# Not the Gaussian process: its last proposals, all of them drawn at random, cost a fit each.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gp"])
def test_a_space_that_is_used_up_ends_the_search(kind: str) -> None:
    few = SearchSpace.from_dict(
        {
            "target": "made_up",
            "parameters": {
                "num_demux_threads": {"min": 1, "max": 3, "default": 3},
                "num_decode_threads": {"min": 1, "max": 6, "default": 4},
                "arena": {"values": ["off", "pool"], "default": "off"},
            },
            "constraints": ["num_demux_threads + num_decode_threads <= 4 * cpu_count"],
        }
    )
    valid = [p for p in few.enumerate() if not few.violations(p, NAMES)]
    done = run(make(kind, space=few), 1000)
    assert {few.canonical(p.params) for p in done} == {few.canonical(p) for p in valid}


def test_what_failed_is_a_marked_penalty_in_optunas_value_alone() -> None:
    study = optuna.create_study(direction="maximize")
    run(make("tpe", 0, study), 10)
    failed = [t for t in study.trials if "autotune:penalty" in t.user_attrs]
    assert failed
    worst = min(t.value for t in study.trials if "autotune:penalty" not in t.user_attrs)
    for trial in failed:
        assert trial.value == trial.user_attrs["autotune:penalty"]
        assert trial.value >= worst
        assert trial.state == optuna.trial.TrialState.COMPLETE
    assert len(study.trials) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_stopped_early_is_told_marked_and_not_proposed_again(kind: str) -> None:
    study = optuna.create_study(direction="maximize")
    proposer = make(kind, 0, study)
    done = []
    for index in range(14):
        proposal = proposer.next()
        assert proposal is not None
        if index % 3 == 2:
            proposer.tell_stopped_early(proposal, 0.5 * rate(proposal.params))
        else:
            proposer.tell(proposal, rate(proposal.params), {"cpu_percent <= 40": -0.5})
        done.append(proposal)
    assert len({SPACE.canonical(p.params) for p in done}) == len(done)
    stopped = [t for t in study.trials if t.user_attrs.get("autotune:stopped_early")]
    assert [t.number for t in stopped] == [2, 5, 8, 11]
    assert {t.state.name for t in stopped} == {proposer.stopped_state}
    for trial in stopped:
        assert trial.value == 0.5 * rate(done[trial.number].params)
    keys = {frozenset(t.constraints) for t in study.trials}
    assert len(keys) == 1, "the same constraints on every trial"


def test_only_tpe_is_told_of_pruned_trials() -> None:
    assert {k for k in KINDS if make(k).stopped_state == "PRUNED"} == {"tpe"}


def test_an_infrastructure_fault_teaches_nothing_and_may_be_proposed_again() -> None:
    study = optuna.create_study(direction="maximize")
    proposer = make("random", 0, study)
    lost = proposer.next()
    assert lost is not None
    proposer.tell_infrastructure(lost)
    assert study.trials[0].state == optuna.trial.TrialState.FAIL
    proposer.enqueue(lost.params, "baseline")
    again = proposer.next()
    assert again is not None
    assert again.params == lost.params


def test_a_baseline_outside_a_constraint_is_measured_and_others_are_not() -> None:
    proposer = make("random")
    broken = {**SPACE.defaults(), "num_demux_threads": 6, "num_decode_threads": 6}
    proposer.enqueue(broken, "baseline")
    done = run(proposer, 5)
    assert done[1].params["num_demux_threads"] == 6


@pytest.mark.parametrize(
    ("kind", "trials", "expected"),
    [
        ("auto", 1000, "grid"),
        ("auto", 20, "gp"),
        ("auto", None, "gp"),
        ("random", 1000, "random"),
    ],
)
def test_auto_measures_everything_where_it_fits(
    kind: str, trials: int | None, expected: str
) -> None:
    assert choose(kind, SPACE, trials) == expected


def test_auto_takes_tpe_for_long_studies() -> None:
    large = SearchSpace.from_dict(
        {"target": "t", "parameters": {"x": {"min": 0.0, "max": 1.0, "default": 0.5}}}
    )
    assert choose("auto", large, 5000) == "tpe"


def test_a_grid_over_a_continuous_space_is_refused_with_the_remedy() -> None:
    large = SearchSpace.from_dict(
        {"target": "t", "parameters": {"x": {"min": 0.0, "max": 1.0, "default": 0.5}}}
    )
    with pytest.raises(InputError, match="finite"):
        choose("grid", large, 10)


def test_an_unknown_sampler_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(InputError, match=r"'bayes'.*accepted: auto, tpe, gp"):
        choose("bayes", SPACE, 10)
