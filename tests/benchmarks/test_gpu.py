"""The benchmark for GPUs: it runs from end to end with tiny models, and says plainly what it did not measure."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.modeling.card_sections import read_section

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
MODULES = ("gpu", "gpu_parts", "gpu_parts.bars", "gpu_parts.supervisor", "gpu_parts.tables")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("gpu")


def measured(group: str, name: str, **values: float) -> dict[str, Any]:
    return {"group": group, "name": name, **values}


@pytest.mark.slow
def test_smoke_run__runs_every_part(script: Any, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--smoke", "--json", str(tmp_path / "found.json"), "--seconds", "1200"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], stdout=subprocess.PIPE, text=True, encoding="utf-8")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: part["problem"] for name, part in found["parts"].items()} == dict.fromkeys(script.PARTS)
    assert done.returncode == 0
    failed = {row["name"] for row in found["rows"] if "ms" not in row and "failed" in row.get("note", "")}
    assert failed == {"optimized, float8"}  # which a CPU does not have
    rows = {(row["group"], row["name"]): row for row in found["rows"]}
    assert all(row["same"] for row in rows.values() if "same" in row)
    assert rows["golden values, objective", "train"]["difference"] < 1e-4
    for name in ("as it is", "optimized", "timm", "timm, compiled", "Dinov2", "Dinov2, blocks compiled"):
        assert rows["encode l16, batch 2", name]["us_per_token"] > 0
    assert rows["decode b16, batch 2", "optimized"]["per_second"] > 0
    assert rows["training step b16, 96 images", "ours, as train runs it"]["per_second"] > 0
    assert rows["extraction b16, JPEGs of 500 x 375", "extract, pillow"]["per_second"] > 0
    assert found["environment"]["versions"]["timm"]
    assert "encode l16, batch 2 | optimized: ms " in done.stdout


def test_script__refuses_whole_models_on_a_cpu(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "cpu"])
    with pytest.raises(SystemExit, match="2"):
        script.main()


def supervised(script: Any, tmp_path: Path, code: str, names: Sequence[str]) -> tuple[Any, list[str]]:
    """Runs a program that stands for the parts."""
    program = tmp_path / "parts.py"
    program.write_text(f"import json, sys, time\ndef say(**e): print(json.dumps(e), flush=True)\n{code}")
    results = script.Results(names, tmp_path / "found.json")
    shown: list[str] = []

    def command(waiting: Sequence[str]) -> list[str]:
        return [sys.executable, str(program), *waiting]

    script.supervise(names, command, time.time() + 600, results, shown.append, lambda row: None, grace=0)
    return results, shown


def test_supervise__goes_on_after_a_part_that_hangs(script: Any, tmp_path: Path) -> None:
    code = """
for name in sys.argv[1:]:
    say(begin=name, deadline=time.time() + (0.5 if name == "b" else 600))
    say(row={"group": "g", "name": name, "ms": 1.0})
    if name == "b":
        time.sleep(600)
    say(end=name, problem=None)
"""
    supervised(script, tmp_path, code, ["a", "b", "c"])
    found = json.loads((tmp_path / "found.json").read_text())
    problems = {name: part["problem"] for name, part in found["parts"].items()}
    assert (problems["a"], problems["c"]) == (None, None)
    assert problems["b"].startswith("took too long")
    assert [row["name"] for row in found["rows"]] == ["a", "b", "c"]  # also the rows before it hung


def test_supervise__goes_on_after_a_process_that_dies(script: Any, tmp_path: Path) -> None:
    code = """
for name in sys.argv[1:]:
    say(begin=name, deadline=time.time() + 600)
    if name == "a":
        sys.exit(7)
    say(end=name, problem="failed: no")
