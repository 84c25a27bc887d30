"""Clips to test with, and a process in which spdl.io finds its FFmpeg.

The loader reads LD_LIBRARY_PATH once, when a process starts, and pytest's has started already. So
what needs SPDL runs in one process that is spawned with the environment: functions of
`media_remote`, called by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from media_remote import Call

from autotune.media.native import library_environment


@pytest.fixture(scope="session")
def clips_dir() -> Path:
    checkout = Path(__file__).resolve().parents[2]
    folders = [root / "shared" / "clips" for root in (checkout, checkout.parent)]
    for folder in folders:
        if (folder / "real").is_dir():
            return folder
    pytest.skip(f"needs the test clips, and there is neither {folders[0]} nor {folders[1]}")


@pytest.fixture(scope="session")
def in_worker() -> Iterator[Call]:
    """Runs a module-level function in a process with SPDL; its exception is raised here."""
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ.update(library_environment())
    try:
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        pool.submit(abs, 1).result(timeout=60)  # starts the process, while the variable is set
    finally:
        if before is None:
            os.environ.pop("LD_LIBRARY_PATH", None)
        else:
            os.environ["LD_LIBRARY_PATH"] = before
    with pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()
