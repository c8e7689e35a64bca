"""Finds images in a store that are nearly the same: copies, other sizes, other compression.

stellar-hub extract photos --output features
python examples/find_duplicates.py features --threshold 0.99
"""

import argparse
from pathlib import Path

from stellar_hub.modeling.safe_text import escape_control
from stellar_hub.retrieval import find_duplicates
from stellar_hub.store import FeatureStore


def main() -> None:
    """Prints a line for each pair, the most similar pair first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store that `stellar-hub extract` wrote")
    parser.add_argument(
        "--threshold", type=float, default=0.99, help="smallest cosine similarity of a pair (default: %(default)s)"
    )
    parser.add_argument("--feature", default="pooled", help="feature: pooled or cls (default: %(default)s)")
    args = parser.parse_args()
    try:
        store = FeatureStore(args.store)
        pairs = find_duplicates(store, args.threshold, args.feature)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SystemExit(f"find_duplicates: {error}") from error
    for one, other, similarity in pairs:
        first, second = store.records([one, other])
        print(escape_control(f"{similarity:.4f}  {first.image}  {second.image}"))
    print(f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} among {len(store)} images")


if __name__ == "__main__":
    main()
