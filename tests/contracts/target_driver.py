"""Runs loaders of any target in a process started as the target asks, and says what came out.

Usage: target_driver.py SCENARIOS (JSON). Prints one JSON list: an answer a scenario. A scenario
names a target and its params, and may give settings, data_dir, seed, rank, world and batches; with
"signal" its first child process gets that signal after the first batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"num_frames": 8, "frame_size": [32, 48]}


def run_scenarios(target: str, *scenarios: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers of a fresh process; called by the tests. Asserts that nothing is left behind."""
    from autotune.plugins import load_target

    asked = load_target(target).environment({}, {})
    process = subprocess.run(
        [sys.executable, __file__, json.dumps([{"target": target, **s} for s in scenarios])],
        env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answers: list[dict[str, Any]] = json.loads(process.stdout.splitlines()[-1])
    for answer in answers:
        assert answer["children"] == [], answer["children"]
        assert answer["threads"] == [], answer["threads"]
        assert answer["segments"] == [], answer["segments"]
        assert answer["after_close"] == 0
        assert answer.get("close_seconds", 0.0) < 15.0
    return answers


def digest(sample: Any) -> str:
    """Of a sample [C, T, H, W], float in 0..1 or uint8, as its bytes [T, H, W, C] in 0..255."""
    import torch

    if sample.dtype == torch.float32:
        sample = (sample * 255).round().to(torch.uint8)
    return hashlib.sha1(sample.permute(1, 2, 3, 0).contiguous().numpy().tobytes()).hexdigest()


def children() -> list[Any]:
    """Processes below this one, without multiprocessing's own, which end with this one."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
            is_server = "forkserver" in line and process.ppid() == os.getpid()
        except psutil.Error:  # it ended meanwhile
            continue
        if not is_server and "resource_tracker" not in line and line:
            found.append(process)
    return found


def segments() -> set[str]:
    """Shared memory with a name that this process or one below it uses."""
    found = set()
    for pid in [os.getpid(), *(child.pid for child in children())]:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        found |= {line[line.index("/dev/shm/") :] for line in lines if "/dev/shm/" in line}
    return {name for name in found if not name.endswith(" (deleted)")}


def run(scenario: dict[str, Any]) -> dict[str, Any]:
    """One loader, its batches, and what is left of it."""
    from autotune.exceptions import MeasurementFailed
    from autotune.plugins import load_target
    from autotune.targets.base import BuildContext
    from autotune.trial import TrialSpec

    target = load_target(scenario["target"])
    small = {name: value for name, value in SMALL.items() if name in target.Settings.model_fields}
    spec = TrialSpec(
        uuid="u",
        study="s",
        target=target.name,
        params=scenario.get("params", {}),
        settings={**small, **scenario.get("settings", {})},
        data_dir=scenario.get("data_dir"),
        seed=scenario.get("seed", 0),
    )
    answer: dict[str, Any] = {"labels": [], "digests": [], "batches": []}
    own_threads = {thread.ident for thread in threading.enumerate()}
    loader: Any = None
    used: set[str] = set()
    try:
        loader = target.build(BuildContext(spec, scenario.get("rank", 0), scenario.get("world", 1)))
        answer["readback"] = loader.readback()
        expected = target.expected(spec)
        answer["expected"] = None if expected is None else expected.model_dump()
        batches = iter(loader)
        used = segments()
        for step in range(scenario.get("batches", 1)):
            batch = next(batches)
            loader.on_epoch_or_step(step)
            if batch.video is not None:  # a loader of the user's own hands on none
                answer["labels"] += batch.label.tolist()
                answer["digests"] += [digest(sample) for sample in batch.video]
            answer["batches"].append(about(batch))
            if step == 0 and "signal" in scenario:
                os.kill(children()[0].pid, scenario["signal"])
        answer["stages"] = [stage.model_dump() for stage in loader.stage_stats()]
        answer["again"] = sum(stage.tasks for stage in loader.stage_stats())
        answer["versions"] = loader.versions()
        accounts = loader.accounts()
        answer["accounts"] = None if accounts is None else [accounts.handed_out, accounts.capacity]
    except MeasurementFailed as error:
        answer["error"] = error.failure.model_dump()
    except Exception as error:
        answer["error"] = {"kind": type(error).__name__, "cause": str(error)}
    answer["failed"], answer["after_close"] = None, 0
    if loader is not None:
        count, clips = loader.failed()
        answer["failed"] = {"count": count, "clips": {c.name: c.cause for c in clips}}
        start = time.monotonic()
        loader.close()
        loader.close()
        answer["close_seconds"] = time.monotonic() - start
        answer["after_close"] = len(list(loader))
    answer |= leftovers(own_threads, used)
    return answer


def about(batch: Any) -> dict[str, Any]:
    """A batch's form, where it is known, and its counts."""
    counts = {
        "samples": batch.samples,
        "frames": batch.frames,
        "unique": batch.unique_frames,
        "decoded": batch.decoded_frames,
    }
    if batch.video is None:
        return counts
    return {
        **counts,
        "shape": list(batch.video.shape),
        "dtype": str(batch.video.dtype).removeprefix("torch."),
        "device": batch.video.device.type,
        "contiguous": batch.video.is_contiguous(),
        "low": float(batch.video.min()),
        "high": float(batch.video.max()),
        "labels": [str(batch.label.dtype), *batch.label.shape],
    }


def leftovers(own_threads: set[int | None], used: set[str]) -> dict[str, list[str]]:
    """What a closed loader left; daemons of multiprocessing's that end by themselves may take a
    moment."""
    deadline = time.monotonic() + 5.0
    while True:
        threads = [t.name for t in threading.enumerate() if t.ident not in own_threads]
        left = {
            "threads": [name for name in threads if name != "QueueFeederThread"],
            "children": [str(child.pid) for child in children()],
            "segments": sorted(name for name in used if os.path.exists(name)),
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def main() -> None:
    answers = [run(scenario) for scenario in json.loads(sys.argv[1])]
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
