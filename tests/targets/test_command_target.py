"""The target `command`: any training command, with real processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import load_experiment, resolve
from autotune.consumers import NoneConsumer
from autotune.exceptions import InputError, MeasurementFailed
from autotune.executors.node import probe_node
from autotune.measuring.measurement import Run, measure
from autotune.search_space import SearchSpace
from autotune.supervision.supervisor import supervise
from autotune.system import processes
from autotune.targets.base import Batch, Loader
from autotune.targets.command.output import OutputLines, checked_regex
from autotune.targets.command.process import MARK
from autotune.targets.command.reports import EventLines, Report, Started, Steps
from autotune.targets.command.template import Template, flag_table
from autotune.trial import (
    FailedClip,
    Measurement,
    MeasurementSettings,
    ProbeRequest,
    StageStats,
    TrialResult,
    TrialSpec,
)

ROOT = Path(__file__).resolve().parents[2]

SPACE = SearchSpace.from_dict(
    {
        "target": "command",
        "parameters": {
            "num_workers": {"min": 0, "max": 8, "default": 2},
            "mode": {"values": ["plain", "--odd", "two words"], "default": "plain"},
            "pin": {"values": [True, False], "default": False, "flag": "--pin-memory"},
            "prefetch": {"min": 1, "max": 8, "default": 2, "when": "num_workers > 0"},
        },
    }
)
PARAMS = SPACE.defaults()


# ------------------------------------------------------------------ placeholders


def words(command: str | list[str], **changes: Any) -> list[str]:
    template = Template.parse(command)
    template.check(SPACE)
    extra = {"data_dir": "/data", "seed": 7, "python": "/py"}
    return template.render(SPACE.complete(changes), flag_table(SPACE), extra)


def test_a_value_stays_one_word_and_no_shell_is_involved() -> None:
    command = "{python} t.py --mode={mode} -w {num_workers} {flags} '$HOME ;' --seed {seed}"
    assert words(command, mode="two words") == [
        "/py", "t.py", "--mode=two words", "-w", "2",
        "--pin-memory", "false", "--prefetch", "2", "$HOME ;", "--seed", "7",
    ]  # fmt: skip
    assert words(["a b", "{flags}", "{{x}}"])[0::9] == ["a b", "{x}"]


def test_flags_leave_out_what_has_no_effect_and_what_has_a_placeholder() -> None:
    assert words("x {flags}", num_workers=0, mode="--odd") == [
        "x", "--num-workers", "0", "--mode=--odd", "--pin-memory", "false"
    ]  # fmt: skip


def test_true_and_false_as_switches() -> None:
    command = "x {pin:--pin} {pin:--yes|--no} {flags}"
    assert words(command, pin=True)[:3] == ["x", "--pin", "--yes"]
    assert words(command)[:2] == ["x", "--no"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "is empty"),
        ("x 'y", "Close the quote"),
        ("x {num_workers", "expected '}'"),
        ("x {workers} {flags}", r"\{workers\} is no parameter.*Did you mean 'num_workers'"),
        ("x {num_workers}", "the parameter mode would have no effect"),
        ("x --{flags}", "must be a word of its own"),
        ("x {num_workers:--on} {flags}", "for parameters that are true or false"),
    ],
)
def test_a_wrong_command_is_refused(command: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        words(command)


def test_a_placeholder_without_a_value_names_the_remedy() -> None:
    with pytest.raises(InputError, match=r"Give target\.data_dir \(--data-dir\)"):
        Template.parse("x {data_dir}").render({}, {}, {"data_dir": None})


@pytest.mark.parametrize(
    ("command", "labels"),
    [
        ("t.py --workers {num_workers}", ["workers"]),
        ("t.py --workers={num_workers}", ["workers"]),
        ("t.py data.workers={num_workers}", ["workers"]),
        ("t.py {num_workers}", []),
        ("t.py {flags}", ["num_workers", "num-workers"]),
    ],
)
def test_what_the_command_calls_a_parameter(command: str, labels: list[str]) -> None:
    assert Template.parse(command).given_as("num_workers", flag_table(SPACE)) == labels


# ------------------------------------------------------------------ output


def output(regex: str, per_step: float | None = None) -> OutputLines:
    return OutputLines(checked_regex(regex, per_step is not None), per_step)


def samples(lines: OutputLines, *pairs: tuple[float, str]) -> list[int]:
    return [r.samples for now, text in pairs for r in lines.take(f"{text}\n".encode(), now)]


def test_a_printed_rate_counts_for_the_time_since_the_last_line() -> None:
    lines = output(r"(?P<samples_per_second>[\d.,]+) samples/s")
    found = samples(lines, (10, "a 100 samples/s"), (11, "50.0 samples/s"), (13, "1,000 samples/s"))
    assert found == [0, 50, 2000]
    assert lines.lines == 3


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.floats(0.01, 3))
def test_what_rounding_cuts_off_is_not_lost(rates: list[float], gap: float) -> None:
    lines = output(r"(?P<samples_per_second>\S+)/s")
    moments = [i * gap for i in range(len(rates))]
    found = samples(lines, *((t, f"{rate!r}/s") for t, rate in zip(moments, rates, strict=True)))
    elapsed = [0.0, *(b - a for a, b in itertools.pairwise(moments))]
    assert abs(sum(found) - sum(r * t for r, t in zip(rates, elapsed, strict=True))) <= 0.51


def test_steps_of_a_known_size_also_over_an_epoch_s_end() -> None:
    lines = output(r"step (?P<step>\d+)", 16.0)
    pairs = [(1, "step 10"), (2, "step 20"), (3, "nothing"), (4, "step 50"), (5, "step 10")]
    assert samples(lines, *pairs) == [0, 160, 480, 160]


def steps_of(*numbers: float) -> tuple[float, list[str]]:
    """Steps counted after the first line, and what is told of them."""
    lines = output(r"step (?P<step>\d+)", 1.0)
    found = samples(lines, *((float(i), f"step {n:g}") for i, n in enumerate(numbers)))
    return sum(found), lines.warnings()


def test_lines_of_several_ranks_count_each_step_once_and_that_is_told() -> None:
    steps, told = steps_of(12, 13, 12, 13, 14, 15, 14, 15)
    assert steps == 3
    assert "Let one rank print, or name it with a group (?P<rank>" in told[0]
    assert len(told) == 1
    assert steps_of(10, 10, 20, 20, 30, 30) == (20, [])
    assert steps_of(10, 20, 30, 40, 30, 40, 50, 50)[0] == 40
    # rank 1 is late at the end of an epoch: its last line is no leap of the new one
    assert steps_of(*range(1, 101), 1, 100, 1, 2, 2, 3)[0] == 99 + 3


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5), st.data())
def test_whoever_of_the_ranks_prints_first_the_steps_are_those_of_the_job(
    ranks: int, stride: int, epochs: int, data: st.DataObject
) -> None:
    """Epochs of nine lines; of the first ones nothing is known yet."""
    first = data.draw(st.integers(0, stride))
    printed = [first + i for i in range(stride, 10 * stride, stride)] * epochs
    numbers = [number for number in printed for _ in range(ranks)]
    overtaken = st.sets(st.integers(6 * ranks, len(numbers) - 2), max_size=6)
    for i in sorted(data.draw(overtaken)) if ranks > 1 else ():
        numbers[i], numbers[i + 1] = numbers[i + 1], numbers[i]
    expected = printed[8] - printed[0] + (epochs - 1) * printed[8]
    assert steps_of(*numbers)[0] == expected


def test_a_fall_that_nothing_explains_is_a_failure_with_the_remedy() -> None:
    with pytest.raises(MeasurementFailed, match="fell from 500 to 300") as caught:
        steps_of(480, 490, 500, 300)
    assert "Let one rank print, or name the rank with a group" in caught.value.failure.advice


def test_ranks_that_are_named_are_counted_by_themselves_and_added_up() -> None:
    lines = output(r"\[(?P<rank>\d+)\] step (?P<step>\d+)", 4.0)
    pairs = [(0.0, "[0] step 500"), (0.1, "[1] step 12"), (1.0, "[0] step 501")]
    pairs += [(1.1, "[1] step 13"), (2.0, "[0] step 502"), (2.1, "[1] step 15")]
    reports = [r for now, text in pairs for r in lines.take(f"{text}\n".encode(), now)]
    assert [(r.rank, r.samples) for r in reports] == [
        (0, 0),
        (1, 0),
        (0, 4),
        (1, 4),
        (0, 4),
        (1, 8),
    ]
    assert lines.warnings() == []
    rates = output(r"\[(?P<rank>\d+)\] (?P<samples_per_second>[\d.]+)/s")
    found = samples(rates, *((t, f"[{rank}] 100/s") for t in (0, 1, 2) for rank in (0, 1)))
    assert sum(found) == 400, "two ranks of 100/s for two seconds"


def test_samples_and_the_script_s_own_seconds() -> None:
    assert samples(output(r"n=(?P<samples>\d+)"), (1, "n=4"), (3, "n=6")) == [4, 6]
    timed = output(r"n=(?P<samples>\d+) in (?P<seconds>[\d.]+)")
    assert samples(timed, (1, "n=4 in 1"), (3, "n=6 in 0.5")) == [0, 24]
    steps = output(r"(?P<seconds>[\d.]+) s/it", 8.0)
    assert samples(steps, (1, "0.1 s/it"), (2, "0.1 s/it")) == [0, 80]


def test_a_progress_bar_s_carriage_returns_end_lines_too() -> None:
    lines = output(r"(?P<step>\d+)/100", 2.0)
    assert [r.samples for r in lines.take(b"\r 1/100\r 3/100\r 4/1", 1.0)] == [0, 4]
    assert [r.samples for r in lines.take(b"00\r", 2.0)] == [2]


@pytest.mark.parametrize(
    ("text", "value"), [("1,234", 1234), ("12,345,678.5", 12345678.5), ("245.3", 245.3)]
)
def test_commas_are_read_between_thousands(text: str, value: float) -> None:
    lines = output(r"(?P<samples_per_second>\S+)/s")
    assert sum(samples(lines, (0, f"{text}/s"), (2, f"{text}/s"))) == pytest.approx(
        2 * value, abs=0.5
    )


@pytest.mark.parametrize("text", ["245,3", "0,065", "1,23", "1234,567", "1.234,5", ",5"])
def test_a_comma_before_decimals_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(MeasurementFailed, match="the group seconds found") as caught:
        samples(output(r"(?P<seconds>\S+) s/it", 8.0), (1, f"{text} s/it"))
    assert "LC_ALL=C in target.environment" in caught.value.failure.advice


@pytest.mark.parametrize("text", ["nan/s", "-5/s", "1.2.3/s", "inf/s"])
def test_what_is_no_number_is_a_failure_that_says_so(text: str) -> None:
    with pytest.raises(MeasurementFailed, match="the group samples_per_second found"):
        samples(output(r"(?P<samples_per_second>\S+)/s"), (1, text))


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        ("(", "is no regular expression"),
        ("samples/s", "has no named group"),
        (r"(?P<rate>\d+)", "unknown group 'rate'"),
        (r"(?P<rank>\d+)", "has no named group that tells a rate"),
        (r"(?P<step>\d+) (?P<seconds>\d+)", "the groups seconds and step together tell no rate"),
        (r"(?P<step>\d+) (?P<samples_per_second>\d+)", r"Write \(\?:\.\.\.\) around what is not"),
        (r"(?P<step>\d+)", r"Give target\.samples_per_step"),
        (r"(?P<seconds>\d+)", r"Give target\.samples_per_step"),
    ],
)
def test_a_wrong_expression_is_refused(regex: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_regex(regex, False)


# ------------------------------------------------------------------ reports


def test_lines_become_reports() -> None:
    lines = EventLines(began=100.0)
    data = (
        b'{"event":"start","rank":1,"parameters":{"num_workers":4}}\n'
        b'{"event":"step","samples":4,"time":101.5,"rank":1}\n{"event":"step","samples":4,"time":3}\n'
        b'{"event":"st'
    )
    assert lines.take(data, 102.0) == [
        Started({"num_workers": 4}, 1), Report(101.5, 4, 0, 1), Report(102.0, 4)
    ]  # fmt: skip
    assert lines.take(b'ep","samples":1,"frames":16}\n', 103.0) == [Report(103.0, 1, 16)]


@pytest.mark.parametrize(
    "line", [b"hello", b"[]", b'{"event":"stop"}', b'{"event":"step"}', b'{"samples":1}',
             b'{"event":"step","samples":-1}', b'{"event":"step","samples":"many"}',
             b'{"event":"stage"}', b'{"event":"stage","name":"a","busy_seconds":-1}'],
)  # fmt: skip
def test_a_line_that_is_no_report_is_quoted(line: bytes) -> None:
    with pytest.raises(MeasurementFailed, match="is no report") as caught:
        EventLines(0.0).take(line + b"\n", 1.0)
    assert '"samples": 16' in caught.value.failure.advice


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=80))
def test_the_samples_of_all_ranks_are_added_up(sent: list[tuple[int, int]]) -> None:
    steps = Steps(frames_per_sample=16)
    made = [steps.add(Report(float(i), n, 0, rank)) for i, (rank, n) in enumerate(sent)]
    batches = [b for b in made if b is not None]
    clock = sent[0][0]
    assert len(batches) == sum(rank == clock for rank, _ in sent)
    last = max(i for i, (rank, _) in enumerate(sent) if rank == clock)
    assert sum(b.samples for b in batches) == sum(n for _, n in sent[: last + 1])
    assert sum(b.frames for b in batches) == 16 * sum(b.samples for b in batches)
    arrived = [b.arrived for b in batches if b.arrived is not None]
    assert arrived == sorted(arrived)


# ------------------------------------------------------------------ the measuring loop


class Reported(Loader):
    """Steps of 4 samples, 10 ms apart by the reporter's clock, all read at once."""

    may_end = True

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[Batch]:
        begin = time.monotonic()
        for i in range(self._steps):
            yield Batch(None, None, 4, 4, 0, 0, arrived=begin + 0.01 * i)

    def readback(self) -> dict[str, Any]:
        return {}

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        pass


