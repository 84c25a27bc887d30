"""Ctrl-C where no command can heed it: while it is imported, and while the interpreter ends."""

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


SLOW_END = """
import os, signal, sys, time

class Late:  # deleted when Python's own signal handlers are gone already
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"ending\\n")
        sleep(1)

signal.signal(signal.SIGINT, signal.default_int_handler)
late = Late()
sys.argv = ["autotune", "--version"]
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


def test_an_interrupt_while_the_interpreter_ends_does_not_change_the_status() -> None:
    command = [sys.executable, "-c", SLOW_END]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ending\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
