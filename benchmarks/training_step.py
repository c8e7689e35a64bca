"""Time and memory of a whole training step, compared with a naive version of its objective.

    python benchmarks/training_step.py --check
    python benchmarks/training_step.py --device cuda --images 128 --precision bfloat16

A step is forward, backward and AdamW's update with the published recipe (8 masked global views, 8 local ones), random
weights and random images. "naive" computes the same loss in the most direct way: it pads views to one length, masks
hidden patches in the attention, repeats targets for each view, and keeps the scores of all rows against all prototypes
for autograd. "naive losses" encodes as the library does, and is naive only in the losses. All variants give the same
loss, which the script checks.

Variants take turns, and the tables show median times. Memory is the peak resident memory (`VmHWM`, Linux) of a fresh
process above that with model and optimizer in place, or on CUDA the allocator's peak. "of the matrix rate" is the
number of floating-point operations per second, as a share of what a product of two large square matrices reaches
(products into given memory, such as those of the prototype loss, are not counted: under a hundredth here). A second
table shows what each part of the library's step keeps for the backward. On CUDA, "ours" has the fused update and, in
bfloat16, prototype scores in TF32, as a run has; "ours, compiled" compiles its blocks, too. `trainer_step.py` measures
the whole step of a run. With `--check` the script exits with 1 unless the library is at least 1.5 times as fast as
"naive", with at most half the memory.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fresh_memory import added_memory, measured_apart
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.encoder_stellar import normalize_pixels
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.model.targets import matched_rows
from stellar_hub.training.model.terms import ObjectiveBatch, Prediction, token_loss
from stellar_hub.training.model.views import EncodedViews, encode_views
from stellar_hub.training.objectives import code_loss, koleo_loss, pixel_loss, sinkhorn_assign, target_codes
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.step_choices import compiled_parts

MIN_SPEEDUP = 1.5
MAX_MEMORY = 0.5
MAX_ERROR = 1e-4  # relative, of the loss in float32
VARIANTS = ("naive", "naive losses", "ours", "ours, checkpointing", "ours, compiled")
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}


class Step:
    """A model, its optimizer and a batch.

    Args:
        args: Options of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(0)
        recipe = load_recipe(args.recipe)
        self.device = args.device
        self.precision = getattr(torch, args.precision)
        self.model = StellarForPreTraining(StellarConfig(**recipe.model.config)).train().to(args.device)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizers: dict[bool, torch.optim.Optimizer] = {}
        self.compiled: dict[Any, Any] = {}
        if args.device == "cuda" and self.precision == torch.bfloat16:
            self.model.prototype_precision = "tf32"
        self.batch = make_batch(self.model, recipe.data, args.images, args.device)

    def optimizer(self, variant: str) -> torch.optim.Optimizer:
        """Returns the variant's AdamW, whose state is there before memory is measured."""
        fused = variant.startswith("ours") and self.device == "cuda"
        if fused not in self.optimizers:
            self.optimizers[fused] = torch.optim.AdamW(self.trained, lr=1e-5, fused=fused or None)
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
            self.optimizers[fused].step()
            self.optimizers[fused].zero_grad()
        return self.optimizers[fused]

    def set_compiled(self, on: bool) -> None:
        """Compiles the blocks, once, or calls them as they were written."""
        if on and not self.compiled:
            for block in compiled_parts(self.model):
                block.compile(dynamic=True)
                self.compiled[block] = block._compiled_call_impl
        for block, call in self.compiled.items():
            block._compiled_call_impl = call if on else None

    def loss(self, variant: str) -> Tensor:
        """Returns the loss of the batch."""
        self.set_compiled(variant.endswith("compiled"))
        for part in (self.model.stellar.encoder, self.model.stellar.decoder):
            part.grad_checkpointing = variant.endswith("checkpointing")
        if variant.startswith("ours"):
            return self.model(**self.batch).loss
        return naive_loss(self.model, **self.batch, padded=variant == "naive")

    def run(self, variant: str) -> float:
        """Does the whole step, and returns the loss before it."""
        optimizer = self.optimizer(variant)
        with self.autocast():
            loss = self.loss(variant)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of the chosen precision."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device, dtype=self.precision, enabled=enabled)


