"""A training script: started like any, without what a target asks of the environment.

Usage: training_driver.py SCENARIOS (JSON). Prints one JSON list, an answer a scenario. A scenario
names a function of `autotune.loaders`, data_dir, options and epochs; see `run`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"num_frames": 4, "frame_size": [32, 48], "subclip_duration": 0.5, "batch_size": 2}


def train(*scenarios: dict[str, Any], script: str = __file__) -> list[dict[str, Any]]:
    """Answers of a fresh process; called by the tests."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("LD_LIBRARY_PATH", None)
    process = subprocess.run(
        [sys.executable, script, json.dumps(scenarios)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answers: list[dict[str, Any]] = json.loads(process.stdout.splitlines()[-1])
    return answers


def run(scenario: dict[str, Any]) -> dict[str, Any]:
    """``epochs`` of a loader; ``break_after`` batches the first epoch ends; ``ask`` for what is
    known of it; ``forget`` leaves it open."""
    from autotune import loaders
    from autotune.exceptions import AutotuneError

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("autotune.loaders")
    log.addHandler(handler)
    answer: dict[str, Any] = {"epochs": []}
    try:
        options = {**SMALL, **scenario.get("options", {})}
        open_it = getattr(loaders, scenario["loader"])
        loader = open_it(scenario["data_dir"], **{k: v for k, v in options.items() if v != "-"})
    except AutotuneError as error:
        log.removeHandler(handler)
        return {"error": f"{type(error).__name__}: {error}"}
    answer |= {"len": len(loader), "classes": loader.classes}
    for epoch in range(scenario.get("epochs", 1)):
        labels: list[list[int]] = []
        for video, label in loader:
            labels.append(label.tolist())
            answer["shape"], answer["dtype"] = list(video.shape), str(video.dtype)
            if epoch == 0 and len(labels) == scenario.get("break_after"):
                break
        answer["epochs"].append(labels)
    answer["readback"] = loader.readback()
    answer["failed"] = {clip.name: clip.cause for clip in loader.failed()[1]}
    if not scenario.get("forget"):
        loader.close()
        loader.close()
        try:
            next(iter(loader))
        except RuntimeError as error:
            answer["after_close"] = str(error)
    else:
        globals()["forgotten"] = loader
    if scenario["loader"] == "spdl_video":
        from autotune.media.native import loaded_ffmpeg

        answer["ffmpeg"] = loaded_ffmpeg()["source"]
    log.removeHandler(handler)
    return answer | {"told": told}


if __name__ == "__main__":
    print(json.dumps([run(scenario) for scenario in json.loads(sys.argv[1])]), flush=True)
