"""`--live PATH` of `measure` and `soak`: what is measured publishes there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from autotune.cli.options import publishing_to
from autotune.publishing.publisher import LIVE_VARIABLE
from tests.studies import ROOT, Run, run

__all__ = ["run"]  # fixtures

LOADER = """
import torch

def own(batch_size=8):
    while True:
        yield torch.ones(batch_size, 3, 4, 8, 8, dtype=torch.uint8)
"""


def test_a_measurement_publishes_where_it_is_told_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(LIVE_VARIABLE, raising=False)
    (tmp_path / "endless.py").write_text(LOADER)
    (live := tmp_path / "live").mkdir()
    overrides = (
        "search_space={parameters: {batch_size: {values: [8, 16], default: 8}}}",
        "target.function=endless:own",
        f"target.working_dir={tmp_path}",
        "target.consumer={kind: paced, ms_per_step: 20}",
    )
    words = [word for text in overrides for word in ("--set", text)]
    done = run("measure", "python", "--max-time", "2s", "--live", str(live), *words)
    assert done.exit_code == 0, done.stderr
    lines = [
        json.loads(text) for file in live.glob("*.jsonl") for text in file.read_text().splitlines()
    ]
    assert sum(line["samples"] for line in lines) > 0
    assert LIVE_VARIABLE not in os.environ


@pytest.mark.parametrize("words", [("measure", "spdl_video"), ("soak", "spdl_video")])
def test_a_folder_that_is_not_there_is_named(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    data = ("--data-dir", str(tmp_path))
    done = run(*words, *data, "--live", str(tmp_path / "nowhere" / "live"))
    assert done.exit_code == 2
    assert "--live:" in done.stderr
    assert "there is no folder" in " ".join(done.stderr.split())


def test_it_stands_in_for_the_variable_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIVE_VARIABLE, "elsewhere")
    monkeypatch.chdir(tmp_path)
    with publishing_to(Path("live")):
        assert os.environ[LIVE_VARIABLE] == str(tmp_path / "live")
    assert os.environ[LIVE_VARIABLE] == "elsewhere"
    with publishing_to(None):
        assert os.environ[LIVE_VARIABLE] == "elsewhere"
