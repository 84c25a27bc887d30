"""Fixtures of the command line's tests."""

from tests.studies import make_study, run, url, verified

__all__ = ["make_study", "run", "url", "verified"]
