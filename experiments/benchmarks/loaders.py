"""Compares spdl_video with decode alone, the published example's stages and a torch DataLoader.

    python -m experiments.benchmarks.loaders [--clips DIR | --data DIR] [-o results.json]

A short tuning pass finds each contender's best configuration; then every block runs each of
them once, in a seeded random order, in fresh processes. Ratios are paired within the blocks.
Run it alone on the machine: whatever else runs is in the figures.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError
from autotune.stats import ratio_interval
from autotune.trial import Params, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.contenders import Contender, Goal, contenders, goals

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


class Comparison:
    """The runs of one comparison."""

    def __init__(self, runner: _common.Runner, tuning_seconds: float, seconds: float) -> None:
        self._runner = runner
        self._tuning_seconds = tuning_seconds
        self._seconds = seconds
        self.runs: list[Run] = []
        self.best: dict[float, dict[str, Params]] = {}

    def tune(self, duration: float, field: Sequence[Contender]) -> None:
        """Find every contender's best configuration."""
        self.best[duration] = {}
        for contender in field:
            best = contender.tune(
                lambda params, c=contender: self._measure(duration, c, "tuning", 0, params)
            )
            self.best[duration][contender.name] = best
            _common.say(f"{duration:g} s: {contender.name}: {best}")

    def blocks(self, duration: float, field: Sequence[Contender], rounds: int, seed: int) -> None:
        """Run everyone once a block, in random order."""
        order = random.Random(f"{seed}:{duration}")
        for block in range(rounds):
            shuffled = list(field)
            order.shuffle(shuffled)
            for contender in shuffled:
                params = self.best[duration][contender.name]
                self._measure(duration, contender, "block", block, params)

    def _measure(
        self, duration: float, contender: Contender, phase: str, block: int, params: Params
    ) -> float | None:
        seconds = self._tuning_seconds if phase == "tuning" else self._seconds
        result = self._runner.measure(contender.target, params, seconds)
        run = run_of(duration, contender.name, phase, block, params, result)
        self.runs.append(run)
        shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
        _common.say(f"{duration:g} s {phase} {block} {contender.name}: {shown}")
        if run.failure and result.log_tail:
            _common.say(result.log_tail[-1500:])
        return run.samples_per_second


# --------------------------------------------------------------------------- the report


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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.loaders", description=__doc__
    )
    p.add_argument("--clips", type=Path, help="folder to take 340x256 H.264 clips from")
    p.add_argument("--data", type=Path, help="a data folder to measure on as it is")
    p.add_argument("--links", type=int, default=64, help="size of the data set made of --clips")
    p.add_argument("--seconds", type=float, default=6.0, help="length of a block's run")
    p.add_argument("--tuning-seconds", type=float, default=2.0, help="length of a tuning run")
    p.add_argument("--rounds", type=int, default=6, help="interleaved blocks")
    p.add_argument("--durations", default="0.5,2", help="subclip durations in seconds")
    p.add_argument(
        "--only", default="", help="contenders whose name contains one of these, by comma"
    )
    p.add_argument(
        "--no-tuning", action="store_true", help="run every contender as it is before tuning"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, help="JSON file; the table goes beside it as .md")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 2 where the input is wrong."""
    options = parser().parse_args(argv)
    durations = _common.numbers(options.durations)
    wanted = [part.strip() for part in options.only.split(",") if part.strip()]
    try:
        with _common.scratch_folder("loaders") as scratch:
            if options.data:
                data, names = options.data, [str(options.data)]
            else:
                source = options.clips or _common.SHARED_CLIPS
                if not source.is_dir():
                    raise InputError(f"--clips {source}: no such folder; give --clips or --data")
                data, names = linked_set(source, scratch, options.links)
            runner = _common.Runner(data, scratch, seed=options.seed)
            runner.prewarm()
            machine = _common.machine_facts()
            if machine["load_average"][0] > 0.3 * (os.cpu_count() or 1):
                _common.say(f"warning: the machine is busy (load {machine['load_average'][0]})")
            comparison = Comparison(runner, options.tuning_seconds, options.seconds)
            for duration in durations:
                field = [
                    c
                    for c in contenders(duration)
                    if not wanted or any(part in c.name for part in wanted)
                ]
                if options.no_tuning:
                    field = [Contender(c.name, c.target, c.base) for c in field]
                comparison.tune(duration, field)
                comparison.blocks(duration, field, options.rounds, options.seed)
            clips = len(runner.manifest)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    table, judged = report(comparison.runs, durations)
    print(table)
    if options.output:
        document = {
            "benchmark": "loaders",
            "date": _common.today(),
            "machine": machine,
            "data": {"clips": names, "files": clips, "links": not options.data},
            "options": {k: str(v) for k, v in vars(options).items()},
            "ratios": judged,
            "best": {str(d): best for d, best in comparison.best.items()},
            "runs": [asdict(run) for run in comparison.runs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
