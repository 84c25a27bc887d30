"""Small clips, and loaders run in processes of their own (see loader_driver)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.media.native import library_environment

DRIVER = Path(__file__).with_name("loader_driver.py")
ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., list[dict[str, Any]]]


def start(scenarios: list[dict[str, Any]], **options: Any) -> subprocess.Popen[str]:
    """A driver under way."""
    environment = {**os.environ, **library_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(DRIVER), json.dumps(scenarios)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="session")
def start_driver() -> Callable[..., subprocess.Popen[str]]:
    return start


@pytest.fixture(scope="session")
def run_loaders() -> Run:
    """Runs scenarios in one process; nothing may appear on its stderr."""

    def run(*scenarios: dict[str, Any]) -> list[dict[str, Any]]:
        process = start(list(scenarios), stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err == ""
        answers: list[dict[str, Any]] = json.loads(out)
        for answer in answers:
            assert answer["children"] == []
            assert answer["threads"] == []
            assert answer["segments"] == []
            assert answer.get("after_close", []) == []
        return answers

    return run


def write_clip(path: Path, seed: int, frames: int = 18, rate: int = 12) -> None:
    """A clip of 96x64 pixels with B frames, whose frames all differ."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 5 * i, axis=1), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of 1.5 s in three classes."""
    root = tmp_path_factory.mktemp("clips")
    for seed in range(7):
        write_clip(root / f"class_{seed % 3}" / f"clip_{seed}.mp4", seed)
    return root


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    folder = ROOT.parent / "shared" / "clips"
    if not (folder / "real").is_dir():
        pytest.skip(f"needs the test clips, and there is no {folder}")
    return folder
