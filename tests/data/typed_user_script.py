"""What a user writes, for mypy: `.ci/run` checks it against the installed package. It is never run."""

from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np
from PIL import Image
from torch import Tensor

from stellar_hub import (
    StellarConfig,
    StellarEncoding,
    StellarForPreTraining,
    StellarImageProcessor,
    StellarModel,
    StellarModelOutput,
)
from stellar_hub.features import FeatureBatch, FeatureRow, ImageRecord, embed_images, extract_features
from stellar_hub.retrieval import ApproximateIndex, ConceptHits, Hits, search_concepts, search_images, search_sets
from stellar_hub.store import FeatureStore


def load() -> None:
    """The type of a loaded model is that of its class."""
    assert_type(StellarModel.from_pretrained("stellar-tiny", decoder=False), StellarModel)
    assert_type(StellarForPreTraining.from_pretrained("folder"), StellarForPreTraining)
    assert_type(StellarModel.from_backbone("vit_tiny_patch16_224"), StellarModel)
    assert_type(StellarConfig.from_pretrained("stellar-b16"), StellarConfig)
    assert_type(StellarModel.from_pretrained("stellar-tiny").to("cpu").eval().requires_grad_(False), StellarModel)
    assert_type(StellarModel(StellarConfig()).half().float().bfloat16().cpu(), StellarModel)
    pair = StellarModel.from_pretrained("stellar-tiny", output_loading_info=True)
    assert_type(pair, tuple[StellarModel, dict[str, Any]])


def use(model: StellarModel, images: Tensor) -> None:
    """Encodings unpack to tensors."""
    encoding = model.encode(images)
    assert_type(encoding, StellarEncoding)
    semantics, localization = encoding
    assert_type(semantics, Tensor)
    assert_type(localization, Tensor)
    assert_type(model.decode(encoding), Tensor)
    assert_type(model.decode(semantics, localization), Tensor)
    assert_type(model.reconstruct(images), Tensor)
    assert_type(model(images), StellarModelOutput)
    assert_type(model.forward(images, output_reconstruction=True), StellarModelOutput)
    assert_type(model(images).localization, Tensor)
    assert_type(model(images).hidden_states, tuple[Tensor, ...] | None)
    assert_type(model.grid_size(64, 64), tuple[int, int])


def intermediates(model: StellarModel, images: Tensor) -> None:
    """The flags of `forward_intermediates` decide what it returns."""
    assert_type(model.forward_intermediates(images), tuple[Tensor, list[Tensor]])
    assert_type(model.forward_intermediates(images, 2, intermediates_only=True), list[Tensor])
    pairs = model.forward_intermediates(images, return_prefix_tokens=True, intermediates_only=True)
    assert_type(pairs, list[tuple[Tensor, Tensor]])
    both = model.forward_intermediates(images, return_prefix_tokens=True)
    assert_type(both, tuple[Tensor, list[tuple[Tensor, Tensor]]])


def process(processor: StellarImageProcessor, localization: Tensor) -> None:
    """Processors come with their type, too."""
    assert_type(StellarImageProcessor.from_pretrained("stellar-tiny", image_size=96), StellarImageProcessor)
    assert_type(StellarImageProcessor.from_config(StellarConfig()), StellarImageProcessor)
    assert_type(StellarImageProcessor.from_dict({}), StellarImageProcessor)
    assert_type(processor.geometry("photo.jpg").output_size, tuple[int, int])
    assert_type(processor.post_process_localization(localization, [(1, 2)], [(0, 0, 1, 1)]), list[Tensor])
    assert_type(processor.overlay("photo.jpg", localization, token=1), Image.Image)


def configure(config: StellarConfig) -> None:
    """Configurations know their fields."""
    assert_type(config.hidden_size, int)
    assert_type(StellarConfig.from_dict({}), StellarConfig)
    assert_type(StellarConfig.from_json_file("config.json"), StellarConfig)


def extract(model: StellarModel) -> None:
    """Batches and rows have types, by whichever way they come."""
    assert_type(extract_features(model, "photos"), Iterator[FeatureBatch])
    extract_features(model, [Image.new("RGB", (8, 8))])
    for loose in model.extract(["a.jpg", "b.jpg"], outputs=["S"]):
        assert_type(loose["S"], Tensor)
        assert_type(loose.row_ids, Tensor)
        assert_type([row["S"] for row in loose], list[Any])
        assert_type(len(loose), int)
    for batch in extract_features(model, ["a.jpg", "b.jpg"], outputs=["S"]):
        assert_type(batch["S"], Tensor)
        for row in batch:
            assert_type(row, FeatureRow)
        assert_type(batch[0]["S"], Tensor)


def embed(model: StellarModel, image: Image.Image) -> None:
    """Vectors are arrays, or tensors if asked for."""
    assert_type(model.embed("photo.jpg"), np.ndarray)
    assert_type(model.embed(["a.jpg", image], pooling="tokens", batch_size=8, num_workers=2), np.ndarray)
    assert_type(model.embed(image, return_tensors="pt", normalize=False), Tensor)
    embed_images(model, iter(["a.jpg"]), "cls", image_size=96)


def read(store: FeatureStore) -> None:
    """What a store gives depends on what it is asked with."""
    assert_type(store["pooled"], Tensor)
    assert_type(store[3], FeatureRow)
    assert_type(store[3]["pooled"], Tensor)
    assert_type(store[3].record, ImageRecord)
    assert_type(store[2:4], FeatureBatch)
    assert_type(store[[1, 2]], FeatureBatch)
    assert_type(store.to_numpy("pooled"), np.ndarray)
    assert_type(store.to_numpy(), dict[str, np.ndarray])
    assert_type(store.decode(3), Image.Image)
    assert_type(store.decode([3, 4], load_model=True), list[Image.Image])
    assert_type(store.to_torch("pooled")[0], dict[str, Any])
    assert_type(store.to_torch(["pooled"]).classes, list[str])
    store.to_pandas("pooled")
    store.to_datasets("pooled")
    for row in store:
        assert_type(row, FeatureRow)
    assert_type(store[3].features, dict[str, Tensor])


def search(store: FeatureStore, image: Image.Image) -> None:
    """Every kind of query is allowed."""
    assert_type(search_images(store, image, load_model=True), Hits)
    assert_type(store.search("photo.jpg", k=3, by="S", load_model=True), Hits)
    assert_type(store.search(image).named(store), list[tuple[str, float]])
    search_images(store, ["a.jpg", "b.jpg"])
    search_images(store, store["pooled"][3])
    search_images(store, [store["pooled"][3], store["pooled"][4]])
    search_images(store, [0.5, 0.25])
    assert_type(search_sets(store, store[3]), Hits)
    assert_type(search_concepts(store, store["S"][3, 0]), ConceptHits)
    assert_type(ApproximateIndex.build(store).search(store["pooled"][3]), Hits)
