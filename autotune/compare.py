"""Two configurations, interleaved in fresh runs: the use case behind ``autotune compare``.

Both sides are measured here and now, and nothing is stored.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.exceptions import InputError, UnsupportedError
from autotune.executors.base import Executor
from autotune.executors.local import LocalExecutor
from autotune.measure import once_progress, wait_for
from autotune.metadata import fingerprint_difference
from autotune.repeats import disturbed
from autotune.sides import Side, Sides
from autotune.stats import FIRST_BLOCKS, MAX_BLOCKS, MIN_RATIO_HALF_WIDTH, mean_interval
from autotune.study.blocks import Blocks
from autotune.study.nodes import probe_nodes
from autotune.study.observer import StudyObserver
from autotune.study.run import StopSignal, specification
from autotune.trial import Failure, NodeInfo, TrialResult, Value

TIMEOUT_SECONDS = 240.0
"""A comparison with default settings ends within this."""

_SHORTEST_PROBE = 1.0
"""Seconds that looking at the machine may take where the time is over already."""


@dataclass(frozen=True)
class CompareSettings:
    """How much a comparison may do."""

    blocks: int = MAX_BLOCKS
    """The most blocks; a block is one fresh run of each side."""
    half_width: float = MIN_RATIO_HALF_WIDTH
    """Relative half-width of the ratio's interval from which on it is known well enough."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds for all of it, probing included."""


@dataclass(frozen=True)
class CompareOutcome:
    """What a comparison gave."""

    sides: Sides
    blocks: Blocks
    num_samples: int
    """Data set size, for the epoch time."""
    seconds: float
    disturbed: int = 0
    """Runs that another program disturbed: their blocks are measured again."""
    ended_early: str = ""
    """Why there are fewer blocks than needed; empty where there are enough."""
    interrupted: bool = False
    failure: Failure | None = None
    failed_side: str = ""
    """``A`` or ``B`` where one of them could not be measured."""


class CompareFigures(Value):
    """The JSON object of a comparison. The ratio is A over B: above 1, A is faster."""

    a: str
    b: str
    """As they were named."""
    a_flags: str
    b_flags: str
    a_trial: int | None
    b_trial: int | None
    ratio: float | None
    """samples/s of A over those of B; null below two blocks."""
    ratio_low: float | None
    ratio_high: float | None
    """95 % interval of the ratio."""
    significant: bool
    """Whether the interval excludes 1."""
    blocks: int
    blocks_needed: int
    """For ``half_width``, as far as the blocks made tell, and at most as many as allowed."""
    half_width: float
    a_samples_per_second: float | None
    a_ci_low: float | None
    a_ci_high: float | None
    """Geometric mean over the blocks, and its 95 % t interval."""
    b_samples_per_second: float | None
    b_ci_low: float | None
    b_ci_high: float | None
    a_epoch_seconds: float | None
    b_epoch_seconds: float | None
    across_workloads: bool
    """Whether the two sides do different work, so that the ratio is no gain of flags alone."""
    differences: list[str]
    disturbed_runs: int
    """Runs that another program disturbed: their blocks are measured again."""
    blocks_set_aside: int
    """Blocks with such a run that do not count, as one that was disturbed less stands in their
    place."""
    blocks_disturbed: int
    """Blocks that count although every attempt at them was disturbed: they widen the interval."""
    ended_early: str
    failure: Failure | None
    failed_side: str
    seconds: float


def compare(
    sides: Sides,
    settings: CompareSettings | None = None,
    *,
    observer: StudyObserver | None = None,
    signal: StopSignal | None = None,
    executor: Executor | None = None,
) -> CompareOutcome:
    """Measure two configurations in interleaved blocks of fresh runs on this machine.

    It ends when the ratio is known well enough, after ``settings.blocks``, or early when no
    further block fits into ``settings.timeout``. A side that fails is an outcome, no exception.

    Raises:
        InputError: if a configuration or the data are wrong, or a side's study was measured on
            another machine or other data.
        UnsupportedError: if this machine lacks what a side needs.
    """
    begun = time.monotonic()
    observer = observer or StudyObserver()
    signal = signal or StopSignal()
    executor = executor or LocalExecutor(on_event=observer.measurement_event)
    try:
        comparison = _Comparison(
            sides, settings or CompareSettings(), observer, signal, executor, begun
        )
        return comparison.run()
    finally:
        executor.close()


