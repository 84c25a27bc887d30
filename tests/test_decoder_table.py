"""`autotune compare --decoders`: seconds for the clips, per decoder."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from autotune import decoder_table as module
from autotune.decoder_table import DecoderFigures, TableSettings, decoder_table
from autotune.exceptions import InputError, MeasurementFailed
from autotune.media.decoders import DECODERS, Window
from tests.made_clips import write_clips
from tests.studies import Run, run, url

__all__ = ["run", "url"]  # fixtures

SETTINGS = TableSettings(Window(0.0, 0.5, num_frames=4, size=(32, 48)), blocks=2)

STAND_IN = """
import json, os, signal, sys, time
request = json.load(sys.stdin)
for name in request["names"]:
    print(name, time.monotonic(), flush=True)
    if name == "{bad}":
        {action}
print(json.dumps([
    {{"decoder": n, "seconds": [0.25, 0.5], "decoded": len(request["clips"]), "decoded_frames": 9}}
    for n in request["names"]
]))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def stand_in(monkeypatch: pytest.MonkeyPatch, bad: str, action: str) -> None:
    script = STAND_IN.format(bad=bad, action=action)
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "-c", script])


def test_every_decoder_is_measured_or_says_why_not(clips: Path) -> None:
    (bad := clips / "class_0" / "bad.mp4").write_text("no video")
    try:
        table = decoder_table(clips, SETTINGS)
    finally:
        bad.unlink()
    assert sorted(row.decoder for row in table) == sorted(DECODERS)
    measured = [row for row in table if row.seconds is not None]
    assert {"pyav", "spdl"} <= {row.decoder for row in measured}
    for row in measured:
        assert row.seconds is not None
        assert row.seconds_min is not None
        assert row.seconds_max is not None
        assert 0 < row.seconds_min <= row.seconds <= row.seconds_max
        assert row.clips_per_second == pytest.approx(7 / row.seconds)
        assert (row.clips, row.failed, row.blocks) == (7, 1, 2)
        assert [clip.name for clip in row.failed_clips] == ["class_0/bad.mp4"]
        assert row.decoded_frames >= 7 * 4
        assert 0 < sum(row.parts.values()) <= row.seconds_max
        assert row.version
        assert row.unavailable is None
    assert [row.seconds for row in measured] == sorted(row.seconds or 0 for row in measured)
    for row in table[len(measured) :]:
        assert row.unavailable
        assert "Remedy" in row.unavailable or "leave" in row.unavailable
        assert (row.clips, row.version) == (0, None)


def test_a_large_folder_is_sampled_by_the_seed(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {}
    for seed in (0, 0, 1, 2):
        settings = TableSettings(clips=3, seed=seed)
        found = module._chosen(module.scan(clips), settings)
        assert len(found) == 3
        assert chosen.setdefault(seed, found) == found
    assert len({str(found) for found in chosen.values()}) > 1


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"ended the process .* \(SIGSEGV\)"),
        ("sys.exit(3)", r"ended the process .* \(status 3\)"),
        ("time.sleep(600)", "did not come back within 2 s"),
    ],
)
def test_a_decoder_that_ends_or_stops_the_process_is_named_and_the_others_are_measured(
    clips: Path, monkeypatch: pytest.MonkeyPatch, action: str, told: str
) -> None:
    stand_in(monkeypatch, "decord", action)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 1.0)
    table = decoder_table(clips, dataclasses.replace(SETTINGS, seconds=0.5))
    assert [row.decoder for row in table if row.seconds is None] == ["decord"]
    assert re.search(f"^decoder: decord: .*{told}; update", str(table[-1].unavailable))
    assert {row.seconds for row in table[:-1]} == {0.375}


def test_a_process_that_ends_before_any_decoder_or_is_too_slow_for_all_is_no_table(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(MeasurementFailed, match=r"ended before it decoded \(status 3\)"):
        decoder_table(clips, SETTINGS)
    stand_in(monkeypatch, "nobody", "pass")
    script = module.COMMAND[-1].replace("if name", "time.sleep(0.3)\n    if name")
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "-c", script])
    monkeypatch.setattr(module, "_GRACE_SECONDS", 1.0)
    with pytest.raises(MeasurementFailed, match="did not end within 2 s"):
        decoder_table(clips, TableSettings(seconds=0.25))


