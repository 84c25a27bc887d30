"""How long a killed driver's study stands still until it goes on.

    python -m experiments.benchmarks.resume [--clips DIR] [--rounds 5] [-o resume.json]

`autotune launch` runs a study over real clips; its driver is killed with SIGKILL while a trial is
measured, and the same command is started again at once. Counted is from that start to the first
worker of another trial, which is after the lease was taken over, the dead trial cleared and the
node looked at. Once with each executor: Ray is started anew, as its head died with the driver or
is not to be trusted. Goal: at most 10 s.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from autotune.exceptions import AutotuneError
from autotune.storage import Database
from autotune.system import processes
from autotune.trial import STUDY_MARK, TRIAL_MARK
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

GOAL_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.05
STUDY = "resume"
EXPERIMENT = {
    "baseline": {"subclip_duration": 0.5, "batch_size": 8},
    "budget": {"trials": 1000},
    "noise": {"runs": 0, "drift_every": 0},
    "measurement": {"min_seconds": 2, "max_seconds": 2, "repeats": 0},
    "verification": {"finalists": 0},
    "sampler": "random",
}


@dataclass(frozen=True)
class Resumed:
    """One kill and what followed."""

    executor: str
    seconds: float
    """From the start of the second driver to its first worker."""
    lost: int
    """Finished measurements that were there before the kill and are not after it."""


@dataclass
class Scene:
    """A study in a folder of its own, and the driver that runs it."""

    folder: Path
    executor: str
    driver: subprocess.Popen[bytes] | None = None

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder / 'autotune.db'}"

    def launch(self) -> None:
        """Start the driver."""
        with (self.folder / "log.txt").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "autotune", "launch", str(self.folder / f"{STUDY}.yaml"),
                 "--storage", self.storage, "--executor", self.executor],
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """End the driver alone, without a warning."""
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()

    def close(self) -> None:
        """Have the driver end; it saves what it has."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.send_signal(signal.SIGTERM)
            self.driver.wait()

    def finished(self) -> set[str]:
        """Finished measurements, by uuid."""
        with Database.open(self.storage) as database:
            made = database.measurements(database.get_study(STUDY).id)
        return {m.uuid for m in made if m.state == "finished"}

    def await_trials(self, number: int) -> None:
        """Return once so many measurements are finished.

        Raises:
            AutotuneError: if the driver ends, or nothing happens for too long.
        """
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up and self.driver is not None and self.driver.poll() is None:
            if (self.folder / "autotune.db").exists():
                try:
                    if len(self.finished()) >= number:
                        return
                except AutotuneError:
                    pass  # the study is not in the database yet
            time.sleep(0.5)
        raise AutotuneError(f"the study does not run: {(self.folder / 'log.txt').read_text()}")

    def measured_now(self, study: str) -> set[str]:
        """The trials of the study of which processes run."""
        found = (processes.environment_of(p) for p in processes.marked(STUDY_MARK, study))
        return {e[TRIAL_MARK] for e in found if e.get(TRIAL_MARK)}


def kill_and_resume(scene: Scene) -> Resumed:
    """Kill the driver in a trial, start it again, and count.

    Raises:
        AutotuneError: if the study does not go on.
    """
    before = scene.finished()
    scene.await_trials(len(before) + 2)
    with Database.open(scene.storage) as database:
        study = database.get_study(STUDY).uuid
    while not (running := scene.measured_now(study)):
        time.sleep(POLL_SECONDS)
    scene.kill()
    before = scene.finished()
    started = time.monotonic()
    scene.launch()
    while not scene.measured_now(study) - running:
        if time.monotonic() - started > PATIENCE_SECONDS:
            raise AutotuneError("the second driver did not go on with the study")
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    return Resumed(scene.executor, seconds, len(before - scene.finished()))


def run(executor: str, clips: Path, folder: Path, rounds: int) -> list[Resumed]:
    """So many kills of one study.

    Raises:
        AutotuneError: if the study does not run.
    """
    folder.mkdir()
    target = {"name": "spdl_video", "data_dir": str(clips), "device": "cpu"}
    document = {"target": target, **EXPERIMENT}
    (folder / f"{STUDY}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    scene = Scene(folder, executor)
    scene.launch()
    made = []
    try:
        scene.await_trials(1)
        for _ in range(rounds):
            made.append(kill_and_resume(scene))
            _common.say(f"{executor}: {made[-1].seconds:.1f} s")
    finally:
        scene.close()
    return made


def report(made: Sequence[Resumed]) -> str:
    """Median and range of each executor, as Markdown."""
    rows = []
    for executor in dict.fromkeys(r.executor for r in made):
        seconds = [r.seconds for r in made if r.executor == executor]
        lost = sum(r.lost for r in made if r.executor == executor)
        rows.append(
            [
                executor,
                len(seconds),
                f"{statistics.median(seconds):.1f}",
                f"{min(seconds):.1f} to {max(seconds):.1f}",
                lost,
                max(seconds) <= GOAL_SECONDS,
            ]
        )
    header = ["executor", "kills", "median s", "range s", "measurements lost", "goal met"]
    return _common.markdown_table(header, rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, resume, report; 0 where every study went on in time and nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--executors", default="local,ray")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    made: list[Resumed] = []
    with _common.scratch_folder("resume") as folder:
        clips, _ = linked_set(options.clips, folder / "clips")
        for executor in options.executors.split(","):
            made += run(executor, clips, folder / executor, options.rounds)
    text = report(made)
    print(text)
    if options.output is not None:
        document = {"machine": _common.machine_facts(), "kills": [asdict(r) for r in made]}
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0 if all(r.seconds <= GOAL_SECONDS and not r.lost for r in made) else 1


if __name__ == "__main__":
    sys.exit(main())
