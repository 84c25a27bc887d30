"""Proves the NVDEC path on this machine: ``make gpu-check``.

Looks for the libraries and engines, decodes clips on NVDEC and compares them with the reference,
measures samples/s by decode and demux threads in both topologies, and runs a short study that
trains. Needs no Ray. Writes ``gpu_check_<gpu>_<date>.json`` and ``.md`` after every section to
the folder named by ``OUT``; a section that fails is recorded with its cause and the next one runs.

On a machine without a GPU it says what is missing and exits with status 2.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune import machine
from autotune.media import nvidia_libraries
from autotune.media.library_search import find_library
from autotune.trial import ConsumerSpec, Params
from experiments.benchmarks import _common

BAD_INPUT = 2
LEAST_PSNR = 35.0
WINDOWS = ((0.0, 0.5), (0.0, 2.0), (1.3, 0.5), (3.0, 1.0))
DECODE_THREADS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
DEMUX_THREADS = (1, 2, 3, 4, 5, 6, 7, 8)
BASE: Params = {
    "device": "nvdec",
    "subclip_duration": 0.5,
    "num_fetch_threads": 8,
    "num_demux_threads": 3,
    "num_decode_threads": 7,
    "sink_buffer_size": 5,
    "process_mode": "in_process",
    "arena": "off",
    "backend_buffer_size": 3,
    "decoder_threads": 1,
    "gc_policy": "automatic",
    "subclip_start": "first",
    "batch_size": 16,
    "scale_algorithm": "bicubic",
}


def missing() -> list[str]:
    """What NVDEC needs and this machine lacks, each with its remedy. Imports nothing heavy."""
    lacks = []
    if not machine.find_gpus():
        lacks.append(
            "no NVIDIA GPU is visible to NVML: run on a GPU machine, install NVIDIA's driver, or "
            "start the container with --gpus all"
        )
    return lacks + nvidia_libraries.missing()


def psnr(ours: Any, reference: Any) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of one shape; infinite if equal.

    Raises:
        ValueError: if the shapes differ.
    """
    if ours.shape != reference.shape:
        raise ValueError(f"shape {tuple(ours.shape)}, the reference has {tuple(reference.shape)}")
    error = float(((ours.astype("float64") - reference.astype("float64")) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255.0**2 / error)


class Report:
    """Sections with their results, written to disk after each."""

    def __init__(self, folder: Path, gpu: str, deadline: float) -> None:
        name = re.sub(r"[^A-Za-z0-9]+", "_", gpu).strip("_").lower()
        self._path = folder / f"gpu_check_{name}_{_common.today()}.json"
        self._deadline = deadline
        self.document: dict[str, Any] = {"gpu": gpu, "sections": {}}
        self._tables: list[str] = []
        self.failed = False

    @property
    def time_left(self) -> float:
        """Seconds until no further measurement starts."""
        return self._deadline - time.monotonic()

    def section(self, title: str, body: Callable[[], tuple[Any, str]]) -> None:
        """Run a section and keep what it gave: a JSON-able document and Markdown."""
        if self.time_left <= 0:
            result: Any = {"skipped": "out of time; raise --minutes"}
            text = "skipped: out of time"
        else:
            _common.say(f"== {title}")
            try:
                result, text = body()
            except Exception as error:  # a report names what failed and goes on
                self.failed = True
                result = {"error": f"{type(error).__name__}: {error}"}
                result["traceback"] = traceback.format_exc()
                text = f"**failed**: `{type(error).__name__}: {error}`"
        self.document["sections"][title] = result
        self._tables.append(f"## {title}\n\n{text}\n")
        self.write()

    def write(self) -> None:
        """Flush both files."""
        _common.write_json(self._path, self.document)
        head = f"# GPU check: {self.document['gpu']}, {_common.today()}\n\n"
        self._path.with_suffix(".md").write_text(head + "\n".join(self._tables), encoding="utf-8")
        _common.say(f"written: {self._path}")


def libraries() -> tuple[Any, str]:
    """GPU, driver, and every library of the path with the file that was found."""
    names = ("libcuda.so.1", "libnvcuvid.so.1", nvidia_libraries.needed_runtime())
    found = {name: str(find_library(name, usual_folders=True)) for name in names}
    document = {"gpus": machine.find_gpus(), "libraries": found, **_common.machine_facts()}
    rows = [[name, path] for name, path in found.items()]
    return document, _common.markdown_table(["library", "found"], rows)


def decoding(clips: Sequence[Path]) -> tuple[Any, str]:
    """Every clip and window on NVDEC against the reference.

    Raises:
        RuntimeError: if a clip differs by more than allowed or does not stay on the GPU.
    """
    from autotune.exceptions import AutotuneError
    from autotune.media.demux import demux_window
    from autotune.media.nvdec import decode_nvdec
    from autotune.media.reference import decode_reference

    size = {"num_frames": 16, "width": 112, "height": 112}
    rows: list[list[object]] = []
    for path in clips:
        data = path.read_bytes()
        for start, duration in WINDOWS:
            row: list[object] = [path.name, f"{start:g} + {duration:g} s"]
            try:
                expected = decode_reference(data, path.name, start, duration, **size).frames
                clip = demux_window(data, path.name, start, duration, for_nvdec=True)
                decoded = decode_nvdec(clip, **size)
                frames = decoded.frames
                value = psnr(frames.permute(0, 2, 3, 1).cpu().numpy(), expected)
                row += [frames.device.type, value, value >= LEAST_PSNR, ""]
            except AutotuneError as error:
                row += ["-", None, False, str(error)]
            rows.append(row)
    header = ["clip", "window", "device", "PSNR dB", "ok", "cause"]
    text = _common.markdown_table(header, rows)
    if not all(row[4] and row[2] == "cuda" for row in rows):
        raise RuntimeError(f"not every clip was decoded on the GPU as the reference:\n{text}")
    return {"rows": [dict(zip(header, row, strict=True)) for row in rows]}, text


def sweep(
    runner: _common.Runner, report: Report, parameter: str, values: Sequence[int], seconds: float
) -> tuple[Any, str]:
    """samples/s by one parameter, in both topologies."""
    rows = []
    for mode in ("in_process", "subprocess"):
        for value in values:
            if report.time_left <= 0:
                break
            params = {**BASE, parameter: value, "process_mode": mode}
            result = runner.measure("spdl_video", params, seconds)
            measured = result.measurement
            rows.append(
                {
                    "process_mode": mode,
                    parameter: value,
                    "samples/s": None if measured is None else measured.samples_per_second,
                    "NVDEC %": None if measured is None else measured.resources.nvdec_percent,
                    "CPU %": None if measured is None else measured.resources.cpu_percent,
                    "failure": "" if measured is not None else _common.why_failed(result),
                }
            )
    if not any(row["samples/s"] for row in rows):
        raise RuntimeError(f"no measurement gave a figure: {rows[:1]}")
    return {"rows": rows}, _common.markdown_table(list(rows[0]), [list(r.values()) for r in rows])


def short_study(data_dir: Path, scratch: Path, minutes: float) -> tuple[Any, str]:
    """A study with ``train_step`` from the published baseline."""
    import importlib.util

    from autotune.config import Experiment
    from autotune.launching import launch_experiment
    from autotune.storage import Database

    torchvision = importlib.util.find_spec("torchvision") is not None
    model = "torchvision.models.video:r3d_18" if torchvision else "autotune.models:small_r3d"
    consumer = ConsumerSpec(kind="train_step", model=model)
    experiment = Experiment.from_dict(
        {
            "target": {
                "name": "spdl_video",
                "data_dir": str(data_dir),
                "device": "nvdec",
                "subclip_duration": 0.5,
                "ranks": 1,
                "consumer": consumer.model_dump(mode="json"),
            },
            "budget": {"trials": 12, "hours": minutes / 60},
            "measurement": {"min_seconds": 2, "max_seconds": 5},
            "verification": {"finalists": 1, "blocks": 4},
            "sampler": "tpe",
            "executor": {"kind": "local"},
        }
    )
    url = f"sqlite:///{scratch / 'gpu_check.db'}"
    outcome = launch_experiment(experiment, storage=url, study_name="gpu_check")
    with Database.open(url, create=False) as database:
        trials = database.trials(outcome.record.id)
        verifications = database.verifications(outcome.record.id)
    document = {
        "model": model,
        "state": outcome.state,
        "reason": outcome.reason,
        "trials": [t.model_dump(mode="json") for t in trials],
        "verifications": [v.model_dump(mode="json") for v in verifications],
    }
    rows = [
        [
            t.number,
            t.samples_per_second,
            t.accelerator_utilization,
            _common.flags_of(
                t.params, "num_demux_threads", "num_decode_threads", "sink_buffer_size"
            ),
            "" if t.failure is None else f"{t.failure.kind}: {t.failure.cause}",
        ]
        for t in trials
    ]
    header = ["trial", "samples/s", "utilization", "configuration", "failure"]
    return document, f"{model}: {outcome.reason}\n\n" + _common.markdown_table(header, rows)


def make_data(folder: Path) -> Path:
    """Sample clips where no --clips were given."""
    from autotune.media.clips import make_clips

    make_clips(folder, count=24)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; the exit status."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, help="data folder; default: real or made clips")
    parser.add_argument("--minutes", type=float, default=9.0, help="no run starts after so long")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run")
    options = parser.parse_args(arguments)
    lacks = missing()
    if lacks:
        for line in lacks:
            _common.say(f"Error: gpu-check: {line}")
        return BAD_INPUT
    from autotune.media.native import library_environment

    environment = library_environment("bundled", "nvdec")
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # The dynamic linker reads LD_LIBRARY_PATH once, when a process starts.
        words = [sys.executable, "-m", "experiments.benchmarks.gpu_check", *sys.argv[1:]]
        os.execve(sys.executable, words, {**os.environ, **environment})
    folder = Path(os.environ.get("OUT") or "experiments/results")
    report = Report(folder, machine.find_gpus()[0]["name"], time.monotonic() + 60 * options.minutes)
    with _common.scratch_folder("gpu-check") as scratch:
        report.section("Libraries", libraries)
        shared = _common.SHARED_CLIPS if _common.SHARED_CLIPS.is_dir() else None
        data = options.clips or shared or make_data(scratch / "clips")
        runner = _common.Runner(data, scratch)
        clips = [Path(runner.manifest.path(i)) for i in range(min(8, len(runner.manifest)))]
        report.section("Decoding against the reference", lambda: decoding(clips))
        for parameter, values in (
            ("num_decode_threads", DECODE_THREADS),
            ("num_demux_threads", DEMUX_THREADS),
        ):
            report.section(
                f"samples/s by {parameter}",
                lambda p=parameter, v=values: sweep(runner, report, p, v, options.seconds),
            )
        report.section(
            "Study with train_step",
            lambda: short_study(data, scratch, max(1.0, report.time_left / 60)),
        )
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
