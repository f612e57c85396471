"""Time contenders side by side, in turn, in one run: `python -m benchmarks --help`."""
