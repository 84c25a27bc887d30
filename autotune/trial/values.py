"""The types that all values share: a parameter's scalar, the frozen base, a trial's marks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str
"""A parameter's value. bool stands first, so that pydantic does not turn it into an int."""

Params = dict[str, Scalar]

TRIAL_MARK = "AUTOTUNE_TRIAL"
"""Environment variable that every process of a trial carries: the measurement's uuid."""

STUDY_MARK = "AUTOTUNE_STUDY"
"""Environment variable that every process of a trial carries: the study's uuid."""


class Value(BaseModel):
    """Base of all values: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
