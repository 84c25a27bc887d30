"""`studies`, `status`, `trials`, `best`, `export`: what they print, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.studies import BASELINE, MakeStudy, Run, Writer

TRIAL_KEYS = {
    "number",
    "state",
    "params",
    "samples_per_second",
    "ci_low",
    "ci_high",
    "fps",
    "decoded_fps",
    "verified",
    "failure",
}
"""Promised names of a trial's JSON object."""


def plain(text: str) -> list[str]:
    """Lines without colours and trailing spaces."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def test_trials_as_plain_lines(verified: Writer, run: Run) -> None:
    done = run("trials", "kinetics")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    headers = re.split(r" {2,}", lines[0].strip())
    assert headers == [
        "trial",
        "state",
        "samples/s",
        "95 % interval",
        "epoch",
        "differs from the baseline",
    ]
    assert re.search(r" 0  complete +16.5 .* 4 h 02 min  baseline$", lines[1])
    assert lines[2].endswith("num_demux_threads=16: hang: no event for 30 s [last event: built]")
    assert re.search(
        r" 2  complete +129 .*31 min  num_demux_threads=3 sink_buffer_size=5$", lines[3]
    )
    assert "\x1b" not in done.stdout


def test_trials_as_json(verified: Writer, run: Run) -> None:
    trials = json.loads(run("trials", "kinetics", "-f", "json").stdout)
    assert all(trial.keys() >= TRIAL_KEYS for trial in trials)
    assert trials[0]["params"] == BASELINE
    assert trials[1]["samples_per_second"] is None
    assert trials[1]["ci_low"] is None
    assert trials[1]["failure"]["kind"] == "hang"
    assert trials[1]["state"] == "FAIL"
    assert [trial["log_tail"] for trial in trials] == [None, "log of a hang\n", None, None]
    assert trials[2]["verified"] is True
    assert trials[2]["verification"]["ratio"] == pytest.approx(7.79, abs=0.01)
    assert trials[3]["verified"] is False


def test_yaml_and_json_say_the_same(verified: Writer, run: Run) -> None:
    for words in (("trials", "kinetics"), ("best", "kinetics"), ("status", "kinetics")):
        as_json = json.loads(run(*words, "-f", "json").stdout)
        assert yaml.safe_load(run(*words, "-f", "yaml").stdout) == as_json


def test_csv_has_a_column_for_every_parameter(verified: Writer, run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("trials", "kinetics", "-f", "csv").stdout)))
    assert [row["params.num_demux_threads"] for row in rows] == ["8", "16", "3", "4"]
    assert rows[1]["samples_per_second"] == ""
    assert rows[1]["failure.cause"] == "no event for 30 s [last event: built]"
    assert float(rows[2]["verification.ratio_low"]) > 1
    assert "verification" not in rows[0]


def test_values_are_tab_separated_and_raw(verified: Writer, run: Run) -> None:
    lines = run("trials", "kinetics", "-f", "value").stdout.splitlines()
    assert len(lines) == 4
    number, state, rate, *_ = lines[2].split("\t")
    assert (number, state, rate) == ("2", "COMPLETE", "129.0")


@pytest.mark.parametrize(
    "words",
    [
        ("studies",),
        ("status", "kinetics"),
        ("trials", "kinetics"),
        ("best", "kinetics", "--top", "3"),
        ("best", "--target", "spdl_video"),
        ("--help",),
        ("launch", "--help"),
        ("best", "--help"),
        ("measure", "--help"),
        ("export", "--help"),
        ("dashboard", "--help"),
        ("clips", "make", "--help"),
    ],
)
def test_a_terminal_of_80_columns_is_enough(
    words: tuple[str, ...], verified: Writer, run: Run
) -> None:
    done = run(*words, FORCE_COLOR="1")
    assert done.exit_code == 0
    assert max(len(line) for line in plain(done.stdout)) <= 80


def test_a_narrow_terminal_shows_the_configuration_below(verified: Writer, run: Run) -> None:
    lines = plain(run("trials", "kinetics", FORCE_COLOR="1").stdout)
    assert lines[3].startswith("    1  fail")
    assert lines[4].strip() == "num_demux_threads=16: hang: no event for 30 s [last event: built]"
    wide = plain(run("trials", "kinetics", FORCE_COLOR="1", COLUMNS="140").stdout)
    assert wide[2].endswith("[last event: built]")


def test_no_color_is_heeded(verified: Writer, run: Run) -> None:
    done = run("trials", "kinetics", FORCE_COLOR="1", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", done.stdout)


def test_status(verified: Writer, run: Run) -> None:
    lines = run("status", "kinetics").stdout.splitlines()
    assert lines[1] == "state     finished (trial 2 verified)"
    assert lines[2] == "trials    4/20 done, 1 failed"
    text = "\n".join(lines)
    assert "7.79x (7.69 to 7.89), verified over 4 blocks" in text
    assert "epoch 4 h 02 min -> 31 min" in text
    status = json.loads(run("status", "kinetics", "-f", "json").stdout)
    assert status["state"] == "finished"
    assert status["best"]["number"] == 2
    assert status["baseline"]["number"] == 0
    assert status["time_left_seconds"] is None


def test_a_running_study_tells_the_time_left(make_study: MakeStudy, run: Run) -> None:
    writer = make_study("now", state="running")
    writer.database.acquire_lease(writer.record.id, "driver")
    writer.trial(0, 16.5, origin="baseline")
    writer.trial(1, 20.0, num_demux_threads=4)
    status = json.loads(run("status", "now", "-f", "json").stdout)
    assert status["state"] == "running"
    # 18 trials and 8 verification runs are left, of 5 s each.
    assert status["time_left_seconds"] == pytest.approx(26 * 5.0)
    assert status["verified"] is False


def test_a_study_without_its_driver_is_interrupted(make_study: MakeStudy, run: Run) -> None:
    make_study("dead", state="running")
    status = json.loads(run("status", "dead", "-f", "json").stdout)
    assert status["state"] == "interrupted"
    assert status["best"] is None


def test_best_shows_the_verified_first_and_the_baseline(verified: Writer, run: Run) -> None:
    lines = run("best", "kinetics", "--top", "2").stdout.splitlines()
    assert re.match(r" +2 +129 .* 7\.79x verified ", lines[1])
    assert re.match(r" +3 +131 .* ~7\.94x ", lines[2])
    assert re.match(r" +0 +16\.5 .* baseline$", lines[3])
    (best,) = json.loads(run("best", "kinetics", "-f", "json").stdout)
    assert best["number"] == 2
    assert best["baseline"]["number"] == 0
    assert best["gpu"] == "NVIDIA H100 80GB HBM3 80 GiB"


def test_best_where_and_per(verified: Writer, run: Run) -> None:
    (slow,) = json.loads(
        run("best", "kinetics", "--where", "samples_per_second < 100", "-f", "json").stdout
    )
    assert slow["number"] == 0
    per = json.loads(run("best", "kinetics", "--per", "sink_buffer_size", "-f", "json").stdout)
    assert {(row["per_value"], row["number"]) for row in per} == {(5, 2), (3, 3)}
    none = run("best", "kinetics", "--where", "samples_per_second > 1e6")
    assert (none.exit_code, none.stdout) == (0, "")
    assert "no trial with a figure that fits" in none.stderr


def test_best_keeps_workload_values_apart(make_study: MakeStudy, run: Run) -> None:
    writer = make_study("varied", vary=True)
    writer.trial(0, 16.0, origin="baseline")
    writer.trial(1, 64.0, origin="baseline", subclip_duration=0.5)
    writer.trial(2, 96.0, num_demux_threads=3, subclip_duration=0.5)
    done = run("best", "varied")
    lines = done.stdout.splitlines()
    assert lines[0] == "subclip_duration=0.5:"
    assert "~1.50x" in lines[2]
    assert "subclip_duration=2.0:" in lines
    assert "Across workload values (a sample is not the same work)" in done.stderr
    assert "~6.00x" in done.stderr


def test_best_across_studies(verified: Writer, make_study: MakeStudy, run: Run) -> None:
    other = make_study("other")
    other.trial(0, 50.0, origin="baseline")
    words = ("best", "--target", "spdl_video", "--gpu", "h100")
    (best,) = json.loads(run(*words, "-f", "json").stdout)
    assert (best["study"], best["number"]) == ("kinetics", 2)
    missing = run("best", "--target", "spdl_video", "--gpu", "A100")
    assert missing.exit_code == 2
    assert "H100" in missing.stderr


def test_studies_lists_the_newest_first(verified: Writer, make_study: MakeStudy, run: Run) -> None:
    make_study("younger", state="stopped")
    rows = json.loads(run("studies", "-f", "json").stdout)
    assert [(row["study"], row["state"]) for row in rows] == [
        ("younger", "stopped"),
        ("kinetics", "finished"),
    ]


def test_export(verified: Writer, run: Run, tmp_path: Path) -> None:
    flags = "--num-demux-threads 3 --sink-buffer-size 5 --subclip-duration 2.0\n"
    assert run("export", "kinetics").stdout == flags
    assert "NUM_DEMUX_THREADS=3\n" in run("export", "kinetics", "-f", "env").stdout
    assert run("export", "kinetics", "-f", "argfile").stdout.splitlines()[:2] == [
        "--num-demux-threads",
        "3",
    ]
    document = json.loads(run("export", "kinetics", "-f", "json").stdout)
    assert document["params"]["num_demux_threads"] == 3
    assert yaml.safe_load(run("export", "kinetics", "-f", "yaml").stdout) == document
    done = run("export", "kinetics", "-o", "winner.txt")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "winner.txt").read_text() == flags
    assert [path.name for path in tmp_path.glob("*winner*")] == ["winner.txt"]


def test_export_refuses_what_was_not_verified(verified: Writer, run: Run) -> None:
    refused = run("export", "kinetics", "--trial", "3")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--unverified" in refused.stderr
    allowed = run("export", "kinetics", "--trial", "3", "--unverified")
    assert "--num-demux-threads 4" in allowed.stdout
    failed = run("export", "kinetics", "--trial", "1", "--unverified")
    assert failed.exit_code == 2
    assert "hang" in failed.stderr


def test_a_verification_without_a_gain_says_so(make_study: MakeStudy, run: Run) -> None:
    writer = make_study("flat")
    writer.trial(0, 100.0, origin="baseline")
    writer.trial(1, 101.0, num_demux_threads=4)
    writer.verify(1, [100.0, 102.0, 99.0, 101.0], [101.0, 100.0, 100.0, 102.0])
    assert "no significant gain: 1.00x" in run("status", "flat").stdout
    assert "no gain" in run("best", "flat").stdout
    refused: Any = run("export", "flat")
    assert refused.exit_code == 2
    assert "no significant gain" in refused.stderr
