"""How well images agree: PSNR, SSIM, and the Fréchet distance of two sets of features."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PSNR = 100.0  # dB, for two images that are equal bit for bit: infinity has no mean


def psnr(reconstruction: Tensor, image: Tensor) -> float:
    """Computes the peak signal-to-noise ratio of values in [0, 1]: `-10 log10` of the mean squared error.

    A reconstruction of another size is first brought to the image's size, see `resize_like`. The function computes in
    float32, or in float64 if it gets float64.

    Args:
        reconstruction: Values in [0, 1], of any shape that ends in `(H', W')` if this differs from `(H, W)`.
        image: Values in [0, 1] to compare with, of the same shape apart from `(H, W)`.

    Returns:
        Decibels. The value is infinite if the two are equal.

    Raises:
        ValueError: if the shapes differ in more than height and width.
    """
    working = torch.promote_types(torch.promote_types(reconstruction.dtype, image.dtype), torch.float32)
    image = image.to(working)
    error = (resize_like(reconstruction.to(working), image) - image).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def resize_like(images: Tensor, reference: Tensor) -> Tensor:
    """Resizes images to the height and width of others: bicubic, antialiased, clamped to [0, 1].

    Args:
        images: Floats in [0, 1] of shape `(C, H', W')` or `(B, C, H', W')`.
        reference: Images of the size to get, `(C, H, W)` or `(B, C, H, W)`.

    Returns:
        The images in the shape of the reference. Images that already have this shape come back as they are.

    Raises:
        ValueError: if the shapes differ in more than height and width.
    """
    if images.shape == reference.shape:
        return images
    if images.ndim not in (3, 4) or images.shape[:-2] != reference.shape[:-2]:
        raise ValueError(
            f"shapes may differ in height and width only, got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    batch = images if images.ndim == 4 else images[None]
    resized = F.interpolate(batch, reference.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1).view(reference.shape)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Computes the Fréchet distance of two sets of features, in float64.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`, where `m` are the means and `C` the unbiased covariances. The trace
    of the root is the sum of the roots of the eigenvalues of `C1 C2`. These are the squared singular values of
    `A1 A2^T / n`, where `A` are the centred rows: this needs neither the root of a matrix nor a large eigenproblem.

    Args:
        first: Features of shape `(N, d)`, N at least 2.
        second: Features of shape `(M, d)`, M at least 2.

    Returns:
        A value of at least 0. Good is low. It depends on N: compare at the same number of images.

    Raises:
        ValueError: if shapes do not fit, or one set has fewer than two rows.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(
            "features must have shapes (N, d) and (M, d) with N and M at least 2, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    means, roots = [], []
    for rows in (first.double(), second.double()):
        means.append(rows.mean(dim=0))
        centred = (rows - means[-1]) / (len(rows) - 1) ** 0.5  # C = centred^T centred
        roots.append(centred if len(centred) <= centred.shape[1] else torch.linalg.qr(centred).R)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    total = (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * cross
    return max(0.0, float(total))  # rounding may leave less for equal sets


def image_psnr(images: Tensor, references: Tensor) -> Tensor:
    """Returns the PSNR of each image `(B, 3, H, W)` in [0, 1]: `(B,)` in dB, at most 100, computed in float64."""
    pairs = zip(images.double(), references.double(), strict=True)
    return torch.tensor([min(psnr(*pair), MAX_PSNR) for pair in pairs], device=images.device)


def image_ssim(images: Tensor, references: Tensor) -> Tensor:
    """Returns the structural similarity of each image `(B, 3, H, W)` in [0, 1]: `(B,)` in [-1, 1].

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", by torchmetrics.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(images, references, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(images))
