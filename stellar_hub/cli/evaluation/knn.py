"""`stellar-hub eval knn`: classification by nearest neighbours."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.evaluation.options import (
    AllowShared,
    BatchSize,
    Cache,
    Card,
    Compare,
    Options,
    Poolings,
    ReportFolder,
    Seed,
    Stores,
    Test,
    Train,
    Workers,
    finish,
    open_splits,
    store_notes,
)
from stellar_hub.cli.options import Debug, Device, ModelName, Overwrite


@reports_errors
def knn(
    train: Train,
    test: Test,
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    pooling: Poolings = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", help="Neighbours; 10, 20, 100 and 200, as far as train reaches.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="A vote weighs exp(cosine / temperature).")] = 0.07,
    center: Annotated[bool, typer.Option("--center", help="Take the mean of train's features off all.")] = False,
    allow_shared: AllowShared = False,
    output: ReportFolder = None,
    update_card: Card = None,
    overwrite: Overwrite = False,
    store: Stores = None,
    cache: Cache = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Classify by weighted nearest neighbours: nothing is trained.

    Example: stellar-hub eval knn --train photos/train --test photos/test --compare vit_tiny_patch16_224:random
    """
    from stellar_hub.evaluation.protocols.knn import KnnProtocol, evaluate_knn

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    protocol = KnnProtocol(tuple(k or ()), temperature, tuple(pooling or ()), center)
    run = options.run_settings(["knn"], store)
    backbones = options.backbones()
    notes = store_notes(run, backbones)
    report = evaluate_knn(backbones, open_splits(train, test, run, allow_shared), protocol, run)
    report.notes[:0] = notes
    finish(report, options, run)
