"""The objective's numbers of the authors' implementation (`tests/data/golden`): terms, gradients, norms."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.conversion import convert_original
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.training import StellarForPreTraining

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
EXPECTED = load_file(GOLDEN / "expected.safetensors")
NAMES = sorted(name for name in EXPECTED if name.startswith("train") and not name.endswith("ids_keep"))
TERMS = {
    "VQ-CE": "reconstruction_loss",
    "MSE": "reconstruction_loss",
    "total": "loss",
}
PARAMETERS = {
    "cls_cluster_head.predictor.layers.2.bias": "cls_clustering_head.mlp.fc2.bias",
    "clustering_head.layer.weight": "clustering_head.prototypes.weight",
    "decoder_proj.bias": "stellar.decoder.proj.bias",
    "dense_proj.weight": "stellar.localization.dense_proj.weight",
    "encoder.embeddings.cls_token": "stellar.encoder.cls_token",
    "encoder.encoder.layer.1.output.dense.bias": "stellar.encoder.blocks.1.mlp.fc2.bias",
    "sparse_proj.bias": "stellar.localization.sparse_proj.bias",
    "sparse_tokens": "stellar.encoder.sparse_tokens",
}
QUERY_BIAS = "encoder.encoder.layer.0.attention.attention.query.bias"


def build(kind: str) -> StellarForPreTraining:
    if kind == "train":
        tensors, vqgan = load_file(GOLDEN / "original-vq.safetensors"), read_checkpoint(GOLDEN / "vqgan.bin")
    else:
        tensors = load_file(GOLDEN / "original-pixel.safetensors")
        tensors |= load_file(GOLDEN / "original-teacher.safetensors")
        vqgan = None
    config, converted = convert_original(tensors, vqgan=vqgan, num_attention_heads=3, decoder_num_attention_heads=4)
    config.mask_ratio = 0.75
    return StellarForPreTraining.from_pretrained(None, config=config, state_dict=converted).train()


def values_of(kind: str) -> dict[str, Tensor]:
    model = build(kind)
    if model.teacher is not None:
        model.update_teacher()
    out = model(EXPECTED["image"], EXPECTED["global_views"], EXPECTED["local_views"], EXPECTED[f"{kind}.ids_keep"])
    out.loss.backward()
    values = {
        f"{kind}.{name}": getattr(out, TERMS.get(name, name))
        for name in (
            "VQ-CE",
            "MSE",
            "total",
            "koleo_loss",
            "clustering_loss",
            "cls_clustering_loss",
            "mask_loss",
            "cls_loss",
        )
    }
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    values |= {f"{kind}.grad.{theirs}": gradients[ours] for theirs, ours in PARAMETERS.items()}
    values[f"{kind}.grad.{QUERY_BIAS}"] = gradients["stellar.encoder.blocks.0.attn.qkv.bias"][:48]
    values[f"{kind}.grad_norm"] = torch.stack([grad.norm() for grad in gradients.values()]).norm()
    if model.teacher is not None:
        values[f"{kind}.after.teacher_sparse_tokens"] = model.teacher.encoder.sparse_tokens
    return values


@pytest.fixture(scope="module")
def computed() -> dict[str, Tensor]:
    """All values of this library, by their names in `expected.safetensors`."""
    return values_of("train") | values_of("train_teacher")


@pytest.mark.parametrize("name", NAMES)
def test_objective__gives_the_authors_number(computed: dict[str, Tensor], name: str) -> None:
    expected = EXPECTED[name]
    found = computed[name].detach().reshape(expected.shape)
    # Relative to the tensor's largest value: single entries of a gradient may be near zero.
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("kind", ["train", "train_teacher"])
def test_every_trainable_parameter__gets_a_gradient(kind: str) -> None:
    model = build(kind)
    model(EXPECTED["image"], EXPECTED["global_views"], EXPECTED["local_views"]).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
