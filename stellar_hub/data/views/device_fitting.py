"""The fit of an image processor on a device: resize, crop and bars for many images of one size."""

import torch
from torch import Tensor

from stellar_hub.data.views.crops import resampling_weights
from stellar_hub.modeling.image_geometry import ImageGeometry

_MOST_WEIGHTS = 2**25  # that are kept, over all sizes of images


class DeviceFitting:
    """Fits images as the processor does, by two matrix products.

    A value differs from the processor's by at most two of 255 levels, and most are the same: the processor rounds its
    weights to 16 bits.

    Args:
        fill_value: Grey value of bars, in [0, 1].
    """

    def __init__(self, fill_value: float):
        self.fill_value = fill_value
        self._weights: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, images: Tensor, plan: ImageGeometry) -> Tensor:
        """Fits images of one size.

        Args:
            images: `(B, 3, H, W)` uint8.
            plan: How they are resized, cropped and padded.

        Returns:
            `(B, 3, h, w)` uint8, on the device of the images.
        """
        starts = [max(0, offset) for offset in plan.offset]
        pairs = zip(plan.output_size, plan.resized_size, starts, strict=True)
        counts = [min(output, resized - start) for output, resized, start in pairs]
        if plan.resized_size == tuple(images.shape[2:]):
            seen = images[:, :, starts[0] : starts[0] + counts[0], starts[1] : starts[1] + counts[1]]
        else:
            columns = self._weights_of(images.shape[3], plan.resized_size[1], starts[1], counts[1], images.device)
            rows = self._weights_of(images.shape[2], plan.resized_size[0], starts[0], counts[0], images.device)
            # Rounded after each axis, columns first, as the processor rounds. A caller's autocast would round far more.
            with torch.autocast(images.device.type, enabled=False):
                resized = (images.float() @ columns.T).round_().clamp_(0, 255)
                seen = (rows @ resized).round_().clamp_(0, 255).to(torch.uint8)
        if tuple(counts) == plan.output_size:
            return seen
        fitted = seen.new_full((len(seen), 3, *plan.output_size), round(255 * self.fill_value))
        top, left = (max(0, -offset) for offset in plan.offset)
        fitted[:, :, top : top + counts[0], left : left + counts[1]] = seen
        return fitted

    def _weights_of(self, extent: int, resized: int, start: int, count: int, device: torch.device) -> Tensor:
        """Returns the weight of each pixel of an axis for the pixels of the resized axis that are seen."""
        key = (extent, resized, start, count, device)
        if key not in self._weights:
            if sum(weights.numel() for weights in self._weights.values()) > _MOST_WEIGHTS:
                self._weights.clear()
            span = torch.tensor([[0], [extent]], device=device)
            weights = resampling_weights(span[0], span[1], resized, extent)[0]
            self._weights[key] = weights[start : start + count].contiguous()
        return self._weights[key]
