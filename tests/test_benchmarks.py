"""The benchmarks' own logic: what they say on a machine that cannot run them, and their helpers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autotune import machine
from experiments.benchmarks import _common
from experiments.benchmarks.contenders import contenders, goals
from experiments.benchmarks.gpu_check import Report, psnr

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(bool(machine.find_gpus()), reason="this machine has a GPU")
def test_gpu_check_says_what_is_missing_and_exits_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.benchmarks.gpu_check"],
        cwd=ROOT,
        env={**os.environ, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert any("no NVIDIA GPU" in line for line in said)
    assert any("libnvcuvid" in line for line in said)
    assert "| torch" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_psnr_is_the_textbooks() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + 255) == pytest.approx(0.0)
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-3)
    with pytest.raises(ValueError, match="shape"):
        psnr(black, black[:1])


def test_a_section_that_fails_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    report = Report(tmp_path, "NVIDIA H200", math.inf)

    def broken() -> tuple[object, str]:
        raise OSError("libnvcuvid.so.1 is missing")

    report.section("first", broken)
    report.section("second", lambda: ({"samples/s": 1}, "fine"))
    [document] = tmp_path.glob("gpu_check_nvidia_h200_*.json")
    assert "libnvcuvid.so.1 is missing" in document.read_text()
    assert '"samples/s": 1' in document.read_text()
    assert "fine" in document.with_suffix(".md").read_text()
    assert report.failed


def test_tables_and_goals_name_contenders_that_exist() -> None:
    table = _common.markdown_table(["a", "b"], [[1.5, "x|y"], [None, "z"]])
    assert table.splitlines()[1] == "| ---: | --- |"
    assert "x\\|y" in table
    for duration in (0.5, 2.0):
        names = {c.name for c in contenders(duration, cores=2)}
        for goal in goals(duration):
            assert {*goal.numerator, *goal.denominator} <= names
