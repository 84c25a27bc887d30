"""The studies of a chaos run: small, and of several kinds, so that faults fall into every phase."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from experiments.benchmarks.faulty import drawn

NUMBERS = 99_999
"""The configurations of the target `faulty` are the numbers up to this; 0 is the baseline."""

_EXPERIMENT = """
target: {{name: faulty, completed: {completed}}}
search_space: {space}
budget: {{trials: {trials}}}
measurement: {{min_seconds: 0.25, max_seconds: 0.5, relative_half_width: 0.5, window_seconds: 0.1,
  repeats: {repeats}}}
limits:
  {{startup_seconds: 20, silence_seconds: 4, shutdown_seconds: 1.0, host_memory_gib: 0.35,
    processes: 40}}
noise: {{runs: {noise_runs}, drift_every: {drift_every}}}
verification: {{finalists: {finalists}, blocks: 4, half_width: 0.5}}
sampler: random
seed: {seed}
executor: {{kind: {executor}}}
"""

_SPACE = """
target: faulty
parameters:
  number: {{{accepted}, default: 0, flag: --number, help: Draws a fault.}}
"""


def any_number(rng: random.Random) -> str:
    """Four of five numbers are faults, most of which leave no figure."""
    return f"min: 0, max: {NUMBERS}"


def some_that_finish(rng: random.Random) -> str:
    """Eight numbers: five that give a figure, though some of them do harm, and three that fail."""
    chosen: dict[bool, list[int]] = {True: [], False: []}
    while len(chosen[True]) < 5 or len(chosen[False]) < 3:
        number = rng.randint(1, NUMBERS)
        fault = drawn(number)
        chosen[fault is None or fault.outcome == "finished"].append(number)
    return f"values: {[0, *chosen[True][:5], *chosen[False][:3]]}"


@dataclass(frozen=True)
class Plan:
    """One kind of study."""

    name: str
    trials: int
    noise_runs: int
    drift_every: int
    finalists: int
    repeats: int
    """Of a measurement that other programs disturbed."""
    numbers: Callable[[random.Random], str]
    """Draws the values that the search space accepts."""
    spared: float = 0.0
    """The share of measurements during which no fault comes from outside: a phase that is never
    reached is never under fault."""

    def spares(self, uuid: str) -> bool:
        """Whether no fault comes from outside during this measurement."""
        return random.Random(uuid).random() < self.spared

    def space(self, rng: random.Random) -> str:
        """The search space, as YAML."""
        return _SPACE.format(accepted=self.numbers(rng))

    def experiment(self, *, space: str, completed: str, seed: int, executor: str) -> str:
        """The experiment, as YAML."""
        return _EXPERIMENT.format(
            space=space,
            completed=completed,
            seed=seed,
            executor=executor,
            trials=self.trials,
            noise_runs=self.noise_runs,
            drift_every=self.drift_every,
            finalists=self.finalists,
            repeats=self.repeats,
        )


PLANS = (
    Plan("search", 60, 2, 0, 0, 0, any_number),
    Plan("selection", 8, 3, 2, 3, 1, some_that_finish, spared=0.5),
    Plan("verification", 6, 4, 1, 1, 0, some_that_finish, spared=0.5),
)
"""Taken in turn, one after the other has finished."""

SHORT = Plan("short", 3, 3, 1, 1, 0, some_that_finish, spared=0.2)
"""Through all phases in some 15 measurements, where nothing happens to them."""
