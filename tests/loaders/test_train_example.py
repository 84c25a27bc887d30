"""The training example, with the winner of a real study, by the commands it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made_clips import write_clips

ROOT = Path(__file__).resolve().parents[2]

EXPERIMENT = """
target:
  name: spdl_video
  data_dir: clips
  device: cpu
  num_frames: 4
  frame_size: [32, 32]
  subclip_duration: 0.5
  batch_size: 2
search_space:
  base: spdl_video
  parameters:
    num_decode_threads: {max: 2, default: 1}
    batch_size: {values: [2], default: 2}
enqueue:
  - {num_decode_threads: 2, process_mode: subprocess}
budget: {trials: 2}
measurement: {min_seconds: 0.3, max_seconds: 0.6, repeats: 0}
noise: {runs: 0, drift_every: 0}
verification: {finalists: 0}
executor: {kind: local}
"""


def run(folder: Path, *words: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOTUNE", "LD_LIBRARY"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_it_trains_an_epoch_with_what_the_study_found(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    (tmp_path / "study.yaml").write_text(EXPERIMENT)
    run(tmp_path, "-m", "autotune", "launch", "study.yaml")
    script = str(ROOT / "experiments" / "train_example.py")
    out = run(tmp_path, script, "study", "--data-dir", str(clips), "--epochs", "2")
    first, *epochs = out.splitlines()
    assert re.fullmatch(r"trial \d: --num-fetch-threads .*", first)
    assert len(epochs) == 2
    for number, line in enumerate(epochs):
        found = re.fullmatch(
            rf"epoch {number}: 6 samples, ([\d.]+) samples/s, last loss ([\d.]+)", line
        )
        assert found, line
        assert float(found[1]) > 0