def make_batch(model: StellarForPreTraining, data: Any, images: int, device: str) -> dict[str, Tensor]:
    """Returns a batch of noise images with the patches that masked views keep."""
    config, side = model.config, data.image_size or model.config.image_size
    local = data.local_size or side // 2 // config.patch_size * config.patch_size
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(images, data.num_global_views, 3, side, side, generator=generator)
    batch = {"pixel_values": views[:, 0].clone(), "global_views": views}
    batch["local_views"] = torch.rand(images, data.num_local_views, 3, local, local, generator=generator)
    batch["kept_patches"] = model.draw_kept_patches(images * data.num_global_views, side, side, generator=generator)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def naive_loss(
    model: StellarForPreTraining,
    pixel_values: Tensor,
    global_views: Tensor,
    local_views: Tensor,
    kept_patches: Tensor,
    padded: bool,
) -> Tensor:
    """Returns the loss of the objective without a teacher, computed in the most direct way."""
    config, encoder = model.config, model.stellar.encoder
    views = global_views.flatten(0, 1)
    if padded:
        clean, masked, local = encode_padded(model, pixel_values, views, kept_patches, local_views.flatten(0, 1))
    else:
        clean = encode_views(encoder, pixel_values)
        masked = encode_views(encoder, views, kept_patches)
        local = encode_views(encoder, local_views.flatten(0, 1))
    assignment = assign(model.clustering_head, clean.tokens, config)  # (B, r, K)
    cls_assignment = assign(model.cls_clustering_head, clean.cls_token, config)  # (B, K)
    num_views = global_views.shape[1]
    rows = matched_rows(
        masked.tokens.detach(), clean.tokens.detach(), config.matching_epsilon, config.matching_num_iters, True
    )
    repeated = assignment.flatten(0, 1)[rows].unflatten(0, masked.tokens.shape[:2])  # (B V, r, K)
    clustering = cross_entropy(model.clustering_head, clean.tokens, assignment, config)
    cls_clustering = cross_entropy(model.cls_clustering_head, clean.cls_token, cls_assignment, config)
    mask = cross_entropy(model.clustering_head, masked.tokens, repeated, config)
    cls = cross_entropy(
        model.cls_clustering_head, masked.cls_token, cls_assignment.repeat_interleave(num_views, 0), config
    )
    local_cls = cross_entropy(
        model.cls_clustering_head,
        local.cls_token,
        cls_assignment.repeat_interleave(local_views.shape[1], 0),
        config,
    )
    koleo = config.koleo_weight * (koleo_loss(clean.tokens) + koleo_loss(masked.tokens))
    localization = model.stellar.localization(clean.patches, clean.tokens)
    reconstruction = reconstruction_loss(model, clean.tokens, localization, pixel_values)
    clusters = clustering + cls_clustering + mask + cls + local_cls
    return clusters + koleo + model.reconstruction_weight * reconstruction


def reconstruction_loss(
    model: StellarForPreTraining, tokens: Tensor, localization: Tensor, pixel_values: Tensor
) -> Tensor:
    """Returns the loss of the reconstruction from given tokens and their localization."""
    decoder, grid = model.stellar.decoder, model.stellar.grid_size(*pixel_values.shape[-2:])
    prediction = decoder.predict(decoder(low_rank_product(localization, tokens), grid), grid)
    if model.config.reconstruction_head == "pixel":
        return pixel_loss(prediction, pixel_values)
    codebook = model.stellar.tokenizer.codebook.weight
    return code_loss(prediction, target_codes(model.tokenizer_encoder, codebook, pixel_values, grid))


