"""Reproducible benchmarks. Each module's docstring says how to run it."""
