"""What is seen of a running study: a live view on a terminal, a line a measurement in a pipe.

The driver shares the machine with what it measures, so the view is cheap: events are only
noted, and the screen is drawn anew once a second.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.cli import figures
from autotune.cli.formatting import note, stderr_console
from autotune.study.observer import CEILING_PHASE, NO_STUDY, StudyObserver, StudyProgress
from autotune.trial import (
    BuiltEvent,
    Event,
    FirstBatchEvent,
    NodeInfo,
    Params,
    PreparedEvent,
    PreparingEvent,
    StartedEvent,
    TrialResult,
    WindowEvent,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REDRAW_SECONDS = 1.0
LAST_SHOWN = 4


def outcome_line(
    label: str,
    params: Params,
    result: TrialResult,
    interval: tuple[float, float] | None,
    num_samples: int,
    baseline: Params | None,
    phase: str = "",
) -> str:
    """One finished measurement in one line: its figures, or why it has none.

    Neither an epoch nor a configuration belongs to the rate of a ceiling: no loader made it.
    """
    if phase == CEILING_PHASE:
        return _ceiling_line(label, result, interval)
    changed = figures.changes(params, baseline)
    measured = result.measurement
    if result.state == "finished" and measured is not None and measured.stopped_early:
        at = figures.number(measured.samples_per_second)
        return f"{label}: stopped early at ~{at}/s; {changed}"
    if result.state == "finished" and measured is not None:
        low, high = interval if interval is not None else (None, None)
        rate = figures.rate(measured.samples_per_second, low, high)
        epoch = ""
        if num_samples and measured.samples_per_second > 0:
            epoch = f", epoch {figures.duration(num_samples / measured.samples_per_second)}"
        steady = "" if measured.steady else ", not steady"
        return f"{label}: {rate}{epoch}{steady}; {changed}"
    if result.state == "stopped":
        return f"{label}: stopped; {changed}"
    kind = result.failure.kind if result.failure is not None else "infrastructure"
    cause = result.failure.cause if result.failure is not None else "no result"
    return f"{label}: failed ({kind}): {cause}; {changed}"


def _ceiling_line(label: str, result: TrialResult, interval: tuple[float, float] | None) -> str:
    if result.state == "stopped":
        return f"{label}: stopped"
    if result.measurement is None:
        failure = result.failure
        return f"{label}: not measured" + (f": {failure.cause}" if failure else "")
    low, high = interval if interval is not None else (None, None)
    if result.measurement.stage_ceilings:  # the slowest stage's, of which there is no spread
        low = high = None
    return f"{label}: {figures.rate(result.measurement.samples_per_second, low, high)}"


class PlainObserver(StudyObserver):
    """Plain lines on stderr: one for each finished measurement."""

    def __init__(self, baseline: Params, on_started: Callable[[], None]) -> None:
        self._baseline = baseline
        self._on_started = on_started

    def study_started(
        self, name: str, resumed: bool, nodes: list[NodeInfo], searched: list[str], sampler: str
    ) -> None:
        self._on_started()
        note(started_line(name, resumed, nodes, searched, sampler))

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        line = outcome_line(
            label,
            params,
            result,
            interval,
            progress.num_samples,
            self._baseline,
            progress.phase,
        )
        note(f"[{done_text(progress)}] {line}")

    def note(self, message: str) -> None:
        note(message)


@dataclass
class _Current:
    """The measurement in flight, as far as its worker told."""

    label: str
    params: Params
    started: float
    stage: str = "starting"
    rate: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class _Shown:
    """Everything the view is drawn from."""

    title: str = "starting"
    progress: StudyProgress | None = None
    seen_at: float = 0.0
    current: dict[str, _Current] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_SHOWN))


class LiveObserver(StudyObserver):
    """A view that is redrawn in place. Use it as a context manager around the launch."""

    def __init__(
        self,
        baseline: Params,
        on_started: Callable[[], None],
        console: Console | None = None,
        comparable: Callable[[Params], bool] = lambda _: True,
    ) -> None:
        """Args:
        baseline: what is shown of a configuration is what differs from this.
        on_started: called once the study's loop runs.
        comparable: whether a configuration has the baseline's work per sample.
        """
        from rich.live import Live

        self._baseline = baseline
        self._on_started = on_started
        self._comparable = comparable
        self._shown = _Shown()
        self._later: deque[str] = deque()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._console = console or stderr_console()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            get_renderable=self.render,
            redirect_stdout=False,
            transient=True,
        )
        self._thread = threading.Thread(target=self._redraw, name="autotune-view", daemon=True)

    def __enter__(self) -> LiveObserver:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._live.stop()

    # ------------------------------------------------------------------ what happens

    def study_started(
        self, name: str, resumed: bool, nodes: list[NodeInfo], searched: list[str], sampler: str
    ) -> None:
        self._on_started()
        with self._lock:
            self._shown.title = name
        self.note(started_line(name, resumed, nodes, searched, sampler))

    def measurement_started(
        self, uuid: str, label: str, params: Params, progress: StudyProgress
    ) -> None:
        now = time.monotonic()
        with self._lock:
            self._shown.current[uuid] = _Current(label, params, now)
            self._shown.progress, self._shown.seen_at = progress, now

    def measurement_event(self, uuid: str, event: Event) -> None:
        with self._lock:
            current = self._shown.current.get(uuid)
            if current is None:
                return
            if isinstance(event, WindowEvent):
                current.stage = "measuring" if event.window.steady else "warming up"
                if event.samples_per_second is not None:
                    current.rate = event.samples_per_second
                    current.low, current.high = event.low, event.high
            elif isinstance(event, PreparingEvent):
                current.stage = "preparing its files"
            elif isinstance(event, StartedEvent | PreparedEvent):
                current.stage = "building the pipeline"
            elif isinstance(event, BuiltEvent):
                current.stage = "waiting for the first batch"
            elif isinstance(event, FirstBatchEvent):
                current.stage = "warming up"

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        line = outcome_line(
            label,
            params,
            result,
            interval,
            progress.num_samples,
            self._baseline,
            progress.phase,
        )
        with self._lock:
            self._shown.current.pop(uuid, None)
            self._shown.last.append(line)
            self._shown.progress, self._shown.seen_at = progress, time.monotonic()

    def note(self, message: str) -> None:
        from rich.text import Text

        self._console.print(Text(message))

    # ------------------------------------------------------------------ drawing

    def later(self, message: str) -> None:
        """Show a message at the next redraw: takes no lock, so a signal handler may call it."""
        self._later.append(message)

    def _redraw(self) -> None:
        while not self._end.wait(REDRAW_SECONDS):
            while self._later:
                self.note(self._later.popleft())
            self._live.refresh()

    def render(self) -> RenderableType:
        """The view as of now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            shown = self._shown
            progress, seen_at = shown.progress, shown.seen_at
            current = [
                (c.label, c.params, c.started, c.stage, c.rate, c.low, c.high)
                for c in shown.current.values()
            ]
            last = list(shown.last)
            title = shown.title
        now = time.monotonic()
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True, min_width=7)
        lines.add_column(overflow="fold")
        for label, params, started, stage, rate, low, high in current:
            lines.add_row(
                Text("now"),
                Text(f"{label}, {stage}, {figures.duration(now - started)}"),
            )
            loads = progress is None or progress.phase != CEILING_PHASE
            compares = loads and (progress is None or progress.phase != NO_STUDY)
            if rate is not None:
                epoch = ""
                if loads and progress is not None and progress.num_samples and rate > 0:
                    epoch = f", epoch {figures.duration(progress.num_samples / rate)}"
                lines.add_row("", Text(f"{figures.rate(rate, low, high)}{epoch}", style="bold"))
            if compares:
                lines.add_row("", Text(figures.changes(params, self._baseline), style="cyan"))
        if progress is not None and progress.best_rate is not None:
            lines.add_row(Text("best"), Text(self._best_text(progress), style="green"))
            if progress.best_params is not None:
                lines.add_row("", Text(figures.changes(progress.best_params, self._baseline)))
        for index, line in enumerate(reversed(last)):
            failed = ": failed (" in line
            lines.add_row(
                Text("last" if index == 0 else ""),
                Text(line, style="red" if failed else "", overflow="ellipsis", no_wrap=True),
            )
        return Group(_headline(title, progress, now - seen_at), lines)

    def _best_text(self, progress: StudyProgress) -> str:
        """The best so far, its ratio to the baseline's search figure, and what an epoch takes."""
        best, baseline = progress.best_rate or 0.0, progress.baseline_rate
        text = f"trial {progress.best_number}: {figures.rate(best)}"
        samples = progress.num_samples
        params = progress.best_params or {}
        if not baseline or params == self._baseline or not self._comparable(params):
            return f"{text}, epoch {figures.duration(samples / best)}" if samples and best else text
        text = f"{text}, ~{best / baseline:.2f}x the baseline"
        if not samples or best <= 0:
            return text
        return f"{text}, epoch {figures.epoch_change(samples / baseline, samples / best)}"


