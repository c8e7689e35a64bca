"""The recipe of a training run: every value that decides its result, in five frozen sections.

There are no defaults: a recipe file states every value, so that people can read, compare and keep it. `files.py` reads
and writes recipe files; the published ones are beside it.
"""

import dataclasses
import inspect
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from timm.optim import get_optimizer_info, list_optimizers

from stellar_hub.data.strict_settings import MAX_SHOWN, check_probability, check_value, fit_fields, shown
from stellar_hub.data.views.photometric import PhotometricSettings
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.config_checks import FIELDS_OF_CLASSIFIERS
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import did_you_mean, hint_of_new_name
from stellar_hub.training.recipes.suggestions import suggestion

MAX_SEED = 2**32 - 1
# Far above what anyone uses; beyond, a run would fill the memory before it says anything.
MAX_SIDE = 2**14  # pixels
MAX_COUNT = 1024  # views of an image, workers
MAX_BATCH_SIZE = 2**20
ANY_COUNT, SOME_COUNT = f"at least 0 and at most {MAX_COUNT}", f"at least 1 and at most {MAX_COUNT}"


@strict
@dataclass(frozen=True)
class ModelRecipe:
    """The model that a run starts from.

    Attributes:
        init: "random", "timm:NAME" for the weights of a timm ViT, a checkpoint's name, or a path. None in a recipe
            whose user names the start with `--init`.
        config: Fields of `StellarConfig`; they replace those of `init`, or the defaults where `init` is "random".
        vqgan: Path of the tokenizer's weights. None downloads them from the Hub where the "vq" head needs them.

    Raises:
        ValueError: if a value has the wrong type or is out of range. All sections raise it; the message begins with
            the key.
    """

    init: str | None
    config: dict[str, Any]
    vqgan: str | None

    def __post_init__(self) -> None:
        fit_fields(self)
        check_value(self.init != "", "init", self.init, '"random", "timm:NAME", a checkpoint or null')
        _check_config(self.config, whole=self.init == "random")


