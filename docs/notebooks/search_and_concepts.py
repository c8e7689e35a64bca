# %% [markdown]
# # Search and concepts
#
# This notebook writes the features of about a hundred photographs to a store, and searches them: by a whole
# photograph, and by one token of it.

# %%
import tempfile
from pathlib import Path

import torch
from PIL import Image

from stellar_hub import FeatureStore, StellarModel
from stellar_hub.data import open_source, read_image
from stellar_hub.retrieval import place_in_crop, search_concepts, search_images, search_sets, token_at
from stellar_hub.store import extract_to_store
from stellar_hub.visualization import Region, draw_regions

PHOTOGRAPHS = "examples/training_photographs"  # or a folder of your own
QUERY = "examples/images/dandelions.jpg"

model = StellarModel.from_pretrained("stellar-tiny")

# %% [markdown]
# ## A store
#
# The store has `S`, `L` and the mean of `S` for each photograph. The command line does the same: `stellar-hub extract
# examples/training_photographs --output features`.

# %%
folder = tempfile.mkdtemp() + "/features"
extract_to_store(model, PHOTOGRAPHS, folder, show_progress=False)
store = FeatureStore(folder)
print(len(store), "photographs;", store.manifest.counts)
print("S:", tuple(store[0]["S"].shape), " L:", tuple(store[0]["L"].shape))

# %% [markdown]
# ## Search by a whole photograph
#
# `search_images` compares the means of the tokens. `search_sets` compares all tokens: each token of the query takes the
# most similar token of the other photograph. The first photograph of each row is the query.

# %%
source = open_source(PHOTOGRAPHS)


def photograph(row: int) -> Image.Image:
    """Opens the photograph of a row of the store."""
    return Image.fromarray(read_image(source[row]).permute(1, 2, 0).numpy())


def strip(images: list[Image.Image], side: int = 130) -> Image.Image:
    """Places images in a row of squares."""
    page = Image.new("RGB", (len(images) * (side + 6) - 6, side), "white")
    for number, each in enumerate(images):
        each.thumbnail((side, side))
        page.paste(each, (number * (side + 6), 0))
    return page


hits = search_images(store, QUERY, k=5, model=model)
for row, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
    print(f"{score:.2f} {Path(store[row].record.image).name}")
strip([Image.open(QUERY), *(photograph(row) for row in hits.rows[0].tolist())])

# %%
sets = search_sets(store, QUERY, k=5, model=model)
strip([Image.open(QUERY), *(photograph(row) for row in sets.rows[0].tolist())])

# %% [markdown]
# ## Search by one token
#
# A concept is one token. Point at a pixel of the query: the token whose map is highest there is the concept. A hit
# names the token that it found, and the map of that token shows where it is. The lines are drawn where a map is
# halfway between its lowest value and its peak.

# %%
batch = next(model.extract([QUERY], outputs=["S", "L"], num_workers=0))
crop_box = batch.records[0].crop_box
grid_size = tuple(store.manifest.features["grid_size"])
height, width = batch.records[0].original_size
pixel = (0.45 * height, 0.5 * width)  # row and column
token = token_at(batch["L"][0], place_in_crop(pixel, crop_box), grid_size)
concept = batch["S"][0][token]
print("token", token, "is strongest at the pixel", tuple(round(value) for value in pixel))

# %%
found = search_concepts(store, concept, k=10)
regions = []
for row, hit, score in zip(found.rows[0].tolist(), found.tokens[0].tolist(), found.scores[0].tolist(), strict=True):
    record = store[row].record
    regions.append(
        Region(
            image=read_image(source[row]),
            localization=torch.as_tensor(store[row]["L"]).float(),
            token=hit,
            crop_box=record.crop_box,
            grid_size=grid_size,
            caption=f"{score:.2f} {Path(record.image).name}",
        )
    )
query = Region(read_image(QUERY), batch["L"][0], token, crop_box, grid_size, Path(QUERY).name)
draw_regions(query, regions, f"token {token} of {Path(QUERY).name}, and where it is in other photographs")

# %% [markdown]
# Stellar-tiny finds colours and textures more than things. Larger models find more: see `examples/concept_search.py`
# for the same on the command line.
