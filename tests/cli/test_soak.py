"""`autotune soak` on the command line: what it refuses, what it says, its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.soak import _line_text, _lines, _status, _verdict
from autotune.soak import SoakFigures
from tests.studies import ROOT, Run

LOADER = """
import time
import torch

def build(batch_size=8):
    while True:
        time.sleep(0.02)
        yield torch.ones(batch_size, 3, 2, 8, 8, dtype=torch.uint8)
"""


def figures(**changes: Any) -> dict[str, Any]:
    holds = {"verdict": "holds", "percent_per_hour": -0.31, "low": -1.1, "high": 0.5}
    memory = {"verdict": "holds", "mib_per_minute": 0.02, "low": -0.1, "high": 0.14}
    worst = {"seconds": 300.0, "samples_per_second": 130.5, "memory_mib": 790.0}
    fields: dict[str, Any] = {
        "target": "spdl_video",
        "flags": "--num-demux-threads 3",
        "study": None,
        "trial": None,
        "holds": True,
        "seconds": 7200.0,
        "seconds_asked": 7200.0,
        "samples": 1_036_800,
        "samples_per_second": 144.0,
        "rate": holds,
        "memory": memory,
        "mib_per_1000_batches": 0.1,
        "memory_mib": 812.0,
        "peak_memory_mib": 840.0,
        "failed": 0,
        "worst": worst | {"processes": 2, "failed": 0},
        "growing": [],
        "interrupted": False,
        "failure": None,
        "log_tail": "",
        "file": "soak.jsonl",
    }
    return SoakFigures.model_validate(fields | changes).model_dump(mode="json")


def shown(row: dict[str, Any]) -> dict[str, str]:
    return {line.header: line.cell(row) for line in _lines()}


LEAK = {
    "verdict": "grows",
    "mib_per_minute": 12.1,
    "low": 11.8,
    "high": 12.4,
    "hours_left": 3.25,
    "hours_left_low": 3.1,
    "hours_left_high": 3.4,
}
GROWING = {
    "kind": "torch.Tensor [3, 4, 64, 64] float32 cpu",
    "holders": ["my_loader.Retain.kept (list of 812)"],
    "where": ["DataLoader worker 0", "DataLoader worker 1"],
    "count": 812,
    "bytes": 159645696,
    "grown_count": 700,
    "grown_bytes": 137625600,
    "seconds": 600.0,
    "age_seconds": 290.0,
}


def test_what_holds_is_said_with_its_intervals() -> None:
    text = shown(figures())
    assert text["rate"] == "holds: -0.3 %/h (-1.1 to +0.5)"
    assert text["memory"].endswith("holds: +0.02 MiB/min (-0.10 to +0.14)")
    assert text["worst interval"] == "130 samples/s until 5 min"
    assert text["verdict"] == "holds"
    assert _status(figures()) == 0


def test_a_line_of_a_long_run_tells_its_second_and_what_failed() -> None:
    sample = {"samples_per_second": 144.2, "memory_mib": 1812.4, "processes": 3, "failed": 0}
    line = _line_text(18 * 60 + 32.9, 36_000.0, sample)
    assert line == "0:18:32 of 10:00:00: 144 samples/s, 1,812 MiB, processes: 3"
    unknown = sample | {"memory_mib": None, "failed": 2}
    line = _line_text(18 * 60 + 32.9, 36_000.0, unknown)
    assert line == "0:18:32 of 10:00:00: 144 samples/s, 2 failed samples"


def test_a_leak_is_said_with_its_rate_the_hours_left_and_who_holds_it() -> None:
    row = figures(
        holds=False, memory=LEAK, growing=[GROWING], mib_per_1000_batches=22.4, interrupted=True
    )
    text = shown(row)
    assert (
        "grows: +12.10 MiB/min (+11.80 to +12.40), memory ends in 3.2 h (3.1 to 3.4)"
        in (text["memory"])
    )
    assert "22.40 MiB per 1,000 batches" in text["memory"]
    assert "torch.Tensor [3, 4, 64, 64] float32 cpu: +700 (131 MiB) in 10 min" in text["growing"]
    assert "held by my_loader.Retain.kept (list of 812)" in text["growing"]
    assert text["verdict"] == "does not hold so far: memory grows"
    assert _status(row) == 130
    assert _status(row | {"interrupted": False}) == 1


def test_what_cannot_be_told_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    short = {"verdict": "too_short"}
    row = figures(holds=None, rate=short, memory=short, worst=None)
    assert _verdict(row) == "too short to tell of rate and memory"
    assert _status(row) == 1
    failed = figures(holds=False, failure={"kind": "hang", "cause": "no event for 30 s"})
    assert _verdict(failed) == "does not hold: it failed"
    assert shown(failed)["failed"] == ""
    assert shown(failed | {"failed": 3})["failed"] == "3 samples"
    assert _status(failed) == 1
    assert "it failed (hang): no event for 30 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spdl_video", "--for", "30s"], "--for: 30s is too short to tell"),
        (["spdl_video", "--for", "2"], "--for: '2' is not a duration"),
        (["spdl_video", "--for", "2m", "--interval", "1m"], "--interval: 1m leaves fewer than 4"),
        (["no_study", "--for", "2h"], "no study 'no_study'"),
        (["spdl_vide --num-demux-threads 3"], "WHAT: there is no target 'spdl_vide'"),
        (["'"], 'WHAT: "\'" cannot be read'),
        (["spdl_video --num-demux 3", "--data-dir", "."], "--num-demux"),
    ],
)
def test_bad_input_is_one_message(
    run: Run, make_study: Any, words: list[str], message: str
) -> None:
    make_study("study")
    done = run("soak", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path().glob("soak-*.jsonl"))


@pytest.mark.long
def test_ctrl_c_ends_with_the_verdict_so_far(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(LOADER)
    command = [sys.executable, "-m", "autotune", "soak", "python", "--interval", "1s"]
    command += ["--set", "target.function=slow:build", "--set", f"target.working_dir={tmp_path}"]
    space = "search_space={parameters: {batch_size: {values: [8], default: 8}}}"
    command += ["--set", space, "--output", "out.jsonl", "-f", "json"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first == "Runs for 2 h 00 min; a line every 1.0 s goes to out.jsonl.\n"
    for _ in range(2):  # two intervals
        line = process.stderr.readline()
        told = re.match(r"0:00:\d\d of 2:00:00: [\d.]+ samples/s, ", line)
        assert told, line + process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    result = json.loads(out)
    assert result["interrupted"] is True
    assert result["samples"] > 0
    assert result["holds"] is None
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines][:3] == ["start", "sample", "sample"]
    assert lines[-1] == result
