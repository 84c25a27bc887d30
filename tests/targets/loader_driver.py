"""Runs loaders in a process that finds its FFmpeg, and says what came out of them.

Usage: loader_driver.py SCENARIOS (JSON). Prints one JSON list: an answer a scenario. A scenario
with "hold" builds a loader, prints its processes, and waits until it is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from typing import Any

import psutil

from autotune.exceptions import AutotuneError
from autotune.targets.base import BuildContext
from autotune.targets.spdl_video import SpdlVideo
from autotune.trial import ConsumerSpec, TrialSpec


def children() -> list[psutil.Process]:
    """Processes below this one, without multiprocessing's own, which end with this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        line = " ".join(process.cmdline())
        is_server = "forkserver" in line and process.ppid() == os.getpid()
        if not is_server and "resource_tracker" not in line:
            found.append(process)
    return found


def digest(sample: Any) -> str:
    """Of a sample [C, T, H, W], float in 0..1 or uint8, as its bytes [T, H, W, C] in 0..255."""
    import torch

    if sample.dtype == torch.float32:
        assert 0.0 <= float(sample.min()) <= float(sample.max()) <= 1.0
        sample = (sample * 255).round().to(torch.uint8)
    return hashlib.sha1(sample.permute(1, 2, 3, 0).contiguous().numpy().tobytes()).hexdigest()


def run(scenario: dict[str, Any]) -> dict[str, Any]:
    """One loader, its batches, and what is left of it."""
    spec = TrialSpec(
        uuid="u",
        study="s",
        target="spdl_video",
        params=scenario.get("params", {}),
        settings=scenario.get("settings", {}),
        data_dir=scenario["data_dir"],
        manifest=scenario.get("manifest"),
        seed=scenario.get("seed", 0),
        consumer=ConsumerSpec(**scenario.get("consumer", {})),
    )
    answer: dict[str, Any] = {"labels": [], "digests": [], "unique": [], "dtypes": []}
    loader: Any = None
    names: list[str] = []
    threads = threading.active_count()
    try:
        context = BuildContext(spec, scenario.get("rank", 0), scenario.get("world", 1))
        loader = SpdlVideo().build(context)
        names = segments(loader)
        if "hold" in scenario:
            hold(loader)
        if scenario.get("readback", True):
            answer["readback"] = loader.readback()
        batches = iter(loader)
        for step in range(scenario.get("batches", 1)):
            batch = next(batches)
            loader.on_epoch_or_step(step)
            assert batch.samples == len(batch.video) == len(batch.label)
            assert batch.frames == batch.samples * batch.video.shape[2]
            assert batch.decoded_frames >= batch.unique_frames
            answer["labels"] += batch.label.tolist()
            answer["digests"] += [digest(sample) for sample in batch.video]
            answer["unique"].append(batch.unique_frames)
            answer["dtypes"].append(str(batch.video.dtype))
            if scenario.get("kill_child_after") == step:
                for child in children():
                    child.kill()
        answer["prefetched"] = loader.prefetched_batches
        answer["stages"] = [stage.model_dump() for stage in loader.stage_stats()]
        answer["again"] = [stage.tasks for stage in loader.stage_stats()]
        if scenario.get("idle"):  # fills every queue, so that all threads are blocked
            time.sleep(scenario["idle"])
        answer["versions"] = loader.versions()
    except (AutotuneError, RuntimeError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    finally:
        if loader is not None:
            count, clips = loader.failed()
            answer["failed"] = {"count": count, "clips": {c.name: c.cause for c in clips}}
            start = time.monotonic()
            loader.close()
            loader.close()
            answer["close_seconds"] = time.monotonic() - start
            answer["after_close"] = list(loader)
    answer["children"] = [child.pid for child in children()]
    own = {"QueueFeederThread"}  # daemons of multiprocessing's that end by themselves
    deadline = time.monotonic() + 5
    while left := [t.name for t in threading.enumerate()[threads:] if t.name not in own]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    answer["threads"] = left
    answer["segments"] = [name for name in names if os.path.exists(f"/dev/shm/{name}")]
    return answer


def segments(loader: Any) -> list[str]:
    """Names of the shared memory that a loader made."""
    backend = loader._built.backend
    arena = backend.arena if backend is not None else None
    return [] if arena is None else [arena._ctrl_name, *arena._seg_names]


def hold(loader: Any) -> None:
    """Say who runs, then wait for SIGKILL."""
    next(iter(loader))
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    print(json.dumps({"pids": pids, "segments": segments(loader)}), flush=True)
    time.sleep(600)


def main() -> None:
    print(json.dumps([run(scenario) for scenario in json.loads(sys.argv[1])]), flush=True)


if __name__ == "__main__":
    main()
