"""A synthetic target that runs its stages alone; given as `staged:Staged`."""

from __future__ import annotations

from synthetic import Steady

from autotune.targets.base import BuildContext
from autotune.trial import StageCeiling


class Staged(Steady):
    """Its stages reach what the settings say."""

    name = "staged"

    def stages_alone(self, context: BuildContext) -> list[StageCeiling]:
        threads = int(context.spec.params["num_threads"])
        return [
            StageCeiling(name=name, concurrency=threads, samples_per_second=rate)
            for name, rate in context.spec.settings["stages"].items()
        ]
