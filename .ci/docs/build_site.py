"""Builds the documentation site: gathers the pages in build/docs, runs the notebooks, and lets Zensical write site/.

    python .ci/docs/build_site.py                # as `make docs` does
    python .ci/docs/build_site.py --no-notebooks # in seconds, with the notebooks' code and without their outputs

The build is strict: a link that leads nowhere ends it. It needs no network.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupytext
from notebooks import notebook_files, run_notebook, write_page
from staging import ROOT, stage_pages

STAGED = ROOT / "build" / "docs"  # as mkdocs.yml says
SITE = ROOT / "site"


def stage(run: bool) -> None:
    """Fills the staging folder.

    Args:
        run: Whether to run the notebooks.
    """
    shutil.rmtree(STAGED, ignore_errors=True)
    stage_pages(STAGED)
    for path in notebook_files():
        begin = time.monotonic()
        write_page(run_notebook(path) if run else jupytext.read(path), STAGED / "notebooks" / f"{path.stem}.md")
        print(f"{path.name}: {time.monotonic() - begin:.0f} s", flush=True)


def main() -> int:
    """Builds the site and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-notebooks", action="store_true", help="do not run the notebooks")
    args = parser.parse_args()
    stage(run=not args.no_notebooks)
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).parent / "zensical"
    return subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
