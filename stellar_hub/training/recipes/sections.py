"""The recipe of a training run: every value that decides its result, in five frozen sections.

There are no defaults: a recipe file says everything, so that it can be read, compared and kept. What a file of them
looks like, and the published ones, is in `recipes/`; `recipe_file.py` reads and writes them.
"""

import dataclasses
import inspect
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from timm.optim import get_optimizer_info, list_optimizers

from stellar_hub.modeling import StellarConfig
from stellar_hub.training.recipes.checks import (
    did_you_mean,
    fit_annotations,
    refuse_unknown,
    require,
    require_probability,
)

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class ModelRecipe:
    """Where the model comes from.

    Attributes:
        init: "random", "timm:NAME" for a timm ViT's weights, a checkpoint's name, or a path; None in a recipe whose
            start is given with the run.
        config: Fields of `StellarConfig` that are set in place of those of `init` (of the defaults, if random).
        vqgan: Path of the tokenizer's weights; None takes them from the Hub where the "vq" head needs them.

    Raises:
        ValueError: if a value has the wrong type or is out of range; so do all sections.
    """

    init: str | None
    config: dict[str, Any]
    vqgan: str | None

    def __post_init__(self) -> None:
        fit_annotations(self, "model")
        require(self.init != "", "model.init", self.init, '"random", "timm:NAME", a checkpoint or null')
        _check_config(self.config, whole=self.init == "random")


@dataclass(frozen=True)
class DataRecipe:
    """The images, and the views that are cut of them.

    Attributes:
        sources: Folders with images, lists, tars or tables, as `open_source` takes them; empty in a recipe whose
            images are given with the run.
        repeats: How often each folder's images come per epoch; empty for once each.
        image_size: Side of a global view in pixels; None for the model's own.
        local_size: Side of a local view in pixels; None for 96/224 of `image_size`, rounded down to whole patches.
        num_global_views: Global views V per image.
        num_local_views: Local views V' per image; 0 for none.
        global_area: Smallest and largest share of the image's area that a global view covers.
        local_area: The same of a local view.
        flip_probability: Probability that a view is mirrored.
        reduced_decoding: Whether JPEGs are decoded at a half, a quarter or an eighth of their size where no view needs
            more. It saves most of the decoding of large photographs, and changes views by rounding and smoothing.
        device_crops: Whether the device cuts the views, and workers only decode. None cuts them in the workers on a
            CPU; on a GPU it measures at the start whether they keep up. Views differ by rounding.
        num_workers: Processes that read images, per training process; 0 reads in the training process, None takes as
            many as there are cores, up to 8. What is trained does not depend on it.
    """

    sources: tuple[str, ...]
    repeats: tuple[int, ...]
    image_size: int | None
    local_size: int | None
    num_global_views: int
    num_local_views: int
    global_area: tuple[float, float]
    local_area: tuple[float, float]
    flip_probability: float
    reduced_decoding: bool
    device_crops: bool | None
    num_workers: int | None

    def __post_init__(self) -> None:
        fit_annotations(self, "data")
        require(all(self.sources), "data.sources", list(self.sources), "paths or names, none of them empty")
        counted = len(self.repeats) in (0, len(self.sources)) or not self.sources
        fits = counted and all(count >= 1 for count in self.repeats)
        allowed = f"empty or a number >= 1 for each of the {len(self.sources)} sources"
        require(fits, "data.repeats", list(self.repeats), allowed)
        for name in ("image_size", "local_size"):
            size = getattr(self, name)
            require(size is None or size >= 1, f"data.{name}", size, "at least 1, or null")
        require(self.num_global_views >= 1, "data.num_global_views", self.num_global_views, "at least 1")
        require(self.num_local_views >= 0, "data.num_local_views", self.num_local_views, "at least 0")
        for name in ("global_area", "local_area"):
            low, high = getattr(self, name)
            require(0 < low <= high <= 1, f"data.{name}", [low, high], "two ascending shares within (0, 1]")
        require_probability("data.flip_probability", self.flip_probability)
        workers = self.num_workers
        require(workers is None or workers >= 0, "data.num_workers", workers, "at least 0, or null")


