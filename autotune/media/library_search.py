"""Finds shared libraries the way the loader would: LD_LIBRARY_PATH, its cache, usual folders."""

from __future__ import annotations

import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path

USUAL_FOLDERS = (
    "/usr/local/nvidia/lib64",
    "/usr/local/cuda/lib64",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
)

_CACHE_LINE = re.compile(r"^\s*(\S+) \(.*\) => (\S+)\s*$")


def split_path(value: str | None) -> list[str]:
    """The folders of a ``LD_LIBRARY_PATH``, empty entries left out."""
    return [part for part in (value or "").split(":") if part]


@lru_cache(maxsize=1)
def loader_cache() -> dict[str, str]:
    """Soname -> file, as ``ldconfig -p`` prints it; empty where there is no ldconfig."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"):
        try:
            listing = subprocess.run(
                [program, "-p"], capture_output=True, text=True, timeout=20, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        found: dict[str, str] = {}
        for line in listing.splitlines():
            if match := _CACHE_LINE.match(line):
                found.setdefault(match[1], match[2])
        return found
    return {}


def find_library(name: str, *, skip: str = "\0", usual_folders: bool = False) -> Path | None:
    """The file that the loader takes for ``name``, or None.

    Args:
        name: a file name such as ``libavutil.so.60``.
        skip: folders of LD_LIBRARY_PATH with this text in their path do not count.
        usual_folders: look also where the loader does not, but drivers are often mounted.
    """
    for folder in split_path(os.environ.get("LD_LIBRARY_PATH")):
        if skip not in folder and (path := Path(folder) / name).is_file():
            return path
    cached = loader_cache().get(name)
    if cached is not None and Path(cached).is_file():
        return Path(cached)
    # The loader itself searches only its compiled-in folders after its cache.
    folders = USUAL_FOLDERS if usual_folders else ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    return None