"""
    results, _ = supervised(script, tmp_path, code, ["a", "b"])
    assert results.parts["a"]["problem"] == "its process ended with exit status 7"
    assert results.parts["b"]["problem"] == "failed: no"


def test_supervise__ends_if_nothing_starts(script: Any, tmp_path: Path) -> None:
    results, shown = supervised(script, tmp_path, "sys.exit(1)", ["a"])
    assert results.parts["a"]["problem"] == "not run"
    assert shown == ["a: not run"]


def test_deadline__gives_a_part_what_earlier_ones_left(script: Any) -> None:
    names, now = ["decode", "encode-b16"], time.time()
    later = script.PARTS["encode-b16"].seconds
    assert script.deadline_of("decode", names, now + 1000) == pytest.approx(now + 1000 - later)
    assert script.deadline_of("decode", names, now + 10) == now + 10


def test_bars__are_met_missed_or_not_measured(script: Any) -> None:
    group = "encode l16, batch 256"
    rows = [
        measured(group, "optimized", us_per_token=1.0),
        measured(group, "timm, compiled", us_per_token=1.2),
        measured(group, "timm, blocks compiled", us_per_token=1.15),
        measured("encode b16, batch 1", "optimized", ms=0.9),
        measured("golden values, objective", "train", same=True),
    ]
    met = {bar.what: bar.met(rows) for bar in script.BARS}
    assert met["encode l16, batch 256: the same"] is True
    assert next(bar for bar in script.BARS if "l16" in bar.what).value(rows) == pytest.approx(1.15)
    assert met["encode b16, batch 1: ms"] is False
    assert met["encode h16, batch 256: the same"] is None
    assert sum(each is None for each in met.values()) == len(script.BARS) - 3


def test_bars__name_what_the_parts_measure(script: Any) -> None:
    bars = importlib.import_module("gpu_parts.bars")
    values = {"ms": 1.0, "us_per_token": 1.0, "share": 1.0, "per_second": 1.0}
    names = dict.fromkeys(bars.CALLS, ("optimized", "as it is", "optimized, float8", "timm, compiled"))
    names |= dict.fromkeys((bars.STEP_B16, bars.STEP_TINY), ("naive losses", "ours, as train runs it"))
    names[bars.EXTRACTION] = ("the model alone", "extract, torchvision", "torchvision alone")
    rows = [measured(group, name, **values) for group, of_group in names.items() for name in of_group]
    rows.append(measured("golden values, objective", "train", same=True))
    assert [bar.what for bar in script.BARS if bar.met(rows) is None] == []


def test_extraction_bar__compares_with_the_slower_of_model_and_decoder(script: Any) -> None:
    bars = importlib.import_module("gpu_parts.bars")
    rates = {
        "the model alone": 9000,
        "pillow alone, in the workers": 1000,
        "torchvision alone": 5000,
        "extract, pillow": 900,
        "extract, torchvision": 4000,
    }
    rows = [measured(bars.EXTRACTION, name, per_second=rate) for name, rate in rates.items()]
    assert bars.extraction_share(rows) == pytest.approx(0.8)


def test_rows__a_later_failure_keeps_what_was_measured(script: Any) -> None:
    rows = [measured("g", "a", ms=1.0), {"group": "g", "name": "a", "note": "no time"}, measured("g", "b", ms=2.0)]
    assert script.merged(rows) == [{"group": "g", "name": "a", "ms": 1.0, "note": "no time"}, rows[2]]


def filled(path: Path, **environment: Any) -> Path:
    found = {
        "environment": {"device": "X9", "device_type": "cuda", "smoke": False, "cores": 4, "versions": {"torch": "9.1"}}
        | {"date": "2030-01-02"}
        | environment,
        "parts": {"decode": {"problem": "failed: no", "seconds": 1.0}},
        "rows": [measured("encode b16, batch 1", "optimized", ms=0.5) | {"report": "kept: graph"}],
    }
    path.write_text(json.dumps(found))
    return path


def test_update_docs__fills_the_section_and_leaves_the_rest(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "results" / "gpu.md").read_text())
    options = ["--update-docs", str(page), "--json", str(filled(tmp_path / "found.json"))]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    assert script.main() == 0
    text = read_section(page.read_text(), script.SECTION)
    assert text is not None
    for part in ("X9, 4 CPU cores, torch 9.1, 2030-01-02", "| encode b16, batch 1: ms | 0.5 | ≤ 0.8 | met |"):
        assert part in text
    assert "- decode: failed: no" in text
    assert "kept: graph" in text
    before = (ROOT / "docs" / "results" / "gpu.md").read_text()
    assert page.read_text().split("<!--")[0] == before.split("<!--")[0]
    assert page.read_text().split("-->")[-1] == before.split("-->")[-1]


@pytest.mark.parametrize("environment", [{"smoke": True}, {"device_type": "cpu"}])
def test_update_docs__refuses_numbers_that_mean_nothing(
    script: Any, tmp_path: Path, environment: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="without a GPU"):
        script.section(filled(tmp_path / "found.json", **environment))


def test_docs__say_whether_the_section_is_filled(script: Any) -> None:
    text = read_section((ROOT / "docs" / "results" / "gpu.md").read_text(), script.SECTION)
    assert text is not None
    assert text == script.section(None) or "measured this on" in text
