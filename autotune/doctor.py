"""What this machine can measure: each thing that is needed, whether it is here, and the remedy.

Nothing is assumed: FFmpeg is loaded in a fresh process, as a trial loads it, and says its version
itself. The CPU path works when every check marked ``required`` passes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from autotune.exceptions import AutotuneError, UnsupportedError
from autotune.system import machine
from autotune.trial import Value

ENOUGH_FILES = 4096
"""Open files a process may need: decoder threads, pipes and clips."""

ENOUGH_SHARED_GIB = 1.0
"""Batches of frames cross between processes through shared memory."""

LOADING_SECONDS = 60.0

NVDEC_ENGINES = (("H100", 7), ("H200", 7), ("A100", 5), ("L40S", 3), ("L4", 4))
"""Engines by a part of the GPU's name, as published; NVML does not tell them."""

_READ_BACK = """
import json
from autotune.media.native import loaded_ffmpeg
print(json.dumps(loaded_ffmpeg()))
"""


class Check(Value):
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    remedy: str = ""
    required: bool = False
    """Whether measuring on the CPU needs it."""


def works(checks: list[Check]) -> bool:
    """Whether this machine can measure on the CPU."""
    return all(check.state != "missing" for check in checks if check.required)


def examine(storage: str, data_dir: str | os.PathLike[str] | None = None) -> list[Check]:
    """Look at everything; takes a few seconds.

    Args:
        storage: SQLAlchemy URL of the database.
        data_dir: a data folder to look at, too.
    """
    checks = [
        _python(),
        _processor(),
        _memory(),
        _shared_memory(),
        _open_files(),
        *_ffmpeg(),
        _package("spdl", "spdl", "pip install spdl", required=True),
        _package("torch", "torch", "pip install torch", required=True),
        _package("ray", "ray", "pip install ray, or use --executor local"),
        *_gpus(),
        _nvdec_libraries(),
        _database(storage),
    ]
    if data_dir is not None:
        checks.append(_data(data_dir))
    return checks


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    return Check(name="Python", state="ok", found=found)


def _processor() -> Check:
    found = machine.fingerprint([])
    return Check(name="CPU", state="ok", found=f"{found['cores']} cores, {found['cpu']}")


def _memory() -> Check:
    total = machine.memory_bytes() / 2**30
    available = machine.available_bytes() / 2**30
    return Check(name="memory", state="ok", found=f"{total:.1f} GiB, {available:.1f} GiB available")


def _shared_memory() -> Check:
    try:
        status = os.statvfs("/dev/shm")
    except OSError as error:
        return Check(
            name="shared memory",
            state="warning",
            found=f"/dev/shm: {error.strerror}",
            remedy="mount a tmpfs there; process_mode=subprocess needs it",
        )
    size = status.f_frsize * status.f_blocks / 2**30
    enough = size >= ENOUGH_SHARED_GIB
    return Check(
        name="shared memory",
        state="ok" if enough else "warning",
        found=f"{size:.2f} GiB at /dev/shm",
        remedy="" if enough else "in a container: --shm-size=8g; arena=pool and Ray need it",
    )


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES
    shown = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    return Check(
        name="open files",
        state="ok" if enough else "warning",
        found=f"limit {shown}",
        remedy="" if enough else f"ulimit -n {ENOUGH_FILES} (the hard limit is {hard:,})",
    )


def _ffmpeg() -> Iterator[Check]:
    """FFmpeg of PyAV's wheel, which is the default, and the system's."""
    from autotune.media.native import library_environment

    for source in ("bundled", "system"):
        name = f"FFmpeg, {source}"
        required = source == "bundled"
        try:
            environment = library_environment(source)
            loaded = _load(environment)
        except UnsupportedError as error:
            text = str(error)
            what, _, remedy = text.partition("Remedy: ")
            # Without PyAV's the system's would do, and the other way round.
            yield Check(
                name=name,
                state="missing" if required else "warning",
                found=what.strip().rstrip("."),
                remedy=remedy or "use `ffmpeg: bundled`",
                required=required,
            )
            continue
        versions = ", ".join(f"{k} {v}" for k, v in loaded["versions"].items())
        right = loaded["source"] == source
        yield Check(
            name=name,
            state="ok" if right else "warning",
            found=f"{loaded['release']} ({versions})"
            + ("" if right else f"; the {loaded['source']} one was loaded"),
            remedy="" if right else "set LD_LIBRARY_PATH to the folder of the one meant",
            required=required,
        )


