"""Photometric augmentation in two halves: parameters drawn per view in the workers, applied in batches on the device.

Each operation is torchvision's (`adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue`,
`rgb_to_grayscale`, `gaussian_blur` of `torchvision.transforms.v2.functional`, on floats), in this order, with a value
of its own for each view.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional as F

from stellar_hub.data.strict_settings import fit_fields, require, require_probability

IDENTITY = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # the parameters that change nothing
NUM_PARAMETERS = len(IDENTITY)
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision


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
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 <= self.hue <= 0.5, "hue", self.hue, "within [0, 0.5]")
        for name in ("jitter_probability", "grayscale_probability", "blur_probability"):
            require_probability(name, getattr(self, name))
        low, high = self.blur_sigma
        require(0 < low <= high, "blur_sigma", [low, high], "two ascending numbers above 0")
        check_kernel_size(self.blur_kernel_size, "blur_kernel_size")


def check_kernel_size(kernel_size: int, name: str = "kernel_size") -> None:
    """Raises ValueError unless the size is odd and at least 1."""
    require(kernel_size >= 1 and kernel_size % 2 == 1, name, kernel_size, "odd and at least 1")


def identity_parameters(num_views: int) -> Tensor:
    """Parameters that leave views as they are, `(num_views, 6)`."""
    return torch.tensor(IDENTITY).expand(num_views, -1).clone()


def draw_photometric(num_views: int, settings: PhotometricSettings, generator: torch.Generator) -> Tensor:
    """Draw the parameters of views.

    Returns:
        `(num_views, 6)` float32: factors of brightness, contrast and saturation, shift of hue in turns, 1 for grey
        or 0, and the sigma of the blur in pixels or 0.
    """
    uniform = torch.rand(num_views, 8, generator=generator)
    spread = torch.tensor([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    center = torch.tensor(IDENTITY[:4])
    lowest = center - spread
    lowest[:3].clamp_(min=0)  # factors; a shift of hue may be negative
    jitter = lowest + uniform[:, 1:5] * (center + spread - lowest)
    jitter = torch.where(uniform[:, :1] < settings.jitter_probability, jitter, center)
    grey = (uniform[:, 5:6] < settings.grayscale_probability).float()
    smallest, largest = settings.blur_sigma
    sigma = smallest + uniform[:, 7:8] * (largest - smallest)
    blur = torch.where(uniform[:, 6:7] < settings.blur_probability, sigma, 0.0)
    return torch.cat([jitter, grey, blur], dim=1)


@torch.no_grad()
def apply_photometric(images: Tensor, parameters: Tensor, kernel_size: int = 9) -> Tensor:
    """Change each view by its own parameters; everything stays on the device, and the host never waits.

    Args:
        images: `(N, 3, H, W)` floating point in [0, 1].
        parameters: `(N, 6)` from `draw_photometric`, on the same device.
        kernel_size: Of the blur, odd; cut to what reflection at the border allows where views are smaller.

    Returns:
        New images of the same shape and dtype, in [0, 1]; bit for bit the same where the parameters are the identity.

    Raises:
        ValueError: if shapes or dtype do not fit, or the kernel size is even.
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
    images = blend(images, grey_of(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
    images = blend(images, grey_of(images), saturation)
    images = torch.where(hue != 0, shift_hue(images, hue), images)
    images = torch.where(grey != 0, grey_of(images), images)
    return torch.where(sigma > 0, gaussian_blur(images, sigma, kernel_size).clamp(0, 1), images)


def grey_of(images: Tensor) -> Tensor:
    """Luma, `(N, 3, H, W)` to `(N, 1, H, W)`."""
    red, green, blue = images.split(1, dim=1)
    return red.mul(_GREY_WEIGHTS[0]).add_(green, alpha=_GREY_WEIGHTS[1]).add_(blue, alpha=_GREY_WEIGHTS[2])


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """`factor` of the images and `1 - factor` of the others, clamped to [0, 1]."""
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, keeping value and saturation of HSV.

    Hue counts sixths of the colour circle from red. Going back, channel c is `value - chroma * t`, `t` falling from 1
    to 0 and rising again with the hue's distance from that channel: no cases are told apart.

    Args:
        images: `(N, 3, H, W)` in [0, 1].
        turns: `(N, 1, 1, 1)`; 1 is once around.
    """
    red, green, blue = images.split(1, dim=1)
    least, value = torch.aminmax(images, dim=1, keepdim=True)
    chroma = value - least
    divisor = chroma.masked_fill(chroma == 0, 1)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue) + 6 * turns
    channels = []
    for sixth in (5, 3, 1):
        distance = torch.remainder(hue + sixth, 6)
        part = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        channels.append(value - chroma * part)
    return torch.cat(channels, dim=1).clamp_(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image by its own sigma, with reflection at the border.

    Args:
        images: `(N, 3, H, W)`.
        sigma: `(N, 1, 1, 1)`, in pixels; what comes out where it is 0 is finite, but means nothing.
        kernel_size: Odd. Along a side of n pixels at most `2n - 1`, beyond which there is nothing to reflect.
    """
    for dim in (2, 3):
        radius = min(kernel_size // 2, images.shape[dim] - 1)
        if radius:
            images = blur_along(images, gaussian_kernel(sigma.flatten(), radius), dim)
    return images


def gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Weights of `2 * radius + 1` pixels that sum to 1, a row for each sigma: `(N,)` to `(N, 2 * radius + 1)`."""
    offsets = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    width = sigma.masked_fill(sigma <= 0, 1)[:, None]
    return torch.softmax(-0.5 * (offsets / width).square(), dim=1)


def blur_along(images: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """Weighted sum of shifted images, `(N, 3, H, W)`, along height (`dim` 2) or width (3); `kernel` `(N, taps)`.

    Not `conv2d` with a group for each channel: this is twice as fast on a CPU, and no autocast or TF32 rounds it.
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
