"""Measures a whole grid and keeps everything: one JSON line a measurement.

    python -m experiments.benchmarks.gpu_grid --data DIR|--clips DIR [--minutes 60] [-o grid.jsonl]

A line holds the parameters, the figures, every window with its stage statistics, wall seconds,
the timeline and the fingerprint of machine and data. Run again with the same output it goes on
where it ended. The order is shuffled by the seed, so that a part of the grid is a fair sample
of it; with ``--repeats`` every configuration is measured once before any is measured twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.exceptions import AutotuneError, InputError, UnsupportedError
from autotune.executors.node import prepare_node
from autotune.search_space import SearchSpace, find_space
from autotune.trial import Params, ProbeRequest
from experiments.benchmarks import _common
from experiments.benchmarks.clip_sets import linked_set

VARIED = (
    "subclip_duration",
    "num_demux_threads",
    "num_decode_threads",
    "sink_buffer_size",
    "process_mode",
    "decoder_threads",
    "batch_size",
)


def grid(options: argparse.Namespace) -> list[Params]:
    """Full configurations: the product of what is varied, the search space's defaults else.

    Raises:
        InputError: if a value is not one that the search space accepts.
    """
    space = SearchSpace.load(find_space("spdl_video"))
    axes: list[Sequence[Any]] = [
        _common.numbers(options.durations),
        _common.whole_numbers(options.demux),
        _common.whole_numbers(options.decode),
        _common.whole_numbers(options.sink),
        [mode for mode in options.modes.split(",") if mode],
        _common.whole_numbers(options.decoder_threads),
        _common.whole_numbers(options.batch),
    ]
    return [
        space.complete({"device": options.device, **dict(zip(VARIED, values, strict=True))}, "grid")
        for values in itertools.product(*axes)
    ]


def key_of(params: Params) -> str:
    """Names a configuration, whatever order its parameters stand in."""
    return json.dumps(params, sort_keys=True)


def recorded(path: Path) -> Counter[str]:
    """How often each configuration is in the file. A last line that was cut off is dropped.

    Raises:
        InputError: if another line is no JSON.
    """
    found: Counter[str] = Counter()
    if not path.exists():
        return found
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            found[key_of(json.loads(line)["params"])] += 1
        except (ValueError, KeyError) as error:
            if number == len(lines) and not line.endswith("\n"):
                path.write_text("".join(lines[:-1]), encoding="utf-8")
                break
            raise InputError(
                f"{path}, line {number}: is no measurement ({error}); move the file away"
            ) from error
    return found


def order(configurations: Sequence[Params], repeats: int, seed: int) -> list[Params]:
    """All repeats: each round is shuffled anew, and no round begins before the last ended."""
    shuffle = random.Random(seed)
    rounds: list[Params] = []
    for _ in range(repeats):
        once = list(configurations)
        shuffle.shuffle(once)
        rounds += once
    return rounds


def record(options: argparse.Namespace, scratch: Path) -> tuple[int, int]:
    """Measure what is not recorded yet, until the time is up.

    Returns:
        how many measurements were made, and how many are still to make.
    """
    deadline = time.monotonic() + 60 * options.minutes
    configurations = grid(options)
    runner = _common.Runner(options.data.absolute(), scratch, seed=options.seed)
    node = prepare_node(
        ProbeRequest(
            study="gpu_grid",
            target="spdl_video",
            params=configurations[0],
            settings=_common.SETTINGS,
            data_dir=str(options.data.absolute()),
            cache_dir=str(scratch),
            seed=options.seed,
        ),
        cwd=str(_common.REPOSITORY),
    )
    if node.error is not None:
        raise (InputError if node.error_kind == "input" else UnsupportedError)(node.error)
    fingerprint = node.fingerprint.model_dump(mode="json")
    have = recorded(options.output)
    todo = []
    for params in order(configurations, options.repeats, options.seed):
        if have[key_of(params)] > 0:
            have[key_of(params)] -= 1
        else:
            todo.append(params)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    per_run = options.seconds + 5.0
    with open(options.output, "a", encoding="utf-8") as file:
        for done, params in enumerate(todo):
            if time.monotonic() + per_run > deadline:
                return done, len(todo) - done
            began = time.monotonic()
            result = runner.measure("spdl_video", params, options.seconds)
            per_run = time.monotonic() - began
            line = {
                "params": params,
                "samples_per_second": _common.rate_of(result),
                "result": result.model_dump(mode="json"),
                "fingerprint": fingerprint,
            }
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            rate = _common.rate_of(result)
            shown = _common.why_failed(result) if rate is None else f"{rate:.1f} samples/s"
            _common.say(f"{done + 1}/{len(todo)} {_common.flags_of(params, *VARIED)}: {shown}")
    return len(todo), 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 complete, 1 time was up before the end, 2 where the input is wrong."""
    p = argparse.ArgumentParser(prog="python -m experiments.benchmarks.gpu_grid")
    data = p.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, help="data folder")
    data.add_argument("--clips", type=Path, help="real clips: 64 links to those of 340x256 in it")
    p.add_argument("--device", choices=["nvdec", "cpu"], default="nvdec")
    p.add_argument("--durations", default="0.5,1,2,4", help="subclip durations in seconds")
    p.add_argument("--demux", default="1,2,3,4,6,8", help="demux threads")
    p.add_argument("--decode", default="2,4,7,10,14", help="decode threads")
    p.add_argument("--sink", default="3,5", help="sink buffer sizes")
    p.add_argument("--modes", default="in_process,subprocess", help="process modes")
    p.add_argument("--decoder-threads", default="1", help="threads of one decoder, on the CPU")
    p.add_argument("--batch", default="16", help="batch sizes")
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--seconds", type=float, default=4.0, help="length of a measurement")
    p.add_argument("--minutes", type=float, default=60.0, help="begin no measurement after")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path)
    options = p.parse_args(argv)
    if options.output is None:
        name = f"spdl_video_{options.device}_{_common.today()}.jsonl"
        options.output = _common.REPOSITORY / "experiments" / "recorded" / name
    try:
        with _common.scratch_folder("grid") as scratch:
            if options.data is None:
                options.data, _ = linked_set(options.clips, scratch)
            done, left = record(options, scratch)
    except AutotuneError as error:
        _common.say(f"error: {error}")
        return 2
    print(f"{done} measured, {left} left; {options.output}")
    return 0 if left == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
