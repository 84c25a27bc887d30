"""Steps done, by the numbers of the steps that a command prints."""

from __future__ import annotations

from autotune.exceptions import MeasurementFailed
from autotune.trial import Failure

_LATE = 3
"""Strides that a line of another rank may be behind: the ranks of a job wait for each other."""

_EARLY = 2
"""Strides into an epoch that its first line may come: lines may be printed by the clock."""


class StepCounter:
    """Step numbers to steps done.

    A number falls for two reasons of opposite effect: an epoch begins, and all of the new number
    are steps done; or a rank prints a little later than another one, and none is. They are told
    apart by strides, the most that the number has risen from one line to the next: a counter that
    began anew is few of them above 0, a late line is few of them below the last one.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._stride = 0.0
        self._epoch_end: float | None = None
        """The highest number of the epoch before."""
        self.late_lines = 0
        """Lines with a number that was passed before, as of ranks that print too."""

    @property
    def began(self) -> bool:
        """Whether there was a line; how many steps came before the first is not known."""
        return self._last is not None

    def advance(self, number: float) -> float:
        """Steps done since the line before; 0 for the first, and for one that adds none.

        Raises:
            MeasurementFailed: if the number falls, and neither an epoch nor a late rank is why.
        """
        last = number if self._last is None else self._last
        if number >= last and not self._is_of_the_epoch_before(number, last):
            self._stride = max(self._stride, number - last)
            self._last = number
            return number - last
        if number >= last or self._is_late(number, last):
            self.late_lines += 1
            return 0.0
        if not self._may_begin_an_epoch(number):
            raise self._unexplained(number, last)
        self._last, self._epoch_end = number, last
        return number

    def _may_begin_an_epoch(self, number: float) -> bool:
        return number <= _EARLY * max(self._stride, 1.0)

    def _may_end_an_epoch(self, number: float) -> bool:
        """Epochs are of one length, as far as there was one."""
        return self._epoch_end is None or number >= self._epoch_end - _LATE * self._stride

    def _is_late(self, number: float, last: float) -> bool:
        if self._stride == 0.0:  # nothing has risen yet, so nothing says how far an epoch goes
            return True
        is_new = self._may_begin_an_epoch(number) and self._may_end_an_epoch(last)
        return number >= last - _LATE * self._stride and not is_new

    def _is_of_the_epoch_before(self, number: float, last: float) -> bool:
        """Whether it is no leap of this epoch, but a rank that has not begun it."""
        end = self._epoch_end
        leaps = number - last > self._stride
        return leaps and end is not None and self._may_end_an_epoch(number) and number <= end

    def _unexplained(self, number: float, last: float) -> MeasurementFailed:
        cause = (
            f"target.regex: the group step fell from {last:g} to {number:g}, and it rose by at "
            f"most {self._stride:g} before: an epoch would begin with a smaller number, and a rank "
            "that is late would be closer"
        )
        advice = (
            "Let one rank print, or name the rank with a group (?P<rank>\\d+), so that each is "
            "counted by itself; and let the expression match the training's own steps alone."
        )
        return MeasurementFailed(Failure(kind="start_up", cause=cause, advice=advice))
