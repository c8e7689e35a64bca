"""An extraction into a store: a new one, one that goes on, or an append of the images that are new."""

import dataclasses
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from stellar_hub.data.sources import StoredSource, open_sources
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.preparation import check_at_least
from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store.append import Known, Pending, begin_segment, can_append, check_fits, publish
from stellar_hub.store.decisions import decide
from stellar_hub.store.files import pyarrow
from stellar_hub.store.fill import ExtractionReport, Filling, fill_store
from stellar_hub.store.images_of_rows import ImagesOfRows
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import Manifest, remove_all_unfinished, spell_rows
from stellar_hub.store.parts import find_segments, pending_path, segment_path
from stellar_hub.store.plan import ExtractionOptions, check_source, make_plan
from stellar_hub.store.resume import check_apart, prepare_folder


def extract_to_store(
    model: StellarModel | Backbone,
    source: StoredSource | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    processor: StellarImageProcessor | None = None,
    source_names: Sequence[str] = (),
    num_workers: int | None = None,
    repair: bool = False,
    retry_errors: bool = False,
    append: bool = False,
    processes: Processes | None = None,
    show_progress: bool = True,
) -> ExtractionReport:
    """Extracts the features of all images of a source into a store, or resumes an extraction.

    The finished store is the same, byte for byte, however often the run was interrupted. Several processes may extract
    into one store at once, each with its own rank: each extracts its own shards, and the last one writes the index.
    Shards whose images have another size or modification time than when they were written are extracted again.

    Args:
        model: STELLAR model on its device, or a backbone as `open_backbone` opens it.
        source: Source of images, as `open_source` or `open_sources` gives it; or the name of one, such as a folder, or
            a list of names, as `open_source` takes them.
        folder: Folder of the store; it is created if it does not exist.
        options: Options that decide the content of the store.
        processor: Processor that fits the images to one size; None takes the one that belongs to the model's size.
        source_names: Names that `open_sources` opens the source by; the manifest keeps them. A source that is given by
            its name needs none.
        num_workers: Number of worker processes that read images. None takes the number of cores, at most 8; 0 reads in
            this process.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        retry_errors: Whether to try rows with an error again, for example after a network disk was away. A row that
            has features keeps them.
        append: Whether to add images that a complete store does not have as new rows, in a segment of their own. All
            rows that are there stay as they are, also those whose images have changed or are gone; with `repair`, rows
            whose images have changed are extracted again. Images are known by their names in the index. A folder
            without a store gets a new one.
        processes: This process among those that share the work; None reads it from the environment.
        show_progress: Whether to show progress on stderr; only the first process does.

    Raises:
        BlockingIOError: if another run uses the store.
        FileExistsError: if the folder is something else, or holds a store of another extraction.
        ImportError: if pyarrow is not installed.
        OSError: if a file cannot be written; the same call resumes the extraction.
        ValueError: if the store is damaged and `repair` is not set, options do not fit or do not work on the device, or
            the folder of the store and a folder of images do not lie apart.
    """
    pyarrow()  # before hours of work
    source, source_names = _opened(source, source_names)
    check_source(source)
    check_apart(Path(folder), source, source_names)
    backbone = as_backbone(model, processor)
    processes = processes or Processes.from_environment()
    options, decided = decide(
        options or ExtractionOptions(),
        folder,
        backbone,
        source,
        num_workers=num_workers,
        num_processes=processes.num_processes,
    )
    if append and can_append(Path(folder)):
        like = make_plan(backbone, ImagesOfRows(source, []), options, source_names)
        check_at_least("num_workers", num_workers or 0, 0)
        store = prepare_folder(Path(folder))
        with StoreLock(store, processes.rank, processes.num_processes) as lock:
            filling = Filling(backbone, lock, processes, num_workers, repair, retry_errors, show_progress)
            report = _append(store, source, like, filling)
    else:
        report = fill_store(
            make_plan(backbone, source, options, source_names),
            Path(folder),
            backbone,
            source,
            num_workers=num_workers,
            repair=repair,
            retry_errors=retry_errors,
            processes=processes,
            show_progress=show_progress,
        )
        if (repair or retry_errors) and find_segments(Path(folder)):
            line = f"only {spell_rows(report.manifest.rows)} were looked at: --append looks at the segments too"
            report = dataclasses.replace(report, about_append=[line])
    return dataclasses.replace(report, decided=tuple(decided))


