"""Whether there is an NVIDIA GPU to check, and what is missing where there is none.

Imports neither torch nor spdl nor av: on a machine without a GPU the answer comes at once.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune.media import nvidia_libraries
from autotune.media.library_search import USUAL_FOLDERS, find_library, split_path
from autotune.system import machine

_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_CODECS = {"mpeg2": 1, "vc1": 3, "h264": 4, "jpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
"""cudaVideoCodec of NVIDIA's cuviddec.h."""


class _DecoderCapabilities(ctypes.Structure):
    """CUVIDDECODECAPS of NVIDIA's cuviddec.h."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma_format", ctypes.c_int),
        ("bit_depth_minus_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte),
        ("engines", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("histogram", ctypes.c_ubyte),
        ("counter_bits", ctypes.c_ubyte),
        ("histogram_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    )


def what_is_missing() -> list[str]:
    """One line with its remedy for each thing without which there is nothing to check.

    Empty where a GPU answers; what only NVDEC needs is found out, and recorded, by the check.
    """
    if machine.find_gpus():
        return []
    lines = ["no NVIDIA GPU answers here; what is missing is named below"]
    if not any(os.path.exists(path) for path in (*_DEVICES, str(_DRIVER_VERSION))):
        lines.append(
            "no NVIDIA driver: none of " + ", ".join(_DEVICES) + " is there. Remedy: install "
            "NVIDIA's driver; in a container, start it with the GPU (docker run --gpus all)"
        )
    library = find_library("libcuda.so.1", usual_folders=True)
    if library is None:
        lines.append(
            "no libcuda.so.1: it comes with the driver. Remedy: install the driver; in a "
            "container, add 'compute' and 'video' to NVIDIA_DRIVER_CAPABILITIES; or add its "
            "folder to LD_LIBRARY_PATH"
        )
    if find_library("libnvidia-ml.so.1", usual_folders=True) is None:
        lines.append(
            "no NVML (libnvidia-ml.so.1): it comes with the driver. Remedy: as above; in a "
            "container, add 'utility' to NVIDIA_DRIVER_CAPABILITIES"
        )
    elif importlib.util.find_spec("pynvml") is None:
        lines.append("no NVML binding for Python. Remedy: pip install nvidia-ml-py")
    if library is not None:
        count = cuda_devices(library)
        if isinstance(count, int) and count > 0:
            return []  # NVML is a convenience: CUDA itself sees a GPU
        lines.append(
            f"CUDA sees no GPU ({count}). Remedy: run nvidia-smi; look at CUDA_VISIBLE_DEVICES "
            f"(now {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})"
        )
    return lines + [line for line in nvidia_libraries.missing() if "libcuda.so" not in line]


def cuda_devices(library: Path) -> int | str:
    """How many devices the CUDA driver sees, or its error."""
    try:
        cuda = ctypes.CDLL(str(library))
    except OSError as error:
        return f"{library} cannot be loaded: {error}"
    count = ctypes.c_int(0)
    for name, arguments in (("cuInit", (0,)), ("cuDeviceGetCount", (ctypes.byref(count),))):
        status = getattr(cuda, name)(*arguments)
        if status != 0:
            return f"{name} returned CUDA error {status}"
    return count.value


def gpu_facts() -> dict[str, Any]:
    """Name, memory, driver, CUDA version, PCI, clocks; with what NVML does not say left out."""
    facts: dict[str, Any] = {"gpus": machine.find_gpus(), "libraries": libraries()}
    if _DRIVER_VERSION.exists():
        facts["kernel_driver"] = _DRIVER_VERSION.read_text(errors="replace").splitlines()[0]
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except (ImportError, OSError) as error:
        return {**facts, "nvml": f"{type(error).__name__}: {error}"}
    except nvml.NVMLError as error:
        return {**facts, "nvml": str(error)}
    handle: Any = None
    asked: dict[str, Callable[[], Any]] = {
        "cuda_driver": nvml.nvmlSystemGetCudaDriverVersion,
        "nvml": nvml.nvmlSystemGetNVMLVersion,
        "decoder_utilization": lambda: nvml.nvmlDeviceGetDecoderUtilization(handle)[0],
        "architecture": lambda: nvml.nvmlDeviceGetArchitecture(handle),
        "compute_capability": lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle),
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "video_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_VIDEO),
        "max_video_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(
            handle, nvml.NVML_CLOCK_VIDEO
        ),
        "mig": lambda: nvml.nvmlDeviceGetMigMode(handle)[0],
    }
    try:
        handle = machine.visible_gpus(nvml)[0]
        for name, ask in asked.items():
            try:
                facts[name] = ask()
            except nvml.NVMLError as error:
                facts[name] = f"not known ({error})"
    finally:
        nvml.nvmlShutdown()
    return facts


def libraries() -> dict[str, Any]:
    """Where each library lies that NVDEC needs, what is missing, and what lies there instead."""
    names = ["libcuda.so.1", "libnvcuvid.so", "libnvcuvid.so.1", "libnvidia-ml.so.1"]
    names.append(nvidia_libraries.needed_runtime())
    return {
        "found": {n: str(find_library(n, usual_folders=True) or "not found") for n in names},
        "missing": nvidia_libraries.missing(),
        "driver_files": driver_files(),
    }


def driver_files(folders: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Folder -> the driver's libraries in it: what a missing one is missing from."""
    if folders is None:
        mounted = [str(p) for p in Path("/usr/local/nvidia").glob("*") if p.is_dir()]
        given = split_path(os.environ.get("LD_LIBRARY_PATH"))
        folders = list(dict.fromkeys([*given, *USUAL_FOLDERS, *mounted]))
    found = {}
    for folder in folders:
        names = {p.name for pattern in ("libnv*", "libcuda*") for p in Path(folder).glob(pattern)}
        if names:
            found[folder] = sorted(names)
    return found


def decoder_capabilities(device: int = 0) -> dict[str, Any]:
    """What NVDEC decodes here, as its driver says: by codec the engines and the largest size.

    Makes a CUDA context: call it in a process of its own.

    Raises:
        UnsupportedError: a library is missing, with the remedy.
        RuntimeError: the driver refuses, with its error number.
    """
    links = nvidia_libraries.links()
    cuda = ctypes.CDLL(str(links["libcuda.so.1"]))
    nvcuvid = ctypes.CDLL(str(links["libnvcuvid.so"]))
    handle, context = ctypes.c_int(0), ctypes.c_void_p()

    def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
        if (status := getattr(library, name)(*arguments)) != 0:
            raise RuntimeError(f"{name} returned CUDA error {status}")

    call(cuda, "cuInit", 0)
    call(cuda, "cuDeviceGet", ctypes.byref(handle), device)
    call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    call(cuda, "cuCtxSetCurrent", context)
    found: dict[str, Any] = {}
    for name, codec in _CODECS.items():
        for bits in (8, 10):
            ask = _DecoderCapabilities(codec=codec, chroma_format=1, bit_depth_minus_8=bits - 8)
            call(nvcuvid, "cuvidGetDecoderCaps", ctypes.byref(ask))
            if ask.supported:
                found[f"{name} 4:2:0 {bits} bit"] = {
                    "engines": ask.engines,
                    "max_size": [ask.max_width, ask.max_height],
                    "min_size": [ask.min_width, ask.min_height],
                }
    return found
