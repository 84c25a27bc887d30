"""How a worker ended, decided by evidence: its last event, exit status, signals, kernel counters.

Never by what it printed: the same text means different things in different libraries.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field
from typing import Literal

from autotune.system import control_groups
from autotune.trial import Failure, FailureKind

ADVICE: dict[FailureKind, str] = {
    "start_up": "Run `autotune measure` with these flags to see the whole log.",
    "crash": (
        "The log tail shows where (`autotune trials STUDY -f json` has it); the configuration is "
        "left out of the ranking."
    ),
    "host_out_of_memory": (
        "Use fewer threads, smaller queues or a smaller batch, or give the machine (or the job, "
        "the container) more memory."
    ),
    "gpu_out_of_memory": "Use a smaller batch, fewer decode threads or smaller buffers.",
    "hang": (
        "Raise limits.startup_seconds or limits.silence_seconds if the pipeline is only slow."
    ),
    "deadline": "Raise measurement.max_seconds or the limits if the pipeline is only slow.",
    "data": "Remove or repair the clips named, or raise limits.max_failed_share.",
    "unsupported": "`autotune doctor` says what this machine lacks.",
    "contaminated": "Keep other programs off the machine while it measures.",
    "infrastructure": "The measurement is repeated; `autotune doctor` checks the executor.",
}
"""What to do about each kind of failure."""

Why = Literal[
    "exited",
    "preparation",
    "startup",
    "silence",
    "deadline",
    "garbage",
    "closed",
    "shutdown",
    "stopped",
    "limit",
]
"""What ended the supervision: the worker by itself, or the supervisor for a reason."""


@dataclass(frozen=True)
class MemoryKills:
    """Counters of processes that the kernel killed for memory."""

    machine: int
    groups: control_groups.MemoryEvents

    @classmethod
    def read(cls) -> MemoryKills:
        """The counters now; those that cannot be read are 0."""
        return cls(_machine_kills(), control_groups.MemoryEvents.read())

    def grew_since(self, before: MemoryKills) -> bool:
        """Whether the kernel killed for memory in between."""
        return self.machine > before.machine or self.groups.kills > before.groups.kills


@dataclass
class Evidence:
    """What the supervisor saw."""

    why: Why = "exited"
    exit_code: int | None = None
    last_event: str | None = None
    had_batch: bool = False
    failure: Failure | None = None
    """As the worker itself reported it."""
    garbage: bytes = b""
    limit_seconds: float = 0.0
    excess: Failure | None = None
    """The limit on resources that the trial was over."""
    memory_killed: bool = False
    """The kernel's out-of-memory counters grew while the trial ran."""
    full_group: control_groups.Limited | None = None
    """The control group that reached its limit of memory meanwhile."""
    outlived: list[str] = field(default_factory=list)


def judge(evidence: Evidence) -> Failure:
    """The failure of a measurement that neither finished nor was stopped."""
    failure = evidence.excess or evidence.failure or _from_ending(evidence)
    if _killed_for_memory(evidence) and failure.kind in ("crash", "start_up"):
        failure = Failure(
            kind="host_out_of_memory",
            cause=f"the kernel killed a process for lack of memory{_where_it_lacked(evidence)} "
            f"({failure.cause})",
        )
    if failure.advice:
        return failure
    return failure.model_copy(update={"advice": ADVICE[failure.kind]})


def _by_signal(evidence: Evidence) -> bool:
    return evidence.exit_code is not None and evidence.exit_code < 0


def _killed_for_memory(evidence: Evidence) -> bool:
    """Whether the kernel's counters speak of this trial: a process of it got SIGKILL and not
    from us, or the worker reports the loss of a child. Another signal, or a limit of ours, has
    nothing to do with what was killed elsewhere on the machine."""
    if not evidence.memory_killed or evidence.why != "exited":
        return False
    return not _by_signal(evidence) or evidence.exit_code == -signal.SIGKILL


def _where_it_lacked(evidence: Evidence) -> str:
    group = evidence.full_group
    if group is None:
        return ""
    return f": control group {group.folder} reached its limit of {group.limit / 2**30:.2f} GiB"


def _from_ending(evidence: Evidence) -> Failure:
    last = evidence.last_event or "none"
    limit = evidence.limit_seconds
    if evidence.why == "garbage":
        quoted = evidence.garbage[:200].decode(errors="replace")
        return Failure(kind="crash", cause=f"no event on the event pipe: {quoted!r}")
    if evidence.why == "closed":
        cause = f"the worker closed its event pipe without a result (last event: {last})"
        return Failure(kind="crash", cause=cause)
    if evidence.why == "preparation":
        return Failure(
            kind="infrastructure",
            cause=f"the files were not as measurement.page_cache asks within {limit:g} s",
            advice="Raise limits.preparation_seconds, or put the data on faster storage.",
        )
    if evidence.why == "startup":
        cause = f"no first batch within {limit:g} s (last event: {last})"
        return Failure(kind="hang", cause=cause)
    if evidence.why == "silence":
        return Failure(kind="hang", cause=f"no event for {limit:g} s (last event: {last})")
    if evidence.why == "deadline":
        cause = f"still measuring {limit:g} s after the first batch"
        return Failure(kind="deadline", cause=cause)
    return Failure(
        kind="crash" if evidence.had_batch or _by_signal(evidence) else "start_up",
        cause=_exit_cause(evidence, last),
    )


def _exit_cause(evidence: Evidence, last: str) -> str:
    code = evidence.exit_code
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the worker was killed by {name} (last event: {last})"
    return f"the worker exited with status {code} without a result (last event: {last})"


def _machine_kills() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0
