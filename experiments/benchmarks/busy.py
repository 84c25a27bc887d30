"""Does a machine that is busy for part of the time change what a study finds?

    python -m experiments.benchmarks.busy [--clips DIR] [-o busy.json]

The same small study runs twice over the same clips: once with nothing else on the machine, once
beside a process that spins on one core, on and off at seeded random times. The answer is good
if both end with the same verified winner. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from autotune.config import Experiment
from autotune.exceptions import AutotuneError
from autotune.storage import Database
from autotune.study.launching import launch_experiment
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

ON_SECONDS = (4.0, 20.0)
OFF_SECONDS = (8.0, 30.0)
"""Bounds of the lengths of a busy and of an idle stretch, drawn anew for each."""

VARIED = ("num_workers", "persistent_workers")


@dataclass(frozen=True)
class Found:
    """What one of the two studies found."""

    machine: str
    """``idle`` or ``busy``."""
    state: str
    reason: str
    winner: Params
    verified: bool
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    measurements: int
    repeated: int
    """Measurements made again because they were disturbed."""
    marked: int
    """Disturbed measurements that stand, marked."""
    noise_floor: float | None
    busy_share: float
    """Share of the study's time in which the other process spun."""


class _Neighbour:
    """A process that spins on one core, on and off."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.busy_seconds = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._random.uniform(*OFF_SECONDS)):
            spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            seconds = self._random.uniform(*ON_SECONDS)
            try:
                self._end.wait(seconds)
            finally:
                spinner.kill()
                spinner.wait()
            self.busy_seconds += seconds


@contextmanager
def _neighbour(busy: bool, seed: int) -> Iterator[_Neighbour | None]:
    if not busy:
        yield None
        return
    neighbour = _Neighbour(seed)
    neighbour.start()
    try:
        yield neighbour
    finally:
        neighbour.stop()


def experiment(clips: Path, seed: int) -> Experiment:
    """A grid of five configurations with one clear optimum; the baseline has no worker.

    Epochs are short, so workers that start anew in each cost much. There is nothing in the space
    that hardly matters: which of two equals wins is a coin's toss on any machine.

    Raises:
        InputError: if the clips or the search space do not fit.
    """
    return Experiment.from_dict(
        {
            "target": {
                "name": "torch_dataloader",
                "data_dir": str(clips),
                "ranks": 1,
                "epoch_batches": 6,
                "subclip_duration": 0.5,
                "batch_size": 8,
                "decoder": "pyav",
                "prefetch_factor": 2,
                "multiprocessing_context": "fork",
                "in_order": True,
                "torch_threads": 1,
                "decoder_threads": 1,
                "worker_affinity": "none",
                "pin_memory": False,
                "transform_device": "cpu",
                "wire_dtype": "float32",
                "layout": "copy",
            },
            "search_space": {
                "base": "torch_dataloader",
                "parameters": {"num_workers": {"values": [0, 1, 2], "default": 0}},
            },
            "baseline": {"num_workers": 0},
            "sampler": "grid",
            "budget": {"trials": 5},
            "noise": {"runs": 5, "drift_every": 0},
            "measurement": {"min_seconds": 3, "max_seconds": 5},
            "verification": {"finalists": 3, "blocks": 8, "min_blocks": 6},
            "executor": {"kind": "local"},
            "seed": seed,
        }
    )


def run(machine: str, clips: Path, folder: Path, seed: int) -> Found:
    """One of the two studies.

    Raises:
        AutotuneError: if the study cannot be run.
    """
    storage = f"sqlite:///{folder / machine}.db"
    with _neighbour(machine == "busy", seed) as neighbour:
        outcome = launch_experiment(experiment(clips, seed), storage=storage, study_name=machine)
    with Database.open(storage) as database:
        record = database.get_study(machine)
        made = database.measurements(record.id)
        verifications = database.verifications(record.id)
        if not verifications:
            raise AutotuneError(f"the {machine} study verified nothing: {outcome.reason}")
        last = verifications[-1]
        winner = database.trial(record.id, last.trial_number)
    contaminated = Counter(m.superseded for m in made if m.contaminated)
    return Found(
        machine=machine,
        state=outcome.state,
        reason=outcome.reason,
        winner={name: winner.params[name] for name in VARIED},
        verified=last.verified,
        ratio=last.ratio,
        ratio_low=last.ratio_low,
        ratio_high=last.ratio_high,
        measurements=len(made),
        repeated=sum(m.superseded for m in made),
        marked=contaminated[False],
        noise_floor=(record.noise or {}).get("floor"),
        busy_share=(neighbour.busy_seconds / record.elapsed_seconds if neighbour else 0.0),
    )


def report(found: Sequence[Found]) -> str:
    """Both studies side by side, as Markdown."""
    rows = [
        [
            f.machine,
            f"{f.busy_share:.0%}",
            ", ".join(f"{name}={value}" for name, value in f.winner.items()),
            f.verified,
            f"{f.ratio:.2f} ({f.ratio_low:.2f} to {f.ratio_high:.2f})" if f.ratio else None,
            f.measurements,
            f.repeated,
            f.marked,
            None if f.noise_floor is None else f"{f.noise_floor:.1%}",
        ]
        for f in found
    ]
    header = ["machine", "busy", "winner", "verified", "gain", "measurements", "repeated"]
    table = _common.markdown_table([*header, "marked", "noise floor"], rows)
    answer = "yes" if agree(found) else "no"
    return f"{table}\n\nThe same verified winner: **{answer}**.\n"


def agree(found: Sequence[Found]) -> bool:
    """Whether all studies verified the same winner."""
    return all(f.verified for f in found) and len({tuple(f.winner.items()) for f in found}) == 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run both studies; 0 where they agree on a verified winner, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    with _common.scratch_folder("busy") as folder:
        clips, _ = linked_set(options.clips, folder / "clips")
        found = [run(machine, clips, folder, options.seed) for machine in ("idle", "busy")]
    text = report(found)
    print(text)
    if options.output is not None:
        document = {"machine": _common.machine_facts(), "studies": [asdict(f) for f in found]}
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0 if agree(found) else 1


if __name__ == "__main__":
    sys.exit(main())
