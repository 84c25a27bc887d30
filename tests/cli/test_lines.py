"""Single lines for a person: where they are broken, what they say of a study's state."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from autotune.cli import figures
from autotune.cli.formatting import note, say
from autotune.cli.launch import winner_lines

LONG = "Search ended: every valid configuration was measured, in square [brackets] too."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("tell", "stream"), [(note, "stderr"), (say, "stdout")])
def test_a_line_is_broken_between_words_on_a_terminal_only(
    tell: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    for terminal in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, stream, terminal)
        tell(LONG)
        lines = terminal.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == LONG
        assert len(lines) == (2 if terminal.isatty() else 1)


def test_a_state_does_not_repeat_itself() -> None:
    assert figures.state("interrupted", "interrupted by the user") == "interrupted (by the user)"
    assert figures.state("finished", "the time is used") == "finished (the time is used)"
    assert figures.state("running", "") == "running"


@pytest.mark.parametrize(
    ("over", "line"),
    [
        (True, "No configuration was faster than the baseline: 40.0 samples/s"),
        (False, "Best so far is the baseline: 40.0 samples/s"),
    ],
)
def test_only_a_finished_study_says_that_nothing_was_faster(over: bool, line: str) -> None:
    trial = {"origin": "baseline", "samples_per_second": 40.0, "ci_low": None, "ci_high": None}
    winner = {
        "workload": "",
        "verified": False,
        "trial": trial,
        "baseline": trial,
        "flags": "--threads 4",
    }
    assert winner_lines(winner, over=over) == [line, "Flags:  --threads 4"]


def test_what_was_not_verified_is_called_so_once() -> None:
    trial = {"number": 3, "origin": "sampler", "ratio": 1.25, "verification": None}
    winner = {
        "workload": "",
        "verified": False,
        "trial": trial,
        "baseline": trial,
        "flags": "--threads 4",
    }
    assert winner_lines(winner)[0] == "Best so far: trial 3, 1.25x in the search, not verified"
