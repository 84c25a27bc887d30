"""What happens on a node around the measurements: probes that are killed, folders left behind."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

import pytest

from autotune.executors.node import probe_node
from autotune.supervision.cleanup import end_leftovers, make_scratch
from autotune.trial import ProbeRequest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def request_of(tmp_path: Path, **settings: str) -> ProbeRequest:
    return ProbeRequest(
        study=uuid.uuid4().hex,
        target="experiments.benchmarks.faulty:Faulty",
        params={"number": 0},
        settings=settings,
        cache_dir=str(tmp_path),
    )


def test_a_probe_that_is_killed_is_made_again(tmp_path: Path) -> None:
    once = tmp_path / "killed-once"
    info = probe_node(request_of(tmp_path, fault="sigkill", when="start", once=str(once)))
    assert info.error is None
    assert once.exists()


def test_a_probe_that_is_killed_twice_says_so(tmp_path: Path) -> None:
    info = probe_node(request_of(tmp_path, fault="sigkill", when="start"))
    assert "ended without an answer (signal 9)" in (info.error or "")


def test_folders_of_a_dead_drivers_trials_are_removed_and_others_kept() -> None:
    study, other = uuid.uuid4().hex, uuid.uuid4().hex
    left, kept = make_scratch(study, uuid.uuid4().hex), make_scratch(other, uuid.uuid4().hex)
    assert left is not None
    assert kept is not None
    assert os.path.dirname(left) in (tempfile.gettempdir(), "/tmp")
    Path(left, "file").write_bytes(b"x")
    try:
        end_leftovers(study)
        assert not os.path.exists(left)
        assert os.path.exists(kept)
    finally:
        end_leftovers(other)
    assert not os.path.exists(kept)
