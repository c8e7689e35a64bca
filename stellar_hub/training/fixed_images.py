"""The few pictures that every progress picture of a run shows."""

import itertools
import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from stellar_hub.data.sources import JoinedSources, PictureSource, read_picture
from stellar_hub.data.sources.picture_source import Picture
from stellar_hub.data.streams import DamagedShardError, PictureStream
from stellar_hub.modeling import StellarConfig, StellarImageProcessor

logger = logging.getLogger(__name__)

NUM_FIXED_IMAGES = 6
FIXED_IMAGE_TRIES = 60


def fixed_images(source: JoinedSources | PictureStream, config: StellarConfig) -> Tensor:
    """A few readable pictures as the model sees them at evaluation: spread over the source, or a stream's first ones.

    Raises:
        ValueError: if none of those tried can be read.
    """
    processor = StellarImageProcessor.from_config(config)
    images: dict[str, Tensor] = {}
    problems = []
    for picture in candidates(source) if isinstance(source, JoinedSources) else first_pictures(source):
        try:
            images[str(picture)] = processor(read_picture(picture), return_tensors="pt")["pixel_values"]
        except (ValueError, OSError) as error:
            problems.append(str(error))
        if len(images) == NUM_FIXED_IMAGES:
            break
    if not images:
        first = f"; the first: {problems[0]}" if problems else ""
        raise ValueError(f"none of {len(problems)} pictures tried can be read{first}")
    return torch.cat(list(images.values()))


def candidates(source: PictureSource) -> Iterable[Picture]:
    """Pictures spread over a source, in an order in which the first few are spread as well."""
    step = (len(source) - 1) / (FIXED_IMAGE_TRIES - 1)
    tries = dict.fromkeys(round(index * step) for index in range(FIXED_IMAGE_TRIES))
    spread = [*list(tries)[:: max(1, len(tries) // NUM_FIXED_IMAGES)], *tries]
    return dict.fromkeys(source[index] for index in spread)


def first_pictures(stream: PictureStream) -> Iterator[Picture]:
    """The first pictures of a stream's first shard that has some."""
    for shard in range(len(stream.shards)):
        found = False
        try:
            for picture in itertools.islice(stream.read(shard), FIXED_IMAGE_TRIES):
                found = True
                yield picture
        except DamagedShardError as error:
            logger.warning("a shard cannot be read on: %s", error)
        if found:
            return
