"""Trains a linear classifier on a store of features, for images in class folders (`cats/1.jpg`, `dogs/2.png`, ...).

    stellar-hub extract photos --output features
    python examples/linear_probe_on_store.py features

The class of a row is the folder of its image. The classifier is the logistic regression of scikit-learn
(`pip install scikit-learn`) on standardized vectors. It is tested on rows that it was not trained on.
"""

import argparse
from pathlib import Path

from stellar_hub.store import FeatureStore

try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError:
    raise SystemExit(f"{__doc__}\nscikit-learn is not installed: pip install scikit-learn") from None


def labelled_rows(store: FeatureStore) -> tuple[list[int], list[str]]:
    """Returns the rows that have features, and their classes.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    rows = store.ok.nonzero().flatten().tolist()
    labels = [store.labels[row] for row in rows]
    if len(set(labels)) < 2:
        raise ValueError(f"all images of {store.path} are in one folder: put each class into its own folder")
    return rows, labels


def main() -> None:
    """Trains and tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store that `stellar-hub extract` wrote")
    parser.add_argument("--feature", default="pooled", help="feature: pooled or cls (default: %(default)s)")
    parser.add_argument(
        "--test-share", type=float, default=0.25, help="share of the rows to test on (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the split into train and test (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        store = FeatureStore(args.store)
        rows, labels = labelled_rows(store)
        vectors = store.to_numpy(args.feature, rows)
        parts = train_test_split(vectors, labels, test_size=args.test_share, random_state=args.seed, stratify=labels)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SystemExit(f"linear_probe_on_store: {error}") from error
    train_vectors, test_vectors, train_labels, test_labels = parts
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train_vectors, train_labels)
    accuracy = classifier.score(test_vectors, test_labels)
    print(f"{len(set(labels))} classes, trained on {len(train_labels)} rows")
    print(f"accuracy on {len(test_labels)} other rows: {accuracy:.3f}")


if __name__ == "__main__":
    main()