@strict
@dataclass(frozen=True)
class DataRecipe:
    """The images, and the views that are cut from them.

    Attributes:
        sources: Folders with images, lists, tars or tables, as `open_source` takes them. Empty in a recipe whose user
            names the images with `--data`.
        repeats: Number of times that each source's images come per epoch; empty for once each.
        image_size: Side of a global view in pixels; None for the model's own.
        local_size: Side of a local view in pixels; None for 96/224 of `image_size`, rounded down to whole patches.
        num_global_views: Number V of global views per image.
        num_local_views: Number V' of local views per image; 0 for none.
        global_area: Smallest and largest share of the image's area that a global view covers.
        local_area: Smallest and largest share of the image's area that a local view covers.
        flip_probability: Probability that a view is mirrored.
        reduced_decoding: Whether JPEGs are decoded at a half, a quarter or an eighth of their size where no view needs
            more pixels. This saves most of the decoding of large photographs, and changes views by rounding and
            smoothing.
        device_crops: Whether the training device cuts the views, and workers only decode. None cuts them in the
            workers on a CPU; on a GPU it measures at the start whether the workers keep up. Views differ by rounding.
        num_workers: Number of processes that read images, per training process; 0 reads in the training process. None
            takes the process's share of the cores, at most 8. The number does not change the result.
        root: Folder from which tables may read files that their cells name by a path; None refuses such cells.
        probe: Images with classes for the probes, as `open_labelled` takes them: class folders, a split file, a table.
            None measures images of `sources`, without classes.
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
    root: str | None
    probe: str | None

    def __post_init__(self) -> None:
        fit_fields(self)
        check_value(all(self.sources), "sources", list(self.sources), "paths or names, none of them empty")
        counted = len(self.repeats) in (0, len(self.sources)) or not self.sources
        fits = counted and all(count >= 1 for count in self.repeats)
        allowed = f"empty or a number >= 1 for each of the {len(self.sources)} sources"
        check_value(fits, "repeats", list(self.repeats), allowed)
        for name in ("image_size", "local_size"):
            size = getattr(self, name)
            check_value(
                size is None or 1 <= size <= MAX_SIDE, name, size, f"at least 1 and at most {MAX_SIDE}, or null"
            )
        check_value(1 <= self.num_global_views <= MAX_COUNT, "num_global_views", self.num_global_views, SOME_COUNT)
        check_value(0 <= self.num_local_views <= MAX_COUNT, "num_local_views", self.num_local_views, ANY_COUNT)
        for name in ("global_area", "local_area"):
            low, high = getattr(self, name)
            check_value(0 < low <= high <= 1, name, [low, high], "two ascending shares within (0, 1]")
        check_probability("flip_probability", self.flip_probability)
        workers = self.num_workers
        check_value(workers is None or 0 <= workers <= MAX_COUNT, "num_workers", workers, f"{ANY_COUNT}, or null")
        check_value(self.root != "", "root", self.root, "a folder, or null")
        check_value(self.probe != "", "probe", self.probe, "class folders, a split file or a table, or null")


@strict
@dataclass(frozen=True)
class OptimizationRecipe:
    """The optimizer, its schedule and the length of the run.

    Attributes:
        optimizer: One of `optimizers()`: "adamw", "sgd", "lamb", "lion", ...
        learning_rate: Highest learning rate, at the end of the warm-up; not scaled by the batch size.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of AdamW's two running means; an optimizer with one or three of them keeps its own.
        layer_decay: Factor of the learning rate from each block to the block below; None for one rate in all blocks.
        clip_norm: Largest norm of the gradient of all weights; None does not clip.
        batch_size: Number of images per forward, over all processes; they are assigned to clusters together.
        gradient_accumulation_steps: Number of forwards per step; each forward is assigned to clusters by itself.
        epochs: Number of passes over the images; None if `steps` is given.
        steps: Number of optimizer steps; None if `epochs` is given.
        warmup_fraction: Share of all steps over which the learning rate rises from 0.
        final_learning_rate: Learning rate at the end of the run; the rate falls to it as a cosine.
        prototype_precision: "tf32" lets a GPU round the operands of the prototype losses' products, "fp32" does not.
            None chooses "tf32" on a GPU in bf16 and fp16.
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
    prototype_precision: Literal["fp32", "tf32"] | None

    def __post_init__(self) -> None:
        fit_fields(self)
        self._check_optimizer()
        self._check_length()
        for name in ("batch_size", "gradient_accumulation_steps"):
            size = getattr(self, name)
            check_value(1 <= size <= MAX_BATCH_SIZE, name, size, f"at least 1 and at most {MAX_BATCH_SIZE}")
        check_value(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        final, highest = self.final_learning_rate, f"within [0, {self.learning_rate:g}], which is learning_rate"
        check_value(0 <= final <= self.learning_rate, "final_learning_rate", final, highest)
        check_probability("warmup_fraction", self.warmup_fraction)
        check_value(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        check_value(all(0 <= beta < 1 for beta in self.betas), "betas", list(self.betas), "two numbers within [0, 1)")
        decay, norm = self.layer_decay, self.clip_norm
        check_value(decay is None or 0 < decay <= 1, "layer_decay", decay, "within (0, 1], or null")
        check_value(norm is None or norm > 0, "clip_norm", norm, "above 0, or null for no clipping")

    def _check_optimizer(self) -> None:
        if self.optimizer not in optimizers():
            hint = did_you_mean(self.optimizer.lower(), optimizers()) or f"; known: {', '.join(optimizers())}"
            raise ValueError(f"optimizer must be one of timm's, got {shown(self.optimizer)}{hint}")

    def _check_length(self) -> None:
        for name in ("epochs", "steps"):
            length = getattr(self, name)
            check_value(length is None or length >= 1, name, length, "at least 1, or null")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "epochs or steps must be a number and the other one null, "
                f"got epochs {shown(self.epochs)} and steps {shown(self.steps)}"
            )


@strict
@dataclass(frozen=True)
class RunRecipe:
    """The course of a run, and the files that it leaves; a step is one step of the optimizer.

    Attributes:
        seed: Seed of all random numbers: weights, order of images, views.
        precision: "fp32", "bf16", "fp16", "fp64" (slow, for numerical checks), or "auto", which chooses by the device.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, for less memory and more time.
        compile: Whether `torch.compile` compiles the blocks of transformers and tokenizer. None measures at the start
            whether that is faster on a GPU, and does not compile on a CPU.
        cuda_graphs: Whether a GPU replays forward and backward of a step as one CUDA graph. None measures at the start
            whether that is faster; a run that cannot do so says why.
        log_every: Number of steps between two lines of the journal.
        save_every: Number of steps between two checkpoints.
        keep_checkpoints: Number of checkpoints to keep, the newest ones.
        preview_every: Number of steps between two previews; 0 for none.
        probe_every: Number of steps between two probes, which measure features of fixed images; 0 for none.
        export_every: Number of steps between two exports of the model for inference; 0 exports only at the end.
        trackers: Trackers that get the journal's numbers too: "tensorboard", "wandb".
        push_to_hub: Repository "user/name" to push the model to at the end, private if it is new; None for none.
        license: License of the weights for their card, as the Hub spells it. None leaves it open; a push needs one.
    """

    seed: int
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"]
    gradient_checkpointing: bool
    compile: bool | None
    cuda_graphs: bool | None
    log_every: int
    save_every: int
    keep_checkpoints: int
    preview_every: int
    probe_every: int
    export_every: int
    trackers: tuple[Literal["tensorboard", "wandb"], ...]
    push_to_hub: str | None
    license: str | None

    def __post_init__(self) -> None:
        fit_fields(self)
        check_value(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"within [0, {MAX_SEED}]")
        for name in ("log_every", "save_every", "keep_checkpoints"):
            check_value(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("preview_every", "probe_every", "export_every"):
            check_value(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("push_to_hub", "license"):
            value = getattr(self, name)  # both go into the card
            readable = value is None or (bool(value) and value.isprintable())
            check_value(readable, name, value, "a name of printable characters on one line, or null")
        licensed = self.push_to_hub is None or bool((self.license or "").strip())
        allowed = "given with push_to_hub, as the Hub spells it (mit, apache-2.0, cc-by-nc-4.0, other, ...)"
        check_value(licensed, "license", self.license, allowed)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        model: Model that the run starts from.
        data: Images, and the views that are cut from them.
        augmentation: Photometric augmentation of the views.
        optimization: Optimizer, schedule and length of the run.
        run: Course of the run, and the files that it leaves.
    """

    model: ModelRecipe
    data: DataRecipe
    augmentation: PhotometricSettings
    optimization: OptimizationRecipe
    run: RunRecipe

    def with_values(self, section: str, **values: Any) -> "Recipe":
        """Returns a copy of the recipe with some values of a section replaced.

        Raises:
            ValueError: if a value has the wrong type or is out of range; the message begins with "section.key".
        """
        try:
            changed = dataclasses.replace(getattr(self, section), **values)
        except ValueError as error:
            raise ValueError(f"{section}.{error}") from error
        return dataclasses.replace(self, **{section: changed})


SECTIONS: dict[str, type] = typing.get_type_hints(Recipe)


def section_keys(section: type) -> list[str]:
    """Returns the keys of a section, in their order."""
    return [field.name for field in dataclasses.fields(section)]


def optimizers() -> list[str]:
    """Returns the names of timm's optimizers, sorted.

    Optimizers of second order are not among them, as the losses have first derivatives only.
    """
    names = [str(name) for name in list_optimizers()]
    return [name for name in names if not get_optimizer_info(name).second_order]


def config_fields() -> list[str]:
    """Returns the names that `model.config` may set: `StellarConfig`'s own fields, except those of classifiers."""
    return [name for name in StellarConfig.__annotations__ if name not in FIELDS_OF_CLASSIFIERS]


def refuse_unknown(names: Iterable[object], allowed: Iterable[str], prefix: str) -> None:
    """Raises ValueError for the first name that is not allowed, as `prefix` + name, with the closest allowed names."""
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            hint = hint_of_new_name("recipe_keys", f"{prefix}{name}") or suggestion(str(name), allowed)
            hint = hint or f"; known: {', '.join(allowed)}"
            raise ValueError(f"{prefix}{one_line(name, MAX_SHOWN)} is not a known key{hint}")


def _check_sizes(name: str, value: object) -> None:
    """Raises ValueError for a field of the configuration that would make a model of an absurd size."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, int):
            check_limit("config_layers" if name.endswith("_layers") else "config_dimension", number, f"config.{name}")


def _check_config(config: dict[str, Any], *, whole: bool) -> None:
    """Checks names and types against `StellarConfig`, and for a `whole` one whether the values fit together."""
    refuse_unknown(config, config_fields(), "config.")
    for name, value in config.items():
        check_value(not isinstance(value, float) or math.isfinite(value), f"config.{name}", value, "finite")
        _check_sizes(name, value)
        try:
            StellarConfig(**{name: value})
        except StrictDataclassFieldValidationError:
            allowed = inspect.formatannotation(StellarConfig.__annotations__[name]).replace("None", "null")
            check_value(False, f"config.{name}", value, f"of type {allowed}")
        except StrictDataclassClassValidationError:
            pass  # with the defaults of the others it need not fit
    if whole:
        try:
            StellarConfig(**config)
        except StrictDataclassClassValidationError as error:
            raise ValueError(f"config: {error.__cause__ or error}") from error