@dataclass(frozen=True)
class AugmentationRecipe:
    """Photometric augmentation, drawn per view; colours are changed as torchvision's `ColorJitter` does.

    Attributes:
        global_views: Whether global views get it too; local views always do.
        brightness: Factor is drawn from `[max(0, 1 - brightness), 1 + brightness]`.
        contrast: Likewise.
        saturation: Likewise.
        hue: Shift is drawn from `[-hue, hue]`, in turns of the colour circle; at most 0.5.
        jitter_probability: Probability of the four above.
        grayscale_probability: Probability that a view loses its colours.
        blur_probability: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of the view.
        blur_kernel_size: Side of its kernel in pixels; odd.
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
        fit_annotations(self, "augmentation")
        for name in ("brightness", "contrast", "saturation"):
            require(getattr(self, name) >= 0, f"augmentation.{name}", getattr(self, name), "at least 0")
        require(0 <= self.hue <= 0.5, "augmentation.hue", self.hue, "within [0, 0.5]")
        for name in ("jitter_probability", "grayscale_probability", "blur_probability"):
            require_probability(f"augmentation.{name}", getattr(self, name))
        low, high = self.blur_sigma
        require(0 < low <= high, "augmentation.blur_sigma", [low, high], "two ascending numbers above 0")
        odd = self.blur_kernel_size >= 1 and self.blur_kernel_size % 2 == 1
        require(odd, "augmentation.blur_kernel_size", self.blur_kernel_size, "odd and at least 1")


@dataclass(frozen=True)
class OptimizationRecipe:
    """How weights are changed.

    Attributes:
        optimizer: One of `optimizers()`: "adamw", "sgd", "lamb", "lion", ...
        learning_rate: The highest, reached at the end of the warm-up; per step, not scaled by the batch size.
        weight_decay: Decoupled weight decay.
        betas: AdamW's two, the decay rates of its running means; an optimizer with none or three keeps its own.
        layer_decay: Factor of the learning rate from each block to the one below; None for the same in all.
        clip_norm: Largest norm of the gradient of all weights; None does not clip.
        batch_size: Images of one forward, over all processes; clusters are assigned over these.
        gradient_accumulation_steps: Forwards per step; does not enlarge what clusters are assigned over.
        epochs: Passes over the images; None if `steps` is given.
        steps: Steps of the optimizer; None if `epochs` is given.
        warmup_fraction: Share of all steps over which the learning rate rises from 0.
        final_learning_rate: The learning rate at the end, to which it falls as a cosine.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    layer_decay: float | None
    clip_norm: float | None
    batch_size: int
    gradient_accumulation_steps: int
    epochs: int | None
    steps: int | None
    warmup_fraction: float
    final_learning_rate: float

    def __post_init__(self) -> None:
        fit_annotations(self, "optimization")
        self._check_optimizer()
        self._check_length()
        for name in ("batch_size", "gradient_accumulation_steps"):
            require(getattr(self, name) >= 1, f"optimization.{name}", getattr(self, name), "at least 1")
        require(self.learning_rate > 0, "optimization.learning_rate", self.learning_rate, "above 0")
        final, highest = self.final_learning_rate, f"within [0, {self.learning_rate:g}], which is learning_rate"
        require(0 <= final <= self.learning_rate, "optimization.final_learning_rate", final, highest)
        require_probability("optimization.warmup_fraction", self.warmup_fraction)
        require(self.weight_decay >= 0, "optimization.weight_decay", self.weight_decay, "at least 0")
        in_range = all(0 <= beta < 1 for beta in self.betas)
        require(in_range, "optimization.betas", list(self.betas), "two numbers within [0, 1)")
        decay, norm = self.layer_decay, self.clip_norm
        require(decay is None or 0 < decay <= 1, "optimization.layer_decay", decay, "within (0, 1], or null")
        require(norm is None or norm > 0, "optimization.clip_norm", norm, "above 0, or null for no clipping")

    def _check_optimizer(self) -> None:
        if self.optimizer not in optimizers():
            hint = did_you_mean(self.optimizer.lower(), optimizers()) or f"; known: {', '.join(optimizers())}"
            raise ValueError(f"optimization.optimizer must be one of timm's, got {self.optimizer!r}{hint}")

    def _check_length(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "exactly one of optimization.epochs and optimization.steps must be a number and the other null, "
                f"got epochs {self.epochs!r} and steps {self.steps!r}"
            )
        for name in ("epochs", "steps"):
            length = getattr(self, name)
            require(length is None or length >= 1, f"optimization.{name}", length, "at least 1")


