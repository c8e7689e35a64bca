# %% [markdown]
# # Editing
#
# An encoding says what is in an image and where. This notebook changes it and decodes the result. All functions are in
# `stellar_hub.editing`: each returns a new encoding, and the rows of `L` sum to 1 afterwards.

# %%
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.functional import to_pil_image

from stellar_hub import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.editing import (
    blend_encodings,
    drop_tokens,
    interpolate_encodings,
    keep_tokens,
    mirror_token,
    move_token,
    paint_token,
    scale_token,
    token_at,
    token_center,
    transplant_token,
)

model = StellarModel.from_pretrained("stellar-tiny")
processor = StellarImageProcessor.from_pretrained("stellar-tiny")


def encode(path: str) -> StellarEncoding:
    """Encodes a photograph."""
    with torch.no_grad():
        return model.encode(processor(path, return_tensors="pt")["pixel_values"])


def show(side: int = 170, **encodings: StellarEncoding) -> Image.Image:
    """Decodes encodings and places the images in a row, each below its name."""
    page = Image.new("RGB", (len(encodings) * (side + 8) - 8, side + 18), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, encoding) in enumerate(encodings.items()):
        with torch.inference_mode():
            image = to_pil_image(model.decode(encoding)[0])
        page.paste(image.resize((side, side)), (number * (side + 8), 18))
        draw.text((number * (side + 8), 2), name.replace("_", " "), fill="black")
    return page


coffee = encode("examples/images/coffee.jpg")
flowers = encode("examples/images/dandelions.jpg")
rows, columns = coffee.grid_size

# %% [markdown]
# ## Which token is where
#
# Places are in patches: row and column, from the top left. `token_at` gives the strongest token of a place, and
# `token_center` the centre of a token's map. The edits below change the token whose map has the highest peak.

# %%
print("in the middle, token", int(token_at(coffee, rows / 2, columns / 2)), "is the strongest")
maps = coffee.localization[0]
token = int((maps.amax(dim=0) - maps.mean(dim=0)).argmax())
row, column = token_center(coffee, token)[0].tolist()
print(f"the centre of token {token} is in row {row:.1f} and column {column:.1f} of {rows} x {columns} patches")
processor.overlay("examples/images/coffee.jpg", coffee.localization, token=token)

# %% [markdown]
# ## Drop and keep
#
# A dropped token has no weight anywhere. The others share its places.

# %%
largest = maps.mean(dim=0).argsort(descending=True)[:8].tolist()
show(
    decoded=coffee,
    without_it=drop_tokens(coffee, token),
    it_alone=keep_tokens(coffee, token),
    the_eight_largest=keep_tokens(coffee, largest),
)

# %% [markdown]
# ## Move, scale, mirror
#
# These change where a token is. Moving by 0 changes nothing.

# %%
show(
    decoded=coffee,
    moved=move_token(coffee, token, rows=-rows / 4, columns=columns / 4),
    larger=scale_token(coffee, token, 1.6),
    mirrored=mirror_token(coffee, token),
)

# %% [markdown]
# ## Paint
#
# `paint_token` gives a region to a token. The region is a mask of patches.

# %%
region = torch.zeros(rows, columns)
region[: rows // 3] = 1
show(decoded=coffee, painted=paint_token(coffee, token, region), half_as_strong=paint_token(coffee, token, region, 0.5))

# %% [markdown]
# ## Transplant
#
# A token of another photograph brings its meaning and its map along.

# %%
donor = int(flowers.localization[0].mean(dim=0).argmax())
show(
    decoded=coffee,
    other_photograph=flowers,
    transplanted=transplant_token(coffee, flowers, donor),
    in_place_of_the_token=transplant_token(coffee, flowers, donor, replace=token),
)

# %% [markdown]
# ## Blend and interpolate
#
# A blend has the tokens of both photographs. Interpolation matches the tokens, turns each into its partner, and moves
# the maps.

# %%
steps = (0.0, 0.25, 0.5, 0.75, 1.0)
show(side=130, **{f"blend {step}": blend_encodings(coffee, flowers, step) for step in steps})

# %%
show(side=130, **{f"interpolation {step}": interpolate_encodings(coffee, flowers, step) for step in steps})

# %% [markdown]
# ## Gradients
#
# Edits pass gradients. Here gradient descent searches a position: the token moves until its centre is where it should
# be. Bilinear interpolation has a kink at whole patches, so that the search begins beside one.

# %%
offset = torch.full((2,), 0.1, requires_grad=True)
optimizer = torch.optim.Adam([offset], lr=0.2)
target = token_center(coffee, token)[0] - torch.tensor([rows / 8, columns / 8])
for _ in range(40):
    moved = move_token(coffee, token, offset[:1], offset[1:])
    loss = (token_center(moved, token)[0] - target).abs().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"moved by {offset[0].item():.1f} rows and {offset[1].item():.1f} columns")
print(f"the centre is {loss.item():.2f} patches from where it should be")
show(before=coffee, after=moved.detach())

# %% [markdown]
# An edited image shows what the decoder makes of the numbers. Nothing measures how true it is: see
# [Limitations](../limitations.md).
