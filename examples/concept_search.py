"""Search a store by one concept: a place of an image finds images that have the like, and where in them it is.

    stellar-hub extract photos --output features
    python examples/concept_search.py features --query photos/cat.jpg --at 120,200 --output hits.png

`--at` is a pixel of the query, from the top and from the left: the token that it belongs to most is looked for.
`--token` names one; without either, it is the token whose map rises highest above its mean.
"""

import argparse
import io
from pathlib import Path

import torch

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data.sources import ImageSource, read_image
from stellar_hub.features.identity import weights_sha256
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.retrieval import place_in_crop, search_concepts, token_at
from stellar_hub.store import FeatureStore
from stellar_hub.visualization import Region, draw_regions


def encode_query(store: FeatureStore, image: Path) -> tuple[torch.Tensor, Region]:
    """An image's tokens, `(r, d)`, and the image with its maps; by the model and preprocessing of the store.

    Raises:
        ValueError: if the model of this name has other weights by now.
    """
    manifest = store.manifest
    model = StellarModel.from_pretrained(manifest.model["name"], revision=manifest.model["revision"], decoder=False)
    if weights_sha256(model) != manifest.model["weights_sha256"]:
        raise ValueError(f"the store was made by another {manifest.model['name']}: its weights differ")
    processor = StellarImageProcessor.from_config(model.config, fit=manifest.preprocessing["settings"]["fit"])
    batch = next(model.extract([image], outputs=("S", "L"), processor=processor))
    record = batch.records[0]
    if record.crop_box is None:
        raise ValueError(record.error)
    grid_size = tuple(manifest.features["grid_size"])
    region = Region(read_image(image), batch["L"][0], 0, record.crop_box, grid_size, image.name)
    return batch["S"][0], region


def choose_token(region: Region, token: int | None, pixel: tuple[float, float] | None) -> int:
    """The token asked for: by number, by a pixel, or the one whose map is sharpest."""
    if token is not None:
        return token
    if pixel is not None:
        return token_at(region.localization, place_in_crop(pixel, region.crop_box), region.grid_size)
    return int((region.localization.amax(dim=0) - region.localization.mean(dim=0)).argmax())


def region_of_hit(store: FeatureStore, source: ImageSource, row: int, token: int, score: float) -> Region:
    """What was found: the image, and where in it."""
    record = store.records([row])[0]
    assert record.crop_box is not None, "rows with an error are never found"
    localization = store.read("L", [row])[0].float()
    grid_size = tuple(store.manifest.features["grid_size"])
    caption = f"{score:.2f} {Path(record.image).name}"
    return Region(read_image(source[row]), localization, token, record.crop_box, grid_size, caption)


def main() -> None:
    """Search and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what `stellar-hub extract` wrote, with S and L")
    parser.add_argument("--query", type=Path, required=True, help="an image")
    parser.add_argument("--at", help="ROW,COLUMN: a pixel of the query")
    parser.add_argument("--token", type=int, help="a token of the query, in place of --at")
    parser.add_argument("--count", type=int, default=10, help="images to find (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("hits.png"), help="image (default: %(default)s)")
    args = parser.parse_args()
    try:
        store = FeatureStore(args.store)
        source = store.source()
        tokens, region = encode_query(store, args.query)
        pixel = tuple(float(part) for part in args.at.split(",")) if args.at else None
        token = choose_token(region, args.token, pixel)
        if not 0 <= token < len(tokens):
            raise ValueError(f"there is no token {token}: the model has tokens 0 to {len(tokens) - 1}")
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
    print(f"{args.output}: look at it")


if __name__ == "__main__":
    main()
