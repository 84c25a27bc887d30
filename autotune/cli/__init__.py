"""The command line: parses, calls a use case, formats. No logic lives here."""

from __future__ import annotations

import atexit
import signal
import sys


def main() -> None:
    """Entry point of the ``autotune`` command; exits with 0, 1, 2 or 130."""
    # Registered first, it runs last: all is done by then, and while the interpreter ends (with Ray
    # up to a second) another Ctrl-C would replace the exit status by that of a signal.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from autotune.cli.app import app

        app(prog_name="autotune")
    except KeyboardInterrupt:  # while the commands were imported: they catch it themselves
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
