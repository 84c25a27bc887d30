"""What an executor is: it runs measurements on slots, one at a time per slot.

    executor.start(probe)  -> [NodeInfo, ...]     once a launch: probe each node, clean up leftovers
    executor.submit(spec)  -> Job                 takes a free slot
    job.result(timeout)    -> TrialResult
    executor.close()

Found by name through the entry point group ``autotune.executors``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from autotune.trial import Event, NodeInfo, ProbeRequest, TrialResult, TrialSpec

OnEvent = Callable[[str, Event], None]
"""Called with the measurement's uuid and each event of its worker; from any thread."""


class Job(ABC):
    """One measurement under way."""

    uuid: str
    node: str

    @abstractmethod
    def done(self) -> bool:
        """Whether `result` would return at once."""

    @abstractmethod
    def result(self, timeout: float | None = None) -> TrialResult:
        """Wait for the outcome. A failure of the executor itself comes back as a result of kind
        ``infrastructure``, never as an exception.

        Raises:
            TimeoutError: if it is not there after ``timeout`` seconds.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the measurement now; its result has the state ``stopped``."""


class Executor(ABC):
    """Runs measurements, one at a time per slot."""

    slots: int

    @classmethod
    @abstractmethod
    def create(
        cls, *, address: str | None, slots_per_node: int, on_event: OnEvent | None = None
    ) -> Executor:
        """An executor as the experiment's ``executor`` section says.

        Args:
            address: of a running cluster; None for this machine.
            slots_per_node: measurements at a time on a node; above 1 they disturb each other.
            on_event: called with every event of every measurement.
        """

    @abstractmethod
    def start(self, probe: ProbeRequest) -> list[NodeInfo]:
        """Bring the slots up, end leftovers of the study on each node, and probe each node."""

    @abstractmethod
    def submit(self, spec: TrialSpec, node: str | None = None) -> Job:
        """Start a measurement on a free slot (of ``node`` if given).

        Raises:
            RuntimeError: if no slot is free: a caller keeps count.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop what runs and release the slots. Idempotent."""
