"""This machine: what its fingerprint says and the names that expressions can use.

Standard library, and NVML where it is installed; in the layer that worker and driver share.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from autotune.system import control_groups
from autotune.trial import Scalar

PACKAGES = ("torch", "av", "spdl", "spdl-core", "spdl-io", "numpy", "ray")
"""Their versions are part of the fingerprint."""

_GIB = float(2**30)


def fingerprint(gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """This machine, as far as figures depend on it.

    Args:
        gpus: as `find_gpus` returns them.
    """
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory_bytes() / _GIB),
        "memory_available_gib": round(available_bytes() / _GIB, 1),
        "python": platform.python_version(),
        "gpus": [f"{gpu['name']} {gpu['memory_gib']} GiB" for gpu in gpus],
        "gpu_driver": gpus[0]["driver"] if gpus else None,
        "packages": _packages(),
    }


def names(gpus: list[dict[str, Any]] | None = None) -> dict[str, Scalar]:
    """What constraints of a search space can refer to: cores, GPUs, memory (GiB).

    Args:
        gpus: as `find_gpus` returns them; looked for if None.
    """
    gpus = find_gpus() if gpus is None else gpus
    return {
        "cpu_count": cores(),
        "gpu_count": len(gpus),
        "memory_gib": round(memory_bytes() / _GIB, 2),
    }


@contextmanager
def nvml() -> Iterator[Any | None]:
    """NVML while it is in use: the module `pynvml`; None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def find_gpus() -> list[dict[str, Any]]:
    """Name, memory (GiB) and driver of every visible NVIDIA GPU; none without NVML."""
    with nvml() as lib:
        if lib is None:
            return []
        driver = lib.nvmlSystemGetDriverVersion()
        return [
            {
                "name": lib.nvmlDeviceGetName(handle),
                "memory_gib": round(lib.nvmlDeviceGetMemoryInfo(handle).total / _GIB),
                "driver": driver,
            }
            for handle in visible_gpus(lib)
        ]


def visible_devices() -> list[str]:
    """The GPUs to deal out, as CUDA_VISIBLE_DEVICES names them: those that it leaves visible, else
    all that NVML finds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [word.strip() for word in visible.split(",") if word.strip()]
    with nvml() as lib:
        return [] if lib is None else [str(i) for i in range(lib.nvmlDeviceGetCount())]


def cores() -> int:
    """Cores that this process may use: affinity and control group quota, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = control_groups.cpu_quota()
    return max(1, min(allowed, round(quota))) if quota else allowed


def memory_bytes() -> int:
    """Memory of the machine, or of its control groups where that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = control_groups.Memory().limit
    return total if limit is None else min(total, limit)


def available_bytes() -> int:
    """Memory that can be had without swapping, in the control groups too."""
    free = 0
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    room = control_groups.Memory().room()
    return free if room is None else min(free, room)


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def visible_gpus(nvml: Any) -> list[Any]:
    """NVML handles of the GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    Args:
        nvml: the module `pynvml`, initialised.
    """
    count = nvml.nvmlDeviceGetCount()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
    handles = []
    for entry in (word.strip() for word in visible.split(",")):
        with contextlib.suppress(nvml.NVMLError):
            if entry.isdigit() and int(entry) < count:
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(entry)))
            elif entry.startswith(("GPU-", "MIG-")):  # NVML takes both kinds of UUID
                handles.append(nvml.nvmlDeviceGetHandleByUUID(entry))
    return handles
