"""Samples/s on NVDEC by thread counts, in both topologies, the most telling ones first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from autotune.trial import Params, TrialResult
from experiments.benchmarks import _common

TOPOLOGIES = ("in_process", "subprocess")
DECODE_THREADS = range(1, 15)
DEMUX_THREADS = range(1, 9)

HELD: Params = {"num_demux_threads": 4, "num_decode_threads": 7, "num_fetch_threads": 4}
"""Around the published winner: what the thread count that is not varied is held at."""

GIVE_UP_AFTER = 2
"""So many failures before the first success: it will not get better."""


def plan(device: str = "nvdec", duration: float = 0.5) -> tuple[list[Params], list[Params]]:
    """The configurations to run first, and the rest of the sweep; none twice."""
    base: Params = {"device": device, "subclip_duration": duration, "batch_size": 16, **HELD}

    def grid(mode: str, decode: Iterable[int], demux: Iterable[int]) -> list[Params]:
        mine: Params = {**base, "process_mode": mode}
        return [{**mine, "num_decode_threads": n} for n in decode] + [
            {**mine, "num_demux_threads": n} for n in demux
        ]

    first = [
        *grid("in_process", (7, 1, 2, 4, 10, 14), (1, 2, 3, 6, 8)),
        *grid("subprocess", (7, 1, 4, 14), (1, 3, 8)),
    ]
    rest = [c for mode in TOPOLOGIES for c in grid(mode, DECODE_THREADS, DEMUX_THREADS)]
    return _unique(first), [c for c in _unique(rest) if c not in first]


def _unique(configurations: Iterable[Params]) -> list[Params]:
    found: list[Params] = []
    for configuration in configurations:
        if configuration not in found:
            found.append(configuration)
    return found


def row_of(params: Params, result: TrialResult) -> dict[str, Any]:
    """What is kept of one measurement."""
    row: dict[str, Any] = {
        "params": params,
        "state": result.state,
        "wall_seconds": result.wall_seconds,
        "timeline": result.timeline,
    }
    if result.measurement is None:
        return row | {"failure": _common.why_failed(result), "log_tail": result.log_tail[-2000:]}
    return row | result.measurement.model_dump(mode="json")


def sweep(
    runner: _common.Runner,
    configurations: Sequence[Params],
    rows: list[dict[str, Any]],
    deadline: float,
    seconds: float,
) -> list[Params]:
    """Measure until the deadline (time.monotonic); appends to ``rows``.

    Returns:
        the configurations that were left out.
    """
    per_run = seconds + 8.0
    for index, params in enumerate(configurations):
        failed = [row for row in rows if "failure" in row]
        hopeless = len(failed) == len(rows) >= GIVE_UP_AFTER
        if hopeless or time.monotonic() + per_run > deadline:
            return list(configurations[index:])
        began = time.monotonic()
        result = runner.measure("spdl_video", params, seconds, startup_seconds=60.0)
        rows.append(row_of(params, result))
        per_run = max(seconds + 3.0, time.monotonic() - began)
        rate = _common.rate_of(result)
        shown = _common.why_failed(result) if rate is None else f"{rate:.0f} samples/s"
        names = ("process_mode", "num_demux_threads", "num_decode_threads")
        _common.say(f"{_common.flags_of(params, *names)}: {shown}")
    return []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, by topology and thread counts."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        p = row["params"]
        return p["process_mode"], p["num_demux_threads"], p["num_decode_threads"]

    cells = []
    for row in sorted(rows, key=key):
        resources = row.get("resources") or {}
        cells.append(
            [
                *key(row),
                _shown(row.get("samples_per_second"), "{:.0f}"),
                _shown(row.get("time_to_first_batch"), "{:.2f}"),
                _shown(resources.get("nvdec_percent"), "{:.0f}"),
                _shown(resources.get("cpu_percent"), "{:.0f}"),
                _shown(resources.get("gpu_memory_gib"), "{:.1f}"),
                row.get("failure", ""),
            ]
        )
    header = [
        "process_mode",
        "demux threads",
        "decode threads",
        "samples/s",
        "first batch (s)",
        "NVDEC %",
        "CPU %",
        "GPU GiB",
        "failure",
    ]
    return _common.markdown_table(header, cells)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
