"""Ctrl-C while the command line is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

SLOW_IMPORT = """
import signal, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "autotune.cli.app":
            print("importing", flush=True)
            time.sleep(30)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Slow())
from autotune.cli import main
main()
"""


def test_an_interrupt_during_the_imports_ends_with_130_and_no_traceback() -> None:
    command = [sys.executable, "-c", SLOW_IMPORT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told == "Interrupted.\n"
