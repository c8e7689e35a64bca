"""Run transformers' model linter on modeling/, without the rules that are about transformers' own repository.

TRF028 wants its license header, TRF038 its test layout, TRF057 its docstring generator.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mlinter

OFF = ("TRF028", "TRF038", "TRF057")
ROOT = Path(__file__).parents[1]


def rules_without(names: tuple[str, ...]) -> str:
    """The linter's own rules with some switched off."""
    rules = (Path(mlinter.__file__).parent / "rules.toml").read_text()
    for name in names:
        rules, changed = re.subn(
            rf"(\[rules\.{name}\][^\[]*?default_enabled = )true", r"\1false", rules, flags=re.DOTALL
        )
        if changed != 1:
            raise SystemExit(f"rule {name} was not found among the linter's rules: has the linter changed?")
    return rules


with tempfile.TemporaryDirectory() as folder:
    rules_file = Path(folder) / "rules.toml"
    rules_file.write_text(rules_without(OFF))
    command = [sys.executable, "-m", "mlinter", "--rules-toml", str(rules_file), "--no-cache", "--no-progress"]
    sys.exit(subprocess.run([*command, str(ROOT / "modeling")], check=False).returncode)
