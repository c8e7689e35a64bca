# %% [markdown]
# # A first look
#
# This notebook encodes a photograph with stellar-tiny, looks at its tokens, and decodes them again. It needs no
# network.

# %%
import tempfile

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from stellar_hub import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.measures import psnr

PHOTOGRAPH = "examples/images/hens.jpg"  # or a photograph of your own

model = StellarModel.from_pretrained("stellar-tiny")
processor = StellarImageProcessor.from_pretrained("stellar-tiny")


def side_by_side(*images: Image.Image, height: int = 200) -> Image.Image:
    """Places images in a row, each `height` pixels high."""
    scaled = [each.resize((round(each.width * height / each.height), height)) for each in images]
    row = Image.new("RGB", (sum(each.width for each in scaled) + 8 * (len(scaled) - 1), height), "white")
    left = 0
    for each in scaled:
        row.paste(each, (left, 0))
        left += each.width + 8
    return row


# %% [markdown]
# ## What and where
#
# `encode` returns `S` and `L`. `S` holds 16 tokens, each a vector. `L` has a row for each patch, with the share of
# each token in it. Each row sums to 1.

# %%
pixel_values = processor(PHOTOGRAPH, return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    encoding = model.encode(pixel_values)
encoding

# %%
S, L = encoding
print("S:", tuple(S.shape), " L:", tuple(L.shape), " grid of patches:", encoding.grid_size)
print("sums of the rows of L:", L.sum(dim=-1).min().item(), "to", L.sum(dim=-1).max().item())
print(f"the code has {S.numel() + L.numel():,} numbers, the image has {pixel_values.numel():,}")

# %% [markdown]
# ## Decode
#
# The product `Z = L S` is all that the decoder gets. On the left is the photograph as the model sees it, on the right
# what its 16 tokens decode to.

# %%
with torch.inference_mode():
    decoded = model.decode(encoding)
print(f"PSNR {psnr(decoded, pixel_values):.1f} dB")
side_by_side(to_pil_image(pixel_values[0]), to_pil_image(decoded[0]))

# %% [markdown]
# ## The strongest token at each place
#
# Each colour is a token. The map is drawn over the original photograph, in its own pixels.

# %%
side_by_side(Image.open(PHOTOGRAPH), processor.overlay(PHOTOGRAPH, L))

# %% [markdown]
# ## Four tokens
#
# These four tokens have the largest shares of the photograph. Bright places belong to the token, dim places do not.

# %%
largest = L[0].mean(dim=0).argsort(descending=True)[:4].tolist()
print("tokens", largest)
side_by_side(*(processor.overlay(PHOTOGRAPH, L, token=token) for token in largest), height=150)

# %% [markdown]
# ## Other sizes
#
# The model takes images of other sizes and shapes: an encoding knows its grid. `fit="aspect"` keeps the whole
# photograph.

# %%
whole = processor(PHOTOGRAPH, return_tensors="pt", fit="aspect")["pixel_values"]
with torch.inference_mode():
    wide = model.encode(whole)
    decoded = model.decode(wide)
print("pixels:", tuple(whole.shape[-2:]), " grid:", wide.grid_size)
side_by_side(to_pil_image(whole[0]), to_pil_image(decoded[0]))

# %% [markdown]
# ## Keep a code
#
# `save` writes `S` and `L` to a file, and `load` checks that nothing in it has changed.

# %%
path = tempfile.mkdtemp() + "/hens.safetensors"
encoding.save(path)
loaded = StellarEncoding.load(path)
print("the same tensors:", torch.equal(loaded.semantics, S), torch.equal(loaded.localization, L))
