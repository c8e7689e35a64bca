"""Runs the command line as `python -m stellar_hub`, which is also how `accelerate launch -m stellar_hub` starts it."""

from stellar_hub.cli.main import main

main()
