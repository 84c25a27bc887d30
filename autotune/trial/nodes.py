"""What a node is asked before its first measurement, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autotune.trial.values import Params, Scalar, Value

PROBE_SECONDS = 900.0
"""Listing and reading a large data set takes its time."""


class ProbeRequest(Value):
    """What a node is asked before its first measurement (`worker --probe`)."""

    study: str
    target: str
    params: Params
    """The baseline configuration: what it needs must be there (e.g. a GPU for nvdec)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    data_dir: str | None = None
    cache_dir: str
    """Where the manifest is written."""
    page_cache: Literal["auto", "warm", "cold"] = "auto"
    """``measurement.page_cache`` of the experiment: the files that a measurement can touch are
    read into memory or evicted, and where that is not possible the study is refused."""
    max_seconds: float = 30.0
    """``measurement.max_seconds``: how much a measurement can touch."""
    seed: int = 0
    timeout_seconds: float = Field(PROBE_SECONDS, gt=0)
    """The answer is waited for so long."""


class UnavailableValue(Value):
    """A parameter's value that a node cannot run, whatever the other parameters are."""

    parameter: str
    value: Scalar
    reason: str
    """Why, with the remedy."""


class Fingerprint(Value):
    """What a figure depends on besides the configuration; hashed without volatile parts."""

    machine: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)


class NodeInfo(Value):
    """What a node answered: its fingerprint, its data and the names expressions can use."""

    node: str
    fingerprint: Fingerprint
    names: dict[str, Scalar]
    """``cpu_count``, ``gpu_count``, ``memory_gib``: of the measuring node; GPUs those of one of
    its slots."""
    manifest: str | None = None
    """Path of the manifest file on that node."""
    page_cache: Literal["warm", "cold"] | None = None
    """The state of the files that every measurement on that node begins with; None without."""
    manifest_hash: str | None = None
    num_samples: int = 0
    """Data set size, for the epoch time."""
    warnings: list[str] = Field(default_factory=list)
    unavailable: list[UnavailableValue] = Field(default_factory=list)
    """Values that this node cannot run: they are left out of the search."""
    suspects: list[str] | None = Field(default_factory=list)
    """Parameters of which what is measured shows no sign; None where it cannot be looked for (see
    `Target.suspects`)."""
    error: str | None = None
    """Set when the node cannot measure this; ``error_kind`` says whose fault it is."""
    error_kind: Literal["input", "unsupported"] | None = None
