"""Recorded runs: from what `gpu_grid` wrote to a table for the repository, and back.

    python -m experiments.benchmarks.recorded RAW.jsonl -o experiments/recorded/NAME.jsonl.gz

`gpu_grid` keeps everything a measurement gave, log and command line included. The table keeps
what a search or a stopping rule can be replayed from: configuration, figures, and the arrival of
every batch. Its columns are described in experiments/recorded/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError
from autotune.measuring.figures import Record
from autotune.trial import Params, Window
from experiments.benchmarks import _common

FORMAT = 1

_FIGURES = (
    "samples_per_second",
    "within_low",
    "within_high",
    "time_to_first_batch",
    "warmup_seconds",
    "seconds",
    "steady",
    "unique_frames",
    "failed",
)
_COUNTS = ("batches", "samples", "frames", "unique_frames", "decoded_frames", "failed")
_MACHINE = ("cpu", "cores", "memory_gib", "python", "gpus", "gpu_driver", "packages", "libraries")
_BUFFERS = ("aggregate", "collate", "sink")
_IN_HAND = 4
"""Batches between the buffers of `spdl_video`, and the first batch, which is not counted."""


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    params: Params
    samples_per_second: float
    wall_seconds: float
    """From starting its process until nothing of it was left."""
    drained: int
    """Batches that may have been waiting in buffers when counting began."""
    windows: tuple[Window, ...]

    @property
    def key(self) -> str:
        """Names the configuration."""
        return json.dumps(self.params, sort_keys=True)

    @property
    def counted_seconds(self) -> float:
        """How long it was counted for."""
        return self.windows[-1].end - self.windows[0].start

    def growing(self) -> Iterator[Record]:
        """The run as the worker saw it: one record that has one more window each time."""
        record = Record(drained=self.drained)
        for window in self.windows:
            record.add(window)
            yield record


def load(path: Path) -> list[Run]:
    """The runs of a table, in the order they were made; those that failed are left out.

    Raises:
        InputError: if it is no such table.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head, *lines = (json.loads(line) for line in file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a recorded table ({error})") from error
    if head.get("format") != FORMAT:
        raise InputError(f"{path}: format {head.get('format')!r}; accepted is {FORMAT}")
    return [_run(line) for line in lines if line["samples_per_second"] is not None]


def _run(line: Mapping[str, Any]) -> Run:
    windows = tuple(Window(index=i, **window) for i, window in enumerate(line["windows"]))
    return Run(
        params=line["params"],
        samples_per_second=line["samples_per_second"],
        wall_seconds=line["wall_seconds"],
        drained=line["drained"],
        windows=windows,
    )


def export(raw: Path, output: Path) -> int:
    """Write the table of what `gpu_grid` recorded; returns how many runs it holds.

    Raises:
        InputError: if ``raw`` is not what it writes, or its runs are of several machines.
    """
    try:
        rows = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
        machines = {json.dumps(_machine(row), sort_keys=True) for row in rows}
        lines = [_line(row) for row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{raw}: is not what gpu_grid writes ({error!r})") from error
    if len(machines) != 1:
        raise InputError(f"{raw}: holds runs of {len(machines)} machines; accepted is one")
    head = {
        "format": FORMAT,
        "machine": _machine(rows[0]),
        "data": rows[0]["fingerprint"]["data"],
        "settings": _common.SETTINGS,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (head, *lines))
    # no time in the header: the same runs give the same file
    output.write_bytes(gzip.compress(text.encode(), mtime=0))
    return len(lines)


def _machine(row: Mapping[str, Any]) -> dict[str, Any]:
    found = row["fingerprint"]["machine"]
    return {name: found[name] for name in _MACHINE if name in found}


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    result = row["result"]
    measurement = result["measurement"]
    line = {
        "params": row["params"],
        "samples_per_second": row["samples_per_second"],
        "wall_seconds": round(result["wall_seconds"], 3),
        "failure": None if result["failure"] is None else result["failure"]["kind"],
        "figures": None if measurement is None else {n: measurement[n] for n in _FIGURES},
        "drained": 0,
        "windows": [],
    }
    windows = result["windows"]
    if measurement is None or not windows:
        return line
    sizes = {stage["name"]: stage["queue_size"] for stage in measurement["stages"]}
    line["drained"] = _IN_HAND + sum(sizes[name] for name in _BUFFERS)
    began = windows[0]["start"]
    line["windows"] = [_window(window, began) for window in windows]
    return line


def _window(window: Mapping[str, Any], began: float) -> dict[str, Any]:
    def since(moment: float) -> float:
        return round(moment - began, 6)

    return {
        "start": since(window["start"]),
        "end": since(window["end"]),
        **{name: window[name] for name in _COUNTS},
        "busy_seconds": round(window["busy_seconds"], 6),
        "arrivals": [since(arrival) for arrival in window["arrivals"]],
        "batch_samples": window["batch_samples"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 done, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.recorded")
    p.add_argument("raw", type=Path, help="what gpu_grid wrote")
    p.add_argument("-o", "--output", type=Path, required=True, help="the table, .jsonl.gz")
    options = p.parse_args(argv)
    try:
        count = export(options.raw, options.output)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    print(f"{count} runs; {options.output}, {options.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
