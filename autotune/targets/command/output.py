"""Steps out of what a command prints, by a regular expression with named groups.

``samples_per_second``
    The script's own rate since its last such line. The figure is the mean over time.
``samples``
    Samples since the last such line; with ``seconds``, the time they took by the script's clock.
``step``
    The number of the step; `samples_per_step` says what a step holds.
``seconds`` alone
    The time of one step by the script's clock; `samples_per_step` as above.
``rank``, with any of these
    Which rank of a distributed job printed the line. Each is counted by itself, and their samples
    are added up; `samples_per_step` is then of one rank.

Without ``samples_per_second`` and ``seconds``, the time is that at which a line arrives.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from autotune.exceptions import InputError, MeasurementFailed
from autotune.search_space.document import listed
from autotune.targets.command.counter import StepCounter
from autotune.targets.command.reports import Report
from autotune.trial import Failure

RANK = "rank"
GROUPS = ("samples_per_second", "samples", "step", "seconds", RANK)

_FORMS = (("samples_per_second",), ("samples",), ("samples", "seconds"), ("step",), ("seconds",))
"""Groups that tell a rate together."""

_LINE_END = re.compile(rb"[\r\n]+")
_MAX_LINE = 65536
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


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
    figures = groups - {RANK}
    if not figures:
        raise InputError(
            f"{where}: {text!r} has no named group that tells a rate. Name what it finds, e.g. "
            r"'(?P<samples_per_second>[\d.]+) samples/s'. "
            f"Accepted: {listed(GROUPS)}"
        )
    if figures not in map(set, _FORMS):
        accepted = "; ".join(" and ".join(form) for form in _FORMS)
        raise InputError(
            f"{where}: the groups {' and '.join(sorted(figures))} together tell no rate: whether "
            "one belongs to a step or to all since the last line is not known. Accepted: "
            f"{accepted}; each also with rank. Write (?:...) around what is not to be read"
        )
    if not figures & {"samples_per_second", "samples"} and not has_step_size:
        raise InputError(
            f"{where}: {listed(sorted(figures))} alone does not tell samples. Give "
            "target.samples_per_step, a number or an expression such as batch_size * 8"
        )
    return pattern


class _Series:
    """The matching lines of one rank, or of all where the expression has no group ``rank``."""

    def __init__(self, samples_per_step: float | None) -> None:
        self._per_step = samples_per_step or 0.0
        self._last_time: float | None = None
        self._owed = 0.0
        self.steps = StepCounter()

    def report(self, values: Mapping[str, float], now: float, rank: int) -> Report | None:
        """What a line tells; None if it is about a step that was counted before."""
        began = self.steps.began
        samples = self._samples(values, now)
        if began and samples == 0.0 and "step" in values:
            return None
        self._last_time = now
        # a rate times a time is no whole number: what is cut off is owed to the next report
        whole = max(0, round(samples + self._owed))
        self._owed += samples - whole
        return Report(now, whole, rank=rank)

    def _samples(self, values: Mapping[str, float], now: float) -> float:
        """Samples since the last line."""
        elapsed = 0.0 if self._last_time is None else now - self._last_time
        if "samples_per_second" in values:
            return values["samples_per_second"] * elapsed
        if "step" in values:
            return self._per_step * self.steps.advance(values["step"])
        samples = values.get("samples", self._per_step)
        if "seconds" not in values:
            return samples
        return samples / values["seconds"] * elapsed if values["seconds"] > 0 else 0.0


class OutputLines:
    """Bytes that a command prints to reports."""

    def __init__(self, pattern: re.Pattern[str], samples_per_step: float | None) -> None:
        self._pattern = pattern
        self._rest = b""
        self._series: defaultdict[int, _Series] = defaultdict(lambda: _Series(samples_per_step))
        self.lines = 0
        """Lines seen, empty ones left out."""
        self.last_line = ""

    def take(self, data: bytes, now: float) -> Iterator[Report]:
        """The reports of the lines that end in ``data``; a carriage return ends one too, for
        progress bars.

        Raises:
            MeasurementFailed: if what a group found is no number, or the steps make no series.
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
            if found is None:
                continue
            values = _numbers(found.groupdict(), line)
            rank = int(values.pop(RANK, 0))
            report = self._series[rank].report(values, now, rank) if values else None
            if report is not None:
                yield report

    def warnings(self) -> list[str]:
        """What a user should know of the lines that were counted."""
        late = sum(series.steps.late_lines for series in self._series.values())
        if not late:
            return []
        return [
            "target.regex: a step was printed after a later one, as where several ranks print; "
            "such lines count no step. Let one rank print, or name it with a group (?P<rank>\\d+)"
        ]


def _numbers(found: Mapping[str, str | None], line: str) -> dict[str, float]:
    """What the groups found; those that took no part in the match are left out.

    Raises:
        MeasurementFailed: if one is no number, with the remedy.
    """
    return {name: _number(name, text, line) for name, text in found.items() if text is not None}


def _number(name: str, text: str, line: str) -> float:
    try:
        value = float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        value = math.nan
    if 0.0 <= value < math.inf and (name != RANK or value == int(value)):
        return value
    advice = r"Let the group match digits and a point only: [\d.]+"
    if "," in text:
        advice = (
            "A comma is read between thousands alone (1,234.5): let the script print a point "
            "before decimals, e.g. by LC_ALL=C in target.environment"
        )
    kind = "whole number" if name == RANK else "number"
    raise MeasurementFailed(
        Failure(
            kind="start_up",
            cause=f"target.regex: the group {name} found {text!r} in {line[:200]!r}, which is no "
            f"{kind} from 0 on",
            advice=advice,
        )
    )
