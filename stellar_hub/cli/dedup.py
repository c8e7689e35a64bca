"""`stellar-hub dedup`: near-duplicates in a store, and a list of the images to keep."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import UsageError, reports_errors
from stellar_hub.cli.messages import say, warn
from stellar_hub.cli.options import Debug, Output, Overwrite

THRESHOLD = 0.985  # that of `group_duplicates`, whose import takes seconds


def _check_threshold(value: float) -> float:
    if not 0 < value <= 1:
        raise UsageError(f"--threshold must be above 0 and at most 1, got {value:g}")
    return value


Store = Annotated[
    Path, typer.Argument(metavar="STORE", help="Feature store with S, as `stellar-hub extract` writes it.")
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        metavar="X",
        callback=_check_threshold,
        help="Similarity to a kept image from which an image is its duplicate: above 0, and at most 1, which finds "
        "copies without any change. A lower value finds copies that were changed more, and images that are only alike.",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Images that the store was made from, for the contact sheets: a folder, a list, tars or a table. Repeat "
        "it for several. Default: images that stellar-tiny decodes, if the store is its own; else no sheets.",
        show_default=False,
    ),
]
TrustNames = Annotated[
    bool,
    typer.Option(
        "--trust-names",
        help="Open the images that the store names or, if they are gone, the model that it names, for the contact "
        "sheets. Whoever made the store chose these names.",
    ),
]


@reports_errors
def dedup(
    store: Store,
    output: Output,
    threshold: Threshold = THRESHOLD,
    source: Sources = None,
    trust_names: TrustNames = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Find near-duplicates in a store: images that were resized, recompressed, mirrored or cropped a little.

    No image is changed or removed. The output folder gets keep.txt, a list of images that `extract` and `train` take;
    duplicates.txt, the others; groups.csv and report.json; and contact sheets to look at, with the most doubtful groups
    first. The largest image of each group is kept.

    Example: stellar-hub dedup features --output duplicates --source photos
    """
    from stellar_hub.cli.dedup_files import check_apart, check_output, write_files
    from stellar_hub.cli.dedup_images import images_of, open_images
    from stellar_hub.retrieval import group_duplicates
    from stellar_hub.store import FeatureStore
    from stellar_hub.store.databases.places import check_outside

    check_output(output, overwrite)
    opened = FeatureStore(store)
    check_outside(output, opened)
    check_apart(output, source or opened.manifest.source["names"])
    images = open_images(opened, source, trust_names)
    groups = group_duplicates(opened, threshold)
    show = images_of(opened, images, trust_names) if groups else None
    written = write_files(opened, groups, threshold, output, show)
    if written.left_out:
        warn(f"note: {written.left_out} images are no files, or have names that no list can hold: report.json has all")
    errors = int((~opened.ok).sum())
    if errors:
        warn(f"left out: {_counted(errors, 'row')} with an error")
    num_images, num_duplicates = len(opened) - errors, sum(len(group.duplicates) for group in groups)
    if not groups:
        say(f"{output}: no near-duplicates among {num_images:,} images at a threshold of {threshold:g}")
        return
    say(
        f"{output}: {num_duplicates:,} near-duplicates in {_counted(len(groups), 'group')}, "
        f"{num_images - num_duplicates:,} of {num_images:,} images to keep; {_counted(written.num_sheets, 'sheet')}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
