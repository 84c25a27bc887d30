"""Real runs for the calibration: one configuration many times over, and a planted difference.

Four runs a round, in random order, each in fresh processes: two of one configuration that the
loader limits (their noise is the real one), and one each of two that differ by a known factor.
Those two are limited by the consumer `paced`, whose pace per sample is known: the second takes
longer by twice the noise floor of the first, which runs before the rounds tell. Every run is one
JSON line, and a later call goes on.
"""

from __future__ import annotations

import json
import math
import os
import queue
import random
import statistics
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autotune import stats
from autotune.config import experiment_from, resolve
from autotune.exceptions import InputError
from autotune.executors.local import LocalExecutor
from autotune.study.nodes import probe_nodes
from autotune.study.run import specification
from autotune.trial import ConsumerSpec, MeasurementSettings, TrialResult
from experiments.benchmarks import _common
from experiments.benchmarks.calibration_report import Proportion

REPEATS = 5
"""Other runs of the configuration that a study would know its spread from."""
PLANTING_RUNS = 15
"""Runs that tell the noise floor of the paced configuration, which the planted difference is twice
of: five of them may be lucky."""
DRIFT_EVERY = 10
"""Rounds after which a study would run its baseline again."""
PACED_SHARE = 0.5
"""The paced consumer asks for this share of what the loader can deliver."""
ARMS = ("same", "same_again", "paced", "slower")
TARGET: dict[str, Any] = {
    "name": "spdl_video",
    "device": "cpu",
    "num_frames": 16,
    "frame_size": [112, 112],
    "subclip_duration": 0.5,
    "scale_algorithm": "fast_bilinear",
    "batch_size": 1,
    "num_fetch_threads": 2,
    "num_demux_threads": 2,
    "num_decode_threads": 2,
    "sink_buffer_size": 1,
}
SEARCH_SPACE: dict[str, Any] = {"parameters": {"batch_size": {"values": [1], "default": 1}}}
"""Batches of one sample: a run of a second then has the batches that its interval is made of."""


@dataclass(frozen=True)
class Run:
    """One run; without a rate it failed."""

    phase: str
    """``floor`` before the rounds, ``round`` in them."""
    number: int
    arm: str
    rate: float | None
    half: float | None
    """Half-width of its own interval, samples/s."""
    steady: bool | None
    ms_per_sample: float
    """Of the consumer; 0 where nothing holds the loader back."""
    failure: str | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        return self.phase, self.number, self.arm


