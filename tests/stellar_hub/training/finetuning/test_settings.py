"""Settings of a run that trains a classifier: ranges, files, and which a resumed run may change."""

import json
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.training.finetuning.settings import LEARNING_RATES, MAY_CHANGE, FinetuneSettings, refuse_other_run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs .* 1, got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers .*got -1"),
        ({"learning_rate": 0.0}, "learning_rate .*above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"layer_decay": 1.5}, r"layer_decay .*\(0, 1\], got 1\.5"),
        ({"mode": "lora", "layer_decay": 0.7}, "mode full, got lora"),
        ({"mode": "half"}, "mode .*full, frozen, lora"),
        ({"label_smoothing": 1.0}, r"label_smoothing .*\[0, 1\)"),
        ({"min_crop_area": 0.0}, "min_crop_area"),
        ({"holdout": 1.0}, "holdout"),
        ({"optimizer": "adamx"}, "adamx"),
        ({"seed": 2**32}, "seed"),
        ({"image_size": 2**20}, "image_size"),
    ],
)
def test_value_out_of_range__is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneSettings(model="stellar-tiny", **changes)


def test_learning_rate__is_that_of_the_mode() -> None:
    for mode, rate in LEARNING_RATES.items():
        assert FinetuneSettings(model="m", mode=mode).highest_rate == rate  # type: ignore[arg-type]
    assert FinetuneSettings(model="m", learning_rate=0.5).highest_rate == 0.5


def test_file__holds_all_values(tmp_path: Path) -> None:
    settings = FinetuneSettings(model="m", mode="lora", trackers=("tensorboard",), epochs=3)
    settings.write(tmp_path / "finetune.json")
    assert FinetuneSettings(**json.loads((tmp_path / "finetune.json").read_text())) == settings


def test_resumed_run__may_change_what_does_not_change_the_result(tmp_path: Path) -> None:
    before = {"settings": FinetuneSettings(model="m").as_dict(), "data": {"train": "abc"}}
    more = FinetuneSettings(model="m", num_workers=3, log_every=1, save_every=7, license="mit").as_dict()
    assert set(MAY_CHANGE) <= more.keys()
    refuse_other_run(tmp_path, before, {"settings": more, "data": {"train": "abc"}})
    other = FinetuneSettings(model="m", epochs=2, learning_rate=0.1).as_dict()
    with pytest.raises(ValueError, match=r"(?s)epochs: 20.*2 now.*learning_rate.*train: ") as caught:
        refuse_other_run(tmp_path, before, {"settings": other, "data": {"train": "def"}})
    assert "seed" not in str(caught.value)
    with pytest.raises(ValueError, match="stellar-hub train"):
        refuse_other_run(tmp_path, {"step": 3}, {"settings": other, "data": {}})
