"""Every loader and every decoder at its tuned best, side by side in one run.

    python -m experiments.benchmarks.every_loader [--clips DIR] [-o every_loader.json]

The targets that `autotune` tunes, on the same clips, windows, frame size and batch size. A short
tuning pass finds the best of a small grid of each; then every block runs each of them once, in a
seeded random order, in fresh processes. Frames are extracted to JPEG files before; what that took
is told beside the table. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError
from autotune.media.decoders import DECODERS
from autotune.media.native import library_environment
from autotune.stats import ratio_interval
from autotune.trial import Params
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set
from experiments.benchmarks.contenders import Axis, Contender, threads
from experiments.benchmarks.loaders_report import Run, run_of

WHY_UNAVAILABLE = """
import json
from autotune.media.decoders import why_unavailable
print(json.dumps(why_unavailable()))
"""
FRAMES_TARGET = "frames"
"""The target whose data are the extracted frames."""


@dataclass(frozen=True)
class Extraction:
    """What it took to have frames on disk."""

    clips: int
    seconds: float
    mebibytes: float
    video_mebibytes: float


def missing_decoders() -> dict[str, str]:
    """Why a decoder cannot be used, asked in a process that finds the libraries as a worker does.

    Raises:
        AutotuneError: if it cannot be asked.
    """
    environment = {**os.environ, **library_environment("bundled", "cpu")}
    command = [sys.executable, "-c", WHY_UNAVAILABLE]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True)
    if asked.returncode != 0:
        raise AutotuneError(f"decoders: {asked.stderr.strip()}")
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def contenders(duration: float, workers: int, missing: Mapping[str, str]) -> list[Contender]:
    """Every target, those that decode video with every decoder that is not missing."""
    work: Params = {"subclip_duration": duration, "batch_size": 16}
    work |= {"scale_algorithm": "fast_bilinear"}
    processes: Axis = [{"num_workers": n} for n in range(workers + 2)]
    pool: Axis = [{"num_threads": n} for n in (1, workers, workers + 1, 2 * workers, 4 * workers)]
    decoding: Axis = [
        {"num_fetch_threads": 4, "num_decode_threads": n}
        for n in (workers, workers + 1, 2 * workers, 4 * workers)
    ]
    found = [
        Contender(
            "spdl_video",
            "spdl_video",
            {**work, "device": "cpu"},
            [threads(workers), [{"gc_policy": "between_epochs"}]],
            settings={"clips_per_fetch": 8},
        )
    ]
    for decoder in DECODERS:
        if decoder not in missing:
            decoded = {**work, "decoder": decoder}
            found.append(
                Contender(
                    f"torch_dataloader, {decoder}",
                    "torch_dataloader",
                    decoded,
                    [processes, [{"prefetch_factor": 4}]],
                )
            )
    found += [
        Contender(
            f"prefetch_cache, {decoder}", "prefetch_cache", {**work, "decoder": decoder},
            [pool, [{"cache_batches": 4}, {"cache_batches": 16}]],
        )
        for decoder in ("pyav", "spdl")
        if decoder not in missing
    ]  # fmt: skip
    found += [
        Contender(
            "frames, dataloader", FRAMES_TARGET, {**work, "reader": "dataloader"},
            [processes, [{"prefetch_factor": 4}]],
        ),
        Contender(
            "frames, spdl_threads", FRAMES_TARGET, {**work, "reader": "spdl_threads"}, [decoding]
        ),
    ]  # fmt: skip
    return found


def extract(videos: Path, frames: Path, workers: int) -> Extraction:
    """Extract every clip with the command that users have.

    Raises:
        AutotuneError: if it fails.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "autotune", "clips", "extract", str(videos), str(frames)]
    made = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True)
    if made.returncode != 0:
        raise AutotuneError(f"clips extract: {made.stderr.strip()}")
    return Extraction(
        clips=_count(videos),
        seconds=time.monotonic() - started,
        mebibytes=_mebibytes(frames),
        video_mebibytes=_mebibytes(videos),
    )


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _mebibytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


