"""Diagnostics: what pooled features, tokens and their maps show without labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.digests import name_of
from stellar_hub.evaluation.feature_set import check_finite
from stellar_hub.evaluation.protocols.checks import check_seed
from stellar_hub.evaluation.readable import evaluate_readable
from stellar_hub.evaluation.report import Measurement, Report, make_report
from stellar_hub.evaluation.sample import Sample, draw_sample
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import (
    ClusteringHead,
    alignment,
    diffusion_spectral_entropy,
    effective_rank,
    map_shape,
    median_distance,
    nearest_prototypes,
    prototype_use,
    singular_values,
    token_stability,
    uniformity,
    vendi_score,
    without_rounding,
)
from stellar_hub.visualization import draw_spectra

TOKENS, MAPS = "S", "L"
CLUSTERING_HEAD = "clustering_head."  # prefix of its tensors in a training checkpoint
MIN_IMAGES = 3
EFFECTIVE_RANK = "Roy and Vetterli 2007"
RANK_OF_FEATURES = f"{EFFECTIVE_RANK}; Garrido et al. 2023, arXiv 2210.02885"
VENDI = "Friedman and Dieng 2023, arXiv 2210.02410"
STELLAR = "arXiv 2602.01905"
PROTOTYPES = "Caron et al. 2020, arXiv 2006.09882; Assran et al. 2022, arXiv 2204.07141"

# For each metric: what it is, its source, its range, and which values are good.
_LEGEND: dict[str, tuple[str, str, str, str]] = {
    "rank of pooled": (
        "effective rank of the pooled features of all images",
        RANK_OF_FEATURES,
        "[1, min(N - 1, d)]",
        "high; 1 is collapse",
    ),
    "rank of S": ("effective rank of the tokens of all images", RANK_OF_FEATURES, "[1, min(N r - 1, d)]", "high"),
    "rank of S within": (
        "effective rank of the tokens of one image, mean over images",
        EFFECTIVE_RANK,
        "[1, min(r - 1, d)]",
        "high: the tokens of an image differ",
    ),
    "alignment": (
        "mean squared distance between the normalized features of two views",
        "Wang and Isola 2020, arXiv 2005.10242, alpha = 2",
        "[0, 4]",
        "low, if uniformity is low too",
    ),
    "uniformity": (
        "log of the mean Gaussian potential of the normalized features of pairs of images",
        "Wang and Isola 2020, arXiv 2005.10242, t = 2",
        "[-8, 0]",
        "low; about -4 is evenly spread",
    ),
    "Vendi across": (
        "Vendi score of pooled features with a cosine kernel",
        VENDI,
        "[1, min(N, d)]",
        "high: it is the number of images that differ",
    ),
    "Vendi within": (
        "Vendi score of the tokens of one image with a cosine kernel, mean over images",
        VENDI,
        "[1, min(r, d)]",
        "high: it is the number of tokens that differ",
    ),
    "diffusion entropy": (
        "diffusion spectral entropy of pooled features; sigma is their median distance",
        "Liao et al. 2023, arXiv 2312.04823, t = 1, natural logarithm",
        "[0, log N]",
        "high, at the same N and with the same rule for sigma",
    ),
    "stability": (
        "mean cosine of the matched tokens of two views",
        f"matching of {STELLAR}",
        "[-1, 1]",
        "near 1, and far above stability by chance",
    ),
    "stability by chance": (
        "mean cosine of the token pairs of two views that are not matched",
        f"matching of {STELLAR}",
        "[-1, 1]",
        "low",
    ),
    "sharpness of L": (
        "1 - entropy over the tokens of a patch, divided by log r, mean over patches",
        f"L of {STELLAR}",
        "[0, 1]",
        "high: each patch belongs to few tokens",
    ),
    "area of L": (
        "exp of the entropy of a token's map, divided by n, mean over tokens",
        f"L of {STELLAR}",
        "[1/n, 1]",
        "near 1/r: the tokens divide the image among them",
    ),
    "owning tokens": (
        "share of the tokens that are the strongest token of a patch",
        f"L of {STELLAR}",
        "[1/r, 1]",
        "near 1",
    ),
    "prototype entropy": (
        "entropy of how often each prototype is the nearest one to a token, divided by log K",
        PROTOTYPES,
        "[0, 1]",
        "near 1, if there are many more tokens than prototypes",
    ),
    "prototypes used": (
        "share of the prototypes that are the nearest one to a token",
        PROTOTYPES,
        "(0, 1]",
        "near 1, if there are many more tokens than prototypes",
    ),
}
LEGEND = {name: dict(zip(("what", "source", "range", "good"), entry, strict=True)) for name, entry in _LEGEND.items()}


@dataclass(frozen=True)
class DiagnosticsProtocol:
    """The choices of diagnostics; `LEGEND` explains each metric.

    Attributes:
        max_images: Largest number of images to use, drawn at random. The time of some metrics grows with its square.
        alpha: Exponent of the distance in alignment, above 0.
        t: Scale of the Gaussian potential in uniformity, above 0.
        diffusion_steps: Number of diffusion steps in diffusion spectral entropy, at least 1.
        view_area: Smallest and largest share of the image that each of the two views shows.
        view_flip_probability: Probability that a view is mirrored.
        view_jitter: Largest relative change of a view's brightness, contrast and saturation.
        prototypes: Training checkpoint with the prototypes that the first model's tokens are compared with, or None.
        seed: Seed of the draw and of the views.

    Raises:
        ValueError: if a value is out of range.
    """

    max_images: int = 1000
    alpha: float = 2.0
    t: float = 2.0
    diffusion_steps: int = 1
    view_area: tuple[float, float] = (0.5, 1.0)
    view_flip_probability: float = 0.5
    view_jitter: float = 0.2
    prototypes: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"max_images must be at least {MIN_IMAGES}, got {self.max_images}")
        check_seed(self.seed)
        if not (self.alpha > 0 and self.t > 0 and self.diffusion_steps >= 1):
            raise ValueError(
                "alpha and t must be above 0 and diffusion_steps at least 1, "
                f"got {self.alpha}, {self.t} and {self.diffusion_steps}"
            )

    def view(self, number: int) -> AugmentedView:
        """Returns the view of a number; the views 1 and 2 are compared."""
        return AugmentedView(number, self.seed, self.view_area, self.view_flip_probability, self.view_jitter)


def evaluate_diagnostics(
    backbones: Sequence[Backbone], images: ImageSource, name: str, protocol: DiagnosticsProtocol, run: RunSettings
) -> Report:
    """Evaluates the features of models without labels.

    Args:
        backbones: Models to evaluate. The prototypes, if any, belong to the first one.
        images: Images to encode.
        name: Name of the images in the report.
        protocol: Choices that decide what is measured.
        run: Choices that decide how it is computed.

    Returns:
        A report with one row per model. Metrics of tokens and maps are None for a model that has none. The details of a
        row have the spectrum of the pooled features, as shares of its sum, and its numerical rank: values that rounding
        alone may have made are 0.

    Raises:
        OSError: if the checkpoint with prototypes does not exist.
        ValueError: if fewer than 3 images can be read, or a feature is not finite.
    """
    if len(images) < MIN_IMAGES:
        raise ValueError(f"diagnostics need at least {MIN_IMAGES} images, {name} has {len(images)}")
    if protocol.prototypes is not None:
        load_prototypes(Path(protocol.prototypes))  # a wrong file is reported before any work
    sample = draw_sample(images, name, protocol.max_images, protocol.seed, run)
    report, _ = evaluate_readable(
        sample, backbones, run, lambda data: measure_diagnostics(backbones, data, protocol, run)
    )
    return report


def measure_diagnostics(
    backbones: Sequence[Backbone], sample: Sample, protocol: DiagnosticsProtocol, run: RunSettings
) -> Report:
    """Evaluates models as `evaluate_diagnostics` does, but raises UnreadableImagesError for an unreadable image."""
    if len(sample) < MIN_IMAGES:
        raise ValueError(
            f"diagnostics need at least {MIN_IMAGES} images, {sample.name} has {len(sample)} that can be used"
        )
    head = None if protocol.prototypes is None else load_prototypes(Path(protocol.prototypes))
    rows: list[Measurement] = []
    spectra: dict[str, Tensor] = {}
    for backbone in backbones:
        features, views = _encode_images_and_views(backbone, sample, protocol, run)
        pooled = backbone.poolings[0]
        with run.progress_of(3, f"measuring, {backbone.name}", "part") as progress, progress.keep_showing():
            metrics = _measure_pooled(features[pooled], views[0][pooled], views[1][pooled], protocol)
            progress.update()
            if TOKENS in features:
                metrics |= _measure_tokens(features[TOKENS], views[0][TOKENS], views[1][TOKENS])
                metrics |= _measure_maps(features[MAPS])
            progress.update()
            if head is not None and backbone is backbones[0]:
                metrics |= _measure_prototypes(features, head)
            progress.update()
        values = without_rounding(singular_values(features[pooled]), features[pooled])
        rank = int((values > 0).sum())
        spectra[f"{backbone.name}, rank {rank} of {len(values)}"] = values
        spectrum = {"spectrum": (values / values.sum().clamp(min=1e-300)).tolist(), "numerical_rank": rank}
        rows.append(Measurement(backbone.name, pooled, {each: metrics.get(each) for each in LEGEND}, spectrum))
    rows = _without_empty_columns(rows)
    return make_report(
        "diagnostics",
        protocol,
        sample.facts(),
        backbones,
        rows,
        notes=list(sample.notes),
        legend={each: LEGEND[each] for each in rows[0].metrics},
        images={"diagnostics-spectrum": draw_spectra(spectra)},
    )


def _encode_images_and_views(
    backbone: Backbone, sample: Sample, protocol: DiagnosticsProtocol, run: RunSettings
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Returns the features of whole images, and those of two views of each image."""
    backbone.to(run.processes.device)
    tokens = tuple(name for name in (TOKENS,) if name in backbone.poolings)
    maps = tuple(name for name in (MAPS,) if name in backbone.dense)
    names = (backbone.poolings[0], *tokens)
    image_names = [name_of(sample.images, index) for index in range(len(sample))]

    def encode(wanted: tuple[str, ...], description: str, view: AugmentedView | None = None) -> dict[str, Tensor]:
        features = all_features(backbone, sample.images, wanted, run, sample.sha256, description, view)
        for name, feature in features.items():
            check_finite(name, feature, image_names)
        return features

    whole = encode(names + maps, "encoding")
    return whole, [encode(names, f"encoding view {number}", protocol.view(number)) for number in (1, 2)]


