"""The shared libraries that spdl.io loads: PyAV's own FFmpeg, and NVIDIA's under plain names.

``spdl.io`` looks for ``libavutil.so.60`` and its sisters by plain name. PyAV's wheel carries
FFmpeg 8 under hashed names. A folder of links, on ``LD_LIBRARY_PATH`` before the process starts,
makes the one load the other, so no system FFmpeg is needed. The same trick gives SPDL the
unversioned ``libnvcuvid.so`` it was linked with where the driver has only ``.so.1``.

    library_environment("bundled", "cpu") -> {"LD_LIBRARY_PATH": ...}   for a *new* process
    loaded_ffmpeg()                       -> what this process did load, from /proc/self/maps

Neither av, spdl nor torch is imported here at module level: the driver uses this module too.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from autotune.exceptions import UnsupportedError
from autotune.media import nvidia_libraries
from autotune.media.library_search import find_library, split_path

FFmpegSource = Literal["bundled", "system"]
Device = Literal["cpu", "nvdec"]

FFMPEG_LIBRARIES = ("avutil", "avcodec", "avformat", "avdevice", "avfilter")
"""What spdl.io links with; all of one FFmpeg release must be there."""

FFMPEG_SONAMES = {
    4: (56, 58, 58, 58, 7),
    5: (57, 59, 59, 59, 8),
    6: (58, 60, 60, 60, 9),
    7: (59, 61, 61, 61, 10),
    8: (60, 62, 62, 62, 11),
    9: (61, 63, 63, 63, 12),
}
"""FFmpeg release -> soname versions of `FFMPEG_LIBRARIES`, in that order."""

_FUTURE_RELEASES = 4
_LINK_FOLDER = "autotune/libraries"
_HASHED = re.compile(r"(?P<name>lib[\w+]+?)-[0-9a-f]{8,}\.so\.(?P<major>\d+)")


def library_environment(ffmpeg: FFmpegSource = "bundled", device: Device = "cpu") -> dict[str, str]:
    """The variables to start a process with, so that its spdl.io finds its libraries.

    The user's own ``LD_LIBRARY_PATH`` is kept, behind ours. Setting the variable in a process
    that runs already has no effect: the loader reads it once, at the start.

    Raises:
        UnsupportedError: no PyAV wheel, no system FFmpeg, or no NVIDIA library; with the remedy.
    """
    links: dict[str, Path | None] = {}
    if ffmpeg == "bundled":
        links |= bundled_links()
    elif find_system_ffmpeg() is None:
        wanted = ", ".join(f"libavutil.so.{v[0]}" for v in FFMPEG_SONAMES.values())
        raise UnsupportedError(
            f"ffmpeg: system, but the loader finds no FFmpeg 4 to 9 with all of {wanted} and "
            "its sisters. Remedy: install it (Debian: apt-get install libavdevice61 "
            "libavfilter10, or ffmpeg), add its folder to LD_LIBRARY_PATH, or use ffmpeg: bundled"
        )
    if device == "nvdec":
        links |= nvidia_libraries.links()
    path = [p for p in split_path(os.environ.get("LD_LIBRARY_PATH")) if _LINK_FOLDER not in p]
    if links:
        path.insert(0, str(link_folder(links)))
    return {"LD_LIBRARY_PATH": ":".join(path)} if path else {}


def bundled_libraries() -> Path:
    """The folder with the shared libraries of PyAV's wheel.

    Raises:
        UnsupportedError: PyAV is missing, or was built against a system FFmpeg.
    """
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        raise UnsupportedError("PyAV is not installed. Remedy: pip install av")
    folder = Path(spec.origin).resolve().parent.parent / "av.libs"
    if not any(folder.glob("libavutil-*.so.*")):
        raise UnsupportedError(
            f"PyAV at {spec.origin} carries no FFmpeg (no {folder}): it was built from source. "
            "Remedy: pip install --force-reinstall --only-binary av av, or use ffmpeg: system"
        )
    return folder


def bundled_links() -> dict[str, Path | None]:
    """Link name -> library of PyAV's wheel; None stands for an empty file, a decoy.

    Every library is linked under its hashed name too: the loader resolves ``$ORIGIN`` of a
    library to the folder it was found in, so its own dependencies must lie beside the link.

    spdl.io tries the newest FFmpeg first, so a system FFmpeg 9 would win over the bundled 8. An
    empty ``libavutil.so.61`` found first makes that attempt fail, and spdl.io goes on to the next.
    """
    links: dict[str, Path | None] = {}
    newest = 0
    for library in sorted(bundled_libraries().iterdir()):
        links[library.name] = library
        match = _HASHED.match(library.name)
        if match is None:
            continue
        links[f"{match['name']}.so.{match['major']}"] = library
        if match["name"] == "libavutil":
            newest = int(match["major"])
    for major in range(newest + 1, newest + 1 + _FUTURE_RELEASES):
        links.setdefault(f"libavutil.so.{major}", None)
    return links


def find_system_ffmpeg() -> int | None:
    """The newest FFmpeg release of which the loader finds every library spdl.io needs."""
    for release, versions in sorted(FFMPEG_SONAMES.items(), reverse=True):
        names = [f"lib{n}.so.{v}" for n, v in zip(FFMPEG_LIBRARIES, versions, strict=True)]
        if all(find_library(name, skip=_LINK_FOLDER) for name in names):
            return release
    return None


def cache_folder() -> Path:
    """The per-user folder for link folders: ``$XDG_CACHE_HOME`` or ``~/.cache``, else a
    private one below the temporary folder (a container's user may have no home)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for root in (Path(base), Path(tempfile.gettempdir()) / f"autotune-{os.getuid()}"):
        folder = root / _LINK_FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # Libraries are loaded from here: a folder that somebody else owns is not trusted.
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    raise UnsupportedError(
        f"cannot write below {base} nor {tempfile.gettempdir()}. "
        "Remedy: set XDG_CACHE_HOME to a folder of your own"
    )


def link_folder(links: dict[str, Path | None]) -> Path:
    """The folder that holds ``links``, safe under concurrent processes.

    Its name is a hash of all names and targets (and of PyAV's version, whose files could change
    under the same names), so an upgrade or a second environment gets a folder of its own. Each
    link is renamed into place: whoever makes it first, it is the same, and nobody removes one.
    """
    digest = hashlib.sha256(_av_version().encode())
    for name, target in sorted(links.items()):
        digest.update(f"{name}\0{target}\0".encode())
    folder = cache_folder() / digest.hexdigest()[:20]
    missing = [name for name in links if not (folder / name).exists()]
    if not missing:
        return folder
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        folder.mkdir(exist_ok=True, mode=0o700)
        for name in missing:
            target = links[name]
            if target is None:
                (draft / name).touch()
            else:
                (draft / name).symlink_to(target)
            os.replace(draft / name, folder / name)
    except OSError as error:
        raise UnsupportedError(
            f"cannot make links in {folder}: {error.strerror}. Remedy: free some space, or set "
            "XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _av_version() -> str:
    try:
        return importlib.metadata.version("av")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def loaded_ffmpeg() -> dict[str, Any]:
    """Which FFmpeg spdl.io uses in this process, read back and not assumed.

    Returns:
        ``source`` (bundled | system), ``release`` (FFmpeg's version text), ``versions`` (library
        -> "major.minor.micro") and ``files`` (library -> the file mapped into this process).

    Raises:
        UnsupportedError: spdl.io finds no FFmpeg; start the process with `library_environment`.
    """
    from spdl.io.utils import get_ffmpeg_versions

    try:
        reported = get_ffmpeg_versions()
    except (RuntimeError, ImportError) as error:
        raise UnsupportedError(
            "spdl.io found no FFmpeg. Remedy: start this process with the variables of "
            f"autotune.media.native.library_environment(). ({error})"
        ) from error
    versions = {
        name.removeprefix("lib"): ".".join(map(str, version)) for name, version in reported.items()
    }
    files = {}
    for name, version in versions.items():
        if name in FFMPEG_LIBRARIES:
            soname = f"lib{name}.so.{version.split('.')[0]}"
            files[name] = _mapped_file(soname, f"{name}_version")
    try:
        own = str(bundled_libraries())
    except UnsupportedError:
        own = "\0"
    bundled = bool(files) and all(path.startswith(own) for path in files.values())
    util = ctypes.CDLL(f"libavutil.so.{versions['avutil'].split('.')[0]}")
    util.av_version_info.restype = ctypes.c_char_p
    return {
        "source": "bundled" if bundled else "system",
        "release": util.av_version_info().decode(),
        "versions": versions,
        "files": files,
    }


def _mapped_file(soname: str, symbol: str) -> str:
    """The file whose mapping holds ``symbol`` of the library this process knows as ``soname``.

    Two copies may be mapped at once (PyAV's and the system's), so the name alone proves nothing.
    """
    library = ctypes.CDLL(soname)
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
            if begin <= address < end:
                return line.split(None, 5)[5].strip()
    raise UnsupportedError(f"{soname} is not mapped into this process")
