"""Runs `python -m stellar_hub eval`; scripts from earlier releases start this module with `accelerate launch`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv[1:1] = ["eval"]
    runpy.run_module("stellar_hub", run_name="__main__", alter_sys=True)
