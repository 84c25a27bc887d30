"""The best figure of each workload so far: what a trial has to beat to be measured to its end."""

from __future__ import annotations

from autotune.search_space import SearchSpace
from autotune.study.workloads import Workload
from autotune.trial import Incumbent, Params


class Incumbents:
    """Keeps the fastest complete and feasible trial of every workload.

    Args:
        space: tells the workload of a configuration. Figures of two workloads never compare.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._best: dict[Workload, float] = {}

    def note(self, params: Params, rate: float) -> None:
        """Take in a trial that was measured to its end and meets the constraints.

        Args:
            rate: samples/s.
        """
        workload = self._space.workload_key(params)
        self._best[workload] = max(rate, self._best.get(workload, 0.0))

    def best(self, params: Params) -> float | None:
        """The best rate of this configuration's workload, samples/s; None before the first."""
        return self._best.get(self._space.workload_key(params))

    def facing(self, params: Params, spread: float, dof: float) -> Incumbent | None:
        """What a trial of ``params`` has to beat; None before the first figure of its workload.

        Args:
            spread, dof: of fresh runs of one configuration, as `stats.between_run_sd` gives them.
        """
        rate = self.best(params)
        if rate is None:
            return None
        return Incumbent(samples_per_second=rate, spread=spread, dof=dof)