@dataclass(frozen=True)
class RunRecipe:
    """How the run goes, and what it leaves behind; a step is one step of the optimizer.

    Attributes:
        seed: Of all that is drawn at random: weights, order of images, views.
        precision: "fp32", "bf16", "fp16", "fp64" (slow, for numerical checks), or "auto" for what suits the device.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, for less memory and more time.
        compile: Whether the model goes through `torch.compile`.
        log_every: Steps between two lines of the journal.
        save_every: Steps between two checkpoints.
        keep_checkpoints: How many checkpoints are kept, the newest ones.
        preview_every: Steps between two images of what the model sees; 0 for none.
        export_every: Steps between two exports of the model for inference; 0 exports only at the end.
        trackers: Where the journal also goes: "tensorboard", "wandb".
        push_to_hub: Repository "user/name" that the model is pushed to at the end, a new one being private; None for
            none.
        license: Of the weights, for their card, as the Hub spells it; None leaves it open, but for a push.
    """

    seed: int
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"]
    gradient_checkpointing: bool
    compile: bool
    log_every: int
    save_every: int
    keep_checkpoints: int
    preview_every: int
    export_every: int
    trackers: tuple[Literal["tensorboard", "wandb"], ...]
    push_to_hub: str | None
    license: str | None

    def __post_init__(self) -> None:
        fit_annotations(self, "run")
        require(0 <= self.seed <= MAX_SEED, "run.seed", self.seed, f"within [0, {MAX_SEED}]")
        for name in ("log_every", "save_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "at least 1")
        for name in ("preview_every", "export_every"):
            require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "at least 0")
        for name in ("push_to_hub", "license"):
            require(getattr(self, name) != "", f"run.{name}", "", "a name, or null")
        licensed = self.push_to_hub is None or bool((self.license or "").strip())
        allowed = "given with push_to_hub, as the Hub spells it (mit, apache-2.0, cc-by-nc-4.0, other, ...)"
        require(licensed, "run.license", self.license, allowed)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        model: Where the model comes from.
        data: The images, and the views that are cut of them.
        augmentation: Photometric augmentation of the views.
        optimization: How weights are changed.
        run: How the run goes, and what it leaves behind.
    """

    model: ModelRecipe
    data: DataRecipe
    augmentation: AugmentationRecipe
    optimization: OptimizationRecipe
    run: RunRecipe


SECTIONS: dict[str, type] = typing.get_type_hints(Recipe)


def section_keys(section: type) -> list[str]:
    """The keys of a section, in their order."""
    return [field.name for field in dataclasses.fields(section)]


def optimizers() -> list[str]:
    """Names of timm's optimizers, sorted; without those of second order, as the losses can be derived once only."""
    names = [str(name) for name in list_optimizers()]
    return [name for name in names if not get_optimizer_info(name).second_order]


def config_fields() -> list[str]:
    """The names that `model.config` may set: `StellarConfig`'s own fields, not those it inherits."""
    return list(StellarConfig.__annotations__)


def _check_config(config: dict[str, Any], *, whole: bool) -> None:
    """Names and types are `StellarConfig`'s; whether values fit each other shows only on the `whole` of them."""
    refuse_unknown(config, config_fields(), "model.config.")
    for name, value in config.items():
        require(not isinstance(value, float) or math.isfinite(value), f"model.config.{name}", value, "finite")
        try:
            StellarConfig(**{name: value})
        except StrictDataclassFieldValidationError:
            allowed = inspect.formatannotation(StellarConfig.__annotations__[name]).replace("None", "null")
            require(False, f"model.config.{name}", value, f"of type {allowed}")
        except StrictDataclassClassValidationError:
            pass  # with the defaults of the others it need not fit
    if whole:
        try:
            StellarConfig(**config)
        except StrictDataclassClassValidationError as error:
            raise ValueError(f"model.config: {error.__cause__ or error}") from error
