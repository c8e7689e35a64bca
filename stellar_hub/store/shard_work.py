"""The work of one process: some shards of a store, one after the other."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.features.encoding import BatchEncoder, FeatureBatch
from stellar_hub.features.loading import load_model
from stellar_hub.features.preparation import PreparedBatches, batch_loader, check_fixed_size
from stellar_hub.features.progress import ExtractionProgress
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.inference_optimization import pack_linears
from stellar_hub.store.layout import shard_path
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import batches_of
from stellar_hub.store.shard_file import write_shard
from stellar_hub.store.tensor_format import computed_dtype, to_stored


def load_for_extraction(name: str, device: str, fit: str) -> tuple[StellarModel, StellarImageProcessor]:
    """A model for features alone, and its processor; on a CPU its linear layers are packed for oneDNN.

    What `optimize_for_inference` finds out by timing is taken for granted here: which variant is chosen must not depend
    on chance, as a store that is resumed has to come out the same byte for byte.

    Raises:
        OSError: if the model does not exist.
        ValueError: if the device or the fit is not available.
    """
    model, processor = load_model(name, device, fit, decoder=False)
    return packed_on_cpu(model), processor


def packed_on_cpu(model: StellarModel) -> StellarModel:
    """The model for inference, on a CPU with its linear layers packed; changed in place."""
    model.eval().requires_grad_(False)
    if model.device.type == "cpu":
        pack_linears(model)
    return model


def encoder_of(plan: Manifest, model: StellarModel, processor: StellarImageProcessor) -> BatchEncoder:
    """What computes the features of a plan."""
    features = plan.features
    outputs = tuple(features["shapes"])
    dtype = computed_dtype(features["dtype"])
    return BatchEncoder(model, outputs, check_fixed_size(processor), features["precision"], dtype)


def extract_shards(
    plan: Manifest,
    folder: Path,
    shards: Sequence[int],
    source: ImageSource,
    processor: StellarImageProcessor,
    encoder: BatchEncoder,
    num_workers: int,
    progress: ExtractionProgress,
) -> None:
    """Compute and write some shards. One is written while the next is computed, never more than one.

    Raises:
        OSError: if a shard cannot be written, for instance because the disk is full; nothing half-written is left.
    """
    batches = [batch for shard in shards for batch in batches_of(plan, shard)]
    if not batches:
        return
    loader = batch_loader(
        PreparedBatches(source, processor, batches), num_workers, pin_memory=encoder.model.device.type == "cuda"
    )
    encoded = encoder.encode_all(progress.waiting_for(loader))
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future[None] | None = None
        for number in shards:
            done = take(encoded, len(batches_of(plan, number)), progress)
            if writing is not None:
                writing.result()
            writing = writer.submit(write_batches, plan, folder, number, done)
        if writing is not None:
            writing.result()


def take(encoded: Iterable[FeatureBatch], count: int, progress: ExtractionProgress) -> list[FeatureBatch]:
    """The next batches, counted by the progress bar."""
    taken = []
    for _, batch in zip(range(count), encoded, strict=False):
        progress.update(len(batch), int((~batch.ok).sum()))
        taken.append(batch)
    return taken


def write_batches(plan: Manifest, folder: Path, number: int, batches: Sequence[FeatureBatch]) -> None:
    """Write the batches of a shard."""
    stored = [to_stored(batch.features, plan.features["dtype"]) for batch in batches]
    tensors = {name: torch.cat([part[name] for part in stored]) for name in stored[0]}
    records = [record for batch in batches for record in batch.records]
    write_shard(shard_path(folder, number), plan.rows_of_shard(number), tensors, records, plan.plan)
