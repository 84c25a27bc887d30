"""Proves the NVDEC path on this machine: `make gpu-check`.

    python -m experiments.benchmarks.gpu_check [--clips DIR] [--minutes 9]

Writes gpu_check_<gpu>_<date>.json and .md to the folder named by OUT (experiments/results/ by
default), after every section: what was found out before the time is up, or before something
crashes, is on disk. Needs no Ray. Exit status: 0 no section failed, 1 one did, 2 no GPU here. A
section for which the time did not suffice is `partial`, and names what it left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.exceptions import InputError
from autotune.media.native import library_environment
from autotune.system import machine
from autotune.trial import Params
from experiments.benchmarks import _common, gpu_presence, gpu_report, gpu_sweep

BAD_INPUT = 2
STUDY_SHARE = 0.35
"""Of the whole time, kept for the study."""


class Check:
    """One run: sections in order, each recorded, none ending the others."""

    def __init__(self, options: argparse.Namespace, folder: Path, scratch: Path) -> None:
        self._options = options
        self._scratch = scratch
        self._began: float = time.monotonic()
        self._deadline: float = self._began + 60 * options.minutes
        self._clips: Path | None = options.clips
        self._runner: _common.Runner | None = None
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[Params] = []
        """Configurations of the sweep that are still to be measured."""
        gpus = machine.find_gpus()
        name = slug(gpus[0]["name"] if gpus else "gpu")
        self.path = folder / f"gpu_check_{name}_{_common.today()}.json"
        self.document: dict[str, Any] = {
            "benchmark": "gpu_check",
            "date": _common.today(),
            "machine": _common.machine_facts(),
            "options": {k: str(v) for k, v in vars(options).items()},
            "sections": {},
        }

    def run(self) -> bool:
        """Every section; whether none failed."""
        self._waiting, rest = gpu_sweep.plan()
        before_study = self._deadline - STUDY_SHARE * 60 * self._options.minutes
        self._section("gpu", self._gpu)
        self._section("clips", self._make_clips)
        self._section("decode", self._decode)
        if self._odd_clips() is not None:
            self._section("odd", self._odd)
        self._section("threads", lambda: self._threads(before_study))
        self._section("study", self._study)
        self._waiting += rest
        self._section("threads", lambda: self._threads(self._deadline - 5))
        return all(s["status"] != "failed" for s in self.document["sections"].values())

    def partial(self) -> list[str]:
        """The sections for which the time did not suffice."""
        sections = self.document["sections"].items()
        return [name for name, section in sections if section["status"] == "partial"]

    def _section(self, name: str, work: Callable[[], Mapping[str, Any]]) -> None:
        _common.say(f"== {name} ({self.left():.0f} s left)")
        began = time.monotonic()
        try:
            found = {"status": "ok", **work()}
        except Exception as error:  # recorded, and the next section runs: that is the purpose
            found = {
                **self.document["sections"].get(name, {}),  # what it had found before it failed
                "status": "failed",
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc()[-3000:],
                "libraries": gpu_presence.libraries(),
            }
            _common.say(found["error"])
        earlier = self.document["sections"].get(name, {}).get("seconds", 0.0)
        found["seconds"] = round(earlier + time.monotonic() - began, 1)
        self.document["sections"][name] = found
        self.document["seconds"] = round(time.monotonic() - self._began, 1)
        self.save()

    def save(self) -> None:
        """Write both files."""
        _common.write_json(self.path, self.document)
        text = gpu_report.report(self.document)
        self.path.with_suffix(".md").write_text(text, encoding="utf-8")

    def left(self) -> float:
        """Seconds until the time is up."""
        return max(0.0, self._deadline - time.monotonic())

    # ------------------------------------------------------------------ the sections

    def _gpu(self) -> Mapping[str, Any]:
        facts = gpu_presence.gpu_facts()
        self.document["sections"]["gpu"] = {"status": "unfinished", **facts}
        self.save()
        capabilities = self._child("capabilities", 60.0)
        status = "failed" if "error" in capabilities or facts["libraries"]["missing"] else "ok"
        return {**facts, "capabilities": capabilities, "status": status}

    def _make_clips(self) -> Mapping[str, Any]:
        from experiments.benchmarks.clip_sets import linked_set

        made = self._clips is None
        if self._clips is None and _common.SHARED_CLIPS.is_dir():
            self._clips, made = _common.SHARED_CLIPS, False
        if self._clips is None:
            from autotune.media.clips import make_clips

            self._clips = self._scratch / "made"
            make_clips(self._clips, count=12, classes=4)
        data, note = self._clips, ""
        try:
            data, names = linked_set(self._clips, self._scratch, count=256)
        except InputError as error:
            names, note = [], str(error)
        self._runner = _common.Runner(data, self._scratch)
        self._runner.prewarm()
        return {
            "made": made,
            "compared": str(self._clips),
            "measured": names or "the folder as it is",
            "files": len(self._runner.manifest),
            "note": note,
        }

    def _decode(self) -> Mapping[str, Any]:
        if self._clips is None:
            raise InputError("there are no clips to compare: see the section before")
        seconds = min(120.0, 0.25 * self.left())
        found = self._child("compare", seconds, "--clips", str(self._clips.absolute()))
        return {**found, **gpu_report.judge_decoding(found)}

    def _odd_clips(self) -> Path | None:
        """The folder beside the clips with ones that NVDEC may refuse, if there is one."""
        folder = None if self._clips is None else self._clips.absolute().parent / "odd"
        return folder if folder is not None and folder.is_dir() else None

    def _odd(self) -> Mapping[str, Any]:
        seconds = min(60.0, 0.1 * self.left())
        found = self._child("odd", seconds, "--clips", str(self._odd_clips()))
        return {**found, **gpu_report.judge_odd(found)}

    def _threads(self, deadline: float) -> Mapping[str, Any]:
        if self._runner is None:
            raise InputError("there are no clips to measure on: see the section before")
        self._waiting = gpu_sweep.sweep(
            self._runner, self._waiting, self._rows, deadline, self._options.seconds
        )
        failed = [row for row in self._rows if "failure" in row]
        return {
            "rows": self._rows,
            "left_out": self._waiting,
            "status": gpu_report.verdict(bool(self._rows) and not failed, self._waiting),
        }

    def _study(self) -> Mapping[str, Any]:
        if self._runner is None:
            raise InputError("there are no clips to measure on: see the section before")
        return gpu_study(self._runner.data_dir, self._scratch, max(30.0, self.left() - 20.0))

    def _child(self, task: str, seconds: float, *arguments: str) -> dict[str, Any]:
        """Run a task of `gpu_decode` in its own process and read what it wrote.

        Raises:
            UnsupportedError: a library that NVDEC needs is missing.
        """
        output = self._scratch / f"{task}.json"
        environment = {**os.environ, **library_environment("bundled", "nvdec")}
        environment.setdefault("PYTHONFAULTHANDLER", "1")
        command = [sys.executable, "-m", "experiments.benchmarks.gpu_decode", task]
        command += ["-o", str(output), "--seconds", f"{seconds:.0f}", *arguments]
        ended: str | int
        log = self._scratch / f"{task}.log"
        with open(log, "wb") as stream:
            try:
                ended = subprocess.run(
                    command,
                    env=environment,
                    cwd=_common.REPOSITORY,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    timeout=seconds + 45.0,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                ended = f"killed after {seconds + 45.0:.0f} s"
        found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
        if ended != 0:
            found["error"] = f"the process ended with {ended}"
            found["log_tail"] = log.read_text(errors="replace")[-3000:]
        return found


def gpu_study(data: Path, scratch: Path, seconds: float, device: str = "nvdec") -> dict[str, Any]:
    """A short study with train_step through the `local` executor; stops when the time is up."""
    from autotune.config import Experiment
    from autotune.storage import Database
    from autotune.study.launching import launch_experiment
    from autotune.study.run import StopSignal

    model = "torchvision.models.video:r3d_18" if has_torchvision() else "autotune.models:small_r3d"
    experiment = Experiment.from_dict(
        {
            "target": {
                "name": "spdl_video",
                "data_dir": str(data),
                "device": device,
                "consumer": {"kind": "train_step", "model": model, "num_classes": 400},
            },
            "baseline": {"subclip_duration": 0.5},
            "budget": {"trials": 5, "hours": seconds / 3600},
            "measurement": {"min_seconds": 2, "max_seconds": 3},
            # All of it has to fit into minutes: a prior stands for the other runs.
            "noise": {"runs": 2},
            "verification": {"finalists": 1, "blocks": 4},
            "executor": {"kind": "local"},
        },
        where="gpu_check",
    )
    signal = StopSignal()
    timer = threading.Timer(seconds, signal.stop_now)
    timer.daemon = True
    timer.start()
    url = f"sqlite:///{scratch / 'gpu_check.db'}"
    try:
        outcome = launch_experiment(experiment, storage=url, study_name="gpu_check", signal=signal)
    finally:
        timer.cancel()
    with Database.open(url, create=False) as database:
        trials = database.trials(outcome.record.id)
        verifications = database.verifications(outcome.record.id)
    finished = [t for t in trials if t.samples_per_second is not None]
    # A trial that was stopped because the time was up is no failure of the NVDEC path.
    broken = [t for t in trials if t.failure is not None and t.failure.kind != "infrastructure"]
    return {
        "status": "ok" if finished and not broken else "failed",
        "model": model,
        "state": outcome.state,
        "reason": outcome.reason,
        "trials": [t.model_dump(mode="json") for t in trials],
        "verifications": [v.model_dump(mode="json") for v in verifications],
    }


def has_torchvision() -> bool:
    """Whether torchvision's video models can be imported: a wheel may not match its torch."""
    command = [sys.executable, "-c", "import torchvision.models.video"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def slug(name: str) -> str:
    """A GPU's name as part of a file name: ``NVIDIA H200`` -> ``nvidia_h200``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "gpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.gpu_check")
    p.add_argument("--clips", type=Path, help="clips to decode; made where none are given")
    p.add_argument("--minutes", type=float, default=9.0, help="wall time for all of it")
    p.add_argument("--seconds", type=float, default=3.0, help="length of a measurement")
    options = p.parse_args(argv)
    missing = gpu_presence.what_is_missing()
    if missing:
        for line in missing:
            _common.say(f"Error: gpu-check: {line}")
        return BAD_INPUT
    if options.clips is not None and not options.clips.is_dir():
        _common.say(f"Error: --clips {options.clips}: no such folder; give a folder of videos")
        return BAD_INPUT
    out = os.environ.get("OUT") or str(_common.REPOSITORY / "experiments" / "results")
    with _common.scratch_folder("gpu-check") as scratch:
        check = Check(options, Path(out), scratch)
        passed = check.run()
    print(check.path.with_suffix(".md").read_text())
    partial = f" (partial: {', '.join(check.partial())})" if check.partial() else ""
    _common.say(f"written: {check.path} and .md; {'passed' if passed else 'NOT passed'}{partial}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
