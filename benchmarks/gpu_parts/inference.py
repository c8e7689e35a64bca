"""Encoding and decoding: STELLAR as it is, optimized and in each candidate variant, against timm and DINOv2."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from encode_throughput import IMAGE_SIZE, SIZES, Size, flops, random_code
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from gpu_parts.candidates import candidates
from gpu_parts.measure import Bench, matrix_product, medians, own_memory
from stellar_hub.modeling import StellarConfig, StellarModel

TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
SMOKE_SIZE = Size(
    TINY
    | {
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "tokenizer_hidden_channels": 32,
        "tokenizer_channel_mult": [1, 1, 1, 1, 1],
        "tokenizer_num_res_blocks": 1,
        "tokenizer_embed_dim": 32,
        "codebook_size": 64,
    },
    "vit_tiny_patch16_224",
    TINY,
)
EAGER, OPTIMIZED, FLOAT8 = "as it is", "optimized", "optimized, float8"
TIMM, TIMM_BLOCKS = "timm", "timm, blocks compiled"
# Seconds that these may take on an H100; with less left, they are not tried.
COMPILING, OPTIMIZING = 12.0, 15.0  # blocks of one kind; `optimize_for_inference`
COMPILING_ALL = {12: 15.0, 24: 40.0, 32: 50.0}  # a whole model, by its number of layers
MAX_DIFFERENCE = 0.05  # relative, of outputs in bfloat16 from those of the same model as it is, by the Euclidean norm
MAX_DIFFERENCE_OF_CODES = 0.2  # of decoded images, where rounding decides between two codes that are nearly equal
MIN_COSINE, MIN_SAME_TOKEN = 0.99, 0.95  # of S and L in float8

Run = Callable[[Tensor], Any]


class Contestant(NamedTuple):
    """A way to encode or decode a batch.

    Attributes:
        name: Name in the table.
        build: Prepares it and returns a function of uint8 images on the device.
        tokens: Number of tokens per image that go through the blocks.
        operations: Number of floating-point operations per image.
        seconds: Seconds that preparing may take on a GPU.
        first: Seconds that the first call may take on a GPU, for each batch size.
        ours: Whether its outputs are compared with those of `EAGER`.
    """

    name: str
    build: Callable[[], Run]
    tokens: int
    operations: int
    seconds: float = 0.0
    first: float = 0.0
    ours: bool = True


class Race:
    """Contestants that take turns at one batch size or several.

    Args:
        bench: The device, the deadline, and where rows go.
        label: What they do, such as "encode b16".
        batches: Numbers of images.
    """

    def __init__(self, bench: Bench, label: str, batches: Sequence[int]):
        self.bench = bench
        generator = torch.Generator().manual_seed(0)
        self.images = {batch: smooth_images(batch, generator).to(bench.device) for batch in batches}
        self.groups = {batch: f"{label}, batch {batch}" for batch in batches}
        self._running: dict[str, tuple[Contestant, Run]] = {}
        self._expected: dict[int, Any] = {}
        self._facts: dict[tuple[int, str], dict[str, Any]] = {}

    @torch.inference_mode()
    def enter(self, contestants: Sequence[Contestant], notes: dict[str, str] | None = None) -> None:
        """Prepares contestants, and measures all that are in the race."""
        first, before = next(iter(self.groups.values())), len(self._running)
        for contestant in contestants:
            run = self.bench.attempt(first, contestant.name, contestant.seconds, lambda each=contestant: built(each))
            if run is None:
                continue
            outputs = {
                batch: self.bench.attempt(
                    group, contestant.name, contestant.first, lambda run=run, batch=batch: run(self.images[batch])
                )
                for batch, group in self.groups.items()
            }
            if any(output is None for output in outputs.values()):
                continue
            self._running[contestant.name] = contestant, run
            for batch, output in outputs.items():
                if contestant.ours:
                    self._expected.setdefault(batch, output)
                    exact = "float8" not in contestant.name
                    self._facts[batch, contestant.name] = differences(output, self._expected[batch], exact)
                if notes and contestant.name in notes:
                    self._facts.setdefault((batch, contestant.name), {})["report"] = notes[contestant.name]
        if len(self._running) > before:
            self._measure()

    def _measure(self) -> None:
        product, operations = matrix_product(self.bench.device)
        for batch, images in self.images.items():
            calls: dict[str, Callable[[], Any]] = {
                name: lambda run=run, images=images: run(images) for name, (_, run) in self._running.items()
            }
            seconds = medians(calls | {"product": product}, self.bench)
            rate = operations / seconds["product"]
            for name, (contestant, _) in self._running.items():
                per_image = seconds[name] / batch
                self.bench.row(
                    self.groups[batch],
                    name,
                    ms=1e3 * seconds[name],
                    per_second=1 / per_image,
                    us_per_token=1e6 * per_image / contestant.tokens,
                    share=contestant.operations / per_image / rate,
                    **self._facts.get((batch, name), {}),
                )


@torch.inference_mode(False)
def built(contestant: Contestant) -> Run:
    """Prepares a contestant as users do, outside of inference mode."""
    return contestant.build()


def smooth_images(batch: int, generator: torch.Generator) -> Tensor:
    """Returns random images, `(batch, 3, 224, 224)` uint8, whose colours change slowly, as photographs' do."""
    coarse = torch.rand(batch, 3, 8, 8, generator=generator)
    return (255 * F.interpolate(coarse, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")).to(torch.uint8)


def differences(output: Any, expected: Any, exact: bool) -> dict[str, Any]:
    """Returns how much outputs differ, for `(S, L)` with the cosine of S and the share of patches with the same token.

    Args:
        output: An image, or `(S, L)`.
        expected: That of the model as it is.
        exact: Whether only rounding may differ.
    """
    if isinstance(output, Tensor):
        return {"difference": relative(output, expected), "same": relative(output, expected) <= MAX_DIFFERENCE_OF_CODES}
    (semantics, maps), (semantics0, maps0) = tuple(output)[:2], tuple(expected)[:2]
    difference = max(relative(semantics, semantics0), relative(maps, maps0))
    cosine = float(F.cosine_similarity(semantics.float(), semantics0.float(), dim=-1).mean())
    same_token = float((maps.argmax(-1) == maps0.argmax(-1)).float().mean())
    close = cosine >= MIN_COSINE and same_token >= MIN_SAME_TOKEN
    same = difference <= MAX_DIFFERENCE or (close and not exact)
    return {"difference": difference, "cosine": cosine, "same_token": same_token, "same": same}


def relative(output: Tensor, expected: Tensor) -> float:
    """Returns the relative difference of a tensor, by the Euclidean norm."""
    return float((output.float() - expected.float()).norm() / expected.float().norm())


def size_of(bench: Bench, name: str) -> Size:
    """Returns the models of a size, in a smoke run tiny ones."""
    return SMOKE_SIZE if bench.smoke else SIZES[name]


def on_device(model: nn.Module, device: torch.device) -> Any:
    """Returns a model for inference, in bfloat16 on the device."""
    return model.to(device=device, dtype=torch.bfloat16).eval().requires_grad_(False)


def optimized(
    bench: Bench, model: StellarModel, batches: Sequence[int], notes: dict[str, str], dtype: Any = None
) -> Any:
    """Returns an optimized copy of a model, and writes its report into `notes`."""
    model = copy.deepcopy(model)
    # Of one large batch, the compiled blocks; of small ones, whole calls too. What has begun may take longer.
    share = 0.35 if len(batches) == 1 else 0.6
    report = model.optimize_for_inference(dtype, batch_sizes=tuple(batches), max_seconds=max(1.0, share * bench.left()))
    notes[FLOAT8 if dtype == "float8" else OPTIMIZED] = str(report)
    return model


def variants(model: StellarModel, parts: Sequence[str]) -> list[tuple[str, Callable[[], Any]]]:
    """Returns each change that `optimize_for_inference` may make to these parts: its name, and what makes a model."""

    def changed(candidate: Any) -> Callable[[], Any]:
        def build() -> Any:
            other = copy.deepcopy(model)
            candidate.apply(other)
            return other

        return build

    return [(each.name, changed(each)) for each in candidates(model) if each.name.split(":")[0] in parts]


def first_seconds(name: str) -> float:
    """Returns the seconds that the first call of a variant may take on a GPU: some compile."""
    return COMPILING if name.startswith("calls: ") else 0.0


def encode(bench: Bench, size: str, batches: Sequence[int]) -> None:
    """Measures encoding at these batch sizes."""
    spec = size_of(bench, size)
    torch.manual_seed(0)
    with own_memory(bench.device):
        model = on_device(StellarModel(StellarConfig(**spec.config, use_decoder=False)), bench.device)
        race, image = Race(bench, f"encode {size}", batches), torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
        image = image.to(bench.device, torch.bfloat16)
        tokens = (IMAGE_SIZE // model.patch_size) ** 2 + 1 + model.config.num_sparse_tokens
        operations = flops(model.encode, image)
        notes: dict[str, str] = {}

        def ours(name: str, build: Callable[[], Any], seconds: float = 0) -> Contestant:
            return Contestant(name, lambda: build().encode, tokens, operations, seconds, first_seconds(name))

        large = len(batches) == 1
        compiled = others_compiled(bench, spec, image, model.config.num_hidden_layers if large else None)
        first = [each for each in compiled if large and each.name == TIMM_BLOCKS]  # the limits compare with it
        race.enter([ours(EAGER, lambda: model), *others(bench, spec, image)])
        race.enter(first)
        race.enter([ours(OPTIMIZED, lambda: optimized(bench, model, batches, notes), OPTIMIZING)], notes)
        if size != "b16" or bench.smoke:
            build = lambda: optimized(bench, model, batches, notes, "float8")  # noqa: E731
            race.enter([ours(FLOAT8, build, OPTIMIZING)], notes)
        race.enter([each for each in compiled if each not in first])
        parts = ("encoder", "patch projection", "calls")
        race.enter([ours(name, build) for name, build in variants(model, parts)])


def decode(bench: Bench, size: str, batch: int) -> None:
    """Measures decoding."""
    torch.manual_seed(0)
    with own_memory(bench.device):
        model = on_device(StellarModel(StellarConfig(**size_of(bench, size).config)), bench.device)
        image = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE).to(bench.device, torch.bfloat16)
        num_patches = (IMAGE_SIZE // model.patch_size) ** 2
        operations = flops(lambda images: model.decode(*random_code(images, model)), image)
        race, notes = Race(bench, f"decode {size}", [batch]), dict[str, str]()
        with torch.inference_mode():
            code = tuple(model.encode(race.images[batch]))

        def ours(name: str, build: Callable[[], Any], seconds: float = 0) -> Contestant:
            def decoder() -> Run:
                built = build()
                return lambda images: built.decode(*code[:2])

            return Contestant(name, decoder, num_patches, operations, seconds, first_seconds(name))

        race.enter([ours(EAGER, lambda: model)])
        race.enter([ours(OPTIMIZED, lambda: optimized(bench, model, [batch], notes), OPTIMIZING)], notes)
        race.enter([ours(name, build) for name, build in variants(model, ("decoder", "tokenizer", "calls"))])


def plain_models(spec: Size) -> list[tuple[str, Callable[[], nn.Module], int]]:
    """Returns the other libraries' models: name, what makes one, and tokens per image."""
    config = StellarConfig(**spec.config)
    num_patches = (IMAGE_SIZE // config.patch_size) ** 2
    few = {"depth": 2} if spec is SMOKE_SIZE else {}
    found: list[tuple[str, Callable[[], nn.Module], int]] = [
        (TIMM, lambda: timm.create_model(spec.timm_name, num_classes=0, **few), num_patches + 1)
    ]
    if spec.dinov2 is not None:
        dinov2 = Dinov2Config(image_size=IMAGE_SIZE, **spec.dinov2)
        found.append(("Dinov2", lambda: Dinov2Model(dinov2), (IMAGE_SIZE // 14) ** 2 + 1))
    return found


def on_floats(model: Any) -> Run:
    """Returns a function of uint8 images that runs a model on bfloat16 pixels; only the first call prepares them."""
    pixels: dict[int, Tensor] = {}

    def run(images: Tensor) -> Any:
        if len(images) not in pixels:
            pixels[len(images)] = images.to(torch.bfloat16) / 127.5 - 1
        return model(pixels[len(images)])

    return run


def blocks_of(model: nn.Module) -> Any:
    """Returns the transformer blocks: the longest list of modules of one kind."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    return max((part for part in lists if len({type(child) for child in part}) == 1), key=len)


def others(bench: Bench, spec: Size, image: Tensor) -> list[Contestant]:
    """Returns the other libraries' models as they are."""
    found = []
    for name, make, tokens in plain_models(spec):
        model = on_device(make(), bench.device)
        found.append(Contestant(name, lambda model=model: on_floats(model), tokens, flops(model, image), ours=False))
    return found


def others_compiled(bench: Bench, spec: Size, image: Tensor, num_layers: int | None) -> list[Contestant]:
    """Returns the other libraries' models with each block compiled, and with the whole model compiled.

    Args:
        bench: The device.
        spec: The models.
        image: One image.
        num_layers: Their number of layers; None leaves the whole models out.
    """
    found = []
    for name, make, tokens in plain_models(spec):
        model = on_device(make(), bench.device)
        facts = tokens, flops(model, image)

        def by_blocks(model: Any = model) -> Run:
            model = copy.deepcopy(model)
            for block in blocks_of(model):
                block.compile(dynamic=False, backend="eager" if bench.smoke else "inductor")
            return on_floats(model)

        def as_a_whole(model: Any = model) -> Run:
            return on_floats(bench.compile(model))

        found.append(Contestant(f"{name}, blocks compiled", by_blocks, *facts, first=COMPILING, ours=False))
        if num_layers is not None:
            seconds = COMPILING_ALL.get(num_layers, 0)
            found.append(Contestant(f"{name}, compiled", as_a_whole, *facts, first=seconds, ours=False))
    return found
