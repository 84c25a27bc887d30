"""The NVIDIA libraries that SPDL's NVDEC module needs, each under the name it was linked with."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from autotune.exceptions import UnsupportedError
from autotune.media.library_search import find_library


def links() -> dict[str, Path | None]:
    """Link name -> file, for ``libcuda.so.1``, ``libnvcuvid.so`` and ``libcudart.so.N``.

    Raises:
        UnsupportedError: one of them is nowhere; the message names it and the remedy.
    """
    return {
        "libcuda.so.1": _driver("libcuda.so.1", "libcuda.so"),
        # SPDL was linked with the unversioned name; a driver alone installs only .so.1.
        "libnvcuvid.so": _driver("libnvcuvid.so", "libnvcuvid.so.1"),
        **{name: _runtime(name) for name in [needed_runtime()]},
    }


def missing() -> list[str]:
    """One line a missing library, with its remedy; empty when NVDEC can be loaded (for doctor)."""
    problems = []
    for find, names in (
        (_driver, ("libcuda.so.1", "libcuda.so")),
        (_driver, ("libnvcuvid.so", "libnvcuvid.so.1")),
        (_runtime, (needed_runtime(),)),
    ):
        try:
            find(*names)
        except UnsupportedError as error:
            problems.append(str(error))
    return problems


def needed_runtime() -> str:
    """The CUDA runtime's soname that SPDL's wheel was linked with, e.g. ``libcudart.so.13``."""
    spec = importlib.util.find_spec("spdl")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(root).glob("io/lib/libspdl_cuda*.so")):
            match = re.search(rb"libcudart\.so\.\d+", library.read_bytes())
            if match:
                return match[0].decode()
    return "libcudart.so.13"


def _driver(*names: str) -> Path:
    for name in names:
        if path := find_library(name, usual_folders=True):
            return path.resolve()
    library = names[0].split(".so")[0]
    capability = "video" if "nvcuvid" in library else "compute"
    raise UnsupportedError(
        f"device: nvdec needs {' or '.join(names)}, which comes with NVIDIA's driver and is not "
        f"here. Remedy: install the driver (Debian: libnvidia-decode-NNN for {library}); in a "
        f"container add '{capability}' to NVIDIA_DRIVER_CAPABILITIES; or add its folder to "
        "LD_LIBRARY_PATH; or use device: cpu"
    )


def _runtime(*names: str) -> Path:
    (name,) = names
    # The one that torch and SPDL were installed with: a system's of another minor version, put in
    # front of it, would serve torch too.
    for root in _pip_folders():
        for path in sorted(root.glob(f"**/{name}")):
            return path.resolve()
    if found := find_library(name, usual_folders=True):
        return found.resolve()
    raise UnsupportedError(
        f"device: nvdec needs {name}, the CUDA runtime SPDL was built with, and it is not here. "
        f"Remedy: pip install 'nvidia-cuda-runtime=={name.rsplit('.', 1)[1]}.*'; or use device: cpu"
    )


def _pip_folders() -> list[Path]:
    """Where pip puts CUDA's libraries: the ``nvidia`` packages, and torch's own folder."""
    folders: list[Path] = []
    for package, inner in (("nvidia", ""), ("torch", "lib")):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            folders.append(Path(root) / inner)
    return [folder for folder in folders if folder.is_dir()]
