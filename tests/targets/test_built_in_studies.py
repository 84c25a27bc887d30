"""One short study of each built-in target besides `spdl_video` on real clips, by the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.manifest import scan

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "clips" / "real"

STUDY: dict[str, Any] = {
    "budget": {"trials": 2},
    "measurement": {"min_seconds": 0.5, "max_seconds": 1.0, "repeats": 0},
    "noise": {"runs": 0, "drift_every": 0},
    "verification": {"finalists": 0},
    "executor": {"kind": "local"},
    "sampler": "grid",
}
WORK: dict[str, Any] = {
    "num_frames": 4,
    "frame_size": [64, 64],
    "subclip_duration": 0.5,
    "batch_size": 8,
}
SEARCHED: dict[str, tuple[str, list[Any]]] = {
    "torch_dataloader": ("num_workers", [0, 1]),
    "prefetch_cache": ("num_threads", [1, 2]),
    "frames": ("reader", ["dataloader", "spdl_threads"]),
}


def study(target: str) -> dict[str, Any]:
    """An experiment that searches one parameter of the target, all others at their defaults."""
    name, values = SEARCHED[target]
    space = {"parameters": {name: {"values": values, "default": values[0]}}}
    return {"target": {"name": target, **WORK}, "search_space": space, **STUDY}


@pytest.mark.long
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the test clips in {CLIPS}")
@pytest.mark.parametrize("target", SEARCHED)
def test_a_study_on_real_clips(tmp_path: Path, target: str) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(target)))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = CLIPS
    if target == "frames":
        data = tmp_path / "frames"
        run("clips", "extract", str(CLIPS), str(data), "--size", "64")
    run("launch", "study.yaml", "--data-dir", str(data))
    trials = json.loads(run("trials", "study", "-f", "json"))
    name, values = SEARCHED[target]
    assert [t["state"] for t in trials] == ["COMPLETE"] * 2
    assert [t["params"][name] for t in trials] == values
    assert all(t["fps"] == pytest.approx(4 * t["samples_per_second"]) for t in trials)
    told = json.loads(run("status", "study", "-f", "json"))["data"]
    assert told["clips"] == len(scan(CLIPS))
    assert (told["extraction"] is not None) == (target == "frames")
    if target == "frames":
        assert told["bytes"] == sum(
            path.stat().st_size for path in data.rglob("*/*") if path.suffix in (".jpg", ".json")
        )
        assert told["extraction"]["frames"] == len(list(data.rglob("*.jpg")))
        shown = run("status", "study")
        assert f"{told['extraction']['frames']:,} frames, extracted in " in shown
