"""What several test modules need around the synthetic targets."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.system import processes
from autotune.trial import STUDY_MARK, TRIAL_MARK, TrialSpec

FOLDER = str(Path(__file__).parent)
ROOT = str(Path(__file__).parents[2])


def specification(**changes: Any) -> TrialSpec:
    """A short measurement of `synthetic:Steady`: 4 samples every 10 ms."""
    fields: dict[str, Any] = {
        "uuid": uuid.uuid4().hex,
        "study": uuid.uuid4().hex,
        "target": "synthetic:Steady",
        "params": {"batch_size": 4, "num_threads": 1},
        "measurement": {
            "min_seconds": 0.4,
            "max_seconds": 1.5,
            "relative_half_width": 0.2,
            "window_seconds": 0.1,
        },
        "limits": {"startup_seconds": 40, "silence_seconds": 20, "shutdown_seconds": 10},
    }
    fields.update(changes)
    return TrialSpec.model_validate(fields)


def marked(spec: TrialSpec) -> list[int]:
    """Everything that is left of a measurement or of its study."""
    trial = processes.marked(TRIAL_MARK, spec.uuid)
    return sorted({*trial, *processes.marked(STUDY_MARK, spec.study)})


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether a condition comes true within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
