"""A linear classifier on a store of features, for images in class folders (`cats/1.jpg`, `dogs/2.png`, ...).

    stellar-hub extract photos --output features
    python examples/linear_probe_on_store.py features

Each row's class is the folder of its image. Logistic regression of scikit-learn's (`pip install scikit-learn`) on
vectors whose columns are standardized; a part of the rows is kept apart and tells the accuracy.
"""

import argparse
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stellar_hub.store.feature_store import FeatureStore


def labelled_rows(store: FeatureStore) -> tuple[list[int], list[str]]:
    """Rows that have features, and their classes.

    Raises:
        ValueError: if they are not of two classes at least.
    """
    rows = store.ok.nonzero().flatten().tolist()
    labels = [Path(record.image).parent.name for record in store.records(rows)]
    if len(set(labels)) < 2:
        raise ValueError(f"the images of {store.path} lie in one folder: put each class into its own")
    return rows, labels


def main() -> None:
    """Train and test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what `stellar-hub extract` wrote")
    parser.add_argument("--feature", default="pooled", help="pooled or cls (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.25, help="of the rows, kept apart (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    args = parser.parse_args()
    try:
        store = FeatureStore(args.store)
        rows, labels = labelled_rows(store)
        vectors = store.read(args.feature, rows).float().numpy()
        parts = train_test_split(vectors, labels, test_size=args.test_share, random_state=args.seed, stratify=labels)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SystemExit(f"linear_probe_on_store: {error}") from error
    train_vectors, test_vectors, train_labels, test_labels = parts
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train_vectors, train_labels)
    accuracy = classifier.score(test_vectors, test_labels)
    print(f"{len(set(labels))} classes, {len(train_labels)} rows to train on")
    print(f"accuracy on {len(test_labels)} others: {accuracy:.3f}")


if __name__ == "__main__":
    main()