@dataclass
class Recording:
    """The runs in a file of JSON lines."""

    path: Path
    runs: dict[tuple[str, int, str], Run] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, path: Path, resume: bool) -> Recording:
        """Read what is there; a last line that was cut off is dropped.

        Raises:
            InputError: if the file exists and is not to be resumed, or holds something else.
        """
        recording = cls(path)
        if not path.exists():
            return recording
        if not resume:
            raise InputError(f"{path}: exists; --resume goes on with it, or move it away")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                run = Run(**json.loads(line))
            except (ValueError, TypeError) as error:
                if number == len(lines) and not line.endswith("\n"):
                    path.write_text("".join(lines[:-1]), encoding="utf-8")
                    break
                raise InputError(
                    f"{path}, line {number}: is no run ({error}); move the file away"
                ) from error
            recording.runs[run.key] = run
        return recording

    def add(self, run: Run) -> None:
        """Append it, on disk before the next run begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")
            self.runs[run.key] = run

    def of(self, phase: str, arm: str) -> dict[int, Run]:
        """The runs of one arm that gave a rate, by number."""
        return {
            r.number: r
            for r in self.runs.values()
            if r.phase == phase and r.arm == arm and r.rate is not None
        }


class Bench:
    """Makes runs of one configuration through the local executor, as a study would."""

    def __init__(self, data_dir: Path, seconds: float, seed: int) -> None:
        self._plan = resolve(
            experiment_from(
                {
                    "target": TARGET | {"data_dir": str(data_dir)},
                    "search_space": SEARCH_SPACE,
                    "seed": seed,
                }
            )
        )
        self._settings = MeasurementSettings(
            min_seconds=seconds, max_seconds=seconds, relative_half_width=1e-9
        )
        self._study = uuid.uuid4().hex
        self._executor = LocalExecutor()
        self._node = probe_nodes(self._executor, self._plan, self._study)[0]

    def close(self) -> None:
        self._executor.close()

    def run(self, ms_per_sample: float) -> TrialResult:
        """One run in fresh processes, counted for a fixed time."""
        consumer = ConsumerSpec()
        if ms_per_sample > 0:
            consumer = ConsumerSpec(kind="paced", ms_per_sample=ms_per_sample)
        spec = specification(self._plan, self._study, self._plan.baseline, self._node)
        return self._executor.submit(
            spec.model_copy(update={"consumer": consumer, "measurement": self._settings})
        ).result()


class Cores:
    """Makes runs on several cores at once, each pinned to one of them: the same load all the
    time, and so many more runs an hour. With one core nothing is pinned."""

    def __init__(self, benches: Sequence[Bench]) -> None:
        self._benches = benches
        self._local = threading.local()
        self._free: queue.SimpleQueue[tuple[int, Bench]] = queue.SimpleQueue()
        available = sorted(os.sched_getaffinity(0))
        if len(benches) > len(available):
            raise InputError(f"--cores {len(benches)}: this machine has {len(available)}")
        for core, bench in zip(available, self._benches, strict=False):
            self._free.put((core, bench))
        self._pool = ThreadPoolExecutor(len(benches), initializer=self._settle)

    def _settle(self) -> None:
        core, self._local.bench = self._free.get()
        if len(self._benches) > 1:
            os.sched_setaffinity(0, {core})  # of this thread, and so of what it starts

    def make(self, recording: Recording, jobs: Iterable[tuple[str, int, str, float]]) -> None:
        """Make runs (phase, number, arm, pace), in this order as cores become free."""

        def one(job: tuple[str, int, str, float]) -> None:
            _make(self._local.bench, recording, *job)

        list(self._pool.map(one, jobs))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for bench in self._benches:
            bench.close()


def record(cores: Cores, recording: Recording, pairs: int, seed: int) -> None:
    """Make the runs that are not recorded yet.

    Raises:
        InputError: if so many of the first runs fail that no difference can be planted.
    """
    cores.make(recording, [("floor", n, "same", 0.0) for n in range(REPEATS)])
    pace = 1000.0 / (PACED_SHARE * statistics.fmean(_rates(recording, "floor", "same")))
    cores.make(recording, [("floor", n, "paced", pace) for n in range(PLANTING_RUNS)])
    # of the time that a sample really took: the consumer is not all that it waited for
    taken = 1000.0 / statistics.fmean(_rates(recording, "floor", "paced"))
    slower = pace + 2 * noise_floor(recording, "paced") * taken
    paces = {"same": 0.0, "same_again": 0.0, "paced": pace, "slower": slower}
    jobs: list[tuple[str, int, str, float]] = []
    for number in range(pairs):
        order = list(ARMS)
        random.Random(f"{seed}:{number}").shuffle(order)
        jobs += [("round", number, arm, paces[arm]) for arm in order]
    cores.make(recording, jobs)


def _make(
    bench: Bench, recording: Recording, phase: str, number: int, arm: str, pace: float
) -> None:
    if (phase, number, arm) in recording.runs:
        return
    result = bench.run(pace)
    m = result.measurement
    run = Run(
        phase=phase,
        number=number,
        arm=arm,
        rate=m.samples_per_second if m else None,
        half=(m.within_high - m.within_low) / 2 if m else None,
        steady=m.steady if m else None,
        ms_per_sample=pace,
        failure=None if m else _common.why_failed(result),
    )
    recording.add(run)
    shown = run.failure if run.rate is None else f"{run.rate:.1f} samples/s"
    _common.say(f"{phase} {number + 1} {arm}: {shown}")


def _rates(recording: Recording, phase: str, arm: str) -> list[float]:
    rates = [r.rate for r in recording.of(phase, arm).values() if r.rate is not None]
    if not rates:
        raise InputError(f"{recording.path}: no {phase} run of {arm} gave a rate")
    return rates


def noise_floor(recording: Recording, arm: str) -> float:
    """The noise floor that a study would find with `REPEATS` runs whose spread is that of all runs
    before the rounds."""
    sd, _ = stats.between_run_sd([_rates(recording, "floor", arm)])
    return stats.noise_floor(sd, REPEATS - 1)


def evaluate(recording: Recording, seed: int) -> tuple[dict[str, Proportion], dict[str, float]]:
    """Every question with its share, and the figures behind them.

    Raises:
        InputError: if there are no rounds to ask.
    """
    first, second = recording.of("round", "same"), recording.of("round", "same_again")
    fast, slow = recording.of("round", "paced"), recording.of("round", "slower")
    null = [(first[n], second[n]) for n in sorted(first.keys() & second.keys())]
    planted = [(fast[n], slow[n]) for n in sorted(fast.keys() & slow.keys())]
    if len(null) < 2 or len(planted) < 2:
        raise InputError(f"{recording.path}: holds fewer than 2 whole rounds")
    every = [run for pair in null for run in pair]
    truth = statistics.geometric_mean([_rate(r) for r in every])
    answers: dict[str, list[bool]] = {}
    for number, pair in enumerate(null):
        sd, dof, within = _spread(_others(every, pair, f"{seed}:others:{number}"))
        for run in pair:
            _ask(answers, "published", _covers([run], truth, sd, dof, within))
        _ask(answers, "published_pair", _covers(pair, truth, sd, dof, within))
        a, b = _rate(pair[0]), _rate(pair[1])
        _ask(answers, "pair_false", not stats.rates_tie(a, b, stats.noise_floor(sd, dof)))
    start = list(recording.of("floor", "same").values())
    for number, run in sorted(first.items()):
        again = [second[n] for n in sorted(second) if n < number and n % DRIFT_EVERY == 0]
        _ask(answers, "published_study", _covers([run], truth, *_spread(start + again)))
    quick_runs = [quick for quick, _ in planted]
    for number, (quick, late) in enumerate(planted):
        sd, dof, _ = _spread(_others(quick_runs, [quick], f"{seed}:paced:{number}"))
        a, b = _rate(quick), _rate(late)
        tie = stats.rates_tie(a, b, stats.noise_floor(sd, dof))
        _ask(answers, "pair_power", a > b and not tie)
    _comparisons(answers, null, planted)
    figures = {
        "samples_per_second": truth,
        "noise_floor": noise_floor(recording, "same"),
        "sd_between_runs": stats.between_run_sd([[_rate(r) for r in every]])[0],
        "paced_noise_floor": noise_floor(recording, "paced"),
        "planted_difference": planted_difference(recording, planted),
        "measured_difference": statistics.geometric_mean([_rate(a) / _rate(b) for a, b in planted])
        - 1,
        "failed_runs": float(sum(r.rate is None for r in recording.runs.values())),
    }
    shares = {name: Proportion(sum(hits), len(hits)) for name, hits in answers.items()}
    return shares, figures


def planted_difference(recording: Recording, planted: Sequence[tuple[Run, Run]]) -> float:
    """What the slower consumer adds to the time that a sample took before the rounds, as a share
    of that time."""
    quick, late = planted[0]
    added = late.ms_per_sample - quick.ms_per_sample
    return added / 1000.0 * statistics.fmean(_rates(recording, "floor", "paced"))


def _others(runs: Sequence[Run], but: Sequence[Run], seed: str) -> list[Run]:
    """`REPEATS` runs of the same configuration, drawn from all but some."""
    others = [run for run in runs if run not in but]
    return random.Random(seed).sample(others, min(REPEATS, len(others)))


def _comparisons(
    answers: dict[str, list[bool]],
    null: Sequence[tuple[Run, Run]],
    planted: Sequence[tuple[Run, Run]],
) -> None:
    """Rounds taken together as the blocks of `autotune compare`, one after the other."""
    size = stats.FIRST_BLOCKS
    for question, pairs in (("compare_false", null), ("compare_power", planted)):
        for start in range(0, len(pairs) - size + 1, size):
            blocks = pairs[start : start + size]
            ratio = stats.sequential_ratio(
                [_rate(a) for a, _ in blocks], [_rate(b) for _, b in blocks]
            )
            called = ratio.significant if question == "compare_false" else ratio.low > 1
            _ask(answers, question, called)


def _ask(answers: dict[str, list[bool]], question: str, answer: bool) -> None:
    answers.setdefault(question, []).append(answer)


def _rate(run: Run) -> float:
    assert run.rate is not None, "only runs with a rate are asked"
    return run.rate


def _spread(runs: Sequence[Run]) -> tuple[float, float, float]:
    sd, dof = stats.between_run_sd([[_rate(r) for r in runs]])
    halves = [r.half / _rate(r) for r in runs if r.half is not None]
    return sd, dof, stats.usual_within(halves)


def _covers(runs: Sequence[Run], truth: float, sd: float, dof: float, within: float) -> bool:
    halves = [r.half for r in runs if r.half is not None and math.isfinite(r.half)]
    low, high = stats.published_interval([_rate(r) for r in runs], halves, sd, dof, within)
    return low <= truth <= high


def document(shares: Mapping[str, Proportion], figures: Mapping[str, float]) -> dict[str, Any]:
    """JSON-able."""
    return {"shares": {k: s.document() for k, s in shares.items()}, "figures": dict(figures)}
