"""Diagnostics without labels: the protocol, and following it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.data.sources.combined import SampledImages, sample_images
from stellar_hub.data.sources.image_source import ImageSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.evaluation.computing import RunSettings, extract_features
from stellar_hub.evaluation.feature_set import check_finite
from stellar_hub.evaluation.legend import LEGEND
from stellar_hub.evaluation.report.report import Measurement, Report, make_report
from stellar_hub.evaluation.splits import digests
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
)
from stellar_hub.visualization import draw_spectra

TOKENS, MAPS = "S-set", "L"
PREFIX = "clustering_head."
MIN_IMAGES = 3


@dataclass(frozen=True)
class DiagnosticsProtocol:
    """What features tell about themselves; see `LEGEND` for each number.

    Attributes:
        max_images: How many images are drawn at most: some measures cost their square.
        alpha: Of alignment.
        t: Of uniformity.
        diffusion_steps: Of diffusion spectral entropy; its sigma is the median distance.
        view_area: Smallest and largest part of the image that the two views show.
        view_flip_probability: Of mirroring a view.
        view_jitter: Brightness, contrast and saturation of a view change by a factor within 1 ± this.
        prototypes: Checkpoint of pretraining whose prototypes the first model's tokens are compared with.
        seed: Of the images drawn and of the views.

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
        if not (self.alpha > 0 and self.t > 0 and self.diffusion_steps >= 1):
            raise ValueError(
                "alpha and t must be above 0 and diffusion_steps at least 1, "
                f"got {self.alpha}, {self.t} and {self.diffusion_steps}"
            )

    def view(self, number: int) -> AugmentedView:
        """The views that are compared."""
        return AugmentedView(number, self.seed, self.view_area, self.view_flip_probability, self.view_jitter)


def evaluate_diagnostics(
    backbones: Sequence[Backbone], images: ImageSource, name: str, protocol: DiagnosticsProtocol, run: RunSettings
) -> Report:
    """Measure models without labels.

    Args:
        backbones: The models, the one of interest first.
        images: The images.
        name: What to call them in the report.
        protocol: How.
        run: How it is computed.

    Returns:
        One row for each model; what needs tokens or maps is None for models without.

    Raises:
        OSError: if the checkpoint with prototypes does not exist.
        ValueError: if there are fewer than three images, one cannot be read, or a feature is not finite.
    """
    if len(images) < MIN_IMAGES:
        raise ValueError(f"{name} has {len(images)} images, diagnostics need at least {MIN_IMAGES}")
    head = None if protocol.prototypes is None else load_prototypes(Path(protocol.prototypes))
    drawn = sample_images(images, protocol.max_images, protocol.seed)
    data_hash = hashlib.sha256("\0".join(digests(drawn, run, f"hashing {name}")).encode()).hexdigest()
    rows: list[Measurement] = []
    spectra: dict[str, Tensor] = {}
    for backbone in backbones:
        features, views = three_looks(backbone, drawn, data_hash, protocol, run)
        pooled = backbone.poolings[0]
        numbers = of_pooled(features[pooled], views[0][pooled], views[1][pooled], protocol)
        if TOKENS in features:
            numbers |= of_tokens(features[TOKENS], views[0][TOKENS], views[1][TOKENS])
            numbers |= of_maps(features[MAPS])
        if head is not None and backbone is backbones[0]:
            numbers |= of_prototypes(features, head)
        values = singular_values(features[pooled])
        spectra[backbone.name] = values
        shares = {"spectrum": (values / values.sum().clamp(min=1e-300)).tolist()}
        rows.append(Measurement(backbone.name, pooled, {each: numbers.get(each) for each in LEGEND}, shares))
    rows = without_empty(rows)
    data = {
        "data": {"name": name, "num_images": len(drawn), "sha256": data_hash},
        "num_available": len(images),
    }
    legend = {each: LEGEND[each] for each in rows[0].metrics}
    images_ = {"diagnostics-spectrum": draw_spectra(spectra)}
    return make_report("diagnostics", protocol, data, backbones, rows, legend=legend, images=images_)


