"""A batch of uint8 views from the workers to what the model takes, on its device."""

from typing import Any

import torch
from torch import Tensor

from stellar_hub.data.device_crops import cut_views
from stellar_hub.data.photometric import PhotometricSettings, apply_photometric


def to_device(
    batch: dict[str, Any],
    device: torch.device,
    photometric: PhotometricSettings,
    dtype: torch.dtype = torch.float32,
    view_sizes: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Move views as uint8, or pictures to cut them of, and change their colours there.

    Args:
        batch: As `collate_samples` gives it.
        device: Where to.
        photometric: The settings its parameters were drawn with.
        dtype: Of the views.
        view_sizes: Sides of global and of local views; needed where the device cuts them.

    Returns:
        Arguments of `StellarForPreTraining`; `pixel_values` is global view 0 before photometric augmentation.
    """
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items() if isinstance(value, Tensor)}
    if "pictures" in batch:
        assert view_sizes is not None, "the stepper knows them"
        moved |= cut_batch([picture.to(device, non_blocking=True) for picture in batch["pictures"]], moved, view_sizes)
    global_views = moved["global_views"].to(dtype) / 255  # (B, V, 3, H, W)
    parameters = moved["photometric"].to(dtype)  # (B, V + V', 6), global views first
    num_global = global_views.shape[1]
    inputs = {"pixel_values": global_views[:, 0], "global_views": global_views}
    if photometric.global_views:
        inputs["global_views"] = change(global_views, parameters[:, :num_global], photometric)
    if "local_views" in moved:
        local_views = moved["local_views"].to(dtype) / 255
        inputs["local_views"] = change(local_views, parameters[:, num_global:], photometric)
    if "kept_patches" in moved:
        inputs["kept_patches"] = moved["kept_patches"]
    return inputs


def cut_batch(pictures: list[Tensor], boxes: dict[str, Tensor], view_sizes: tuple[int, int]) -> dict[str, Tensor]:
    """The views of all pictures, `(B, V, 3, H, W)` uint8 each, by their names."""
    return {
        f"{kind}_views": torch.stack(
            [cut_views(picture, of_one, size) for picture, of_one in zip(pictures, boxes[f"{kind}_boxes"], strict=True)]
        )
        for kind, size in zip(("global", "local"), view_sizes, strict=True)
        if f"{kind}_boxes" in boxes
    }


def change(views: Tensor, parameters: Tensor, photometric: PhotometricSettings) -> Tensor:
    """Photometric augmentation of `(B, V, 3, H, W)` by `(B, V, 6)`."""
    changed = apply_photometric(views.flatten(0, 1), parameters.flatten(0, 1), photometric.blur_kernel_size)
    return changed.unflatten(0, views.shape[:2])