class _Comparison:
    """The steps of one comparison."""

    def __init__(
        self,
        sides: Sides,
        settings: CompareSettings,
        observer: StudyObserver,
        signal: StopSignal,
        executor: Executor,
        begun: float,
    ) -> None:
        self._sides = sides
        self._by_name = {"A": sides.a, "B": sides.b}
        self._observer = observer
        self._signal = signal
        self._executor = executor
        self._begun = begun
        self._deadline = begun + settings.timeout
        self._timeout = settings.timeout
        self._study = uuid.uuid4().hex
        self._longest_block = 0.0
        self._block_begun = begun
        self._disturbed = 0
        self._nodes: dict[str, NodeInfo] = {}
        seed = sides.a.plan.experiment.seed
        self._blocks = Blocks(
            arms=("A", "B"),
            seed=f"{seed}:compare",
            first=FIRST_BLOCKS,
            most=settings.blocks,
            half_width=settings.half_width,
            repeats=sides.a.plan.experiment.measurement.repeats,
        )

    def run(self) -> CompareOutcome:
        """Probe, check, measure."""
        for name, side in self._by_name.items():
            same = name == "B" and side.plan is self._sides.a.plan
            self._nodes[name] = self._nodes["A"] if same else self._probe(side)
        self._observer.study_started("compare", False, [self._nodes["A"]], [], "none")
        broken = self._blocks.measure(self._measure, self._may_begin)
        return CompareOutcome(
            sides=self._sides,
            blocks=self._blocks,
            num_samples=self._nodes["A"].num_samples,
            seconds=time.monotonic() - self._begun,
            disturbed=self._disturbed,
            ended_early="" if broken or self._blocks.complete else self._why_early(),
            interrupted=self._signal.requested,
            failure=None if broken is None else broken.failure,
            failed_side="" if broken is None else broken.arm,
        )

    def _probe(self, side: Side) -> NodeInfo:
        node = self._answer_of_node(side)
        for text in node.warnings:
            self._observer.note(text)
        lines = [
            line
            for label, old, new in (
                ("machine", side.machine, node.fingerprint.machine),
                ("data", side.data, node.fingerprint.data),
            )
            if old is not None
            for line in fingerprint_difference(label, old, new)
        ]
        if lines:
            raise InputError(
                f"compare: study {side.study!r} was measured on another machine or other data; "
                "what differs:\n  " + "\n  ".join(lines) + "\nTo compare its flags here all the "
                "same, write them out: 'TARGET --flags...' (`autotune export` prints them)."
            )
        return node

    def _answer_of_node(self, side: Side) -> NodeInfo:
        seconds = max(_SHORTEST_PROBE, self._deadline - time.monotonic())
        try:
            return probe_nodes(self._executor, side.plan, self._study, seconds)[0]
        except UnsupportedError as error:
            if time.monotonic() < self._deadline:
                raise
            raise InputError(
                f"--timeout: {self._timeout:g} s were over before anything was measured: {error}. "
                "Pass a longer --timeout, or a smaller --data-dir"
            ) from error

    def _may_begin(self) -> bool:
        self._block_begun = time.monotonic()
        return (
            not self._signal.requested and self._block_begun + self._longest_block <= self._deadline
        )

    def _measure(self, arm: str, block: int) -> TrialResult | None:
        if self._signal.requested:
            return None
        side, node = self._by_name[arm], self._nodes[arm]
        spec = specification(side.plan, self._study, side.params, node)
        label = f"block {block + 1}/{max(self._blocks.needed, block + 1)} {arm}"
        progress = once_progress("compare", node, time.monotonic() - self._begun)
        self._observer.measurement_started(spec.uuid, label, side.params, progress)
        result = wait_for(
            self._executor.submit(spec),
            lambda: self._signal.now or time.monotonic() > self._deadline,
        )
        self._observer.measurement_finished(spec.uuid, label, side.params, result, None, progress)
        self._disturbed += disturbed(result)
        self._longest_block = max(self._longest_block, time.monotonic() - self._block_begun)
        return result

    def _why_early(self) -> str:
        if self._signal.requested:
            return "interrupted"
        return f"the time of {self._timeout:g} s was over"


def compared_figures(outcome: CompareOutcome) -> CompareFigures:
    """The JSON object of an outcome."""
    sides, blocks = outcome.sides, outcome.blocks
    ratio = blocks.ratio()
    a_rate, a_low, a_high = _mean_rate(blocks.of_first)
    b_rate, b_low, b_high = _mean_rate(blocks.of_second)
    samples = outcome.num_samples
    return CompareFigures(
        a=sides.a.text,
        b=sides.b.text,
        a_flags=sides.a.flags,
        b_flags=sides.b.flags,
        a_trial=sides.a.trial,
        b_trial=sides.b.trial,
        ratio=None if ratio is None else ratio.ratio,
        ratio_low=None if ratio is None else ratio.low,
        ratio_high=None if ratio is None or math.isinf(ratio.high) else ratio.high,
        significant=ratio is not None and ratio.significant,
        blocks=len(blocks.rates),
        blocks_needed=blocks.needed,
        half_width=blocks.half_width,
        a_samples_per_second=a_rate,
        a_ci_low=a_low,
        a_ci_high=a_high,
        b_samples_per_second=b_rate,
        b_ci_low=b_low,
        b_ci_high=b_high,
        a_epoch_seconds=samples / a_rate if samples and a_rate else None,
        b_epoch_seconds=samples / b_rate if samples and b_rate else None,
        across_workloads=bool(sides.differences),
        differences=sides.differences,
        disturbed_runs=outcome.disturbed,
        blocks_set_aside=blocks.set_aside,
        blocks_disturbed=blocks.disturbed,
        ended_early=outcome.ended_early,
        failure=outcome.failure,
        failed_side=outcome.failed_side,
        seconds=outcome.seconds,
    )


def _mean_rate(rates: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Geometric mean of fresh runs with its 95 % t interval, as far as there are runs."""
    if not rates:
        return None, None, None
    found = mean_interval([math.log(rate) for rate in rates])
    if len(rates) < 2:
        return math.exp(found.mean), None, None
    return math.exp(found.mean), math.exp(found.low), math.exp(found.high)
