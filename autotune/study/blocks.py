"""Two configurations side by side: fresh runs in interleaved blocks, in random order within each.

What changes slowly (a warming machine) meets both sides of a block alike, and cancels in their
ratio. What disturbs one run does not: a block in which a run failed or was disturbed is set aside
and measured again as a whole, since its other run belongs to another moment.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotune.repeats import lost, marked
from autotune.stats import RatioEstimate, blocks_needed, sequential_ratio
from autotune.trial import Failure, TrialResult

MAX_REPEATS = 2
"""A block in which a run failed, or was disturbed, is measured again at most so often each."""

Run = Callable[[str, int], TrialResult | None]
"""Measures (an arm, in a block); None where the user or the time allows no further run."""


@dataclass(frozen=True)
class Broken:
    """A block that could not be measured: a run of it failed, and so did its repeats."""

    arm: str
    failure: Failure


@dataclass(frozen=True)
class Block:
    """A block of which both runs gave a figure."""

    rates: tuple[float, float]
    """samples/s of the two arms."""
    lost: tuple[float, ...] = ()
    """The share of its capacity that each of its runs lost which another program disturbed."""

    @property
    def disturbed(self) -> bool:
        """Whether one of its runs was."""
        return bool(self.lost)

    @property
    def doubt(self) -> float:
        """How far the logarithm of its ratio may be off: disturbance only slows, so the undisturbed
        rate of a run lies between the measured one and that over (1 - lost)."""
        return math.fsum(-math.log1p(-share) if share < 1.0 else math.inf for share in self.lost)


def least_disturbed(attempts: Sequence[Block]) -> Block:
    """The attempt at a block that counts.

    Raises:
        ValueError: if there is none.
    """
    return min(attempts, key=lambda attempt: (attempt.disturbed, attempt.doubt))


@dataclass
class Blocks:
    """The blocks of one comparison, and when they are enough.

    The first ``first`` blocks decide how many are needed (`stats.blocks_needed`); the ratio and
    its interval come from all (`stats.sequential_ratio`). Where a block is disturbed each time it
    is measured, the least disturbed one counts, and the interval is wider by its doubt.

    Args:
        arms: names of the two sides; ratios are the first over the second.
        seed: fixes the order of the arms in each block, also after a restart.
        first: blocks measured in any case; at least 2.
        most: the most blocks.
        half_width: relative half-width of the ratio's interval to reach.
        done: the blocks that are complete.
        repeats: so often a disturbed block is measured again at most.
        set_aside: blocks that were measured and do not count, since another program disturbed them.
    """

    arms: tuple[str, str]
    seed: str
    first: int
    most: int
    half_width: float
    done: list[Block] = field(default_factory=list)
    repeats: int = MAX_REPEATS
    set_aside: int = 0

    def order(self, block: int) -> list[str]:
        """The arms in the order in which this block measures them."""
        arms = list(self.arms)
        random.Random(f"{self.seed}:{block}").shuffle(arms)
        return arms

    @property
    def rates(self) -> list[tuple[float, float]]:
        """samples/s of the two arms, one pair for each block that is complete."""
        return [block.rates for block in self.done]

    @property
    def disturbed(self) -> int:
        """Blocks that count although they were disturbed: every attempt at them was."""
        return sum(block.disturbed for block in self.done)

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
        found = sequential_ratio(self.of_first, self.of_second, min(self.first, self.most))
        off = math.exp(math.fsum(block.doubt for block in self.done) / len(self.done))
        return replace(found, low=found.low / off, high=found.high * off)

    def measure(
        self,
        run: Run,
        may_begin: Callable[[], bool] = lambda: True,
        failed_before: Mapping[int, int] | None = None,
    ) -> Broken | None:
        """Measure blocks until they are enough.

        Args:
            may_begin: asked before each block, and before a disturbed one is measured again; False
                ends it early, with what is there.
            failed_before: by block, how often an earlier launch saw it fail.

        Returns:
            what ended it where a block failed for good; None if they are enough, or ``run`` or
            ``may_begin`` ended it.
        """
        while not self.complete and may_begin():
            number = len(self.done)
            outcome = self._undisturbed(run, may_begin, (failed_before or {}).get(number, 0))
            if not isinstance(outcome, Block):
                return outcome
            self.done.append(outcome)
        return None

    def _undisturbed(
        self, run: Run, may_begin: Callable[[], bool], failures: int
    ) -> Block | Broken | None:
        """The next block, measured until nothing disturbs it; else the least disturbed attempt."""
        attempts: list[Block] = []
        while True:
            outcome = self._measure_block(run, len(self.done))
            if isinstance(outcome, Broken):
                failures += 1
                if failures > MAX_REPEATS:
                    return outcome
                continue
            if outcome is not None:
                attempts.append(outcome)
                if outcome.disturbed and len(attempts) <= self.repeats and may_begin():
                    continue
            if not attempts:
                return None
            self.set_aside += len(attempts) - 1
            return least_disturbed(attempts)

    def _measure_block(self, run: Run, block: int) -> Block | Broken | None:
        rates: dict[str, float] = {}
        shares: list[float] = []
        for arm in self.order(block):
            result = run(arm, block)
            if result is None or result.state == "stopped":
                return None
            if result.measurement is None or result.measurement.samples_per_second <= 0:
                return Broken(arm, result.failure or _NO_FIGURE)
            rates[arm] = result.measurement.samples_per_second
            if marked(result.measurement):
                shares.append(lost(result.measurement))
        return Block((rates[self.arms[0]], rates[self.arms[1]]), tuple(shares))


_NO_FIGURE = Failure(kind="infrastructure", cause="the run ended without a figure")
