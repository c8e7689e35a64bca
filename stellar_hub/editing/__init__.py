"""Editing of tokens: pure functions that take an encoding `(S, L)` and return another one, which `model.decode` takes.

Nothing is changed in place. Every function works on batches, on any device, in any floating-point type, and passes
gradients to `S` and `L`. Rows of `L` sum to 1 after every edit, up to rounding. Places are in patches,
`(row, column)`, and `(0, 0)` is the centre of the first patch. Tokens keep their numbers through all edits.

A function belongs here if it makes an encoding of encodings. It knows no model, reads no file and draws nothing.
"""

from stellar_hub.editing.blending import blend_encodings, interpolate_encodings, slerp
from stellar_hub.editing.map_moves import mirror_token, move_token, scale_token
from stellar_hub.editing.places import place_of_pixel, token_at, token_center
from stellar_hub.editing.token_weights import drop_tokens, keep_tokens, paint_token, swap_tokens
from stellar_hub.editing.transplanting import transplant_token

__all__ = [
    "blend_encodings",
    "drop_tokens",
    "interpolate_encodings",
    "keep_tokens",
    "mirror_token",
    "move_token",
    "paint_token",
    "place_of_pixel",
    "scale_token",
    "slerp",
    "swap_tokens",
    "token_at",
    "token_center",
    "transplant_token",
]
