"""The images that the contact sheets of `stellar-hub dedup` show: those of the source, or decoded ones."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stellar_hub.cli.errors import one_line
from stellar_hub.cli.messages import warn

if TYPE_CHECKING:
    from PIL import Image

    from stellar_hub.data import ImageSource
    from stellar_hub.modeling import StellarModel
    from stellar_hub.store import FeatureStore

    Show = Callable[[Sequence[int]], list[Image.Image | None]]  # from rows to their images

SIDE = 256  # pixels that are enough of the shorter side
TINY = "stellar-tiny"  # it comes with the package
OWN_NAMES = "pass --source SOURCE to show the images themselves, or --trust-names to open the names in the store"


def open_images(store: "FeatureStore", names: list[str] | None, trust_names: bool) -> "ImageSource | None":
    """Opens the images of a store; returns None without names, or if those in the store are gone, which is said.

    Raises:
        OSError: if named images do not exist.
        ValueError: if they are not those of the store.
    """
    if names:
        return store.source(names)
    if not trust_names:
        return None
    try:
        return store.source(trust_names=True)
    except (OSError, ValueError) as error:
        warn(f"note: the sheets show decoded images: {one_line(error)}")
        return None


def images_of(store: "FeatureStore", source: "ImageSource | None", trust_names: bool) -> "Show | None":
    """Returns what gives the images of rows; None, and a note, if there is nothing."""
    if source is not None:
        return lambda rows: [_read(source, row) for row in rows]
    model = _model(store, trust_names)
    if model is None:
        warn(f"note: no contact sheets: {OWN_NAMES}")
        return None
    if not trust_names:
        warn(f"note: the sheets show images that {TINY} decodes: {OWN_NAMES}")
    return lambda rows: list(store.decode(list(rows), model))


def _model(store: "FeatureStore", trust_names: bool) -> "StellarModel | None":
    """Returns the model that decodes a store: the one that the store names, or stellar-tiny if it made the store."""
    from stellar_hub.modeling import StellarModel

    try:
        if trust_names:
            model = store.load_model()
        elif store.manifest.model["name"] == TINY:
            model = StellarModel.from_pretrained(TINY).eval().requires_grad_(False)
        else:
            return None
        store.decode([int(store.ok.nonzero()[0])], model)  # other weights, and a store without L, are seen now
    except (OSError, ValueError, ImportError) as error:
        warn(f"note: the store cannot be decoded: {one_line(error)}")
        return None
    return model


def _read(source: "ImageSource", row: int) -> "Image.Image | None":
    """Returns an image of a source at a reduced size; None if it cannot be read."""
    from stellar_hub.data.sources.image_source import encoded_and_name
    from stellar_hub.modeling.image_loading import load_reduced
    from stellar_hub.modeling.localization_maps import as_float, to_pil

    try:
        encoded, name = encoded_and_name(source[row])
        pixels, _ = load_reduced(encoded, _reduction, name)
    except (OSError, ValueError):
        return None
    return to_pil(as_float(pixels))


def _reduction(height: int, width: int) -> int:
    """Returns how many times smaller an image may be decoded."""
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(height, width) >= factor * SIDE)
