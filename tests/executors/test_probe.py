"""What is read from the probe of a node, whenever it comes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Any, cast

import pytest

from autotune.executors.node import _collect


def test_an_answer_just_before_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe answers and ends between a look at the pipe and the look at the process."""
    read, write = os.pipe()
    code = "import os, sys; sys.stdin.read(); os.write(int(sys.argv[1]), b'{}\\n')"
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(write)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(write,),
    )
    os.close(write)
    looked: list[Any] = []

    def see_nothing_once(*arguments: Any) -> Any:
        looked.append(arguments)
        if len(looked) > 1:
            return real(*arguments)
        cast("Any", worker.stdin).close()
        worker.wait()
        return [], [], []

    real = select.select
    monkeypatch.setattr(select, "select", see_nothing_once)
    log = cast("Any", worker.stderr)
    try:
        assert _collect(worker, read, log.fileno(), 30.0) == (b"{}\n", b"", True)
    finally:
        os.close(read)
        log.close()
