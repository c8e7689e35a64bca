"""`stellar-hub eval knn` and `stellar-hub eval linear`: classification of pooled features."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import wrong_usage
from stellar_hub.cli.evaluation.options import (
    AllowShared,
    Options,
    Stores,
    Test,
    Train,
    evaluation_command,
    notes_on_stores,
    open_train_and_test,
    show_and_write,
)
from stellar_hub.cli.options import at_least

Poolings = Annotated[
    list[str] | None,
    typer.Option(
        "--pooling",
        metavar="FEATURE",
        help="Feature to evaluate: pooled, cls, patches_mean, S or pixels. Default: all features of the model that "
        "are one vector. Repeat the option for several.",
    ),
]
VectorPoolings = Annotated[
    list[str] | None,
    typer.Option(
        "--pooling",
        metavar="FEATURE",
        help="Feature to evaluate: pooled, cls, patches_mean or pixels. Default: all that the model has. Repeat the "
        "option for several.",
    ),
]


@evaluation_command
def knn(
    options: Options,
    train: Train,
    test: Test,
    pooling: Poolings = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k",
            metavar="N",
            callback=at_least(1),
            help="Number of neighbours that vote. Default: 10, 20, 100 and 200, without those above the "
            "number of training images. Repeat the option for several.",
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", help="Temperature of the votes: a neighbour's vote weighs exp(cosine / temperature)."
        ),
    ] = 0.07,
    center: Annotated[
        bool, typer.Option("--center", help="Subtract the mean of the training features from all features.")
    ] = False,
    allow_shared: AllowShared = False,
    store: Stores = None,
) -> None:
    """Classify images by nearest neighbours.

    Each of the k nearest training images votes for its class. Nothing is trained.

    Example: stellar-hub eval knn --train photos/train --test photos/test --compare vit_tiny_patch16_224:random
    """
    from stellar_hub.evaluation import KnnProtocol, evaluate_knn, prepare_splits

    with wrong_usage():
        protocol = KnnProtocol(tuple(k or ()), temperature, tuple(pooling or ()), center)
    run = options.run_settings(["knn"], store)
    learned, measured = open_train_and_test(train, test, options.root)
    with wrong_usage():
        protocol.resolved(len(learned))
    backbones = options.open_backbones()
    notes = notes_on_stores(run, backbones)
    report = evaluate_knn(backbones, prepare_splits(learned, measured, run, allow_shared), protocol, run)
    report.notes[:0] = notes
    show_and_write(report, options, run)


@evaluation_command
def linear(
    options: Options,
    train: Train,
    test: Test,
    pooling: VectorPoolings = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(
            "--learning-rate",
            metavar="RATE",
            help="Learning rate of AdamW to try. Default: 1e-4, 1e-3, 1e-2, 3e-2 and 0.1. Repeat the option for "
            "several.",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="N", callback=at_least(1), help="Number of passes over the features.")
    ] = 100,
    logistic: Annotated[
        bool,
        typer.Option("--logistic/--no-logistic", help="Fit a logistic regression too, up to 20000 training images."),
    ] = True,
    allow_shared: AllowShared = False,
    store: Stores = None,
) -> None:
    """Classify images by a linear layer.

    The layer is trained on frozen features. Its learning rate is chosen on a held-out part of train.

    Example: stellar-hub eval linear --train photos/train --test photos/test --compare stellar-tiny:random
    """
    from stellar_hub.evaluation import LinearProtocol, evaluate_linear, prepare_splits

    rates = {"learning_rates": tuple(learning_rate)} if learning_rate else {}
    with wrong_usage():
        protocol = LinearProtocol(
            num_epochs=epochs,
            logistic=logistic,
            poolings=tuple(pooling or ()),
            seed=options.seed,
            **rates,  # type: ignore[arg-type]
        )
    run = options.run_settings(["linear"], store)
    learned, measured = open_train_and_test(train, test, options.root)
    backbones = options.open_backbones()
    notes = notes_on_stores(run, backbones)
    report = evaluate_linear(backbones, prepare_splits(learned, measured, run, allow_shared), protocol, run)
    report.notes[:0] = notes
    show_and_write(report, options, run)
