"""What an extraction decides itself where its options say "auto": a store that exists keeps what it was begun with."""

import dataclasses
import os
from pathlib import Path

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.decoder_choice import choose_decoder
from stellar_hub.features.encoding import AUTO, choose_precision
from stellar_hub.features.jpeg_decoding import decoder_on
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import ExtractionOptions


def decide(
    options: ExtractionOptions,
    folder: str | os.PathLike[str],
    backbone: Backbone,
    source: ImageSource,
    *,
    num_workers: int | None = None,
    num_processes: int = 1,
) -> tuple[ExtractionOptions, list[str]]:
    """Returns options without "auto", and notes on what was measured.

    Args:
        options: Options of an extraction.
        folder: Folder of the store, which need not exist.
        backbone: Backbone on its device.
        source: The images.
        num_workers: Number of worker processes that read images.
        num_processes: Number of processes of the launch.

    Raises:
        ValueError: if the decoder, or that of the store, does not work on this device.
    """
    options = of_the_store(options, folder, backbone.device)
    precision = choose_precision(options.precision, backbone)
    decoder, notes = choose_decoder(
        options.decoder,
        backbone,
        source,
        batch_size=options.batch_size,
        precision=precision,
        num_workers=num_workers,
        num_processes=num_processes,
    )
    return dataclasses.replace(options, precision=precision, decoder=decoder), notes


def of_the_store(
    options: ExtractionOptions, folder: str | os.PathLike[str], device: torch.device | None = None
) -> ExtractionOptions:
    """Returns options with what a store was begun with in the place of "auto"; "auto" stays if there is no store.

    Args:
        options: Options of an extraction.
        folder: Folder of the store.
        device: Device that has to decode; None does not check it.

    Raises:
        ValueError: if the store's decoder does not work on the device.
    """
    try:
        found = Manifest.read(Path(folder))
    except (OSError, ValueError):  # none, or damaged: `begin` says it
        return options
    if options.precision == AUTO:
        options = dataclasses.replace(options, precision=str(found.features.get("precision", "float32")))
    if options.decoder == AUTO:
        options = dataclasses.replace(options, decoder=found.decoder)
        try:
            decoder_on(found.decoder, device or torch.device("cuda"))
        except ValueError as error:
            raise ValueError(f"{one_line(folder)} cannot be gone on with on this device: {error}") from None
    return options
