"""Every value that crosses a process boundary, as frozen pydantic models with JSON forms.

    driver --TrialSpec--> worker --Event, ...--> supervisor --TrialResult--> driver --> storage
    driver --ProbeRequest--> worker --NodeInfo--> driver: what a node is, before it measures

Units: seconds, bytes only where a name says so, GiB for memory, per cent for utilization.
Times inside events are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

from autotune.trial.events import (
    BuiltEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    FirstBatchEvent,
    GrowthEvent,
    PreparedEvent,
    PreparingEvent,
    SampleEvent,
    StartedEvent,
    WindowEvent,
    parse_event,
)
from autotune.trial.figures import (
    Contamination,
    Delivered,
    FailedClip,
    Growing,
    Measurement,
    MemoryTrend,
    RankFigures,
    Resources,
    StageCeiling,
    StageStats,
    Window,
)
from autotune.trial.nodes import (
    PROBE_SECONDS,
    Fingerprint,
    NodeInfo,
    ProbeRequest,
    UnavailableValue,
)
from autotune.trial.results import (
    Failure,
    FailureKind,
    TrialResult,
)
from autotune.trial.specification import (
    ConsumerSpec,
    Incumbent,
    Limits,
    MeasurementSettings,
    Mode,
    TrialSpec,
)
from autotune.trial.values import (
    STUDY_MARK,
    TRIAL_MARK,
    Params,
    Scalar,
    Value,
)

__all__ = [
    "PROBE_SECONDS",
    "STUDY_MARK",
    "TRIAL_MARK",
    "BuiltEvent",
    "ConsumerSpec",
    "Contamination",
    "Delivered",
    "Event",
    "FailedClip",
    "FailedEvent",
    "Failure",
    "FailureKind",
    "Fingerprint",
    "FinishedEvent",
    "FirstBatchEvent",
    "Growing",
    "GrowthEvent",
    "Incumbent",
    "Limits",
    "Measurement",
    "MeasurementSettings",
    "MemoryTrend",
    "Mode",
    "NodeInfo",
    "Params",
    "PreparedEvent",
    "PreparingEvent",
    "ProbeRequest",
    "RankFigures",
    "Resources",
    "SampleEvent",
    "Scalar",
    "StageCeiling",
    "StageStats",
    "StartedEvent",
    "TrialResult",
    "TrialSpec",
    "UnavailableValue",
    "Value",
    "Window",
    "WindowEvent",
    "parse_event",
]
