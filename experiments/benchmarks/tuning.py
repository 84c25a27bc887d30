"""Tunes a contender as `autotune` tunes a loader, with a number of measurements fixed beforehand.

The search space is the one that comes with the target, with ranges around the machine's cores; the
proposals are those of a study's own sampler. The last quarter of the measurements goes to the best
configurations once more: the best of many short runs is partly luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.samplers.proposer import Proposer
from autotune.search_space import SearchSpace, find_space
from autotune.system import machine
from autotune.trial import Params

STARTUP_TRIALS = 6
"""Configurations before the Gaussian process learns from them, the starting points among them: a
study's ten would be most of so short a search."""
SECOND_SHARE = 4
"""One in so many measurements is a second look at one of the best."""

Measure = Callable[[Params], float | None]
"""samples/s of a configuration; None where it failed."""


@dataclass(frozen=True)
class Searched:
    """A side of the comparison, tuned over what matters for it."""

    name: str
    target: str
    fixed: Params
    """Held: what the work is, what is handed over, and what this machine does not have."""
    ranges: Mapping[str, Mapping[str, Any]]
    """Keys of parameters in the target's search space that are replaced."""
    starts: Sequence[Params] = field(default_factory=tuple)
    """Measured first, after the defaults of the space."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its own, beside those that all share."""

    def space(self) -> SearchSpace:
        """What is searched.

        Raises:
            InputError: if it does not fit the search space that comes with the target.
        """
        whole = SearchSpace.load(find_space(self.target))
        return whole.merged(self.ranges, self.name).subset(self.fixed, where=self.name)

    def shown(self, params: Params) -> str:
        """What was found, on one line: the searched values that are not the target's defaults."""
        space, defaults = self.space(), SearchSpace.load(find_space(self.target)).defaults()
        searched = [name for name in space.searched if name in space.active(params)]
        found = [f"{name}={params[name]}" for name in searched if params[name] != defaults[name]]
        others = len(searched) - len(found)
        return " ".join([*found, f"({others} others at their defaults)"] if others else found)


@dataclass(frozen=True)
class Tuned:
    """What the search of one contender gave."""

    params: Params
    measurements: int
    failed: int


def tune(contender: Searched, measurements: int, seed: int, measure: Measure) -> Tuned | None:
    """The best configuration found with so many measurements; None where all of them failed.

    Args:
        seed: makes the proposals repeatable, as far as the measurements are.
    """
    second_looks = measurements // SECOND_SHARE
    tried = _search(contender, measurements - second_looks, seed, measure)
    ran = [(rate, params) for params, rate in tried if rate is not None]
    if not ran:
        return None
    ran.sort(key=lambda found: -found[0])
    best, failed, spent = ran[0], len(tried) - len(ran), len(tried)
    if second_looks:
        finalists = [(rate, measure(params), params) for rate, params in ran[:second_looks]]
        failed += sum(second is None for _, second, _ in finalists)
        spent += len(finalists)
        # One that fails at the second look is out.
        means = [
            (0.0 if second is None else (first + second) / 2, params)
            for first, second, params in finalists
        ]
        best = max(means, key=lambda found: found[0])
    return Tuned(best[1], spent, failed)


def _search(
    contender: Searched, measurements: int, seed: int, measure: Measure
) -> list[tuple[Params, float | None]]:
    """Every configuration tried, with its rate."""
    import optuna

    space = contender.space()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    proposer = Proposer(study, space, machine.names(), "gp", seed, startup_trials=STARTUP_TRIALS)
    for start in ({}, *contender.starts):
        proposer.enqueue(space.complete({**space.pinned, **start}), "enqueued")
    tried: list[tuple[Params, float | None]] = []
    while len(tried) < measurements and (proposal := proposer.next()) is not None:
        rate = measure(proposal.params)
        proposer.tell(proposal, rate)
        tried.append((proposal.params, rate))
    return tried