def counted(steps: int) -> Measurement:
    settings = MeasurementSettings(min_seconds=1, max_seconds=5)
    run = Run(settings=settings, max_failed_share=0.05, emit=lambda event: None)
    return measure(Reported(steps), NoneConsumer(), run)


def test_the_reporter_s_clock_makes_the_rate_and_not_the_time_of_reading() -> None:
    assert counted(10_000).samples_per_second == pytest.approx(400, rel=1e-3)


def test_an_end_is_one_only_after_enough_steps() -> None:
    ended = counted(60)
    assert ended.samples_per_second == pytest.approx(400, rel=1e-3)
    assert ended.batches <= 60
    with pytest.raises(MeasurementFailed, match="ended by itself after 6 counted steps"):
        counted(7)
    with pytest.raises(MeasurementFailed):
        counted(1)


# ------------------------------------------------------------------ experiments


def experiment(folder: Path, **target: Any) -> Path:
    document = {
        "target": {"name": "command", **target},
        "search_space": {"parameters": {"num_workers": {"min": 0, "max": 4, "default": 2}}},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "target.command: is missing"),
        ({"command": "x {workers}"}, r"study.yaml: target.command: \{workers\} is no parameter"),
        ({"command": "x"}, "the parameter num_workers would have no effect"),
        ({"command": "x {flags}", "ranks": 2}, "torchrun --nproc-per-node N"),
        ({"command": "x {flags}", "consumer": {"kind": "paced"}}, "has a consumer of its own"),
        ({"command": "x {flags}", "regex": "("}, "is no regular expression"),
        ({"command": "x {flags}", "samples_per_step": 0}, "Accepted: a number above 0"),
        ({"command": "x {flags}", "samples_per_step": "batch * 8"}, "'batch' is no parameter"),
    ],
)
def test_a_wrong_experiment_is_refused(
    tmp_path: Path, target: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve(load_experiment(experiment(tmp_path, **target)))


def test_settings_hold_what_the_worker_needs(tmp_path: Path) -> None:
    plan = resolve(
        load_experiment(
            experiment(tmp_path, command="x {flags}", regex=r"(?P<step>\d+)",
                       samples_per_step="num_workers * 4")
        )
    )  # fmt: skip
    assert plan.settings["flags"] == {"num_workers": ("--num-workers", None)}
    assert plan.settings["working_dir"] == str(tmp_path)


# ------------------------------------------------------------------ whole measurements

BOUNDS = {"min_seconds": 0.3, "max_seconds": 1.0}


def specification(folder: Path, command: str | list[str], **changes: Any) -> TrialSpec:
    params = changes.pop("params", {"num_workers": 2})
    limits = {"startup_seconds": changes.pop("startup_seconds", 60.0)}
    bounds = {key: changes.pop(key, usual) for key, usual in BOUNDS.items()}
    table = {name: (f"--{name.replace('_', '-')}", None) for name in params}
    settings = {"command": command, "working_dir": str(folder), "flags": table, **changes}
    return TrialSpec.model_validate(
        {
            "uuid": f"command-{os.getpid()}",
            "study": "command-tests",
            "target": "command",
            "params": params,
            "settings": settings,
            "measurement": {**bounds, "window_seconds": 0.1},
            "limits": limits,
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def script(folder: Path, text: str, name: str = "train.py") -> None:
    (folder / name).write_text(textwrap.dedent(text))


def left_over() -> list[str]:
    return [
        processes.command_of(pid)
        for pid in processes.pids()
        if MARK in processes.environment_of(pid)
    ]


def measured(folder: Path, command: str | list[str], **changes: Any) -> TrialResult:
    result = supervise(specification(folder, command, **changes))
    assert left_over() == []
    return result


STEPS = """
    import sys, time
    from autotune import probe
    probe.start(num_workers=int(sys.argv[sys.argv.index("--num-workers") + 1]), other="x")
    print("training begins", flush=True)
    while True:
        time.sleep(0.01)
        probe.step(samples=4, frames=64)
"""


def test_a_script_with_two_calls_of_the_probe(folder: Path) -> None:
    script(folder, STEPS)
    result = measured(folder, "{python} train.py {flags}")
    assert result.state == "finished", (result.failure, result.log_tail)
    figures = result.measurement
    assert figures is not None
    assert 0 < figures.samples_per_second <= 400 * 1.001  # a pause is never shorter than asked
    assert figures.fps == pytest.approx(16 * figures.samples_per_second)
    assert figures.decoded_fps is None
    assert "training begins" in result.log_tail
    assert figures.versions["command"].endswith("train.py --num-workers 2")


def test_a_program_in_another_language_writes_lines_itself(folder: Path) -> None:
    script(
        folder,
        """
        while sleep 0.02; do
          echo '{"event": "step", "samples": 4}' >&"$AUTOTUNE_EVENTS"
          echo '{"event": "step", "samples": 3}' >"$AUTOTUNE_EVENTS_PATH"
        done
        """,
        "train.sh",
    )
    result = measured(folder, ["bash", "train.sh", "{num_workers}"])
    assert result.measurement is not None, (result.failure, result.log_tail)
    assert 0 < result.measurement.samples_per_second <= 350 * 1.001


def test_what_the_script_times_are_stages_of_the_measurement(folder: Path) -> None:
    """Those of a forked worker too, as a DataLoader's are."""
    script(
        folder,
        """
        import os, sys, time
        from autotune import probe
        def augment():
            with probe.stage("augment"):
                time.sleep(0.02)
        def clips():
            while True:
                time.sleep(0.03)
                yield 1
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                augment()
        for clip in probe.watch(clips()):
            augment()
            probe.step(samples=1)
        """,
    )
    result = measured(folder, "{python} train.py {num_workers}", max_seconds=2.5, min_seconds=2.4)
    figures = result.measurement
    assert figures is not None, (result.failure, result.log_tail)
    seen = [stage for window in result.windows for stage in window.stages]
    tasks = {n: sum(s.tasks for s in seen if s.name == n) for n in ("augment", "next")}
    busy = {n: sum(s.busy_seconds for s in seen if s.name == n) for n in tasks}
    # the forked one does nothing else, so it has more of them than the other
    assert tasks["augment"] > 2 * tasks["next"] > 0
    assert busy["augment"] >= 0.02 * tasks["augment"]
    assert busy["next"] >= 0.03 * tasks["next"]
    assert max(s.concurrency for s in seen if s.name == "augment") == 2
    assert {s.name for s in figures.stages} == {"augment", "next"}
    assert figures.accelerator_utilization is None


def test_processes_that_inherit_no_descriptor_are_added_up(folder: Path) -> None:
    """As torchrun starts its ranks: in sessions of their own, with descriptors closed."""
    script(folder, STEPS, "rank.py")
    script(
        folder,
        """
        import os, subprocess, sys
        ranks = [
            subprocess.Popen([sys.executable, "rank.py", *sys.argv[1:]],
                             env={**os.environ, "RANK": str(i)}, start_new_session=True)
            for i in range(3)
        ]
        [rank.wait() for rank in ranks]
        """,
    )
    result = measured(folder, "{python} train.py {flags}")
    assert result.measurement is not None, (result.failure, result.log_tail)
    windows = [w for w in result.windows if w.steady and w.batches]
    # every step of the clock's rank carries those of the two others, within a step of each
    per_batch = sum(w.samples for w in windows) / sum(w.batches for w in windows)
    assert 8 < per_batch < 16


@pytest.mark.parametrize(
    ("regex", "per_step"),
    [(r"rank (?P<rank>\d+) step (?P<step>\d+)", 8), (r"step (?P<step>\d+)", 4)],
)
def test_ranks_that_all_print_their_steps_inflate_nothing(
    folder: Path, regex: str, per_step: int
) -> None:
    """Rank 1 lags two steps behind. Steps are 20 ms long at least; a rank's holds 4 samples."""
    script(
        folder,
        """
        import os, sys, time
        rank = int(os.fork() == 0)
        begin, step = time.monotonic(), 500
        while True:
            step += 1
            time.sleep(max(0.02, begin + 0.02 * (step - 500 + 2 * rank) - time.monotonic()))
            print(f"rank {rank} step {step}", flush=True)
        """,
    )
    result = measured(folder, "{python} train.py {flags}", regex=regex, samples_per_step=4)
    figures = result.measurement
    assert figures is not None, (result.failure, result.log_tail)
    # less where the machine is busy: steps take longer then
    assert 0.4 <= figures.samples_per_second * 0.02 / per_step <= 1.1
    assert bool(figures.warnings) == (per_step == 4)


def test_the_samples_of_torchrun_s_ranks_are_added_up(folder: Path) -> None:
    script(folder, STEPS)
    command = "{python} -m torch.distributed.run --standalone --nproc-per-node 2 train.py {flags}"
    result = measured(folder, command)
    assert result.measurement is not None, (result.failure, result.log_tail)
    windows = [w for w in result.windows if w.batches]
    per_batch = sum(w.samples for w in windows) / sum(w.batches for w in windows)
    assert 5 < per_batch < 12


def test_a_script_that_ends_after_enough_steps_has_a_figure(folder: Path) -> None:
    script(folder, STEPS.replace("while True:", "for _ in range(30):"))
    result = measured(folder, "{python} train.py {flags}")
    assert result.measurement is not None, (result.failure, result.log_tail)
    assert result.measurement.batches >= 10


@pytest.mark.parametrize(
    ("text", "changes", "kind", "words"),
    [
        ("", {}, "start_up", ["reported no step, and it ended with status 0", "probe.step"]),
        ("print('hello')", {"regex": r"(?P<samples>\d+)"}, "start_up",
         ["target.regex matched none of the 1 lines", "'hello'", "log tail"]),
        ("import time; print('x'); time.sleep(60)",
         {"regex": r"(?P<samples>\d+)", "startup_seconds": 5.0}, "start_up",
         ["target.regex matched none", "after 4 s"]),
        ("raise SystemExit(3)", {}, "start_up", ["exited with status 3", "Run it by hand"]),
        (STEPS.replace("while True", "for _ in range(5)"), {}, "start_up",
         ["ended by itself after", "Let it run longer"]),
        (STEPS.replace("while True", "for _ in range(20)") + "    sys.exit(4)", {}, "crash",
         ["exited with status 4 after 20 reported steps"]),
        ("import os; os.kill(os.getpid(), 9)", {}, "start_up", ["was killed by SIGKILL"]),
        (STEPS.replace("sys.argv[sys.argv.index(\"--num-workers\") + 1]", "7"), {}, "start_up",
         ["num_workers: asked for 2, the script uses 7"]),
        ("import os; os.write(int(os.environ['AUTOTUNE_EVENTS']), b'step 1\\n'); input()",
         {}, "start_up", ["is no report: 'step 1'"]),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_a_failure_that_names_the_remedy(
    folder: Path, text: str, changes: dict[str, Any], kind: str, words: list[str]
) -> None:
    script(folder, text)
    result = measured(folder, "{python} train.py {flags}", **changes)
    assert result.state == "failed"
    assert result.failure is not None
    message = f"{result.failure.cause} {result.failure.advice}"
    assert (result.failure.kind, [w for w in words if w not in message]) == (kind, []), message


def test_a_command_and_its_children_end_with_the_trial(folder: Path) -> None:
    """Also those that ignore SIGTERM and have left for a session of their own."""
    script(
        folder,
        """
        import os, signal, subprocess, sys, time
        from autotune import probe
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
        while True:
            time.sleep(0.01)
            probe.step(samples=1)
        """,
    )
    result = measured(folder, "{python} train.py {num_workers}")
    assert result.state == "finished", (result.failure, result.log_tail)


@pytest.mark.parametrize(
    ("command", "working_dir", "message"),
    [
        ("no-such-program {flags}", None, "'no-such-program' is not found. Give a program on PATH"),
        ("./train.py {flags}", None, "is not executable: `chmod +x`"),
        ("true {flags}", "/nowhere", "target.working_dir: /nowhere"),
    ],
)
def test_a_command_that_is_not_there_is_told_before_the_first_trial(
    folder: Path, command: str, working_dir: str | None, message: str
) -> None:
    script(folder, "")
    changes = {} if working_dir is None else {"working_dir": working_dir}
    spec = specification(folder, command, **changes)
    request = ProbeRequest(
        study="s", target="command", params=spec.params, settings=spec.settings, cache_dir="/tmp"
    )
    info = probe_node(request)
    assert info.error_kind == "input"
    assert message in (info.error or "")


def test_a_script_without_a_sign_of_a_parameter_is_suspect(folder: Path) -> None:
    script(folder, "import argparse  # --num_workers")
    spec = specification(
        folder, "{python} train.py {flags}", params={"num_workers": 1, "num_thread": 2}
    )
    request = ProbeRequest(
        study="s", target="command", params=spec.params, settings=spec.settings, cache_dir="/tmp"
    )
    info = probe_node(request)
    assert info.error is None
    assert info.suspects == ["num_thread"]


# ------------------------------------------------------------------ a study, by the command line

SCRIPT = '''
"""A training script that knows nothing of autotune."""
import argparse
import time

import torch
from torch.utils.data import DataLoader, Dataset


class Clips(Dataset):
    def __len__(self):
        return 100000

    def __getitem__(self, index):
        time.sleep(0.02)  # reading a clip
        return torch.rand(3, 4, 16, 16), index % 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4)
    args, _ = parser.parse_known_args()
    model = torch.nn.Linear(3 * 4 * 16 * 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Clips(), args.batch_size, num_workers=args.workers)
    begin = time.perf_counter()
    for step, (video, label) in enumerate(loader, start=1):
        loss = torch.nn.functional.cross_entropy(model(video.flatten(1)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 0:
            now = time.perf_counter()
            print(f"step {step}: {3 * args.batch_size / (now - begin):.1f} samples/s")
            begin = now


if __name__ == "__main__":
    main()
'''

STUDY = r"""
target:
  name: command
  command: "{python} train.py --workers {num_workers} --batch-size 4 --ignored {nothing}"
  regex: 'step \d+: (?P<samples_per_second>[\d.]+) samples/s'
search_space:
  parameters:
    num_workers: {values: [0, 3], default: 0}
    nothing: {values: [1, 2, 3], default: 1}
sampler: grid
budget: {trials: 6}
measurement: {min_seconds: 0.6, max_seconds: 1, repeats: 0}
noise: {runs: 0, drift_every: 0}
verification: {finalists: 0}
executor: {kind: local}
"""


@pytest.mark.long
def test_a_script_that_knows_nothing_of_autotune_is_tuned_unchanged(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "study.yaml").write_text(STUDY)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE")}

    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "autotune", *line],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )

    launched = run("launch", "study.yaml")
    assert launched.returncode == 0, launched.stderr
    assert "Traceback" not in launched.stderr
    trials = json.loads(run("trials", "study", "-f", "json").stdout)
    rates: dict[int, list[float]] = {0: [], 3: []}
    for trial in trials:
        assert trial["state"] == "COMPLETE", trial
        rates[trial["params"]["num_workers"]].append(trial["samples_per_second"])
    assert {k: len(v) for k, v in rates.items()} == {0: 3, 3: 3}
    # one process sleeps 20 ms a clip, three at the same time a third of that
    assert sum(rates[3]) > sum(rates[0])
    assert "nothing may be ignored: 6 trials show no difference" in launched.stderr
    assert "num_workers may be ignored" not in launched.stderr
    assert left_over() == []


def test_a_driver_that_is_killed_leaves_no_command(folder: Path) -> None:
    script(folder, STEPS)
    spec = specification(folder, "{python} train.py {flags}")
    spec = spec.model_copy(
        update={"measurement": spec.measurement.model_copy(update={"max_seconds": 600.0,
                                                                   "min_seconds": 500.0})}
    )  # fmt: skip
    code = (
        "import sys; from autotune.supervision.supervisor import supervise; "
        "from autotune.trial import TrialSpec; "
        "supervise(TrialSpec.model_validate_json(sys.argv[1]), "
        "lambda e: print(e.event, flush=True))"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, spec.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert driver.stdout is not None
    while driver.stdout.readline().strip() != "window":
        assert driver.poll() is None
    assert left_over() != []
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    deadline = time.monotonic() + 20
    while left_over():
        assert time.monotonic() < deadline
        time.sleep(0.05)
