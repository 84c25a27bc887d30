"""A driver whose database fails, that is ousted, interrupted or killed: what was measured stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import launching
from autotune.exceptions import StorageError
from autotune.storage import Retry
from autotune.trial import TrialResult, TrialSpec
from tests.fakes import FakeExecutor, FakeJob
from tests.launches import experiment, launch, records, surface, url

__all__ = ["experiment", "url"]  # fixtures

HURRIED = Retry(attempts=3, first_delay=0.02, disk=True)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that gives its database up after a fraction of a second."""
    monkeypatch.setattr(launching, "PATIENT", HURRIED)


class SlowJob(FakeJob):
    """Ends so many seconds after it began."""

    def __init__(self, spec: TrialSpec, result: TrialResult, seconds: float) -> None:
        super().__init__(spec, result)
        self._end = time.monotonic() + seconds

    def done(self) -> bool:
        return time.monotonic() >= self._end

    def result(self, timeout: float | None = None) -> TrialResult:
        left = self._end - time.monotonic()
        time.sleep(max(0.0, left if timeout is None else min(left, timeout)))
        if not self.done():
            raise TimeoutError
        return super().result()


class SlowExecutor(FakeExecutor):
    """Measurement number ``slow`` (from 0) takes ``seconds``; ``meanwhile`` is called first."""

    def __init__(self, slow: int, seconds: float, meanwhile: Callable[[], object]) -> None:
        super().__init__(surface)
        self._slow, self._seconds, self._meanwhile = slow, seconds, meanwhile

    def submit(self, spec: TrialSpec, node: str | None = None) -> FakeJob:
        job = super().submit(spec, node)
        if spec.mode != "loader" or len(self.specs) - 1 != self._slow:
            return job
        self._meanwhile()
        return SlowJob(spec, job.result(), self._seconds)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("slow", "role"), [(0, "baseline"), (2, "search"), (9, "verification")])
def test_a_result_in_flight_outlives_a_database_that_is_out(
    experiment: dict[str, Any], url: str, tmp_path: Path, slow: int, role: str
) -> None:
    path, away = tmp_path / "autotune.db", tmp_path / "away.db"
    executor = SlowExecutor(slow, 3.0, lambda: path.rename(away))
    with pytest.raises(StorageError, match="the file is gone"):
        launch(experiment, url, executor)
    last = executor.specs[-1].uuid
    assert len(executor.specs) == slow + 1
    away.rename(path)
    again = FakeExecutor(surface)
    assert launch(experiment, url, again).state == "finished"
    _, trials, measurements, _ = records(url)
    assert [m.role for m in measurements if m.uuid == last] == [role]
    assert len([t for t in trials if t.samples_per_second is not None]) == 8
    # 8 trials and 8 runs of the verification, none of them made twice
    assert len(executor.specs) + len(again.specs) == 16
    assert len(measurements) == 16