def three_looks(
    backbone: Backbone, images: SampledImages, data_hash: str, protocol: DiagnosticsProtocol, run: RunSettings
) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Features of the images as they are, and of two views of each."""
    backbone.to(run.processes.device)
    tokens = tuple(name for name in (TOKENS,) if name in backbone.poolings)
    maps = tuple(name for name in (MAPS,) if name in backbone.dense)
    names = (backbone.poolings[0], *tokens)
    labels = [str(images[index]) for index in range(len(images))]

    def look(wanted: tuple[str, ...], what: str, view: AugmentedView | None = None) -> dict[str, Tensor]:
        features = extract_features(backbone, images, wanted, run, data_hash, what, view)
        for name, feature in features.items():
            check_finite(name, feature, labels)
        return features

    whole = look(names + maps, "encoding")
    first, second = (look(names, f"encoding view {number}", protocol.view(number)) for number in (1, 2))
    return whole, (first, second)


def of_pooled(features: Tensor, first: Tensor, second: Tensor, protocol: DiagnosticsProtocol) -> dict[str, float]:
    """What pooled features `(N, d)`, and those of two views, tell."""
    return {
        "rank of pooled": effective_rank(features).item(),
        "alignment": alignment(first, second, protocol.alpha),
        "uniformity": uniformity(features, protocol.t),
        "Vendi across": vendi_score(features).item(),
        "diffusion entropy": diffusion_spectral_entropy(features, median_distance(features), protocol.diffusion_steps),
    }


def of_tokens(tokens: Tensor, first: Tensor, second: Tensor) -> dict[str, float]:
    """What tokens `(N, r, d)`, and those of two views, tell."""
    stability = token_stability(first, second)
    return {
        "rank of S": effective_rank(tokens.flatten(0, 1)).item(),
        "rank of S within": effective_rank(tokens).mean().item(),
        "Vendi within": vendi_score(tokens).mean().item(),
        "stability": stability.matched,
        "stability by chance": stability.unmatched,
    }


def of_maps(localization: Tensor) -> dict[str, float]:
    """What maps `(N, n, r)` tell."""
    shape = map_shape(localization)
    return {"sharpness of L": shape.sharpness, "area of L": shape.area, "owning tokens": shape.owning}


def of_prototypes(features: dict[str, Tensor], head: ClusteringHead) -> dict[str, float]:
    """How tokens use prototypes.

    Raises:
        ValueError: if the model has no tokens, or they are of another width than the head takes.
    """
    width = head.mlp.fc1.in_features
    tokens = features.get(TOKENS)
    if tokens is None or tokens.shape[-1] != width:
        found = "none" if tokens is None else f"tokens of {tokens.shape[-1]}"
        raise ValueError(f"the prototypes are for tokens of {width} values, and the model has {found}")
    use = prototype_use(nearest_prototypes(tokens.flatten(0, 1), head), len(head.prototypes.weight))
    return {"prototype entropy": use.entropy, "prototypes used": use.used}


def without_empty(rows: list[Measurement]) -> list[Measurement]:
    """The rows without the numbers that no model has."""
    kept = [name for name in LEGEND if any(row.metrics[name] is not None for row in rows)]
    return [
        Measurement(row.model, row.features, {name: row.metrics[name] for name in kept}, row.details) for row in rows
    ]


def load_prototypes(path: Path) -> ClusteringHead:
    """Reads the clustering head of a pretraining checkpoint, in float32.

    Args:
        path: `model.safetensors` of a checkpoint, or the folder it lies in, such as RUN/checkpoints/step-000100.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no clustering head.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no such checkpoint: {file}")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    head = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    try:
        return ClusteringHead.from_state_dict(head)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{file} has no clustering head ({PREFIX}*): models for inference have none; "
            "name a checkpoint of pretraining, such as RUN/checkpoints/step-000100"
        ) from error
