"""Runs `python -m stellar_hub train`: the earlier spelling of the entry point for `accelerate launch`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    runpy.run_module("stellar_hub", run_name="__main__", alter_sys=True)
