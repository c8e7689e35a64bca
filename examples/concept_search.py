"""Searches a store by one concept: a place in an image finds similar places in other images.

    stellar-hub extract photos --output features
    python examples/concept_search.py features --images photos --query photos/cat.jpg --at 120,200 --output hits.png

The model is stellar-tiny unless `--model` names another one. `--trust-names` takes the model and the images that the
store names; whoever made the store chose these names.

`--at` is a pixel of the query: its row and its column. The search takes the token whose map is highest there. `--token`
names a token. Without both, the search takes the token whose map rises highest above its mean.
"""

import argparse
import io
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data import ImageSource, read_image
from stellar_hub.features import weights_sha256
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.safe_text import escape_control
from stellar_hub.retrieval import place_in_crop, search_concepts, token_at
from stellar_hub.store import FeatureStore
from stellar_hub.visualization import Region, draw_regions


def encode_query(store: FeatureStore, model: StellarModel, image: Path) -> tuple[torch.Tensor, Region]:
    """Returns the tokens of an image, `(r, d)`, and the image with its maps, by the model and preprocessing of a store.

    Raises:
        ValueError: if the model has other weights than the one of the store, or the image cannot be read.
    """
    manifest = store.manifest
    if weights_sha256(model) != manifest.model["weights_sha256"]:
        raise ValueError("another model made the store, its weights differ: name the right one with --model")
    settings = manifest.preprocessing["settings"]
    processor = StellarImageProcessor.from_config(
        model.config, fit=settings["fit"], image_size=tuple(settings["crop_size"])
    )
    batch = next(model.extract([image], outputs=("S", "L"), processor=processor))
    record = batch.records[0]
    if record.crop_box is None:
        raise ValueError(record.error)
    grid_size = tuple(manifest.features["grid_size"])
    region = Region(read_image(image), batch["L"][0], 0, record.crop_box, grid_size, image.name)
    return batch["S"][0], region


def choose_token(region: Region, token: int | None, pixel: tuple[float, float] | None) -> int:
    """Returns a token of the query: by its number, by a pixel, or the one with the sharpest map."""
    if token is not None:
        return token
    if pixel is not None:
        return token_at(region.localization, place_in_crop(pixel, region.crop_box), region.grid_size)
    return int((region.localization.amax(dim=0) - region.localization.mean(dim=0)).argmax())


def region_of_hit(store: FeatureStore, source: ImageSource, row: int, token: int, score: float) -> Region:
    """Returns a found image, and the region of the token in it."""
    record = store.records([row])[0]
    assert record.crop_box is not None, "rows with an error are never found"
    localization = store.read("L", [row])[0].float()
    grid_size = tuple(store.manifest.features["grid_size"])
    caption = f"{score:.2f} {escape_control(Path(record.image).name)}"
    return Region(read_image(source[row]), localization, token, record.crop_box, grid_size, caption)


def read_pixel(text: str) -> tuple[float, float]:
    """Returns the row and the column of "120,200"."""
    try:
        row, column = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be ROW,COLUMN, such as 120,200, got {text!r}") from None
    return row, column


def main() -> None:
    """Searches and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store that `stellar-hub extract` wrote, with S and L")
    parser.add_argument("--images", help="folder, list, tars or table of the images that the store was made from")
    parser.add_argument("--model", default="stellar-tiny", help="model that made the store (default: %(default)s)")
    parser.add_argument("--trust-names", action="store_true", help="open the images and the model that the store names")
    parser.add_argument("--query", type=Path, required=True, help="image with the concept")
    parser.add_argument(
        "--at", type=read_pixel, metavar="ROW,COLUMN", help="pixel of the query: its row and its column"
    )
    parser.add_argument("--token", type=int, help="number of a token of the query, instead of --at")
    parser.add_argument("--count", type=int, default=10, help="number of images to find (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("hits.png"), help="image to write (default: %(default)s)")
    args = parser.parse_args()
    disable_progress_bar()  # of loading weights, which takes no time here
    try:
        store = FeatureStore(args.store)
        source = store.source([args.images] if args.images else None, trust_names=args.trust_names)
        model = store.load_model() if args.trust_names else StellarModel.from_pretrained(args.model, decoder=False)
        tokens, region = encode_query(store, model, args.query)
        token = choose_token(region, args.token, args.at)
        if not 0 <= token < len(tokens):
            raise ValueError(f"token must be 0 to {len(tokens) - 1}, got {token}")
        found = search_concepts(store, tokens[token : token + 1], args.count)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SystemExit(f"concept_search: {error}") from error
    columns = zip(found.rows[0].tolist(), found.tokens[0].tolist(), found.scores[0].tolist(), strict=True)
    hits = [region_of_hit(store, source, *column) for column in columns]
    for hit in hits:
        print(hit.caption)
    query = Region(region.image, region.localization, token, region.crop_box, region.grid_size, region.caption)
    page = draw_regions(query, hits, f"token {token} of {args.query.name}, and where it is in other images")
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    write_atomically(args.output, buffer.getvalue())
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
