"""Opens the images of a store in FiftyOne: search by similarity, heat maps of the tokens, and near-duplicates.

    pip install '.[extract]' fiftyone  # in an environment without `serve` and `app`
    stellar-hub extract photos --output features
    python examples/fiftyone_view.py features --images photos

Each image has its class folder as `label`, its pooled vector as `pooled`, fields such as `token_03` for the maps of its
tokens with the highest peaks, and, where it has near-duplicates, the number of its group as `duplicate_group` and a
tag: "keep" or "duplicate". "Sort by similarity" compares pooled vectors less the mean of all, and the panel
"Embeddings" shows them in a plane. `--no-app` writes the data set, which stays in FiftyOne's database, and opens no
page.
"""

import argparse
from pathlib import Path
from typing import Any

from stellar_hub.data import ImageSource
from stellar_hub.modeling.localization_maps import resample_maps
from stellar_hub.retrieval import group_duplicates
from stellar_hub.store import FeatureStore

try:
    import fiftyone
    import fiftyone.brain
except ImportError as error:
    raise SystemExit(f"fiftyone_view needs FiftyOne: pip install fiftyone ({error})") from error

LONG_SIDE = 64  # of a heat map; the page enlarges it


def heat_maps(store: FeatureStore, row: int, count: int) -> dict[str, Any]:
    """Returns the maps of the tokens with the highest peaks as FiftyOne's heat maps, by the name of their field."""
    record, maps = store.records([row])[0], store.read("L", [row])[0].float()
    assert record.original_size is not None
    assert record.crop_box is not None
    scale = LONG_SIDE / max(record.original_size)
    height, width = (max(1, round(scale * side)) for side in record.original_size)
    top, left, bottom, right = (scale * edge for edge in record.crop_box)
    grid_size = tuple(store.manifest.features["grid_size"])
    shown = resample_maps(maps, (height, width), (top, left, bottom, right), grid_size)
    tokens = shown.amax(dim=(1, 2)).topk(min(count, len(shown))).indices.sort().values.tolist()
    return {f"token_{token:02d}": fiftyone.Heatmap(map=(shown[token] / shown[token].max()).numpy()) for token in tokens}


def samples_of(store: FeatureStore, source: ImageSource, num_maps: int) -> list[Any]:
    """Returns a FiftyOne sample for each image that has features and is a file."""
    groups, rows = group_duplicates(store), store.ok.nonzero().flatten().tolist()
    number = {row: index for index, group in enumerate(groups, 1) for row in (group.kept, *group.duplicates)}
    kept = {group.kept for group in groups}
    samples = []
    for row, vector in zip(rows, store.read("pooled", rows).float().numpy(), strict=True):
        image = source[row]
        if not isinstance(image, str | Path):
            raise ValueError(f"{image} is in an archive or a table, and FiftyOne opens files alone")
        sample = fiftyone.Sample(str(image), label=fiftyone.Classification(label=store.records([row])[0].label))
        sample["row"], sample["pooled"] = row, vector
        if row in number:
            sample["duplicate_group"] = number[row]
            sample.tags = ["keep" if row in kept else "duplicate"]
        for name, heat_map in heat_maps(store, row, num_maps).items():
            sample[name] = heat_map
        samples.append(sample)
    if not samples:
        raise ValueError("the store has no image with features")
    return samples


def main() -> None:
    """Makes the data set and opens the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store that `stellar-hub extract` wrote, with S, L and pooled")
    parser.add_argument("--images", help="folder or list of the images that the store was made from")
    parser.add_argument("--trust-names", action="store_true", help="open the images that the store names")
    parser.add_argument("--name", help="name of the data set (default: that of the store's folder)")
    parser.add_argument("--maps", type=int, default=4, help="number of heat maps for each image (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of this name")
    parser.add_argument("--no-app", action="store_true", help="open no page")
    args = parser.parse_args()
    name = args.name or args.store.resolve().name
    try:
        if fiftyone.dataset_exists(name) and not args.overwrite:
            raise ValueError(f"there is a data set {name!r} already: pass --overwrite, or another --name")
        store = FeatureStore(args.store)
        source = store.source([args.images] if args.images else None, trust_names=args.trust_names)
        samples = samples_of(store, source, args.maps)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SystemExit(f"fiftyone_view: {error}") from error
    dataset = fiftyone.Dataset(name, persistent=True, overwrite=args.overwrite)
    dataset.add_samples(samples)
    fiftyone.brain.compute_similarity(dataset, embeddings="pooled", brain_key="pooled_similarity", backend="sklearn")
    fiftyone.brain.compute_visualization(dataset, embeddings="pooled", brain_key="pooled_plane", method="pca")
    print(f"{dataset.name}: {len(dataset)} images, {len(dataset.match_tags('duplicate'))} near-duplicates")
    if not args.no_app:
        fiftyone.launch_app(dataset).wait(-1)


if __name__ == "__main__":
    main()
