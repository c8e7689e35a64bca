"""Images of a run: random crops that follow from seed, epoch and image, prepared images, unreadable ones."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.training.finetuning import FinetuneSettings
from stellar_hub.training.finetuning.batches import (
    UNREADABLE,
    PreparedImages,
    TrainingCrops,
    collate,
    measuring_loader,
    shared_batch_size,
    training_loader,
)
from tests.stellar_hub.training.finetuning.conftest import draw_squares

Settings = Callable[..., FinetuneSettings]


def accelerator_of(process_index: int, num_processes: int) -> Any:
    return SimpleNamespace(
        process_index=process_index, num_processes=num_processes, device=torch.device("cpu"), is_main_process=True
    )


def test_crops__follow_from_seed_epoch_and_image(labelled_train: LabelledImages, settings_of: Settings) -> None:
    crops = TrainingCrops(labelled_train, 32, settings_of())
    first = crops[0, 27]["pixel_values"]
    assert (first.shape, first.dtype, crops[0, 27]["label"]) == ((3, 32, 32), torch.uint8, 2)
    assert torch.equal(first, crops[0, 27]["pixel_values"])
    assert not torch.equal(first, crops[1, 27]["pixel_values"])
    assert not torch.equal(first, TrainingCrops(labelled_train, 32, settings_of(seed=1))[0, 27]["pixel_values"])


def test_crops_of_the_whole_image__are_all_equal_but_mirrored(
    labelled_train: LabelledImages, settings_of: Settings
) -> None:
    crops = TrainingCrops(labelled_train, 32, settings_of(min_crop_area=1.0, flip_probability=1.0))
    plain = TrainingCrops(labelled_train, 32, settings_of(min_crop_area=1.0, flip_probability=0.0))
    assert torch.equal(crops[0, 3]["pixel_values"], plain[5, 3]["pixel_values"].flip(-1))


def test_prepared_images__are_the_processors(labelled_test: LabelledImages, model_folder: Path) -> None:
    processor = StellarImageProcessor.from_pretrained(model_folder)
    sample = PreparedImages(labelled_test, (32, 32), processor)[4]
    expected = processor(labelled_test.images[4])["pixel_values"][0]
    torch.testing.assert_close(sample["pixel_values"], expected, rtol=0, atol=0)
    assert (sample["label"], sample["row"], sample["skipped"]) == (1, 4, [])


def test_image_that_cannot_be_read__is_black_and_has_no_label(
    model_folder: Path, settings_of: Settings, tmp_path: Path
) -> None:
    folder = draw_squares(tmp_path / "train", {"blue": 1, "red": 1})
    (folder / "blue" / "empty\x1b[31m.jpg").write_bytes(b"")
    labelled = open_labelled(folder)
    prepared = PreparedImages(labelled, (32, 32), StellarImageProcessor.from_pretrained(model_folder))
    crops = TrainingCrops(labelled, 32, settings_of())
    for good, bad in ((prepared[0], prepared[1]), (crops[0, 0], crops[0, 1])):
        batch = collate([good, bad])
        assert batch["labels"].tolist() == [0, UNREADABLE]
        assert not batch["pixel_values"][1].any()
        (entry,) = batch["skipped"]
        assert entry.isprintable()


def test_batches__are_shared_by_the_processes(labelled_train: LabelledImages, settings_of: Settings) -> None:
    crops = TrainingCrops(labelled_train, 32, settings_of())

    def rows(process_index: int, num_processes: int) -> list[list[int]]:
        accelerator = accelerator_of(process_index, num_processes)
        loader = training_loader(crops, settings_of(), accelerator, 8, num_steps=4, start_step=1)
        return [batch["rows"].tolist() for batch in loader]

    whole, parts = rows(0, 1), [rows(index, 2) for index in range(2)]
    assert whole == [[*first, *second] for first, second in zip(*parts, strict=True)]
    assert [len(batch) for batch in whole] == [8, 8, 8]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_test_images__come_once_each(
    labelled_test: LabelledImages, model_folder: Path, settings_of: Settings, num_processes: int
) -> None:
    prepared = PreparedImages(labelled_test, (32, 32), StellarImageProcessor.from_pretrained(model_folder))
    loaders = [
        measuring_loader(prepared, settings_of(), accelerator_of(index, num_processes), 6)
        for index in range(num_processes)
    ]
    rows = [row for loader in loaders for batch in loader for row in batch["rows"].tolist()]
    assert sorted(rows) == list(range(11))


def test_batch__is_no_larger_than_the_images_and_splits_evenly(settings_of: Settings) -> None:
    assert shared_batch_size(settings_of(batch_size=64), 28, 1) == 28
    assert shared_batch_size(settings_of(batch_size=64), 27, 2) == 26
    assert shared_batch_size(settings_of(batch_size=8), 28, 2) == 8
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 8"):
        shared_batch_size(settings_of(batch_size=8), 28, 3)
