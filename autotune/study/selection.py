"""Successive halving among the finalists: fresh runs choose the winner that is then verified.

Every rung measures all that are left, and the baseline beside them, in interleaved blocks; then
the worse half goes. These runs are part of no claim.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from autotune.study.blocks import MAX_REPEATS
from autotune.trial import Params

if TYPE_CHECKING:
    from autotune.study.run import StudyRun

RUNG_BLOCKS = 2
"""Blocks that each rung measures before the worse half goes."""


@dataclass(frozen=True)
class Candidate:
    """A trial that may be the winner of its workload, and the baseline it has to beat."""

    number: int
    params: Params
    rate: float
    """samples/s in the search."""
    baseline: Params
    workload: str
    measured_at: datetime | None


def selection_runs(finalists: int) -> int:
    """Measurements that choosing among so many finalists takes: 0 for one of them."""
    runs = 0
    while finalists > 1:
        runs += RUNG_BLOCKS * (finalists + 1)
        finalists = math.ceil(finalists / 2)
    return runs


def select(run: StudyRun, finalists: list[Candidate]) -> Candidate | None:
    """The finalist with the best fresh runs; a single one needs none.

    Where the time budget leaves no room for a rung and the first verification blocks, those
    ahead so far decide. A finalist whose runs fail is out.

    Returns:
        None where all of them failed, or the user ended it.
    """
    if len(finalists) == 1:
        return finalists[0]
    selection = _Selection(run, finalists)
    left = list(finalists)
    block = 0
    while len(left) > 1:
        for _ in range(RUNG_BLOCKS):
            if not selection.fits(left):
                return selection.best(left)
            left = selection.measure(block, left)
            if run.asked_to_end() is not None:
                return None
            block += 1
        left = selection.ranked(left)[: math.ceil(len(left) / 2)]
    return left[0] if left else None


class _Selection:
    """The selection runs of one workload, those of an earlier launch included."""

    def __init__(self, run: StudyRun, finalists: list[Candidate]) -> None:
        self._run = run
        self._baseline = finalists[0]
        self._rates: dict[int, list[float]] = defaultdict(list)
        self._recorded = self._earlier_runs()

    def _earlier_runs(self) -> dict[tuple[int, str, int], float]:
        """By trial, arm and block: runs made since the search ended. Older ones compared other
        finalists."""
        found: dict[tuple[int, str, int], float] = {}
        for measured in self._run.database.measurements(self._run.record.id):
            if measured.role in ("search", "baseline"):
                found.clear()
            elif measured.role == "selection" and not measured.superseded:
                rate = measured.samples_per_second
                if rate and measured.trial_number is not None and measured.arm is not None:
                    key = (measured.trial_number, measured.arm, measured.block or 0)
                    found[key] = rate
        return found

    def fits(self, left: list[Candidate]) -> bool:
        """Whether there is time for a block, and then for the first blocks of verification."""
        verification = 2 * self._run.plan.experiment.verification.first_blocks
        return self._run.clock.fits(len(left) + 1, verification)

    def measure(self, block: int, left: list[Candidate]) -> list[Candidate]:
        """One block of all that are left and the baseline; returns those that did not fail."""
        order: list[Candidate | None] = [*left, None]
        random.Random(f"{self._run.plan.experiment.seed}:selection:{block}").shuffle(order)
        failed = []
        for candidate in order:
            rate = self._rate(block, candidate)
            if self._run.asked_to_end() is not None:
                return left
            if candidate is None:
                continue  # the baseline is beside them for the record; it cannot be chosen
            if rate is None:
                failed.append(candidate)
                self._run.observer.note(f"Trial {candidate.number} is out: its fresh runs failed.")
            else:
                self._rates[candidate.number].append(math.log(rate))
        return [candidate for candidate in left if candidate not in failed]

    def _rate(self, block: int, candidate: Candidate | None) -> float | None:
        """samples/s of one fresh run (None: of the baseline), repeated where it failed."""
        run, whose = self._run, candidate or self._baseline
        arm = "baseline" if candidate is None else "candidate"
        params = self._baseline.baseline if candidate is None else whose.params
        known = self._recorded.get((whose.number, arm, block))
        if known is not None:
            return known
        what = "the baseline" if candidate is None else f"trial {whose.number}"
        where: dict[str, Any] = {"block": block, "arm": arm}
        for _ in range(1 + MAX_REPEATS):
            if run.asked_to_end() is not None:
                return None
            label = f"selection block {block + 1}, {what}"
            result = run.measure(params, whose.number, label, "selection", **where)
            run.verification_left = max(0, run.verification_left - 1)
            if result.measurement is not None and result.measurement.samples_per_second > 0:
                return result.measurement.samples_per_second
        return None

    def ranked(self, left: list[Candidate]) -> list[Candidate]:
        """Best first by the mean logarithm of the rate: all were measured in the same blocks."""

        def score(candidate: Candidate) -> float:
            rates = self._rates[candidate.number]
            return math.fsum(rates) / len(rates)

        return sorted(left, key=score, reverse=True)

    def best(self, left: list[Candidate]) -> Candidate:
        """The one ahead so far; by the search where there is no fresh run of each yet."""
        measured = all(self._rates[candidate.number] for candidate in left)
        return self.ranked(left)[0] if measured else left[0]
