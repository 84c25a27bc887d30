"""What the runs of `loaders` say: medians, ratios against the goals, as Markdown."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.stats import ratio_interval
from autotune.trial import Params, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.contenders import Goal, goals

FIRST_BATCH_GOAL_SECONDS = 2.5


@dataclass(frozen=True)
class Run:
    """One measurement of one contender. Figures are None where it failed."""

    duration: float
    contender: str
    phase: str
    """``tuning`` or ``block``."""
    block: int
    params: Params
    samples_per_second: float | None
    within_low: float | None
    within_high: float | None
    time_to_first_batch: float | None
    decoded_fps: float | None
    cpu_percent: float | None
    steady: bool | None
    failure: str | None


def run_of(
    duration: float, name: str, phase: str, block: int, params: Params, result: TrialResult
) -> Run:
    """A result as a row; a run that did not deliver 16 frames a sample is a failed one."""
    m = result.measurement
    failure = None if m is not None else _common.why_failed(result)
    wanted = _common.SETTINGS["num_frames"]
    if m is not None and m.frames != m.samples * wanted:
        failure = f"{m.frames} frames in {m.samples} samples, not {wanted} each"
    ok = m is not None and failure is None
    return Run(
        duration=duration,
        contender=name,
        phase=phase,
        block=block,
        params=params,
        samples_per_second=m.samples_per_second if ok and m else None,
        within_low=m.within_low if ok and m else None,
        within_high=m.within_high if ok and m else None,
        time_to_first_batch=m.time_to_first_batch if ok and m else None,
        decoded_fps=m.decoded_fps if ok and m else None,
        cpu_percent=m.resources.cpu_percent if ok and m else None,
        steady=m.steady if ok and m else None,
        failure=failure,
    )


def by_contender(runs: Sequence[Run], duration: float) -> dict[str, dict[int, Run]]:
    """Name -> block -> run, of the blocks that gave a figure."""
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        if run.phase == "block" and run.duration == duration and run.samples_per_second:
            found[run.contender][run.block] = run
    return dict(found)


def median_rate(blocks: Mapping[int, Run]) -> float:
    """Median samples/s over the blocks."""
    return statistics.median(run.samples_per_second or 0.0 for run in blocks.values())


def judge(goal: Goal, found: Mapping[str, Mapping[int, Run]]) -> dict[str, Any] | None:
    """A goal's ratio with its interval, over the blocks both sides have; None without figures.

    "Best of several" is decided by the median over all blocks, then that one is paired.
    """

    def best(names: Sequence[str]) -> str | None:
        return max(
            (n for n in names if n in found), key=lambda n: median_rate(found[n]), default=None
        )

    upper, lower = best(goal.numerator), best(goal.denominator)
    if upper is None or lower is None:
        return None
    shared = sorted(set(found[upper]) & set(found[lower]))
    if len(shared) < 2:
        return None
    ratio = ratio_interval(
        [found[upper][b].samples_per_second or 0.0 for b in shared],
        [found[lower][b].samples_per_second or 0.0 for b in shared],
    )
    return {
        "goal": goal.text,
        "numerator": upper,
        "denominator": lower,
        "ratio": ratio.ratio,
        "low": ratio.low,
        "high": ratio.high,
        "blocks": ratio.blocks,
        "least": goal.least,
        "met": None if goal.least is None else ratio.ratio >= goal.least,
    }


def report(runs: Sequence[Run], durations: Sequence[float]) -> tuple[str, list[dict[str, Any]]]:
    """The Markdown report and the judged ratios."""
    parts, judged = [], []
    for duration in durations:
        found = by_contender(runs, duration)
        rows = []
        for name, blocks in sorted(found.items(), key=lambda item: -median_rate(item[1])):
            rates = [r.samples_per_second or 0.0 for r in blocks.values()]
            firsts = [r.time_to_first_batch or 0.0 for r in blocks.values()]
            last = next(iter(blocks.values()))
            settings = {
                k: v
                for k, v in last.params.items()
                if k not in ("subclip_duration", "batch_size", "scale_algorithm", "device")
            }
            rows.append(
                [
                    name,
                    f"{median_rate(blocks):.1f}",
                    f"{min(rates):.1f}",
                    f"{max(rates):.1f}",
                    len(blocks),
                    f"{statistics.median(firsts):.2f}",
                    _common.flags_of(settings, *settings),
                ]
            )
        parts.append(f"### First {duration:g} s of each clip\n")
        header = [
            "contender",
            "samples/s",
            "min",
            "max",
            "blocks",
            "first batch (s)",
            "best settings",
        ]
        parts.append(_common.markdown_table(header, rows) + "\n")
        outcomes = [o for goal in goals(duration) if (o := judge(goal, found)) is not None]
        parts.append(
            _common.markdown_table(
                ["ratio", "value", "95 % interval", "goal", "met"],
                [
                    [
                        o["goal"],
                        f"{o['ratio']:.3f}",
                        f"{o['low']:.3f} to {o['high']:.3f}",
                        "-" if o["least"] is None else f">= {o['least']:.2f}",
                        o["met"],
                    ]
                    for o in outcomes
                ],
            )
            + "\n"
        )
        firsts = [
            run.time_to_first_batch or 0.0
            for name, blocks in found.items()
            if name.startswith("spdl_video")
            for run in blocks.values()
        ]
        if firsts:
            middle = statistics.median(firsts)
            outcome = {
                "goal": "spdl_video, start to first batch (s)",
                "ratio": middle,
                "low": min(firsts),
                "high": max(firsts),
                "least": None,
                "most": FIRST_BATCH_GOAL_SECONDS,
                "met": middle <= FIRST_BATCH_GOAL_SECONDS,
            }
            outcomes.append(outcome)
            parts.append(
                f"spdl_video, start to first batch: median {middle:.2f} s "
                f"({min(firsts):.2f} to {max(firsts):.2f}); goal <= {FIRST_BATCH_GOAL_SECONDS} s: "
                f"{'met' if outcome['met'] else 'missed'}\n"
            )
        judged += [{"duration": duration, **o} for o in outcomes]
    failures = [
        f"- {r.duration:g} s {r.phase} {r.contender}: {r.failure}" for r in runs if r.failure
    ]
    if failures:
        parts.append("Failed runs:\n\n" + "\n".join(failures) + "\n")
    return "\n".join(parts), judged
