"""A disk that is really full: one message, and nothing is lost after space is made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.studies import ROOT


def namespaces_are_allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not namespaces_are_allowed(), reason="a file system in a user namespace is not allowed here"
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("full")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-m", "tests.faults.full_disk", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_study_that_fills_its_disk_says_so_and_loses_nothing(found: dict[str, Any]) -> None:
    study = found["study"]
    message, state = study["said"]
    assert message.startswith("StorageError: storage ")
    assert "the disk (or the quota) is full while" in message
    assert "free space on it, then launch the study again" in message
    assert state == "finished"
    assert sorted(study["stored"]) == sorted(study["measured"])
    assert len(study["measured"]) == 6, "none was measured twice"
    assert study["waiting"] == []


@pytest.mark.parametrize(
    ("case", "says"),
    [("made", "is full"), ("opened", "is full"), ("read_only", "read-only")],
)
def test_a_launch_on_such_a_disk_is_refused_at_once(
    found: dict[str, Any], case: str, says: str
) -> None:
    refused = found[case]
    assert refused["status"] == 2
    [line] = refused["stderr"].splitlines()
    assert line.startswith("Error: storage ")
    assert says in line
    assert refused["seconds"] < 60
