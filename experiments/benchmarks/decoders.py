"""Seconds for N clips, per decoder, in one process: `media.decoders.timing` as a command.

    python -m experiments.benchmarks.decoders [--data-dir DIR] [--duration 0.5] [--blocks 5]

Prints a table to stderr and JSON to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from autotune.manifest import scan
from autotune.media.decoders import Window
from autotune.media.decoders.timing import Timing, time_decoders
from autotune.media.native import library_environment
from experiments.benchmarks._common import SHARED_CLIPS, say

_STARTED = "AUTOTUNE_BENCHMARK_STARTED"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=SHARED_CLIPS)
    parser.add_argument("--duration", type=float, default=0.5, help="seconds of each clip")
    parser.add_argument("--start", type=float, default=0.0, help="where the window begins")
    parser.add_argument("--threads", type=int, default=1, help="threads of each decoder")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    if _STARTED not in os.environ:  # libraries are found by the environment a process starts with
        environment = {**os.environ, **library_environment(), _STARTED: "1"}
        command = [sys.executable, "-m", "experiments.benchmarks.decoders", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)
    manifest = scan(options.data_dir)
    clips = [(manifest.path(i), manifest.paths[i]) for i in range(len(manifest))]
    window = Window(options.start, options.duration, threads=options.threads)
    timings = time_decoders(clips, window, options.blocks)
    say(table(timings, len(clips)))
    print(json.dumps({"window": asdict(window), "clips": len(clips),
                      "decoders": [asdict(timing) for timing in timings]}))  # fmt: skip


def table(timings: list[Timing], clips: int) -> str:
    """The figures as text, the fastest first."""
    measured = sorted((t for t in timings if t.seconds), key=lambda t: t.median or 0.0)
    lines = [f"{'decoder':<14} {f's for {clips} clips':>16} {'min':>8} {'max':>8}  frames  failed"]
    for t in measured:
        lines.append(
            f"{t.decoder:<14} {t.median:>16.3f} {min(t.seconds):>8.3f} {max(t.seconds):>8.3f}"
            f"  {t.decoded_frames:>6}  {len(t.failed):>6}"
        )
    lines += [f"{t.decoder:<14} not measured: {t.unavailable}" for t in timings if t.unavailable]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
