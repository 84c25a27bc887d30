"""What a slot hands over to the driver, without Ray."""

from __future__ import annotations

import threading
import time

import pytest

from autotune.executors import ray_slot
from autotune.executors.ray_slot import Slot
from autotune.trial import TrialResult


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> Slot:
    """One that measures ``u``."""
    monkeypatch.setattr(ray_slot, "_assigned_gpus", list)
    monkeypatch.setattr(ray_slot.processes, "offer_to_the_kernel", lambda score: None)
    made = Slot({}, None)
    made._uuid = "u"
    return made


def happen(slot: Slot, *events: str, result: TrialResult | None = None) -> threading.Thread:
    """Events, one after the other, and the result at their end."""

    def run() -> None:
        for event in events:
            time.sleep(0.02)
            with slot._news:
                slot._events.append(event)
                slot._news.notify_all()
        with slot._news:
            slot._result = result
            slot._news.notify_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_events_that_follow_each_other_are_one_answer(slot: Slot) -> None:
    thread = happen(slot, "a", "b", "c", "d")
    events, result = slot.poll("u", 30.0)
    thread.join()
    assert events == ["a", "b", "c", "d"]
    assert result is None


def test_a_result_waits_for_nothing(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_slot, "_BATCH_SECONDS", 3600.0)
    ended = TrialResult(uuid="u", state="stopped")
    thread = happen(slot, "a", "b", result=ended)
    events, result = slot.poll("u", 3600.0)
    thread.join()
    assert events == ["a", "b"]
    assert result is not None
    assert TrialResult.model_validate_json(result) == ended


def test_another_measurement_is_not_answered_for(slot: Slot) -> None:
    with pytest.raises(RuntimeError, match="this slot measures u, not v"):
        slot.poll("v", 0.0)