def encode_padded(
    model: StellarForPreTraining, pixel_values: Tensor, views: Tensor, kept_patches: Tensor, local_views: Tensor
) -> tuple[EncodedViews, EncodedViews, EncodedViews]:
    """Encodes all views as one batch of one length, with a mask for what is hidden or missing."""
    encoder, num_sparse = model.stellar.encoder, model.config.num_sparse_tokens
    dtype = encoder.pos_embed.dtype
    whole = torch.cat([encoder.embed(normalize_pixels(images, dtype)) for images in (pixel_values, views)])
    local = encoder.embed(normalize_pixels(local_views, dtype))
    num_images, num_masked, length = len(pixel_values), len(views), whole.shape[1]
    tokens = torch.cat([whole, F.pad(local, (0, 0, 0, length - local.shape[1]))])
    visible = torch.zeros(len(tokens), length, dtype=torch.bool, device=tokens.device)
    visible[:num_images] = True
    visible[num_images : num_images + num_masked, 0] = True
    visible[num_images : num_images + num_masked, length - num_sparse :] = True
    visible[num_images : num_images + num_masked].scatter_(1, kept_patches + 1, True)
    visible[num_images + num_masked :, : local.shape[1]] = True
    for block in encoder.blocks:
        tokens = block(tokens, attn_mask=visible[:, None, None])
    clean, masked, local = encoder.norm(tokens).split([num_images, num_masked, len(local_views)])
    of_clean, of_masked = (
        EncodedViews(part[:, 0], part[:, 1:-num_sparse], part[:, -num_sparse:]) for part in (clean, masked)
    )
    return of_clean, of_masked, EncodedViews(local[:, 0], local[:, 1:], local[:, 1:])


@torch.no_grad()
def assign(head: Any, hidden_states: Tensor, config: StellarConfig) -> Tensor:
    """Returns the assignments to prototypes, `(..., K)`."""
    scores = head(hidden_states).float().flatten(0, -2) @ head.prototypes.weight.float().T
    assigned = sinkhorn_assign(scores / config.sinkhorn_temp, config.sinkhorn_num_iters, config.sinkhorn_scale)
    return assigned.unflatten(0, hidden_states.shape[:-1])


def cross_entropy(head: Any, hidden_states: Tensor, assignment: Tensor, config: StellarConfig) -> Tensor:
    """Returns the loss of rows against their assignments."""
    scores = head(hidden_states) @ head.prototypes.weight.T / config.prototype_temp
    return -(assignment * F.log_softmax(scores.float(), dim=-1)).sum(-1).mean()


def kept_bytes(make: Callable[[], Any], model: torch.nn.Module) -> int:
    """Returns the bytes that autograd keeps for the backward of what `make` computes, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = make()  # kept until all is counted, so that no address is used twice
    del made
    return sum(kept.values())


def kept_by_part(step: Step) -> dict[str, int]:
    """Returns the bytes that each part of the library's step keeps for the backward."""
    model, batch, config = step.model, step.batch, step.model.config
    encoder = model.stellar.encoder
    with step.autocast():
        objective = ObjectiveBatch(model, batch["pixel_values"], batch["global_views"], None, None)
        clean = objective.clean
        tokens = clean.tokens.detach().requires_grad_()
        views = batch["global_views"].flatten(0, 1)
        masked = torch.randn(len(views), *tokens.shape[1:], device=tokens.device, requires_grad=True)
        head = model.clustering_head
        parts: dict[str, Callable[[], Any]] = {
            "encoder, whole view": lambda: encode_views(encoder, batch["pixel_values"]),
            "encoder, masked views": lambda: encode_views(encoder, views, batch["kept_patches"]),
            "encoder, local views": lambda: encode_views(encoder, batch["local_views"].flatten(0, 1)),
            "decoder and reconstruction": lambda: reconstruction_loss(
                model, tokens, model.stellar.localization(clean.patches.detach(), tokens), batch["pixel_values"]
            ),
            "heads and prototypes, masked views": lambda: token_loss(
                Prediction(clean._replace(tokens=masked), head(masked), objective.targets), head, config
            ),
            "KoLeo, masked views": lambda: config.koleo_weight * koleo_loss(masked),
        }
        return {name: kept_bytes(make, model) for name, make in parts.items()}


def peak_memory(variant: str, args: argparse.Namespace) -> int:
    """Returns the most bytes that a step takes in addition to model, optimizer and batch."""
    step = Step(args)
    step.optimizer(variant)
    return added_memory(lambda: step.run(variant), args.device)


