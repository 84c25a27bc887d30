"""`autotune best --smallest`: of what the search cannot tell apart, the one that takes least."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autotune.storage import Database
from autotune.trial import Resources, TrialResult
from tests import studies
from tests.studies import MakeStudy, Run, Writer, make_study, run, url

__all__ = ["make_study", "run", "url"]  # fixtures

FLOOR = {
    "runs": 5,
    "samples_per_second": 400.0,
    "sd": 0.02,
    "dof": 4.0,
    "floor": 0.06,
    "prior": False,
}

TRIALS = [
    # rate, sink_buffer_size, GiB of the cache
    (400.0, 3, 0.3),
    (500.0, 8, 0.8),
    (480.0, 6, 0.6),
    (476.0, 4, 0.4),  # 5 % below the best: a tie
    (440.0, 2, 0.2),  # 14 % below: slower
]


@pytest.fixture
def study(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> Writer:
    made = make_study("cached")
    plain = studies.result
    for number, (rate, size, gib) in enumerate(TRIALS):

        def result(uuid: str, rate: float | None, failure: Any, gib: float = gib) -> TrialResult:
            found = plain(uuid, rate, failure)
            assert found.measurement is not None
            held = Resources(cache_gib=gib)
            measured = found.measurement.model_copy(update={"resources": held})
            return found.model_copy(update={"measurement": measured})

        monkeypatch.setattr(studies, "result", result)
        origin = "baseline" if number == 0 else "sampler"
        made.trial(number, rate, origin, sink_buffer_size=size)
    return made


def floor(study: Writer, url: str) -> None:
    with Database.open(url) as database:
        database.set_noise(study.record.id, FLOOR)


@pytest.mark.parametrize("figure", ["cache_gib", "sink_buffer_size"])
def test_the_smallest_of_those_that_keep_the_rate_comes_first(
    study: Writer, url: str, run: Run, figure: str
) -> None:
    floor(study, url)
    words = ("best", "cached", "--storage", url, "--smallest", figure)
    rows = json.loads(run(*words, "--top", "9", "-f", "json").stdout)
    assert [row["number"] for row in rows] == [3, 2, 1]
    assert [row["cache_gib"] for row in rows] == [0.4, 0.6, 0.8]
    assert [row["tied"] for row in rows] == [True, True, False]
    table = run(*words).stdout
    assert figure in table.splitlines()[0]
    assert table.splitlines()[1].split()[0] == "3"
    assert "within the noise floor (6.0 %) of trial 1" in table


def test_what_is_no_number_and_a_study_without_a_floor_are_refused(
    study: Writer, url: str, run: Run
) -> None:
    words = ("best", "cached", "--storage", url, "--smallest")
    without = run(*words, "cache_gib")
    assert without.exit_code == 2
    said = " ".join(without.stderr.split())
    assert "study 'cached' has no noise floor" in said
    assert "launch it with a larger noise.runs" in said
    floor(study, url)
    for name in ("cache", "state", "steady"):
        unknown = run(*words, name)
        assert unknown.exit_code == 2
        assert f"--smallest {name}: no such number" in " ".join(unknown.stderr.split())
    across = run("best", "--target", "spdl_video", "--storage", url, "--smallest", "cache_gib")
    assert across.exit_code == 2
    assert "--smallest: only for the best of one study" in " ".join(across.stderr.split())