class Comparison:
    """The runs, on videos and on frames."""

    def __init__(self, runners: Mapping[bool, _common.Runner], duration: float) -> None:
        """Args:
        runners: by whether the data are extracted frames.
        duration: of a window, seconds.
        """
        self._runners = runners
        self._duration = duration
        self.runs: list[Run] = []
        self.best: dict[str, Params] = {}

    def tune(self, field: Sequence[Contender], seconds: float) -> None:
        """Find the best of each grid."""
        for contender in field:
            measure = partial(self._measure, contender, "tuning", 0, seconds)
            self.best[contender.name] = contender.tune(measure)

    def blocks(self, field: Sequence[Contender], rounds: int, seconds: float, seed: int) -> None:
        """Run everyone once a block, in random order."""
        order = random.Random(seed)
        for block in range(rounds):
            shuffled = list(field)
            order.shuffle(shuffled)
            for contender in shuffled:
                self._measure(contender, "block", block, seconds, self.best[contender.name])

    def _measure(
        self, contender: Contender, phase: str, block: int, seconds: float, params: Params
    ) -> float | None:
        runner = self._runners[contender.target == FRAMES_TARGET]
        settings = {**_common.SETTINGS, **contender.settings}
        result = runner.measure(contender.target, params, seconds, settings=settings)
        run = run_of(self._duration, contender.name, phase, block, params, result)
        self.runs.append(run)
        shown = run.failure or f"{run.samples_per_second:.1f} samples/s"
        _common.say(f"{phase} {block} {contender.name}: {shown}")
        return run.samples_per_second


def report(
    comparison: Comparison,
    field: Sequence[Contender],
    extraction: Extraction,
    missing: Mapping[str, str],
) -> str:
    """The table, the fastest first, each beside `torch_dataloader` with PyAV of its own block."""
    rates = {c.name: _rates(comparison.runs, c.name) for c in field}
    usual = rates["torch_dataloader, pyav"]
    rows = []
    for name, by_block in sorted(rates.items(), key=lambda item: -_middle(item[1])):
        blocks = sorted(by_block.keys() & usual.keys())
        ratio = None
        if len(blocks) >= 2 and name != "torch_dataloader, pyav":
            found = ratio_interval([by_block[b] for b in blocks], [usual[b] for b in blocks])
            ratio = f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})"
        mine = [r for r in comparison.runs if r.contender == name and r.phase == "block"]
        firsts = [r.time_to_first_batch for r in mine if r.time_to_first_batch is not None]
        tried = {key for c in field if c.name == name for axis in c.axes for a in axis for key in a}
        rows.append(
            [
                name,
                f"{_middle(by_block):.1f}",
                f"{min(by_block.values()):.1f} to {max(by_block.values()):.1f}",
                ratio,
                f"{statistics.median(firsts):.2f}" if firsts else None,
                _common.flags_of(comparison.best[name], *sorted(tried)),
            ]
        )
    header = ["loader", "samples/s", "range", "/ torch_dataloader, pyav", "first batch (s)", "best"]
    share = extraction.mebibytes / extraction.video_mebibytes
    return "\n".join(
        [
            _common.markdown_table(header, rows),
            "",
            f"Frames on disk: {extraction.clips} clips, {extraction.mebibytes:.1f} MiB "
            f"({share:.1f} times the videos), extracted in {extraction.seconds:.1f} s.",
            f"Not usable here, so not compared: {', '.join(missing)}." if missing else "",
            "",
        ]
    )


def _rates(runs: Sequence[Run], name: str) -> dict[int, float]:
    return {
        r.block: r.samples_per_second
        for r in runs
        if r.contender == name and r.phase == "block" and r.samples_per_second is not None
    }


def _middle(by_block: Mapping[int, float]) -> float:
    return statistics.median(by_block.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, default=_common.SHARED_CLIPS)
    parser.add_argument("--links", type=int, default=64, help="size of the data set")
    parser.add_argument("--duration", type=float, default=0.5, help="of a window, seconds")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a block's run")
    parser.add_argument("--tuning-seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved blocks")
    parser.add_argument("--workers", type=int, default=2, help="cores to tune around")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON file; a .md is written beside it")
    options = parser.parse_args(argv)
    try:
        with _common.scratch_folder("every_loader") as scratch:
            videos, names = linked_set(options.clips, scratch / "videos", options.links)
            extraction = extract(videos, scratch / "frames", options.workers)
            runners = {
                False: _common.Runner(videos, scratch, seed=options.seed),
                True: _common.Runner(scratch / "frames", scratch, seed=options.seed),
            }
            missing = missing_decoders()
            for decoder, reason in missing.items():
                _common.say(f"left out: {decoder}: {reason}")
            field = contenders(options.duration, options.workers, missing)
            comparison = Comparison(runners, options.duration)
            comparison.tune(field, options.tuning_seconds)
            comparison.blocks(field, options.rounds, options.seconds, options.seed)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    text = report(comparison, field, extraction, missing)
    print(text)
    if options.output is not None:
        document: dict[str, Any] = {
            "benchmark": "every_loader",
            "date": _common.today(),
            "machine": _common.machine_facts(),
            "clips": names,
            "missing_decoders": missing,
            "extraction": asdict(extraction),
            "best": comparison.best,
            "runs": [asdict(run) for run in comparison.runs],
        }
        _common.write_json(options.output, document)
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
