"""Photometric augmentation in two steps: workers draw parameters per view, the device applies them in batches.

Each operation is torchvision's (`adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue`,
`rgb_to_grayscale`, `gaussian_blur` of `torchvision.transforms.v2.functional`, on floats), in this order. Each view
has its own parameters.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional as F

from stellar_hub.data.strict_settings import check_probability, check_value, fit_fields

IDENTITY = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # parameters that change nothing
NUM_PARAMETERS = len(IDENTITY)
MAX_KERNEL_SIZE = 1023  # pixels
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # for red, green and blue, as in torchvision


@strict
@dataclass(frozen=True)
class PhotometricSettings:
    """Photometric augmentation, drawn for each view; it changes colours as torchvision's `ColorJitter` does.

    This is the section `augmentation` of a recipe.

    Attributes:
        global_views: Whether global views are changed; local views always are.
        brightness: Spread of the factor of brightness, which is drawn from `[max(0, 1 - spread), 1 + spread]`.
        contrast: Spread of the factor of contrast, which is drawn from `[max(0, 1 - spread), 1 + spread]`.
        saturation: Spread of the factor of saturation, which is drawn from `[max(0, 1 - spread), 1 + spread]`.
        hue: Largest shift of the hue, which is drawn from `[-hue, hue]`, in turns of the colour circle; at most 0.5.
        jitter_probability: Probability that brightness, contrast, saturation and hue of a view change, all four.
        grayscale_probability: Probability that a view loses its colours.
        blur_probability: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of the view.
        blur_kernel_size: Side of the blur's kernel in pixels; odd.

    Raises:
        ValueError: if a value has the wrong type or is out of its range.
    """

    global_views: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter_probability: float
    grayscale_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    blur_kernel_size: int

    def __post_init__(self) -> None:
        fit_fields(self)
        for name in ("brightness", "contrast", "saturation"):
            check_value(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        check_value(0 <= self.hue <= 0.5, "hue", self.hue, "within [0, 0.5]")
        for name in ("jitter_probability", "grayscale_probability", "blur_probability"):
            check_probability(name, getattr(self, name))
        low, high = self.blur_sigma
        check_value(0 < low <= high, "blur_sigma", [low, high], "two ascending numbers above 0")
        check_kernel_size(self.blur_kernel_size, "blur_kernel_size")


def check_kernel_size(kernel_size: int, name: str = "kernel_size") -> None:
    """Raises ValueError unless the size is odd and within [1, 1023]."""
    fits = 1 <= kernel_size <= MAX_KERNEL_SIZE and kernel_size % 2 == 1
    check_value(fits, name, kernel_size, f"odd and within [1, {MAX_KERNEL_SIZE}]")


def identity_parameters(num_views: int) -> Tensor:
    """Returns parameters that change nothing, `(num_views, 6)`."""
    return torch.tensor(IDENTITY).expand(num_views, -1).clone()


def draw_photometric(num_views: int, settings: PhotometricSettings, generator: torch.Generator) -> Tensor:
    """Draws the parameters of views.

    Returns:
        `(num_views, 6)` float32. Columns are the factors of brightness, contrast and saturation, the shift of the hue
        in turns of the colour circle, 1 for grey or 0, and the sigma of the blur in pixels or 0.
    """
    uniform = torch.rand(num_views, 8, generator=generator)
    spread = torch.tensor([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    center = torch.tensor(IDENTITY[:4])
    lowest = center - spread
    lowest[:3].clamp_(min=0)  # factors; the shift of the hue may be negative
    jitter = lowest + uniform[:, 1:5] * (center + spread - lowest)
    jitter = torch.where(uniform[:, :1] < settings.jitter_probability, jitter, center)
    grey = (uniform[:, 5:6] < settings.grayscale_probability).float()
    smallest, largest = settings.blur_sigma
    sigma = smallest + uniform[:, 7:8] * (largest - smallest)
    blur = torch.where(uniform[:, 6:7] < settings.blur_probability, sigma, 0.0)
    return torch.cat([jitter, grey, blur], dim=1)


@torch.no_grad()
def apply_photometric(images: Tensor, parameters: Tensor, kernel_size: int = 9) -> Tensor:
    """Changes each view by its own parameters. Everything stays on the device, and the host never waits.

    Args:
        images: `(N, 3, H, W)` floating point in [0, 1].
        parameters: `(N, 6)` from `draw_photometric`, on the same device.
        kernel_size: Size of the blur's kernel in pixels, odd. For views too small to reflect at the border it is
            reduced.

    Returns:
        New images of the same shape and dtype, in [0, 1]. Identity parameters return the same bits.

    Raises:
        ValueError: if the shapes or the dtype do not fit, or the kernel size is even.
    """
    check_kernel_size(kernel_size)
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be floats of shape (N, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    if parameters.shape != (images.shape[0], NUM_PARAMETERS):
        raise ValueError(
            f"parameters must have shape ({images.shape[0]}, {NUM_PARAMETERS}) for {images.shape[0]} images, "
            f"got {tuple(parameters.shape)}"
        )
    columns = parameters.to(images.dtype)[:, :, None, None, None].unbind(dim=1)  # each (N, 1, 1, 1)
    brightness, contrast, saturation, hue, grey, sigma = columns
    images = (images * brightness).clamp_(0, 1)
    images = _blend(images, _luma(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
    images = _blend(images, _luma(images), saturation)
    images = torch.where(hue != 0, _shift_hue(images, hue), images)
    images = torch.where(grey != 0, _luma(images), images)
    return torch.where(sigma > 0, _gaussian_blur(images, sigma, kernel_size).clamp(0, 1), images)


def _luma(images: Tensor) -> Tensor:
    """Returns the luma of images, `(N, 3, H, W)` to `(N, 1, H, W)`."""
    red, green, blue = images.split(1, dim=1)
    return red.mul(_GREY_WEIGHTS[0]).add_(green, alpha=_GREY_WEIGHTS[1]).add_(blue, alpha=_GREY_WEIGHTS[2])


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Returns `factor * images + (1 - factor) * others`, clamped to [0, 1]."""
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 1)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue and keeps the value and the saturation of HSV.

    Hue counts sixths of the colour circle from red. From HSV to RGB, channel c is `value - chroma * t`, where `t` falls
    from 1 to 0 and rises again with the distance between the hue and that channel. This needs no cases.

    Args:
        images: `(N, 3, H, W)` in [0, 1].
        turns: `(N, 1, 1, 1)` shifts in turns of the colour circle.
    """
    red, green, blue = images.split(1, dim=1)
    minimum, value = torch.aminmax(images, dim=1, keepdim=True)
    chroma = value - minimum
    divisor = chroma.masked_fill(chroma == 0, 1)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue) + 6 * turns
    channels = []
    for sixth in (5, 3, 1):
        distance = torch.remainder(hue + sixth, 6)
        part = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        channels.append(value - chroma * part)
    return torch.cat(channels, dim=1).clamp_(0, 1)


def _gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blurs each image by its own sigma, with reflection at the border.

    Args:
        images: `(N, 3, H, W)`.
        sigma: `(N, 1, 1, 1)` in pixels. Where it is 0, the result is finite but has no meaning.
        kernel_size: Size of the kernel in pixels, odd. Along a side of n pixels it is at most `2n - 1`, because there
            is nothing more to reflect.
    """
    for dim in (2, 3):
        radius = min(kernel_size // 2, images.shape[dim] - 1)
        if radius:
            images = _blur_along(images, _gaussian_kernel(sigma.flatten(), radius), dim)
    return images


def _gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Returns the weights of `2 * radius + 1` pixels for each sigma, `(N,)` to `(N, 2 * radius + 1)`; rows sum to 1."""
    offsets = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    width = sigma.masked_fill(sigma <= 0, 1)[:, None]
    return torch.softmax(-0.5 * (offsets / width).square(), dim=1)


def _blur_along(images: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """Returns the weighted sum of shifted images, `(N, 3, H, W)`, along the height (`dim` 2) or the width (3).

    This is twice as fast on a CPU as `conv2d` with a group for each channel, and neither autocast nor TF32 rounds it.

    Args:
        images: `(N, 3, H, W)`.
        kernel: Weights for each image, `(N, taps)`.
        dim: 2 for the height, 3 for the width.
    """
    taps = kernel.shape[1]
    radius = taps // 2
    padded = F.pad(images, (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius), mode="reflect")
    weights = kernel[:, :, None, None, None].unbind(dim=1)  # each (N, 1, 1, 1)
    size = images.shape[dim]
    blurred = padded.narrow(dim, 0, size) * weights[0]
    for tap in range(1, taps):
        blurred.addcmul_(padded.narrow(dim, tap, size), weights[tap])
    return blurred
