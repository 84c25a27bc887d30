"""Parameters that a program may not read: only a suspect without any effect is named."""

from __future__ import annotations

import random

import pytest

from autotune.study.ignored import MIN_TRIALS, ignored_warnings, makes_no_difference
from autotune.trial import Fingerprint, NodeInfo, Params


def trials(effect: float, count: int = 24, seed: int = 0) -> list[tuple[Params, float]]:
    """Rates of a made-up program with 3 % noise, whose `workers` helps by ``effect`` each."""
    chance = random.Random(seed)
    found: list[tuple[Params, float]] = []
    for i in range(count):
        params: Params = {"workers": i % 8, "mode": "fast" if i % 2 else "slow", "pin": i % 3 == 0}
        found.append((params, 100 * (1 + effect * (i % 8)) * chance.gauss(1, 0.03)))
    return found


def node(*suspects: str) -> NodeInfo:
    return NodeInfo(node="n", fingerprint=Fingerprint(), names={}, suspects=list(suspects))


UNREAD = NodeInfo(node="u", fingerprint=Fingerprint(), names={}, suspects=None)


@pytest.mark.parametrize("name", ["workers", "mode", "pin"])
def test_no_effect_is_no_difference(name: str) -> None:
    quiet = sum(makes_no_difference(name, trials(0.0, seed=s)) for s in range(40))
    assert quiet >= 34  # 95 % expected


def test_an_effect_is_a_difference() -> None:
    assert not any(makes_no_difference("workers", trials(0.1, seed=s)) for s in range(40))


def test_identical_figures_are_no_difference() -> None:
    assert makes_no_difference("workers", [({"workers": i % 2}, 5.0) for i in range(8)])


def test_few_trials_or_one_value_say_nothing() -> None:
    assert not makes_no_difference("workers", trials(0.0, count=MIN_TRIALS - 1))
    assert not makes_no_difference("workers", [({"workers": 1}, 5.0)] * 10)
    assert not makes_no_difference("workers", [({"workers": i}, 5.0) for i in range(3)] * 1)


def test_only_a_suspect_that_is_searched_is_named() -> None:
    flat = [(params, 100.0) for params, _ in trials(0.0)]
    assert ignored_warnings([node()], ["workers", "mode"], flat) == []
    assert ignored_warnings([node("pin")], ["workers", "mode"], flat) == []
    [line] = ignored_warnings([node("workers"), node()], ["workers", "mode"], flat)
    assert "workers may be ignored: 24 trials" in line
    assert ignored_warnings([node("workers")], ["workers"], trials(0.1)) == []


def test_where_no_source_was_found_those_without_a_difference_are_named_once() -> None:
    flat = [(params, 100.0) for params, _ in trials(0.0)]
    [line] = ignored_warnings([UNREAD], ["workers", "mode"], flat)
    assert line.startswith("workers, mode: 24 trials show no difference between the values, and ")
    assert "no source" in line
    assert ignored_warnings([UNREAD], ["workers"], trials(0.1)) == []
    first, second = ignored_warnings([UNREAD, node("workers")], ["workers", "mode"], flat)
    assert first.startswith("workers may be ignored")
    assert second.startswith("mode: ")
