"""An evaluation of the images that can be read: the others are found once, left out, and named in the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.left_out import LeftOut, UnreadableImagesError
from stellar_hub.evaluation.report import Report
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.preparation import PreparedBatch, PreparedBatches, batch_loader, prepare_row, split_rows
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import StellarImageProcessor

Unreadable = dict[str, dict[int, str]]  # by part of the data, and by index in it: why an image cannot be read


class EvaluationData(Protocol):
    """The images of an evaluation, in parts such as "train" and "test"."""

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Images that were left out."""
        ...

    def parts(self) -> Mapping[str, ImageSource]:
        """Returns the images of each part."""
        ...

    def without(self, unreadable: Unreadable) -> Self:
        """Returns the data without some images.

        Raises:
            ValueError: if too few images stay.
        """
        ...


DataT = TypeVar("DataT", bound=EvaluationData)


def evaluate_readable(
    data: DataT, backbones: Sequence[Backbone], run: RunSettings, evaluate: Callable[[DataT], Report]
) -> tuple[Report, DataT]:
    """Evaluates with the images that can be read.

    Nothing is spent on checks while all images can be read. When the first one cannot, all images are decoded once to
    find the others, and the evaluation begins again without them. Therefore every model sees the same images, and the
    numbers are those of data that never had the others.

    Args:
        data: Images to evaluate with.
        backbones: Models to evaluate.
        run: How to compute.
        evaluate: Evaluates some data, and raises UnreadableImagesError where an image cannot be read.

    Returns:
        The report, which names the images that were left out, and the data without them.

    Raises:
        ValueError: if too few images stay.
    """
    while True:
        try:
            report = evaluate(data)
        except UnreadableImagesError as error:
            unreadable = _find_unreadable(data, error, backbones, run)
        else:
            return replace(report, left_out=list(data.left_out)), data
        data = data.without(unreadable)


def _find_unreadable(
    data: EvaluationData, error: UnreadableImagesError, backbones: Sequence[Backbone], run: RunSettings
) -> Unreadable:
    """Returns all images that cannot be read, among them those of an error."""
    found: Unreadable = {}
    for part, images in data.parts().items():
        known = error.reasons if images is error.images else {}
        found[part] = known if error.complete else {**check_images(images, part, backbones, run), **known}
    return {part: reasons for part, reasons in found.items() if reasons}


def check_images(images: ImageSource, part: str, backbones: Sequence[Backbone], run: RunSettings) -> dict[int, str]:
    """Decodes all images and fits them for each model; each process does a part.

    Returns:
        Why an image cannot be read or fitted, by its index; in every process that of all processes.
    """
    batches = split_rows(range(len(images)), run.batch_size)
    own = [batches[number] for number in run.processes.share(len(batches))]
    checks = _Checks(images, [backbone.processor for backbone in backbones], own)
    failure: Exception | None = None
    failed: list[ImageRecord] = []
    try:
        loader = batch_loader(checks, run.num_workers, pin_memory=False)
        for batch in run.progress(loader, f"checking images of {part}", len(own)):
            failed += batch.records
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        failure = error
    run.processes.raise_together(failure)
    return {record.row: str(record.error) for record in run.processes.gather(failed)}


class _Checks(PreparedBatches):
    """The records of the images that cannot be read, without pixels, in batches."""

    def __init__(self, source: ImageSource, processors: Sequence[StellarImageProcessor], batches: Sequence[range]):
        super().__init__(source, processors[0], batches)
        self.others = processors[1:]

    def __getitem__(self, index: int) -> PreparedBatch:
        records = (self._check(row) for row in self.batches[index])
        return PreparedBatch([record for record in records if record.error is not None], None)

    def _check(self, row: int) -> ImageRecord:
        record, _ = prepare_row(self.source, row, self.processor)
        if record.original_size is None:
            return record
        try:
            for processor in self.others:  # decoding is over, and the rest depends on the size alone
                processor.geometry_of_shape(torch.Size((3, *record.original_size)))
        except ValueError as error:
            return replace(record, error=f"{record.image}: {error}")
        return record
