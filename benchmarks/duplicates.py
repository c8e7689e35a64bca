"""Plants copies of images and measures how many are found as near-duplicates, and how many pairs are wrong.

    python benchmarks/duplicates.py --figure docs/images/duplicates.png

The images are drawn scenes, by seeds that stellar-tiny was not trained on, and the photographs of the repository:
`examples/images`, which it was not trained on, and `examples/training_photographs`, which it was. Each image has four
copies: resized to 50 %, recompressed (JPEG, quality 40), mirrored, and cropped to 90 % of its height and width at a
random place. All pairs of an image and its copies are true, and all pairs of different images are false. No crop stands
for an image of its own.

The first table has precision and recall of all pairs at each threshold of the similarity of tokens, and of pooled
vectors for comparison. The second has what `group_duplicates` does at the default threshold: which share of the images
that it would remove are copies of the kept one, and which share of each kind of copies is removed with its image kept
or the other way round. The script exits with 1 unless precision and recall of pairs are at least 0.95 on both sets at
the default threshold.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from stellar_hub import StellarModel
from stellar_hub.data.scenes import draw_scene
from stellar_hub.progress import track
from stellar_hub.retrieval import group_duplicates
from stellar_hub.retrieval.duplicates import MARGIN, THRESHOLD, token_similarity
from stellar_hub.store import FeatureStore, extract_to_store

FIRST_SEED = 1_000_000  # training uses smaller seeds
EXAMPLES = Path(__file__).parents[1] / "examples"
KINDS = ("resized", "recompressed", "mirrored", "cropped")
THRESHOLDS = (0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 0.999)
PAIRS_AT_A_TIME = 4096
BAR = 0.95


class Pairs(NamedTuple):
    """Pairs of images that may be copies: their similarities, and which are true; and the number of all true pairs."""

    tokens: Tensor  # (P,)
    pooled: Tensor  # (P,)
    true: Tensor  # (P,) bool
    num_true: int


def scenes(count: int, size: int) -> Iterator[Image.Image]:
    """Yields drawn scenes of up to three objects."""
    for index in range(count):
        yield Image.fromarray(draw_scene(FIRST_SEED + index, size, 3, class_cue="color").image)


def photographs(count: int | None) -> Iterator[Image.Image]:
    """Yields the first photographs of the repository."""
    paths = [
        path for folder in ("images", "training_photographs") for path in sorted((EXAMPLES / folder).glob("*.jpg"))
    ]
    for path in paths[:count]:
        with Image.open(path) as image:
            yield image.convert("RGB")


def copies(image: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yields a copy of each kind, in the order of `KINDS`."""
    yield image.resize((round(image.width / 2), round(image.height / 2)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    yield Image.open(buffer).convert("RGB")
    yield ImageOps.mirror(image)
    width, height = round(0.9 * image.width), round(0.9 * image.height)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    yield image.crop((left, top, left + width, top + height))


def plant(images: Iterator[Image.Image], folder: Path) -> None:
    """Writes images and their copies: row `5 i` of a store of the folder is image `i`, and its copies follow."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, image in enumerate(images):
        for place, each in enumerate((image, *copies(image, rng))):
            each.save(folder / f"{number:05d}-{place}.png", compress_level=1)


def similar_pairs(store: FeatureStore) -> Pairs:
    """Returns the pairs that the lowest threshold can find."""
    tokens = F.normalize(store.read("S").float(), dim=-1)
    vectors = F.normalize(store.read("pooled").float(), dim=-1)
    similarity = (vectors @ vectors.T).triu(1)
    one, other = (similarity >= THRESHOLDS[0] - MARGIN).nonzero(as_tuple=True)
    parts = [
        token_similarity(tokens[first], tokens[second])
        for first, second in zip(one.split(PAIRS_AT_A_TIME), other.split(PAIRS_AT_A_TIME), strict=True)
    ]
    group = len(KINDS) + 1
    num_true = len(store) // group * (group * (group - 1) // 2)
    return Pairs(torch.cat(parts), similarity[one, other], one // group == other // group, num_true)


def judge(similarity: Tensor, pairs: Pairs, threshold: float) -> dict[str, float]:
    """Returns precision and recall of the pairs at a threshold."""
    found = similarity >= threshold
    right = int((found & pairs.true).sum())
    return {"precision": right / max(1, int(found.sum())), "recall": right / pairs.num_true}


def judge_groups(store: FeatureStore) -> dict[str, float]:
    """Returns which share of the removed images are copies of the kept one, and of each kind the share that is found.

    A copy is found if it is in one group with its image.
    """
    size = len(KINDS) + 1
    group_of = torch.arange(len(store)) + len(store)  # each row for itself
    removed = right = 0
    for number, group in enumerate(group_duplicates(store)):
        group_of[[group.kept, *group.duplicates]] = number
        removed += len(group.duplicates)
        right += sum(row // size == group.kept // size for row in group.duplicates)
    rows = group_of.view(-1, size)
    recall = {kind: float((rows[:, place] == rows[:, 0]).float().mean()) for place, kind in enumerate(KINDS, 1)}
    return {"removed": removed, "precision": right / max(1, removed)} | recall


def measure(name: str, images: Iterator[Image.Image], model: StellarModel, folder: Path) -> dict[str, Any]:
    """Plants the copies of one set, extracts their features and measures."""
    plant(images, folder / "images")
    extract_to_store(model, folder / "images", folder / "store", show_progress=False)
    store = FeatureStore(folder / "store")
    pairs = similar_pairs(store)
    curve = {kind: [judge(getattr(pairs, kind), pairs, each) for each in THRESHOLDS] for kind in ("tokens", "pooled")}
    default = judge(pairs.tokens, pairs, THRESHOLD)
    return {"set": name, "images": len(store), **curve, "default": default, "groups": judge_groups(store)}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draws precision and recall over the threshold, one panel for each set."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        for kind, style in (("tokens", "-"), ("pooled", ":")):
            for what, color in (("precision", "#1f5faa"), ("recall", "#d66021")):
                values = [row[what] for row in result[kind]]
                axes.plot(THRESHOLDS, values, style, color=color, label=f"{what}, {kind}")
        axes.axvline(THRESHOLD, color="#696e76", lw=0.8)
        axes.set(title=result["set"], xlabel="threshold", ylim=(0.4, 1.02))
        axes.grid(color="#e8ebef")
    panels[0].legend(fontsize=8, loc="lower center")
    figure.savefig(path)


def print_tables(results: list[dict[str, Any]]) -> None:
    """Prints the tables as Markdown."""
    names = [result["set"] for result in results]
    heads = [f"{name}, {what}" for name in names for what in ("precision", "recall", "pooled: precision", "recall")]
    print(f"| threshold | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for place, threshold in enumerate(THRESHOLDS):
        cells = [
            f"{result[kind][place][what]:.3f}"
            for result in results
            for kind in ("tokens", "pooled")
            for what in ("precision", "recall")
        ]
        print(f"| {threshold:g} | {' | '.join(cells)} |")
    print(
        f"\n| set | images | removed | of these right | {' | '.join(KINDS)} |\n|---|---|---|---{'|---' * len(KINDS)}|"
    )
    for result in results:
        groups = result["groups"]
        shares = " | ".join(f"{groups[name]:.3f}" for name in ("precision", *KINDS))
        print(f"| {result['set']} | {result['images']} | {groups['removed']} | {shares} |")


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=250, help="number of scenes (default: %(default)s)")
    parser.add_argument("--size", type=int, default=192, help="side of a scene in pixels (default: %(default)s)")
    parser.add_argument("--photographs", type=int, help="number of photographs (default: all)")
    parser.add_argument("--figure", type=Path, help="image to draw the curves in")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    args = parser.parse_args()
    model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
    sets = {"scenes": scenes(args.scenes, args.size), "photographs": photographs(args.photographs)}
    with tempfile.TemporaryDirectory() as name:
        results = [
            measure(each, images, model, Path(name) / each)
            for each, images in track(sets.items(), "measuring", unit="set")
        ]
    print_tables(results)
    if args.figure:
        draw(results, args.figure)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(min(result["default"].values()) >= BAR for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