def _load(environment: Mapping[str, str]) -> dict[str, Any]:
    """Load spdl.io in a fresh process and let it say what it loaded.

    Raises:
        UnsupportedError: if it does not load.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READ_BACK],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=LOADING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(
            f"loading spdl.io took more than {LOADING_SECONDS:g} s. Remedy: try again"
        ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        last = lines[-1].removeprefix("autotune.exceptions.UnsupportedError: ")
        raise UnsupportedError(f"{last} Remedy: pip install --force-reinstall av spdl")
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def _package(name: str, distribution: str, remedy: str, *, required: bool = False) -> Check:
    try:
        return Check(name=name, state="ok", found=version(distribution), required=required)
    except PackageNotFoundError:
        return Check(
            name=name,
            state="missing" if required else "warning",
            found="not installed",
            remedy=remedy,
            required=required,
        )


def _gpus() -> Iterator[Check]:
    found = machine.find_gpus()
    if not found:
        yield Check(
            name="GPU",
            state="warning",
            found="none: NVML finds no driver or no GPU",
            remedy="device=nvdec needs an NVIDIA GPU and its driver; device=cpu works without",
        )
    for index, gpu in enumerate(found):
        engines = nvdec_engines(gpu["name"])
        counted = f"{engines} NVDEC engines" if engines else "number of NVDEC engines unknown"
        yield Check(
            name=f"GPU {index}",
            state="ok",
            found=f"{gpu['name']}, {gpu['memory_gib']} GiB, driver {gpu['driver']}, {counted}",
        )


def nvdec_engines(gpu: str) -> int | None:
    """NVDEC engines of a GPU by its name, as published; None for one not in the list."""
    words = gpu.upper().replace("-", " ").split()
    return next((count for name, count in NVDEC_ENGINES if name in words), None)


def _nvdec_libraries() -> Check:
    from autotune.media import nvidia_libraries

    problems = nvidia_libraries.missing()
    if not problems:
        return Check(name="NVDEC", state="ok", found="libcuda, libnvcuvid and the CUDA runtime")
    what, _, remedy = problems[0].partition("Remedy: ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Check(
        name="NVDEC",
        state="warning",
        found=what.strip().rstrip(".") + more,
        remedy=remedy,
    )


def _database(storage: str) -> Check:
    from autotune.config import redact_url
    from autotune.storage import Database

    try:
        with Database.open(storage, create=False, upgrade=True) as database:
            studies = f"{len(database.tables())} tables"
            return Check(
                name="database",
                state="ok",
                found=f"{database.address.shown}, version {database.schema_version()}, {studies}",
            )
    except AutotuneError as error:
        place = _sqlite_place(storage)
        if place is not None and not place.exists() and os.access(place.parent, os.W_OK):
            found = f"{place} is not there yet; `autotune launch` makes it"
            return Check(name="database", state="ok", found=found)
        return Check(
            name="database",
            state="missing",
            found=f"{redact_url(storage)}: {error}",
            remedy="pass another one with --storage or AUTOTUNE_STORAGE",
            required=True,
        )


def _sqlite_place(storage: str) -> Path | None:
    from sqlalchemy.engine import make_url

    url = make_url(storage)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database).absolute()


def _data(data_dir: str | os.PathLike[str]) -> Check:
    from autotune.manifest import scan

    try:
        manifest = scan(data_dir)
    except AutotuneError as error:
        return Check(
            name="data",
            state="missing",
            found=str(error),
            remedy="pass another folder with --data-dir",
            required=True,
        )
    return Check(
        name="data",
        state="ok",
        found=f"{len(manifest):,} clips in {len(manifest.classes):,} classes, "
        f"{manifest.total_bytes / 2**30:.2f} GiB",
    )


def library_versions() -> dict[str, str | None]:
    """The installed versions of autotune and of the libraries it works with."""
    found: dict[str, str | None] = {}
    for name in ("autotune", "av", "spdl", "torch", "optuna", "ray", "sqlalchemy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {"python": sys.version.split()[0]}