def measure_apart(variant: str, args: argparse.Namespace) -> int:
    """Returns `peak_memory` of a fresh process."""
    names = ("recipe", "images", "device", "precision", "threads")
    return measured_apart(__file__, variant, {name: getattr(args, name) for name in names})


def matrix_rate(step: Step, repeats: int) -> float:
    """Returns the floating-point operations per second of a large matrix product, in the step's precision."""
    side = MATRIX_SIZE[step.device]
    left = torch.randn(side, side, device=step.device).to(step.precision)
    seconds = [timed(lambda: left @ left, step.device) for _ in range(repeats + 1)]
    return 2 * side**3 / statistics.median(seconds[1:])


def timed(function: Callable[[], Any], device: str) -> float:
    """Returns the seconds of one call."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Measures all variants."""
    names = [variant for variant in VARIANTS if args.device == "cuda" or not variant.endswith("compiled")]
    peaks = {variant: measure_apart(variant, args) for variant in names}
    step = Step(args)
    kept = kept_by_part(step)
    with torch.no_grad(), step.autocast():
        losses = {variant: float(step.loss(variant)) for variant in names}
    operations = {}
    for variant in names:
        with FlopCounterMode(display=False) as counter:
            step.run(variant.replace("compiled", "eager"))  # the counter does not see into compiled blocks
        operations[variant] = counter.get_total_flops()
        step.run(variant)
    seconds: dict[str, list[float]] = {variant: [] for variant in names}
    for _ in range(args.repeats):
        for variant in names:
            seconds[variant].append(timed(lambda variant=variant: step.run(variant), args.device))
    rate = matrix_rate(step, 5)
    median = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    rows = [
        {
            "variant": variant,
            "seconds_per_image": median[variant] / args.images,
            "naive_takes_times_as_long": median["naive"] / median[variant],
            "peak_mb_per_image": peaks[variant] / 1e6 / args.images,
            "of_naive_memory": peaks[variant] / peaks["naive"],
            "gflop_per_image": operations[variant] / 1e9 / args.images,
            "share_of_matrix_rate": operations[variant] / median[variant] / rate,
            "loss": losses[variant],
        }
        for variant in names
    ]
    return {"rows": rows, "kept_mb_per_image": {name: size / 1e6 / args.images for name, size in kept.items()}}


def print_tables(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the tables in Markdown."""
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"recipe {args.recipe}, {args.images} images, {args.precision}, {where}, torch {torch.__version__}\n")
    print("| step | s per image | naive takes | MB per image | of naive | GFLOP per image | of the matrix rate |")
    print("|---|---|---|---|---|---|---|")
    for row in found["rows"]:
        print(
            f"| {row['variant']} | {row['seconds_per_image']:.3g} | {row['naive_takes_times_as_long']:.2f} x "
            f"| {row['peak_mb_per_image']:.0f} | {row['of_naive_memory']:.2f} | {row['gflop_per_image']:.0f} "
            f"| {row['share_of_matrix_rate']:.2f} |"
        )
    print("\n| kept for the backward by ours | MB per image |\n|---|---|")
    for name, size in found["kept_mb_per_image"].items():
        print(f"| {name} | {size:.1f} |")


def meets_bars(found: dict[str, Any], precision: str) -> bool:
    """Returns whether the library is fast and small enough, and all losses agree."""
    rows = {row["variant"]: row for row in found["rows"]}
    ours = rows["ours"]
    worst = max(abs(row["loss"] / ours["loss"] - 1) for row in rows.values())
    agree = worst <= (MAX_ERROR if precision == "float32" else 0.01)
    return agree and ours["naive_takes_times_as_long"] >= MIN_SPEEDUP and ours["of_naive_memory"] <= MAX_MEMORY


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="b16", help="name of a recipe, or a YAML file (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2, help="number of images in the batch (default: %(default)s)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="number of CPU threads; 0 (default) leaves it to torch")
    parser.add_argument("--repeats", type=int, default=3, help="number of timed rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON file to write the numbers to")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the library misses a limit")
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.measure:
        print(peak_memory(args.measure, args))
        return 0
    found = compare(args)
    print_tables(found, args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if meets_bars(found, args.precision) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
