"""The parts of `benchmarks/gpu.py`: what is measured, the limits that it is compared with, and its tables."""
