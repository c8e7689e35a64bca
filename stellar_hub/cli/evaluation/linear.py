"""`stellar-hub eval linear`: linear classification of frozen features."""

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
def linear(
    train: Train,
    test: Test,
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    pooling: Poolings = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option("--learning-rate", help="AdamW's; repeat it. 1e-4 to 0.1 if none is named.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the features.")] = 100,
    logistic: Annotated[
        bool, typer.Option("--logistic/--no-logistic", help="Fit a logistic regression too, where train is small.")
    ] = True,
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
    """Classify by a linear layer on frozen features; its learning rate is chosen on a held-out part of train.

    Example: stellar-hub eval linear --train photos/train --test photos/test --compare stellar-tiny:random
    """
    from stellar_hub.evaluation.protocols.linear import LinearProtocol, evaluate_linear

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    rates = {"learning_rates": tuple(learning_rate)} if learning_rate else {}
    protocol = LinearProtocol(
        num_epochs=epochs,
        logistic=logistic,
        poolings=tuple(pooling or ()),
        seed=seed,
        **rates,  # type: ignore[arg-type]
    )
    run = options.run_settings(["linear"], store)
    backbones = options.backbones()
    notes = store_notes(run, backbones)
    report = evaluate_linear(backbones, open_splits(train, test, run, allow_shared), protocol, run)
    report.notes[:0] = notes
    finish(report, options, run)
