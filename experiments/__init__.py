"""Experiment files, recorded tables, results, and the project's own benchmarks."""