class OnceObserver(LiveObserver):
    """The view of measurements that belong to no study: there is no baseline, and no best."""

    def __init__(
        self,
        on_started: Callable[[], None],
        console: Console | None = None,
        *,
        tells_runs: bool = False,
    ) -> None:
        """Args:
        on_started: called once the machine was looked at and the measuring begins.
        tells_runs: leave a line of each run that ended.
        """
        super().__init__({}, on_started, console)
        self._tells_runs = tells_runs

    def study_started(
        self, name: str, resumed: bool, nodes: list[NodeInfo], searched: list[str], sampler: str
    ) -> None:
        self._on_started()
        with self._lock:
            self._shown.title = name

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        with self._lock:
            self._shown.current.pop(uuid, None)
        if self._tells_runs:
            self.note(run_line(label, params, result, progress.num_samples))


def run_line(label: str, params: Params, result: TrialResult, num_samples: int) -> str:
    """One finished run of a configuration that the user named: without its parameters, unless it
    failed."""
    line = outcome_line(label, params, result, None, num_samples, None)
    return line.partition("; ")[0] if result.state == "finished" else line


def _headline(title: str, progress: StudyProgress | None, since: float) -> RenderableType:
    from rich.text import Text

    if progress is None:
        return Text(title, style="bold")
    if progress.phase == NO_STUDY:
        elapsed = figures.duration(progress.elapsed + since)
        return Text.assemble((title, "bold"), f"  {elapsed} elapsed")
    left = None if progress.time_left is None else max(0.0, progress.time_left - since)
    parts = [
        progress.phase,
        f"{done_text(progress)} done",
        f"{figures.duration(progress.elapsed + since)} elapsed",
    ]
    if left is not None:
        parts.append(f"{figures.duration(left)} left")
    return Text.assemble((title, "bold"), "  ", " | ".join(parts))


def done_text(progress: StudyProgress) -> str:
    """``7/20 trials``, or ``7 trials`` without a limit."""
    if progress.trials_total is None:
        return figures.counted(progress.trials_done, "trial")
    return f"{progress.trials_done}/{progress.trials_total} trials"


def started_line(
    name: str, resumed: bool, nodes: list[NodeInfo], searched: list[str], sampler: str
) -> str:
    """What a launch begins with."""
    samples = nodes[0].num_samples if nodes else 0
    where = nodes[0].node if len(nodes) == 1 else figures.counted(len(nodes), "node")
    data = f"{figures.counted(samples, 'clip')}, " if samples else ""
    return (
        f"{'Resuming' if resumed else 'Starting'} study {name!r} on {where}: {data}"
        f"{figures.counted(len(searched), 'searched parameter')}, sampler {sampler}."
    )
