"""Measures of features, tokens, maps and images: pure functions of tensors for training, evaluation and retrieval.

A function belongs here if it needs tensors only. It reads no file, and it knows neither a model nor a configuration.
"""

from stellar_hub.measures.clustering import (
    ClusteringHead,
    Prototypes,
    PrototypeUse,
    nearest_prototypes,
    prototype_use,
)
from stellar_hub.measures.image_quality import MAX_PSNR, frechet_distance, image_psnr, image_ssim, psnr, resize_like
from stellar_hub.measures.neighbours import knn_accuracy, knn_predict, leave_one_out_accuracy, similarities, vote
from stellar_hub.measures.regions import (
    UNLABELLED,
    argmax_regions,
    best_iou,
    best_patches_iou,
    class_iou,
    count_confusion,
    hungarian_iou,
    mean_iou,
    pixel_accuracy,
    threshold_regions,
    to_pixels,
)
from stellar_hub.measures.spread import (
    alignment,
    diffusion_eigenvalues,
    diffusion_spectral_entropy,
    effective_rank,
    median_distance,
    normalized_entropy,
    singular_values,
    uniformity,
    vendi_score,
    without_rounding,
)
from stellar_hub.measures.tokens import (
    MapShape,
    TokenStability,
    map_shape,
    set_similarity,
    token_cosine,
    token_stability,
)

__all__ = [
    "MAX_PSNR",
    "UNLABELLED",
    "ClusteringHead",
    "MapShape",
    "PrototypeUse",
    "Prototypes",
    "TokenStability",
    "alignment",
    "argmax_regions",
    "best_iou",
    "best_patches_iou",
    "class_iou",
    "count_confusion",
    "diffusion_eigenvalues",
    "diffusion_spectral_entropy",
    "effective_rank",
    "frechet_distance",
    "hungarian_iou",
    "image_psnr",
    "image_ssim",
    "knn_accuracy",
    "knn_predict",
    "leave_one_out_accuracy",
    "map_shape",
    "mean_iou",
    "median_distance",
    "nearest_prototypes",
    "normalized_entropy",
    "pixel_accuracy",
    "prototype_use",
    "psnr",
    "resize_like",
    "set_similarity",
    "similarities",
    "singular_values",
    "threshold_regions",
    "to_pixels",
    "token_cosine",
    "token_stability",
    "uniformity",
    "vendi_score",
    "vote",
    "without_rounding",
]
