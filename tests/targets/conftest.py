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
from tests.made_clips import write_clips

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


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    folder = ROOT.parent / "shared" / "clips"
    if not (folder / "real").is_dir():
        pytest.skip(f"needs the test clips, and there is no {folder}")
    return folder