def _measure_pooled(features: Tensor, first: Tensor, second: Tensor, protocol: DiagnosticsProtocol) -> dict[str, float]:
    """Measures pooled features `(N, d)` of images and of two views."""
    return {
        "rank of pooled": effective_rank(features).item(),
        "alignment": alignment(first, second, protocol.alpha),
        "uniformity": uniformity(features, protocol.t),
        "Vendi across": vendi_score(features).item(),
        "diffusion entropy": diffusion_spectral_entropy(features, median_distance(features), protocol.diffusion_steps),
    }


def _measure_tokens(tokens: Tensor, first: Tensor, second: Tensor) -> dict[str, float]:
    """Measures tokens `(N, r, d)` of images and of two views."""
    stability = token_stability(first, second)
    return {
        "rank of S": effective_rank(tokens.flatten(0, 1)).item(),
        "rank of S within": effective_rank(tokens).mean().item(),
        "Vendi within": vendi_score(tokens).mean().item(),
        "stability": stability.matched,
        "stability by chance": stability.unmatched,
    }


def _measure_maps(localization: Tensor) -> dict[str, float]:
    """Measures maps `(N, n, r)` of tokens."""
    shape = map_shape(localization)
    return {"sharpness of L": shape.sharpness, "area of L": shape.area, "owning tokens": shape.owning}


