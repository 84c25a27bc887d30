"""The command line: parses, calls a use case, formats. No logic lives here."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``autotune`` command; exits with 0, 1, 2 or 130."""
    try:
        from autotune.cli.app import app

        app(prog_name="autotune")
    except KeyboardInterrupt:  # while the commands were imported: they catch it themselves
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