def test_the_data_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video"):
        decoder_table(tmp_path)


# ------------------------------------------------------------------ the command

ROWS = [
    DecoderFigures(
        decoder="pyav",
        version="18.1.0",
        clips=7,
        seconds=0.5,
        seconds_min=0.4,
        seconds_max=0.75,
        clips_per_second=14.0,
        blocks=5,
        decoded_frames=1234,
        parts={"decode": 0.4},
        failed=0,
    ),
    DecoderFigures(
        decoder="opencv",
        version="4.13",
        clips=6,
        seconds=0.25,
        seconds_min=0.25,
        seconds_max=0.25,
        clips_per_second=24.0,
        blocks=5,
        decoded_frames=1000,
        failed=1,
        failed_clips=[{"name": "a/b.mp4", "cause": "cannot be opened"}],  # type: ignore[list-item]
    ),
    DecoderFigures(
        decoder="torchcodec",
        version=None,
        clips=0,
        seconds=None,
        seconds_min=None,
        seconds_max=None,
        clips_per_second=None,
        blocks=0,
        decoded_frames=0,
        failed=0,
        unavailable="decoder: torchcodec: No module. Remedy: pip install torchcodec",
    ),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TableSettings]:
    found: list[TableSettings] = []

    def answer(data_dir: Path, settings: TableSettings) -> list[DecoderFigures]:
        found.append(settings)
        return ROWS

    monkeypatch.setattr(module, "decoder_table", answer)
    return found


def test_the_table_names_what_does_not_compare(run: Run, asked: list[TableSettings]) -> None:
    words = ("--duration", "0.5", "--start", "1", "--threads", "2", "--blocks", "3", "--clips", "9")
    done = run("compare", "--decoders", "--data-dir", ".", *words, "--timeout", "30s")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "7 clips, 16 frames each of 0.5 s from 1 s, threads 2:"
    assert lines[1].split() == [
        "decoder", "seconds", "least", "most", "clips/s", "decoded", "note",
    ]  # fmt: skip
    assert lines[2].split() == ["pyav", "0.500", "0.400", "0.750", "14.0", "1,234"]
    assert "1 clip failed, so its time is for fewer clips: a/b.mp4: cannot be opened" in lines[3]
    assert lines[4].endswith("not measured: No module. Remedy: pip install torchcodec")
    [settings] = asked
    assert settings.window == Window(1.0, 0.5, threads=2)
    assert (settings.blocks, settings.clips, settings.seconds) == (3, 9, 30.0)


def test_the_other_formats(run: Run, asked: list[TableSettings]) -> None:
    def printed(fmt: str) -> str:
        return run("compare", "--decoders", "--data-dir", ".", "-f", fmt).stdout

    rows = json.loads(printed("json"))
    assert [row["decoder"] for row in rows] == ["pyav", "opencv", "torchcodec"]
    assert rows[0]["parts"] == {"decode": 0.4}
    assert yaml.safe_load(printed("yaml")) == rows
    table = list(csv.DictReader(io.StringIO(printed("csv"))))
    assert [row["seconds"] for row in table] == ["0.5", "0.25", ""]
    assert printed("value").splitlines()[0].split("\t")[:2] == ["pyav", "0.5"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--decoders",), "--data-dir: is missing"),
        (("--decoders", "--data-dir", ".", "--duration", "0"), "--duration: not accepted"),
        (("--decoders", "--data-dir", ".", "--start", "-1"), "--start: not accepted"),
        (("--decoders", "--data-dir", ".", "a"), "A: has no effect with --decoders"),
        (("--decoders", "--data-dir", ".", "--max-time", "3s"), "--max-time: has no effect"),
        (("a", "b", "--duration", "2"), "--duration: has no effect without --decoders"),
        (("a", "b", "--blocks", "3"), "--blocks: 3 is not accepted; accepted: 4 or more"),
        (("a",), "give A and B"),
        ((), "give A and B"),
    ],
)
def test_bad_input(run: Run, words: tuple[str, ...], told: str) -> None:
    done = run("compare", *words)
    assert done.exit_code == 2, done.stderr
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
