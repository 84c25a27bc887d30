"""NVDEC itself, on a machine that has it: `pytest -m gpu`.

`make gpu-check` compares every clip at several windows; this is the least of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.media.native import library_environment
from autotune.system import machine

GOAL_DB = 35.0

DECODE = """
import sys
from pathlib import Path

from autotune.media.demux import demux_window
from autotune.media.nvdec import decode_nvdec
from autotune.media.reference import decode_reference

path, start, duration = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
data = Path(path).read_bytes()
how = {"num_frames": 16, "width": 112, "height": 112}
clip = demux_window(data, path, start, duration, for_nvdec=True)
for _ in range(2):  # the second time with the decoder and the parser of the first
    decoded = decode_nvdec(clip, **how)
frames = decoded.frames.permute(0, 2, 3, 1).cpu().numpy().astype(float)
reference = decode_reference(data, path, start, duration, **how).frames.astype(float)
print(decoded.frames.device.type, ((frames - reference) ** 2).mean(axis=(1, 2, 3)).max())
"""


@pytest.fixture
def nvdec() -> dict[str, str]:
    """The environment in which SPDL finds NVDEC; skips where there is no GPU."""
    if not machine.find_gpus():
        if os.environ.get("AUTOTUNE_GPU") == "1":
            pytest.fail("AUTOTUNE_GPU=1 promises a GPU, and NVML finds none")
        pytest.skip("needs an NVIDIA GPU")
    return {**os.environ, **library_environment("bundled", "nvdec")}


@pytest.mark.gpu
@pytest.mark.parametrize("window", [(0.0, 0.5), (0.0, 2.0), (1.3, 0.5)])
def test_nvdecs_frames_are_the_references(
    window: tuple[float, float], nvdec: dict[str, str], clips_dir: Path
) -> None:
    # of the clips the one whose frames differ most
    clip = clips_dir / "real" / "arm_wrestling" / "arm_wrestling.mp4"
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(clip), *map(str, window)],
        env=nvdec, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    device, error = done.stdout.split()
    assert device == "cuda"
    assert float(error) <= 255**2 / 10 ** (GOAL_DB / 10)