def _append(store: Path, source: StoredSource, like: Manifest, filling: Filling) -> ExtractionReport:
    """Adds the images of a source that a store does not have, and repairs what is there if that is asked for.

    Args:
        store: Folder of the store, which this run has locked.
        source: The images.
        like: Plan whose model, preprocessing, features and options new rows have.
        filling: The work of this run.
    """
    alone = filling.processes.num_processes == 1
    reports: list[ExtractionReport] = []
    lines: list[str] = []
    num_appended = 0
    for turn in count():
        with filling.lock.merging():
            known = Known.look(store, source)
            check_fits(store, known.parts[0][1], like)
            if alone:
                for place in (*(folder for folder, _ in known.parts), pending_path(store)):
                    remove_all_unfinished(place)
            pending, about = begin_segment(store, known, source, like)
        if turn == 0:
            reports += _look_after(known, filling)
            if filling.processes.is_main:
                lines += [*known.about_gone(), *([] if filling.repair else known.about_changed())]
        lines += about
        if pending is None:
            break
        reports.append(_fill_segment(store, pending, filling))
        filled = reports[-1].manifest
        if filled.counts is None:
            break
        num_appended += filled.num_rows
        lines.append(f"new: {spell_rows(filled.rows)}, in {segment_path(store, len(known.parts))}")
        if not (pending.resumed and alone):  # what has come since it was begun is new too
            break
    if pending is None and not num_appended:
        lines.append(f"nothing new: the store has all {len(source)} images of the source")
    return _together(reports, known.parts[0][1], source, lines, num_appended)


def _look_after(known: Known, filling: Filling) -> list[ExtractionReport]:
    """Extracts again what is damaged, has failed or was left undone of the rows that are there, as is asked for."""
    reports = []
    for (folder, manifest), images in zip(known.parts, known.images, strict=True):
        if filling.repair or filling.retry_errors or manifest.counts is None:
            shards = range(manifest.num_shards)
            kept = [each for each in shards if not filling.repair or images.lacks(manifest.rows_of_shard(each))]
            reports.append(filling.fill(manifest, folder, images, kept=kept))
    return reports


def _fill_segment(store: Path, pending: Pending, filling: Filling) -> ExtractionReport:
    """Extracts the rows of a segment, and gives it its name if it is complete."""
    report = filling.fill(pending.plan, pending.folder, pending.images)
    with filling.lock.merging():
        manifest = publish(store, int((pending.plan.segment or {})["number"]))
    return dataclasses.replace(report, manifest=manifest)


def _together(
    reports: Sequence[ExtractionReport],
    base: Manifest,
    source: StoredSource,
    lines: Sequence[str],
    num_appended: int,
) -> ExtractionReport:
    """Returns one report of all the work of an append."""
    rows = sum(each.rows for each in reports)
    seconds = [each.rows / each.rows_per_second if each.rows else 0.0 for each in reports]
    waited = sum(each.waiting_share * time for each, time in zip(reports, seconds, strict=True))
    pieces = [each.largest_piece for each in reports if each.largest_piece is not None]
    unfinished = [each.manifest for each in reports if each.manifest.counts is None]
    return ExtractionReport(
        manifest=[base, *(each.manifest for each in reports), *unfinished][-1],
        rows=rows,
        errors=sum(each.errors for each in reports),
        rows_per_second=rows / max(sum(seconds), 1e-9),
        waiting_share=waited / max(sum(seconds), 1e-9),
        largest_piece=min(pieces, default=None),
        repaired=[line for each in reports for line in each.repaired],
        num_stale=sum(each.num_stale for each in reports),
        num_retried=sum(each.num_retried for each in reports),
        num_recovered=sum(each.num_recovered for each in reports),
        notes=tuple(getattr(source, "notes", ())),
        damaged=tuple(getattr(source, "damaged", ())),
        num_appended=num_appended,
        about_append=lines,
    )


def _opened(source: Any, names: Sequence[str]) -> tuple[StoredSource, Sequence[str]]:
    """Returns a source, opened if it is given by its names, and its names."""
    given = [source] if isinstance(source, str | os.PathLike) else source
    if not (isinstance(given, list | tuple) and given and all(isinstance(each, str | os.PathLike) for each in given)):
        return source, names
    return open_sources(given), names or [os.fspath(each) for each in given]
