"""Steps out of what a command prints, by a regular expression with named groups.

``samples_per_second``
    The script's own rate since its last such line. The figure is the mean over time.
``samples``
    Samples since the last such line; with ``seconds``, the time they took by the script's clock.
``step``
    The number of the step; `samples_per_step` says what a step holds.
``seconds`` alone
    The time of one step by the script's clock; `samples_per_step` as above.

Without ``samples_per_second`` and ``seconds``, the time is that at which a line arrives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from autotune.exceptions import InputError, MeasurementFailed
from autotune.search_space.document import listed
from autotune.targets.command.reports import Report
from autotune.trial import Failure

GROUPS = ("samples_per_second", "samples", "step", "seconds")

_LINE_END = re.compile(rb"[\r\n]+")
_MAX_LINE = 65536


def checked_regex(text: str, has_step_size: bool, where: str = "target.regex") -> re.Pattern[str]:
    """The expression, compiled.

    Raises:
        InputError: if it is none, or its groups tell no rate.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"{where}: {text!r} is no regular expression: {error}. In YAML put it in single "
            "quotes, so that backslashes stay"
        ) from error
    groups = set(pattern.groupindex)
    for name in sorted(groups - set(GROUPS)):
        raise InputError(f"{where}: unknown group {name!r}. Accepted: {listed(GROUPS)}")
    if not groups:
        raise InputError(
            f"{where}: {text!r} has no named group. Name what it finds, e.g. "
            r"'(?P<samples_per_second>[\d.]+) samples/s'. "
            f"Accepted: {listed(GROUPS)}"
        )
    if not groups & {"samples_per_second", "samples"} and not has_step_size:
        raise InputError(
            f"{where}: {listed(sorted(groups))} alone does not tell samples. Give "
            "target.samples_per_step, a number or an expression such as batch_size * 8"
        )
    return pattern


class OutputLines:
    """Bytes that a command prints to reports."""

    def __init__(self, pattern: re.Pattern[str], samples_per_step: float | None) -> None:
        self._pattern = pattern
        self._per_step = samples_per_step
        self._rest = b""
        self._last_time: float | None = None
        self._last_step: float | None = None
        self._owed = 0.0
        self.lines = 0
        """Lines seen, empty ones left out."""
        self.matches = 0
        self.last_line = ""

    def take(self, data: bytes, now: float) -> Iterator[Report]:
        """The reports of the lines that end in ``data``; a carriage return ends one too, for
        progress bars.

        Raises:
            MeasurementFailed: if what a group found is no number.
        """
        *lines, self._rest = _LINE_END.split(self._rest + data)
        self._rest = self._rest[-_MAX_LINE:]
        for raw in lines:
            line = raw.decode(errors="replace").strip()
            if not line:
                continue
            self.lines += 1
            self.last_line = line
            found = self._pattern.search(line)
            if found is not None:
                self.matches += 1
                yield self._report(_numbers(found.groupdict(), line), now)

    def _report(self, values: Mapping[str, float], now: float) -> Report:
        samples = self._samples(values, now)
        self._last_time = now
        # a rate times a time is no whole number: what is cut off is owed to the next report
        whole = max(0, round(samples + self._owed))
        self._owed += samples - whole
        return Report(now, whole)

    def _samples(self, values: Mapping[str, float], now: float) -> float:
        elapsed = 0.0 if self._last_time is None else now - self._last_time
        if "samples_per_second" in values:
            return values["samples_per_second"] * elapsed
        samples = self._count(values)
        if "seconds" not in values:
            return samples
        return samples / values["seconds"] * elapsed if values["seconds"] > 0 else 0.0

    def _count(self, values: Mapping[str, float]) -> float:
        """Samples since the last line, by the script's own counts."""
        if "samples" in values:
            return values["samples"]
        per_step = self._per_step or 0.0
        if "step" not in values:
            return per_step
        last, self._last_step = self._last_step, values["step"]
        if last is None:  # how many steps came before is not known
            return 0.0
        steps = self._last_step - last
        return per_step * (steps if steps >= 0 else self._last_step)  # it began a new epoch


def _numbers(found: Mapping[str, str | None], line: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, text in found.items():
        if text is None:
            continue
        try:
            values[name] = float(text.replace(",", ""))
            if not 0.0 <= values[name] < math.inf:
                raise ValueError(text)
        except ValueError:
            raise MeasurementFailed(
                Failure(
                    kind="start_up",
                    cause=f"target.regex: the group {name} found {text!r} in {line[:200]!r}, "
                    "which is no number from 0 on",
                    advice=r"Let the group match digits and a point only: [\d.]+",
                )
            ) from None
    return values
