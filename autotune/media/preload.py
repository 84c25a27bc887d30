"""Libraries for a process that runs already: a training script that nobody started with
`native.library_environment`.

The dynamic linker reads LD_LIBRARY_PATH once, when a process starts. But it also looks in the run
path of the library that asks, and SPDL's own is ``$ORIGIN``: the folder where it was found. So
SPDL's core library is loaded here by a link that lies beside the links to FFmpeg and NVIDIA's
libraries. Whoever asks for it by its name later, as ``spdl.io`` does, gets the one that is loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from autotune.exceptions import UnsupportedError
from autotune.media.native import FFMPEG_SONAMES, link_folder

_FFMPEG = "libspdl_ffmpeg{release}.so"
_CUDA = "libspdl_cuda{release}.so"


def preload(folder: Path) -> None:
    """Have spdl.io of this process load its libraries from ``folder``, if it has loaded none.

    Which FFmpeg it then really uses says `native.loaded_ffmpeg`.

    Args:
        folder: links to libraries, as `native.link_folder` makes it.

    Raises:
        UnsupportedError: they do not load into this process.
    """
    links: dict[str, Path | None] = {
        link.name: link.resolve() for link in folder.iterdir() if link.is_symlink()
    }
    release = next((r for r, v in FFMPEG_SONAMES.items() if f"libavutil.so.{v[0]}" in links), None)
    if release is None:
        raise UnsupportedError(f"{folder} links to no FFmpeg 4 to 9")
    wanted = [_FFMPEG.format(release=release)]
    if "libcuda.so.1" in links:
        wanted.append(_CUDA.format(release=release))
    own = _spdl_libraries()
    together = link_folder({**links, **{name: own / name for name in wanted}})
    for name in wanted:
        try:
            ctypes.CDLL(str(together / name))
        except OSError as error:
            raise UnsupportedError(f"{name} does not load into this process ({error})") from error


def _spdl_libraries() -> Path:
    """The folder of SPDL's shared libraries."""
    spec = importlib.util.find_spec("spdl")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / "io" / "lib"
        if folder.is_dir():
            return folder.resolve()
    raise UnsupportedError("SPDL is not installed. Remedy: pip install spdl")
