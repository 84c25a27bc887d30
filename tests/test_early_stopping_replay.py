"""Recorded tables, and the replay of the stopping rule on them and on synthetic runs."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.exceptions import InputError
from autotune.measuring.early_stopping import EarlyStopping
from autotune.measuring.measurement import Looks
from autotune.trial import Incumbent, MeasurementSettings
from experiments.benchmarks import early_stopping, recorded
from experiments.benchmarks.early_stopping_synthetic import SHAPES, draw

SETTINGS = MeasurementSettings()
MACHINE = {"hostname": "box", "cpu": "C", "cores": 2, "packages": {"spdl": "1"}}


def raw_line(threads: int, rate: float, seed: int = 0, failed: bool = False) -> dict[str, Any]:
    """What `gpu_grid` writes of one run: batches of 8 for 4 s."""
    source = random.Random(seed)
    times = list(itertools.accumulate(8 / rate * source.uniform(0.9, 1.1) for _ in range(2000)))
    times = [7.0 + t for t in times if t < 4.0]
    chunks = [times[i : i + 5] for i in range(0, len(times), 5)]
    starts = [7.0, *(chunk[-1] for chunk in chunks)]
    windows = [
        {
            "index": i,
            "start": starts[i],
            "end": chunk[-1],
            **{name: 8 * len(chunk) for name in recorded._COUNTS},
            "busy_seconds": 0.0,
            "arrivals": chunk,
            "batch_samples": [8] * len(chunk),
            "stages": [],
        }
        for i, chunk in enumerate(chunks)
    ]
    stages = [{"name": name, "queue_size": 2} for name in ("decode", "aggregate", "collate")]
    measurement: dict[str, Any] = dict.fromkeys(recorded._FIGURES, 1.0)
    measurement["stages"] = [*stages, {"name": "sink", "queue_size": 3}]
    return {
        "params": {"num_decode_threads": threads},
        "samples_per_second": None if failed else rate,
        "result": {
            "wall_seconds": 6.5,
            "failure": {"kind": "hang"} if failed else None,
            "measurement": None if failed else measurement,
            "windows": [] if failed else windows,
            "command_line": "/home/somebody/python",
            "log_tail": "",
        },
        "fingerprint": {"machine": MACHINE, "data": {"clips": 3}},
    }


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rates = [(1, 240.0), (2, 600.0), (3, 608.0), (4, 592.0), (2, 604.0)]
    lines = [raw_line(threads, rate, seed=i) for i, (threads, rate) in enumerate(rates)]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(x) + "\n" for x in [*lines, raw_line(5, 1, failed=True)]))
    assert recorded.export(raw, tmp_path / "table.jsonl.gz") == 6
    return tmp_path / "table.jsonl.gz"


def test_a_table_keeps_every_arrival_and_nothing_of_the_machines_folders(table: Path) -> None:
    runs = recorded.load(table)
    assert [run.samples_per_second for run in runs] == [240.0, 600.0, 608.0, 592.0, 604.0]
    assert len({run.key for run in runs}) == 4
    assert {run.drained for run in runs} == {11}
    assert runs[0].windows[0].start == 0.0
    [*_, last] = runs[1].growing()
    assert last.times == sorted(last.times)
    assert len(last.times) == sum(w.batches for w in runs[1].windows) / 8
    text = gzip.decompress(table.read_bytes()).decode()
    assert "somebody" not in text
    assert "box" not in text
    assert json.loads(text.splitlines()[0])["machine"]["cores"] == 2


def test_what_is_no_table_is_refused(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl.gz"
    other.write_bytes(gzip.compress(b'{"format": 99}\n'))
    with pytest.raises(InputError, match="format 99; accepted is 1"):
        recorded.load(other)
    with pytest.raises(InputError, match="cannot be read"):
        recorded.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not what gpu_grid writes"):
        recorded.export(table, tmp_path / "again.jsonl.gz")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_replay_says_what_the_worker_would_have_done(shape: Any) -> None:
    stopped = 0
    for seed in range(6):
        trial = draw(np.random.default_rng(seed), shape, 0.3, 12.0)
        said = early_stopping.replay(trial.growing(), SETTINGS).stopped_after(trial.incumbent)
        looks = Looks(SETTINGS, EarlyStopping(trial.incumbent, SETTINGS))
        ended = next((record for record in trial.growing() if looks.ended(record)), None)
        assert looks.stopped_early == (said is not None)
        if said is not None:
            assert ended is not None
            assert ended.times[-1] - ended.start == said
            stopped += 1
    # out of a large buffer too few bursts come in 12 s to tell
    assert stopped > 0 or shape.burst == 16, "some of those at a third of the optimum are stopped"


def test_a_slow_configuration_is_stopped_and_saves_time(table: Path) -> None:
    configurations = early_stopping.configurations(recorded.load(table), SETTINGS)
    assert sorted(len(c.runs) for c in configurations) == [1, 1, 1, 2]
    found = early_stopping.on_recorded(configurations, draws=20, searches=20, seed=0)
    assert found.near_optimum.asked >= 20
    assert found.near_any.hits == 0
    assert 0 < found.stopped.value < 0.3
    assert 0 < found.total < found.counted < 0.3
    text = early_stopping.report(found, [], "t")
    assert "within 3 % of the optimum, stopped | 0.00%" in text


def test_luck_is_given_to_the_run(table: Path) -> None:
    slow = early_stopping.configurations(recorded.load(table), SETTINGS)[0].runs[0]
    incumbent = Incumbent(samples_per_second=600.0, spread=0.01, dof=20)
    assert slow.stopped_after(incumbent) is not None
    assert slow.stopped_after(incumbent, luck=10.0) is None


def test_shares_have_exact_intervals() -> None:
    share = early_stopping.Share()
    assert str(share) == "none"
    for hit in [True] + [False] * 99:
        share.add(hit)
    assert str(share) == "1.00% (0.03% to 5.45%; 1 of 100)"