def _measure_prototypes(features: dict[str, Tensor], head: ClusteringHead) -> dict[str, float]:
    """Measures how evenly tokens use the prototypes of a clustering head.

    Raises:
        ValueError: if the model has no tokens, or their width is not the one that the head takes.
    """
    width = head.mlp.fc1.in_features
    tokens = features.get(TOKENS)
    if tokens is None or tokens.shape[-1] != width:
        found = "no tokens" if tokens is None else f"tokens of {tokens.shape[-1]} values"
        raise ValueError(f"the prototypes are for tokens of {width} values, and the model has {found}")
    use = prototype_use(nearest_prototypes(tokens.flatten(0, 1), head), len(head.prototypes.weight))
    return {"prototype entropy": use.entropy, "prototypes used": use.used}


def _without_empty_columns(rows: list[Measurement]) -> list[Measurement]:
    """Returns the rows without the metrics that are None for every model."""
    kept = [name for name in LEGEND if any(row.metrics[name] is not None for row in rows)]
    return [replace(row, metrics={name: row.metrics[name] for name in kept}) for row in rows]


def load_prototypes(path: Path) -> ClusteringHead:
    """Reads the clustering head of a pretraining checkpoint, in float32.

    Args:
        path: `model.safetensors` of a checkpoint, or its folder, such as RUN/checkpoints/step-000100.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it has no clustering head.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no such checkpoint: {file}; name one, such as RUN/checkpoints/step-000100")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    head = {
        name.removeprefix(CLUSTERING_HEAD): tensor
        for name, tensor in tensors.items()
        if name.startswith(CLUSTERING_HEAD)
    }
    try:
        return ClusteringHead.from_state_dict(head)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{file} has no clustering head with prototypes ({CLUSTERING_HEAD}*), only checkpoints of a training with "
            "prototypes have one: name one, such as RUN/checkpoints/step-000100"
        ) from error
