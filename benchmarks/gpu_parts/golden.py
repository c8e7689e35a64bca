"""The authors' numbers (`tests/data/golden`) on this device: encoding, decoding, the objective and its gradients."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gpu_parts.inference import variants
from gpu_parts.measure import Bench
from stellar_hub.conversion import convert_original, load_original
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.training import StellarForPreTraining

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "golden"
HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}
GRID = (4, 4)
MAX_ERROR, MAX_ERROR_OF_OBJECTIVE = (
    1e-5,
    1e-4,
)  # as tests/modeling/test_golden.py and tests/stellar_hub/training have them
TERMS = {"total": "loss", "VQ-CE": "reconstruction_loss", "MSE": "reconstruction_loss"}


def golden(bench: Bench) -> None:
    """Compares the values of this device with the authors', as it is and in each variant, in float32 without TF32."""
    expected = {name: value.to(bench.device) for name, value in load_file(GOLDEN / "expected.safetensors").items()}
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for head in ("vq", "pixel"):
            vqgan = GOLDEN / "vqgan.bin" if head == "vq" else None
            model = load_original(GOLDEN / f"original-{head}.safetensors", vqgan=vqgan, **HEADS).to(bench.device).eval()
            for part in model.parameters():
                part.requires_grad_(False)
            built: list[tuple[str, Callable[[], Any]]] = [("as it is", lambda model=model: copy.deepcopy(model))]
            parts = ("encoder", "decoder", "patch projection", "tokenizer", "calls")
            for name, build in [*built, *variants(model, parts)]:
                report(bench, "encode and decode", f"{head}, {name}", expected, MAX_ERROR, build, values_of_model, head)
        for kind in ("train", "train_teacher"):
            build = lambda kind=kind: objective(kind).to(bench.device)  # noqa: E731
            report(bench, "objective", kind, expected, MAX_ERROR_OF_OBJECTIVE, build, values_of_objective, kind)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def report(
    bench: Bench,
    what: str,
    name: str,
    expected: dict[str, Tensor],
    limit: float,
    build: Callable[[], Any],
    values_of: Callable[[Any, dict[str, Tensor], str], dict[str, Tensor]],
    prefix: str,
) -> None:
    """Emits the largest error of the values of one model, relative to the largest entry of each."""
    group = f"golden values, {what}"
    found = bench.attempt(group, name, 10, lambda: values_of(build(), expected, prefix))
    if found is None:
        return
    errors = {key: error_of(value, expected[key]) for key, value in found.items()}
    worst = max(errors, key=lambda key: errors[key])
    bench.row(group, name, difference=errors[worst], same=errors[worst] <= limit, note=f"{len(errors)} values; {worst}")


def error_of(value: Tensor, expected: Tensor) -> float:
    """Returns the largest error, relative to the largest entry; of whole numbers, the share that differs."""
    value = value.detach().reshape(expected.shape)
    if not expected.is_floating_point():
        return float((value != expected).float().mean())
    return float((value - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def values_of_model(model: StellarModel, expected: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns `S`, `L` and what is decoded of them, at the sizes of the fixtures."""
    values: dict[str, Tensor] = {}
    for size in ("native", "larger", "smaller", "tall") if prefix == "vq" else ("native",):
        image = expected["image" if size == "native" else f"{prefix}.{size}.image"]
        semantics, localization = tuple(model.encode(image))[:2]
        values[f"{prefix}.{size}.sparse"] = semantics
        values[f"{prefix}.{size}.spatial"] = localization
        values[f"{prefix}.{size}.lowrank"] = low_rank_product(localization, semantics)
    semantics, localization = tuple(model.encode(expected["image"]))[:2]
    assert model.decoder is not None
    hidden_states = model.decoder(low_rank_product(localization, semantics), GRID)
    values[f"{prefix}.decoder_hidden"] = hidden_states
    values[f"{prefix}.head"] = model.decoder.predict(hidden_states, GRID)
    if prefix == "vq":
        values["vq.codes"] = values["vq.head"].argmax(dim=-1)
        values["vq.reconstruction"] = model.decode(semantics, localization)
    return values


def objective(kind: str) -> StellarForPreTraining:
    """Returns the model of the training fixtures."""
    if kind == "train":
        tensors, vqgan = load_file(GOLDEN / "original-vq.safetensors"), read_checkpoint(GOLDEN / "vqgan.bin")
    else:
        tensors = load_file(GOLDEN / "original-pixel.safetensors")
        tensors |= load_file(GOLDEN / "original-teacher.safetensors")
        vqgan = None
    config, converted = convert_original(tensors, vqgan=vqgan, **HEADS)
    config.mask_ratio = 0.75
    return StellarForPreTraining.from_pretrained(None, config=config, state_dict=converted).train()


def values_of_objective(model: StellarForPreTraining, expected: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Returns the terms of the loss and the norm of the gradient."""
    if model.teacher is not None:
        model.update_teacher()
    views = (expected[name] for name in ("image", "global_views", "local_views", f"{kind}.ids_keep"))
    out = model(*views)
    out.loss.backward()
    names = [name.removeprefix(f"{kind}.") for name in expected if name.startswith(f"{kind}.") and name.count(".") == 1]
    values = {
        f"{kind}.{name}": getattr(out, TERMS.get(name, name))
        for name in names
        if name in TERMS or name.endswith("_loss")
    }
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    values[f"{kind}.grad_norm"] = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return values
