"""The command line: parses, calls a use case, formats. No logic lives here."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``autotune`` command; exits with 0, 1, 2 or 130."""
    from autotune.cli.app import app

    app(prog_name="autotune")
