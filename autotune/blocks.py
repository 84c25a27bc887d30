"""Two configurations side by side: fresh runs in interleaved blocks, in random order within each.

What changes with time (a warming machine, another user) meets both sides of a block alike, and
cancels in their ratio.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autotune.stats import RatioEstimate, blocks_needed, sequential_ratio
from autotune.trial import Failure, TrialResult

MAX_REPEATS = 2
"""A block in which a run failed is measured again at most so often."""

Run = Callable[[str, int], TrialResult | None]
"""Measures (an arm, in a block); None where the user or the time allows no further run."""


@dataclass(frozen=True)
class Broken:
    """A block that could not be measured: a run of it failed, and so did its repeats."""

    arm: str
    failure: Failure


@dataclass
class Blocks:
    """The blocks of one comparison, and when they are enough.

    The first ``first`` blocks decide how many are needed (`stats.blocks_needed`); the ratio and
    its interval come from all (`stats.sequential_ratio`).

    Args:
        arms: names of the two sides; ratios are the first over the second.
        seed: fixes the order of the arms in each block, also after a restart.
        first: blocks measured in any case; at least 2.
        most: the most blocks.
        half_width: relative half-width of the ratio's interval to reach.
        rates: samples/s of the two arms, one pair for each block that is complete.
    """

    arms: tuple[str, str]
    seed: str
    first: int
    most: int
    half_width: float
    rates: list[tuple[float, float]] = field(default_factory=list)

    def order(self, block: int) -> list[str]:
        """The arms in the order in which this block measures them."""
        arms = list(self.arms)
        random.Random(f"{self.seed}:{block}").shuffle(arms)
        return arms

    @property
    def of_first(self) -> list[float]:
        """The rates of the first arm, block by block."""
        return [pair[0] for pair in self.rates]

    @property
    def of_second(self) -> list[float]:
        """The rates of the second arm, block by block."""
        return [pair[1] for pair in self.rates]

    @property
    def needed(self) -> int:
        """Blocks to measure in all, as far as is known by now."""
        return blocks_needed(
            self.of_first, self.of_second, self.half_width, self.most, min(self.first, self.most)
        )

    @property
    def complete(self) -> bool:
        """Whether the ratio is known well enough, or no more blocks are allowed."""
        return len(self.rates) >= self.needed

    def ratio(self) -> RatioEstimate | None:
        """The first arm over the second; None below two blocks."""
        if len(self.rates) < 2:
            return None
        return sequential_ratio(self.of_first, self.of_second, min(self.first, self.most))

    def measure(
        self,
        run: Run,
        may_begin: Callable[[], bool] = lambda: True,
        failed_before: Mapping[int, int] | None = None,
    ) -> Broken | None:
        """Measure blocks until they are enough.

        A block in which a run failed is measured again as a whole: its other run belongs to
        another moment.

        Args:
            may_begin: asked before each block; False ends it early.
            failed_before: by block, how often an earlier launch saw it fail.

        Returns:
            what ended it where a block failed for good; None if they are enough, or ``run`` or
            ``may_begin`` ended it.
        """
        while not self.complete and may_begin():
            block = len(self.rates)
            failures = (failed_before or {}).get(block, 0)
            while True:
                outcome = self._measure_block(run, block)
                if outcome is None:
                    return None
                if not isinstance(outcome, Broken):
                    self.rates.append(outcome)
                    break
                failures += 1
                if failures > MAX_REPEATS:
                    return outcome
        return None

    def _measure_block(self, run: Run, block: int) -> tuple[float, float] | Broken | None:
        rates: dict[str, float] = {}
        for arm in self.order(block):
            result = run(arm, block)
            if result is None or result.state == "stopped":
                return None
            if result.measurement is None or result.measurement.samples_per_second <= 0:
                return Broken(arm, result.failure or _NO_FIGURE)
            rates[arm] = result.measurement.samples_per_second
        return rates[self.arms[0]], rates[self.arms[1]]


_NO_FIGURE = Failure(kind="infrastructure", cause="the run ended without a figure")
