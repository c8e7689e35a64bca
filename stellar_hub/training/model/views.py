"""The views of a pretraining batch: the patches that a masked view keeps, the checks of the inputs, the encoding.

STELLAR (arXiv 2602.01905) keeps a few patches of each masked view, half of the time near a random centre ("focal").
"""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.encoder_stellar import StellarEncoder, normalize_pixels
from stellar_hub.modeling.input_checks import check_image_shape, check_pixel_values, check_value_range

MaskStrategy = Literal["focal", "uniform", "block"]
FOCAL_SIGMA = (0.1, 0.5)


def num_kept_patches(num_patches: int, mask_ratio: float) -> int:
    """Returns how many patches of a masked view are kept: `int(n (1 - ratio))`, but at least one."""
    return max(1, int(num_patches * (1 - mask_ratio)))


def draw_kept_patches(
    num_views: int,
    grid_size: tuple[int, int],
    mask_ratio: float,
    strategy: MaskStrategy = "focal",
    focal_probability: float = 0.5,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws the patches that masked views keep: those with the lowest noise.

    Args:
        num_views: Number of views; each gets its own draw.
        grid_size: Number of patches of a view, `(h, w)`.
        mask_ratio: Share of the patches that is hidden, in [0, 1).
        strategy: "uniform" draws the noise from U(0, 1). "focal" does the same and, with `focal_probability`,
            subtracts a Gaussian bump around a random patch, whose width is drawn from U(.1, .5) of the grid's longer
            side. "block" sets the noise to 0 in one square with sides of `floor(sqrt(kept))` patches.
        focal_probability: Share of the views that are focal.
        generator: Source of the random numbers; None uses torch's global one.
        device: Device of the draws and of the result.

    Returns:
        Indices `(num_views, kept)`, int64, distinct within a view.

    Raises:
        ValueError: if an argument is out of range.
    """
    height, width = grid_size
    if num_views < 0 or height < 1 or width < 1 or not 0 <= mask_ratio < 1:
        raise ValueError(
            "num_views must be at least 0, grid_size at least (1, 1) and mask_ratio within [0, 1), "
            f"got {num_views}, {grid_size} and {mask_ratio}"
        )
    if strategy not in ("focal", "uniform", "block"):
        raise ValueError(f"strategy must be 'focal', 'uniform' or 'block', got {strategy!r}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    kept = num_kept_patches(height * width, mask_ratio)
    noise = uniform(num_views, height * width)
    if strategy == "focal":
        is_focal = uniform(num_views, 1) < focal_probability
        noise = noise - is_focal * focal_bump(uniform(num_views, 3), grid_size)
    elif strategy == "block":
        noise = noise * ~is_in_block(uniform(num_views, 2), grid_size, math.isqrt(kept))
    return noise.argsort(dim=1)[:, :kept]


def focal_bump(draws: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Returns `exp(-distance^2 / (2 (sigma side)^2))` around one patch: `draws` `(N, 3)` in [0, 1) to `(N, h w)`."""
    height, width = grid_size
    row, column, width_draw = draws.split(1, dim=1)  # (N, 1) each
    low, high = FOCAL_SIGMA
    sigma = (low + (high - low) * width_draw) * max(height, width)
    rows, columns = patch_positions(grid_size, draws.device)
    distance2 = (rows - (row * height).floor()) ** 2 + (columns - (column * width).floor()) ** 2
    return torch.exp(-distance2 / (2 * sigma**2))


def is_in_block(draws: Tensor, grid_size: tuple[int, int], side: int) -> Tensor:
    """Returns which patches are in a square of `side` patches at a random place: `(N, 2)` to bool `(N, h w)`."""
    height, width = grid_size
    block_height, block_width = min(side, height), min(side, width)
    top = (draws[:, :1] * (height - block_height + 1)).floor()
    left = (draws[:, 1:] * (width - block_width + 1)).floor()
    rows, columns = patch_positions(grid_size, draws.device)
    return (rows >= top) & (rows < top + block_height) & (columns >= left) & (columns < left + block_width)


def patch_positions(grid_size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the row and the column of each patch, `(1, h w)` each, in the order of the patches."""
    height, width = grid_size
    index = torch.arange(height * width, device=device)[None]
    return index // width, index % width


def check_views(
    config: StellarConfig,
    pixel_values: Tensor,
    global_views: Tensor,
    local_views: Tensor | None,
    kept_patches: Tensor | None,
) -> None:
    """Checks the inputs of `StellarForPreTraining` against each other and against the configuration.

    Raises:
        TypeError: if images or views are not tensors of floats or uint8, or `kept_patches` is not int64.
        ValueError: if shapes do not fit or, on the CPU, values are out of range.
    """
    if config.koleo_weight > 0 and config.num_sparse_tokens < 2:
        raise ValueError(
            f"KoLeo needs at least two tokens per image, but num_sparse_tokens is {config.num_sparse_tokens}: "
            "set koleo_weight=0"
        )
    check_pixel_values(pixel_values, config.patch_size, config.num_channels)
    check_view_stack("global_views", global_views, pixel_values, config)
    if tuple(global_views.shape[-2:]) != tuple(pixel_values.shape[-2:]):
        raise ValueError(
            "global_views must have the same height and width as pixel_values, "
            f"got shapes {tuple(global_views.shape)} and {tuple(pixel_values.shape)}"
        )
    if (config.teacher_momentum is not None or config.use_global_align) and global_views.shape[1] < 2:
        raise ValueError(
            "teacher_momentum and use_global_align read global view 1, but global_views has 1 view per image: "
            "pass 2 or more"
        )
    if local_views is not None and config.use_local_views:
        check_view_stack("local_views", local_views, pixel_values, config)
    if kept_patches is not None and config.mask_ratio is not None:
        check_kept_patches(kept_patches, global_views, config.patch_size)


def check_view_stack(name: str, views: Tensor, pixel_values: Tensor, config: StellarConfig) -> None:
    """Checks views `(B, V, 3, H, W)`: the type, the batch size of `pixel_values`, V >= 1, sides in whole patches.

    Raises:
        TypeError: if `views` is not a tensor of floats or uint8.
        ValueError: if its shape does not fit or, on the CPU, its values are out of range; both name the argument.
    """
    if not isinstance(views, Tensor) or not (views.is_floating_point() or views.dtype == torch.uint8):
        kind = views.dtype if isinstance(views, Tensor) else type(views).__name__
        raise TypeError(f"{name} must be a torch.Tensor, floating point in [0, 1] or uint8, got {kind}")
    shape = tuple(views.shape)
    if views.ndim != 5 or shape[0] != pixel_values.shape[0] or shape[1] < 1:
        raise ValueError(
            f"{name} must have shape (B, V, {config.num_channels}, H, W) with V >= 1 and the batch size "
            f"{pixel_values.shape[0]} of pixel_values, got {shape}"
        )
    try:
        check_image_shape(views[:, 0], config.patch_size, config.num_channels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if views.device.type == "cpu" and views.is_floating_point() and not torch.compiler.is_compiling():
        check_value_range(views, name)


def check_kept_patches(kept_patches: Tensor, global_views: Tensor, patch_size: int) -> None:
    """Checks indices `(B V, kept)`, int64, with `1 <= kept <= n`; their values are checked only on the CPU.

    Raises:
        TypeError: if the dtype is not int64.
        ValueError: if the shape does not fit the views, or an index is not a patch.
    """
    if kept_patches.dtype != torch.int64:
        raise TypeError(f"kept_patches must have dtype torch.int64, got {kept_patches.dtype}")
    num_views = global_views.shape[0] * global_views.shape[1]
    num_patches = (global_views.shape[-2] // patch_size) * (global_views.shape[-1] // patch_size)
    shape = tuple(kept_patches.shape)
    if kept_patches.ndim != 2 or shape[0] != num_views or not 1 <= shape[1] <= num_patches:
        raise ValueError(
            f"kept_patches must have shape (B V, kept) = ({num_views}, 1 to {num_patches}), with the view index "
            f"fastest, got {shape}"
        )
    if kept_patches.device.type == "cpu":
        low, high = (int(value) for value in kept_patches.aminmax())
        if low < 0 or high >= num_patches:
            raise ValueError(f"kept_patches must be within 0..{num_patches - 1}, got {low}..{high}")


class EncodedViews(NamedTuple):
    """The encoder's output for `N` views, after its last norm.

    Attributes:
        cls_token: Global token, `(N, d)`.
        patches: Features of the patches that were encoded, `(N, n, d)`.
        tokens: Sparse tokens, `(N, r, d)`.
    """

    cls_token: Tensor
    patches: Tensor
    tokens: Tensor


def encode_views(encoder: StellarEncoder, pixel_values: Tensor, kept_patches: Tensor | None = None) -> EncodedViews:
    """Encodes views, either whole or only the patches that are kept.

    Args:
        encoder: The encoder.
        pixel_values: Images `(N, 3, H, W)`, floats in [0, 1] or uint8.
        kept_patches: Indices of the patches to keep, `(N, kept)`; None keeps all.

    Returns:
        The encoded views. The patches are the kept ones, in the order of `kept_patches`.
    """
    sequence = embed_patches(encoder, pixel_values, kept_patches)
    cls_token, patches, tokens = encoder.split(encoder.run_blocks(sequence))
    return EncodedViews(cls_token[:, 0], patches, tokens)


def embed_patches(encoder: StellarEncoder, pixel_values: Tensor, kept_patches: Tensor | None) -> Tensor:
    """Builds the input of the first block from the patches that are kept; hidden ones cost nothing.

    It equals `encoder.embed`, and then leaving patches out, up to rounding: a convolution whose stride is its kernel is
    one product of cut-out patches.

    Args:
        encoder: The encoder.
        pixel_values: Images `(N, 3, H, W)`, floats in [0, 1] or uint8.
        kept_patches: Indices of the patches to keep, `(N, kept)`; None keeps all.

    Returns:
        The sequence `[cls, patches, sparse tokens]`, `(N, 1 + n + r, d)`.
    """
    projection: Any = encoder.patch_embed.proj
    side = projection.kernel_size[0]
    grid = pixel_values.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (N, 3, h, p, w, p)
    grid = grid.permute(0, 2, 4, 1, 3, 5)  # (N, h, w, 3, p, p)
    num_views, height, width = grid.shape[:3]
    positions = encoder.positions((height, width))  # (1, 1 + h w, d)
    if kept_patches is None:
        cut, patch_positions = grid.flatten(0, 2), positions[:, 1:]
    else:
        view = torch.arange(num_views, device=grid.device)[:, None]
        cut = grid[view, kept_patches // width, kept_patches % width].flatten(0, 1)
        patch_positions = F.embedding(kept_patches, positions[0, 1:])
    pixels = normalize_pixels(cut, encoder.pos_embed.dtype).flatten(1)  # (N n, 3 p p)
    patches = F.linear(pixels, projection.weight.flatten(1), projection.bias).unflatten(0, (num_views, -1))
    cls_token = (encoder.cls_token + positions[:, :1]).expand(num_views, -1, -1)
    sparse = encoder.sparse_tokens.expand(num_views, -1, -1)
    return torch.cat([cls_token, patches + patch_positions, sparse], dim=1)


def encode_with_mask_tokens(
    encoder: StellarEncoder, pixel_values: Tensor, kept_patches: Tensor, mask_token: Tensor
) -> tuple[EncodedViews, Tensor]:
    """Encodes views at full length, in which a learned token stands for each masked patch.

    Args:
        encoder: The encoder.
        pixel_values: Images `(N, 3, H, W)`, floats in [0, 1] or uint8.
        kept_patches: Indices of the patches that are not masked, `(N, kept)`.
        mask_token: What stands for a masked patch before its position is added, `(d,)`.

    Returns:
        The encoded views with all patches; and which of them were masked, bool `(N, n)`.
    """
    height, width = (side // encoder.patch_embed.patch_size[0] for side in pixel_values.shape[-2:])
    cls_token, patches, sparse = encoder.split(embed_patches(encoder, pixel_values, None))
    masked = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device).scatter_(1, kept_patches, False)
    hidden = mask_token + encoder.positions((height, width))[:, 1:]
    patches = torch.where(masked[..., None], hidden.to(patches.dtype), patches)
    cls_token, patches, tokens = encoder.split(encoder.run_blocks(torch.cat([cls_token, patches, sparse], dim=1)))
    return EncodedViews(cls_token[:, 0], patches, tokens), masked
