"""Measures trials of a study again, against themselves: does a figure come back?

    python -m experiments.benchmarks.repeatability --study NAME [--storage URL]

Five trials spread over the ranking run on two sides, ``runs`` fresh runs each, all interleaved
in random order within blocks. Both sides are the same configuration, so the 95 % interval of
their ratio should contain 1: for at least 4 of the 5. Beside it stands the ratio of the fresh
runs to the figure the study recorded.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autotune.config import Experiment, Plan, resolve, storage_url
from autotune.exceptions import AutotuneError, InputError
from autotune.executors.base import Executor
from autotune.metadata import fingerprint_difference
from autotune.plugins import load_executor
from autotune.stats import ratio_interval
from autotune.storage import Database, StudyRecord, TrialRecord
from autotune.study.nodes import probe_nodes
from autotune.study.run import specification
from autotune.trial import NodeInfo
from experiments.benchmarks import _common

SIDES = ("a", "b")
NEEDED = 4


@dataclass(frozen=True)
class Repeat:
    """One trial against itself."""

    trial: int
    recorded: float
    rates_a: list[float]
    rates_b: list[float]
    ratio: float | None
    low: float | None
    high: float | None
    contains_one: bool
    fresh_to_recorded: float | None


def spread(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """``count`` trials over the whole ranking, best and worst among them.

    Raises:
        InputError: if there are fewer that can be ranked.
    """
    ranked = sorted(
        (t for t in trials if t.rankable), key=lambda t: t.samples_per_second or 0.0, reverse=True
    )
    if len(ranked) < count:
        raise InputError(
            f"the study has {len(ranked)} trials with a figure; {count} are needed (--count)"
        )
    if count == 1:
        return ranked[:1]
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def repeat(
    executor: Executor,
    plan: Plan,
    record: StudyRecord,
    node: NodeInfo,
    chosen: Sequence[TrialRecord],
    runs: int,
) -> list[Repeat]:
    """Measure every chosen trial ``runs`` times a side, interleaved."""
    order = random.Random(f"{plan.experiment.seed}:repeatability")
    rates: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for block in range(runs):
        work = [(trial, side) for trial in chosen for side in SIDES]
        order.shuffle(work)
        for trial, side in work:
            job = executor.submit(specification(plan, record.uuid, trial.params, node))
            result = job.result()
            rate = _common.rate_of(result)
            shown = _common.why_failed(result) if rate is None else f"{rate:.1f} samples/s"
            _common.say(f"block {block + 1}/{runs} trial {trial.number}{side}: {shown}")
            if rate is not None:
                rates[trial.number, side][block] = rate
    return [
        compare(t.number, t.samples_per_second or 0.0, rates[t.number, "a"], rates[t.number, "b"])
        for t in chosen
    ]


def compare(trial: int, recorded: float, a: dict[int, float], b: dict[int, float]) -> Repeat:
    """One trial's two sides over the blocks that both have; fewer than 3 prove nothing."""
    shared = sorted(set(a) & set(b))
    every = [*a.values(), *b.values()]
    fresh = statistics.fmean(every) / recorded if every and recorded else None
    if len(shared) < 3:
        return Repeat(
            trial, recorded, list(a.values()), list(b.values()), None, None, None, False, fresh
        )
    r = ratio_interval([b[i] for i in shared], [a[i] for i in shared])
    return Repeat(
        trial=trial,
        recorded=recorded,
        rates_a=[a[i] for i in shared],
        rates_b=[b[i] for i in shared],
        ratio=r.ratio,
        low=r.low,
        high=r.high,
        contains_one=not r.significant,
        fresh_to_recorded=fresh,
    )


def report(repeats: Sequence[Repeat]) -> str:
    """Table and verdict."""
    rows = [
        [
            r.trial,
            f"{r.recorded:.1f}",
            " ".join(f"{x:.1f}" for x in r.rates_a),
            " ".join(f"{x:.1f}" for x in r.rates_b),
            "-" if r.ratio is None else f"{r.ratio:.3f}",
            "-" if r.low is None or r.high is None else f"{r.low:.3f} to {r.high:.3f}",
            r.contains_one,
            "-" if r.fresh_to_recorded is None else f"{r.fresh_to_recorded:.3f}",
        ]
        for r in repeats
    ]
    header = [
        "trial",
        "in the study",
        "side a",
        "side b",
        "ratio b/a",
        "95 % interval",
        "contains 1",
        "fresh / in the study",
    ]
    good = sum(r.contains_one for r in repeats)
    verdict = "repeatable" if passed(repeats) else "NOT repeatable"
    return (
        _common.markdown_table(header, rows)
        + f"\n\n{verdict}: the interval contains 1 for {good} of {len(repeats)} trials "
        f"(at least {_needed(len(repeats))} wanted). The widest interval spans a factor of "
        f"{max((r.high / r.low for r in repeats if r.low and r.high), default=math.inf):.2f}."
    )


def _needed(count: int) -> int:
    return max(1, count - (5 - NEEDED)) if count >= 5 else count


def passed(repeats: Sequence[Repeat]) -> bool:
    """At least 4 of 5."""
    return sum(r.contains_one for r in repeats) >= _needed(len(repeats))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 repeatable, 1 not, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.repeatability")
    p.add_argument("--storage", default=None, help="SQLAlchemy URL (or AUTOTUNE_STORAGE)")
    p.add_argument("--study", required=True)
    p.add_argument("--count", type=int, default=5, help="trials to measure again")
    p.add_argument("--runs", type=int, default=3, help="fresh runs a side; at least 3")
    p.add_argument("-o", "--output", type=Path)
    options = p.parse_args(argv)
    if options.runs < 3:
        p.error(f"--runs {options.runs}: at least 3 runs a side are needed for an interval")
    try:
        repeats = _run(options)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    text = report(repeats)
    print(text)
    if options.output:
        document = {
            "benchmark": "repeatability",
            "date": _common.today(),
            "study": options.study,
            "machine": _common.machine_facts(),
            "passed": passed(repeats),
            "trials": [asdict(r) for r in repeats],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return 0 if passed(repeats) else 1


def _run(options: argparse.Namespace) -> list[Repeat]:
    with Database.open(storage_url(options.storage), create=False) as database:
        record = database.get_study(options.study)
        chosen = spread(database.trials(record.id), options.count)
        machine = database.study_fingerprints(record.id)[0]
    plan = resolve(Experiment.from_dict(record.experiment, where=f"study {record.name}"))
    settings = plan.experiment.executor
    executor = load_executor(settings.kind).create(
        address=settings.address, slots_per_node=settings.slots_per_node
    )
    try:
        node = probe_nodes(executor, plan, record.uuid)[0]
        for line in fingerprint_difference("machine", machine or {}, node.fingerprint.machine):
            _common.say(f"note: not the machine of the study: {line}")
        return repeat(executor, plan, record, node, chosen, options.runs)
    finally:
        executor.close()


if __name__ == "__main__":
    sys.exit(main())
