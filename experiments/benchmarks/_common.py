"""What the benchmarks share: one measurement in fresh processes, machine facts, tables, files.

Standard library and light modules of autotune only: no torch, av, spdl or optuna is imported
here, so that a benchmark can say at once what a machine lacks.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.manifest import Manifest, scan
from autotune.supervision.supervisor import environment_learnt, supervise
from autotune.trial import (
    ConsumerSpec,
    Event,
    Limits,
    MeasurementSettings,
    Params,
    TrialResult,
    TrialSpec,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_clips(repository: Path) -> Path:
    """Where real clips may lie: in ``shared/`` of a checkout, else beside it."""
    inside, beside = (
        root / "shared" / "clips" / "real" for root in (repository, repository.parent)
    )
    return inside if inside.is_dir() else beside


SHARED_CLIPS = shared_clips(REPOSITORY)

PACKAGES = ("torch", "torchvision", "spdl", "av", "numpy", "optuna", "ray", "pydantic", "psutil")
SETTINGS: dict[str, Any] = {"num_frames": 16, "frame_size": [112, 112]}


def say(text: str) -> None:
    """Progress, to stderr: results go to stdout."""
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- measuring


@dataclass
class Runner:
    """Makes measurements of one data folder, each in fresh processes, as a study would.

    ``measure`` runs any target, named or as ``module:Class``, through the supervisor and the
    worker of the product: all are counted by the same code.
    """

    data_dir: Path
    scratch: Path
    """Where the manifest is written."""
    seed: int = 0
    manifest: Manifest = field(init=False)
    _manifest_path: Path = field(init=False)
    _ahead: dict[str, dict[str, str]] = field(default_factory=dict)
    _study: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.manifest = scan(self.data_dir)
        self._manifest_path = self.manifest.write(self.scratch)

    def prewarm(self) -> int:
        """Read every clip once, so that no run pays for a cold page cache; returns bytes."""
        total = 0
        for index in range(len(self.manifest)):
            with open(self.manifest.path(index), "rb") as file:
                total += len(file.read())
        return total

    def measure(
        self,
        target: str,
        params: Params,
        seconds: float,
        *,
        settings: Mapping[str, Any] | None = None,
        consumer: ConsumerSpec | None = None,
        startup_seconds: float = 120.0,
    ) -> TrialResult:
        """One measurement, counted for ``seconds`` after its first batch."""
        spec = self.specification(
            target,
            params,
            settings=dict(SETTINGS if settings is None else settings),
            consumer=consumer or ConsumerSpec(),
            # Never narrow enough: every run is counted for the same time.
            measurement=MeasurementSettings(
                min_seconds=seconds, max_seconds=seconds, relative_half_width=1e-9
            ),
            limits=Limits(startup_seconds=startup_seconds, silence_seconds=30, shutdown_seconds=10),
        )
        return self.supervise(spec)

    def specification(self, target: str, params: Params, **fields: Any) -> TrialSpec:
        """A measurement on this data; ``fields`` are others of a `TrialSpec`."""
        return TrialSpec(
            uuid=uuid.uuid4().hex,
            study=self._study,
            target=target,
            params=params,
            data_dir=str(self.data_dir),
            manifest=str(self._manifest_path),
            seed=self.seed,
            **fields,
        )

    def supervise(
        self, spec: TrialSpec, on_event: Callable[[Event], None] = lambda event: None
    ) -> TrialResult:
        """Make a measurement, started with what its target asked for the last time."""
        key = f"{spec.target}:{spec.params.get('device', 'cpu')}"

        def learn(event: Event) -> None:
            if (learnt := environment_learnt(event)) is not None:
                self._ahead[key] = learnt
            on_event(event)

        return supervise(spec, learn, ahead=self._ahead.get(key), cwd=str(REPOSITORY))


def rate_of(result: TrialResult) -> float | None:
    """samples/s, or None where the measurement failed."""
    return None if result.measurement is None else result.measurement.samples_per_second


def why_failed(result: TrialResult) -> str:
    """One line."""
    if result.failure is not None:
        return f"{result.failure.kind}: {result.failure.cause}"
    return f"ended as {result.state}"


# --------------------------------------------------------------------------- the machine


def machine_facts() -> dict[str, Any]:
    """What a figure depends on: CPU, cores, memory, load, kernel, Python, package versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


# --------------------------------------------------------------------------- tables and files


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns whose cells are all numbers are aligned right."""
    body = [[_cell(value) for value in row] for row in rows]
    for row in body:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(header)} columns")
    numeric = [bool(body) and all(_is_number(row[i]) for row in body) for i in range(len(header))]
    marks = ["---:" if right else "---" for right in numeric]
    lines = [list(header), marks, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ""))
    except ValueError:
        return cell == "-"
    return True


def flags_of(params: Mapping[str, object], *names: str) -> str:
    """Some parameters on one line: ``num_decode_threads=3 process_mode=in_process``."""
    return " ".join(f"{name}={params[name]}" for name in names if name in params)


def write_json(path: Path, document: object) -> None:
    """Write beside and rename: a reader sees a whole file or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    draft.replace(path)


def today() -> str:
    """The date as used in file names."""
    return time.strftime("%Y-%m-%d")


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A temporary folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"autotune-{name}-") as folder:
        yield Path(folder)


def numbers(text: str) -> list[float]:
    """A comma-separated option: ``0.5,2`` -> [0.5, 2.0]."""
    return [float(part) for part in text.split(",") if part.strip()]


def whole_numbers(text: str) -> list[int]:
    """A comma-separated option of whole numbers."""
    return [int(part) for part in text.split(",") if part.strip()]
