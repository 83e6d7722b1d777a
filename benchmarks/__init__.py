"""Measurements of the losses; `python -m benchmarks` prints them and writes CSV files."""
